"""Copies of one value among nodes: ``python -m shoal.testing.sim.copies`` draws a broadcast.

The machines are the real ``CopiesAtHome`` and ``CopiesHere``; links deliver in order after any
delay, transfers take a while and may fail. ``CopyWorld`` knows who really has the bytes and looks
at it from outside:

* **Once**: a node has at most one pull of the value, and none while it has it.
* **Never the last**: unless a node has died, nobody drops the only copy while somebody has a ref.
* **Ends**: when all is quiet, everybody who needed the bytes has them (or the error, after home had
  given up), home's list of copies is true, and its primary copy knows that it is.
* **Empty**: after the last ref nobody has any bytes, and no table has any row.
* **Few at a time**: no source gives to more than it should, a driver's machine to one.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections.abc import Callable, Sequence

from shoal._core import copy_events as ev
from shoal._core.copies import PULLS_MOST, CopiesAtHome
from shoal._core.copies_here import CopiesHere
from shoal._core.remote_ref_events import Send
from shoal._proto.holds import (
    CopyBody,
    CopyDropped,
    CopyFailed,
    CopyLanded,
    CopySource,
    LeaveCopy,
    Name,
    PrimaryTaken,
    WantCopy,
)

KEY = 1
EPOCH = 1
HOME = "n0"
FOR_HOME = (WantCopy, CopyLanded, CopyFailed, CopyDropped, LeaveCopy, PrimaryTaken)
"""Rows that ``CopiesAtHome`` hears; the others are for ``CopiesHere``."""


class CopyViolation(AssertionError):
    """A rule is broken."""


class CopyWorld:
    """Nodes ``n0`` (home) to ``n<count - 1>`` and one value."""

    def __init__(
        self,
        count: int,
        seed: int = 0,
        drivers: Sequence[str] = (),
        transfer_s: Callable[[int], float] | None = None,
    ) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.name = Name(HOME, EPOCH, KEY)
        self.nodes = [f"n{n}" for n in range(count)]
        self.drivers = set(drivers)
        self.home = CopiesAtHome(HOME)
        self.here = {node: CopiesHere() for node in self.nodes}
        self.bytes: set[str] = set()
        self.refs = set(self.nodes)
        """Nodes with a proxy (or home's slot, while somebody there has a ref)."""
        self.needs: set[str] = set()
        self.failed: set[str] = set()
        self.pulls: dict[str, str] = {}
        self.cut: set[tuple[str, str]] = set()
        """Pairs (puller, source) between which no transfer succeeds."""
        self.has_died = False
        self.can_remake = True
        self.remakes = 0
        self.given: dict[str, int] = dict.fromkeys(self.nodes, 0)
        """Transfers by source."""
        self._together: dict[str, int] = {}
        """Transfers by source that are going on."""
        self.landed_at: dict[str, float] = {}
        self._transfer_s = transfer_s
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._last: dict[tuple[str, str], float] = {}
        self._number = 0
        for node in self.nodes:
            self.feed_home(ev.NodeRole(node, node in self.drivers))

    # ---- time
    def at(self, delay_s: float, what: Callable[[], None]) -> None:
        """Later."""
        self._number += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._number, what))

    def run(self, until: float = float("inf")) -> None:
        """What is due until then; with no limit until nothing is left to do."""
        for _ in range(1_000_000):
            deadline = self.home.next_deadline()
            due = self._queue[0][0] if self._queue else float("inf")
            when = min(due, float("inf") if deadline is None else deadline)
            if when > until or when == float("inf"):
                self.now = max(self.now, until) if until != float("inf") else self.now
                return
            self.now = max(self.now, when)
            if due <= when:
                heapq.heappop(self._queue)[2]()
            else:
                self.feed_home(ev.Ticked())
        raise CopyViolation("it never becomes quiet")

    # ---- what happens
    def store(self, node: str) -> None:
        """The bytes are made at ``node``."""
        self.bytes.add(node)
        self.feed(node, ev.Produced(self.name))
        self.feed_home(ev.Stored(KEY, node))

    def need(self, node: str) -> None:
        """Somebody there looks."""
        if node in self.refs and node not in self.bytes and node not in self.failed:
            self.needs.add(node)
            self.feed(node, ev.Needed(self.name))

    def drop_ref(self, node: str) -> None:
        """The proxy goes, and what is not kept for home with it."""
        self.refs.discard(node)
        self.needs.discard(node)
        self.failed.discard(node)
        if node == HOME:
            return
        self.feed(node, ev.ProxyGone(self.name))
        if node in self.bytes and not self.here[node].is_here(self.name):
            self._lose_bytes(node)

    def make_room(self, node: str) -> None:
        """Memory is short there."""
        if node in self.bytes:
            self.feed(node, ev.RoomNeeded(self.name))

    def damage(self, node: str) -> None:
        """The bytes there cannot be read any more."""
        if node in self.bytes:
            self.has_died = True
            self.bytes.discard(node)
            self.feed(node, ev.BytesLost(self.name))

    def kill(self, node: str) -> None:
        """It is lost, and everybody hears of it."""
        self.has_died = True
        self.nodes.remove(node)
        for about in (self.refs, self.needs, self.bytes, self.failed):
            about.discard(node)
        if (source := self.pulls.pop(node, None)) is not None:
            self._together[source] -= 1
        del self.here[node]
        self.feed_home(ev.NodeGone(node))
        for other in self.nodes:
            self.feed(other, ev.NodeGone(node))

    def finish(self) -> None:
        """All refs go; then nothing may be left."""
        self.run()
        self.check_quiet()
        for node in list(self.nodes):
            self.drop_ref(node)
        self.run()
        self.feed(HOME, ev.ProxyGone(self.name))
        self.feed_home(ev.Unneeded(KEY))
        self.bytes.discard(HOME)
        self.run()
        if self.bytes or self.home.places(KEY):
            raise CopyViolation(f"nobody has a ref, and {sorted(self.bytes)} have the bytes")
        for node, here in self.here.items():
            if here.is_here(self.name) or here.is_needed(self.name):
                raise CopyViolation(f"{node} remembers a value that nobody has")

    # ---- the shell
    def feed_home(self, event: ev.AtHome) -> None:
        """An event for the home's machine."""
        self._perform(HOME, self.home.step(self.now, event))
        if self._transfer_s is None:
            self.home.validate()

    def feed(self, node: str, event: ev.Here) -> None:
        """An event for the machine of one node."""
        self._perform(node, self.here[node].step(self.now, event))
        self.here[node].validate()

    def _perform(self, node: str, commands: list[ev.Command]) -> None:
        for command in commands:
            match command:
                case Send(to, body):
                    self._send(node, to, body)  # type: ignore[arg-type]
                case ev.Direct(to, key, source):
                    self._send(HOME, to, CopySource(key, source, 0, 1))
                case ev.Remake():
                    self.remakes += 1
                    self.at(self.chance.random(), self._remake)
                case ev.FetchHome():
                    self.needs.add(HOME)
                    self.at(0.0, lambda: self.feed(HOME, ev.Needed(self.name)))
                case ev.Pull(_, source):
                    self._pull(node, source)
                case ev.Show():
                    self._show(node)
                case ev.Fail():
                    self.failed.add(node)
                    self.needs.discard(node)
                case ev.DropBytes():
                    self._lose_bytes(node)
                case ev.EndPrimary():
                    if node not in self.refs and node != HOME:
                        self.bytes.discard(node)
                case ev.Spill():
                    pass

    def _send(self, frm: str, to: str, body: CopyBody) -> None:
        delay_s = 0.0 if self._transfer_s else self.chance.choice((0.0, 0.01, 0.3))
        when = max(self._last.get((frm, to), 0.0), self.now + delay_s)
        self._last[frm, to] = when
        self.at(when - self.now, lambda: self._arrive(frm, to, body))

    def _arrive(self, frm: str, to: str, body: CopyBody) -> None:
        if frm not in self.nodes or to not in self.nodes:
            return
        heard = ev.CopyHeard(frm, body)
        if isinstance(body, FOR_HOME):
            self.feed_home(heard)
        else:
            self.feed(to, heard)

    def _pull(self, node: str, source: str) -> None:
        if node in self.pulls:
            raise CopyViolation(f"{node} pulls the value twice at a time")
        if node in self.bytes:
            raise CopyViolation(f"{node} pulls what it has")
        self.pulls[node] = source
        is_good = source in self.bytes and (node, source) not in self.cut
        self.given[source] = self.given.get(source, 0) + 1
        together = self._together[source] = self._together.get(source, 0) + 1
        # A pull that its node takes back is counted at home no more, and may go on for a while.
        if together > PULLS_MOST and self._transfer_s:
            raise CopyViolation(f"{source} gives to {together} at a time")
        lasts_s = self._transfer_s(together) if self._transfer_s else self.chance.random()
        self.at(lasts_s, lambda: self._end_pull(node, source, is_good))

    def _end_pull(self, node: str, source: str, is_good: bool) -> None:
        if self.pulls.get(node) != source:
            return
        del self.pulls[node]
        self._together[source] -= 1
        is_good = is_good and source in self.nodes
        if is_good:
            self.bytes.add(node)
        why = "" if is_good else f"{source} did not give it"
        self.feed(node, ev.PullEnded(self.name, source, why))

    def _show(self, node: str) -> None:
        self.needs.discard(node)
        self.landed_at[node] = self.now

    def _lose_bytes(self, node: str) -> None:
        self.bytes.discard(node)
        if not self.bytes and self.refs and not self.has_died:
            raise CopyViolation(f"{node} has dropped the only copy")

    def _remake(self) -> None:
        if self.bytes & set(self.home.places(KEY)):
            return
        if self.can_remake:
            self.store(self.chance.choice(self.nodes))
        else:
            self.feed_home(ev.GivenUp(KEY, b"lost"))

    # ---- the rules
    def check_quiet(self) -> None:
        """Nothing is on its way."""
        if self.needs:
            raise CopyViolation(f"{sorted(self.needs)} wait for bytes that do not come")
        listed = set(self.home.places(KEY))
        if listed != {node for node in self.nodes if self.here[node].is_here(self.name)}:
            raise CopyViolation(f"home lists {sorted(listed)}, which is not who has it")
        if not listed <= self.bytes:
            raise CopyViolation(f"of {sorted(listed)} not all have the bytes")
        if listed and not self.here[self.home.places(KEY)[0]].is_primary(self.name):
            raise CopyViolation("the primary copy does not know that it is")


