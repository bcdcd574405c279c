"""Work between this node and the others: what goes out, what comes in, what is needed for both.

Made where the node is in a cluster, as ``ClusterNode`` is. It joins four things that know nothing
of each other::

    ClusterNode   who is there, and what they send     --> Bridging
    NodeMachine   queues of this node, looked at       --> Forwarding --> Bridging.lend, recall
    Bridging      a task of another node has come      --> Hosting, then a queue of a guest
    Bridging      one of ours has ended, or come back  --> Forwarding

``Forwarding`` decides what leaves and ``Hosting`` what is let in (RULES S-11, S-12);
``NodeMachine`` makes queues for what comes (``guests``). This file carries what one says to the
other.

1. A task that was lent is in ``_lent`` until its end, or its return, is known; one that has come
   back and has no place yet is in ``_kept``, and is the daemon's.
2. A queue is looked at when the machine has looked at it, and as often as ``Forwarding`` wants
   while something of it waits for another node or is there.
3. What a node sent in an epoch of ours that is over is not read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, get_args

from shoal._base import clock
from shoal._base.config import ForwardingLimits
from shoal._core import events, guests
from shoal._core import forwarding_events as moves
from shoal._core import hosting as visitors
from shoal._core.forwarding import Forwarding
from shoal._core.hosting import Hosting
from shoal._core.node import NodeMachine
from shoal._core.policies import view
from shoal._core.queues import ClassQueue
from shoal._core.remote_ref_events import PeerLost
from shoal._core.resources import GPU, UNIT
from shoal._native import FLAG_STREAM, Memory, ObjectRef
from shoal._proto import membership
from shoal._proto.bridge import (
    ActorAnswer,
    ActorAsk,
    ActorState,
    BridgeBody,
    EndActor,
    ForwardTask,
    HostActor,
    NameAnswer,
    NameAsk,
    PrintedLines,
)
from shoal._proto.holds import HoldsBody
from shoal._proto.links import NodeBody
from shoal._proto.views import Candidates, Wish
from shoal._runtime.bridge.around import NameRow, Place, Surroundings, Watch
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.bridge.lending import stays_here
from shoal._runtime.daemon_actors_abroad import ActorsAbroad
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.daemon_members import PYTHON
from shoal._runtime.daemon_names import Names
from shoal._runtime.daemon_seen import Seen

_CROSSING = (*get_args(BridgeBody), *get_args(HoldsBody))
_OVER = (membership.DEAD, membership.DRAINED)
_FLAGS_FIELD = 5
"""Of ``Memory.sight``."""
NEWEST = 0.25
"""Weight of the last task in the mean of how long those of a queue run."""


class _Hosted:
    """Tasks of others in one queue of this node."""

    __slots__ = ("ended_at", "task_s")

    def __init__(self) -> None:
        self.task_s: float | None = None
        self.ended_at = 0.0

    def ran(self, now: float, begun_at: float, slots: int) -> float:
        """One has ended: about how long it ran. If others were before it, what it waited for them
        is not counted."""
        seconds = min(now - begun_at, max(0.0, now - self.ended_at) * slots)
        mean = seconds if self.task_s is None else self.task_s
        self.task_s, self.ended_at = mean + NEWEST * (seconds - mean), now
        return seconds


class Ways(NamedTuple):
    """What it needs of the daemon's other parts."""

    make_room: Callable[[], object]
    bring_back: Callable[[int], object]
    lost: Callable[[int, str], bool]


