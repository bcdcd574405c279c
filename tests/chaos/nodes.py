"""The programs of ``work`` on four nodes under the faults of ``node_faults``.

    python -m tests.chaos.nodes [--seconds 120] [--seed N] [--lease 10] [--plan 'cut; freeze, long']

(``make chaos-cluster T=120``.) A network of four hosts (``shoal.testing.NetCluster``), each with a
node: real daemons, TLS, TCP. The programs are drivers on the first one; half of their work, and all
actors of ``trainer``, are on the others. What ends a run, with a traceback and the seed: a result
that is not the serial run's, an error that names no loss, a wait of more than ``PATIENCE_S``, and
whatever is left at the end: in the memory of any node (recounted by the audit), of its CPUs, of
processes, hosts and files, and an exception in a daemon, which goes on all the same.

Before a fault that ends work there is a task and an actor on the node that it will meet; from it to
their next answer is what ``recovery`` says.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shoal
from shoal.testing import NetCluster, leftovers
from shoal.testing.cluster import USUAL_S
from shoal.testing.polling import wait_until
from tests.chaos import work
from tests.chaos.loads import append_line
from tests.chaos.node_faults import LARGE, NodeFaults, far
from tests.chaos.recovery import figures
from tests.chaos.soak import Programs
from tests.cluster import two_nodes

NODES = 4
SHUFFLE_BYTES = 48 << 20
FAULT_EVERY_S = 1.5
PATIENCE_S = 150.0
PROBE_S = 15.0
STAYS_S = 60.0
"""A task that still runs then was not lost: its node came back before it was declared dead, as a
control store that has just begun waits for a lease."""
PAUSE_S = 0.02
JOIN_S = 60.0

Say = Callable[[str], None]


@shoal.remote(num_cpus=0, max_retries=-1, resources={work.FAR: 0.001})
def linger(path: str) -> str:
    """Says where it is; waits in its first run for its death, or for word that none comes."""
    node = str(shoal.get_runtime_context().get_node_id())
    append_line(path, node)
    while Path(path).read_text().count("\n") == 1 and not Path(f"{path}.over").exists():
        time.sleep(PAUSE_S)
    return node


@shoal.remote(num_cpus=0, resources={work.FAR: 0.001}, max_restarts=-1, max_task_retries=-1)
class Echo:
    def where(self) -> str:
        return str(shoal.get_runtime_context().get_node_id())


class Probes:
    """Tasks and actors that a fault will meet, and how long it took until they answered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._waited: list[tuple[str, float, Any, Any]] = []
        """What was done, when, the answer, and what is kept until it is there."""
        self.times: dict[str, list[float]] = defaultdict(list)
        self._met: Path | None = None
        """Where the task writes that was placed last."""

    def place(self, node: str, meanwhile: Callable[[], None]) -> tuple[Any, Any]:
        """A task that runs on that node and an actor that lives there, where any came there."""
        self._number += 1
        paths = [self._folder / f"probe-{self._number}-{at}" for at in range(NODES + 2)]
        spread = {"scheduling_strategy": "SPREAD"}
        refs = {path: linger.options(**spread).remote(str(path)) for path in paths}
        actors = [Echo.options(**spread).remote() for _ in range(NODES)]
        asked = {actor: actor.where.remote() for actor in actors}

        def place_of(path: Path) -> str:
            return path.read_text().partition("\n")[0] if path.exists() else ""

        def are_there() -> bool:
            meanwhile()
            ready, _ = shoal.wait(list(asked.values()), num_returns=len(actors), timeout=0)
            return len(ready) == len(actors) and all(map(place_of, paths))

        wait_until(are_there, PROBE_S)
        met = next((path for path in paths if place_of(path) == node), None)
        for path in paths:
            if path != met:
                path.with_name(f"{path.name}.over").touch()
        ready, _ = shoal.wait(list(asked.values()), num_returns=len(actors), timeout=0)
        there = [a for a, ref in asked.items() if ref in ready and shoal.get(ref) == node]
        self._met = met
        return (refs[met] if met else None), (there[0] if there else None)

    def begin(self, name: str, task: Any, actor: Any, at: float) -> None:
        """``at`` this time that was done to them."""
        if task is not None:
            self._waited.append((f"task, {name}", at, task, self._met))
        if actor is not None:
            self._waited.append((f"actor, {name}", at, actor.where.remote(), actor))

    def look(self) -> None:
        """Take the times of those that have answered; nobody may wait too long."""
        now, still = time.monotonic(), []
        for name, begun, ref, kept in self._waited:
            if isinstance(kept, Path) and now - begun > STAYS_S:
                kept.with_name(f"{kept.name}.over").touch()
            if shoal.wait([ref], timeout=0)[0]:
                shoal.get(ref)
                if not isinstance(kept, Path) or kept.read_text().count("\n") > 1:
                    self.times[name].append(now - begun)
            else:
                is_late = now - begun >= PATIENCE_S
                assert not is_late, f"{name}: no answer for {PATIENCE_S:g} s: {explained(ref)}"
                still.append((name, begun, ref, kept))
        self._waited = still

    def wait(self) -> None:
        """Until all have answered."""
        while self._waited:
            self.look()
            time.sleep(PAUSE_S)


