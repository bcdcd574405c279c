"""What an explanation has seen of node memory so far, and what it has to see next.

The machine knows tables, not node memory. So an explanation is made in rounds: it is made from the
beginning with what has been seen, and where it comes to a task, process or queue that it has not
seen, ``Need`` ends the round; the shell looks, and the next round begins. A round costs less than a
look, and nothing has to be remembered between two of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal._core.events import QueueState
from shoal._core.sight_rows import ProcessSight, TaskSight

NOT_THERE = TaskSight(0, is_gone=True)


class Need(Exception):
    """The explanation goes on when these have been looked at."""

    def __init__(
        self,
        tasks: Iterable[int] = (),
        processes: Iterable[int] = (),
        queues: Iterable[int] = (),
        has_holders: bool = False,
    ) -> None:
        super().__init__()
        self.has_holders = has_holders
        self.tasks = tuple(tasks)
        self.processes = tuple(processes)
        self.queues = tuple(queues)


class Sights:
    """All that has been seen for one explanation."""

    def __init__(self) -> None:
        self.tasks: dict[int, TaskSight] = {}
        self.processes: dict[int, ProcessSight] = {}
        self.queues: dict[int, QueueState] = {}
        self.used_bytes = 0
        self.capacity_bytes = 0
        self.held_bytes: tuple[tuple[int, int], ...] | None = None
        """(process, bytes that it has refs to), if that was asked for."""

    def task(self, key: int) -> TaskSight:
        """The object or task ``key``."""
        if key not in self.tasks:
            raise Need(tasks=[key])
        return self.tasks[key]

    def tasks_of(self, keys: Iterable[int]) -> list[TaskSight]:
        """All of them, in one round."""
        keys = list(keys)
        unknown = [key for key in keys if key not in self.tasks]
        if unknown:
            raise Need(tasks=unknown)
        return [self.tasks[key] for key in keys]

    def process(self, index: int) -> ProcessSight:
        """The process ``index``."""
        return self.processes_of([index])[0]

    def processes_of(self, indexes: Iterable[int]) -> list[ProcessSight]:
        """All of them, in one round."""
        indexes = list(indexes)
        unknown = [index for index in indexes if index not in self.processes]
        if unknown:
            raise Need(processes=unknown)
        return [self.processes[index] for index in indexes]

    def queue(self, number: int) -> QueueState:
        """The queue ``number``."""
        if number not in self.queues:
            raise Need(queues=[number])
        return self.queues[number]

    def owned_bytes(self) -> dict[int, int]:
        """Bytes that each process has refs to."""
        if self.held_bytes is None:
            raise Need(has_holders=True)
        return dict(self.held_bytes)
