"""Workers with cgroups of their own (v2): for real, where the machine lets us make some.

What is read from such a group, and what is done without one, is in tests/unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import grouped
from tests.chaos.grouped import ASKED, MB


@pytest.fixture
def delegated() -> Iterator[Path]:
    made = grouped.make_delegated()
    if isinstance(made, str):
        pytest.skip(made)
    yield made
    made.rmdir()


def test_the_kernel_holds_limits_and_nobody_escapes(delegated: Path, tmp_path: Path) -> None:
    found = grouped.run_in(delegated, tmp_path)
    assert found["source"] == "cgroup" and found["path"].startswith(str(delegated))
    most = ASKED + ASKED // 16 + 17 * MB
    for name, error in (("hog", "OutOfMemoryError"), ("actor", "ActorOutOfMemoryError")):
        kind, limit, peak = found[name]["facts"]
        assert (found[name]["error"], kind, limit) == (error, "limit", ASKED)
        assert ASKED // 2 < peak <= most, "a hog of 1000 MB never has them"
    assert found["escaped"]["facts"][:2] == ["limit", ASKED], "what it starts is its own"
    assert found["escaped_is_gone"]
    assert found["fits"] == 20 * MB and found["kept"] == 1
    assert found["others"] == [120 * MB] * 3, "who has asked for nothing has no limit"
    assert found["looked"] == 25 * MB // 2 // 512, "values are nobody's own"
    assert found["outlives_its_worker"] and not found["outlives_its_job"]
    assert "shoal-rest" in found["during"] and len(found["during"]) == 2
    assert found["after"] == [] and found["again"] == "cgroup"
    assert found["after_kill"] == [] and not found["worker_lives"]