def explained(ref: Any) -> str:
    """Why it is not there, and what has happened to it."""
    return f"{shoal.state.why(ref)}\n{shoal.state.story(ref)}"


def ends_work(kind: str) -> bool:
    """Whether what runs on the node that meets it must run again."""
    return kind in LARGE and not kind.startswith(("cut", "one way"))


def torment(
    cluster: NetCluster,
    faults: NodeFaults,
    programs: Programs,
    *,
    folder: Path,
    seconds: float,
    say: Say,
    plan: list[str] | None = None,
) -> dict[str, Any]:
    """Faults until the time is over, or those of ``plan``; what happened."""
    chance, probes = faults.chance, Probes(folder)
    begun = time.monotonic()
    next_fault = begun + 2.0
    planned = None if plan is None else list(plan)
    try:
        while time.monotonic() < begun + seconds if planned is None else planned:
            faults.look()
            probes.look()
            programs.look()
            if time.monotonic() >= next_fault:
                kind = faults.draw() if planned is None else planned.pop(0)
                say(f"{time.monotonic() - begun:5.1f} s  {kind}")
                strike(cluster, faults, probes, kind)
                next_fault = time.monotonic() + chance.expovariate(1 / FAULT_EVERY_S)
            time.sleep(PAUSE_S)
        while faults.away() is not None:
            faults.look()
            probes.look()
            time.sleep(PAUSE_S)
        faults.end()
        probes.wait()
        cluster.wait_for_nodes(JOIN_S)
        done = programs.finish()
    finally:
        faults.end()
        programs.end()
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "faults": dict(sorted(faults.injected.items())),
        "injected": faults.injected.total(),
        "recovery": {name: figures(each) for name, each in sorted(probes.times.items())},
        "orphans_of_daemons": figures(faults.orphans_s),
        "work": done,
    }


def strike(cluster: NetCluster, faults: NodeFaults, probes: Probes, kind: str) -> None:
    """One fault, and what it is measured by."""
    others = faults.others()
    if not others:
        return
    victim = faults.chance.choice(others)
    found = None
    if ends_work(kind):
        names = {name: node for node, name in two_nodes.names().items()}
        found = probes.place(names[victim.name], faults.look) if victim.name in names else None
    at = time.monotonic()
    if faults.inject(kind, victim) and found is not None:
        probes.begin(kind, *found, at)


def run(
    folder: Path,
    seed: int,
    seconds: float,
    say: Say,
    *,
    plan: list[str] | None = None,
    shuffle_bytes: int = SHUFFLE_BYTES,
    lease_s: float = USUAL_S,
) -> dict[str, Any]:
    """One cluster from start to end; nothing of it is left."""
    with NetCluster(lease_s=lease_s) as cluster:
        mark, place = cluster.mark, leftovers.root() / cluster.mark
        cluster.add_node(num_cpus=1)
        for _ in range(NODES - 1):
            cluster.add_node(**far())
        head = cluster.head
        with two_nodes.driven(head, []):
            faults = NodeFaults(cluster, random.Random(seed), far())
            rest = (seed, seconds, shuffle_bytes)
            programs = Programs(head.address, folder, head.variables(), work.ON_NODES, rest)
            found = torment(
                cluster, faults, programs, folder=folder, seconds=seconds, say=say, plan=plan
            )
        say("the programs have ended; audit")
        for node in cluster.nodes:
            two_nodes.audit(node)
            log = Path(node.entry.directory, "logs", "node.log").read_text(errors="replace")
            assert "Traceback" not in log, f"the daemon of {node.name} has met an error: {log}"
        hosts = [host.pid for host in cluster.network.hosts.values()]
        spilled = list(place.rglob("*.spill"))
        assert not spilled, f"files of spilled values are left: {spilled}"
    assert not leftovers.processes(mark), "processes are left"
    assert not place.exists(), "files are left"
    assert not [pid for pid in hosts if Path(f"/proc/{pid}/ns/net").exists()], "hosts are left"
    return {**found, "nodes": NODES, "audit": "zero"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.nodes")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--lease", type=float, default=USUAL_S, help="of the cluster, in seconds")
    parser.add_argument("--json", type=Path, default=None, help="where the last line goes too")
    parser.add_argument("--plan", default="", help="kinds of faults in their order, with ; between")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    plan = [each.strip() for each in given.plan.split(";") if each.strip()] if given.plan else None
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="shoal-chaos-") as folder:
        found = run(
            Path(folder),
            given.seed,
            given.seconds,
            lambda text: print(text, flush=True),
            plan=plan,
            lease_s=given.lease,
        )
    report = {
        "seed": given.seed,
        "lease_s": given.lease,
        "cores": os.cpu_count(),
        "load_average_before": before,
        "load_average": os.getloadavg()[0],
        "python": sys.version.split()[0],
        **found,
    }
    line = json.dumps(report)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
