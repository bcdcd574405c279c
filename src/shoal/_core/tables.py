"""The state of one node: its parts side by side, and the little that belongs to none of them.

Nothing here decides. ``reactions_*`` are lists of functions named for what happened; each gets
these tables, changes the parts and returns commands (as HyperQueue separates ``core`` from
``reactor``). The parts do not know each other and never see these tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shoal._base.config import NodeConfig
from shoal._core import commands as do
from shoal._core.actors import ActorTable
from shoal._core.asks import GroupAsk
from shoal._core.cancels import Cancels
from shoal._core.crash_loops import CrashLoops
from shoal._core.environments import Environments
from shoal._core.events import Event, Requested
from shoal._core.groups import GroupTable
from shoal._core.jobs import Job, JobTable
from shoal._core.locks import LockTable
from shoal._core.memory_admission import Rules
from shoal._core.memory_news import MemoryNews
from shoal._core.memory_watch import MemoryWatch
from shoal._core.mirror import Mirror
from shoal._core.pool import Pool
from shoal._core.resources import CPU, UNIT, Account, Room, Target
from shoal._core.scheduler import Scheduler
from shoal._core.sights import Sights
from shoal._core.store import DropRecord, DropRow
from shoal._core.story import Stories
from shoal._core.tasks import Crashes
from shoal._proto.messages import KvDelete, KvPut, Message

if TYPE_CHECKING:
    from shoal._core.elsewhere import Elsewhere


class ClassTicket(msgspec.Struct, frozen=True):
    """``NewQueue`` for a scheduling class is under way."""

    job: int
    scheduling_class: object
    asked: tuple[tuple[int, int], ...]
    """(index, request) of who waits for it."""
    guest: tuple[str, int, bytes] | None = None
    """Which tasks of another node it is for."""


class ActorTicket(msgspec.Struct, frozen=True):
    """``NewQueue`` for an actor is under way."""

    actor_id: str
    index: int
    request: int


class BirthTicket(msgspec.Struct, frozen=True):
    """``GiveAway`` is under way for an actor that its creator waits for."""

    reply: do.Reply


class RetryTicket(msgspec.Struct, frozen=True):
    """``Requeue`` on behalf of a worker's ``RetryTask``."""

    index: int
    request: int
    queue: int


class Inquiry(msgspec.Struct, frozen=True):
    """Somebody has asked why, and node memory is being looked at."""

    index: int
    request: int
    about: str
    sights: Sights
    rounds: int = 0


class CallerTicket(msgspec.Struct, frozen=True):
    """Queues in which calls to an actor of another node wait: made, or under way."""

    actor_id: str
    key: int
    """What stands here for its lifetime object."""
    n_groups: int
    asked: tuple[tuple[int, int], ...] = ()
    """(index, request) of who waits for them."""
    queues: list[tuple[int, int]] = []
    record: bytes = b""
    """What calls get: the actor has ended."""

    def has(self, queue: int) -> bool:
        """Whether it is one of them."""
        return any(queue == number for number, _ in self.queues)


class RecordTicket(msgspec.Struct, frozen=True):
    """``ReadValues`` for the record of a detached actor is under way."""

    actor_id: str
    reply: do.Reply | None
    """To who has made it."""


class RestoreTicket(msgspec.Struct, frozen=True):
    """``PutValues`` for a detached actor of a former session is under way."""

    actor_id: str
    data: bytes
    """Its record."""


RUNS_NOTHING = "no node of the cluster has that, and the one here is a program's: it runs nothing"
"""What is said of that node if no other one can do it either."""

Ticket = (
    ClassTicket
    | ActorTicket
    | CallerTicket
    | RetryTicket
    | RecordTicket
    | RestoreTicket
    | BirthTicket
)


def _scheduler(config: NodeConfig, account: Account, environments: Environments) -> Scheduler:
    made = Scheduler(account, config.cores, config.limits, environments.is_ready)
    if config.is_driver:
        made.node = Target(Room(()), why=RUNS_NOTHING)
    return made


def _memory(config: NodeConfig, cpus: int) -> MemoryWatch:
    return MemoryWatch(
        Rules(
            config.memory_bytes,
            config.memory_threshold,
            config.memory_refresh_s,
            cpus,
            config.limits.idle_worker_s,
        )
    )


