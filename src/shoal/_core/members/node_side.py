"""Membership on a node: one machine that faces ``store_side``.

It joins and renews (``lease``), follows orders (``residents``), says what has happened
(``exchange``), asks for what programs want (``wishes``), and leaves (``drain``).

1. Time comes first: before any event is looked at, what the clock alone demands is done. A node
   that wakes up after a stop ends its named actors before it reads the first message.
2. What names another epoch than the node's, or a store before the newest, is not read. A store in
   a new life hears the whole state before anything else.
3. Nothing of an epoch outlives it: ``EndEverything``, then ``EverythingEnded``, then the request
   for the next epoch.
"""

from __future__ import annotations

import msgspec

from shoal._base.config import LeaseTimes
from shoal._core import causes
from shoal._core.members import interface as on
from shoal._core.members.actor_table import is_lasting
from shoal._core.members.drain import HANDING_OVER, LEAVING, RESTING, Draining
from shoal._core.members.exchange import FactLog, Inbox
from shoal._core.members.lease import ENDING, JOINING, MEMBER, OUTSIDE, OVER, Lease
from shoal._core.members.residents import Residents
from shoal._core.members.wishes import Wishes
from shoal._proto import membership as m
from shoal._proto.views import NodeRow

Commands = list[on.NodeCommand]


class Identity(msgspec.Struct, frozen=True):
    """What a node says of itself once."""

    node: str
    name: str = ""
    address: str = ""
    role: str = m.ROLE_NODE
    labels: dict[str, str] = {}
    version: str = ""


