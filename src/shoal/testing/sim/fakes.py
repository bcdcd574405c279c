"""Naive node memory and processes for the simulator.

Everything here is what the native module and the real processes do, written so simply that it is
easy to believe: dictionaries instead of rings, one virtual clock instead of cores. It promises only
what ``_native.pyi`` promises, and is as unkind as that allows: a worker acknowledges late, takes
one more task after it was asked to let go, entries may be looked at at any moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal._core.resources import Amounts
from shoal._proto.messages import ActorInfo, Assignment

if TYPE_CHECKING:
    from shoal.testing.sim.recipes import FakeRecipe
    from shoal.testing.sim.room import FakeValue


@dataclass(frozen=True)
class Appetite:
    """What a function takes of its process's memory."""

    function: int
    """Its name; 0: a call's, which nobody learns anything of."""
    grows_bytes: int
    """Until half of its time is over."""
    keeps_bytes: int = 0
    """What the process has afterwards, for good."""


@dataclass
class Script:
    """What a task will do when it runs."""

    duration_s: float
    crashes: int = 0
    """So many attempts kill their process in the middle."""
    raises: int = 0
    """So many attempts raise something retryable."""
    child: Script | None = None
    """Submitted in the middle to ``child_amounts`` and waited for."""
    child_amounts: dict[str, float] | None = None
    is_deaf: bool = False
    """Code that never comes back to Python: it hears of no cancel."""
    timeout_s: float | None = None
    sizes: tuple[float, ...] = ()
    """Of the items that it yields in its second half, if it is a generator."""
    limit: int = 0
    """So many items wait for its consumer at most; 0: any number."""
    function: int = 0
    inputs: tuple[FakeValue, ...] = ()
    outputs: tuple[FakeValue, ...] = ()
    recipe: FakeRecipe | None = None
    """How its results are made again."""
    appetite: Appetite | None = None

    @property
    def is_stream(self) -> bool:
        """A generator; its end is somebody's to drop."""
        return bool(self.sizes)


@dataclass
class FakeTask:
    """One task or call."""

    key: int
    job: int
    queue: int
    script: Script
    max_retries: int
    state: str = "QUEUED"
    """QUEUED, RUNNING, DONE or FAILED."""
    attempt: int = 1
    charged: int = 0
    runner: int = -1
    record: bytes = b""
    submitted_at: float = 0.0
    started_at: float | None = None
    ended_at: float = 0.0
    moved_at: float = 0.0
    """When it was last submitted, taken, tried again or over."""
    parent: int = 0
    """The task that submitted it; only the parent holds its ref, so both go together."""
    cancelled_at: float | None = None
    """When the daemon has answered that it is cancelled."""
    is_unwanted: bool = False
    """Somebody has asked for its end, or dropped its stream."""
    is_forced: bool = False
    deadline: float | None = None
    told: tuple[int, bytes] | None = None
    """The attempt that was asked to end, and the record that it fails with."""
    waiters: list[Callable[[], None]] = field(default_factory=list)
    """What goes on when it is over."""

    def __str__(self) -> str:
        where = f"runs in process {self.runner}" if self.state == "RUNNING" else self.state
        facts = [f"of job {self.job}, queue {self.queue}, attempt {self.attempt}, {where}"]
        if self.parent:
            facts.append(f"child of task {self.parent}")
        if self.cancelled_at is not None:
            facts.append(f"cancelled at {self.cancelled_at:.6f}")
        return f"task {self.key} ({', '.join(facts)})"

    @property
    def is_over(self) -> bool:
        return self.state in ("DONE", "FAILED")


@dataclass
class FakeQueue:
    """One queue of node memory."""

    queue: int
    generation: int
    kind: int
    job: int
    amounts: Amounts = ()
    env: str | None = None
    """Key of the environment that its tasks were to have; None: who asked for it has died."""
    group: str | None = None
    """The placement group that its tasks are to run in, "" for none, None: anywhere."""
    actor_id: str = ""
    entries: deque[FakeTask] = field(default_factory=deque)
    takes: int = 0
    took_at: float = 0.0
    is_hungry: bool = False
    dead_record: bytes | None = None


@dataclass
class FakeGroup:
    """One placement group, as those know it who asked for it."""

    bundles: list[dict[str, float]]
    maker: int
    """Process index of the driver."""
    is_possible: bool
    is_ready: bool = False
    removed_at: float | None = None
    revision: int = 0


@dataclass
class FakeProcess:
    """A driver or worker."""

    index: int
    pid: int
    is_driver: bool
    job: int = 0
    assignment: Assignment | None = None
    actor: ActorInfo | None = None
    assigned: int = 0
    attached: int = 0
    running: list[FakeTask] = field(default_factory=list)
    is_blocked: bool = False
    has_resumed: bool = False
    """It was blocked in its present task: its CPUs may be in use twice (RULES S-7)."""
    is_leaving: bool = False
    is_ready: bool = False
    """Takes from queues: a worker after its assignment, an actor after its constructor."""
    watched: list[int] = field(default_factory=list)
    """Keys of tasks for whose ends a driver waits that has nothing else to do."""
    streams: list[int] = field(default_factory=list)
    """Keys of streams that a driver reads."""
    requests: int = 0
    is_waking: bool = False
    kernel_oom: str = ""
    """What shows that the kernel ended it for want of memory."""
    stopped_until: float = 0.0
    """SIGSTOP until then: it does nothing, and what it was about to do comes afterwards."""

    def __str__(self) -> str:
        kind = "driver" if self.is_driver else "worker"
        tasks = ", ".join(f"task {task.key}" for task in self.running) or "nothing"
        actor = "" if self.actor is None else f" of actor {self.actor.actor_id}"
        return f"process {self.index} ({kind}{actor} of job {self.job}, runs {tasks})"

    def limits(self) -> dict[int, int]:
        """How many tasks of each queue it runs side by side."""
        if self.actor is None or not self.attached:
            return {self.attached: 1}
        spec = self.actor.spec
        numbers = [self.attached, *(number for number, _ in self.actor.group_queues)]
        return dict(zip(numbers, [spec.max_concurrency, *spec.groups.values()], strict=True))

    def has_room(self, queue: int) -> bool:
        """Whether it would take another task of this queue now."""
        if self.actor is None:
            return queue == self.attached and not self.running
        return sum(task.queue == queue for task in self.running) < self.limits().get(queue, 0)
