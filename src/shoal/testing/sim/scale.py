"""How scheduling scales: ``python -m shoal.testing.sim.scale``, or ``make sim-scale``.

Runs each load of ``scale_tasks`` on 1 to 1,000 simulated nodes and prints, for each run:

* ``drain``: virtual seconds until the last result is at home, and the floor that nobody can beat;
* ``us/task``: real CPU microseconds that all deciding machines together, and the store's index,
  needed for each task; ``decisions/s``: decisions in each real CPU second of them;
* ``messages``: messages between daemons and with the store, for each task;
* ``fair``: Jain's index over the submitters; ``even``: over tasks for each CPU of the nodes;
* ``at bytes``: share of the tasks that ran where their argument lay;
* ``back``: tasks that a full node sent back, or that were taken back.

Then it fills each number of nodes with actors and with groups of four bundles, and prints what a
choice costs.

Virtual figures are the same on every machine; real ones are of the one that runs it. With
``--json`` the figures go into a file, from which ``benchmarks/scale_chart.py`` draws the chart of
``docs/scheduling.md``. The exit status is 1 if a rule of ``scale_checkers`` is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from shoal.testing.sim import scale_places
from shoal.testing.sim.scale_checkers import ScaleViolation
from shoal.testing.sim.scale_cluster import ScaleCluster, ScaleReport
from shoal.testing.sim.scale_tasks import LOADS

NODES = (1, 4, 16, 64, 256, 1000)
TASKS = 100_000
TASKS_PER_NODE = 2_000
"""On few nodes fewer tasks: more of the same would show nothing."""
HEAD = (
    f"{'load':8}{'nodes':>6}{'tasks':>8}{'drain s':>9}{'floor s':>9}{'floor/drain':>12}"
    f"{'us/task':>9}{'decisions/s':>12}{'messages':>9}{'fair':>6}{'even':>6}{'at bytes':>9}"
    f"{'back':>6}"
)


def main(arguments: Sequence[str]) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m shoal.testing.sim.scale", description=__doc__)
    parser.add_argument("--loads", nargs="+", choices=sorted(LOADS), default=list(LOADS))
    parser.add_argument("--nodes", nargs="+", type=int, default=list(NODES))
    parser.add_argument("--tasks", type=int, default=TASKS, help=f"at most (default {TASKS})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-places", dest="places", action="store_false", help="only tasks")
    parser.add_argument("--json", help="write the figures into this file")
    options = parser.parse_args(arguments)
    rows = []
    print(HEAD, flush=True)
    for name in options.loads:
        for nodes in options.nodes:
            tasks = min(options.tasks, TASKS_PER_NODE * max(1, nodes))
            load = LOADS[name](nodes, tasks, options.seed)
            try:
                report = ScaleCluster(load, options.seed).run()
            except ScaleViolation as error:
                print(f"{name} on {nodes} nodes, seed {options.seed}: {error}")
                return 1
            print(line_of(report), flush=True)
            rows.append(figures(report))
    places = []
    print(f"{'nodes':>8}{'actors':>8}{'us each':>9}{'even':>6}{'groups':>8}{'us each':>9}")
    for nodes in options.nodes if options.places else ():
        found = scale_places.run(max(4, nodes), options.seed)
        print(
            f"{found.nodes:8}{found.actors:8}{found.actor_us:9.1f}{found.actors_evenness:6.2f}"
            f"{found.groups:8}{found.group_us:9.1f}",
            flush=True,
        )
        places.append(asdict(found))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"seed": options.seed, "runs": rows, "places": places}, file, indent=1)
            file.write("\n")
    return 0


def figures(report: ScaleReport) -> dict[str, object]:
    """What is kept of a run."""
    return {
        "load": report.load,
        "nodes": report.nodes,
        "tasks": report.tasks,
        "drain_s": round(report.drain_s, 4),
        "floor_s": round(report.floor_s, 4),
        "efficiency": round(report.efficiency, 3),
        "cost_us": round(report.cost_us, 1),
        "decisions_per_s": round(report.decisions_per_s),
        "messages_per_task": round(report.messages_per_task, 3),
        "fairness": round(report.fairness, 3),
        "evenness": round(report.evenness, 3),
        "at_bytes": round(report.at_bytes, 3),
        "backs": report.backs,
    }


def line_of(report: ScaleReport) -> str:
    """One line of the table."""
    return (
        f"{report.load:8}{report.nodes:6}{report.tasks:8}{report.drain_s:9.3f}"
        f"{report.floor_s:9.3f}{report.efficiency:12.2f}{report.cost_us:9.1f}"
        f"{report.decisions_per_s:12,.0f}{report.messages_per_task:9.2f}{report.fairness:6.2f}"
        f"{report.evenness:6.2f}{report.at_bytes:9.2f}{report.backs:6}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
