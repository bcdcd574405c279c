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
    is_active: bool = False


class Shares:
    """The shares of all jobs of a node."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobShare] = {}

    def add(self, job: int, priority: int, weight: float) -> None:
        """A job begins."""
        self.jobs[job] = JobShare(priority, weight)

    def remove(self, job: int) -> None:
        """A job has ended."""
        self.jobs.pop(job, None)

    def charge(self, job: int, cpu_s: float) -> None:
        """``job`` has received ``cpu_s`` CPU-seconds."""
        share = self.jobs.get(job)
        if share is not None:
            share.served_s += cpu_s / share.weight

    def activate(self, active: Iterable[int]) -> None:
        """These jobs, and only these, have something running or waiting."""
        now_active = set(active)
        before = [s.served_s for j, s in self.jobs.items() if s.is_active and j in now_active]
        floor = min(before, default=0.0)
        for job, share in self.jobs.items():
            if job in now_active and not share.is_active:
                share.served_s = max(share.served_s, floor)
            share.is_active = job in now_active

    def order(self, job: int, class_served_s: float, ticket: int) -> Order:
        """Where a request stands in line."""
        share = self.jobs.get(job)
        if share is None:
            return (0.0, 0.0, class_served_s, ticket)
        return (-float(share.priority), share.served_s, class_served_s, ticket)

    def validate(self) -> None:
        """Assert what must hold."""
        for share in self.jobs.values():
            assert share.weight > 0 and share.served_s >= 0
