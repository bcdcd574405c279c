"""Many seeds on all cores: ``python -m shoal.testing.sim --seeds 5000``, or ``make sim``.

A seed that fails is printed with the command that runs it again, its story (what happened to what
the violation names; ``--full``: everything), and, unless ``--no-shrink``, the fewest faults that
still break the same rule. The exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec

from shoal._base import clock
from shoal.testing.sim import autoscaler, members_many
from shoal.testing.sim.cluster import Report, SimCluster, SimulationError, run, shrink
from shoal.testing.sim.faults import FAULTS

CHUNK = 5
BAR_COLUMNS = 30
SHOWN_MOST = 3
"""Failing seeds that are told whole."""


def main(arguments: Sequence[str]) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m shoal.testing.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--full", action="store_true", help="tell everything that happened")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for fewer faults")
    parser.add_argument("--json", help="write the figures into this file")
    parser.add_argument(
        "--autoscaler", action="store_true", help="lives of an autoscaled cluster instead"
    )
    parser.add_argument(
        "--members",
        action="store_true",
        help="the members of a cluster instead, and groups with a kill after each message",
    )
    options = parser.parse_args(arguments)
    if options.autoscaler:
        return _autoscaled(options)
    if options.members:
        seeds = range(options.first, options.first + options.seeds)
        if options.seed is not None:
            seeds = range(options.seed, options.seed + 1)
        return members_many.many(seeds, options.processes)
    if options.seed is not None:
        return _one(options.seed, options.full, not options.no_shrink)
    return _many(options)


def _autoscaled(options: argparse.Namespace) -> int:
    first = options.first if options.seed is None else options.seed
    counts: Counter[str] = Counter()
    for seed in range(first, first + (options.seeds if options.seed is None else 1)):
        try:
            counts.update(autoscaler.run(seed).counts)
        except AssertionError as error:
            print(f"seed {seed}: {error}")
            return 1
    print(msgspec.json.encode(dict(counts)).decode())
    return 0


def _one(seed: int, is_full: bool, has_shrink: bool) -> int:
    try:
        report = SimCluster(seed).run()
    except SimulationError as error:
        _tell(error, is_full, has_shrink)
        return 1
    print(f"seed {seed}: nothing is wrong; {report.steps} steps, faults {report.faults}")
    return 0


def _tell(error: SimulationError, is_full: bool, has_shrink: bool) -> None:
    print(f"\n{error}" if not is_full else "\n".join((*error.full, "", str(error))))
    if has_shrink:
        smallest = shrink(error)
        try:
            run(smallest)
        except SimulationError as again:
            print(f"with fewer faults: {again.violation}")
        print(f"of {len(error.plan.faults)} faults these {len(smallest.faults)} are enough:")
        for visit in smallest.visits:
            print(f"  at {visit.at:.3f} s {visit.name} comes, {visit.bursts} bursts")
        for fault in smallest.faults:
            print(f"  at {fault.at:.3f} s {fault.kind} ({FAULTS[fault.kind][0]})")
    sys.stdout.flush()


def _chunk(seeds: Sequence[int]) -> tuple[list[Report], list[int]]:
    """In a process of its own: reports, and seeds that fail."""
    reports, failing = [], []
    for seed in seeds:
        try:
            reports.append(SimCluster(seed).run())
        except SimulationError:
            failing.append(seed)
    return reports, failing


def _many(options: argparse.Namespace) -> int:
    seeds = range(options.first, options.first + options.seeds)
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    began = clock.now()
    reports: list[Report] = []
    failing: list[int] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for done, bad in pool.map(_chunk, chunks):
            reports += done
            failing += bad
            for seed in bad:
                print(f"\nseed {seed} breaks a rule; its story follows at the end", flush=True)
            _draw(len(reports), len(failing), len(seeds), clock.now() - began)
    figures = _figures(reports, failing, clock.now() - began)
    print("\n" + msgspec.json.format(msgspec.json.encode(figures), indent=2).decode())
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)
    for seed in failing[:SHOWN_MOST]:
        _one(seed, options.full, not options.no_shrink)
    if len(failing) > SHOWN_MOST:
        print(f"{len(failing)} seeds fail; told are the first {SHOWN_MOST}: {failing}")
    return 1 if failing else 0


def _draw(good: int, bad: int, count: int, took_s: float) -> None:
    """A bar on a terminal; a line for each tenth where it is written down."""
    done = good + bad
    rate = done / took_s if took_s > 0 else 0.0
    left_s = (count - done) / rate if rate > 0 else 0.0
    text = f"{done}/{count} seeds, {bad} failing, {rate:.1f}/s, {left_s:.0f} s to go"
    if sys.stderr.isatty():
        full = BAR_COLUMNS * done // count
        bar = "#" * full + "." * (BAR_COLUMNS - full)
        print(f"\r[{bar}] {text} ", end="", file=sys.stderr, flush=True)
    elif 10 * done // count > 10 * max(0, done - CHUNK) // count:
        print(text, file=sys.stderr, flush=True)


def _figures(reports: Sequence[Report], failing: Sequence[int], took_s: float) -> dict[str, object]:
    faults: Counter[str] = Counter()
    values: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)
        values.update(report.values)
        memory.update(report.memory)
    return {
        "seeds": len(reports) + len(failing),
        "failing": list(failing),
        "seeds_per_s": round((len(reports) + len(failing)) / took_s, 1),
        "steps": sum(report.steps for report in reports),
        "tasks": sum(report.tasks for report in reports),
        "key_requests": sum(report.keys for report in reports),
        "virtual_hours": round(sum(report.virtual_s for report in reports) / 3600, 1),
        "values": dict(values),
        "memory": dict(memory),
        "faults": dict(sorted(faults.items())),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
