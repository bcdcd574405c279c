"""Who is next: CPU-seconds received, divided by weight, per job and then per scheduling class.

A job (or class) that had nothing to do for an hour must not get everything for the next hour, so
whoever becomes active starts level with the least served of those that are active ("virtual
time" of start-time fair queueing, Goyal et al. 1996).

Order of service: higher priority, then less served job, then less served class, then who asked
first.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

Order = tuple[float, float, float, int]
"""(-priority, job's seconds by weight, class's seconds, ticket): the least is served first."""


class JobShare(msgspec.Struct):
    """What one job has received."""

    priority: int
    weight: float
    served_s: float = 0.0
    """CPU-seconds divided by weight."""


class Shares:
    """The shares of all jobs of a node."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobShare] = {}
        self._active: set[int] = set()
        """Jobs that had something running or waiting at the last look."""

    def add(self, job: int, priority: int, weight: float) -> None:
        """A job begins."""
        self.jobs[job] = JobShare(priority, weight)

    def remove(self, job: int) -> None:
        """A job has ended."""
        self.jobs.pop(job, None)
        self._active.discard(job)

    def charge(self, job: int, cpu_s: float) -> None:
        """``job`` has received ``cpu_s`` CPU-seconds."""
        share = self.jobs.get(job)
        if share is not None:
            share.served_s += cpu_s / share.weight

    def activate(self, active: Iterable[int]) -> None:
        """These jobs, and only these, have something running or waiting."""
        now_active = {job for job in active if job in self.jobs}
        begun = now_active - self._active
        if begun:
            stay = [self.jobs[job].served_s for job in now_active & self._active]
            floor = min(stay, default=0.0)
            for job in begun:
                self.jobs[job].served_s = max(self.jobs[job].served_s, floor)
        self._active = now_active

    def order(self, job: int, class_served_s: float, ticket: int) -> Order:
        """Where a request stands in line."""
        share = self.jobs.get(job)
        if share is None:
            return (0.0, 0.0, class_served_s, ticket)
        return (-float(share.priority), share.served_s, class_served_s, ticket)

    def validate(self) -> None:
        """Assert what must hold."""
        assert self._active <= set(self.jobs)
        for share in self.jobs.values():
            assert share.weight > 0 and share.served_s >= 0
