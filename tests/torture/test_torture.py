"""The short form of each torture; `make torture T=...` runs the same for longer.

SHOAL_TORTURE_SEED repeats a run's choices, as far as processes can be repeated.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.torture import kills

SEED = int(os.environ.get("SHOAL_TORTURE_SEED", str(int.from_bytes(os.urandom(4), "little"))))
KILLS_S = 15.0


def say(text: str) -> None:
    print(text, flush=True)


@pytest.mark.timeout(KILLS_S + 180)
def test_nothing_is_lost_or_left_while_processes_are_killed_and_stopped(tmp_path: Path) -> None:
    say(f"\nSHOAL_TORTURE_SEED={SEED}")
    found = kills.run(tmp_path, SEED, KILLS_S, say)
    say(str(found))
    assert found["kills_total"] > 50, "next to nobody was killed"
    assert found["answered"] > 50, "the load did next to nothing"
