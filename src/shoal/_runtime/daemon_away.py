"""Where a value is that has left node memory: in which file, or how it is being made again.

For explanations and for ``shoal memory``: what the spiller and lineage know, read when somebody
asks. Nothing is kept here, and nothing is changed.
"""

from __future__ import annotations

from shoal._core.events import Away
from shoal._native import Memory
from shoal._runtime.daemon_lineage import LostValues
from shoal._runtime.daemon_spill import Spiller


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

    def away(self, key: int) -> Away | None:
        """Where the value of ``key`` is; None: in memory, or nobody has it any more."""
        found = self._memory.spilled(key)
        if found is None:
            return None
        number, _, pins = found
        if number:
            files = self._spiller.files
            file = files.file_of(number) if files is not None else ""
            return Away(file=file, is_wanted=pins > 0)
        return self._lost.rebuild_of(key) or Away(is_wanted=pins > 0)

    def text(self, key: int) -> str:
        """The same for people: "memory", a file, or what else has become of it."""
        away = self.away(key)
        if away is None:
            return "memory"
        if away.file:
            return away.file
        return f"being rebuilt, attempt {away.attempt}" if away.attempt else "evicted"
