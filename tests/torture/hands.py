"""What actors and tasks of the torture do with channels, blocks, graphs, groups, queues, metrics.

A `Hand` serves whatever part it is given. It is never started again; `die_after` ends its process
by SIGKILL at a moment that nothing else in it knows of, so it is killed while it writes, reads,
holds views, waits, combines. What it finds wrong it raises: the driver (`tools.py`) ends with it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np

import shoal
from shoal.dag import InputNode, MultiOutputNode
from shoal.errors import ChannelClosedError
from shoal.util import collective
from shoal.util.metrics import Counter
from shoal.util.queue import Queue

LONG_S = 40.0
"""A wait in a hand that lasts so long is one without end."""
KEPT_MOST = 6
LOOPS = ("shoal-background", "shoal-graph-owner")
"""Threads of an actor that is part of a compiled graph."""


def array_of(number: int, size: int) -> Any:
    """Message `number`: every element tells whether it is right."""
    return np.full(size, number)


def die_after(seconds: float) -> None:
    """End this process by SIGKILL, whatever it does then."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def work(number: int) -> int:
    """What a method of a graph and an item of a pool return."""
    return number * 3 + 1


@shoal.remote(num_cpus=0)
class Hand:
    """One participant of anything."""

    def __init__(self) -> None:
        self.kept: list[tuple[Any, int]] = []

    def pid(self) -> int:
        return os.getpid()

    def die_after(self, seconds: float) -> None:
        die_after(seconds)

    # ---- channels and blocks

    def write(self, channel: Any, first: int, count: int, size: int) -> int:
        """Write `count` messages; how many were written before the channel was closed."""
        for number in range(count):
            try:
                channel.write(array_of(first + number, size), LONG_S)
            except ChannelClosedError:
                return number
        return count

    def read(self, channel: Any, reader: int, first: int, count: int, keeps: bool) -> int:
        """Read messages in order, keep some; how many came before the channel was closed."""
        for number in range(count):
            try:
                array = channel.read(reader, LONG_S)
            except ChannelClosedError:
                return number
            assert bool((array == first + number).all()), f"message {number} is {array[:3]}"
            if keeps:
                self.kept = [*self.kept[1 - KEPT_MOST :], (array, first + number)]
        return count

    def look(self) -> int:
        """What was kept must be what it was; how many values that are."""
        for array, number in self.kept:
            assert bool((array == number).all()), f"a kept message has changed: {array[:3]}"
        return len(self.kept)

    def add(self, block: Any, index: int, times: int) -> int:
        for _ in range(times):
            block.add(index, 1)
        return times

    def wait_for(self, block: Any, index: int, least: int) -> int:
        """Sleep until the word is so large."""
        end = time.monotonic() + LONG_S
        while (value := int(block.load(index))) < least:
            block.wait(index, value, LONG_S)
            assert time.monotonic() < end, f"the word is {value}, not {least}"
        return value

    # ---- graphs

    def step(self, value: Any) -> Any:
        """A number, or an array of it."""
        return work(value)

    def is_free(self) -> bool:
        """Whether no graph has this actor any more."""
        return not any(thread.name in LOOPS for thread in threading.enumerate())

    # ---- collective operations

    def join(self, name: str, ranks: int, rank: int) -> int:
        collective.init_collective_group(ranks, rank, group_name=name, timeout_s=LONG_S / 2)
        return ranks

    def together(self, name: str, ranks: int, rank: int, rounds: int, size: int) -> int:
        """Every kind of operation, `rounds` times, each checked."""
        for turn in range(rounds):
            total = sum(range(1, ranks + 1)) + turn * ranks
            array = np.full(size, float(rank + 1 + turn))
            collective.allreduce(array, name)
            assert bool((array == total).all()), (array[:3], total)
            array[:] = rank
            collective.broadcast(array, turn % ranks, name)
            assert bool((array == turn % ranks).all()), array[:3]
            array[:] = rank
            if rank == 0:
                collective.send(array + turn, 1, name)
            elif rank == 1:
                collective.recv(array, 0, name)
                assert bool((array == turn).all()), array[:3]
        return rounds

    def leave(self, name: str) -> bool:
        """Whether it was in the group."""
        was_in = collective.is_group_initialized(name)
        if was_in:
            collective.destroy_collective_group(name)
        return was_in

    # ---- queues and metrics

    def produce(self, queue: Queue, first: int, count: int) -> int:
        for number in range(count):
            queue.put(first + number, timeout=LONG_S)
        return count

    def consume(self, queue: Queue, count: int) -> list[int]:
        """Take `count` items, or those before one that is negative."""
        items: list[int] = []
        while len(items) < count and (item := queue.get(timeout=LONG_S)) >= 0:
            items.append(item)
        return items

    def count_up(self, of: str, times: int) -> int:
        """A metric of the session, `times` higher than before."""
        counter = Counter("torture_steps", tag_keys=("of",))
        for _ in range(times):
            counter.inc(1, {"of": of})
        return times


def compiled(hands: list[Any], is_chain: bool, **options: Any) -> Any:
    """A graph of these: one after the other, or all at once."""
    with InputNode() as inp:
        node: Any = inp
        for hand in hands:
            node = hand.step.bind(node)
        if not is_chain:
            node = MultiOutputNode([hand.step.bind(inp) for hand in hands])
    return node.compile(**options)


def result_of(number: int, hands: int, is_chain: bool) -> Any:
    """What such a graph makes of a number."""
    if not is_chain:
        return [work(number)] * hands
    for _ in range(hands):
        number = work(number)
    return number


@shoal.remote(num_cpus=0, max_retries=0)
def own_graph(hands: list[Any], is_chain: bool, count: int, dies_after_s: float | None) -> int:
    """Compile a graph of hands that are others', and maybe die while it works."""
    if dies_after_s is not None:
        die_after(dies_after_s)
    graph = compiled(hands, is_chain)
    for number in range(count):
        found = shoal.get(graph.execute(number), timeout=LONG_S)
        assert found == result_of(number, len(hands), is_chain), found
    graph.teardown()
    return count


def pool_item(number: int, dies: bool) -> int:
    """An item of a pool; its process may die by it."""
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return work(number)
