"""Actors across nodes, as one daemon has them: it finds hosts, sends actors there, takes in others'
actors, and keeps the queues in which calls for elsewhere wait.

``_core.reactions_abroad`` decides; this file says what it says to the other nodes, and tells it
what they say. Which queues are drained to whom stands in ``bridge.actors``::

    ask that is not met here     policies.actors --> ActorSent --> HostActor row
    ActorState row (the first)   its queues are drained there from now on
    HostActor row                class and arguments are fetched --> ActorCame

Calls to actors of other nodes: daemon_callers.py.

1. What a host constructs from is a *twin* of the arguments: the lifetime object itself is held by
   those who have handles, and by nobody else, or its last handle would never be gone.
2. A twin lives until its actor has ended; what was fetched for a guest, until that has.
3. A node that has refused an actor is not asked again for ``REFUSED_S``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shoal._base import clock
from shoal._core import commands, events, guests, placement
from shoal._core.actors import Actor, Asking
from shoal._core.asks import ActorAsk
from shoal._core.node import NodeMachine
from shoal._core.policies import actors as policy
from shoal._core.policies.dice import Dice
from shoal._core.reactions_draining import MOVED, REFUSED, WAITS_S, finds_no_room
from shoal._core.resources import Amounts, parse
from shoal._native import Memory, ObjectRef
from shoal._proto import bridge as rows
from shoal._proto.holds import Name
from shoal._proto.strategies import Default, InGroup
from shoal._proto.views import NodeRow, Wish
from shoal._runtime.bridge.around import Place, lost_actor
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.daemon_callers import Callers
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.daemon_members import PYTHON
from shoal._runtime.daemon_twins import Twins

if TYPE_CHECKING:
    from shoal._runtime.daemon_abroad import Ways

LOOK_S = 0.05
"""How often those are looked at who wait for room on any node."""
PATIENCE_S = 0.1
"""Who could live here waits so long for room here."""
REFUSED_S = 1.0
FULL_S = 1.0
"""Who has found no node with room for so long waits in the line of a full one; one in each look."""
FRESH_S = 0.5
"""What others have told is asked for again after this, while somebody waits."""
_OVER = ("DEAD", REFUSED, MOVED)
_BACK = (REFUSED, MOVED)


class ActorsAbroad:
    """Actors of ours on other nodes, and theirs on this one."""

    def __init__(
        self,
        loop: Loop,
        memory: Memory,
        machine: NodeMachine,
        cluster: ClusterNode,
        post: Callable[[events.AnyEvent], None],
        ways: Ways,
    ) -> None:
        self._loop = loop
        self._memory = memory
        self._machine = machine
        self._cluster = cluster
        self._post = post
        self.twins = Twins(loop, memory, ways)
        node_id = machine.tables.config.node_id
        self._me = node_id.hex()
        self._dice = Dice(int.from_bytes(node_id[4:8], "little"))
        self._bridging: Bridging | None = None
        self._rows: dict[str, NodeRow] = {}
        """What others have, less what was sent to them since they said so."""
        self._asked_at = float("-inf")
        self._turn = 0
        """Whose it is, for SPREAD."""
        self._timer: Timer | None = None
        self._refused: dict[tuple[str, str], float] = {}
        self._waits_at = float("-inf")
        """When one was last sent to a full node."""
        self._twins: dict[int, ObjectRef[Any]] = {}
        """By the key of the lifetime object."""
        self._hosted: dict[tuple[str, int], tuple[str, list[ObjectRef[Any]]]] = {}
        """By home and key there: the actor's id, its class and its arguments."""
        self.callers = Callers(machine, cluster.rows.drained, post)
        self.ended: Callable[[int], None] = lambda key: None
        """Told of actors of ours that have ended, by the keys of their lifetime objects."""
        self.called_in_vain: Callable[[Actor], None] = lambda actor: None
        """Told before a call is refused to an actor of ours whose home is to be another node."""

    # ---- lives of this node in the cluster
    def begin(self, bridging: Bridging) -> None:
        """A new epoch."""
        self._bridging = bridging
        bridging.actors.record_of = self._record_of
        self.callers.begin(bridging)

    def end(self) -> None:
        """That epoch is over."""
        self.callers.end(self._me)
        self._bridging = None
        self._twins.clear()
        self._hosted.clear()

    def node_lost(self, node: str) -> None:
        """Actors of that node are lost, here too."""
        self._rows.pop(node, None)
        for home, key in [each for each in self._hosted if each[0] == node]:
            del self._hosted[home, key]
        self.callers.node_lost(node)

    # ---- finding hosts
    def look(self) -> None:
        """Somebody may wait for room that another node has."""
        self._timer = None
        asks = self._machine.tables.scheduler.asks
        if self._bridging is None or not len(asks) or not self._machine.tables.others:
            return
        now = clock.now()
        self._refused = {each: until for each, until in self._refused.items() if until > now}
        waiting = [each for each in asks.values() if isinstance(each, ActorAsk)]
        sent: Counter[tuple[str, str]] = Counter()
        for ask in waiting:
            actor = self._machine.tables.actors.living[ask.actor_id]
            if actor.home is not None:  # of a guest: home knows by now who has room, or will
                goes = finds_no_room(self._machine.tables, now, actor)
                if goes and not self._bridging.visiting.give_back_calls(*actor.home):
                    self._post(events.ActorMoves(actor.actor_id))
                continue
            is_late = ask.who in asks.impossible or now - ask.since >= PATIENCE_S
            if is_late and ask.target.group:
                self._find_bundle(now, ask, sent)
            elif is_late:
                self._find_host(now, ask)
        self._timer = self._loop.call_later(LOOK_S, self.look)

    def looks(self) -> bool:
        """Whether it will look soon."""
        return self._timer is not None

    def _find_host(self, now: float, ask: ActorAsk) -> None:
        actor = self._machine.tables.actors.living[ask.actor_id]
        if now - self._asked_at >= FRESH_S:
            self._asked_at = now
            self._take_rows()
            self._cluster.refresh(self._take_rows)
        able = [r for r in self._rows.values() if (ask.actor_id, r.node) not in self._refused]
        wish = Wish(parse(actor.spec.place), ask.target.labels, PYTHON)
        asked = (able, wish, ask.amounts, actor.spec.strategy, self._dice)
        node = policy.offer(*asked).node
        since = actor.phase.since if isinstance(actor.phase, Asking) else now
        is_stuck = now - since >= FULL_S and not ask.target.room.could_serve(ask.amounts)
        if not node and is_stuck and now > self._waits_at:
            self._waits_at, node = now, policy.wait_at(*asked)
        if node:
            self._use(node, ask.amounts)
            self._post(events.ActorSent(ask.actor_id, node))

    def _find_bundle(self, now: float, ask: ActorAsk, sent: Counter[tuple[str, str]]) -> None:
        """The node that has fewest of our actors for what its bundles of the group hold, if those
        here are full for as long as the actors in them live, or have been for a while. ``sent``:
        how many of which group are going where, beside those that live there."""
        tables = self._machine.tables
        room = ask.target.room
        group = tables.groups.living.get(ask.target.group)
        may_wait = room.could_serve(ask.amounts) and now - ask.since < WAITS_S
        if group is None or may_wait:
            return
        there = Counter(
            other.host
            for other in tables.actors.living.values()
            if placement.group_of(other.spec.strategy) == group.group_id
        )
        found: list[tuple[float, str]] = []
        for node in group.nodes_for(room, ask.amounts):
            slots = group.slots_on(node, room, ask.amounts)
            used = there[node] + sent[group.group_id, node]
            is_closed = (ask.actor_id, node) in self._refused
            if node in tables.others and not is_closed and used < slots:
                found.append((used / slots, node))
        if found:
            node = min(found)[1]
            sent[group.group_id, node] += 1
            self._post(events.ActorSent(ask.actor_id, node))

    def perform_spread_actor(self, command: commands.SpreadActor) -> None:
        """The next node with room, this one among them; without any it waits here."""
        actor = self._machine.tables.actors.living[command.actor_id]
        wish, hold = Wish(parse(actor.spec.place), (), PYTHON), parse(actor.spec.hold)
        self._take_rows()
        rows = {**self._rows, self._me: self._cluster.rows.row()}
        free = sorted(n for n, r in rows.items() if policy.fits(r, wish, hold))
        self._turn += 1
        node = free[self._turn % len(free)] if free else self._me
        self._post(events.ActorSent(command.actor_id, node))

    def _take_rows(self) -> None:
        self._rows = {row.node: row for row in self._cluster.rows.other_rows()}

    def _use(self, node: str, amounts: Amounts) -> None:
        row = self._rows[node]
        free = dict(row.free)
        for name, units in amounts:
            free[name] = free.get(name, 0) - units
        self._rows[node] = msgspec.structs.replace(row, free=free)

    # ---- ours, elsewhere
    def perform_host_actor(self, command: commands.HostActor) -> None:
        """Send all that it needs."""
        tables, node = self._machine.tables, command.node
        actor = tables.actors.living[command.actor_id]
        key = actor.spec.arguments
        twin = self._twins.get(key) or self.twins.make(key)
        if twin is None or self._bridging is None or node not in tables.others:
            self._refused[command.actor_id, node] = clock.now() + REFUSED_S
            self._post(events.ActorTold(node, key, REFUSED))
            return
        self._twins[key] = twin
        left, strategy = actor.spec.max_restarts, actor.spec.strategy
        spec = msgspec.structs.replace(
            actor.spec,
            function=0,
            arguments=0,
            name=None,
            detached=False,
            is_known=bool(actor.spec.name) or actor.spec.detached,
            get_if_exists=False,
            strategy=strategy if isinstance(strategy, InGroup) else Default(),
            max_restarts=left if left < 0 else max(0, left - actor.restarts),
        )
        proxies = self._bridging.proxies
        body = rows.HostActor(
            key=key,
            actor_id=actor.actor_id,
            job=actor.job,
            place=guests.describe_job(tables, actor.job, actor.env),
            spec=spec,
            function=proxies.name_of(actor.spec.function),
            arguments=proxies.name_of(twin.key),
            checkpoint=proxies.name_of(actor.checkpoint) if actor.checkpoint else None,
        )
        proxies.send(node, body, rows.names_in(body))

    def told(self, node: str, body: rows.ActorState, refs: list[ObjectRef[Any]]) -> None:
        """Its host says how it is."""
        actor = self._machine.tables.actors.by_key.get(body.key)
        if actor is not None and actor.host == node:
            if body.state in _BACK:
                self._refused[actor.actor_id, node] = clock.now() + REFUSED_S
            if body.state != "DEAD" and self._bridging is not None:
                for queue in actor.queues:
                    self._bridging.actors.place(queue, "" if body.state in _BACK else node)
        row = events.ActorTold(node, body.key, body.state, body.pid, body.restarts, body.cause)
        bridging = self._bridging
        if not refs or bridging is None:
            self._post(row)
            return

        def brought(state: list[ObjectRef[Any]]) -> None:
            self._post(msgspec.structs.replace(row, checkpoint=state[0].key))

        self.twins.bring(bridging, refs, brought, lambda: self._bridging is bridging)

    def perform_end_hosted(self, command: commands.EndHosted) -> None:
        """It ends, wherever it is."""
        if self._bridging is None:
            return
        how = (command.is_gentle, command.may_restart)
        self._bridging.send(command.node, rows.EndActor(command.home, command.key, *how))

    def perform_end_calls(self, command: commands.EndCalls) -> None:
        """What is lent is told by its node, or lost."""
        self.ended(command.key)
        self._twins.pop(command.key, None)
        if self._bridging is not None:
            for queue in command.queues:
                self._bridging.actors.remove(queue, command.record)

    def perform_bring_home(self, command: commands.BringHome) -> None:
        """It lives here from now on, from its own arguments."""
        tables = self._machine.tables
        actor = tables.actors.find(tables.actor_queues.get(command.queues[0], ""))
        if actor is not None:
            self._twins.pop(actor.spec.arguments, None)
        if self._bridging is not None:
            for queue in command.queues:
                self._bridging.actors.bring_home(queue)

    def perform_look_abroad(self, command: commands.LookAbroad) -> None:
        """Whether none of its calls waits or runs."""
        bridging = self._bridging
        is_quiet = bridging is not None and all(
            bridging.actors.is_quiet(queue) and not self._memory.queue_state(queue)[0]
            for queue in command.queues
        )
        self._post(events.AbroadLooked(command.actor_id, is_quiet))

    # ---- others', here
    def came(self, node: str, body: rows.HostActor, refs: list[ObjectRef[Any]]) -> None:
        """It is made once its class and its arguments are here."""
        place = node, body.key
        self._hosted[place] = (body.actor_id, refs)
        missing, bridging = [2], self._bridging
        function, arguments = (ref.key for ref in refs[:2])
        spec = msgspec.structs.replace(body.spec, function=function, arguments=arguments)
        came = events.ActorCame(node, body.key, body.actor_id, body.job, body.place, spec)
        assert bridging is not None

        def is_wanted() -> bool:
            return self._bridging is bridging and place in self._hosted

        def is_whole(state: list[ObjectRef[Any]]) -> None:
            key = state[0].key if state else 0
            self._hosted[place] = (body.actor_id, refs[:2])
            self._post(msgspec.structs.replace(came, checkpoint=key))

        def is_here() -> None:
            missing[0] -= 1
            if not missing[0]:
                self.twins.bring(bridging, refs[2:], is_whole, is_wanted)

        for ref in refs[:2]:
            bridging.pulling.fetch(ref, is_here)

    def perform_tell_home(self, command: commands.TellHome) -> None:
        """How a guest is."""
        if command.state in _OVER:
            self._hosted.pop((command.node, command.key), None)
        if self._bridging is not None and self._bridging.has_joined(command.node):
            fields = (command.state, command.pid, command.restarts, command.cause)
            proxies = self._bridging.proxies
            state = proxies.name_of(command.checkpoint) if command.checkpoint else None
            body = rows.ActorState(command.key, *fields, state)
            proxies.send(command.node, body, rows.names_in(body))

    def ends(self, node: str, body: rows.EndActor) -> None:
        """A guest is to end; or one of ours, which somebody there has killed."""
        if body.home == node:
            actor_id, _ = self._hosted.get((node, body.key), ("", []))
            if actor_id not in self._machine.tables.actors.living:
                self._hosted.pop((node, body.key), None)  # it has not been made yet
        how = (body.is_gentle, body.may_restart, body.is_moving)
        self._post(events.ActorEnds(body.home, body.key, *how))

    def find(self, name: Name, place: bytes) -> Place | str:
        """Where calls for that actor wait here."""
        table = self._machine.tables.actors
        actor: Actor | None
        if name.node == self._me:
            actor = table.by_key.get(name.key)
        else:
            actor_id, _ = self._hosted.get((name.node, name.key), ("", []))
            actor = table.living.get(actor_id)
        number = place[0] if place else 0
        if actor is not None and actor.moves and actor.home is None:
            self.called_in_vain(actor)
        if actor is None or actor.moves or not actor.queue or number > len(actor.group_queues):
            return "the actor is not here"
        queues = [(actor.queue, actor.generation), *actor.group_queues]
        return (*queues[number], actor.job)

    # ---- of a queue
    def number_of(self, queue: int) -> int | None:
        """Which of its actor's queues this is; None: it is no actor's."""
        tables = self._machine.tables
        actor = tables.actors.find(tables.actor_queues.get(queue, ""))
        if actor is not None:
            return actor.queues.index(queue)
        return self.callers.number_of(queue)

    def _record_of(self, queue: int) -> bytes | None:
        tables = self._machine.tables
        actor = tables.actors.find(tables.actor_queues.get(queue, ""))
        if actor is None:
            return lost_actor("")
        return actor.cause if actor.is_dead else None

    def lost_call(self, queue: int, node: str) -> bytes:
        """What a call ends with that was lent from that queue to a node that is lost."""
        tables = self._machine.tables
        actor = tables.actors.find(tables.actor_queues.get(queue, ""))
        if actor is not None:
            lives_on = tables.actors.can_restart(actor)
            reason = "restarting" if lives_on else "node_lost"
            if not lives_on and node in self._cluster.rows.drained():
                reason = "drained"
            return lost_actor(node, **{**actor.facts(), "reason": reason})
        return self.callers.lost_call(queue, node)
