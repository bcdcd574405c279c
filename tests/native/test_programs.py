"""The native test programs, built and run: deaths at every instruction, races."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
CORE = ("platform", "memory", "slot", "block", "task", "advance", "wait", "repair", "audit")
COMPILER = os.environ.get("CXX", "g++")


def _build(program: str, folder: Path, *flags: str) -> Path:
    """Compile the core and ``native/test/<program>.cpp`` into ``folder``."""

    def compile_one(source: Path) -> Path:
        target = folder / (source.stem + ".o")
        command = [COMPILER, "-std=c++20", "-g", "-I", str(NATIVE), *flags]
        subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
        return target

    sources = [NATIVE / f"{name}.cpp" for name in CORE] + [NATIVE / "test" / f"{program}.cpp"]
    with ThreadPoolExecutor(2) as pool:
        objects = [str(target) for target in pool.map(compile_one, sources)]
    binary = folder / program
    link = [COMPILER, *flags, *objects, "-o", str(binary), "-lpthread"]
    subprocess.run(link, check=True)
    return binary


@pytest.mark.timeout(400)
def test_killed_at_every_instruction(tmp_path: Path) -> None:
    program = _build("step", tmp_path, "-O2")
    done = subprocess.run([program, "1"], capture_output=True, text=True, timeout=300, check=False)
    print(done.stdout)
    rows = re.findall(r"killed at +(\d+), violations (\d+)", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rows) >= 12
    assert all(int(violations) == 0 for _, violations in rows)
    assert sum(int(instructions) for instructions, _ in rows) > 50_000


@pytest.mark.timeout(400)
@pytest.mark.parametrize("sanitizer", ["none", "thread", "address,undefined"])
def test_races_in_one_mapping(tmp_path: Path, sanitizer: str) -> None:
    flags = ["-O2"] if sanitizer == "none" else ["-O1", f"-fsanitize={sanitizer}"]
    program = _build("race", tmp_path, *flags)
    tasks = "20000" if sanitizer == "none" else "2000"
    command = [program, tasks]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING: ThreadSanitizer" not in done.stderr
    assert "left: slots 0 specs 0 bytes 0 leaked 0 wrong 0" in done.stdout
