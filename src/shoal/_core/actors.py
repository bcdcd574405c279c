"""Actors: who exists under which name, and in which life.

::

                     2 has a worker          3 ActorStarted
    1 CreateActor -> PENDING ............... (constructing) ---------> ALIVE
                        |                        |   ^                 |   |
                        |                        |   | 6 worker found   |   |
                        |                        v   |                 v   |
                        |            5 process died, restarts left: RESTARTING
                        |                        |   4 back-off, then asks again
                        |                        |                         |
                        +------ 7 ---------------+------------ 7 ----------+--> DEAD (tombstone)

1. The name is taken in the same step as the actor comes to be; ``get_if_exists`` gets the one that
   won.
2. The scheduler has found a worker; incarnation + 1. Its calls wait in its queue all the time.
3. The constructor has returned.
4. 50 ms doubling to 10 s; a life of 60 s starts the back-off anew.
5. Any process death that nobody intended, also in the constructor, and ``kill(no_restart=False)``.
6. Only after the former process has been reaped (RULES A-3).
7. The constructor raised (A-12: final), no restart is left, ``kill``, ``exit_actor``, last handle
   gone (A-4), its job ended, or no node can ever have what it asks for.

For callers an actor is DEAD from the moment that is decided: its queue is dead, ``get_actor`` does
not find it. Its name and what it holds are free when its process has been reaped (K-8); a creation
with that name waits until then.

One that lives on another node is *abroad*: in which of these phases, that node knows
(``reactions_abroad``).

What is true only in one phase stands in that phase's record. Invariants:

* A dead actor has no worker, no name and a cause; tombstones are the last 10,000.
* ``by_worker`` lists exactly the actors whose phase has a worker.
* The incarnation never goes back.
* Those that wait for a moment stand in ``pauses`` and ``drains``, and nobody looks through the
  others.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from shoal._base.config import Limits
from shoal._core.deadlines import Deadlines
from shoal._proto.environments import Environment
from shoal._proto.messages import ActorInfo, ActorSpec, JobConfig

DRAIN_PAUSE_MOST_S = 0.25
SPECS_MOST = 16
SHARED = ("class_name", "methods", "namespace", "place", "hold", "strategy", "groups")
"""What actors of one class mostly have in common."""
LEAVES = "LEAVES"
"""``Actor.moves`` of one of ours that ends here so that another node becomes its home."""
GONE = "GONE"
"""... of one that has another home (``reactions_homes``)."""


class Asking(msgspec.Struct):
    """Waits for the scheduler (states PENDING, RESTARTING)."""

    since: float


class Pausing(msgspec.Struct):
    """Waits for the back-off to end (RESTARTING)."""

    until: float


class Constructing(msgspec.Struct):
    """Its worker runs the constructor (PENDING, RESTARTING)."""

    worker: int


class Living(msgspec.Struct):
    """ALIVE."""

    worker: int
    since: float


class Ending(msgspec.Struct):
    """DEAD for callers; the process is still to be reaped."""

    worker: int
    cause: bytes


class Dead(msgspec.Struct):
    """DEAD: a tombstone."""

    cause: bytes


class Abroad(msgspec.Struct):
    """On another node, or on its way there; PENDING, ALIVE or RESTARTING, as that has said."""

    node: str
    state: str = "PENDING"
    restarts: int = 0
    """That it has had there."""


ActorPhase = Asking | Pausing | Constructing | Living | Abroad | Ending | Dead


class Actor:
    """One actor in all its lives."""

    __slots__ = (
        "actor_id",
        "called_as",
        "checkpoint",
        "crashes",
        "created_at",
        "drain",
        "env",
        "generation",
        "group_queues",
        "has_handles",
        "home",
        "incarnation",
        "job",
        "moves",
        "namespace",
        "phase",
        "pid",
        "queue",
        "restarts",
        "spec",
        "was_abroad",
        "was_given",
    )

    def __init__(
        self, actor_id: str, spec: ActorSpec, job: int, namespace: str, now: float
    ) -> None:
        self.actor_id = actor_id
        self.spec = spec
        self.job = job
        self.namespace = namespace
        self.env = ""
        """Key of its runtime environment."""
        self.queue = 0
        self.generation = 0
        self.group_queues: list[tuple[int, int]] = []
        """(queue, generation) of each concurrency group, in the order of ``spec.groups``."""
        self.checkpoint = 0
        """Key of the state for its next life, held by the daemon."""
        self.created_at = now
        self.incarnation = 0
        self.restarts = 0
        """Restarts used so far."""
        self.crashes = 0
        """Short lives in a row: the back-off."""
        self.pid = 0
        self.home: tuple[str, int] | None = None
        """Of another node's actor: that node, and the key of its lifetime object there."""
        self.moves = ""
        """Of another node's actor: what its home is told instead of its end. Of one of ours whose
        home is to be another node: how far that is (``reactions_homes``)."""
        self.called_as = 0
        """Of another node's actor that is called from this one too: what stands here for its
        lifetime object."""
        self.was_abroad = False
        """Its calls are lent, or were until its host was lost."""
        self.was_given = False
        """Its home was another node, which has been drained."""
        self.has_handles = True
        self.drain: Drain | None = None
        """Its last handle is gone: it ends when its calls are done."""
        self.phase: ActorPhase = Asking(now)

    @property
    def queues(self) -> list[int]:
        """Every queue that it has, its own first."""
        return [self.queue, *(queue for queue, _ in self.group_queues)] if self.queue else []

    @property
    def worker(self) -> int:
        """Its process, -1 if it has none."""
        return getattr(self.phase, "worker", -1)

    @property
    def host(self) -> str:
        """The other node that it lives on; empty: none."""
        return self.phase.node if isinstance(self.phase, Abroad) else ""

    @property
    def is_dead(self) -> bool:
        """Whether callers see it as dead."""
        return isinstance(self.phase, Ending | Dead)

    @property
    def was_guest(self) -> bool:
        """Whether it has ended here for its home, and may live elsewhere now."""
        return self.home is not None and self.is_dead

    @property
    def state(self) -> str:
        """The state as people know it."""
        if self.is_dead:
            return "DEAD"
        if isinstance(self.phase, Living):
            return "ALIVE"
        if isinstance(self.phase, Abroad):
            return self.phase.state
        return "RESTARTING" if self.incarnation > 0 and self.restarts else "PENDING"

    @property
    def cause(self) -> bytes:
        """What calls to the dead actor get."""
        return self.phase.cause if isinstance(self.phase, Ending | Dead) else b""

    def facts(self) -> dict[str, object]:
        """What every record about its death says."""
        return {
            "actor_id": self.actor_id,
            "class_name": self.spec.class_name,
            "name": self.spec.name,
            "incarnation": self.incarnation,
            "pid": self.pid,
        }

    def describe(self, created: bool = True) -> ActorInfo:
        """The message about it."""
        return ActorInfo(
            actor_id=self.actor_id,
            queue=self.queue,
            queue_generation=self.generation,
            spec=self.spec,
            state=self.state,
            incarnation=self.incarnation,
            pid=self.pid,
            cause=self.cause,
            job=self.job,
            created=created,
            group_queues=self.group_queues,
            checkpoint=self.checkpoint,
        )

    def row(self) -> dict[str, object]:
        """The row of the actor table."""
        return {
            "actor_id": self.actor_id,
            "class_name": self.spec.class_name,
            "name": self.spec.name or "",
            "namespace": self.namespace,
            "state": self.state,
            "job": self.job,
            "pid": self.pid,
            "incarnation": self.incarnation,
            "restarts": self.restarts,
            "detached": self.spec.detached,
            "cause": self.cause,
            "key": self.spec.arguments,
        }


