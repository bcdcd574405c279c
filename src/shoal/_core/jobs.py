"""Jobs: what one driver, or one detached actor, has caused.

A job is a root of work. Its number marks every queue, task and worker that belongs to it, and when
it ends they end (RULES O-8). Two kinds::

    driver joins --------------> running --(driver leaves or dies)--> ended
    a detached actor is made --> running --(the actor is dead)------> ended        (A-14: a root of
    its own)
    a task of another node's --> running --(that node says so, or is lost)--> ended
    job comes: a guest

So work below a detached actor outlives the driver that made the actor, and its own driver's does
not. A guest is what one job of another node does here; it has a number of this node.

1. A job has a driver, a root actor or another node's job, never two of them.
2. Functions exported in a job are held until it ends; an equal digest exported again gets the first
   key.
3. The owner is the driver that started a session with ``init()``: its end is the session's.
"""

from __future__ import annotations

from collections import OrderedDict

from shoal._proto.messages import JobConfig

NUMBER_MOST = 0xFFFF
"""A slot of node memory has 16 bits for the number of its job; then they begin again."""


class Job:
    """One job."""

    __slots__ = (
        "began_at",
        "config",
        "driver",
        "end_reason",
        "ended_at",
        "functions",
        "home",
        "namespace",
        "number",
        "pid",
        "queues",
        "root_actor",
    )

    def __init__(self, number: int, config: JobConfig, namespace: str, began_at: float) -> None:
        self.number = number
        self.config = config
        self.namespace = namespace
        self.driver = -1
        """Process index of its driver; -1: gone, or there was none."""
        self.pid = 0
        self.root_actor: str | None = None
        self.home: tuple[str, int] | None = None
        """Of a guest: the node that has the job, and its number there."""
        self.began_at = began_at
        self.ended_at: float | None = None
        self.end_reason = ""
        self.functions: dict[bytes, tuple[int, str, int]] = {}
        """digest -> (key, name, size in bytes)."""
        self.queues: dict[object, int] = {}
        """Scheduling class -> queue."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.ended_at is not None


class JobTable:
    """All jobs of a session, the ended ones too (up to a limit)."""

    def __init__(self, session: str, ended_most: int) -> None:
        self._session = session
        self._ended_most = ended_most
        self.running: dict[int, Job] = {}
        self.ended: OrderedDict[int, Job] = OrderedDict()
        self.by_driver: dict[int, Job] = {}
        self.guests: dict[tuple[str, int], Job] = {}
        """By what they are at home."""
        self._number = 0

    def begin(self, now: float, config: JobConfig) -> Job:
        """A new job; without a namespace it gets one of its own (RULES T10)."""
        self._number = self._next_number()
        namespace = config.namespace or f"anonymous-{self._session}-{self._number}"
        job = Job(self._number, config, namespace, now)
        self.running[job.number] = job
        return job

    def _next_number(self) -> int:
        number = self._number % NUMBER_MOST + 1
        while number in self.running or number in self.ended:
            number = number % NUMBER_MOST + 1
        return number

    def restore(self, number: int, config: JobConfig, namespace: str, now: float) -> Job:
        """A job of a former node daemon, to be put among the running or the ended ones."""
        self._number = max(self._number, number)
        return Job(number, config, namespace, now)

    def set_driver(self, job: Job, index: int, pid: int) -> None:
        """``index`` is its driver."""
        assert job.root_actor is None and index not in self.by_driver
        job.driver, job.pid = index, pid
        self.by_driver[index] = job

    def set_home(self, job: Job, home: tuple[str, int]) -> None:
        """It is a guest."""
        assert home not in self.guests
        job.home = home
        self.guests[home] = job

    def end(self, now: float, job: Job, reason: str) -> list[int]:
        """It is over; numbers of ended jobs that are forgotten for it."""
        job.ended_at = now
        job.end_reason = reason
        del self.running[job.number]
        self.by_driver.pop(job.driver, None)
        if job.home is not None:
            del self.guests[job.home]
        job.driver = -1
        job.functions.clear()
        job.queues.clear()
        self.ended[job.number] = job
        forgotten = []
        while len(self.ended) > self._ended_most:
            forgotten.append(self.ended.popitem(last=False)[0])
        return forgotten

    def validate(self) -> None:
        """Assert the invariants."""
        for number, job in self.running.items():
            assert job.number == number and not job.is_over
            roots = (job.driver >= 0, job.root_actor is not None, job.home is not None)
            assert sum(roots) == 1
        for index, job in self.by_driver.items():
            assert job.driver == index and self.running[job.number] is job
        assert self.guests == {job.home: job for job in self.running.values() if job.home}
        assert not set(self.running) & set(self.ended)
