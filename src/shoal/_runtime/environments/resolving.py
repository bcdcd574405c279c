"""From what a user wrote to an ``Environment``: read, copied, merged, named by its content.

Merging (as Ray's documentation has it): a task or actor inherits the environment of whoever submits
it; ``env_vars`` are merged, the inner ones win; every other field replaces the inherited one.
``pip``, ``uv`` and ``conda`` are one field in that.

What is local is looked at here and now, in the process of whoever asks: its directory is the
meaning of a relative path, and what was copied is named by its content, so that inheriting looks at
no disk again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import types
import warnings
from collections.abc import Mapping
from typing import Any

import msgspec

from shoal import errors
from shoal._proto.environments import Conda, Environment, Packages, Tree
from shoal._runtime import serialize
from shoal._runtime.environments import archives, given, packing
from shoal._runtime.environments.places import Place

ARCHIVES = (".zip", ".jar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def resolve(
    value: Mapping[str, Any], inherited: Environment | None, session_directory: str
) -> Environment:
    """Return ``value`` on top of ``inherited``; its local files are in the session afterwards.

    Raises:
        OptionError: a field is unknown or wrong, a file is not there, a directory is too large.
    """
    found = given.check(value)
    base = inherited or Environment()
    shown = msgspec.json.decode(base.given) | given.shown(found)
    if "env_vars" in found:
        shown["env_vars"] = dict.fromkeys([*base.env_vars, *found["env_vars"]], "***")
    fields: dict[str, Any] = {}
    if "env_vars" in found:
        fields["env_vars"] = {**base.env_vars, **found["env_vars"]}
    excludes = list(found.get("excludes", ()))
    if "working_dir" in found:
        fields["working_dir"] = _working_dir(found["working_dir"], excludes, session_directory)
    if "py_modules" in found:
        fields["py_modules"] = [
            _module(part, excludes, session_directory) for part in found["py_modules"]
        ]
    for name in given.EXCLUSIVE:
        if name in found:
            for other in given.EXCLUSIVE:
                if other != name:
                    shown.pop(other, None)
            fields["packages"] = None if name == "conda" else _packages(found[name], name)
            fields["conda"] = _conda(found[name]) if name == "conda" else None
    if "worker_process_setup_hook" in found:
        hook = found["worker_process_setup_hook"]
        is_name = isinstance(hook, str)
        fields["hook_name"] = hook if is_name else ""
        what = "worker_process_setup_hook"
        fields["hook"] = b"" if is_name else bytes(serialize.dumps_by_value(hook, what))
    config = found.get("config", {})
    if "setup_timeout_seconds" in config:
        fields["setup_timeout_s"] = float(config["setup_timeout_seconds"])
    if "eager_install" in config:
        fields["is_eager"] = config["eager_install"]
    fields["given"] = msgspec.json.encode(shown).decode()
    return named(msgspec.structs.replace(base, **fields))


def named(environment: Environment) -> Environment:
    """``environment`` with the key of what it is to a worker: not how it was written, nor how
    patiently it is made."""
    bare = msgspec.structs.replace(
        environment,
        key="",
        given="{}",
        setup_timeout_s=0.0,
        is_eager=True,
        env_vars=dict(sorted(environment.env_vars.items())),
    )
    if bare == Environment(setup_timeout_s=0.0):
        return msgspec.structs.replace(environment, key="")
    key = hashlib.sha256(msgspec.msgpack.encode(bare)).hexdigest()[:16]
    return msgspec.structs.replace(environment, key=key)


def _digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()[:40]


def _interpreter() -> tuple[str, ...]:
    """What a place that holds compiled code is only good for."""
    return (sys.implementation.cache_tag or "", sysconfig.get_platform())


def _wrong(field: str, text: str) -> errors.OptionError:
    return errors.OptionError(f"field {field!r} of runtime_env: {text}", option=given.OPTION)


def _path(value: Any) -> str:
    text = str(os.fspath(value))
    text = text.removeprefix("file://") if text.startswith("file:///") else text
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


# ---- files
def _working_dir(value: Any, excludes: list[str], session_directory: str) -> Tree:
    path = _path(value)
    if "://" in path:
        return _remote("working_dir", path)
    if os.path.isdir(path):
        content = packing.look(path, excludes, "working_dir")
        return Tree(packing.place_directory(session_directory, content))
    return _archive("working_dir", path, session_directory)


def _module(value: Any, excludes: list[str], session_directory: str) -> Tree:
    if isinstance(value, types.ModuleType):
        value = _path_of_module(value)
    path = _path(value)
    name = os.path.basename(path.rstrip("/"))
    if "://" in path:
        return _remote("py_modules", path)
    if os.path.isdir(path):
        content = packing.look(path, excludes, "py_modules")
        return Tree(packing.place_directory(session_directory, content, below=name))
    if not os.path.isfile(path):
        raise _wrong("py_modules", f"there is no {path}")
    if name.endswith(".py"):
        return Tree(packing.place_file(session_directory, path, name))
    if name.endswith(".whl"):
        digest = packing.place_file(session_directory, path, name)
        return Tree(digest, wheel=name)
    return _archive("py_modules", path, session_directory)


def _path_of_module(module: types.ModuleType) -> str:
    for path in getattr(module, "__path__", ()):
        return str(path)
    file = getattr(module, "__file__", None)
    if not file:
        raise _wrong("py_modules", f"module {module.__name__} has no file")
    return str(file)


def _archive(field: str, path: str, session_directory: str) -> Tree:
    if not os.path.isfile(path):
        raise _wrong(field, f"there is no {path}")
    if not path.lower().endswith(ARCHIVES):
        kinds = ", ".join(ARCHIVES)
        raise _wrong(field, f"{path} is neither a directory nor an archive ({kinds})")
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    place = Place(os.path.join(session_directory, "packages"), _digest("archive", content))
    try:
        if not place.is_there():
            place.make(lambda target: archives.unpack(path, target))
    except archives.ArchiveError as error:
        raise _wrong(field, str(error)) from None
    return Tree(place.digest)


def _remote(field: str, uri: str) -> Tree:
    path = uri.partition("?")[0].lower()
    wheel = os.path.basename(uri.partition("?")[0]) if path.endswith(".whl") else ""
    if not wheel and not path.endswith(ARCHIVES):
        raise _wrong(field, f"{uri} does not name an archive ({', '.join(ARCHIVES)}, .whl)")
    if wheel and field == "working_dir":
        raise _wrong(field, f"{uri} is a wheel; it belongs into py_modules")
    return Tree(_digest("uri", uri), uri=uri, wheel=wheel)


# ---- packages
NO_PIP = "pip_version means nothing: uv installs the packages of the field pip. Leave it out"


def _packages(value: Any, tool: str) -> Packages | None:
    options: list[str] = []
    version, is_checked = "", False
    if isinstance(value, Mapping):
        version = str(value.get("uv_version") or "")
        is_checked = bool(value.get(f"{tool}_check"))
        if value.get("pip_version"):
            warnings.warn(NO_PIP, stacklevel=2)
        options = [*value.get(f"{tool}_install_options", ())]
        options += value.get("uv_pip_install_options", ())
        value = value["packages"]
    if isinstance(value, list | tuple):
        requirements = [_requirement(line, os.getcwd(), tool) for line in value]
    else:
        requirements = _read_requirements(_path(value), tool)
    if not requirements:
        return None
    files = [_hash_of_file(line) for line in requirements]
    how = [version, is_checked] if version or is_checked else []
    digest = _digest("packages", _interpreter(), requirements, options, files, *how)
    return Packages(digest, requirements, options, tool, version, is_checked)


def _requirement(line: str, directory: str, field: str) -> str:
    """The line, with paths in it made absolute: it is read elsewhere."""
    line = line.strip()
    option, _, rest = line.partition(" ")
    rest = rest.strip()
    if option in ("-r", "--requirement", "-c", "--constraint", "-f", "--find-links", "-e"):
        return f"{option} {_path(os.path.join(directory, rest)) if '://' not in rest else rest}"
    local = line.partition(" ;")[0].split("[")[0]
    if local.startswith((".", "/", "~")) or (
        local.endswith((".whl", ".zip", ".tar.gz")) and "://" not in local and "@" not in local
    ):
        path = os.path.abspath(os.path.join(directory, os.path.expanduser(local)))
        if not os.path.exists(path):
            raise _wrong(field, f"there is no {path}")
        return path + line[len(local) :]
    return line


def _read_requirements(path: str, field: str) -> list[str]:
    if "://" in path:
        raise _wrong(field, f"{path} must be a file here")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise _wrong(field, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _wrong(field, f"{path} is no text in UTF-8") from None
    lines = text.replace("\\\n", "").splitlines()
    found = (line.partition(" #")[0].strip() for line in lines)
    directory = os.path.dirname(path)
    return [_requirement(x, directory, field) for x in found if x and not x.startswith("#")]


def _hash_of_file(line: str) -> str:
    """What a line means may change while the line does not."""
    option, _, rest = line.partition(" ")
    is_file = option in ("-r", "--requirement", "-c", "--constraint")
    path = rest if is_file else line.partition("[")[0]
    if not os.path.isfile(path):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _conda(value: Any) -> Conda:
    if isinstance(value, Mapping):
        file = msgspec.json.encode(value).decode()  # JSON is YAML
        return Conda(_digest("conda", _interpreter()[1], file), file=file)
    text = os.fspath(value)
    if not text.endswith((".yml", ".yaml")):
        return Conda(_digest("conda name", text), name=text)
    path = _path(text)
    try:
        with open(path, encoding="utf-8") as stream:
            file = stream.read()
    except OSError as error:
        raise _wrong("conda", f"{path} cannot be read: {error.strerror}") from None
    return Conda(_digest("conda", _interpreter()[1], file), file=file)