class Abroad(Watch):
    """What one daemon does with the other nodes."""

    def __init__(
        self,
        loop: Loop,
        memory: Memory,
        machine: NodeMachine,
        cluster: ClusterNode,
        post: Callable[[events.AnyEvent], None],
        ways: Ways,
    ) -> None:
        self._ways = ways
        self._loop = loop
        self._memory = memory
        self._machine = machine
        self._cluster = cluster
        self._post = post
        node_id = machine.tables.config.node_id
        self._me = node_id.hex()
        limits = ForwardingLimits()
        self._forwarding = Forwarding(self._me, limits, int.from_bytes(node_id[:4], "little"))
        self._hosting = Hosting(limits)
        self._hosted: dict[int, _Hosted] = {}
        self._visits: dict[tuple[str, int], tuple[int, float]] = {}
        """Tasks of others: their queue, and when they came."""
        self._bridging: Bridging | None = None
        self._former: list[Bridging] = []
        """Of epochs that are over: somebody here still has their refs."""
        self._epochs: dict[str, int] = {}
        self._asked: set[tuple[str, int]] = set()
        self._early: list[tuple[str, NodeBody]] = []
        self._lent: dict[int, tuple[int, str]] = {}
        self._kept: dict[int, int] = {}
        self._lent_from: dict[int, int] = {}
        """How many tasks have left each queue for other nodes."""
        self._stays: set[int] = set()
        """Queued tasks of a kind that no other node runs."""
        self._moves: list[moves.Event] = []
        self._is_moving = False
        self._timer: Timer | None = None
        self.names = Names(loop, machine, cluster, post)
        self.actors = ActorsAbroad(loop, memory, machine, cluster, post, ways)
        self.seen = Seen(machine, cluster, post)
        cluster.joined, cluster.left = self._joined, self._left
        cluster.received, cluster.open_source = self._received, self._open_source
        cluster.members_changed = self._members_changed
        cluster.candidates_heard = self._candidates_heard

    # ---- nodes
    def _joined(self, epoch: int) -> None:
        """This node is a member, in a new epoch."""
        self._left()
        around = Surroundings(
            links=self._cluster.peers,
            call_later=self._loop.call_later,
            describe_queue=self._describe_queue,
            find_queue=self.find_queue,
            find_actor=self.actors.find,
            watch=self,
            make_room=lambda size: self._ways.make_room(),
            bring_back=self._ways.bring_back,
            lost=self._ways.lost,
            cancel=lambda key, recursive, forced, late: self._post(
                events.CancelAsked(key, recursive, forced)
            ),
            blame=lambda node, why: print(f"node {node}: {why}", file=sys.stderr, flush=True),
            ask_about=self._ask_about,
        )
        self._bridging = Bridging(self._memory, self._me, epoch, around)
        self._bridging.lending.is_needy = self._is_needy
        self.actors.begin(self._bridging)
        self.names.bridging = self._bridging
        early, self._early = self._early, []
        for node, body in early:
            self._received(node, body)

    def _left(self) -> None:
        """Its epoch is over: for the others it is lost, and so are they for it."""
        for node in sorted(self._epochs):
            self._lose(node, "this node was given up by the cluster")
        if self._bridging is not None:
            self.actors.end()
            self.names.end()
            self._former.append(self._bridging)
            self._bridging = None
        self._tell_nodes()

    def _members_changed(self, rows: Iterable[membership.MemberRow]) -> None:
        """In this order: nodes we did not know, losses, later lives of those that were lost."""
        others = [row for row in rows if row.node != self._me]
        living = [row for row in others if row.state not in _OVER]
        if self._bridging is None:
            return
        for row in living:
            if row.node not in self._epochs:
                self._take_in(row)
        for row in others:
            known = self._epochs.get(row.node)
            if known is not None and (row.state in _OVER or row.epoch > known):
                self._cluster.peers.forget(row.node)
                self._lose(row.node, row.why or "it is lost")
            self._settle(row)
        for row in living:
            if row.node not in self._epochs:
                self._cluster.peers.connect(row.node, row.address)
                self._take_in(row)
        self._tell_nodes()

    def _take_in(self, row: membership.MemberRow) -> None:
        assert self._bridging is not None
        self._epochs[row.node] = row.epoch
        is_driver = row.role == membership.ROLE_DRIVER
        self._bridging.node_joined(row.node, row.epoch, is_driver=is_driver)
        self.names.node_joined(row.node)

    def _lose(self, node: str, why: str) -> None:
        del self._epochs[node]
        if self._bridging is not None:
            self.names.node_lost(node)
            self.actors.node_lost(node)
            self._bridging.node_lost(node)
        self.seen.node_lost(node)
        self._move(moves.NodeLost(node))
        self._hosting.step(clock.now(), visitors.HomeLost(node))
        self._visits = {place: each for place, each in self._visits.items() if place[0] != node}
        self._post(events.GuestEnded(node, 0, f"node {node} is lost: {why}"))

    def _settle(self, row: membership.MemberRow) -> None:
        """A node of which only others had told us."""
        for node, epoch in [each for each in self._asked if each[0] == row.node]:
            if self._epochs.get(node) == epoch:
                self._asked.discard((node, epoch))
            elif row.state in _OVER or row.epoch > epoch:
                self._asked.discard((node, epoch))
                assert self._bridging is not None
                self._bridging.proxies.post(PeerLost(node, epoch))

    def _ask_about(self, node: str, epoch: int) -> None:
        self._asked.add((node, epoch))
        self._cluster.refresh(lambda: None)

    def _tell_nodes(self) -> None:
        self.seen.tell_nodes(frozenset(self._epochs))

    # ---- what they send
    def _received(self, node: str, body: NodeBody) -> None:
        if not isinstance(body, _CROSSING):
            print(f"node {node} said what nobody understands", file=sys.stderr, flush=True)
        elif isinstance(body, PrintedLines):
            self.seen.show(node, body)
        elif self._bridging is None:
            self._early.append((node, body))
        else:
            self._bridging.receive(node, body)

    def _open_source(self, node: str, name: bytes) -> Any:
        return None if self._bridging is None else self._bridging.open_source(node, name)

    # ---- what is seen in node memory
    def inbox(self, keys: list[int]) -> None:
        """The bell was rung."""
        for former in self._former:
            for key in keys:
                former.proxies.look(key)
                former.pulling.look(key)
        self._former = [former for former in self._former if not former.proxies.refs.is_empty]
        if self._bridging is not None:
            self._bridging.look(keys)

    def is_proxy(self, key: int) -> bool:
        """Whether it stands for an object of another node."""
        return any(bridging.proxies.proxy_name(key) is not None for bridging in self.bridges())

    def bridges(self) -> list[Bridging]:
        """Of this epoch, and of those before it that are not over for everybody."""
        return [*([] if self._bridging is None else [self._bridging]), *self._former]

    def came_home(self, key: int) -> None:
        """A value of ours was read back from its file or made again, or is lost for good; others
        may have come for it."""
        if self._bridging is not None:
            self._bridging.pulling.sources.came_back(key)

    def made_again(self, key: int, by: int) -> None:
        """A lost value of ours is what the result ``by`` of another run is, wherever that is."""
        if self._bridging is not None:
            self._bridging.pulling.stays_as(by, key)
            self.came_home(key)

    # ---- queues of this node
    def looked(self, queues: Iterable[events.QueueState]) -> None:
        """The machine has looked at these."""
        if len(self._machine.tables.scheduler.asks) and not self.actors.looks():
            self.actors.look()
        if self._epochs:
            for state in queues:
                self._look(state.queue)

    def _look(self, number: int) -> None:
        tables = self._machine.tables
        queue = tables.scheduler.held.queues.get(number)
        wish = None if queue is None else guests.wish_of(tables, queue, PYTHON)
        is_source = number in self._forwarding.sources
        if queue is None or wish is None:
            if is_source:
                self._drop(number, queue)
            return
        state = self._state(number)
        if not state.entries and not is_source:
            return
        if wish.spreads and not is_source:
            # All take part, however full they are: the store need not be asked.
            nothing = events.QueueState(number, 0, state.takes)
            self._move(self._seen(queue, wish, nothing))
            rows = tuple(row for row in self._cluster.other_rows() if view.slots_ever(row, wish))
            slots = tuple(view.slots_ever(row, wish) for row in rows)
            self._move(moves.CandidatesHeard(Candidates(wish, rows, (), slots, len(rows))))
        self._move(self._seen(queue, wish, state))

    def lent_from(self, queue: int) -> int:
        """How many tasks have left it for other nodes."""
        return self._lent_from.get(queue, 0)

    def queue_made(self, queue: int) -> None:
        """The number is another queue's now."""
        self._lent_from.pop(queue, None)

    def _state(self, number: int) -> events.QueueState:
        entries, takes, _ = self._memory.queue_state(number)
        return events.QueueState(number, entries, max(0, takes - self.lent_from(number)))

    def _seen(self, queue: ClassQueue, wish: Wish, state: events.QueueState) -> moves.QueueLooked:
        number, entries = queue.queue, state.entries
        source = self._forwarding.sources.get(number)
        if not entries:
            self._stays -= {key for key in self._stays if self._memory.task_state(key) is None}
        kept = len(source.kept) if source is not None else 0
        gpus = tuple(self._machine.tables.account.gpus.values())
        free = self._machine.tables.scheduler.held.available()
        startable = view.slots(free, gpus, queue.amounts) if queue.is_feasible else 0
        return moves.QueueLooked(
            queue=number,
            wish=wish,
            entries=entries,
            movable=max(0, entries - kept),
            takes=state.takes,
            startable=startable,
            attached=len(queue.attachments),
            is_feasible=queue.is_feasible,
        )

    def _drop(self, number: int, queue: ClassQueue | None) -> None:
        """It is dead or gone: what came back for it ends."""
        self._move(moves.QueueGone(number))
        record = b"" if queue is None else queue.dead_record or b""
        for key in [key for key, its in self._kept.items() if its == number]:
            del self._kept[key]
            assert self._bridging is not None
            self._bridging.lending.fail(key, record)

    def _describe_queue(self, queue: int) -> bytes:
        """Of a class queue what its tasks need, of an actor's which of its queues it is."""
        number = self.actors.number_of(queue)
        tables = self._machine.tables
        return guests.describe(tables, queue) if number is None else bytes([number])

    def _is_needy(self, number: int) -> bool:
        queue = self._machine.tables.scheduler.held.queues.get(number)
        return queue is not None and not queue.is_feasible

    # ---- what forwarding decides
    def _move(self, event: moves.Event) -> None:
        self._moves.append(event)
        if self._is_moving:
            return
        self._is_moving = True
        try:
            while self._moves:
                for order in self._forwarding.step(clock.now(), self._moves.pop(0)):
                    self._loop.guard(self._perform, order)
        finally:
            self._is_moving = False
        self._set_timer()

    def _perform(self, order: moves.Command) -> None:
        match order:
            case moves.Forward():
                self._forward(order)
            case moves.ForwardTasks(queue, node, keys, is_final):
                for key in keys:
                    self._forward_kept(key, queue, node, is_final)
            case moves.Keep(_, keys):
                for key in keys:
                    self._end_kept(key)
            case moves.Recall(_, _, keys):
                for key in keys:
                    if self._bridging is not None:
                        self._bridging.recall(key)
            case moves.AskCandidates():
                self._cluster.ask_room()

    def _forward(self, order: moves.Forward) -> None:
        keys: list[int] = []
        source = self._forwarding.sources[order.queue]
        most = order.most + len(source.kept) + len(self._stays)
        for key in self._memory.queued(order.queue, most):
            if len(keys) == order.most or self._bridging is None:
                break
            if key in self._stays or not self._forwarding.may_leave(order.queue, key):
                continue
            sight = self._memory.sight(key)
            if sight is None or stays_here(sight[_FLAGS_FIELD]):
                self._stays.add(key)
                if sight is not None and sight[_FLAGS_FIELD] & FLAG_STREAM:
                    self._post(events.KeptHere(order.queue))
            elif self._bridging.lend(key, order.node, is_final=order.is_final):
                keys.append(key)
                self._lent[key] = (order.queue, order.node)
        self._lent_from[order.queue] = self.lent_from(order.queue) + len(keys)
        done = moves.Forwarded(order.queue, order.node, order.most, tuple(keys), order.is_final)
        self._moves.insert(0, done)

    def _forward_kept(self, key: int, queue: int, node: str, is_final: bool) -> None:
        assert self._bridging is not None
        if self._bridging.lending.ending(key) is not None or node not in self._epochs:
            self._end_kept(key)
            self._moves.append(moves.Done(queue, node, (key,)))
            return
        del self._kept[key]
        self._lent[key] = (queue, node)
        self._bridging.lend_kept(key, node, is_final=is_final)

    def _end_kept(self, key: int) -> None:
        if self._kept.pop(key, None) is not None:
            assert self._bridging is not None
            self._bridging.end_kept(key)

    def _set_timer(self) -> None:
        at = self._forwarding.next_deadline()
        if at is None or (self._timer is not None and self._timer.callback is not None):
            return
        self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        held, states = self._machine.tables.scheduler.held.queues, []
        for number in list(self._forwarding.sources):
            if number in held:
                states.append(self._state(number))
            else:
                self._drop(number, None)
        self._post(events.Looked(queues=tuple(states)))
        self._move(moves.TimePassed())

    def _candidates_heard(self, found: list[Candidates]) -> None:
        for each in found:
            self._move(moves.CandidatesHeard(each))

    # ---- what becomes of what was lent (Watch)
    def over(self, key: int, ran_s: float, window: int | None) -> None:
        queue, node = self._lent.pop(key, (0, ""))
        if node:
            self._move(moves.Done(queue, node, (key,), ran_s, window))

    def came_back(self, key: int, window: int | None) -> bool:
        queue, node = self._lent.pop(key, (0, ""))
        if not node:
            return False
        assert self._bridging is not None
        if self._bridging.lending.ending(key) is not None or queue not in self._forwarding.sources:
            self._move(moves.Done(queue, node, (key,), 0.0, window))
            return False
        self._kept[key] = queue
        self._move(moves.Returned(queue, node, (key,), window))
        return True

    def runs(self, key: int) -> None:
        queue, node = self._lent.get(key, (0, ""))
        if node:
            self._move(moves.Running(queue, node, (key,)))

    def cancel(self, key: int, recursive: bool, forced: bool, late: bool) -> None:
        """A task that is the daemon's is to end: its claim is marked."""
        if self._bridging is None:
            return
        if late:
            self._bridging.lending.note_late(key)
        if key in self._kept:
            self._move(moves.TaskEnded(self._kept[key], key))
            self._end_kept(key)
            return
        self._bridging.cancel(key, recursive=recursive, forced=forced, late=late)

    def end_job(self, job: int) -> None:
        """A job of this node has ended."""
        if self._bridging is not None:
            self._bridging.end_job(job, "its driver has ended")

    # ---- tasks of others (Watch)
    def find_queue(self, node: str, job: int, place: bytes) -> Place | str | None:
        """Where such tasks wait here; made with the first one."""
        tables = self._machine.tables
        found = guests.find(tables, node, job, place)
        if found is None:
            self._post(events.GuestWanted(node, job, place))
            found = guests.find(tables, node, job, place)
        return found

    def admit(self, node: str, body: ForwardTask) -> str:
        found = self.find_queue(node, body.job, body.place)
        if isinstance(found, str):
            return found
        if found is None:
            return "" if body.is_final else "the node makes a queue for it"
        number, now = found[0], clock.now()
        self._look_hosted(number)
        came = visitors.VisitorsCame(number, node, (body.number,), body.is_final, body.is_needy)
        for answer in self._hosting.step(now, came):
            if isinstance(answer, visitors.SendBack):
                return "the node is busy"
        self._visits[node, body.number] = (number, now)
        return ""

    def visit_over(self, node: str, number: int) -> tuple[float, int | None]:
        queue, begun_at = self._visits.pop((node, number), (0, 0.0))
        if not queue:
            return 0.0, None
        now = clock.now()
        self._hosting.step(now, visitors.VisitorsEnded(queue, node, (number,)))
        ran_s = self._hosted.setdefault(queue, _Hosted()).ran(now, begun_at, self._slots(queue))
        self._look_hosted(queue)
        return ran_s, self._hosting.window(queue, node)

    def lost_call(self, queue: int, node: str) -> bytes:
        return self.actors.lost_call(queue, node)

    def actor_came(self, node: str, body: HostActor, refs: list[ObjectRef[Any]]) -> None:
        self.actors.came(node, body, refs)

    def actor_told(self, node: str, body: ActorState) -> None:
        self.actors.told(node, body)

    def name_row(self, node: str, body: NameRow, refs: list[ObjectRef[Any]]) -> None:
        names = self.names
        match body:
            case NameAsk():
                names.asked(node, body)
            case NameAnswer():
                names.answered(node, body)
            case ActorAsk():
                names.actor_asked(node, body)
            case ActorAnswer():
                names.actor_told(node, body, refs)

    def actor_ends(self, node: str, body: EndActor) -> None:
        self.actors.ends(node, body)

    def job_ended(self, node: str, job: int, reason: str) -> None:
        self._post(events.GuestEnded(node, job, reason))

    def note_may_run_again(self, key: int) -> None:
        """The worker that ran a task of another node says that its exception may be retried."""
        if self._bridging is not None:
            self._bridging.visiting.note_may_run_again(key)

    def _slots(self, number: int) -> int:
        queue = self._machine.tables.scheduler.held.queues.get(number)
        if queue is None:
            return 1
        total = self._machine.tables.account.total
        gpus = (UNIT,) * (total.get(GPU, 0) // UNIT)
        return max(1, view.slots(total, gpus, queue.amounts))

    def _look_hosted(self, number: int) -> None:
        """What ``Hosting`` is to know of a queue of guests."""
        tables = self._machine.tables
        queue = tables.scheduler.held.queues.get(number)
        if queue is None:
            self._hosting.step(clock.now(), visitors.QueueRemoved(number))
            self._hosted.pop(number, None)
            return
        own = sum(
            other.entries
            for other in tables.scheduler.held.wanting.values()
            if tables.jobs.running[other.job].home is None
        )
        hosted = self._hosted.get(number)
        look = visitors.QueueLookedAt(
            number,
            self._slots(number),
            own,
            None if hosted is None else hosted.task_s,
            queue.is_feasible and not self._cluster.is_draining,
        )
        self._hosting.step(clock.now(), look)
