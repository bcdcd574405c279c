"""The lease of a node, written where those look who must not wait for the daemon.

Workers compare the word in node memory before each claim, and the zygote ends the processes that
are marked there when the lease is over. What follows for the daemon's own decisions stands in
``_core.reactions_lease``.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal._core import commands
from shoal._core.events import AnyEvent, LeaseSet
from shoal._native import Memory


class Leases:
    """Until when this node may begin anything, and whose processes end with that."""

    def __init__(self, memory: Memory, post: Callable[[AnyEvent], None]) -> None:
        self._memory = memory
        self._post = post

    def set(self, until: float) -> None:
        """The control store has answered, or no store runs."""
        self._post(LeaseSet(until))
        self._memory.set_lease(until)

    def perform_mark_leased(self, command: commands.MarkLeased) -> None:
        """Before the process hears what it is to be."""
        self._memory.set_leased(command.index, command.pid)
