"""A node that is a small memory cgroup: the watch is quicker than the kernel, and tells if not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos import hogs
from tests.torture.group import LIMIT_BYTES, Group, make_group


@pytest.fixture
def group() -> Iterator[Group]:
    made = make_group()
    if isinstance(made, str):
        pytest.skip(made)
    yield made
    made.remove()


def test_hogs_in_a_small_cgroup_are_ended_before_the_kernel_ends_anybody(group: Group) -> None:
    found = hogs.run_in(group, "watched", str(hogs.HOGS))
    assert len(found["hogs"]) == hogs.HOGS
    assert found["innocent_tasks"] > hogs.HOGS and found["innocent_calls"] >= hogs.HOGS
    for row in found["hogs"]:
        kind, limit = ("limit", row["asked"]) if row["asked"] else ("node", LIMIT_BYTES // 2)
        assert (row["kind"], row["task"], row["limit"]) == (kind, "hog", limit)
        assert row["peak"] > (0.2 * LIMIT_BYTES if kind == "node" else hogs.ASKED)
        assert row["lived"] and "was ended for it" in row["text"]
    assert found["same"], "the daemon and the control store live"
    # By its own limit and not by the node's, however late the watch is for want of a processor.
    assert found["processes"] == 3 and found["most"] < 240 * hogs.MB, "a leak is bounded"
    assert group.kills() == 0 and group.peak_bytes() <= LIMIT_BYTES


def test_who_the_kernel_ends_in_a_small_cgroup_has_run_out_of_memory(group: Group) -> None:
    found = hogs.run_in(group, "kernel")
    (row,) = found["hogs"]
    assert (row["kind"], row["task"]) == ("kernel", "hog")
    assert "the kernel ended the process" in row["text"] and "oom_kill" in row["text"]
    assert found["same"] and group.kills() >= 1
