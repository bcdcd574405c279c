"""The two actors that Ray's own tests are made with, and those of many applications (RULES T5).

They were never public; ``private.py`` lists them with the others. A task that shall wait until the
test says so waits for ``SignalActor``; ``Semaphore`` lets so many through at a time.
"""

from __future__ import annotations

import asyncio

import shoal


@shoal.remote(num_cpus=0)
class SignalActor:
    """An event that tasks wait for."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.waiting = 0

    async def send(self, clear: bool = False) -> None:
        """Let everybody go on who waits; ``clear``: later ones wait again."""
        self.event.set()
        if clear:
            self.event.clear()

    async def wait(self, should_wait: bool = True) -> None:
        """Wait for ``send``, or return at once."""
        if not should_wait:
            return
        self.waiting += 1
        try:
            await self.event.wait()
        finally:
            self.waiting -= 1

    async def cur_num_waiters(self) -> int:
        """How many wait now."""
        return self.waiting


@shoal.remote(num_cpus=0)
class Semaphore:
    """Lets ``value`` callers through at a time."""

    def __init__(self, value: int = 1) -> None:
        self.semaphore = asyncio.Semaphore(value)

    async def acquire(self) -> None:
        """Wait for a place and take it."""
        await self.semaphore.acquire()

    async def release(self) -> None:
        """Give a place back."""
        self.semaphore.release()

    async def locked(self) -> bool:
        """Whether the next one has to wait."""
        return self.semaphore.locked()
