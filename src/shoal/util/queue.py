"""A first-in, first-out queue that every process of a session can put into and take from.

It is one asyncio actor around an ``asyncio.Queue``: who waits is a coroutine there, so that any
number of takers may wait at no cost. A ``Queue`` is a value: pass it to tasks and actors. It ends
with its last handle, or with ``shutdown``; items that are left are lost then.

Invariants:

1. Items come out in the order in which their puts were accepted, each once.
2. A batch goes in or comes out whole, or not at all.
3. A taker that gives up (its timeout is over) takes nothing with it.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable, Mapping
from typing import Any

from shoal import lowlevel
from shoal._runtime import actor, objects
from shoal._runtime.remote import remote


class Empty(lowlevel.Explained, queue.Empty):
    """There was no item, or not as many as were asked for."""


class Full(lowlevel.Explained, queue.Full):
    """There was no room for an item, or for the whole batch."""


class QueueHolder:
    """The actor's side: what is in the queue, and who waits."""

    def __init__(self, maxsize: int) -> None:
        self.items: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def size(self) -> int:
        """How many items there are."""
        return self.items.qsize()

    async def put(self, item: Any, timeout: float | None) -> None:
        """Wait for room and put."""
        try:
            await asyncio.wait_for(self.items.put(item), timeout)
        except TimeoutError:
            raise Full from None

    async def get(self, timeout: float | None) -> Any:
        """Wait for an item and take it."""
        try:
            return await asyncio.wait_for(self.items.get(), timeout)
        except TimeoutError:
            raise Empty from None

    async def put_batch(self, items: list[Any]) -> None:
        """Put all now, or none."""
        room = self.items.maxsize - self.items.qsize()
        if self.items.maxsize > 0 and len(items) > room:
            raise Full(f"{len(items)} items do not fit: there is room for {room}")
        for item in items:
            self.items.put_nowait(item)

    async def get_batch(self, count: int) -> list[Any]:
        """Take so many now, or none."""
        if count > self.items.qsize():
            raise Empty(f"there are {self.items.qsize()} items, not {count}")
        return [self.items.get_nowait() for _ in range(count)]


class Queue:
    """A queue for the processes of a session, with the methods of ``queue.Queue``.

    Args:
        maxsize: Most items; 0 or less for no limit.
        actor_options: Options of the actor that holds the items, such as ``{"name": "jobs"}``.

    Example:
        >>> jobs = Queue(maxsize=10)
        >>> jobs.put("first")
        >>> jobs.get()
        'first'
    """

    def __init__(self, maxsize: int = 0, actor_options: Mapping[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        self.actor: Any = _holder.options(**dict(actor_options or {})).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """Return how many items there are."""
        count: int = objects.get(self.actor.size.remote())
        return count

    qsize = size

    def empty(self) -> bool:
        """Whether there is no item."""
        return self.size() == 0

    def full(self) -> bool:
        """Whether there is no room."""
        return 0 < self.maxsize <= self.size()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item.

        Args:
            item: What is put.
            block: Wait for room.
            timeout: Seconds to wait at most; None for ever.

        Raises:
            Full: there was no room in time.
            ValueError: the timeout is negative.
        """
        if not block:
            self.put_nowait_batch([item])
            return
        self._wait(self.actor.put.remote(item, _checked(timeout)))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item.

        Args:
            block: Wait for one.
            timeout: Seconds to wait at most; None for ever.

        Raises:
            Empty: there was none in time.
            ValueError: the timeout is negative.
        """
        if not block:
            return self.get_nowait_batch(1)[0]
        return self._wait(self.actor.get.remote(_checked(timeout)))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As ``put``, awaited."""
        if not block:
            await self._awaited(self.actor.put_batch.remote([item]))
            return
        await self._awaited(self.actor.put.remote(item, _checked(timeout)))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """As ``get``, awaited."""
        if not block:
            return (await self._awaited(self.actor.get_batch.remote(1)))[0]
        return await self._awaited(self.actor.get.remote(_checked(timeout)))

    def put_nowait(self, item: Any) -> None:
        """Put an item now, or raise ``Full``."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take an item now, or raise ``Empty``."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Put all items now; if they do not all fit, put none and raise ``Full``."""
        if isinstance(items, str | bytes) or not isinstance(items, Iterable):
            raise TypeError(f"put_nowait_batch needs several items, not {items!r}")
        self._wait(self.actor.put_batch.remote(list(items)))

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take so many items now; if there are fewer, take none and raise ``Empty``."""
        if not isinstance(num_items, int):
            raise TypeError(f"num_items must be an integer, not {num_items!r}")
        if num_items < 0:
            raise ValueError(f"num_items must not be negative: {num_items}")
        items: list[Any] = self._wait(self.actor.get_batch.remote(num_items))
        return items

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the actor that holds the items.

        Args:
            force: At once; else after the calls that it has.
            grace_period_s: Seconds after which it is ended anyway.
        """
        if not force:
            objects.wait([self.actor.__ray_terminate__.remote()], timeout=grace_period_s)
        actor.kill(self.actor)

    def _wait(self, ref: Any) -> Any:
        try:
            return objects.get(ref)
        except (Empty, Full) as error:
            raise self._plain(error) from None

    async def _awaited(self, ref: Any) -> Any:
        try:
            return await ref
        except (Empty, Full) as error:
            raise self._plain(error) from None

    def _plain(self, error: Empty | Full) -> Exception:
        """The error itself, without the story of the task that raised it. Why the queue was so is
        asked when somebody looks: most who catch it only try again."""
        plain = (Empty if isinstance(error, Empty) else Full)(*error.args)
        return lowlevel.explained(plain, self.actor, is_patient=False)


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must not be negative: {timeout}")
    return timeout


_holder: Any = remote(QueueHolder)
