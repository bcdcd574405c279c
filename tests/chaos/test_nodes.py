"""A short look at what ``make chaos-cluster`` does for minutes: real programs on four nodes."""

from __future__ import annotations

from pathlib import Path

from tests.chaos import nodes
from tests.chaos.node_faults import LARGE, SMALL
from tests.cluster.conftest import looked_around, need_namespaces

SEED = 20261122
PLAN = ["kill worker", "cut", "power off", "one way", "stop daemon", "kill worker"]


def test_real_programs_are_exact_while_nodes_fail(tmp_path: Path) -> None:
    """Wrong results, hangs and whatever is left on any node end it."""
    need_namespaces()
    assert set(PLAN) <= set(SMALL) | set(LARGE)
    with looked_around():
        found = nodes.run(tmp_path, SEED, 5.0, print, plan=PLAN, shuffle_bytes=8 << 20)
    assert found["audit"] == "zero" and found["faults"]["power off"] == 1
    assert all(row["rounds"] + sum(row["named"].values()) > 0 for row in found["work"].values())
