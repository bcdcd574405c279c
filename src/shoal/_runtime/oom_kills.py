"""Whether the kernel has ended a process for want of memory: the counter of the group around us.

A process that the kernel ends for that dies of SIGKILL, as one that somebody has killed. What tells
them apart is the counter ``oom_kill`` of the group that the process is in (``memory.events`` in the
one layout of cgroups, ``memory.oom_control`` in the other), or of the machine where there is none.
A rise explains one death within ``CLAIM_S``, and no other.
"""

from __future__ import annotations

from shoal._base import clock
from shoal._runtime.machine_facts import enclosing_groups

CLAIM_S = 10.0


def counter_path() -> str:
    """The file with the counter that counts us."""
    for group in enclosing_groups("memory")[:1]:
        return f"{group.path}/{'memory.events' if group.is_v2 else 'memory.oom_control'}"
    return "/proc/vmstat"


def read_count(path: str) -> int:
    """How many processes were ended so far; 0 if nobody says."""
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    except OSError:
        pass  # not mounted, or not for us to see
    return 0


class OomKills:
    """Rises of the counter, and which of them have explained a death."""

    def __init__(self, path: str = "") -> None:
        self._path = path or counter_path()
        self._count = read_count(self._path)
        self._rises: list[float] = []
        """When each kill that has explained nothing yet was seen."""

    def look(self) -> None:
        """See whether there were more of them."""
        count = read_count(self._path)
        now = clock.now()
        self._rises = [at for at in self._rises if now - at < CLAIM_S]
        self._rises += [now] * (count - self._count)
        self._count = count

    def claim(self, signal: int | None) -> str:
        """What shows that the kernel ended a process that has just died so; "": nothing does."""
        if signal != 9:
            return ""
        self.look()
        if not self._rises:
            return ""
        self._rises.pop()
        return f"oom_kill in {self._path} has risen to {self._count}"
