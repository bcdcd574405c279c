"""Who gets the node's resources next: the local scheduler.

It owns the line of those who wait. What is held stands in ``holdings``; processes are the pool's:
``place`` is lent a function that finds a worker for a binding, and returns what came of it.

One pass (``place``): everybody who wants something is given, in the order of ``shares``, what fits,
until nothing fits any more. Who fits but finds no process is reported as missing, so that one is
started; what it would hold is kept aside within the pass only, because when the process is there
somebody else may be first in line.

Actors of one job that ask for the same stand in one *crowd* (``asks``) and are looked at one by
one: when one does not fit, those behind it do not either; when one that would hold nothing has no
process, those behind it have none. So a pass costs what it gives, not how many wait. Placement
groups stand in crowds too; they need no process, and get all their bundles or none.

Who asks draws from its *room*: the node's account, a bundle, or any bundle of a group. Who asks in
a group that has no place yet is not in line: its room is closed.

A full node stays fair (``relieve``): for the first in line that does not fit

* idle attachments of other queues are revoked at once (RULES S-2);
* at most every 50 ms busy ones of queues that are later in line than the waiter are revoked; they
  let go after their present task (S-3).

Reservation (S-3): who has nothing and has waited 1 s for more than is free gets one: what is free
is kept for it, others may use only what it leaves. A request that what actors hold makes impossible
gets none, else it would stop the node for as long as they live; nor does one whose missing
resources tasks have that wait themselves: what they wait for may need what would be kept. One at a
time of each account.

1. Somebody waits => a next look is due within ``fair_s``, and node memory is told to ring
   (``starving``).
2. Unblocked workers of tiny classes (< 1/8 CPU) are at most max(32, 8 x cores) at each grant (S-8).
3. An actor asks or holds, never both.
4. ``waiting`` names one of each crowd: what makes room for the first does so for all.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from shoal._base.config import Limits
from shoal._core import commands as do
from shoal._core.asks import ActorAsk, Asked, Asks, Crowd, GroupAsk
from shoal._core.holdings import ActorHold, Holdings
from shoal._core.queues import Attachment, ClassQueue
from shoal._core.resources import (
    CPU,
    GPU,
    Account,
    Amounts,
    Grant,
    Room,
    Target,
    threads_of,
    units_of,
)
from shoal._core.shares import Order


class Binding(NamedTuple):
    """What a worker belongs to for life (RULES S-10)."""

    job: int
    threads: int
    gpu_ids: tuple[str, ...]
    is_actor: bool
    env: str = ""
    """Key of its runtime environment."""
    group: str = ""
    captures: bool = False


class Missing(NamedTuple):
    """A worker that somebody needs."""

    binding: Binding
    queue: int
    """The queue that it is to serve; 0: an actor."""


Find = Callable[[Missing], int | None]
"""Takes a worker for it out of the pool, if there is one."""


Ask = ClassQueue | Asked


class Turn:
    """Whose turn it is within one pass: a queue, or one of a crowd, first come, first served."""

    __slots__ = ("_behind", "_crowd", "ask", "has_missed")

    def __init__(self, ask: Ask, crowd: Crowd | None = None) -> None:
        self.ask: Ask = ask
        self.has_missed = False
        """One has found no process; so do those behind it, and nobody leaves the crowd any more."""
        self._crowd = crowd
        self._behind: Iterator[Asked] = iter(())

    def miss(self, most: int) -> int:
        """There is no process for ``ask``; for how many of the crowd one is missing, as it is
        clear now."""
        assert self._crowd is not None
        if not self.ask.amounts:
            # Nothing is to be kept aside for those behind it.
            count, self._crowd = min(len(self._crowd), most), None
            return count
        if not self.has_missed:
            self.has_missed = True
            self._behind = iter(self._crowd.values())
            next(self._behind)
        return 1

    def following(self) -> Asked | None:
        """The next of the crowd, if there is one to be looked at."""
        if self._crowd is None:
            return None
        return next(self._behind if self.has_missed else iter(self._crowd.values()), None)


class Placement:
    """What one pass came to."""

    def __init__(self) -> None:
        self.attached: list[tuple[ClassQueue, Attachment]] = []
        self.actors: list[tuple[ActorAsk, ActorHold]] = []
        self.groups: list[tuple[GroupAsk, list[Grant]]] = []
        """What the bundles of groups get."""
        self.missing: list[Missing] = []
        """What fits but has no process yet."""
        self.aside: list[Grant] = []
        """What those would hold."""
        self.tiny_aside = 0


Rank = tuple[bool, Order]

LET_GO_S = 0.1
"""So long a worker that was asked back is counted on."""
RELIEVED_MOST = 64
"""How many waiters one pass makes room for."""


class Scheduler:
    """The line of one node, and how it is served."""

    def __init__(
        self,
        account: Account,
        cores: int,
        limits: Limits,
        is_ready: Callable[[str], bool] = lambda env: True,
    ) -> None:
        """``is_ready``: whether workers with that runtime environment may be had now; who wants
        another is not in the line, and keeps nothing from those who are."""
        self.held = Holdings(account)
        self._is_ready = is_ready
        self.node = Target(Room.of_node(account))
        """Where everything runs that has no place of its own."""
        self.limits = limits
        self.tiny_most = max(limits.tiny_processes_least, limits.tiny_processes_per_core * cores)
        self.asks = Asks(account)
        self.reserved: dict[Account, Ask] = {}
        self.waiting: list[Ask] = []
        """Who did not fit in the last pass, one of each crowd, first in line first."""
        self.look_at: float | None = None
        self._revoked_at = float("-inf")
        self._poll_s = limits.revoke_poll_s

    # ---- who is there
    def retarget(self, now: float, queue: ClassQueue, target: Target) -> list[int]:
        """Other rooms serve it from now on; workers that are to let go of it."""
        self._forget(queue)
        return self.held.retarget(now, queue, target)

    def remove_queue(self, queue: int) -> None:
        """A queue without attachments is gone."""
        self._forget(self.held.remove_queue(queue))

    def withdraw(self, who: str) -> None:
        """An actor or group does not ask any more."""
        gone = self.asks.by_who.get(who)
        if gone is not None:
            self.asks.remove(gone)
            self._forget(gone)

    def _forget(self, ask: Ask) -> None:
        self._unreserve(ask)
        self.waiting = [other for other in self.waiting if other is not ask]

    def _unreserve(self, ask: Ask) -> None:
        for account, other in self.reserved.items():
            if other is ask:
                del self.reserved[account]
                return

    # ---- where to look
    def look_list(self) -> do.Look:
        """Everything that may have changed when the bell rings."""
        queues = self.held.queues.values()
        return do.Look(
            queues=tuple(q.queue for q in queues if q.dead_record is None),
            workers=tuple(self.held.by_worker),
        )

    def due_list(self, now: float) -> do.Look | None:
        """What is to be looked at by now: queues due for their recheck, and if somebody waits,
        every worker."""
        is_due = self.look_at is not None and self.look_at <= now
        if is_due:
            self.look_at = None
        queues = self.held.queues_due(now)
        if is_due:
            queues += self.held.wanting.values()
        queues.sort(key=lambda queue: queue.queue)
        if is_due:
            return do.Look(tuple(q.queue for q in queues), tuple(self.held.by_worker))
        if not queues:
            return None
        workers = tuple(worker for q in queues for worker in q.attachments)
        return do.Look(tuple(q.queue for q in queues), workers)

    def next_deadline(self) -> float | None:
        """When something here wants to be looked at."""
        times = (self.held.rechecks.next(), self.look_at)
        return min((at for at in times if at is not None), default=None)

    # ---- who gets what
    def place(self, now: float, find: Find) -> Placement:
        """Give what fits to who is first; see the top of the module."""
        done = Placement()
        self.waiting = []
        line = self._line(now)
        heapq.heapify(line)
        while line:
            _, turn = heapq.heappop(line)
            for _ in range(turn.ask.wants if isinstance(turn.ask, ClassQueue) else 1):
                grants = self._take(turn.ask, done)
                if grants is None:
                    self.waiting.append(turn.ask)
                    break
                self._give(now, turn, grants, find, done)
            else:
                following = turn.following()
                if following is not None:
                    turn.ask = following
                    heapq.heappush(line, (self._rank(following), turn))
        for grant in done.aside:
            grant.account.give(grant)
        self._reserve(now)
        return done

    def _take(self, ask: Ask, done: Placement) -> list[Grant] | None:
        """What ``ask`` asks for, once (a group: for each bundle), if it fits somewhere."""
        is_tiny = isinstance(ask, ClassQueue) and ask.is_tiny
        if is_tiny and self.held.tiny_count() + done.tiny_aside >= self.tiny_most:
            return None
        for account in ask.target.room.accounts:
            reserved = self.reserved.get(account)
            kept = None if reserved is None or reserved is ask else dict(reserved.amounts)
            bundles = ask.bundles if isinstance(ask, GroupAsk) else (ask.amounts,)
            grants = account.take_all(bundles, kept)
            if grants is not None:
                return grants
        return None

    def _give(
        self, now: float, turn: Turn, grants: list[Grant], find: Find, done: Placement
    ) -> None:
        """``turn.ask`` gets what was taken for it: its worker that is there, else keep it aside."""
        ask = turn.ask
        if isinstance(ask, GroupAsk):
            self._unreserve(ask)
            self.asks.remove(ask)
            done.groups.append((ask, grants))
            return
        (grant,) = grants
        is_actor = isinstance(ask, ActorAsk)
        target, threads = ask.target, threads_of(ask.amounts)
        group = target.group if target.binds else ""
        binding = Binding(
            ask.job, threads, grant.gpu_ids, is_actor, ask.env, group, target.captures
        )
        lack = Missing(binding, ask.queue if isinstance(ask, ClassQueue) else 0)
        worker = None if turn.has_missed else find(lack)
        if worker is not None:
            self._grant(now, ask, worker, grant, done)
            return
        done.aside.append(grant)
        if isinstance(ask, ClassQueue):
            done.tiny_aside += ask.is_tiny
            done.missing.append(lack)
            return
        # More of the same than can be started cost and change nothing.
        done.missing += [lack] * turn.miss(4 * self.limits.starting_most)

    def _grant(self, now: float, ask: Ask, worker: int, grant: Grant, done: Placement) -> None:
        self._unreserve(ask)
        if isinstance(ask, ClassQueue):
            done.attached.append((ask, self.held.attach(now, ask, worker, grant)))
        elif isinstance(ask, ActorAsk):
            self.asks.remove(ask)
            hold = ActorHold(worker, ask.job, grant)
            self.held.hold_for_actor(now, ask.actor_id, hold)
            done.actors.append((ask, hold))

    def _line(self, now: float) -> list[tuple[Rank, Turn]]:
        queues = [queue for queue in self.held.wanting.values() if self._may_stand(queue)]
        turns = [Turn(queue) for queue in queues]
        for crowd in self.asks.crowds.values():
            first = next(iter(crowd.values()))
            if self._may_stand(first):
                turns.append(Turn(first, crowd))
        if not turns:
            self.reserved = {}
            return []
        self.held.charge_actors(now)
        serving = self.held.serving()
        self.held.shares.activate({turn.ask.job for turn in turns} | {q.job for q in serving})
        # A class that was idle starts level with the least served active class of its job.
        least: dict[int, float] = {}
        for queue in serving:
            least[queue.job] = min(least.get(queue.job, queue.served_s), queue.served_s)
        for queue in queues:
            if not queue.attachments and queue.is_new_in_line:
                queue.served_s = max(queue.served_s, least.get(queue.job, 0.0))
                queue.is_new_in_line = False
        return [(self._rank(turn.ask), turn) for turn in turns]

    def _may_stand(self, ask: Ask) -> bool:
        """Whether its group has a place and its environment is there: else it is not in line."""
        return bool(ask.target.room.accounts) and self._is_ready(ask.env)

    def _rank(self, ask: Ask) -> Rank:
        # No two are equal: actors' asks have tickets, queues numbers, and the third of ``Order``
        # tells one from the other.
        return (not any(other is ask for other in self.reserved.values()), self._order(ask))

    def _order(self, ask: Ask) -> Order:
        if isinstance(ask, ClassQueue):
            return self.held.shares.order(ask.job, ask.served_s, ask.queue)
        # Before the classes of its job: it asks once, they ask for ever.
        return self.held.shares.order(ask.job, -1.0, ask.ticket)

    def _reserve(self, now: float) -> None:
        for account, ask in list(self.reserved.items()):
            is_open = account in ask.target.room.accounts
            is_possible = is_open and _could_have(self.held, ask.amounts, account)
            if not (is_possible and ask in self.waiting):
                del self.reserved[account]
        served = list(self.reserved.values())
        for ask in self.waiting:
            if isinstance(ask, ClassQueue):
                since = ask.wants_since if not ask.attachments else None
            else:
                since = ask.since
            if since is None or now - since < self.limits.reserve_s or ask in served:
                continue
            if all(account in self.reserved for account in ask.target.room.accounts):
                continue
            nearest = ask.target.room.nearest(ask.amounts)
            if nearest is None or nearest in self.reserved or not nearest.missing(ask.amounts):
                continue
            if _could_have(self.held, ask.amounts, nearest):
                self.reserved[nearest] = ask

    # ---- making room
    def relieve(self, now: float) -> list[int]:
        """Workers whose attachment is revoked now; also plans the next look."""
        revoked = self._repay(now)
        may_end_busy = now - self._revoked_at >= self.limits.fair_s
        for ask in self.waiting[:RELIEVED_MOST]:
            account = ask.target.room.nearest(ask.amounts)
            if account is None:
                continue
            short = self._shortage(now, ask, account)
            revoked += self._revoke(now, ask, account, short, idle=True)
            if short and may_end_busy:
                busy = self._revoke(now, ask, account, short, idle=False)
                if busy:
                    self._revoked_at = now
                    may_end_busy = False
                revoked += busy
        self._plan_look(now, bool(revoked))
        return revoked

    def _repay(self, now: float) -> list[int]:
        """Tasks that were blocked have gone on: if there is too little CPU now, somebody lets
        go."""
        revoked: list[int] = []
        for account in self.held.accounts.strained:
            debt = -account.free.get(CPU, 0)
            if debt <= 0:
                continue
            short = {CPU: debt}
            _subtract_coming(self.held.leaving(), now, account, short)
            revoked += self._revoke(now, None, account, short, idle=True)
            revoked += self._revoke(now, None, account, short, idle=False)
        return revoked

    def _shortage(self, now: float, ask: Ask, account: Account) -> dict[str, int]:
        """What must be let go for ``ask`` to fit, beyond what is already asked back."""
        short = account.missing(ask.amounts)
        if not short:
            gpu = units_of(ask.amounts, GPU)
            is_tiny = isinstance(ask, ClassQueue) and ask.is_tiny
            if is_tiny and self.held.tiny_count() >= self.tiny_most:
                short = {"": 1}
            elif gpu and (isinstance(ask, GroupAsk) or not account.fits(ask.amounts)):
                # Enough in all, but in pieces of several ids.
                short = {GPU: gpu}
        _subtract_coming(self.held.leaving(), now, account, short)
        return short

    def _revoke(
        self, now: float, ask: Ask | None, account: Account, short: dict[str, int], idle: bool
    ) -> list[int]:
        if not short:
            return []
        mine = None if ask is None else self._order(ask)
        found: list[tuple[Order, ClassQueue, Attachment]] = []
        for queue in self.held.serving():
            order = self._order(queue)
            if queue is ask or (idle and queue.entries):
                continue
            if mine is not None and not idle and order[:3] <= mine[:3]:
                continue
            for attachment in queue.attachments.values():
                is_settled = attachment.acked_at is not None and not attachment.is_leaving
                if is_settled and attachment.is_idle == idle:
                    found.append((order, queue, attachment))
        found.sort(key=lambda row: row[0], reverse=True)
        revoked = []
        for _, queue, attachment in found:
            if not short:
                break
            if _contributes(short, account, queue, attachment):
                _subtract(short, attachment)
                self.held.ask_back(attachment)
                attachment.asked_at = now
                revoked.append(attachment.worker)
        return revoked

    def _plan_look(self, now: float, has_revoked: bool) -> None:
        if has_revoked:
            self._poll_s = self.limits.revoke_poll_s
        if any(a.depth == 0 for a in self.held.leaving()):
            self._due(now + self._poll_s)
            self._poll_s = min(self._poll_s * 2, self.limits.fair_s)
        elif (
            self.waiting
            or self.held.leaving()
            or any(a.lenders for a in self.held.accounts.strained)
        ):
            # Whose CPUs are lent may go on at any moment, unannounced.
            self._due(now + self.limits.fair_s)
        else:
            self.look_at = None

    def _due(self, at: float) -> None:
        self.look_at = at if self.look_at is None else min(self.look_at, at)

    def validate(self) -> None:
        """Assert the invariants."""
        self.held.validate()
        if self.waiting:
            assert self.look_at is not None
        self.asks.validate()
        assert not set(self.asks.by_who) & set(self.held.holds)
        for account, reserver in self.reserved.items():
            assert reserver in self.waiting and account in reserver.target.room.accounts


def _could_have(held: Holdings, amounts: Amounts, account: Account) -> bool:
    """Whether ``amounts`` will fit once those tasks end that wait for nobody."""
    if not account.could_serve(amounts):
        return False
    short = account.missing(amounts)
    short.pop(CPU, None)  # that of a task that waits is free
    if not short:
        return True
    least = dict(amounts)
    for queue in held.serving():
        for attachment in queue.attachments.values():
            if attachment.is_blocked and attachment.grant.account is account:
                for name, units in attachment.grant.amounts:
                    least[name] = least.get(name, 0) + units
    left = {name: account.total.get(name, 0) - account.pinned.get(name, 0) for name in short}
    return all(least[name] <= left[name] for name in short)


def _contributes(
    short: Mapping[str, int], account: Account, queue: ClassQueue, attachment: Attachment
) -> bool:
    if "" in short:
        return queue.is_tiny
    grant = attachment.grant
    return grant.account is account and any(name in short for name, _ in grant.amounts)


def _subtract_coming(
    leaving: Iterable[Attachment], now: float, account: Account, short: dict[str, int]
) -> None:
    """What was asked back and will soon be there. One that is stopped, or in the middle of a
    long task, is not waited for: somebody else is asked too."""
    for attachment in leaving:
        is_near = "" in short or attachment.grant.account is account
        if is_near and now - attachment.asked_at < LET_GO_S:
            _subtract(short, attachment)


def _subtract(short: dict[str, int], attachment: Attachment) -> None:
    short.pop("", None)
    for name, units in attachment.grant.amounts:
        if name in short:
            short[name] -= units - (attachment.grant.lent if name == CPU else 0)
            if short[name] <= 0:
                del short[name]
