"""Membership in the store's process: one machine beside ``StoreMachine``.

It knows which message and which moment belongs to which part (``nodes``, ``placing_actors``,
``groups``), and turns what they say (``outgoing``) into commands. After each event it looks who is
dead by silence, places what can be placed, and sends each node what is new for it, in one message.

1. Commands of a step: first what is kept, then what is told (see ``interface``).
2. Nothing is placed, and no order sent, before the node has told its whole state to this life of
   the store.
3. *Settled* is the moment at which every node that may hold something has told its state or is
   over: what nobody has spoken of by then is nowhere (RULES K-6; the rule's 11 s are what it takes
   at most, since whoever is silent is over by then). It comes once in a life of the store.
4. A stop of the store does not go unnoticed: there is an alarm at least each ``renew_s``; if one
   comes ``late_s`` after its time, the store was stopped, and silence before means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from shoal._base.config import LeaseTimes, Limits
from shoal._core import causes
from shoal._core.members import interface as on
from shoal._core.members.actor_table import ACTORS
from shoal._core.members.group_table import GROUPS
from shoal._core.members.groups import ChooseGroup, GroupPlaces
from shoal._core.members.nodes import NODES, Node, NodeTable
from shoal._core.members.outgoing import Outgoing
from shoal._core.members.placing_actors import ActorPlaces, ChooseActor, Scene
from shoal._core.policies.labels import HEAD_LABEL
from shoal._core.store import MEMBER, Effect
from shoal._proto import membership as m
from shoal._proto.messages import (
    Done,
    Failure,
    KvAnswer,
    KvDelete,
    KvGet,
    KvKeys,
    KvPut,
    Message,
)
from shoal._proto.views import Candidates, Demand, NodeRow

MEMBER_KINDS = (NODES, ACTORS, GROUPS)
"""Kinds of what is on disk that belong to this machine."""

FindCandidates = Callable[[str, Sequence[Demand], Mapping[str, NodeRow]], list[Candidates]]
"""(the node that asks, what waits there, rows) -> where there may be room (RULES S-12)."""


def _no_candidates(
    node: str, demand: Sequence[Demand], rooms: Mapping[str, NodeRow]
) -> list[Candidates]:
    return []


def _caller(node: str, epoch: int) -> str:
    """What the key-value table calls a member."""
    return f"{node}{MEMBER}{epoch}"


class KvTable(Protocol):
    """The key-value table, which is on the same disk as all this."""

    def carry_out_once(
        self, caller: str, number: int, answered_below: int, body: Message, effects: list[Effect]
    ) -> KvAnswer:
        """The answer to a request, the same however often it comes."""

    def forget(self, caller: str, effects: list[Effect]) -> None:
        """It asks for nothing any more."""


class MembersMachine:
    """Who is a member, and what lives where."""

    def __init__(
        self,
        store_epoch: int,
        choose_actor: ChooseActor,
        choose_group: ChooseGroup,
        find_candidates: FindCandidates = _no_candidates,
        times: LeaseTimes | None = None,
        limits: Limits | None = None,
        table: KvTable | None = None,
    ) -> None:
        """``table``: the key-value table of the cluster; without one nobody can ask for it."""
        self._table = table
        self._times = times = LeaseTimes() if times is None else times
        limits = Limits() if limits is None else limits
        self.epoch = store_epoch
        self.nodes = NodeTable(times, store_epoch)
        self.actors = ActorPlaces(times, limits, choose_actor)
        self.groups = GroupPlaces(times, limits, choose_group, store_epoch)
        self._find_candidates = find_candidates
        self._out = Outgoing(store_epoch, self.nodes)
        self.is_settled = False
        self._is_serving = False
        self._alarm: float | None = None
        self._tick_at = 0.0
        self._may_place = True
        """Something has changed since those that wait for a place were last looked at."""

    # ---- the disk
    def restore(self, rows: Iterable[tuple[tuple[str, bytes], bytes]]) -> None:
        """Become what was on disk; ``Served`` follows. Rows of other kinds are not read."""
        found: dict[str, list[bytes]] = {kind: [] for kind in MEMBER_KINDS}
        for (kind, _), value in rows:
            if kind in found:
                found[kind].append(value)
        self.nodes.restore(found[NODES], 0.0)
        self.groups.restore(found[GROUPS])
        self.actors.restore(found[ACTORS], self._scene(0.0))

    def contents(self) -> Iterator[tuple[tuple[str, bytes], bytes]]:
        """All that is lasting, as it stands on disk."""
        yield from self.nodes.contents()
        yield from self.actors.table.contents()
        yield from self.groups.table.contents()

    # ---- steps
    def step(self, now: float, event: on.StoreEvent) -> list[on.StoreCommand]:
        """Take in one event."""
        if self._alarm is not None and now > self._alarm + self._times.late_s:
            self.nodes.served(now)
        match event:
            case on.Served():
                self._is_serving = True
                self.nodes.served(now)
            case on.Heard(body):
                self._heard(now, body)
            case on.Suspected(node, epoch):
                if (suspect := self.nodes.living(node, epoch)) is not None:
                    suspect.is_suspected = True
            case on.AlarmRang():
                self._alarm = None
                self._may_place = True
        return self._conclude(now)

    def _scene(self, now: float) -> Scene:
        bundle_nodes = self.groups.table.bundle_nodes
        return Scene(now, self.nodes, self._out, self.is_settled, bundle_nodes)

    def _conclude(self, now: float) -> list[on.StoreCommand]:
        """What follows from time, and from what has changed."""
        assert self._is_serving
        for node in self.nodes.silent(now):
            silent_s = now - node.heard_at
            self._lose(now, node, m.DEAD, f"nothing was heard of it for {silent_s:.1f} s")
        if not self.is_settled and self.nodes.is_all_reported():
            self.is_settled = self._may_place = True
            self.groups.settled(self._scene(now))
            self.actors.settled(self._scene(now))
            self._ask_again(now)
        if self._may_place:
            # A renewal that says nothing new changes nothing for those that wait: with a thousand
            # nodes it is nearly all that comes.
            self._may_place = False
            scene = self._scene(now)
            self.groups.place(scene)
            self.actors.place(scene)
        if self.is_settled and self._out.again:
            self._ask_again(now)
            self.actors.place(self._scene(now))
        return self._commands(now)

    def _commands(self, now: float) -> list[on.StoreCommand]:
        out = self._out
        commands: list[on.StoreCommand] = [*out.effects]
        commands += [on.Notice(text) for text in out.notices]
        commands += [on.Tell(node, body) for node, body in out.tells]
        commands += [on.Tell(node, body) for node, body in out.due(now)]
        out.effects, out.tells, out.notices = [], [], []
        if self._tick_at <= now:
            self._tick_at = now + self._times.renew_s
        moments = (
            self.nodes.next_at(),
            self.actors.table.pauses.next(),
            self.groups.table.pauses.next(),
        )
        alarm = min((at for at in moments if at is not None), default=self._tick_at)
        alarm = min(alarm, self._tick_at)
        if alarm != self._alarm:
            self._alarm = alarm
            commands.append(on.SetAlarm(alarm))
        return commands

    # ---- what nodes say
    def _heard(self, now: float, body: m.ToStore) -> None:
        self._may_place = self._may_place or not isinstance(body, m.Renew)
        match body:
            case m.JoinCluster():
                self._join(now, body)
            case m.Obituary(node, epoch):
                found = self.nodes.living(node, epoch)
                if found is not None:
                    state = m.DRAINED if body.is_drained else m.DEAD
                    why = "it was drained" if body.is_drained else "its daemon has ended"
                    self._lose(now, found, state, why)
                self._out.tells.append((node, self._verdict(node, epoch)))
            case m.Renew() | m.Facts() | m.Ask():
                found = self.nodes.living(body.node, body.epoch)
                if found is None:
                    self._out.tells.append((body.node, self._verdict(body.node, body.epoch)))
                elif isinstance(body, m.Renew):
                    self._renewed(now, found, body)
                elif body.store == self.epoch:
                    if isinstance(body, m.Facts):
                        self._facts(now, found, body)
                    else:
                        self._asked(now, found, body)

    def _verdict(self, node: str, epoch: int) -> m.DeclaredDead:
        known = self.nodes.nodes.get(node)
        why = "this cluster does not know it"
        if known is not None:
            is_newest = known.record.epoch == epoch
            why = known.record.why if is_newest else f"it is in epoch {known.record.epoch} now"
        return m.DeclaredDead(node, epoch, self.epoch, why)

    def _join(self, now: float, body: m.JoinCluster) -> None:
        nodes = self.nodes
        if nodes.is_old(body):
            return
        if nodes.is_repeated(body):
            node = nodes.nodes[body.node]
            nodes.renew_join(now, node)
        else:
            why = nodes.refusal(now, body)
            if why is None:
                return  # it asks again
            if why:
                self._out.tells.append((body.node, m.NotAdmitted(body.node, body.request, why)))
                return
            former = nodes.nodes.get(body.node)
            if former is not None and former.is_living:
                self._lose(now, former, m.DEAD, "it has begun anew")
            node = nodes.admit(now, body, self._out.effects)
            self._tell_members()
        record = node.record
        answer = m.Admitted(body.node, body.request, record.epoch, self.epoch, record.lease_s)
        self._out.tells.append((body.node, answer))

    def _renewed(self, now: float, node: Node, body: m.Renew) -> None:
        if body.row.free != node.row.free or node.is_suspected or node.settled:
            self._may_place = True
        self.nodes.renewed(now, node, body)
        name, epoch = body.node, body.epoch
        demand = body.row.demand
        candidates = self._find_candidates(name, demand, self.nodes.rooms())
        answer = m.Renewed(name, epoch, body.number, self.epoch, candidates)
        self._out.tells.append((name, answer))
        if node.known_version < self.nodes.version:
            self._tell_changes(node)
        is_owed = node.is_reported and bool(node.outbox.orders)
        if is_owed and now - node.outbox.sent_at >= self._times.repeat_s:
            self._out.touch(name)

    def _facts(self, now: float, node: Node, body: m.Facts) -> None:
        scene = self._scene(now)
        name = body.node
        if not node.is_reported:
            if body.whole is None:
                return
            node.is_reported = True
            node.outbox.heard = body.first - 1
            self.actors.reported(name, body.epoch, body.whole, scene)
            self.groups.reported(name, body.whole, scene)
            for wanted in body.whole.created:
                ask = m.Ask(name, body.epoch, body.store, 0, 0, wanted)
                if isinstance(wanted, m.RegisterActor):
                    self.actors.register(ask, wanted, scene)
                else:
                    self.groups.create((name, body.epoch), wanted, scene)
            if node.record.state == m.DRAINING:
                self._out.order(name, m.DrainNode(node.record.drain_s))
        for fact in node.outbox.fresh(body):
            self._fact(name, fact, scene)
        self._out.touch(name)

    def _fact(self, node: str, fact: m.Fact, scene: Scene) -> None:
        match fact:
            case m.OfferAnswered():
                self.actors.answered(node, fact, scene)
            case m.ActorAlive():
                self.actors.alive(node, fact, scene)
                return
            case m.ActorGone():
                self.actors.gone(node, fact, scene)
                return
            case m.BundlesPrepared():
                self.groups.prepared(node, fact, scene)
            case m.BundlesCommitted():
                self.groups.committed(node, fact, scene)
            case m.BundlesReleased():
                self.groups.released(node, fact, scene)
            case m.Took():
                self._took(node, fact.order, scene)
        self._out.settle(node, fact.order)

    def _took(self, node: str, order: int, scene: Scene) -> None:
        match self.nodes.nodes[node].outbox.orders.get(order):
            case m.ActorNews(facts):
                self.actors.took(node, facts, scene)
            case m.GroupNews(facts):
                self.groups.took(node, facts, scene)

    # ---- asks
    def _asked(self, now: float, node: Node, ask: m.Ask) -> None:
        if ask.number < node.answered_below:
            return
        node.answered_below = max(node.answered_below, ask.answered_below)
        for old in [number for number in node.told if number < node.answered_below]:
            del node.told[old]
        if ask.number in node.told:
            if (body := node.told[ask.number]) is not None:
                self._tell(node, ask.number, body)
            return
        node.told[ask.number] = None
        self._answer(now, node, ask)

    def _answer(self, now: float, node: Node, ask: m.Ask) -> None:
        scene = self._scene(now)
        match ask.body:
            case m.RegisterActor():
                body = self.actors.register(ask, ask.body, scene)
            case m.KillActor():
                body = self.actors.kill(ask, ask.body, scene)
            case m.FindActor():
                body = self.actors.look_up(ask, ask.body, scene)
            case m.GroupSpec():
                body = self.groups.create((ask.node, ask.epoch), ask.body, scene)
            case m.FindGroup():
                body = self.groups.look_up(ask, ask.body, scene)
            case m.ResizeGroup():
                body = self.groups.resize(ask, ask.body, scene)
            case m.RemoveGroup():
                body = self.groups.remove(ask, ask.body, scene)
            case m.DrainMember():
                body = self._drain(ask.body)
            case m.AskAboutNode(name, epoch):
                body = m.NodeFate(name, epoch, self.nodes.is_over(name, epoch))
            case KvPut() | KvGet() | KvDelete() | KvKeys():
                body = self._kv(ask)
            case m.ListMembers():
                body = m.MemberList([known.member() for known in self.nodes.nodes.values()])
        if body is not None:
            node.told[ask.number] = body
            self._tell(node, ask.number, body)

    def _ask_again(self, now: float) -> None:
        """What could not be answered before."""
        again, self._out.again = self._out.again, []
        for ask in again:
            node = self.nodes.living(ask.node, ask.epoch)
            if node is not None and node.told.get(ask.number, ask) is None:
                self._answer(now, node, ask)

    def _tell(self, node: Node, number: int, body: m.ToldBody) -> None:
        record = node.record
        told = m.Told(record.node, record.epoch, self.epoch, number, body)
        self._out.tells.append((record.node, told))

    def _kv(self, ask: m.Ask) -> m.ToldBody:
        """What this changes goes to disk with what else this step keeps, and then it is told."""
        if self._table is None:
            return Failure(causes.usage("this control store has no key-value table"))
        caller = _caller(ask.node, ask.epoch)
        answer = self._table.carry_out_once(
            caller, ask.number, ask.answered_below, ask.body, self._out.effects
        )
        if sum(map(len, answer.keys)) > m.KV_BYTES_MOST:
            return Failure(causes.usage("so many keys: ask with a longer prefix"))
        return answer

    def _drain(self, body: m.DrainMember) -> m.ToldBody:
        node = self.nodes.nodes.get(body.node)
        if node is None or not node.is_living:
            text = f"no node {body.node} is a member; `shoal status` lists those that are"
            return Failure(causes.usage(text))
        if node.record.role == m.ROLE_DRIVER:
            return m.DrainRefused("it is a program's: it runs nothing, and leaves with its program")
        if HEAD_LABEL in node.record.labels:
            return m.DrainRefused(
                "it is the head, without which there is no cluster; `shoal stop` there ends it"
            )
        if body.only_if_idle and (node.standing.is_busy or node.standing.primaries):
            return m.DrainRefused("something runs there, or values are only there")
        is_sooner = body.deadline_s < node.record.drain_s
        if node.record.state == m.ALIVE or is_sooner:
            self.nodes.drain(node, body.deadline_s, self._out.effects)
            self._tell_members()
        self._out.order(body.node, m.DrainNode(body.deadline_s))
        return Done()

    # ---- members
    def _lose(self, now: float, node: Node, state: str, why: str) -> None:
        """Its epoch is over: on disk, and then everything that follows."""
        name, epoch = node.record.node, node.record.epoch
        self._may_place = True
        self.nodes.set_state(node, state, why, self._out.effects)
        self._out.lost(name)
        if self._table is not None:
            self._table.forget(_caller(name, epoch), self._out.effects)
        if node.record.role == m.ROLE_NODE:  # that programs end is no news
            label = node.record.name or name
            self._out.notices.append(f"node {label} (epoch {epoch}) is {state}: {why}")
        scene = self._scene(now)
        self.groups.node_lost(name, epoch, scene)
        self.actors.node_lost(name, epoch, scene)
        self._out.tells.append((name, self._verdict(name, epoch)))
        self._tell_members()

    def _tell_members(self) -> None:
        """Everybody hears at once of who comes and goes; who misses it, with its next renewal."""
        for node in self.nodes.members():
            if node.known_version >= 0:
                self._tell_changes(node)

    def _tell_changes(self, node: Node) -> None:
        changed = self.nodes.changes_since(node.known_version)
        if not changed:
            return
        record = node.record
        rows = [other.member() for other in changed]
        version = changed[-1].version
        body = m.MembersChanged(record.node, record.epoch, self.epoch, version, rows)
        self._out.tells.append((record.node, body))

    def validate(self) -> None:
        """Assert what must hold."""
        self.nodes.validate()
        self.actors.validate()
        self.groups.validate()
        assert not self._out.effects and not self._out.tells
