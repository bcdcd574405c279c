"""What workers print, on its way to who shows it: a driver of this node, or of another one.

::

    WorkerLog --forward--> a driver of this node: LogLines on its connection
                      \\--> a job of another node: to that node's daemon (``bridge/printed.py``),
                           which shows it to the driver of that job

Nobody waits for who shows: what comes faster than it is taken is left out, counted, and said; the
files have it (``worker_logs``).

Invariants:

1. Nothing more is sent to a driver for which ``UNREAD_BYTES_MOST`` wait.
2. Lines that were left out are counted until they have been said.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal._proto.messages import LogLines, Notice
from shoal._runtime.daemon_connections import Connection

UNREAD_BYTES_MOST = 4 << 20
Home = tuple[str, int]
"""A node, and its number of a job."""


class Lines:
    """Lines of one node's workers, and those that come from other nodes."""

    def __init__(self) -> None:
        self.connection_of: Callable[[int], Connection | None] = lambda driver: None
        """Asked for drivers, by their process index."""
        self.send_home: Callable[[Home, LogLines], None] = lambda home, lines: None
        """For a job of another node; in a cluster."""

    def forward(self, to: int | Home, lines: LogLines) -> None:
        """Show ``lines`` to driver ``to``, or to that of a job of another node."""
        if isinstance(to, int):
            self.show(to, lines)
        else:
            self.send_home(to, lines)

    def show(self, driver: int, lines: LogLines, left_out: int = 0) -> None:
        """To a driver of this node; ``left_out``: so many that came before them nobody has."""
        connection = self.connection_of(driver)
        if connection is None:
            return
        connection.unshown_lines += left_out
        if connection.unsent_bytes > UNREAD_BYTES_MOST:
            connection.unshown_lines += len(lines.lines)
            return
        if unshown := connection.unshown_lines:
            connection.unshown_lines = 0
            text = (
                f"{unshown} lines of workers are not shown, they came too fast;"
                " `shoal logs` has them"
            )
            connection.send(0, Notice(text))
        connection.send(0, lines)
