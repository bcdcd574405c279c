"""Values of the daemon's own with the bytes of others: *twins*.

What an actor on another node is constructed from, what a new home has of an actor, and the state
that an actor takes along from node to node are copies: whoever has the first one may let it go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal._native import Memory, ObjectRef
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.bridge.images import Image, open_image
from shoal._runtime.daemon_loop import Loop

if TYPE_CHECKING:
    from shoal._runtime.daemon_abroad import Ways

AGAIN_S = 0.05
"""Until it is looked again for room, or whether what was in a file is in memory."""


class Twins:
    """Makes them."""

    def __init__(self, loop: Loop, memory: Memory, ways: Ways) -> None:
        self._loop = loop
        self._memory = memory
        self._ways = ways

    def make(self, key: int) -> ObjectRef[Any] | None:
        """One of a value whose bytes are on this node; None: there is no room, or those are in a
        file just now."""
        found = open_image(self._memory, key)
        if not isinstance(found, Image):
            self._ways.bring_back(key)
            return None
        self._ways.make_room()
        twin = self._memory.new_proxy(0)
        refs = [self._memory.ref(each) if each else None for each in found.contained]
        done = self._memory.seal_image(twin, found.format, found.in_block, found.whole(), refs)
        ref = self._memory.ref(twin) if done else None
        self._memory.release(twin)
        return ref

    def bring(
        self,
        bridging: Bridging,
        refs: list[ObjectRef[Any]],
        then: Callable[[list[ObjectRef[Any]]], object],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Have the bytes of ``refs`` come here, and call ``then`` with twins of them; as long as
        they ``is_wanted``."""
        bringing = _Bringing(self, refs, then, is_wanted)
        for ref in refs:
            bridging.pulling.fetch(ref, bringing.is_here)
        if not refs:
            then([])

    def again(self, look: Callable[[], None]) -> None:
        """There was no room, or the bytes were in a file."""
        self._loop.call_later(AGAIN_S, look)


class _Bringing:
    """Values on their way here. (No closures that know themselves: those would keep the refs until
    somebody collects garbage.)"""

    def __init__(
        self,
        twins: Twins,
        refs: list[ObjectRef[Any]],
        then: Callable[[list[ObjectRef[Any]]], object],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._twins, self._refs, self._then = twins, refs, then
        self._is_wanted = is_wanted
        self._missing = len(refs)

    def is_here(self) -> None:
        """One of them has come."""
        self._missing -= 1
        if not self._missing:
            self._make_all()

    def _make_all(self) -> None:
        if not self._is_wanted():
            return
        twins = [self._twins.make(ref.key) for ref in self._refs]
        made = [twin for twin in twins if twin is not None]
        if len(made) == len(self._refs):
            self._then(made)
        else:
            self._twins.again(self._make_all)
