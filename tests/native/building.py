"""What the native test programs are linked from: the core, compiled once per set of flags.

`objects(tmp_path_factory, flags)` gives the object files of the core of `native/`, `program(...)` a
program of `native/test/` linked with them. Both are made when somebody asks first, in the temporary
directory of the run, and kept for whoever asks for the same again.

The core is compiled in two halves, each of them one file that includes its sources: most of the
time of a compiler goes to headers that all of them include. A program that is `broken` on purpose,
by a file and a macro, has the half with that file compiled anew, with the macro.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
COMPILER = os.environ.get("CXX", "g++")
HALVES = (
    ("platform", "memory", "slot", "block", "task", "pending", "cancel", "advance"),
    ("wait", "channel", "spill", "hollow", "lineage", "bridge", "repair", "audit"),
)
Flags = tuple[str, ...]


def _compile(source: Path, target: Path, flags: Sequence[str]) -> Path:
    command = [COMPILER, "-std=c++20", "-I", str(NATIVE), *flags]
    subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
    return target


def _folder(tmp_path_factory: pytest.TempPathFactory, flags: Flags) -> Path:
    name = hashlib.sha256("\0".join(flags).encode()).hexdigest()[:16]
    folder = tmp_path_factory.getbasetemp() / "native" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _half(folder: Path, number: int, flags: Flags, macro: str = "") -> Path:
    """The object file of a half; with ``macro`` that of a broken one."""
    target = folder / f"half{number}{macro}.o"
    if not target.exists():
        source = folder / f"half{number}{macro}.cpp"
        source.write_text("".join(f'#include "{name}.cpp"\n' for name in HALVES[number]))
        _compile(source, target, [*flags, f"-D{macro}"] if macro else flags)
    return target


def objects(
    tmp_path_factory: pytest.TempPathFactory, flags: Flags, broken: tuple[str, str] | None = None
) -> list[Path]:
    """The core, compiled with ``flags``; ``broken`` is one of its files and a macro."""
    folder = _folder(tmp_path_factory, flags)

    def half(number: int) -> Path:
        is_broken = broken is not None and broken[0] in HALVES[number]
        return _half(folder, number, flags, broken[1] if broken and is_broken else "")

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(half, range(len(HALVES))))


def program(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    flags: Flags,
    broken: tuple[str, str] | None = None,
    core: Sequence[Path] = (),
) -> Path:
    """``native/test/<name>.cpp``, linked with the core (or with ``core``, if that is given)."""
    folder = _folder(tmp_path_factory, flags)
    own = folder / f"{name}.o"
    if not own.exists():
        _compile(NATIVE / "test" / f"{name}.cpp", own, flags)
    linked = core or objects(tmp_path_factory, flags, broken)
    binary = folder / (f"{name}{broken[1]}" if broken else name)
    command = [COMPILER, *flags, own, *linked, "-o", binary, "-lpthread"]
    subprocess.run(command, check=True)
    return binary
