"""Names of things, and how they are built.

A *key* names an object on its node and is what processes and daemon exchange::

     63            32 31             0
    +----------------+----------------+
    |   generation   |      slot      |      a slot that has been freed since never matches again
    +----------------+----------------+

What programs see of it is drawn in ``typed_ids.py``. A session id is readable (when it began) and
unguessable enough to be a directory's name.
"""

from __future__ import annotations

import os
import time

SLOT_BITS = 32


def slot_of(key: int) -> int:
    """The slot of a key."""
    return key & 0xFFFF_FFFF


def generation_of(key: int) -> int:
    """How often that slot had been reused."""
    return key >> SLOT_BITS


def make_key(slot: int, generation: int) -> int:
    """The key of ``slot`` in its ``generation``."""
    return generation << SLOT_BITS | slot


def new_session_id() -> str:
    """A fresh session id, such as ``20260314-150926-5f3a9c1e``."""
    return time.strftime("%Y%m%d-%H%M%S") + "-" + os.urandom(4).hex()


def new_node_id() -> bytes:
    """16 random bytes."""
    return os.urandom(16)
