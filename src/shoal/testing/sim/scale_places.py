"""What placing actors and groups costs on many nodes: a full cluster, filled one by one.

Rows are as new as can be: each is changed as soon as something is placed. So this measures the
policies, not views. Everything is placed that can be (a checker counts), and what is placed fits.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from shoal._base import clock
from shoal._base.config import ForwardingLimits
from shoal._core.policies.choices import Choices
from shoal._core.policies.view import Left
from shoal._core.resources import parse
from shoal._proto.membership import GroupSpec, RegisterActor
from shoal._proto.views import NodeRow
from shoal.testing.sim.scale_checkers import ScaleViolation
from shoal.testing.sim.scale_tasks import jain, name_of

CPUS = 8
MISSES_MOST = 40
"""So many groups in a row, of all strategies, find no place: it is full."""
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


@dataclass(frozen=True)
class PlacesReport:
    """What it came to."""

    nodes: int
    actors: int
    actor_us: float
    """Real CPU microseconds for each."""
    actors_evenness: float
    """Jain's index over actors for each node, when half of all CPUs are held."""
    groups: int
    group_us: float


def run(nodes: int, seed: int = 0) -> PlacesReport:
    """Fill half of the CPUs with actors of one CPU, and the rest with groups of four bundles."""
    chance = random.Random(seed)
    choices = Choices(seed, ForwardingLimits())
    cpus = parse({"CPU": CPUS})
    rows = {name_of(at): NodeRow(name_of(at), 1, 1, dict(cpus), dict(cpus)) for at in range(nodes)}
    spent, actors = 0.0, nodes * CPUS // 2
    for at in range(actors):
        spec = RegisterActor(f"actor {at}", place={"CPU": 1.0}, hold={"CPU": 1.0})
        began = clock.cpu()
        node = choices.actor(spec, rows)
        spent += clock.cpu() - began
        _take(rows, node, {"CPU": 1.0})
    held = [CPUS - row.free["CPU"] / 10_000 for row in rows.values()]
    actor_us, spent, groups = spent / actors * 1e6, 0.0, 0
    asked, failed = 0, 0
    while failed < MISSES_MOST:
        strategy = chance.choice(STRATEGIES)
        bundles = [{"CPU": chance.choice((0.5, 1.0))} for _ in range(4)]
        spec_of_group = GroupSpec(f"group {groups}", bundles, strategy)
        began = clock.cpu()
        places = choices.group(spec_of_group, range(4), {}, rows)
        spent += clock.cpu() - began
        asked += 1
        if places is None:
            # A node for all four may be missing when there is room for four nodes' worth.
            failed += 1
            continue
        groups, failed = groups + 1, 0
        for at, node in places.items():
            _take(rows, node, bundles[at])
    whole = sum(row.free["CPU"] // 10_000 for row in rows.values())
    if whole >= 4:
        raise ScaleViolation(f"{whole} whole CPUs are free, and groups find no place")
    return PlacesReport(nodes, actors, actor_us, jain(held), groups, spent / asked * 1e6)


def _take(rows: dict[str, NodeRow], node: str, amounts: dict[str, float]) -> None:
    if node not in rows:
        raise ScaleViolation("there is room, and no node was found")
    row = rows[node]
    left = Left.now(row)
    if not left.take(parse(amounts)):
        raise ScaleViolation(f"{node} has no room for {amounts}")
    rows[node] = NodeRow(node, row.epoch, row.number + 1, row.total, left.free)
