"""Cells of a stream as they are written: by who runs its generator, and by a daemon whose node's
consumer reads what a generator on another node has yielded.

A cell's value is a tuple of refs: the item, the next cell and, of a stream with a limit, the item's
ack (``streams``). A pickle names refs by their places in the value's table, so all tuples of so
many refs have the same pickle.
"""

from __future__ import annotations

import pickle
from typing import Any

from shoal._native import Memory, ObjectRef

PROTOCOL = 5
_templates: dict[int, bytes] = {}


def cell_value(memory: Memory, refs: tuple[ObjectRef[Any], ...]) -> bytes:
    """The pickle of ``refs``."""
    data = _templates.get(len(refs))
    if data is None:
        former = memory.capture([])
        try:
            data = pickle.dumps(refs, PROTOCOL)
        finally:
            memory.capture(former)
        _templates[len(refs)] = data
    return data
