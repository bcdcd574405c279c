"""Many seeds of simulated members on all cores: ``python -m shoal.testing.sim --members``.

A seed that fails is printed with the rule that it breaks; ``--seed`` runs it again alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec

from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.members import MembersReport, SimMembers
from shoal.testing.sim.members_groups import SCENARIOS, explore

CHUNK = 10


def _chunk(seeds: Sequence[int]) -> tuple[list[MembersReport], list[str]]:
    """In a process of its own: reports, and what fails."""
    reports, failing = [], []
    for seed in seeds:
        try:
            reports.append(SimMembers(seed).run())
        except Violation as violation:
            failing.append(str(violation))
    return reports, failing


def _explored(case: tuple[str, bool]) -> int:
    return explore(*case)


def many(seeds: Sequence[int], processes: int) -> int:
    """All of them, then the groups; the exit status."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    reports: list[MembersReport] = []
    failing: list[str] = []
    runs = 0
    with ProcessPoolExecutor(processes) as pool:
        for done, bad in pool.map(_chunk, chunks):
            reports += done
            failing += bad
            for text in bad:
                print(text, flush=True)
        if len(seeds) > 1:
            cases = [(scenario, is_detached) for scenario in SCENARIOS for is_detached in (0, 1)]
            runs = sum(pool.map(_explored, [(name, bool(one)) for name, one in cases]))
    faults: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)
    figures = {
        "seeds": len(seeds),
        "failing": len(failing),
        "actors": sum(report.actors for report in reports),
        "lives": sum(report.lives for report in reports),
        "groups": sum(report.groups for report in reports),
        "nodes_lost": sum(report.deaths for report in reports),
        "messages": sum(report.messages for report in reports),
        "faults": dict(sorted(faults.items())),
        "kills_after_a_message": runs,
    }
    print(msgspec.json.format(msgspec.json.encode(figures), indent=2).decode())
    return 1 if failing else 0
