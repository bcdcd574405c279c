"""Errors made without pickle: typed records.

A record is msgpack of ``[class name, {field: value}]``; values are numbers, text, bytes, None,
lists and dicts of those. Daemon and store build and read records with this module only; the reader
in a driver or worker builds the exception from it with the table in ``shoal.errors`` (RULES Z-2).
"""

from __future__ import annotations

from typing import Any

import msgspec

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[str, dict[str, Any]])


def pack(name: str, /, **fields: Any) -> bytes:
    """The record of error class ``name`` with ``fields``."""
    return _encoder.encode((name, fields))


def unpack(record: bytes) -> tuple[str, dict[str, Any]]:
    """``(class name, fields)``. Raises ``ValueError`` if it is no record."""
    try:
        return _decoder.decode(record)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an error record: {error}") from None
