"""A driver of the torture that uses what is built on tasks and actors, and kills who takes part.

Channels, shared blocks, compiled graphs (chains, several outputs, asyncio, graphs of a task that
dies), collective groups, pools, executors, queues, metrics. What must hold of each:

=============  =====================================================================================
channel        what was read is what was written, in order, up to some message; views that are kept
               never change; who waits when the channel is closed goes on
block          a word has at least what the living have added, and never more than was asked for
graph          results are right up to the first that names the actor that died, and no later one
               comes; the others serve ordinary calls, and their loops have ended
collective     every result is right, or every living rank is told which rank has died
pool           an item is right, or names the process that died with it; the pool goes on
queue          items come out once and in order; who waits hears of the death of its actor
metrics        the sum has all that was acknowledged, and no more than was tried, whoever died
=============  =====================================================================================

Nothing waits longer than `PATIENCE_S`. Anything else ends this process, and the test with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from typing import Any

import shoal
from shoal import lowlevel
from shoal.errors import ActorError, ChannelClosedError, CollectiveTimeoutError, LostError
from shoal.util.executor import PoolExecutor
from shoal.util.multiprocessing import Pool
from shoal.util.queue import Full, Queue
from tests.torture import hands
from tests.torture.answers import Answers
from tests.torture.hands import Hand, array_of, pool_item, result_of, work

PATIENCE_S = 60.0
SLOW_S = 3.0
"""Deaths that were heard of later than this are counted."""
HANDS = 5
DOOMED = 0.5
"""How often somebody who takes part is killed on purpose, besides whom others kill."""
DOOM_S = 0.03
"""How long the doomed live on average, once the others begin."""
SMALL, LARGE = 10, 60_000


class Tools(Answers):
    """Some hands, and what is done with them."""

    def __init__(self, seed: int) -> None:
        super().__init__(PATIENCE_S)
        self.random = random.Random(seed)
        self.hands: list[Any] = []
        self.name = f"{os.getpid()}-{seed}"
        self.number = 0
        self.acknowledged = self.tried = 0
        self.actions = [self.channel, self.block, self.graph, self.graph, self.asyncio_graph]
        self.actions += [self.owned_graph, self.collective, self.pool, self.executor]
        self.actions += [self.queue, self.metrics]

    def step(self) -> None:
        """One thing with hands that live, and then a look at each of them."""
        while len(self.hands) < HANDS:
            self.hands.append(Hand.remote())
        self.number += 1_000_000
        action = self.random.choice(self.actions)
        self.counts["steps"] += 1
        action()
        self.look()

    def look(self) -> None:
        """Whoever lives answers ordinary calls and has what it has kept; others are replaced."""
        refs = [(hand, hand.look.remote()) for hand in self.hands]
        self.hands = [hand for hand, ref in refs if self.answer(ref) is not None]

    def finish(self) -> None:
        """At the end."""
        self.hands.clear()

    # ---- what the actions are made of

    def some(self, least: int, most: int) -> list[Any]:
        return self.random.sample(self.hands, self.random.randint(least, most))

    def soon(self) -> float:
        return self.random.expovariate(1 / DOOM_S)

    def doom(self, those: list[Any]) -> bool:
        """Maybe have one of them die soon; whether so."""
        is_doomed = self.random.random() < DOOMED
        if is_doomed:
            self.random.choice(those).die_after.remote(self.soon())
            self.counts["hands doomed"] += 1
        return is_doomed

    def told(self, kind: str, error: BaseException, begun: float) -> None:
        """A loss that is named."""
        assert str(error), "an error says what was lost"
        self.counts[f"{kind} named"] += 1
        self.counts[f"{kind} slow"] += time.monotonic() - begun > SLOW_S

    @contextlib.contextmanager
    def losing(self, kind: str, *losses: type[BaseException]) -> Iterator[None]:
        """Right, or one of these losses."""
        begun = time.monotonic()
        try:
            yield
        except losses as error:
            assert not isinstance(error, TimeoutError), error
            self.told(kind, error, begun)
        else:
            self.counts[f"{kind} right"] += 1

    def gather(self, kind: str, refs: list[Any], at_loss: Any) -> list[Any]:
        """The value of each, None for a loss; `at_loss` is called once, so that others go on."""
        begun = time.monotonic()
        found: dict[Any, Any] = {}
        open_refs = list(refs)
        while open_refs:
            ready, open_refs = shoal.wait(open_refs, timeout=self.patience_s)
            assert ready, f"{kind}: nobody hears anything for {self.patience_s} s"
            for ref in ready:
                lost_before = None in found.values()
                found[ref] = self.answer(ref)
                if found[ref] is None and not lost_before:
                    at_loss()
        values = [found[ref] for ref in refs]
        is_whole = None not in values
        self.counts[f"{kind} {'right' if is_whole else 'named'}"] += 1
        if not is_whole:
            self.counts[f"{kind} slow"] += time.monotonic() - begun > SLOW_S
        return values

    # ---- channels and blocks

    def channel(self) -> None:
        writer, *readers = self.some(2, 3)
        size, count = self.random.choice((SMALL, LARGE)), self.random.randint(3, 60)
        slots = self.random.randint(1, 4)
        channel = lowlevel.channel(8 * LARGE + 2000, slots=slots, readers=len(readers))
        refs = [writer.write.remote(channel, self.number, count, size)]
        for place, reader in enumerate(readers):
            keeps = self.random.random() < 0.5
            refs.append(reader.read.remote(channel, place, self.number, count, keeps))
        self.doom([writer, *readers])

        def go_on() -> None:
            channel.close(RuntimeError("somebody who took part has died"))

        values = self.gather("channel", refs, go_on)
        if None not in values:
            assert set(values) == {count}, values
        # A successor of the last reader sees messages that were written, in order, or the end.
        last = -1
        with contextlib.suppress(ChannelClosedError):
            for _ in range(slots if None in values else 0):
                array = channel.read(len(readers) - 1, 0.0)
                at = int(array[0]) - self.number
                assert last < at < count and bool((array == array[0]).all()), (array[:3], last)
                last = at
        channel.close()

    def block(self) -> None:
        first, second, waiter = self.some(3, 3)
        block, times = lowlevel.shared_block(4096), self.random.randint(1, 3000)
        index = self.random.randrange(512)
        refs = [each.add.remote(block, index, times) for each in (first, second)]
        refs.append(waiter.wait_for.remote(block, index, 2 * times))
        self.doom([first, second, waiter])
        values = self.gather("block", refs, lambda: block.add(index, 10_000))
        added = block.load(index) - 10_000 * (None in values)
        assert sum(value or 0 for value in values[:2]) <= added <= 2 * times, (added, values)

    # ---- graphs

    def graph(self) -> None:
        members, is_chain = self.some(1, 4), self.random.random() < 0.5
        inflight = self.random.randint(1, 10)
        with self.losing("graph", ActorError):
            graph = hands.compiled(
                members, is_chain, max_inflight_executions=inflight, buffer_size_bytes=9 * LARGE
            )
            try:
                self.doom(members)
                for _ in range(self.random.randint(1, 20)):
                    self.executions(graph, len(members), is_chain, inflight)
            finally:
                graph.teardown()
        self.ended_loops(members)

    def executions(self, graph: Any, members: int, is_chain: bool, inflight: int) -> None:
        """Several at once; what comes after a loss is lost, too."""
        is_large = self.random.random() < 0.3
        numbers = [self.number + i for i in range(self.random.randint(1, inflight))]
        refs = [graph.execute(array_of(n, LARGE) if is_large else n) for n in numbers]
        lost: ActorError | None = None
        for number, ref in zip(numbers, refs):
            try:
                found = shoal.get(ref, timeout=self.patience_s)
            except ActorError as error:
                lost = lost or error
            else:
                assert lost is None, "a result after a loss"
                expected = result_of(number, members, is_chain)
                assert bool(np_equal(found, expected)), (found, expected)
        if lost is not None:
            raise lost
        self.counts["graph executions"] += len(numbers)

    def asyncio_graph(self) -> None:
        members, is_chain = self.some(1, 3), self.random.random() < 0.5

        async def run(graph: Any) -> None:
            for number in range(self.random.randint(1, 30)):
                futures = [await graph.execute_async(number + i) for i in range(4)]
                for i, future in enumerate(futures):
                    waiting = future if is_chain else asyncio.gather(*map(awaited, future))
                    found = await asyncio.wait_for(awaited(waiting), self.patience_s)
                    assert found == result_of(number + i, len(members), is_chain), found
                self.counts["asyncio graph executions"] += 4

        with self.losing("asyncio graph", ActorError):
            graph = hands.compiled(members, is_chain, enable_asyncio=True)
            try:
                self.doom(members)
                asyncio.run(run(graph))
            finally:
                graph.teardown()
        self.ended_loops(members)

    def owned_graph(self) -> None:
        """The process that has compiled the graph dies; its actors are others'."""
        members, is_chain = self.some(1, 3), self.random.random() < 0.5
        dies_after_s = self.soon() if self.random.random() < DOOMED else None
        self.counts["hands doomed"] += dies_after_s is not None
        ref = hands.own_graph.remote(members, is_chain, self.random.randint(1, 50), dies_after_s)
        self.gather("owned graph", [ref], lambda: None)
        self.ended_loops(members)

    def ended_loops(self, members: list[Any]) -> None:
        """The actors of a graph that has ended have nothing of it any more."""
        end = time.monotonic() + self.patience_s
        for hand in members:
            while self.answer(hand.is_free.remote()) is False:
                assert time.monotonic() < end, "the loop of a graph that has ended goes on"
                time.sleep(0.005)

    # ---- collective operations

    def collective(self) -> None:
        members = self.some(2, 4)
        ranks, name = len(members), f"torture-{self.name}-{self.number}"
        refs = [hand.join.remote(name, ranks, rank) for rank, hand in enumerate(members)]
        if None not in self.gather("joining", refs, lambda: None):
            self.operations(members, name)
        for hand in members:
            self.answer(hand.leave.remote(name))

    def operations(self, members: list[Any], name: str) -> None:
        ranks = len(members)
        rounds, size = self.random.randint(1, 30), self.random.choice((SMALL, LARGE))
        is_doomed = self.doom(members)
        refs = [
            hand.together.remote(name, ranks, rank, rounds, size)
            for rank, hand in enumerate(members)
        ]
        begun = time.monotonic()
        for rank, ref in enumerate(refs):
            try:
                assert shoal.get(ref, timeout=self.patience_s) == rounds
                self.counts["collective right"] += 1
            except CollectiveTimeoutError as error:
                raise AssertionError(f"rank {rank} was not told, doomed: {is_doomed}") from error
            except LostError as error:
                self.told("collective", error, begun)

    # ---- pools

    def pool(self) -> None:
        with Pool(self.random.randint(1, 3)) as pool:
            results = [pool.apply_async(pool_item, item) for item in self.items()]
            for number, result in enumerate(results):
                with self.losing("pool", LostError):
                    assert result.get(self.patience_s) == work(number)
        pool.join()

    def executor(self) -> None:
        with PoolExecutor(self.random.randint(1, 3)) as executor:
            numbers = {executor.submit(pool_item, *item): item[0] for item in self.items()}
            for future in as_completed(numbers, self.patience_s):
                with self.losing("executor", LostError):
                    assert future.result() == work(numbers[future])

    def items(self) -> list[tuple[int, bool]]:
        """(a number, whether its process dies by it)."""
        count, deadly = self.random.randint(1, 40), self.random.choice((0.0, 0.05))
        items = [(number, self.random.random() < deadly) for number in range(count)]
        self.counts["pool items doomed"] += sum(dies for _, dies in items)
        return items

    # ---- queues and metrics

    def queue(self) -> None:
        producer, consumer = self.some(2, 2)
        queue, count = Queue(maxsize=self.random.randint(0, 3)), self.random.randint(1, 30)
        sides = [
            producer.produce.remote(queue, self.number, count),
            consumer.consume.remote(queue, count),
        ]
        if self.random.random() < DOOMED:
            if self.random.random() < 0.5:
                time.sleep(self.soon())
                shoal.kill(queue.actor)
            else:
                self.random.choice([producer, consumer]).die_after.remote(self.soon())
            self.counts["hands doomed"] += 1
        rest: list[int] = []

        def go_on() -> None:
            """Take the place of who died: the other ends."""
            with contextlib.suppress(LostError):
                while is_under_way(sides[0]):
                    while not queue.empty():
                        rest.append(queue.get(timeout=self.patience_s))
                while is_under_way(sides[1]):
                    with contextlib.suppress(Full):
                        queue.put(-1, timeout=0.05)
                        break

        _, taken = self.gather("queue", sides, go_on)
        numbers = [*(taken or ()), *(item for item in rest if item >= 0)]
        assert numbers == sorted(set(numbers)), f"items came twice or out of order: {numbers}"
        assert set(numbers) <= set(range(self.number, self.number + count)), numbers
        if taken is not None and len(taken) == count:
            assert numbers == list(range(self.number, self.number + count)), numbers

    def metrics(self) -> None:
        hand, times = self.random.choice(self.hands), self.random.randint(1, 3000)
        self.doom([hand])
        self.tried += times
        found = self.gather("metrics", [hand.count_up.remote(self.name, times)], lambda: None)
        self.acknowledged += found[0] or 0
        rows = shoal.state.metrics(name="torture_steps", limit=100_000)
        total = sum(row.value for row in rows if row.tags == {"of": self.name})
        assert self.acknowledged <= total <= self.tried, (self.acknowledged, total, self.tried)


def is_under_way(ref: Any) -> bool:
    """Whether its end was not heard of yet, a moment from now."""
    return not shoal.wait([ref], timeout=0.01)[0]


async def awaited(result: Any) -> Any:
    return await result


def np_equal(found: Any, expected: Any) -> bool:
    """Equal numbers, arrays of the number, or lists of those."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(np_equal, found, expected))
    is_equal = found == expected
    return bool(is_equal if isinstance(is_equal, bool) else is_equal.all())
