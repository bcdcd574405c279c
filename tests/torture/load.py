"""One driver of the torture: makes random work, checks every answer, and ends with a clean table.

    python -m tests.torture.load SESSION SEED SECONDS REPORT MODE

MODE `all` is small and big values, nested tasks, streams, cancels, deadlines, actors, groups and
forks (whose children write into the file REPORT, see `forks.py`); MODE `full` keeps so many large
values that node memory is full again and again; MODE `tools` is everything that is built on top
(`tools.py`).

Each value is a function of a number, so that whoever gets it can tell whether it is right. An
answer is right, or an error that names a loss (`LostError`); anything else (a wrong value, an
`InternalError`, a wait without end) ends this process with a traceback, and the test with it.

The last line printed is JSON: what was done. One such line comes every second, for those that are
killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import shoal
from shoal.errors import (
    DeadlineExceededError,
    GetTimeoutError,
    ObjectStoreFullError,
    TaskCancelledError,
)
from shoal.util.placement_group import placement_group, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.torture import forks
from tests.torture.answers import Answers
from tests.torture.tools import Tools

BIG_BYTES = 300_000
LARGE_BYTES = 6_000_000
LIVE_MOST = 60
LIVE_MOST_FULL = 200
PATIENCE_S = 60.0
"""A process that is to be started waits longer and longer where the last ones were killed."""
FULL_S = 60.0
"""A task whose result finds no room waits 30 s for some before it fails."""
SOON_S = 0.5
TELL_S = 1.0
END_S = 150.0


class Wanted(NamedTuple):
    """A value as it is to be: made again to be compared. A driver that kept the bytes of all its
    refs would have another store in its own memory, which no limit of the store holds for."""

    number: int
    size: int

    def value(self) -> bytes:
        return self.number.to_bytes(8, "little") * (self.size // 8)


def wanted(number: int, big: bool) -> Wanted:
    return Wanted(number, BIG_BYTES if big else 8)


def value_of(number: int, big: bool) -> bytes:
    """What task `number` returns."""
    return wanted(number, big).value()


@shoal.remote(max_retries=2)
def small(number: int) -> bytes:
    return value_of(number, big=False)


@shoal.remote(max_retries=2)
def big(number: int) -> bytes:
    return value_of(number, big=True)


@shoal.remote(max_retries=2)
def large(number: int) -> bytes:
    return Wanted(number, LARGE_BYTES).value()


@shoal.remote(max_retries=2)
def slow(number: int) -> bytes:
    time.sleep(0.02)
    return value_of(number, big=False)


@shoal.remote(max_retries=0)
def fragile(number: int) -> bytes:
    """Long enough to be hit, and never tried again."""
    time.sleep(0.1)
    return value_of(number, big=False)


@shoal.remote(max_retries=2)
def same(value: bytes) -> bytes:
    return value


@shoal.remote(max_retries=2)
def nested(number: int, depth: int) -> bytes:
    """Submits more tasks and waits for them: helping, lending, children of dead attempts."""
    if depth == 0:
        return value_of(number, big=False)
    children = [nested.remote(number, depth - 1) for _ in range(2)]
    answers = shoal.get(children)
    assert answers[0] == answers[1]
    return answers[0]


@shoal.remote(max_retries=2)
def hand_out(number: int, is_big: bool) -> list[Any]:
    """Returns refs that it made: they outlive the process that made them."""
    return [shoal.put(value_of(number, is_big)), same.remote(value_of(number, is_big))]


@shoal.remote(max_retries=2)
def open_box(box: dict[str, Any]) -> bytes:
    """Gets a ref that travelled inside a structure."""
    value: bytes = shoal.get(box["ref"])
    return value


@shoal.remote(max_retries=2, _generator_backpressure_num_objects=3)
def stream(number: int, items: int, is_big: bool) -> Iterator[bytes]:
    """What it yields next never depends on how often it was begun again."""
    for item in range(items):
        yield value_of(number + item, is_big)


@shoal.remote(max_retries=2)
def endless(depth: int) -> None:
    """Ends by `cancel` only, and what it has started with it."""
    if depth:
        shoal.get(endless.remote(depth - 1))
    while True:
        time.sleep(0.01)


@shoal.remote(max_restarts=2, max_task_retries=1, num_cpus=0)
class Keeper:
    """Keeps refs of others for a while."""

    def __init__(self) -> None:
        self.box: list[Any] = []

    def keep(self, box: list[Any]) -> int:
        self.box = (self.box + box)[-5:]
        return len(self.box)

    def give(self) -> list[Any]:
        return self.box

    def echo(self, number: int) -> bytes:
        return value_of(number, big=False)

    def fork(self, way: int, number: int, report: str) -> bytes:
        forks.WAYS[way](number, report)
        return value_of(number, big=False)


@shoal.remote(max_restarts=2, max_task_retries=1, num_cpus=0)
class Juggler:
    """Runs many calls side by side, some of which wait for others; keeps what it has counted."""

    def __init__(self) -> None:
        self.thrown = 0

    def __shoal_checkpoint__(self) -> int:
        return self.thrown

    def __shoal_restore__(self, state: int) -> None:
        self.thrown = state

    async def echo(self, number: int) -> bytes:
        self.thrown += 1
        await asyncio.sleep(0.02)
        return value_of(number, big=False)

    async def relay(self, number: int) -> bytes:
        copy = same.remote(small.remote(number))
        first, second = await asyncio.gather(small.remote(number), copy)
        assert first == second
        return first

    async def open(self, box: list[Any]) -> bytes:
        value: bytes = await box[0]
        return value


class Live(Answers):
    """The live refs of a driver, each with the value that it is to have."""

    def __init__(self, is_full: bool) -> None:
        super().__init__(FULL_S if is_full else PATIENCE_S)
        self.full = is_full
        self.live: list[tuple[Any, Wanted]] = []

    def get(self, ref: Any) -> Any:
        """One that is late may stand behind tasks that wait for the room taken here, three at a
        time and each for as long as a whole answer may take; also one that was ready may, which has
        left memory and is rebuilt. That room is given back first.
        """
        while self.full and self.live:
            with contextlib.suppress(GetTimeoutError):
                return shoal.get(ref, timeout=SOON_S)
            self.counts["late"] += 1
            del self.live[: (len(self.live) + 1) // 2]
        return super().get(ref)


class Load(Live):
    """Does something at random, again and again."""

    def __init__(self, seed: int, report: str, mode: str) -> None:
        super().__init__(mode == "full")
        self.random = random.Random(seed)
        self.report = report
        self.keepers: list[Any] = []
        self.jugglers: list[Any] = []
        self.live_most = LIVE_MOST_FULL if self.full else LIVE_MOST
        self.actions = [self.task, self.task, self.chain, self.put, self.nest, self.box]
        self.actions += [self.handed, self.actor, self.fork, self.check_one, self.check_one]
        self.actions += [self.wait_some, self.drop, self.juggle, self.group]
        self.actions += [self.stream, self.cancel, self.deadline]
        if self.full:
            self.actions = [self.fill, self.fill, self.fill, self.put, self.task, self.nest]
            self.actions += [self.check_if_ready, self.check_if_ready, self.drop_some]

    def step(self) -> None:
        """Do one random thing, then let go of what is too much."""
        action = self.random.choice(self.actions)
        self.counts["steps"] += 1
        self.counts[action.__name__] += 1
        try:
            action()
        except ObjectStoreFullError:
            # Not even the record of a task found room: what was kept makes some.
            self.counts["full"] += 1
            del self.live[: len(self.live) // 2]
        while len(self.live) > self.live_most:
            self.live.pop(self.random.randrange(len(self.live)))

    def number(self) -> int:
        return self.random.randrange(2**32)

    def task(self) -> None:
        number = self.number()
        task = self.random.choice([small, big, slow, fragile])
        for _ in range(self.random.randrange(1, 6)):
            self.live.append((task.remote(number), wanted(number, task is big)))

    def chain(self) -> None:
        number, is_big = self.number(), self.random.random() < 0.5
        ref = (big if is_big else slow).remote(number)
        for _ in range(self.random.randrange(1, 5)):
            ref = same.remote(ref)
        self.live.append((ref, wanted(number, is_big)))

    def put(self) -> None:
        number, is_big = self.number(), self.random.random() < 0.5
        self.keep(wanted(number, is_big))

    def keep(self, value: Wanted) -> None:
        """Store a value; that there is no room is an answer like any other."""
        try:
            self.live.append((shoal.put(value.value()), value))
        except ObjectStoreFullError as error:
            assert error.asked_bytes >= value.size, error
            self.counts["full"] += 1

    def fill(self) -> None:
        number = self.number()
        value = Wanted(number, LARGE_BYTES)
        if self.random.random() < 0.8:
            self.keep(value)
        else:
            self.live.append((large.remote(number), value))

    def drop_some(self) -> None:
        """Give back half of what is kept, else memory would stay full for ever."""
        if self.random.random() < 0.1:
            del self.live[: len(self.live) // 2]

    def fork(self) -> None:
        """In a task, in an actor or in this driver itself."""
        way, number = self.random.randrange(len(forks.WAYS)), self.number()
        value = wanted(number, big=False)
        where = self.random.random()
        if where < 0.5:
            self.live.append((forks.forking.remote(way, number, self.report), value))
        elif where < 0.8 and self.keepers:
            call = self.random.choice(self.keepers).fork.remote(way, number, self.report)
            self.live.append((call, value))
        else:
            forks.WAYS[way](number, self.report)

    def nest(self) -> None:
        number = self.number()
        depth = self.random.randrange(1, 4)
        self.live.append((nested.remote(number, depth), wanted(number, big=False)))

    def box(self) -> None:
        if self.live:
            ref, value = self.random.choice(self.live)
            self.live.append((open_box.remote({"ref": ref}), value))

    def handed(self) -> None:
        number, is_big = self.number(), self.random.random() < 0.5
        refs = self.answer(hand_out.remote(number, is_big))
        for ref in refs or ():
            self.live.append((ref, wanted(number, is_big)))

    def actor(self) -> None:
        if len(self.keepers) < 3 or self.random.random() < 0.1:
            self.keepers = [*self.keepers[-2:], Keeper.remote()]
        keeper = self.random.choice(self.keepers)
        number = self.number()
        for _ in range(self.random.randrange(1, 4)):
            self.live.append((keeper.echo.remote(number), wanted(number, big=False)))
        if self.live:
            keeper.keep.remote([self.random.choice(self.live)[0]])
        if self.random.random() < 0.3:
            self.answer(keeper.give.remote())

    def juggle(self) -> None:
        if len(self.jugglers) < 2 or self.random.random() < 0.1:
            self.jugglers = [*self.jugglers[-1:], Juggler.remote()]
        juggler = self.random.choice(self.jugglers)
        for _ in range(self.random.randrange(1, 12)):
            number = self.number()
            call = self.random.choice([juggler.echo, juggler.echo, juggler.relay])
            self.live.append((call.remote(number), wanted(number, big=False)))
        ref, value = self.random.choice(self.live)
        self.live.append((juggler.open.remote([ref]), value))

    def group(self) -> None:
        """Tasks in a placement group, which is removed before or after they have ended."""
        group = placement_group([{"CPU": 0.5}, {"CPU": 0.25, "memory": 1000}])
        assert group.wait(self.patience_s), "a group that fits has its place some time"
        number = self.number()
        strategy = PlacementGroupSchedulingStrategy(group)
        task = small.options(num_cpus=0.25, scheduling_strategy=strategy)
        refs = [task.remote(number) for _ in range(3)]
        if self.random.random() < 0.5:
            for ref in refs:
                self.see(ref, wanted(number, big=False))
        else:
            self.live += [(ref, wanted(number, big=False)) for ref in refs]
        remove_placement_group(group)

    def stream(self) -> None:
        """A generator, read to its end, or dropped on the way."""
        number, items, is_big = self.number(), self.random.randrange(12), self.random.random() < 0.3
        taken = self.random.choice((items, items, self.random.randrange(items + 1)))
        refs = iter(stream.remote(number, items, is_big))
        for item in range(taken):
            ref = next(refs, None)
            assert ref is not None, f"{item} of {items} values came"
            if self.answer(ref) is None:
                return  # the stream ends with what it was lost by
            self.live.append((ref, wanted(number + item, is_big)))
        if taken == items:
            assert next(refs, None) is None, "more values than were yielded"

    def cancel(self) -> None:
        """Queued or running, with children."""
        ref = endless.remote(self.random.randrange(3))
        time.sleep(self.random.choice((0.0, 0.01, 0.1)))
        shoal.cancel(ref)
        self.ends(ref, TaskCancelledError)

    def deadline(self) -> None:
        self.ends(endless.options(timeout_s=0.1).remote(1), DeadlineExceededError)

    def see(self, ref: Any, value: Wanted) -> None:
        self.check(ref, value.value())

    def check_one(self) -> None:
        if self.live:
            ref, value = self.live.pop(self.random.randrange(len(self.live)))
            self.see(ref, value)

    def check_if_ready(self) -> None:
        """One that is not ready soon may wait for the room that is taken here."""
        if self.live:
            at = self.random.randrange(len(self.live))
            if shoal.wait([self.live[at][0]], timeout=SOON_S)[0]:
                self.see(*self.live.pop(at))
            else:
                self.counts["late"] += 1
                del self.live[: len(self.live) // 2]

    def finish(self) -> None:
        """At the end: each ref is let go once its value was seen."""
        while self.live:
            self.see(*self.live.pop())
        self.keepers.clear()
        self.jugglers.clear()

    def wait_some(self) -> None:
        refs = list({ref: None for ref, _ in self.live})
        if refs:
            ready, late = shoal.wait(
                refs, num_returns=self.random.randint(1, len(refs)), timeout=0.2
            )
            assert len(ready) + len(late) == len(refs)

    def drop(self) -> None:
        del self.live[self.random.randrange(len(self.live) + 1) :]


def main() -> None:
    session, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    report, mode = sys.argv[4:]
    # Whatever hangs shows where, and ends.
    faulthandler.dump_traceback_later(seconds + END_S, exit=True)
    shoal.init(address=session, log_to_driver=False)
    load = Tools(seed) if mode == "tools" else Load(seed, report, mode)
    end = time.monotonic() + seconds
    told = 0.0
    while (now := time.monotonic()) < end:
        load.step()
        if now > told + TELL_S:
            told = now
            print(json.dumps(load.counts), flush=True)
    load.finish()
    shoal.shutdown()
    print(json.dumps(load.counts))


if __name__ == "__main__":
    main()
