"""`python -m shoal.testing.sim`, which `make sim` runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal._core.tasks import Crashes
from shoal.testing.sim.__main__ import main


def test_many_seeds_give_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "sim.json"
    assert main(["--seeds", "6", "--processes", "1", "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert (found["seeds"], found["failing"]) == (6, [])
    assert found["steps"] > 100 and sum(found["faults"].values()) > 0
    assert "6/6 seeds, 0 failing" in capsys.readouterr().err


def test_one_seed_says_that_nothing_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "5"]) == 0
    assert "seed 5: nothing is wrong" in capsys.readouterr().out


def test_a_failing_seed_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Crashes, "decide", lambda self, death: [])
    failing = next(seed for seed in range(60) if main(["--seed", str(seed), "--no-shrink"]))
    told = capsys.readouterr().out
    assert f"run it again: python -m shoal.testing.sim --seed {failing}" in told
    assert main(["--seed", str(failing)]) == 1
    told = capsys.readouterr().out
    assert "with fewer faults: " in told and "bursts" in told
