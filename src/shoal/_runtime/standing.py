"""What a process makes while a generator of it stands still, as nobody takes its items.

::

    daemon: a rebuild waits in the queue of this process --> RunWhereYouStand --> tell()
    ``streams.produce``, which waits for an ack:  bell sealed --> take() --> claim, run on top of it

The consumer may be waiting for a lost value that only this process may make again: by the actor
whose generator stands, or with the GPU that its task has. Such a rebuild would wait for the
generator, the generator for the consumer, and the consumer for the rebuild.

1. Only a generator that waits runs anything: between two items, where its code has let go.
2. Several may be told of the same rebuild: the claim decides who runs it, and once.
3. Who is told while nothing stands here does nothing; the daemon tells again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable

from shoal._native import Memory, ObjectRef

PATIENCE_S = 0.05
"""A generator that waits for longer listens for rebuilds too."""


class Stander:
    """A generator that has waited for long, and what it may run meanwhile."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._keys: dict[int, None] = {}
        self.bell: ObjectRef = memory.new_pending()
        """Sealed as soon as there is something."""
        _standers.add(self)

    def tell(self, keys: Iterable[int]) -> None:
        """These wait behind it; from any thread."""
        with self._lock:
            self._keys.update(dict.fromkeys(keys))
            if not self.bell.is_sealed():
                self._memory.seal_pending(self.bell)

    def take(self) -> list[int]:
        """What it was told since it was asked last."""
        with self._lock:
            keys, self._keys = list(self._keys), {}
            if self.bell.is_sealed():
                self.bell = self._memory.new_pending()
            return keys


_standers: weakref.WeakSet[Stander] = weakref.WeakSet()


def tell(keys: list[int]) -> None:
    """News of the daemon, in the session thread."""
    for stander in list(_standers):
        stander.tell(keys)
