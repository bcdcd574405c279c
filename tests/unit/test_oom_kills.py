"""The kernel's counter of processes that it ended for want of memory, from a made-up file."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal._runtime import oom_kills
from shoal._runtime.oom_kills import OomKills, read_count

V2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


@pytest.mark.parametrize("text", [V2, V1], ids=["memory.events", "memory.oom_control"])
def test_a_rise_explains_as_many_deaths(tmp_path: Path, text: str) -> None:
    path = tmp_path / "counter"
    path.write_text(text.format(4))
    kills = OomKills(str(path))
    assert kills.claim(9) == "", "somebody else has killed it"
    path.write_text(text.format(6))
    assert kills.claim(11) == "", "the kernel does not do it with that"
    first, second = kills.claim(9), kills.claim(9)
    assert "has risen to 6" in first and "has risen to 6" in second
    assert kills.claim(9) == ""


def test_a_rise_that_was_seen_long_ago_explains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "counter"
    path.write_text(V2.format(0))
    kills = OomKills(str(path))
    path.write_text(V2.format(1))
    kills.look()
    real = oom_kills.clock.now
    monkeypatch.setattr(oom_kills.clock, "now", lambda: real() + oom_kills.CLAIM_S)
    assert kills.claim(9) == ""


def test_no_counter_is_no_kill(tmp_path: Path) -> None:
    assert read_count(str(tmp_path / "none")) == 0
    assert OomKills(str(tmp_path / "none")).claim(9) == ""
