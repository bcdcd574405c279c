"""Links through the fault proxy: delay, loss, resets, flipped bits, cuts in one or both directions.

Two members talk through a proxy while a fault holds, then it heals; every message must have
arrived once and in order, and values as they were. What the proxy does is shown in `test_proxy.py`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shoal._core.link_events import LinkLimits
from shoal._runtime.links.bulk import BulkLimits
from shoal.testing.lanes import Faults
from shoal.testing.proxy import FaultProxy, Toward
from tests.cluster.members import Cluster, Member, until
from tests.cluster.test_links import A, B, note, numbers

LIMITS = LinkLimits(silent_s=1.5, redial_most_s=0.2)
BULK = BulkLimits(range_least_bytes=1 << 20, redial_s=0.05, give_up_s=20.0, io_s=3.0)


class Pair:
    """A dials B through a proxy."""

    def __init__(self, directory: Path) -> None:
        self.cluster = Cluster(directory)
        self.a = self.cluster.add(A, limits=LIMITS, bulk=BULK)
        self.b = self.cluster.add(B, limits=LIMITS, bulk=BULK)
        host, _, port = self.b.address.rpartition(":")
        self.proxy = FaultProxy((host, int(port)), seed=1)
        host, port_seen = self.proxy.address
        self.a.connect(self.b, f"{host}:{port_seen}")
        self.sent = 0

    def talk(self, count: int, pause_s: float = 0.0) -> None:
        """Both say so many things."""
        for _ in range(count):
            self.a.send(self.b, note(self.sent, 300))
            self.b.send(self.a, note(self.sent, 300))
            self.sent += 1
            time.sleep(pause_s)

    def check(self, deadline_s: float = 30.0) -> None:
        """All of it has arrived, once and in order."""
        want = list(range(self.sent))

        def have(member: Member, sender: str) -> bool:
            return len(numbers(member, sender)) >= len(want)

        until(lambda: have(self.b, A) and have(self.a, B), "all came", deadline_s)
        assert numbers(self.b, A) == want == numbers(self.a, B)

    def close(self) -> None:
        self.cluster.close()
        self.proxy.close()


@pytest.fixture()
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


SLOW = Faults(delay_s=0.2, jitter_s=0.05, loss=0.05)


def test_slow_and_lossy_networks_end_no_link(pair: Pair) -> None:
    """RELIABILITY N5: 200 ms give or take 50 each way, 5 % loss: no false suspicion either."""
    pair.proxy.set("both", SLOW)
    pair.a.wait_linked(pair.b)
    pair.talk(100, 0.01)
    pair.check()
    assert not [n for n in (*pair.a.news, *pair.b.news) if n[0] == "suspected"]


@pytest.mark.parametrize(
    "faults",
    [Faults(reset=0.05), Faults(corrupt=0.05), Faults(reset=0.02, delay_s=0.01, jitter_s=0.01)],
    ids=["reset", "corrupt", "reset and delay"],
)
def test_connections_that_break(pair: Pair, faults: Faults) -> None:
    pair.a.wait_linked(pair.b)
    pair.proxy.set("both", faults)
    pair.talk(400, 0.002)
    pair.proxy.heal()
    pair.check()
    assert pair.proxy.figures()["accepted"] > 3, "nothing was broken"


def test_cuts_in_any_direction(tmp_path: Path) -> None:
    """Nobody is told of a cut: silence ends the connection, where something waits. A pair for each
    direction, all at once: a dial that nobody answers takes 4 s."""
    directions: tuple[Toward, ...] = ("up", "down", "both")
    with ExitStack() as ended:
        pairs = {toward: Pair(tmp_path / toward) for toward in directions}
        for toward, pair in pairs.items():
            ended.callback(pair.close)
            pair.a.wait_linked(pair.b)
            pair.talk(20)
            pair.proxy.cut(toward)
            pair.talk(20)
        for toward, pair in pairs.items():
            until(lambda pair=pair: not pair.a.peers.is_linked(B), f"{toward}: it is noticed")
            pair.a.wait_suspected(B)
            pair.proxy.heal()
            pair.talk(20)
            pair.check()


@pytest.mark.parametrize("stays", ["near", "far"])
def test_one_side_has_not_heard_of_the_end(pair: Pair, stays: str) -> None:
    pair.a.wait_linked(pair.b)
    pair.talk(5)
    pair.check()
    assert pair.proxy.half_open(stays) == 1  # type: ignore[arg-type]
    pair.talk(20)
    pair.check()


def test_values_through_a_bad_network(pair: Pair) -> None:
    pair.a.wait_linked(pair.b)
    value = random.Random(2).randbytes(6 << 20)
    pair.b.values[b"v"] = memoryview(value)
    for faults in (Faults(reset=0.0005), Faults(corrupt=0.0005), Faults(bandwidth=8e6)):
        pair.proxy.set("both", faults)
        into = bytearray(len(value))
        assert pair.a.pull(pair.b, b"v", into) == ""
        assert into == value
        pair.proxy.heal()
