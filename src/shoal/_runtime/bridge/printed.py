"""What workers print here for programs of other nodes: how much of it goes there.

Lines share one link with all that tasks need, and whoever shows them may be slow, so at most
``UNREAD_BYTES_MOST`` of them wait for one node. What comes faster is left out, counted, and said
with the next row; the files of this node have it (``worker_logs``).

Invariant: lines that were left out are counted until they have been said to whom they were for, or
its node is lost.
"""

from __future__ import annotations

from shoal._proto.bridge import PrintedLines
from shoal._proto.messages import LogLines

UNREAD_BYTES_MOST = 1 << 20
ROW_BYTES = 64
"""About what a row takes beside its lines."""
Home = tuple[str, int]
"""A node, and its number of a job."""


class Printed:
    """Decides for each row whether it goes."""

    def __init__(self) -> None:
        self._unread: dict[str, int] = {}
        """Bytes of lines that a node has not taken, at most."""
        self._left_out: dict[Home, int] = {}

    def row(
        self, home: Home, lines: LogLines, waiting_bytes: int, left_out: int = 0
    ) -> PrintedLines | None:
        """What goes to the node of that job; None: nothing now. ``waiting_bytes``: all that the
        node has not taken, of which lines are a part. ``left_out``: so many before these."""
        node, job = home
        unread = min(self._unread.get(node, 0), waiting_bytes)
        if unread > UNREAD_BYTES_MOST:
            self._left_out[home] = self._left_out.get(home, 0) + left_out + len(lines.lines)
            return None
        self._unread[node] = unread + ROW_BYTES + sum(map(len, lines.lines))
        left_out += self._left_out.pop(home, 0)
        shown = (lines.pid, lines.label, lines.stream, lines.lines)
        return PrintedLines(job, *shown, left_out, lines.node)

    def forget(self, node: str) -> None:
        """It is lost: nobody there reads anything."""
        self._unread.pop(node, None)
        for home in [home for home in self._left_out if home[0] == node]:
            del self._left_out[home]


def as_shown(row: PrintedLines, name: str) -> LogLines:
    """The row as the driver gets it; ``name`` of the node that has sent it."""
    return LogLines(row.pid, row.label, row.stream, row.lines, row.origin or name)
