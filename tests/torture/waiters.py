"""A program that waits in every way there is when its session is lost.

    python -m tests.torture.waiters

starts a session with actors, groups, streams and channels in use, says where it is once every
thread waits, and when the daemon has been killed says what each thread has heard and when (the
clock of all processes), and what it still has of node memory after `shutdown`. Then it begins
another session, as a program may.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import shoal
from shoal import lowlevel
from shoal._runtime import cluster
from shoal.util.placement_group import placement_group
from shoal.util.queue import Queue
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

LONG_S = 1000
PATIENCE_S = 20.0


@shoal.remote(num_cpus=0)
def sleep_long() -> None:
    time.sleep(LONG_S)


@shoal.remote(num_cpus=0, _generator_backpressure_num_objects=2)
def numbers(pause_s: float) -> Iterator[int]:
    """The first item at once, all others after `pause_s`."""
    for number in range(LONG_S):
        yield number
        time.sleep(pause_s)


@shoal.remote(num_cpus=0)
class Sleeper:
    def sleep(self) -> None:
        time.sleep(LONG_S)


@shoal.remote(num_cpus=0)
class Dreamer:
    async def sleep(self) -> None:
        await asyncio.sleep(LONG_S)


async def second_of(stream: Any) -> None:
    async for ref in stream:
        await ref


async def wait_for(ref: Any) -> None:
    await ref


def full_channel() -> Any:
    channel = lowlevel.channel(1000, slots=1)
    channel.write(b"fills it")
    return channel


def ways() -> dict[str, Callable[[], object]]:
    """What each thread does; none of it ends by itself."""
    group = placement_group([{"CPU": 1}])
    assert group.wait(PATIENCE_S)
    inside = sleep_long.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group))
    too_many = placement_group([{"CPU": 2}])
    sleeper, dreamer, queue = Sleeper.remote(), Dreamer.remote(), Queue()
    stream, slow = numbers.remote(LONG_S), numbers.remote(LONG_S)
    shoal.get(next(stream), timeout=PATIENCE_S)
    unread = numbers.remote(0.0)
    shoal.get(next(unread), timeout=PATIENCE_S)
    empty, full = lowlevel.channel(1000), full_channel()
    block = lowlevel.shared_block(8)
    return {
        "get of a task": lambda: shoal.get(sleep_long.remote()),
        "get of a task in a group": lambda: shoal.get(inside.remote()),
        "get of a call": lambda: shoal.get(sleeper.sleep.remote()),
        "get of an asyncio call": lambda: shoal.get(dreamer.sleep.remote()),
        "wait": lambda: shoal.wait([sleep_long.remote(), dreamer.sleep.remote()]),
        "future": lambda: sleep_long.remote().future().result(),
        "await": lambda: asyncio.run(wait_for(sleep_long.remote())),
        "stream": lambda: next(stream),
        "async stream": lambda: asyncio.run(second_of(slow)),
        "group.wait": lambda: too_many.wait(LONG_S),
        "group.ready": lambda: shoal.get(too_many.ready()),
        "queue": queue.get,
        "channel, empty": empty.read,
        "channel, full": lambda: full.write(b"no room"),
        "word": lambda: block.wait(0, 0, LONG_S),
        "stream that nobody reads": lambda: shoal.get(unread.completed()),
    }


class Heard:
    """What each thread has heard."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, float]] = {}

    def wait(self, name: str, way: Callable[[], object]) -> None:
        try:
            way()
        except shoal.errors.SessionLostError:
            self.rows[name] = "lost", time.monotonic()
        except BaseException as error:  # whatever else it is, the test is to see it
            self.rows[name] = repr(error), time.monotonic()
        else:
            self.rows[name] = "nothing", time.monotonic()


def mapped() -> int:
    """How much of a session's node memory this process has: maps and descriptors."""
    maps = Path("/proc/self/maps").read_text().count("memfd:shoal")
    links = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the folder's own, which is closed again
            links += "memfd:shoal" in os.readlink(f"/proc/self/fd/{fd}")
    return maps + links


def main() -> None:
    shoal.init(num_cpus=2, log_to_driver=False)
    (facts,) = cluster.table("session")
    heard = Heard()
    threads = [threading.Thread(target=heard.wait, args=way, daemon=True) for way in ways().items()]
    for thread in threads:
        thread.start()
    time.sleep(0.3)  # they wait now, or are about to: both must end
    print(json.dumps({name: facts[name] for name in ("session", "directory", "pid")}), flush=True)
    end = time.monotonic() + PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    shoal.shutdown()
    left = mapped()
    shoal.init(num_cpus=1)
    answer = shoal.get(shoal.remote(lambda: "goes on").remote())
    print(json.dumps({"heard": heard.rows, "left": left, "another": answer}), flush=True)


if __name__ == "__main__":
    main()
