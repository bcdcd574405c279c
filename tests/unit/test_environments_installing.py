"""Installing packages: with which uv, and whether what came is looked at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shoal._proto.environments import Packages
from shoal._runtime.environments import SetupFailure, installing, resolving
from tests.scenario.test_api_environments import wheel


def test_packages_that_lack_something_are_found_if_asked(tmp_path: Path) -> None:
    found = wheel(tmp_path, "wanted", "VALUE = 1\n", needs="absent>=2")
    given = Packages("digest", [str(found)], ["--no-deps", "--no-index"], "uv")
    installing.install(given, str(tmp_path / "loose"))
    assert (tmp_path / "loose" / "wanted.py").exists()
    strict = Packages("digest", [str(found)], ["--no-deps", "--no-index"], "uv", "", True)
    with pytest.raises(SetupFailure, match="do not fit") as caught:
        installing.install(strict, str(tmp_path / "strict"))
    assert any("absent" in line for line in caught.value.output)
    assert not (tmp_path / "strict.check").exists()


def test_packages_that_fit_pass_the_look(tmp_path: Path) -> None:
    wheel(tmp_path, "needed", "VALUE = 1\n")
    wheel(tmp_path, "wanted", "VALUE = 1\n", needs="needed")
    options = ["--no-index", f"--find-links={tmp_path}"]
    installing.install(
        Packages("digest", ["wanted"], options, "pip", "", True), str(tmp_path / "t")
    )
    assert (tmp_path / "t" / "needed.py").exists()


def test_a_version_of_uv_is_got_by_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "uv"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    tool.chmod(0o755)
    monkeypatch.setattr(installing, "find_uv", lambda step: str(tool))
    installing.install(Packages("digest", ["a"], [], "uv", "==0.4.1"), str(tmp_path / "target"))
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:7] == ["tool", "run", "--from", "uv==0.4.1", "uv", "pip", "install"]
    assert asked[asked.index("--python") + 1] == sys.executable


def test_checks_and_versions_are_part_of_what_an_environment_is() -> None:
    plain = resolving._packages({"packages": ["a"]}, "uv")
    versions = [{"uv_version": "==0.4.1"}, {"uv_check": True}, {"uv_check": False}]
    others = [resolving._packages({"packages": ["a"], **how}, "uv") for how in versions]
    assert plain is not None and all(others)
    assert [other and other.digest == plain.digest for other in others] == [False, False, True]


def test_a_version_of_pip_is_answered_by_a_warning() -> None:
    with pytest.warns(UserWarning, match="uv installs"):
        resolving._packages({"packages": ["a"], "pip_version": "==22"}, "pip")
