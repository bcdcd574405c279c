"""Cells of a stream as they are written: by who runs its generator, and by a daemon whose node's
consumer reads what a generator on another node has yielded.

A cell's value is a tuple of refs: the item, the next cell and, of a stream with a limit, the item's
ack (``streams``). A pickle names refs by their places in the value's table, so all tuples of so
many refs have the same one. It is put together here by hand: a daemon has no pickle loaded.
"""

from __future__ import annotations

import functools

_RESTORE = b"\x80\x05\x8c\x0dshoal._native\x8c\x0c_restore_ref\x93\x940"
"""Protocol 5; the function that restores a ref, kept as what ``h\\x00`` gets, and popped."""


@functools.cache
def cell_value(count: int) -> bytes:
    """The pickle of a tuple of so many refs, which are the value's table."""
    refs = (b"h\x00K%c\x85R" % place for place in range(count))
    return b"".join((_RESTORE, b"(", *refs, b"t."))
