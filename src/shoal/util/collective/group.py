"""One process's place in a group: waiting for the others, breaking off, and the calls themselves.

Every call is the same dance. A rank numbers the call, gives what is small, writes which call it
makes (name, dtype, shape, operation), *arrives*: one store of number and checksum; and waits until
all have arrived with the same checksum. Small calls are over then: each rank reads what it needs.
Large ones go on in ``passes``, through regions in a second block, chunk by chunk.

A wait that brings no news looks after 50 ms, and then after ever longer times up to a second,
whether the group is broken, a rank is dead (its pidfd says so) or the time is over. Each of these,
a call that differs, and a rank that leaves its call by an exception, *breaks* the group: all ranks
get the same reason, in this call or the next. A broken group is destroyed and made again.

Invariants:

1. One call at a time per process and group (a lock); a process may be in many groups.
2. Results do not depend on time: values are combined in the order of the ranks, always.
3. When a call returns, nobody reads or writes the caller's array any more.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from shoal import errors, lowlevel
from shoal._base import clock
from shoal._runtime import objects
from shoal._runtime import session as sessions
from shoal.util.collective import joining
from shoal.util.collective.control import (
    ARRIVED,
    BROKEN,
    LEFT,
    SMALL_BYTES,
    TEXT_BYTES,
    VALUE,
    Control,
)

CHECK_BITS = 24
"""Of the word ``arrived``: a checksum of the call; the rest is its number."""
SLOTS = 2
REGION_BYTES = 1 << 20
"""Of one slot of one rank: two slots of all ranks stay in the last level of cache."""


class Apart(Exception):
    """The ranks of a group that lasts came with different calls; nobody has done anything."""

    def __init__(self, texts: list[str], parity: int) -> None:
        super().__init__(", ".join(texts))
        self.texts, self.parity = texts, parity


class Group:
    """A rank's side of a group."""

    def __init__(
        self,
        name: str,
        ranks: int,
        rank: int,
        timeout_s: float,
        place: joining.Place | None = None,
    ) -> None:
        """Join, and wait until all have joined.

        Args:
            name: Of the group, for people.
            ranks: How many there are.
            rank: Which one this is.
            timeout_s: How long to wait for others.
            place: The place, if it is known and has not to be found by the name.

        Raises:
            CollectiveError: the place is taken, or the ranks do not agree about the group.
            CollectiveTimeoutError: some ranks did not come.
        """
        self.name, self.ranks, self.rank, self.timeout_s = name, ranks, rank, timeout_s
        self.others = [other for other in range(ranks) if other != rank]
        self.lasts = place is not None and place.holder is None
        """Calls that differ do not break it: all ranks get ``Apart``, and go on."""
        place = place or joining.take_place(name, ranks, rank)
        self.control: Control = place.control
        self.block = place.control.block
        self._place = place
        self._pidfds: dict[int, Any] = {}
        self._wait_for_all()
        self.lock = threading.Lock()
        self.locks = {key: threading.Lock() for key in self._pairs()}
        """Of sending to a rank, and of receiving from one."""
        self.pairs: dict[tuple[int, int], Any] = {}
        self.done = 0
        """How many chunks the large calls have had."""
        self._number = 0
        self._words = [[self.control.word(kind, r) for r in range(ranks)] for kind in range(5)]
        self._seen: dict[int, int] = {}
        """What each word was last."""
        self._texts = [[self.control.text(r, p) for p in (0, 1)] for r in range(ranks)]
        self._checks: dict[str, tuple[bytes, int]] = {}
        self.smalls = np.frombuffer(self.block, np.uint8)
        self._small_views: dict[Any, list[list[Any]]] = {}
        self._regions: Any = None
        self._region_views: dict[Any, list[list[Any]]] = {}

    def _wait_for_all(self) -> None:
        is_whole = False
        try:
            self._pidfds = joining.wait_for_all(self._place, self.name, self.rank, self.timeout_s)
            is_whole = True
        finally:
            if not is_whole:
                self._break("left", f"rank {self.rank} did not wait for the others to join")
                if sessions.current_or_none() is not None:
                    joining.forget(self._place)

    def _pairs(self) -> list[tuple[int, int]]:
        pairs = [(self.rank, other) for other in self.others]
        return pairs + [(other, self.rank) for other in self.others]

    # ---- a call

    def call(self, run: Callable[[], None], lock: threading.Lock | None = None) -> None:
        """Do ``run`` alone; if it does not end well, the group is broken for all."""
        with lock or self.lock:
            if self.control.is_broken():
                raise self.error()
            is_done = False
            try:
                run()
                is_done = True
            except Apart:
                is_done = True
                raise
            finally:
                if not is_done:
                    self._break("left", f"rank {self.rank} left a call by an exception")

    def next(self) -> int:
        """Begin the next call; its parity."""
        self._number += 1
        return self._number & 1

    def arrive(self, text: str) -> None:
        """Say that we are there with this call, and wait until all are there with the same."""
        known = self._checks.get(text)
        if known is None:
            known = self._remember(text)
        shown, check = known
        parity = self._number & 1
        self._texts[self.rank][parity][:] = shown
        words, seen = self._words[ARRIVED], self._seen
        least = self._number << CHECK_BITS
        mine = least | check
        self.block.store(words[self.rank], mine)
        for other in self.others:
            word = words[other]
            value = self.block.wait(word, seen.get(word, 0), joining.FIRST_LOOK_S)
            if not least <= value < LEFT:
                value = self._slow(other, word, value, least)
            seen[word] = value
            if value != mine:
                self._differs(other, value, mine, parity)
        if self.lasts:
            self._compare(shown, parity)

    def _compare(self, shown: bytes, parity: int) -> None:
        """Raise if a rank came with something else: looked up in the texts, which stay until the
        next call but one, as who is quicker may have overwritten its word already."""
        texts = [bytes(texts[parity]) for texts in self._texts]
        if any(text != shown for text in texts):
            raise Apart([text.rstrip(b"\0").decode(errors="replace") for text in texts], parity)

    def _remember(self, text: str) -> tuple[bytes, int]:
        shown = text.encode()
        if len(shown) > TEXT_BYTES:
            shown = shown[: TEXT_BYTES - 9] + b" %08x" % zlib.crc32(shown)
        shown = shown.ljust(TEXT_BYTES, b"\0")
        if len(self._checks) > 1000:
            self._checks.clear()
        known = self._checks[text] = shown, zlib.crc32(text.encode()) & ((1 << CHECK_BITS) - 1)
        return known

    def _differs(self, other: int, value: int, mine: int, parity: int) -> None:
        if self.lasts or value >> CHECK_BITS != mine >> CHECK_BITS:
            return  # it has seen that ours is equal, and is at its next call already
        texts = [
            f"rank {r} calls {bytes(self._texts[r][parity]).rstrip(bytes(1)).decode()}"
            for r in sorted((other, self.rank))
        ]
        self.break_off("differs", f"the ranks call different things: {' and '.join(texts)}")

    # ---- waiting

    def wait_for(self, kind: int, other: int, least: int) -> None:
        """Wait until that word of ``other`` is at least ``least``."""
        self.wait_word(self._words[kind][other], other, least)

    def wait_word(self, word: int, other: int, least: int) -> None:
        """As ``wait_for``, by the index of the word."""
        value = self._seen.get(word, 0)
        if value >= least:
            return
        value = self.block.wait(word, value, joining.FIRST_LOOK_S)
        if not least <= value < LEFT:
            value = self._slow(other, word, value, least)
        self._seen[word] = value

    def tell(self, kind: int, value: int) -> None:
        """Set our own word."""
        self.block.store(self._words[kind][self.rank], value)

    def _slow(self, other: int, word: int, value: int, least: int) -> int:
        look_s, since = joining.FIRST_LOOK_S, clock.now()
        while value & VALUE < least:
            if value & BROKEN:
                raise self.error()
            if value & LEFT:
                self.break_off("left", f"rank {other} has left group {self.name!r} (destroyed it)")
            former, value = value, self.block.wait(word, value, look_s)
            if value == former:
                self.look(since)
                look_s = min(2 * look_s, joining.LONGEST_LOOK_S)
        return value & VALUE

    def look(self, since: float) -> None:
        """A wait since then has brought nothing: find out whether it is in vain."""
        if self.control.is_broken():
            raise self.error()
        if self._place.owner is not None and joining.is_dead(self._place.owner):
            self.break_off("died", f"the process that owns group {self.name!r} has ended")
        for other, pidfd in self._pidfds.items():
            if joining.is_dead(pidfd) and not self.control.has_left(other):
                pid = self.control.pid(other)
                self.break_off("died", f"rank {other} (process {pid}) of {self.name!r} has died")
        if clock.now() - since >= self.timeout_s:
            self.break_off("late", self._late())

    def _behind(self) -> list[int]:
        load = self.block.load
        numbers = {r: (load(self._words[ARRIVED][r]) & VALUE) >> CHECK_BITS for r in self.others}
        return [r for r, number in numbers.items() if number < self._number]

    def _late(self) -> str:
        behind = [str(r) for r in self._behind()]
        who = f"ranks {', '.join(behind)}" if len(behind) > 1 else f"rank {(behind or ['?'])[0]}"
        text = bytes(self._texts[self.rank][self._number & 1]).rstrip(b"\0").decode()
        if not behind:
            return f"rank {self.rank} has waited {self.timeout_s:g} s in group {self.name!r}"
        return (
            f"rank {self.rank} has waited {self.timeout_s:g} s in call {self._number} of group"
            f" {self.name!r} ({text}); not there: {who}"
        )

    # ---- the end

    def break_off(self, kind: str, text: str) -> None:
        """Break the group and raise what broke it first."""
        self._break(kind, text)
        raise self.error()

    def _break(self, kind: str, text: str) -> None:
        try:
            self.control.break_off(kind, text)
        except errors.ShoalError:
            pass  # the session has ended, and with it the group

    def error(self) -> errors.CollectiveError:
        """What broke the group."""
        kind, text = self.control.reason()
        behind = self._behind() if kind == "late" else []
        missing = self.control.pid(behind[0]) if behind else 0
        return joining.failed(kind, self.name, self.rank, text, missing)

    def leave(self) -> None:
        """Destroy our side: the others can end the call they are in, and make no further one."""
        if sessions.current_or_none() is not None:
            self.control.leave(self.rank)
            if self.control.is_broken() or all(
                self.control.has_left(r) or joining.is_dead(p) for r, p in self._pidfds.items()
            ):
                joining.forget(self._place)
        self.pairs.clear()
        self._small_views.clear()
        self._region_views.clear()
        self._texts.clear()
        self._pidfds.clear()
        del self.smalls, self._regions, self.control, self.block, self._place

    # ---- memory

    def small(self, dtype: Any) -> list[list[Any]]:
        """Where each rank gives what is small, by rank and parity, as arrays of ``dtype``."""
        views = self._small_views.get(dtype)
        if views is None:
            bounds = [[self.control.small(r, p) for p in (0, 1)] for r in range(self.ranks)]
            views = [[self.smalls[a:b].view(dtype) for a, b in row] for row in bounds]
            self._small_views[dtype] = views
        return views

    def regions(self, dtype: Any) -> list[list[Any]]:
        """The regions of the large calls, by rank and slot, as arrays of ``dtype``."""
        views = self._region_views.get(dtype)
        if views is None:
            if self._regions is None:
                self._regions = np.frombuffer(self._open_regions(), np.uint8)
            cells = self._regions.reshape(self.ranks, SLOTS, -1)
            views = [[slot.view(dtype) for slot in rank] for rank in cells]
            self._region_views[dtype] = views
        return views

    def _open_regions(self) -> Any:
        control, since, look_s = self.control, clock.now(), joining.FIRST_LOOK_S
        if self.rank == 0:
            block = lowlevel.shared_block(self.ranks * SLOTS * REGION_BYTES)
            self.pairs[0, 0] = holder = objects.put([block])
            control.set_regions(holder.key)
            return block
        while not (key := control.regions_key()):
            control.wait_regions(look_s)
            if not control.regions_key():
                self.look(since)
                look_s = min(2 * look_s, joining.LONGEST_LOOK_S)
        return self.open(key)

    def open(self, key: int) -> Any:
        """The block that another rank has made."""
        holder: Any = lowlevel.memory().ref(key)
        if holder is None:
            self.break_off("died", f"the memory of group {self.name!r} is gone: a rank has died")
        return objects.get(holder)[0]


def fits_small(size_bytes: int) -> bool:
    """Whether a call of so many bytes per rank has no need of regions."""
    return size_bytes <= SMALL_BYTES
