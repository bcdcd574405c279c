"""Values as they leave node memory, and what of them can travel with the news of them.

::

    image:  | n_contained 4 | n_buffers 4 | data_offset 8 | data_size 8 | tables | data | buffers |

An image is the block of a value (``ValueHeader`` in native/layout.hpp). One without refs and
buffers is as good as its data alone, the *plain* value; so are values that stand in their slots.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from shoal._native import Memory, Moving

COPY_BYTES = 8 << 20
"""A millisecond's worth or two."""
_HEADER = struct.Struct("<IIQQ")


@dataclass(slots=True)
class Image:
    """A sealed value, pinned as long as this is kept."""

    format: int
    in_block: bool
    size: int
    contained: tuple[int, ...]
    """Keys that its table names."""
    data: bytes | Moving

    def plain(self) -> bytes | None:
        """The value without its place; None: it has refs or buffers."""
        if isinstance(self.data, bytes):
            return self.data
        with memoryview(self.data) as view:
            n_contained, n_buffers, offset, size = _HEADER.unpack_from(view)
            if n_buffers or (n_contained and self.contained):
                return None
            return bytes(view[offset : offset + size])

    def whole(self) -> bytes:
        """All of its bytes."""
        return bytes(self.data)


def copy_in_parts(
    image: Image | None,
    into: memoryview,
    call_later: Callable[[float, Callable[[], None]], object],
    done: Callable[[str], None],
) -> None:
    """Copy what is on this node, some at a time: the daemon has other things to do. Then
    ``done("")``, or ``done(why not)``; never before this returns."""
    if image is None or image.size != len(into):
        call_later(0.0, lambda: done("it is not kept here"))
    else:
        call_later(0.0, lambda: _copy_on(image, into, 0, call_later, done))


def _copy_on(
    image: Image,
    into: memoryview,
    at: int,
    call_later: Callable[[float, Callable[[], None]], object],
    done: Callable[[str], None],
) -> None:
    # No function inside that names itself: such a cycle would keep the value until garbage is
    # collected, which in a daemon is seldom.
    end = min(at + COPY_BYTES, len(into))
    into[at:end] = memoryview(image.data)[at:end]
    if end < len(into):
        call_later(0.0, lambda: _copy_on(image, into, end, call_later, done))
    else:
        done("")


def open_image(memory: Memory, key: int) -> Image | Moving | None:
    """The value of a slot; only its pin while its bytes are elsewhere; None while it has none.

    Raises:
        ValueError: it is memory that stays writable, and cannot leave its node.
    """
    found = memory.open_image(key)
    if found is None or isinstance(found, Moving):
        return found
    format, in_block, size, keys, data = found
    while keys and not keys[-1]:  # a recipe, which stays
        keys.pop()
    return Image(format, in_block, size, tuple(keys), data)