def _mirror(config: NodeConfig) -> Mirror:
    has_process = config.has_store_process
    if has_process is None:
        has_process = config.started
    return Mirror(config.node_id.hex(), has_process, shares_kv=config.in_cluster)


class Lease(msgspec.Struct):
    """Of a member of a cluster; any other node has one for ever."""

    until: float = float("inf")
    """So long this node may begin what must not run twice."""
    is_over: bool = False

    @property
    def ends_at(self) -> float | None:
        """When it will be over."""
        return None if self.is_over or self.until == float("inf") else self.until


class NodeTables:
    """Everything that a node's machine knows."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        limits = config.limits
        self.limits = limits
        self.account = Account(config.total, config.gpu_ids)
        self.environments = Environments()
        self.scheduler = _scheduler(config, self.account, self.environments)
        cpus = -(-self.account.total.get(CPU, 0) // UNIT)
        self.pool = Pool(limits, min(cpus, limits.prestart_most))
        self.actors = ActorTable(limits)
        self.crashes = Crashes(limits)
        self.crash_loops = CrashLoops()
        self.memory = _memory(config, cpus)
        self.memory_facts: dict[int, dict[str, object]] = {}
        """What errors say of workers that were ended for their memory, until they are gone."""
        self.memory_news = MemoryNews()
        self.cancels = Cancels()
        self.jobs = JobTable(config.session, limits.jobs_ended_most)
        self.locks = LockTable()
        self.groups = GroupTable(limits)
        self.mirror = _mirror(config)
        self.store = self.mirror.tables
        """The tables, or their mirror in a started session."""
        self.early: list[Event] = []
        """What was asked before the store had said what there is."""
        self.stories = Stories(limits.story_most)
        self.others: frozenset[str] = frozenset()
        self.elsewhere: Elsewhere | None = None
        """The other nodes of the cluster: ids, and what they could run, once that is known."""
        self.drained: frozenset[str] = frozenset()
        """Nodes that have been drained: they never come again."""
        self.lease = Lease()
        self.is_draining = False
        """Nothing new begins here that another node could do."""
        self.guests: dict[tuple[str, int, bytes], int] = {}
        """Queues for tasks of other nodes: by node, its number of the job, what they need."""
        self.name_asks: dict[int, tuple[Requested, str]] = {}
        """Requests that wait for what other nodes say of a name, and its namespace."""
        self.claimed: set[tuple[str, str]] = set()
        """Names that this node has in the whole cluster."""
        self.group_asks: dict[int, Requested | None] = {}
        self.callers: dict[str, CallerTicket] = {}
        """Of actors of other nodes that somebody here has a handle of, by id."""
        self.refused: dict[tuple[str, int, bytes], str] = {}
        """... and why there is none."""
        self.owner = -1
        """The driver whose end is the session's; -1 in a started one."""
        self.is_over = self.is_starving = False
        self.tickets: dict[int, Ticket] = {}
        self.actor_queues: dict[int, str] = {}
        """Queue -> actor id, as long as the queue exists."""
        self.needed_queues: frozenset[int] = frozenset()
        """Idle queues that rebuilds of lost values could need, as of the last look."""
        self.doomed: set[int] = set()
        """Class queues of ended jobs that still have workers."""
        self.freeing: dict[int, float] = {}
        """Queues somebody may still be inside of -> when to try again."""
        self.waiting_looks: list[Requested] = []
        """Requests that are answered after the next look at the workers."""
        self.name_waiters: dict[tuple[str, str], list[Requested]] = {}
        self.inquiries: dict[int, Inquiry] = {}
        """Explanations that are being made."""
        self.retries: list[Requested] = []
        """Requests to be looked at once more in this very step."""
        self.ended_roots: list[Job] = []
        """Jobs whose root actor has just been buried."""
        self.housekeeping_at: float | None = None
        self.alarm_at: float | None = None
        self._adopted: dict[int, int] = {}
        self._ticket = 0

    # ---- small things that many reactions need
    def new_ticket(self) -> int:
        """A number for a command that is answered."""
        self._ticket += 1
        return self._ticket

    def adopt(self, key: int) -> list[do.Command]:
        """Hold an object; native memory knows one hold of the daemon, so count here."""
        count = self._adopted.get(key, 0)
        self._adopted[key] = count + 1
        return [] if count else [do.Adopt(key)]

    def release(self, key: int) -> list[do.Command]:
        """Drop one of the holds."""
        count = self._adopted.pop(key, 0)
        if count > 1:
            self._adopted[key] = count - 1
        return [do.Release(key)] if count == 1 else []

    def has_adopted(self, key: int) -> bool:
        """Whether the daemon has a hold on it."""
        return key in self._adopted

    def forget_adopted(self, key: int) -> None:
        """The object had gone before it could be held."""
        self._adopted.pop(key, None)

    def tell(self, now: float, about: str, text: str) -> None:
        """A line of a story."""
        self.stories.tell(now, about, text)

    def job_of(self, index: int) -> Job | None:
        """The job that process ``index`` works for."""
        job = self.jobs.by_driver.get(index)
        if job is not None:
            return job
        worker = self.pool.workers.get(index)
        if worker is None or worker.binding is None:
            return None
        return self.jobs.running.get(worker.binding.job)

    # ---- the store
    def write(self, write: Message, *replies: do.Reply | None) -> list[do.Command]:
        """Change a table; ``replies`` go out once the change cannot be lost any more, if it is one
        that may not be lost."""
        return self.mirror.write(write, tuple(reply for reply in replies if reply is not None))

    def drop_row(self, table: str, key: str) -> list[do.Command]:
        """Take a row away."""
        return self.write(DropRow(table, key))

    def drop_record(self, name: str) -> list[do.Command]:
        """Nobody will be made from it any more."""
        return self.write(DropRecord(name)) if name in self.store.records else []

    def write_kv(self, write: KvPut | KvDelete, index: int, request: int) -> list[do.Command]:
        """Change the key-value table; the store's answer is the answer."""
        return self.mirror.write_kv(write, do.Reply(index, request, write))

    def is_unwritten(self, table: str, key: str) -> bool:
        """Whether the store has yet to answer for a row."""
        return self.mirror.is_unwritten(table, key)

    def validate(self) -> None:
        """Assert the invariants of every part and between them."""
        self.scheduler.validate()
        self.pool.validate()
        self.actors.validate()
        self.crashes.validate()
        self.crash_loops.validate()
        self.cancels.validate()
        self.memory.validate(self.pool.workers)
        self.memory_news.validate()
        self.jobs.validate()
        self.environments.validate()
        self.locks.validate()
        self._validate_groups()
        self.mirror.validate()
        assert all(count > 0 for count in self._adopted.values())
        self._validate_workers()
        for queue, actor_id in self.actor_queues.items():
            assert queue not in self.scheduler.held.queues
            actor = self.actors.find(actor_id)
            assert actor is not None and queue in actor.queues

    def _validate_groups(self) -> None:
        """Groups and scheduler agree on what is asked for and what is held."""
        self.groups.validate()
        groups = [*self.groups.living.values(), *self.groups.ending.values()]
        parts = self.groups.parts.values()
        accounts = {a for group in groups if not group.is_shared for a in group.accounts.values()}
        accounts |= {account for part in parts for account in part.accounts}
        accounts.update(self.groups.leaving)
        assert all(account.grants for account in self.groups.leaving), "to be given back"
        assert accounts == set(self.scheduler.held.accounts.bundles)
        own = [g for g in self.groups.living.values() if not g.is_shared or g.job]
        pending = {g.group_id for g in own if not g.is_placed}
        pending |= {
            part.who for part in parts if part.indexes and not part.accounts and not part.is_ending
        }
        assert pending == {
            ask.who for ask in self.scheduler.asks.values() if isinstance(ask, GroupAsk)
        }
        for group in self.groups.ending.values():
            assert any(each.grants for each in group.accounts.values()), "to be buried"

    def _validate_workers(self) -> None:
        """Pool, scheduler and actors agree on what every worker does."""
        held = self.scheduler.held
        for index, worker in self.pool.workers.items():
            queue = held.by_worker.get(index)
            if worker.phase.value == "attached":
                assert queue is not None, index
            elif worker.phase.value in ("idle", "generic", "joined", "actor"):
                assert queue is None, index
            if worker.phase.value == "actor":
                assert index in self.actors.by_worker, index
            if queue is not None:
                assert worker.binding is not None and worker.binding.job == queue.job
        assert set(held.by_worker) <= set(self.pool.workers)
        assert set(self.actors.by_worker) <= set(self.pool.workers)
        for actor_id, hold in held.holds.items():
            actor = self.actors.living.get(actor_id)
            assert actor is not None and actor.worker == hold.worker
