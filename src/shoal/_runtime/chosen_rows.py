"""Rows of a table, and which of them somebody wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from shoal import errors

T = TypeVar("T", bound=msgspec.Struct)


def check(kind: type[msgspec.Struct], filters: Mapping[str, Any]) -> None:
    """See that ``kind`` has the fields that somebody chooses by.

    Raises:
        OptionError: it has no such field.
    """
    unknown = [name for name in filters if name not in kind.__struct_fields__]
    if unknown:
        valid = list(kind.__struct_fields__)
        text = f"a {kind.__name__} has no field {unknown[0]!r}. Valid: {', '.join(valid)}"
        raise errors.OptionError(text, option=unknown[0], valid=valid)


def chosen(rows: Iterable[T], kind: type[T], limit: int, filters: Mapping[str, Any]) -> list[T]:
    """The first ``limit`` rows whose fields equal ``filters``.

    Raises:
        OptionError: ``kind`` has no such field.
    """
    check(kind, filters)
    wanted = list(filters.items())
    found = [row for row in rows if all(getattr(row, k) == v for k, v in wanted)]
    return found[:limit]
