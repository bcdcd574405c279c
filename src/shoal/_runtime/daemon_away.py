"""Where a value is that is not in node memory: in which file or on which other node, or how it is
being made again; and where a task is that another node has.

For explanations and for ``shoal memory``: what the spiller, lineage and the bridge know, read when
somebody asks. Nothing is kept here, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shoal._core.sight_rows import Away, Lent
from shoal._native import Memory
from shoal._runtime.daemon_lineage import LostValues
from shoal._runtime.daemon_spill import Spiller

if TYPE_CHECKING:
    from shoal._runtime.bridge.bridging import Bridging
    from shoal._runtime.daemon_abroad import Abroad


class Whereabouts:
    """Looks values up that are not in memory.

    Args:
        memory: Node memory.
        spiller: Knows which file has a record.
        lost: Knows how a lost value is being made again.
    """

    def __init__(
        self,
        memory: Memory,
        spiller: Spiller,
        lost: LostValues,
    ) -> None:
        self._memory = memory
        self._spiller = spiller
        self._lost = lost
        self.abroad: Abroad | None = None
        """What other nodes have; None in a session of one machine."""
        self.stays: Callable[[int], bool] = lambda flags: False
        """Whether a task with these flags is for this node alone, although there are others."""

    def away(self, key: int) -> Away | None:
        """Where the value of ``key`` is; None: in memory, or nobody has it any more."""
        found = self._memory.spilled(key)
        if found is None:
            return None
        number, _, pins = found
        if node := self._node_of(key):
            return Away(is_wanted=pins > 0, node=node)
        if number:
            files = self._spiller.files
            file = files.file_of(number) if files is not None else ""
            return Away(file=file, is_wanted=pins > 0)
        return self._lost.rebuild_of(key) or Away(is_wanted=pins > 0)

    def _bridges(self) -> list[Bridging]:
        return [] if self.abroad is None else self.abroad.bridges()

    def _node_of(self, key: int) -> str:
        """Which other node has the bytes of a value."""
        places = (each.pulling.place_of(key) for each in self._bridges())
        return next(filter(None, places), "")

    def lent(self, key: int) -> Lent | None:
        """Which node has a task that the daemon runs; None: nobody knows."""
        for bridging in self._bridges():
            if (lending := bridging.machine.lending_of(key)) is not None:
                return Lent(lending.node, lending.since, lending.runs)
            if bridging.lending.has(key):
                return Lent()
        return None

    def home(self, key: int) -> str:
        """Which other node gives the value of ``key``; "": it is of this one."""
        names = (each.proxies.proxy_name(key) for each in self._bridges())
        return next((name.node for name in names if name is not None), "")

    def text(self, key: int) -> str:
        """The same for people: "memory", a file, another node, or what else has become of it."""
        away = self.away(key)
        if away is None:
            return "memory"
        if away.file:
            return away.file
        if away.node and self.abroad is not None:
            return f"node {self.abroad.seen.name_of(away.node)}"
        return f"being rebuilt, attempt {away.attempt}" if away.attempt else "evicted"