class MemberMachine:
    """One node's membership."""

    def __init__(self, identity: Identity, times: LeaseTimes | None = None) -> None:
        self._me = identity
        self._times = times = LeaseTimes() if times is None else times
        self.lease = Lease(times)
        self.residents = Residents()
        self.draining = Draining()
        self.wishes = Wishes()
        self.store = 0
        """The newest life of the store that it has heard of."""
        self._log = FactLog(times.facts_most)
        self._inbox = Inbox()
        self._row = NodeRow(identity.node)
        self._standing = m.Standing()
        self._members = -1
        self._alarm: float | None = None
        self._obituary_at: float | None = None

    # ---- questions
    @property
    def epoch(self) -> int:
        """The epoch that it has, or had last."""
        return self.lease.epoch

    @property
    def is_member(self) -> bool:
        """Whether it has an epoch that is not over."""
        return self.lease.phase == MEMBER

    def may_start(self, now: float, spec: m.RegisterActor) -> bool:
        """To be asked at the moment at which an accepted actor is started: the lease may have grown
        old, or the daemon been stopped, since it was offered."""
        if not is_lasting(spec):
            return self.lease.phase == MEMBER
        is_late = self._alarm is not None and now > self._alarm + self._times.late_s
        return not is_late and self.lease.may_start(now)

    # ---- steps
    def step(self, now: float, event: on.NodeEvent) -> Commands:
        """Take in one event."""
        commands = self._look(now)
        match event:
            case on.AlarmRang():
                self._alarm = None
            case on.StoreSaid(body):
                commands += self._heard(now, body)
            case on.EverythingEnded():
                commands += self._ended(now)
            case _:
                commands += self._happened(now, event)
        commands += self._conclude(now)
        return commands

    def _look(self, now: float) -> Commands:
        """What time alone demands (rule 1)."""
        lease = self.lease
        commands: Commands = []
        if self._alarm is not None and now > self._alarm + self._times.late_s:
            lease.was_stopped(now)
        if lease.phase != MEMBER:
            return commands
        if now >= lease.ends_at and not lease.is_lapsed:
            lease.is_lapsed = True
            commands.append(on.EndLeased())
        if lease.is_store_lost(now):
            commands += self._end_all(f"no control store for {self._times.store_lost_s:.0f} s")
        return commands

    def _happened(self, now: float, event: on.NodeEvent) -> Commands:
        residents = self.residents
        match event:
            case on.Began():
                if self.lease.phase == OUTSIDE:
                    self.lease.join(now)
            case on.RowChanged(row, standing, is_urgent):
                if is_urgent or row.free != self._row.free:
                    self.lease.hasten(self._times.row_s)
                self._row, self._standing = row, standing
            case on.Asked(ticket, body):
                number = self.wishes.ask(ticket, body)
                return self._send_asks(number)
            case on.OfferDecided():
                return residents.decided(event)
            case on.ActorUp():
                residents.up(event)
            case on.ActorDown():
                residents.down(event)
            case on.BundlesDecided():
                return residents.reserved(event)
            case on.BundlesFreed():
                residents.freed(event)
            case on.StoreRefused(dialled_at):
                if self.lease.refused(now, dialled_at):
                    return [on.SetLease(self.lease.ends_at)]
            case on.HandedOver():
                if self.draining.phase == HANDING_OVER:
                    self.draining.rest(now)
                    return [on.EndRest()]
        return []

    # ---- what the store says
    def _heard(self, now: float, body: m.ToNode) -> Commands:
        if body.node != self._me.node:
            return []
        if isinstance(body, m.NotAdmitted):
            if self.lease.phase != JOINING or body.request != self.lease.request:
                return []
            self.lease.phase = OVER
            return [on.JoinRefused(body.why)]
        if isinstance(body, m.Admitted):
            return self._admitted(now, body)
        if body.epoch != self.epoch or body.store < self.store:
            return []
        commands: Commands = []
        if isinstance(body, m.DeclaredDead):
            return self._declared_dead(body)
        if self.lease.phase != MEMBER:
            return []
        if body.store > self.store:
            commands += self._new_store(now, body.store)
        match body:
            case m.Renewed(_, _, number):
                commands += self._renewed(now, number)
                if body.candidates:
                    commands.append(on.CandidatesHeard(body.candidates))
            case m.Orders():
                commands += self._ordered(now, body)
            case m.Told(_, _, _, number, told):
                commands += self.wishes.told(number, told)
            case m.MembersChanged():
                if body.version > self._members:
                    self._members = body.version
                    commands.append(on.MembersHeard(body.rows))
        return commands

    def _admitted(self, now: float, body: m.Admitted) -> Commands:
        lease = self.lease
        if lease.phase != JOINING or body.request != lease.request or body.store < self.store:
            return []
        lease.admitted(now, body)
        self._members = -1
        self._log = FactLog(self._times.facts_most)
        commands: Commands = [on.Joined(body.epoch), on.SetLease(lease.ends_at)]
        return commands + self._new_store(now, body.store)

    def _new_store(self, now: float, store: int) -> Commands:
        """A store that knows nothing of this epoch: it hears all."""
        self.store = store
        self._inbox = Inbox()
        self._take_facts()
        whole = self.residents.whole(self._log.unheard_ends())
        self._log.begin(
            msgspec.structs.replace(
                whole, created=self.wishes.created(), watched=self.wishes.watched()
            )
        )
        self.wishes.sent_at = now
        return [
            on.TellStore(self._log.message(now, self._me.node, self.epoch, store)),
            *self._send_asks(0),
        ]

    def _renewed(self, now: float, number: int) -> Commands:
        lease = self.lease
        if not lease.renewed(number):
            return []
        if lease.is_good(now):
            lease.is_lapsed = False
        return [on.SetLease(lease.ends_at)]

    def _declared_dead(self, body: m.DeclaredDead) -> Commands:
        self.store = body.store
        self._obituary_at = None
        if self.lease.phase != MEMBER:
            return []
        return self._end_all(f"the cluster has given this node up: {body.why}")

    def _ordered(self, now: float, body: m.Orders) -> Commands:
        fresh = self._inbox.fresh(body)
        if fresh is None:
            return []
        self._log.heard(body.heard)
        commands: Commands = []
        for order in fresh:
            match order.body:
                case m.ActorNews(facts) | m.GroupNews(facts):
                    commands += self.wishes.news(facts)
                    self._log_fact(m.Took(order.number))
                case m.DrainNode(deadline_s):
                    self._log_fact(m.Took(order.number))
                    if self.draining.begin(now, deadline_s):
                        commands.append(on.Drain(deadline_s))
                        commands += self.residents.drain()
                case _:
                    is_open = self.lease.is_good(now) and not self.draining.is_closed
                    may_start = self.lease.may_start(now)
                    commands += self.residents.follow(order, may_start, is_open)
        return commands

    def _log_fact(self, fact: m.Fact) -> None:
        self._take_facts()
        self._log.add(fact)

    # ---- ends
    def _end_all(self, why: str) -> Commands:
        self.lease.end()
        return [on.EndEverything(why)]

    def _ended(self, now: float) -> Commands:
        """No process of the epoch is left."""
        if self.lease.phase != ENDING:
            return []
        self.residents.clear()
        self._log = FactLog(self._times.facts_most)
        commands = self.wishes.clear(causes.job_ended(0, "its node has left the cluster"))
        if self.lease.leaves:
            self.lease.phase = OVER
            self._obituary_at = now
        else:
            self.lease.join(now)
        return commands

    # ---- what follows
    def _take_facts(self) -> None:
        facts, self.residents.facts = self.residents.facts, []
        for fact in facts:
            self._log.add(fact)

    def _conclude(self, now: float) -> Commands:
        lease, log = self.lease, self._log
        self._take_facts()
        commands: Commands = []
        if lease.phase == MEMBER:
            commands += self._drain_on(now)
        if lease.phase == MEMBER:
            if lease.due_at <= now:
                commands.append(self._renewal(now))
            if log.has_news or (not log.is_empty and now >= log.sent_at + self._times.repeat_s):
                message = log.message(now, self._me.node, self.epoch, self.store)
                commands.append(on.TellStore(message))
            if self.wishes.open and now >= self.wishes.sent_at + self._times.repeat_s:
                self.wishes.sent_at = now
                commands += self._send_asks(0)
        elif lease.phase == JOINING and lease.due_at <= now:
            commands.append(self._request(now))
        elif self._obituary_at is not None and self._obituary_at <= now:
            self._obituary_at = now + self._times.repeat_s
            commands.append(on.TellStore(m.Obituary(self._me.node, self.epoch, is_drained=True)))
        return commands + self._set_alarm()

    def _row_now(self, number: int) -> NodeRow:
        return msgspec.structs.replace(
            self._row,
            node=self._me.node,
            epoch=self.epoch,
            number=number,
            is_draining=self.draining.is_closed,
        )

    def _renewal(self, now: float) -> on.TellStore:
        tries = self.lease.tries(now)
        number = self.lease.renewal_sent(now)
        row = self._row_now(number)
        body = m.Renew(
            self._me.node, self.epoch, number, self.store, row, self._standing, self._members
        )
        return on.TellStore(body, tries)

    def _request(self, now: float) -> on.TellStore:
        self.lease.join_sent(now)
        me = self._me
        body = m.JoinCluster(
            node=me.node,
            request=self.lease.request,
            former=self.epoch,
            name=me.name,
            address=me.address,
            role=me.role,
            labels=me.labels,
            row=self._row_now(0),
            version=me.version,
        )
        return on.TellStore(body)

    def _send_asks(self, first: int) -> Commands:
        """Those that are open, from number ``first`` on; later, if there is nobody to ask."""
        if self.lease.phase != MEMBER:
            return []
        messages = self.wishes.messages(self._me.node, self.epoch, self.store, first)
        return [on.TellStore(message) for message in messages]

    def _drain_on(self, now: float) -> Commands:
        """What a drain leads to now."""
        draining = self.draining
        commands: Commands = []
        if draining.phase == HANDING_OVER and draining.is_up(now):
            draining.rest(now)
            commands.append(on.EndRest())
        if draining.phase == RESTING:
            is_quiet = not self.residents.actors and self._log.is_empty
            if is_quiet or draining.is_up(now):
                draining.leave()
                self.lease.leaves = True
                commands += self._end_all("the node was drained")
        return commands

    def _set_alarm(self) -> Commands:
        moments = [self.lease.next_at(), self.draining.next_at(), self._obituary_at]
        if self.lease.phase == MEMBER:
            if not self._log.is_empty:
                moments.append(self._log.sent_at + self._times.repeat_s)
            if self.wishes.open:
                moments.append(self.wishes.sent_at + self._times.repeat_s)
        alarm = min((at for at in moments if at is not None), default=None)
        if alarm == self._alarm:
            return []
        self._alarm = alarm
        return [on.SetAlarm(alarm)]

    def validate(self) -> None:
        """Assert what must hold."""
        self.lease.validate()
        self.residents.validate()
        self.wishes.validate()
        assert not self.residents.facts
        assert self.draining.phase != LEAVING or self.lease.phase != MEMBER
