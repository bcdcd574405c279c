"""What is done to a cluster at work, drawn from one seed: to its nodes and the links between.

The first node is the head's and the drivers'; nothing is done to its daemon and its workers, and
links to it are cut like any other. ``short`` is well within a lease, ``long`` is longer than one,
so that the node is declared dead, its work is done elsewhere, and it comes back as a new member.

==============  ====================================================================================
kill worker     SIGKILL of a process that serves tasks or an actor
kill store      SIGKILL of the control store's process, on the head
kill daemon     SIGKILL of a node's daemon: what it leaves must end by itself; another node comes
power off       silence first, then nothing: processes and kernel of a host; another node comes
stop daemon     SIGSTOP, short or long; its workers go on
freeze          SIGSTOP of everything of a node, long
cut             nobody of two hosts hears the other: short or long
one way         one of them does not hear the other: short or long
isolate         nobody hears the host, and it hears nobody: short or long
reset           connections between two hosts are reset again and again
==============  ====================================================================================

Invariants:

1. At most one node is away (killed, frozen, stopped or cut off for long) at a time; short faults
   come to others meanwhile.
2. Every fault that lasts ends by itself (``look``) or in ``end``; then all nodes are there.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from shoal.testing import NetCluster, Node
from shoal.testing.networks import has_iptables
from shoal.testing.polling import wait_until
from tests.chaos.work import FAR
from tests.torture.processes import is_running, is_worker, kill

SMALL = {
    "kill worker": 8,
    "kill store": 1,
    "reset": 2,
    "cut": 2,
    "one way": 2,
    "isolate": 1,
    "stop daemon": 2,
}
LARGE = {
    "kill daemon": 3,
    "power off": 3,
    "stop daemon, long": 1,
    "freeze, long": 1,
    "cut, long": 1,
    "one way, long": 1,
    "isolate, long": 2,
}
SHORT_LEASES = 0.03, 0.4
LONG_LEASES = 1.4, 2.0
"""How long they last. The shorter the leases, the more nodes are given up and come back."""
LEAVES_S = 20.0
"""What a killed daemon has left ends within this: patience with a busy machine."""
RESETS_PER_S = 20


class Lasting(NamedTuple):
    """A fault that is not over."""

    until: float
    undo: Callable[[], object]
    away: Node | None


class NodeFaults:
    """One at a time begins; those that last end by themselves.

    Args:
        cluster: Of at least three nodes.
        chance: Decides what is done to whom.
        options: Of a node that comes in another one's place.
    """

    def __init__(
        self, cluster: NetCluster, chance: random.Random, options: dict[str, object]
    ) -> None:
        self._cluster = cluster
        self.chance = chance
        self._options = options
        self._lasting: list[Lasting] = []
        self._joining: tuple[Node, Future[Node], threading.Thread] | None = None
        """Who has gone, and the node in its place."""
        self.injected: Counter[str] = Counter()
        self.orphans_s: list[float] = []
        """How long processes of killed daemons went on."""

    # ---- one fault
    def draw(self) -> str:
        """What comes next."""
        (share,) = self.chance.choices((SMALL, LARGE), (3, 1))
        if share is LARGE and self.away() is not None:
            share = SMALL
        (kind,) = self.chance.choices(list(share), list(share.values()))
        return kind

    def away(self) -> Node | None:
        """Who is away for long, or has not been replaced yet."""
        if self._joining is not None:
            return self._joining[0]
        return next((each.away for each in self._lasting if each.away is not None), None)

    def others(self) -> list[Node]:
        """All nodes but the first one and who is away."""
        away = self.away()
        return [node for node in self._cluster.nodes[1:] if node is not away]

    def inject(self, kind: str, victim: Node) -> bool:
        """Do that to ``victim``; whether there was anybody to meet it."""
        name, _, length = kind.partition(", ")
        if not self._do(name, victim, bool(length)):
            return False
        self.injected[kind] += 1
        return True

    def _do(self, name: str, victim: Node, is_long: bool) -> bool:
        cluster, away = self._cluster, victim if is_long else None
        lasts_s = self.chance.uniform(*(LONG_LEASES if is_long else SHORT_LEASES)) * cluster.lease_s
        rest = [node for node in [cluster.head, *self.others()] if node is not victim]
        other = self.chance.choice(rest)
        a, b = victim.name, other.name
        match name:
            case "kill worker":
                return self._kill_worker(victim)
            case "kill store":
                return self._kill_store()
            case "kill daemon":
                self._kill_daemon(victim)
            case "power off":
                cluster.power_off(victim)
                self._replace(victim)
            case "stop daemon":
                victim.signal_daemon(signal.SIGSTOP)
                self._later(lasts_s, lambda: victim.signal_daemon(signal.SIGCONT), away)
            case "freeze":
                cluster.freeze(victim)
                self._later(lasts_s, lambda: cluster.thaw(victim), away)
            case "cut":
                cluster.partition(victim, other)
                self._later(lasts_s, lambda: self._heal(a, b), away)
            case "one way":
                cluster.cut(*self.chance.sample([victim, other], 2))
                self._later(lasts_s, lambda: self._heal(a, b), away)
            case "isolate":
                cluster.isolate(victim)
                self._later(lasts_s, lambda: self._heal(a), away)
            case "reset":
                if not has_iptables():
                    return False
                cluster.reset(victim, other, RESETS_PER_S)
                self._later(lasts_s, lambda: self._heal(a, b), away)
            case _:
                raise ValueError(name)
        return True

    def _kill_worker(self, victim: Node) -> bool:
        pids = [pid for pid in victim.processes() if is_worker(pid)]
        if pids:
            kill(self.chance.choice(pids))
        return bool(pids)

    def _kill_store(self) -> bool:
        try:
            (row,) = self._cluster.head.observe("session")
        except OSError:
            return False  # it is too busy to say who that is
        pid = int(row["store_pid"])
        is_there = is_running(pid)
        if is_there:
            kill(pid)
        return is_there

    def _kill_daemon(self, victim: Node) -> None:
        self._cluster.kill_daemon(victim)
        begun = time.monotonic()
        assert wait_until(lambda: not victim.processes(), LEAVES_S), (
            f"of {victim.name}, whose daemon was killed, there is {victim.processes()}"
        )
        self.orphans_s.append(time.monotonic() - begun)
        self._replace(victim)

    def _replace(self, victim: Node) -> None:
        """Work goes on meanwhile."""
        self._cluster.remove_node(victim, gracefully=False)
        coming: Future[Node] = Future()

        def join() -> None:
            try:
                coming.set_result(self._cluster.add_node(wait=False, **self._options))
            except BaseException as error:
                coming.set_exception(error)

        thread = threading.Thread(target=join)
        thread.start()
        self._joining = victim, coming, thread

    def _look_who_joins(self, *, wait: bool) -> None:
        if self._joining is not None:
            _, coming, thread = self._joining
            if wait or coming.done():
                thread.join()
                self._joining = None
                coming.result()

    def _heal(self, *names: str) -> None:
        if set(names) <= set(self._cluster.network.hosts):
            self._cluster.network.heal(*names)

    def _later(self, seconds: float, undo: Callable[[], object], away: Node | None) -> None:
        self._lasting.append(Lasting(time.monotonic() + seconds, undo, away))

    # ---- their ends
    def look(self) -> None:
        """End those whose time is over."""
        self._look_who_joins(wait=False)
        now = time.monotonic()
        over = [each for each in self._lasting if each.until <= now]
        self._lasting = [each for each in self._lasting if each.until > now]
        for each in over:
            each.undo()

    def end(self) -> None:
        """All of them are over."""
        lasting, self._lasting = self._lasting, []
        for each in lasting:
            each.undo()
        self._look_who_joins(wait=True)
        self._cluster.heal()


def far(num_cpus: float = 1) -> dict[str, object]:
    """Options of nodes that things are done to."""
    return {"num_cpus": num_cpus, "resources": {FAR: 100}}