class ActorRecord(msgspec.Struct, frozen=True):
    """What a detached actor is made again from, after its node has ended."""

    spec: ActorSpec
    job: int
    namespace: str
    config: JobConfig
    environment: Environment | None
    values: list[bytes] = []
    """Its class and its constructor's arguments, as opaque bytes; empty: it cannot come back."""
    why: str = ""
    """Why not."""


class Drain(msgspec.Struct):
    """Looks whether an actor without handles has calls left, less and less often."""

    pause_s: float = 0.002
    quiet_takes: int = -1
    """Takes at the last look, if it found nothing to do: only a second such look is believed."""


class ActorTable:
    """All actors of a session."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.living: dict[str, Actor] = {}
        """Every actor that is not a tombstone."""
        self.tombstones: OrderedDict[str, Actor] = OrderedDict()
        self._specs: dict[int, ActorSpec] = {}
        """The last one of each class, by the key of its function."""
        self.by_name: dict[tuple[str, str], Actor] = {}
        self.by_worker: dict[int, Actor] = {}
        self.by_key: dict[int, Actor] = {}
        """By the key of its lifetime object, as long as the daemon holds that."""
        self.pauses: Deadlines[str] = Deadlines()
        self.drains: Deadlines[str] = Deadlines()

    def add(self, actor: Actor) -> None:
        """Edge 1."""
        self.living[actor.actor_id] = actor
        self.by_key[actor.spec.arguments] = actor
        if actor.spec.name:
            self.by_name[actor.namespace, actor.spec.name] = actor

    def share(self, spec: ActorSpec) -> ActorSpec:
        """The same, with parts that equal those of the last actor of its class in common with it:
        a node that has a thousand of them, or remembers as many, has these parts once."""
        known = self._specs.get(spec.function)
        if known is not None:
            same = {
                name: getattr(known, name)
                for name in SHARED
                if getattr(known, name) == getattr(spec, name)
            }
            spec = msgspec.structs.replace(spec, **same)
        elif len(self._specs) >= SPECS_MOST:
            del self._specs[next(iter(self._specs))]
        self._specs[spec.function] = spec
        return spec

    def find(self, actor_id: str) -> Actor | None:
        """The actor or its tombstone."""
        return self.living.get(actor_id) or self.tombstones.get(actor_id)

    def named(self, namespace: str, name: str) -> Actor | None:
        """Who has (or, while its process ends, still blocks) the name."""
        return self.by_name.get((namespace, name))

    def assign(self, actor: Actor, worker: int, pid: int) -> None:
        """Edges 2 and 6."""
        assert isinstance(actor.phase, Asking)
        actor.incarnation += 1
        actor.pid = pid
        actor.phase = Constructing(worker)
        self.by_worker[worker] = actor

    def started(self, now: float, actor: Actor) -> None:
        """Edge 3."""
        assert isinstance(actor.phase, Constructing)
        actor.phase = Living(actor.phase.worker, now)

    def can_restart(self, actor: Actor) -> bool:
        """Whether a crash leads to another life."""
        if actor.is_dead:
            return False
        return actor.spec.max_restarts < 0 or actor.restarts < actor.spec.max_restarts

    def crash(self, now: float, actor: Actor) -> None:
        """Edge 5: its process has been reaped and another life is left."""
        assert self.can_restart(actor) and actor.worker >= 0
        phase = actor.phase
        self.by_worker.pop(actor.worker)
        limits = self._limits
        pause = limits.restart_backoff_s * 2.0 ** min(actor.crashes - 1, 16)
        quiet_s = min(limits.restart_quiet_s, limits.restart_quiet_times * pause)
        if isinstance(phase, Living) and now - phase.since >= quiet_s:
            actor.crashes = 0
        if not actor.crashes:
            pause = 0.0  # one is no loop yet, and somebody may be waiting
        actor.crashes += 1
        actor.restarts += 1
        actor.pid = 0
        actor.phase = Pausing(now + min(pause, limits.restart_backoff_most_s))
        self.pauses.set(actor.actor_id, actor.phase.until)

    def stop(self, now: float, actor: Actor) -> None:
        """It has no process, and asks for none: another node is to be its home."""
        self.by_worker.pop(actor.worker, None)
        self.pauses.set(actor.actor_id, None)
        actor.pid = 0
        actor.phase = Asking(now)

    def due(self, now: float) -> list[Actor]:
        """Edge 4: whose back-off is over; they ask again."""
        over = [self.living[actor_id] for actor_id in self.pauses.due(now)]
        for actor in over:
            assert isinstance(actor.phase, Pausing)
            actor.phase = Asking(now)
        return over

    def begin_drain(self, now: float, actor: Actor) -> None:
        """Its last handle is gone: to be looked at, at once and again."""
        actor.drain = Drain()
        self.drains.set(actor.actor_id, now)

    def drains_due(self, now: float) -> list[Actor]:
        """Whose calls are to be looked at now; the next look is planned."""
        found = [self.living[actor_id] for actor_id in self.drains.due(now)]
        for actor in found:
            assert actor.drain is not None
            self.drains.set(actor.actor_id, now + actor.drain.pause_s)
            actor.drain.pause_s = min(actor.drain.pause_s * 2, DRAIN_PAUSE_MOST_S)
        return found

    def _forget_moments(self, actor: Actor) -> None:
        actor.drain = None
        self.drains.set(actor.actor_id, None)
        self.pauses.set(actor.actor_id, None)

    def end(self, actor: Actor, cause: bytes) -> None:
        """Edge 7: decided; buried at once if there is no process."""
        assert not actor.is_dead
        self._forget_moments(actor)
        if actor.worker >= 0:
            actor.phase = Ending(actor.worker, cause)
        else:
            self.bury(actor, cause)

    def bury(self, actor: Actor, cause: bytes) -> None:
        """Its process has been reaped, or it had none."""
        self.by_worker.pop(actor.worker, None)
        actor.phase = Dead(cause)
        self._forget_moments(actor)
        del self.living[actor.actor_id]
        if actor.spec.name:
            self.by_name.pop((actor.namespace, actor.spec.name), None)
        self.tombstones[actor.actor_id] = actor

    def expired_tombstone(self) -> Actor | None:
        """One that is too many; forget it."""
        if len(self.tombstones) <= self._limits.tombstones_most:
            return None
        return self.tombstones.popitem(last=False)[1]

    def next_deadline(self) -> float | None:
        """When ``due`` or a drain has something to do."""
        times = (self.pauses.next(), self.drains.next())
        return min((at for at in times if at is not None), default=None)

    def validate(self) -> None:
        """Assert the invariants."""
        for actor_id, actor in self.living.items():
            assert actor.actor_id == actor_id and not isinstance(actor.phase, Dead)
            if actor.worker >= 0:
                assert self.by_worker[actor.worker] is actor
            until = actor.phase.until if isinstance(actor.phase, Pausing) else None
            assert self.pauses.at(actor_id) == until
            assert (actor_id in self.drains) == (actor.drain is not None)
            assert actor.restarts <= actor.incarnation or actor.incarnation == 0
            if actor.spec.name:
                assert self.by_name[actor.namespace, actor.spec.name] is actor
        for worker, actor in self.by_worker.items():
            assert actor.worker == worker and actor.actor_id in self.living
        for (namespace, name), actor in self.by_name.items():
            assert actor.namespace == namespace and actor.spec.name == name
            assert actor.actor_id in self.living
        for actor in self.tombstones.values():
            assert isinstance(actor.phase, Dead) and actor.cause
        assert len(self.tombstones) <= self._limits.tombstones_most + 1
        for moments in (self.pauses, self.drains):
            moments.validate()
            assert len(moments) <= len(self.living)