def live(seed: int, deaths: int = 0, count: int = 5, acts: int = 40) -> CopyWorld:
    """A life at random; raises ``CopyViolation`` if a rule is broken."""
    world = CopyWorld(count, seed, drivers=["n1"] if seed % 3 == 0 else [])
    chance = world.chance
    world.can_remake = chance.random() < 0.7
    world.store(chance.choice(world.nodes))
    for _ in range(acts):
        node = chance.choice(world.nodes)
        act = chance.choice(("need", "need", "room", "drop", "again", "cut", "wait"))
        if act == "need":
            world.need(node)
        elif act == "room":
            world.make_room(node)
        elif act == "drop" and node != HOME:
            world.drop_ref(node)
        elif act == "again":
            world.refs.add(node)
        elif act == "cut":
            world.cut = {(chance.choice(world.nodes), chance.choice(world.nodes))}
        if deaths and chance.random() < 0.05:
            world.damage(node)
        if deaths and chance.random() < 0.1 and len(world.nodes) > 2:
            deaths -= 1
            world.kill(chance.choice(world.nodes[1:]))
        world.run(world.now + chance.choice((0.0, 0.1, 1.0)))
    world.cut = set()
    world.finish()
    return world


def broadcast(count: int) -> tuple[float, int]:
    """(times of one transfer until all nodes have it, most transfers given by one node)."""
    world = CopyWorld(count, transfer_s=float)
    world.store(HOME)
    for node in world.nodes:
        world.need(node)
    world.run()
    return max(world.landed_at.values(), default=0.0), max(world.given.values())


def main(arguments: Sequence[str]) -> int:
    """Print what a broadcast costs."""
    parser = argparse.ArgumentParser(
        prog="python -m shoal.testing.sim.copies", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--most", type=int, default=1024, help="nodes, at most (default 1024)")
    options = parser.parse_args(arguments)
    print("nodes  transfer times  most given by one")
    count = 2
    while count <= options.most:
        times, given = broadcast(count)
        print(f"{count:5}  {times:14.0f}  {given:17}", flush=True)
        count *= 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
