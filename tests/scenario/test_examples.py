"""Every program in `examples/` runs in a fresh process, ends well, in time, and leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(path for path in (ROOT / "examples").glob("*.py"))
DEADLINE_S = 60


def run(*command: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    arguments = []
    if path.stem == "wordcount":
        text = tmp_path / "text" / "deeper"
        text.mkdir(parents=True)
        for i in range(40):
            (text / f"{i}.txt").write_text(f"shoal of fish number {i}\n" * 20)
        arguments = [str(tmp_path / "text")]
    # Another working directory than the examples': a program must not need to be beside itself.
    output = run(str(path), *arguments, cwd=tmp_path)
    assert output.strip(), "an example shows its result"


def test_examples_are_all_listed() -> None:
    listed = re.findall(r"^\| `(\S+\.py)`", (ROOT / "examples/README.md").read_text(), re.M)
    assert sorted(listed) == [path.name for path in PROGRAMS]


def test_readme_program_runs(tmp_path: Path) -> None:
    """The first Python program of the README, exactly as printed there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks, "the README shows a program"
    program = tmp_path / "program.py"
    program.write_text(blocks[0])
    run(str(program), cwd=tmp_path)


def test_shoal_run(tmp_path: Path) -> None:
    """`shoal run script.py` runs a user's program."""
    output = run("-m", "shoal", "run", str(ROOT / "examples/01_squares.py"), cwd=tmp_path)
    assert "[0, 1, 4, 9]" in output
