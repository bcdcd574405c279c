"""Packages: ``uv`` puts them, with what they need, into one directory for the front of a worker's
``sys.path``; conda makes an interpreter.

Why a directory and not a virtual environment: a worker is a fork of a warm zygote (a few
milliseconds); with an interpreter of its own it would have to be exec'd and import everything
(hundreds). ``PATH`` and ``PYTHONPATH`` of what it starts are set too (``applying``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

from shoal._base import environment as variables
from shoal._proto.environments import Conda, Packages
from shoal._runtime.environments import SetupFailure, places

LAST_LINES = 30
_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
OWN = ("shoal",)
"""What an environment never brings (RULES E-2)."""


def install(packages: Packages, target: str) -> None:
    """Install into the new directory ``target``.

    Raises:
        SetupFailure: there is no uv, or it failed; with its last lines.
    """
    os.mkdir(target, 0o755)
    listed = target + ".txt"
    with open(listed, "w", encoding="utf-8") as file:
        file.write("\n".join(packages.requirements) + "\n")
    try:
        what = ["--requirement", listed, *packages.options]
        _run_uv(what, packages.field, target, packages.version)
    finally:
        os.unlink(listed)
    if packages.is_checked:
        _check(target, packages.field)
    _remove_own(target)


def install_wheel(path: str, target: str) -> None:
    """Install one wheel and what it needs."""
    os.mkdir(target, 0o755)
    _run_uv([path], "py_modules", target)
    _remove_own(target)


def _run_uv(what: Sequence[str], step: str, target: str, version: str = "") -> None:
    command = [find_uv(step)]
    if version:  # uv gets the other uv itself, from where packages come, and keeps it
        command += ["tool", "run", "--from", f"uv{version}", "uv"]
    command += ["pip", "install", "--no-progress", "--color", "never"]
    command += ["--python", sys.executable, "--target", target, *what]
    code, lines = run(command)
    if code:
        raise SetupFailure(step, f"uv could not install it (exit code {code})", lines)


def _check(target: str, step: str) -> None:
    """Look whether what stands in ``target`` has all that it needs, in versions that fit.

    uv looks into environments: so there is one for a moment, whose packages these are.
    """
    seen_from = target + ".check"
    packages = os.path.join(seen_from, "lib", f"python{_MINOR}", "site-packages")
    python = os.path.join(seen_from, "bin", "python")
    os.makedirs(os.path.dirname(packages))
    os.mkdir(os.path.dirname(python))
    try:
        os.symlink(target, packages)
        os.symlink(sys.executable, python)
        with open(os.path.join(seen_from, "pyvenv.cfg"), "w", encoding="utf-8") as file:
            home = os.path.dirname(os.path.realpath(sys.executable))
            file.write(f"home = {home}\ninclude-system-site-packages = false\n")
        code, lines = run([find_uv(step), "pip", "check", "--color", "never", "--python", python])
    finally:
        places.remove(seen_from)
    if code:
        raise SetupFailure(step, "the packages do not fit each other", lines)


def find_uv(step: str) -> str:
    """The path of uv: beside our interpreter, on PATH, or in its own package.

    Raises:
        SetupFailure: it is not installed.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    found = beside if os.access(beside, os.X_OK) else shutil.which("uv")
    if found:
        return found
    text = "uv, which installs packages, is not there. What to do: pip install 'shoal[env]'"
    raise SetupFailure(step, text)


def _remove_own(target: str) -> None:
    for name in os.listdir(target):
        distribution = re.match(r"([A-Za-z0-9_.]+)-.*\.dist-info$", name)
        if name.partition(".")[0] in OWN or (distribution and distribution.group(1).lower() in OWN):
            print(f"{name} is left out: the session has its own", flush=True)
            places.remove(os.path.join(target, name))


def run(command: Sequence[str]) -> tuple[int, list[str]]:
    """Run a tool, its words into our log; its exit code and last lines, without secrets."""
    found = variables.inherited_variables()
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"):
        found.pop(name, None)
    print("$", " ".join(_masked(part) for part in command), flush=True)
    lines: list[str] = []
    with subprocess.Popen(
        command,
        env=found,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as tool:
        assert tool.stdout is not None
        for line in tool.stdout:
            line = _masked(line.rstrip())
            print(line, flush=True)
            lines.append(line)
            del lines[:-LAST_LINES]
    return tool.returncode, [line for line in lines if line]


def _masked(text: str) -> str:
    """Without the passwords that addresses of indexes carry."""
    return re.sub(r"://[^/\s@]+@", "://***@", text)


# ---- conda
def find_conda() -> str:
    """The path of conda or what behaves like it.

    Raises:
        SetupFailure: there is none.
    """
    seen = variables.inherited_variables().get("CONDA_EXE", "")
    for name in (seen, "conda", "mamba", "micromamba"):
        if name and (found := shutil.which(name)):
            return found
    text = (
        "field conda needs conda, mamba or micromamba on PATH. What to do: install one, or use uv"
    )
    raise SetupFailure("conda", text)


def make_conda(conda: Conda, prefix: str, target: str) -> None:
    """Make an environment with its own interpreter at ``prefix``, which is written into its files;
    ``target`` says that it is complete."""
    tool = find_conda()
    listed = target + ".yml"
    with open(listed, "w", encoding="utf-8") as file:
        file.write(conda.file)
    try:
        command = [tool, "env", "create", "--yes", "--prefix", prefix, "--file", listed]
        code, lines = run(command)
    finally:
        os.unlink(listed)
    if code:
        raise SetupFailure("conda", f"conda could not make it (exit code {code})", lines)
    os.mkdir(target, 0o755)


def prefix_of(name: str) -> str:
    """Where the existing conda environment called ``name`` stands."""
    if os.path.isabs(name) and os.path.isdir(name):
        return name
    tool = find_conda()
    found = subprocess.run(
        [tool, "env", "list", "--json"], capture_output=True, check=False, encoding="utf-8"
    )
    try:
        prefixes = json.loads(found.stdout)["envs"]
    except (ValueError, KeyError, TypeError):
        last = [line for line in found.stderr.splitlines() if line][-LAST_LINES:]
        raise SetupFailure("conda", "conda does not list its environments", last) from None
    for prefix in prefixes:
        if os.path.basename(prefix) == name:
            return str(prefix)
    names = ", ".join(sorted(os.path.basename(prefix) for prefix in prefixes)) or "none"
    raise SetupFailure("conda", f"there is no conda environment {name!r}; there are: {names}")


def interpreter_of(prefix: str) -> str:
    """Its Python, if it is of our minor version (RULES E-2, E-3).

    Raises:
        SetupFailure: it has none, or another version.
    """
    python = os.path.join(prefix, "bin", "python")
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        found = subprocess.run(
            [python, "-c", program], capture_output=True, check=False, encoding="utf-8"
        )
    except OSError as error:
        raise SetupFailure("conda", f"{python} cannot be run: {error.strerror}") from None
    version = found.stdout.strip()
    if version != _MINOR:
        text = f"its Python is {version or 'none that runs'}; workers of this session need {_MINOR}"
        raise SetupFailure("conda", text)
    return python
