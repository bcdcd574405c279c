"""What a user may write into a ``runtime_env``, as data; and the one function that checks it.

Checking looks at nothing but the value itself: whether a directory exists is seen when its files
are taken (``resolving``). Checklist to add a field: a row here, what ``resolving`` makes of it, a
line in ``docs/environments.md`` and a test in ``tests/unit/test_environments_given.py``.
"""

from __future__ import annotations

import numbers
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from shoal import errors

OPTION = "runtime_env"


class Field(msgspec.Struct, frozen=True):
    """One row of the table."""

    expected: str
    check: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_path(value: Any) -> bool:
    return _is_text(value) or (hasattr(value, "__fspath__") and _is_text(value.__fspath__()))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)


def _are_variables(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(k, str) and k and "=" not in k and "\0" not in k and isinstance(v, str)
        for k, v in value.items()
    )


def _are_modules(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        _is_path(part) or isinstance(part, types.ModuleType) for part in value
    )


def _requirements(tool: str) -> Callable[[Any], bool]:
    keys = {
        "packages",
        f"{tool}_version",
        f"{tool}_check",
        f"{tool}_install_options",
        "uv_pip_install_options",
    }

    def check(value: Any) -> bool:
        if not isinstance(value, Mapping):
            return _is_path(value) or _are_texts(value)
        packages = value.get("packages")
        options = [value.get(key, []) for key in keys if key.endswith("_options")]
        return (
            set(value) <= keys
            and (_are_texts(packages) or _is_path(packages))
            and all(_are_texts(option) for option in options)
            and isinstance(value.get(f"{tool}_version", ""), str)
            and isinstance(value.get(f"{tool}_check", False), bool)
        )

    return check


def _is_conda(value: Any) -> bool:
    return _is_path(value) or (isinstance(value, Mapping) and bool(value))


def _is_seconds(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and (value == -1 or value > 0)


def _is_config(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    checks: dict[str, Callable[[Any], bool]] = {
        "setup_timeout_seconds": _is_seconds,
        "eager_install": lambda v: isinstance(v, bool),
    }
    return all(name in checks and checks[name](value[name]) for name in value)


def _is_hook(value: Any) -> bool:
    return callable(value) or (isinstance(value, str) and "." in value.strip("."))


FIELDS: dict[str, Field] = {
    "env_vars": Field("a dict of texts", _are_variables),
    "working_dir": Field("the path of a directory or archive, or a URI", _is_path),
    "py_modules": Field(
        "a list of paths of directories, modules, wheels or archives, of URIs, or of modules",
        _are_modules,
    ),
    "excludes": Field("a list of patterns as in .gitignore", _are_texts),
    "pip": Field(
        "a list of requirements, the path of a requirements file, or a dict with packages,"
        " pip_version, pip_check, pip_install_options",
        _requirements("pip"),
    ),
    "uv": Field(
        "a list of requirements, the path of a requirements file, or a dict with packages,"
        " uv_version, uv_check, uv_pip_install_options",
        _requirements("uv"),
    ),
    "conda": Field(
        "the name of a conda environment, the path of a .yml file, or a dict with what such a"
        " file says",
        _is_conda,
    ),
    "config": Field(
        "a dict with setup_timeout_seconds (a number > 0, or -1 for no limit) and eager_install"
        " (True or False)",
        _is_config,
    ),
    "worker_process_setup_hook": Field("a function, or the text 'module.name' of one", _is_hook),
}

ELSEWHERE = {
    "image_uri": "containers are not there; start the program in one",
    "container": "containers are not there; start the program in one",
    "nsight": "start the program under the profiler, workers are its children",
    "java_jars": "there is no Java",
    "mpi": "start the program with mpirun",
}
"""Fields that people know and that are not there, with what to do instead."""

EXCLUSIVE = ("pip", "uv", "conda")


def check(value: Any) -> dict[str, Any]:
    """Return the fields of a ``runtime_env`` that say something.

    Raises:
        OptionError: a field is unknown or wrong; says which ones there are.
    """
    if not isinstance(value, Mapping):
        text = f"runtime_env must be a dict, not {type(value).__name__}"
        raise errors.OptionError(text, option=OPTION)
    found: dict[str, Any] = {}
    for name, part in value.items():
        if name in ELSEWHERE:
            text = f"field {name!r} of runtime_env is not there: {ELSEWHERE[name]}"
            raise errors.OptionError(text, option=OPTION, valid=sorted(FIELDS))
        row = FIELDS.get(name)
        if row is None:
            raise _unknown(name)
        if part is None:
            continue
        if not row.check(part):
            shown = "the value that it has" if name == "env_vars" else repr(part)
            text = f"field {name!r} of runtime_env must be {row.expected}, not {shown}"
            raise errors.OptionError(text, option=OPTION, valid=sorted(FIELDS))
        found[name] = part
    several = [name for name in EXCLUSIVE if name in found]
    if len(several) > 1:
        text = f"runtime_env can have only one of {', '.join(several)}; put all into one of them"
        raise errors.OptionError(text, option=OPTION, valid=sorted(FIELDS))
    return found


def hint(name: str, valid: Sequence[str]) -> str:
    """What somebody who wrote ``name`` may have meant, for the end of a sentence; or nothing."""
    import difflib

    close = difflib.get_close_matches(name, valid, 1)
    return f" Did you mean {close[0]}?" if close else ""


def _unknown(name: Any) -> errors.OptionError:
    valid = sorted(FIELDS)
    text = f"runtime_env has no field {name!r}.{hint(str(name), valid)} Valid: {', '.join(valid)}"
    return errors.OptionError(text, option=OPTION, valid=valid)


def shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as plain data for views: values of env_vars are nobody's business (K-11)."""
    out: dict[str, Any] = {}
    for name, part in found.items():
        if name == "env_vars":
            out[name] = dict.fromkeys(part, "***")
        else:
            out[name] = _plain(part)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, types.ModuleType):
        return value.__name__
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', 'function')}"
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
