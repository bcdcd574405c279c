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
DEADLINE_S = 110


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


def programs_in_documents() -> list[tuple[str, str]]:
    """(where, text) of each Python block in the README and in `docs/`."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
        found += [(f"{path.name}-{i}", block) for i, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize(
    ("where", "text"), programs_in_documents(), ids=lambda value: value[:24].splitlines()[0]
)
def test_program_in_document(where: str, text: str, tmp_path: Path) -> None:
    """Exactly as printed there, in a fresh process."""
    program = tmp_path / "program.py"
    program.write_text(text)
    run(str(program), cwd=tmp_path)


def test_shoal_run(tmp_path: Path) -> None:
    """`shoal run script.py` runs a user's program."""
    output = run("-m", "shoal", "run", str(ROOT / "examples/01_squares.py"), cwd=tmp_path)
    assert "[0, 1, 4, 9]" in output
