"""What daemons ask each other so that a table can be shown of the whole cluster.

::

    the asker's daemon                       every other node
      AskRows(number, table, ...) ----------->
                              <-------------- RowsTold(number, rows)

Rows are as ``GetTable`` has them, of plain values; who asks puts those of all nodes together
(``_core.listings``). Nothing waits for an answer but who looks at the table.
"""

from __future__ import annotations

from typing import Union

from shoal._proto.messages import Message


class AskRows(Message, frozen=True):
    """At most ``limit`` rows of one of this node's tables, whose fields equal ``filters``."""

    number: int
    table: str
    limit: int
    filters: dict[str, object] = {}


class RowsTold(Message, frozen=True):
    """They."""

    number: int
    rows: list[dict[str, object]]
    left_out: int = 0
    """So many more are asked for, and are too much for one message."""
    booted_s: float = 0.0
    """When this machine was booted, in seconds since 1970: rows say times since then."""
    guests: dict[int, tuple[str, int]] = {}
    """Jobs here that stand for another node's, with that and its number there."""


ListingsBody = Union[AskRows, RowsTold]
