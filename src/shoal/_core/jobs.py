"""Jobs: what one driver, or one detached actor, has caused.

A job is a root of work. Its number marks every queue, task and worker that belongs to it, and when
it ends they end (RULES O-8). Two kinds::

    driver joins --------------> running --(driver leaves or dies)--> ended
    a detached actor is made --> running --(the actor is dead)------> ended        (A-14: a root of
    its own)

So work below a detached actor outlives the driver that made the actor, and its own driver's does
not.

1. A job has a driver or a root actor, never both.
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

    def end(self, now: float, job: Job, reason: str) -> list[int]:
        """It is over; numbers of ended jobs that are forgotten for it."""
        job.ended_at = now
        job.end_reason = reason
        del self.running[job.number]
        self.by_driver.pop(job.driver, None)
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
            assert (job.driver >= 0) != (job.root_actor is not None)
        for index, job in self.by_driver.items():
            assert job.driver == index and self.running[job.number] is job
        assert not set(self.running) & set(self.ended)
