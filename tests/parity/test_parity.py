"""Each user story comes out on Shoal as it did on Ray, or as a line in `docs/from-ray.md` says."""

from __future__ import annotations

import ast
import functools
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.parity.record import HERE, OUTCOMES, expected, play, story_files

DOCUMENT = HERE.parents[1] / "docs" / "from-ray.md"
RECORDED: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(OUTCOMES.glob("*.json"))
}
DIFFERENCES = tomllib.loads((HERE / "differences.toml").read_text())
WAITING: dict[str, str] = tomllib.loads((HERE / "waiting.toml").read_text())
STORIES = [f"{file}.{name}" for file in RECORDED for name in expected(file)]


@functools.cache
def ours(file: str, root: Path) -> tuple[dict[str, Any], str]:
    """Outcomes of the stories of one file on Shoal, run once for all of them."""
    names = [story.partition(".")[2] for story in STORIES if story.startswith(file + ".")]
    environment = {**os.environ, "SHOAL_DIR": str(root / "sessions"), "COLUMNS": "120"}
    command = [sys.executable, "-m", "shoal", "run", "--as-ray"]
    return play(command, HERE / "stories" / f"{file}.py", names, environment, root)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.mark.parametrize("story", STORIES)
def test_story(story: str, root: Path) -> None:
    file, _, name = story.partition(".")
    outcomes, said = ours(file, root)
    assert name in outcomes, said[-6000:]
    wanted = expected(file)[name]
    assert outcomes[name] == wanted, f"Ray: {RECORDED[file][name]}\n{said[-4000:]}"


def test_each_story_was_recorded() -> None:
    for path in story_files():
        told = [
            node.name.removeprefix("story_")
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("story_")
        ]
        assert sorted(told) == sorted(RECORDED.get(path.stem, {})), f"record {path.name} again"


def test_each_difference_is_told() -> None:
    """It names a line of the document, and really is one."""
    text = DOCUMENT.read_text()
    for story, row in DIFFERENCES.items():
        file, _, name = story.partition(".")
        assert row["told"] in text, f"{story}: docs/from-ray.md does not say {row['told']!r}"
        assert RECORDED[file][name] != row["ours"], f"{story} is no difference"


def test_stories_that_wait_have_a_reason() -> None:
    """They exist, and the reason says what they wait for."""
    for story, reason in WAITING.items():
        file, _, name = story.partition(".")
        assert name in (*RECORDED[file], "*") and len(reason) > 10, story
