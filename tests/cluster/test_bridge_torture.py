"""Random programs over three nodes, with links that stall, tasks that are recalled, processes that
die and a node that is killed: every value is what it would be on one node, or an error that the
program has earned, and nothing is left anywhere. SHOAL_BRIDGE_SEEDS=N runs more of them."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from shoal._base import records
from shoal._core import remote_ref_events as happenings
from shoal._runtime.bridge.proxies import Proxies
from shoal._runtime.bridge.pulling import Pulling
from shoal._runtime.bridge.visiting import Visiting
from tests.cluster import bridge_nodes
from tests.cluster.bridge_nodes import BEGUN, CALLS, GO, Failed, Nodes

SEEDS = range(int(os.environ.get("SHOAL_BRIDGE_SEEDS", "6")))
STEPS = 150
NAMES = "abc"


class Program:
    """What the drivers of all nodes do, and what they must see."""

    def __init__(self, seed: int, *, kills: bool) -> None:
        self.random = random.Random(seed)
        self.nodes = Nodes(*NAMES)
        for node in self.nodes.all.values():
            node.add_worker()
            node.is_growing = True
        self.known: dict[str, list[tuple[Any, Any]]] = {name: [] for name in NAMES}
        """By node: refs, and the values that they must have."""
        self.is_exact = not kills
        self.seen = self.lent = self.failed = 0

    # ---- what drivers do
    def submit(self) -> None:
        name = self.random.choice([node.name for node in self.nodes.living()])
        node, known = self.nodes[name], self.known[name]
        choice = self.random.random()
        retries = self.random.choice([0, 3, -1])
        if choice < 0.15:
            value = self.random.choice([7, "text", b"b" * self.random.choice([50, 9000, 90_000])])
            known.append((node.driver.put(value), value))
            return
        if choice < 0.45 or not known:
            size = self.random.choice([1, 40, 400])
            ref, value = node.submit("large", size, retries=retries), bytes(range(250)) * size
        elif choice < 0.65:
            inner, value = self.random.choice(known)
            ref = node.submit("same", args=[inner], retries=retries)
        elif choice < 0.85:
            inner, value = self.random.choice(known)
            ref = node.submit("open", [inner], retries=retries)
        else:
            inner, value = self.random.choice(known)
            ref = node.submit("box", [inner], retries=retries)
            known.append((ref, Boxed(value)))
            self.place(name, ref)
            return
        if isinstance(value, Boxed):
            return  # opened or passed on: the refs in it are looked at in `look`
        known.append((ref, value))
        self.place(name, ref)

    def place(self, name: str, ref: Any) -> None:
        """Perhaps the daemon has it run elsewhere, if no worker was quicker."""
        others = [node.name for node in self.nodes.living() if node.name != name]
        if others and self.random.random() < 0.8:
            self.lent += self.nodes[name].bridging.lend(ref.key, self.random.choice(others))

    def look(self) -> None:
        name = self.random.choice([node.name for node in self.nodes.living()])
        if self.known[name]:
            self.check(name, *self.random.choice(self.known[name]))

    def check(self, name: str, ref: Any, value: Any) -> None:
        try:
            got = self.nodes.get(name, ref)
            if isinstance(value, Boxed):
                got, value = self.nodes.get(name, got[0]), value.value
        except Failed as error:
            assert not self.is_exact, error
            self.failed += 1
            return
        if not isinstance(value, Boxed):
            assert got == value
            self.seen += 1

    def forget(self) -> None:
        known = self.known[self.random.choice(NAMES)]
        if known:
            known.pop(self.random.randrange(len(known)))

    def recall(self) -> None:
        node = self.random.choice(self.nodes.living())
        lent = node.bridging.machine.story()["lent"]
        if lent:
            node.bridging.recall(self.random.choice(lent)[2])

    def crash(self) -> None:
        """A queued visit ends as if its process had died."""
        node = self.random.choice(self.nodes.living())
        for key in node.memory.queued(node.queue[0], 5):
            if node.bridging.machine.is_visit(key) and (task := node.memory.claim(key)):
                node.memory.fail(key, records.pack("WorkerCrashedError", attempt=1))
                task.forget()
                return

    def stall(self) -> None:
        if self.nodes.cut:
            self.nodes.cut.clear()
        else:
            self.nodes.cut.add(self.random.choice(NAMES))

    def run(self, kill_at: int) -> None:
        moves = [self.submit] * 10 + [self.forget] * 3 + [self.recall] * 2 + [self.stall]
        moves += [] if self.is_exact else [self.crash]
        for step in range(STEPS):
            self.random.choice(moves)()
            if step == kill_at:
                name = self.random.choice(NAMES)
                self.nodes.kill(name)
                self.known[name].clear()
            for _ in range(self.random.randrange(3)):
                self.nodes.turn()
            if step % 10 == 9:
                self.nodes.cut.clear()
                self.look()
        self.nodes.cut.clear()
        for node in self.nodes.living():
            for ref, value in self.known[node.name]:
                self.check(node.name, ref, value)

    def finish(self) -> None:
        for known in self.known.values():
            known.clear()
        self.nodes.finish()


class Boxed:
    """The value is a list of a ref to this."""

    def __init__(self, value: Any) -> None:
        self.value = value


def run(seed: int, kill_at: int = -1, *, kills: bool = False) -> Program:
    CALLS.clear()
    GO.set()
    BEGUN.clear()
    program = Program(seed, kills=kills)
    before = time.monotonic()
    program.run(kill_at)
    program.finish()
    print(
        f"seed {seed}: {program.lent} lent, {program.seen} values, {program.failed} errors,"
        f" {len(program.nodes.rows)} rows, {len(program.nodes.pulled)} pulls,"
        f" {time.monotonic() - before:.1f} s, {threading.active_count()} threads"
    )
    return program


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_without_deaths_every_value_is_exact(seed: int) -> None:
    program = run(seed)
    assert program.lent > 20 and program.seen > 20 and program.failed == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_with_deaths_values_are_exact_or_errors(seed: int) -> None:
    program = run(1000 + seed, kill_at=30 + 13 * seed % 100, kills=True)
    assert program.lent > 10 and program.seen > 0


# ---- bridges that are wrong
def _all_gone(self: Proxies, key: int) -> None:
    """A row of the inbox is believed without a look at who has the proxy now."""
    name = self._names.get(key)
    if name is not None:
        self.post(happenings.LocalGone((name,)))


def _nothing_held(self: Proxies, key: int) -> None:
    """What others have of ours is not held here."""
    ref = self._memory.ref(key)
    if ref is not None and not self._memory.watch(ref, key):
        self._events.append(happenings.SealedHere((key,)))


def _news_first(self: Proxies, node: str, body: Any, names: tuple[Any, ...]) -> None:
    """News of a ref overtakes the message that brings it."""
    orders = self.refs.step(0.0, happenings.Sending(node, names))
    self._run(orders)
    self._around.links.send(node, body)


def _uncounted(self: Proxies, node: str, body: Any, names: tuple[Any, ...]) -> None:
    """A message with refs leaves like any other."""
    self._around.links.send(node, body)


BROKEN: dict[str, tuple[type[Any], str, Callable[..., Any]]] = {
    "believes the inbox": (Proxies, "look", _all_gone),
    "holds nothing for others": (Proxies, "_perform_pin", _nothing_held),
    "lets news overtake": (Proxies, "send", _news_first),
    "does not count what it sends": (Proxies, "send", _uncounted),
    "keeps results for ever": (Visiting, "free_results", lambda self, node, body: None),
    "does not see who looks": (Pulling, "look", lambda self, key: None),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_bridges_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, method, broken = BROKEN[name]
    monkeypatch.setattr(owner, method, broken)
    monkeypatch.setattr(bridge_nodes, "WAIT_S", 2.0)
    monkeypatch.setattr(bridge_nodes, "SETTLE_S", 3.0)
    for seed in range(8):
        program = Program(seed, kills=False)
        GO.set()
        try:
            program.run(-1)
            program.finish()
        except (AssertionError, KeyError, TimeoutError, ValueError):
            return
        finally:
            for node in program.nodes.all.values():
                for worker in node.workers:
                    worker._is_stopped = True
    pytest.fail(f"a bridge that {name} looks right")
