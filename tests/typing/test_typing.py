"""``.remote``, ``.options``, ``get`` and handles are inferred by mypy and by pyright.

pyright runs as ``basedpyright`` in its ``standard`` mode, which is pyright's own: the package
brings its Node with it, so that it runs without a network once it is installed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal._runtime import options, typed

HERE = Path(__file__).parent
SOURCE = Path(shoal.__file__).parent.parent

Errors = dict[int, str]


def mypy(file: Path, directory: Path) -> Errors:
    """Errors by line."""
    command = [
        sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary",
        "--python-version=3.11", "--ignore-missing-imports", "--follow-imports=silent",
        "--allow-untyped-calls", f"--cache-dir={directory}", str(file),
    ]  # fmt: skip
    # An installed package is found by its place, and mypy refuses to be told about it.
    is_installed = SOURCE.name == "site-packages"
    environment = {**os.environ, "MYPYPATH": "" if is_installed else str(SOURCE)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=100, cwd=directory
    )
    assert done.returncode in (0, 1) and not done.stderr, done.stdout + done.stderr
    found = {}
    for line in done.stdout.splitlines():
        match = re.search(rf"{file.name}:(\d+): error: (.*)", line)
        if match:
            found[int(match.group(1))] = match.group(2)
    return found


def pyright(file: Path, directory: Path) -> Errors:
    """Errors by line."""
    config = {
        "include": [str(file)],
        "extraPaths": [str(SOURCE)],
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
    }
    path = directory / "pyrightconfig.json"
    path.write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=directory,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1, done.stdout
    return {
        row["range"]["start"]["line"] + 1: row["message"]
        for row in report["generalDiagnostics"]
        if row["severity"] == "error"
    }


CHECKERS = pytest.mark.parametrize("checker", [mypy, pyright])


@CHECKERS
def test_good_uses_have_no_error(checker: Callable[[Path, Path], Errors], tmp_path: Path) -> None:
    assert checker(HERE / "good_uses.py", tmp_path) == {}


@CHECKERS
def test_bad_uses_are_errors_and_nothing_else(
    checker: Callable[[Path, Path], Errors], tmp_path: Path
) -> None:
    file = HERE / "bad_uses.py"
    marked = {
        number
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if line.endswith("# bad")
    }
    found = checker(file, tmp_path)
    missed = marked - found.keys()
    stray = {number: text for number, text in found.items() if number not in marked}
    assert len(marked) > 20 and not missed and not stray, f"missed: {missed}, stray: {stray}"


def test_the_typed_options_are_the_options() -> None:
    """``typed.TaskOptions`` and its neighbours name what ``options.TABLE`` has."""
    for where, kind in (
        ("t", typed.TaskOptions),
        ("a", typed.ActorOptions),
        ("m", typed.MethodOptions),
    ):
        named = set(kind.__annotations__)
        for base in getattr(kind, "__orig_bases__", ()):
            named |= set(getattr(base, "__annotations__", ()))
        assert named | {"num_returns"} == set(options.valid_names(where)) | {"num_returns"}
