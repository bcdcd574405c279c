"""The short form of each torture; `make torture T=...` runs the same for longer.

SHOAL_TORTURE_SEED repeats a run's choices, as far as processes can be repeated.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.torture import full, group, kills, sessions, stopped

SEED = int(os.environ.get("SHOAL_TORTURE_SEED", str(int.from_bytes(os.urandom(4), "little"))))
KILLS_S = 8.0
TOOLS_S = 8.0
STOPPED_S = 9.0
FULL_S = 5.0
GROUP_S = 8.0
SESSIONS_S = 5.0

LONGER = (1, 5)
"""Times of an ordinary run: on a machine that does other things too, less happens in the same time,
so that it is judged by a longer one."""


def say(text: str) -> None:
    print(text, flush=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    say(f"\nSHOAL_TORTURE_SEED={SEED}")


@pytest.mark.timeout(sum(LONGER) * KILLS_S + 600)
def test_nothing_is_lost_or_left_while_processes_are_killed_and_stopped(tmp_path: Path) -> None:
    for times in LONGER:
        folder = tmp_path / f"{times}"
        folder.mkdir()
        found = kills.run(folder, SEED, times * KILLS_S, say)
        say(str(found))
        if found["kills_total"] > 20 and found["answered"] > 50:
            break
    assert found["kills_total"] > 20, "next to nobody was killed"
    assert found["answered"] > 50, "the load did next to nothing"


@pytest.mark.timeout(TOOLS_S + 300)
def test_channels_graphs_groups_and_pools_whose_members_are_killed(tmp_path: Path) -> None:
    found = kills.run_tools(tmp_path, SEED, TOOLS_S, say)
    say(str(found))
    assert found["by_kind"], "nothing was done"


@pytest.mark.timeout(STOPPED_S + 300)
def test_nobody_stands_still_while_another_process_is_stopped(tmp_path: Path) -> None:
    found = stopped.run(tmp_path, SEED, STOPPED_S, say)
    assert {"nobody", "driver", "zygote", "store", "daemon"} <= set(found)


@pytest.mark.timeout(full.TRIES * FULL_S + 300)
def test_a_store_that_is_full_again_and_again_says_so(tmp_path: Path) -> None:
    found = full.run(tmp_path, SEED, FULL_S, say)
    assert found["answered"] > 10, found


@pytest.mark.timeout(full.TRIES * GROUP_S + 300)
def test_the_kernel_kills_nobody_in_a_small_cgroup(tmp_path: Path) -> None:
    found = group.run(tmp_path, SEED, GROUP_S, say)
    if isinstance(found, str):
        pytest.skip(found)
    say(str(found))
    assert found["answered"] > 10, found


def test_sessions_whose_daemon_is_killed_leave_nothing(tmp_path: Path) -> None:
    found = sessions.run(tmp_path, SEED, SESSIONS_S, say)
    assert found["gone_s_most"] < sessions.GONE_S
