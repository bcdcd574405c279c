"""What leaves this node for others, and what comes of it: ``Forwarding``, told what is seen.

::

    a queue was looked at     QueueLooked --> Forward --> tasks are taken out of it and lent
    ... whose arguments are   TaskArrived: it is kept for the node that has them, unless that
        on a third node       would take longer than moving them (``policies/argument_bytes``)
    one has ended there       Done, with how many more its node takes
    one has come back         Returned --> Keep: into its queue; ForwardTasks: out once more

1. A task that was lent is in ``_lent`` until its end, or its return, is known; one that has come
   back, or was taken out, and has no place yet is in ``_kept``, and is the daemon's.
2. A queue is looked at when the machine has looked at it, and as often as ``Forwarding`` wants
   while something of it waits for another node or is there.
3. What was lent is not counted as taken by workers here: it says nothing of how fast they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from shoal._base import clock
from shoal._base.config import ForwardingLimits
from shoal._core import events, guests
from shoal._core import forwarding_events as moves
from shoal._core.forwarding import Forwarding
from shoal._core.loans import Source
from shoal._core.node import NodeMachine
from shoal._core.policies import argument_bytes, view
from shoal._core.queues import ClassQueue
from shoal._core.tables import NodeTables
from shoal._native import Memory
from shoal._proto.views import Candidates, NodeRow, Wish
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.bridge.lending import stays_here
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.daemon_members import PYTHON

DRAWN_MOST = 64
"""Tasks that one order takes out although they belong elsewhere, for where their arguments are."""
NAMED_MOST = 32
"""Nodes that are looked at for one queue of a placement group."""
_FLAGS_FIELD = 5
"""Of ``Memory.sight``."""


def _is_to_be_named(queue: ClassQueue, wish: Wish, source: Source | None, is_new: bool) -> bool:
    """Whether this node itself says who may help, and the store is not asked: with SPREAD all take
    part, however full they are, and what bundles of groups have free stands in no row.

    ``is_new``: not all who are known now have been named for it.
    """
    if not queue.target.group:
        return wish.spreads and is_new
    nodes = wish.labels[0][0].values if wish.labels else ()
    if source is None or not source.outlets:
        return True
    return any(node not in source.outlets for node in nodes)


def _named(
    tables: NodeTables, queue: ClassQueue, wish: Wish, rows: Iterable[NodeRow]
) -> moves.CandidatesHeard:
    """Those nodes."""
    able = tuple(row for row in rows if view.slots_ever(row, wish))
    slots = tuple(view.slots_ever(row, wish) for row in able)
    if not queue.target.group:
        return moves.CandidatesHeard(Candidates(wish, able, (), slots, len(able)))
    able = able[:NAMED_MOST]
    held = [guests.slots_in_group(tables, queue, row.node) for row in able]
    slots = tuple(ever if own is None else own for ever, own in zip(slots, held))
    found = Candidates(wish, able, (), slots, len(able))
    return moves.CandidatesHeard(found, queue.queue)


def _known(wish: Wish, rows: Iterable[NodeRow]) -> moves.CandidatesHeard:
    """Without a store: who could ever run that. What they have free it does not know, they do."""
    able = tuple(row for row in rows if view.slots_ever(row, wish))
    return moves.CandidatesHeard(Candidates(wish, (), able, (), len(able)))


class Outgoing:
    """Tasks of this node that others run."""

    def __init__(
        self,
        loop: Loop,
        memory: Memory,
        machine: NodeMachine,
        cluster: ClusterNode,
        post: Callable[[events.AnyEvent], None],
    ) -> None:
        self._loop = loop
        self._memory = memory
        self._machine = machine
        self._cluster = cluster
        self._post = post
        node_id = machine.tables.config.node_id
        seed = int.from_bytes(node_id[:4], "little")
        self._forwarding = Forwarding(node_id.hex(), ForwardingLimits(), seed)
        self.bridging: Bridging | None = None
        self._lent: dict[int, tuple[int, str]] = {}
        """Queue and node."""
        self._kept: dict[int, int] = {}
        """Queue."""
        self._lent_from: dict[int, int] = {}
        """How many tasks have left each queue for other nodes."""
        self._spread_over: dict[int, int] = {}
        """``Members.changes`` when all nodes were last named for a queue with SPREAD."""
        self._stays: set[int] = set()
        """Queued tasks of a kind that no other node runs."""
        self._moves: list[moves.Event] = []
        self._emptied: set[int] = set()
        """Queues that tasks have just left."""
        self._is_moving = False
        self._timer: Timer | None = None
        cluster.candidates_heard = self._candidates_heard
        cluster.rows.kept = lambda: Counter(self._kept.values())

    # ---- queues
    def looked(self, queues: Iterable[events.QueueState]) -> None:
        """The machine has looked at these."""
        for state in queues:
            self._look(state.queue)

    def _look(self, number: int) -> None:
        tables = self._machine.tables
        queue = tables.scheduler.held.queues.get(number)
        wish = None if queue is None else guests.wish_of(tables, queue, PYTHON)
        is_source = number in self._forwarding.sources
        if queue is None or wish is None:
            if is_source and queue is not None and queue.dead_record is None:
                self._renew(number)  # its group has lost the bundles that were elsewhere
            elif is_source:
                self._drop(number, queue)
            return
        if is_source and self._forwarding.sources[number].wish != wish:
            self._renew(number)
            is_source = False
        state = self._state(number)
        if not state.entries and not is_source:
            return
        source = self._forwarding.sources.get(number)
        changes = self._cluster.rows.changes
        is_new = source is None or self._spread_over.get(number) != changes
        if _is_to_be_named(queue, wish, source, is_new):
            self._spread_over[number] = changes
            if source is None:
                nothing = events.QueueState(number, 0, state.takes)
                self._move(self._seen(queue, wish, nothing))
            self._move(_named(tables, queue, wish, self._cluster.rows.other_rows()))
        self._move(self._seen(queue, wish, state))

    def lent_from(self, queue: int) -> int:
        """How many tasks have left it for other nodes."""
        return self._lent_from.get(queue, 0)

    def queue_made(self, queue: int) -> None:
        """The number is another queue's now: nothing that was known of it is true any more."""
        self._lent_from.pop(queue, None)
        if queue in self._forwarding.sources:
            self._drop(queue, None)

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
        self._spread_over.pop(number, None)
        self._lent = {key: each for key, each in self._lent.items() if each[0] != number}
        record = b"" if queue is None else queue.dead_record or b""
        for key in [key for key, its in self._kept.items() if its == number]:
            del self._kept[key]
            assert self.bridging is not None
            self.bridging.lending.fail(key, record)

    def _renew(self, number: int) -> None:
        """Other nodes than before may run what waits there: what is known of it is over. What was
        lent ends where it is, or comes back into the queue."""
        self._move(moves.QueueGone(number))
        self._lent = {key: each for key, each in self._lent.items() if each[0] != number}
        for key in [key for key, its in self._kept.items() if its == number]:
            self._end_kept(key)

    def is_needy(self, number: int) -> bool:
        """Whether this node can never run what waits in that queue."""
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
        self._look_at_emptied()
        self._set_timer()

    def _look_at_emptied(self) -> None:
        """Of a queue of which all that was seen has gone, the machine is to hear again: whoever
        pushes then rings, instead of being found at the next look."""
        emptied, self._emptied = self._emptied, set()
        sources = self._forwarding.sources
        found = [n for n in emptied if n in sources and sources[n].here.entries <= 0]
        if found:
            self._post(events.Looked(queues=tuple(self._state(number) for number in found)))

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
                    if self.bridging is not None:
                        self.bridging.recall(key)
            case moves.AskCandidates(wish):
                if not self._cluster.ask_room():
                    self._moves.append(_known(wish, self._cluster.rows.other_rows()))

    def _forward(self, order: moves.Forward) -> None:
        keys: list[int] = []
        drawn: list[moves.Event] = []
        source = self._forwarding.sources[order.queue]
        most = order.most + len(source.kept) + len(self._stays)
        for key in self._memory.queued(order.queue, most):
            if self.bridging is None or not self.bridging.has_joined(order.node):
                break
            if len(keys) == order.most or len(drawn) == DRAWN_MOST:
                break
            if key in self._stays or not self._forwarding.may_leave(order.queue, key):
                continue
            sight = self._memory.sight(key)
            if sight is None or stays_here(sight[_FLAGS_FIELD]):
                self._stays.add(key)
                continue
            bytes_at = self.bridging.keep(key)
            if bytes_at is None:
                continue
            if not order.is_final and (places := self._drawn_to(source.wish, bytes_at, order.node)):
                drawn.append(moves.TaskArrived(order.queue, key, bytes_at=places))
                self._kept[key] = order.queue
                continue
            keys.append(key)
            self._lent[key] = (order.queue, order.node)
            self.bridging.lend_kept(key, order.node, is_final=order.is_final)
        if keys or drawn:  # else what is left there stays, and would be looked at for ever
            self._emptied.add(order.queue)
        self._lent_from[order.queue] = self.lent_from(order.queue) + len(keys) + len(drawn)
        done = moves.Forwarded(order.queue, order.node, order.most, tuple(keys), order.is_final)
        self._moves[:0] = [done, *drawn]

    def _drawn_to(self, wish: Wish, bytes_at: dict[str, int], node: str) -> dict[str, int]:
        """The same by ids of nodes, if one that could run the task has much more of its arguments
        than this one, and is not ``node``."""
        me = self._forwarding.node
        places = {me: bytes_at.pop("", 0)}
        if bytes_at:
            able = {
                row.node for row in self._cluster.rows.other_rows() if view.slots_ever(row, wish)
            }
            places.update((at, size) for at, size in bytes_at.items() if at in able)
        is_drawn = argument_bytes.is_drawn(places, me)
        return places if is_drawn and max(places, key=places.__getitem__) != node else {}

    def _forward_kept(self, key: int, queue: int, node: str, is_final: bool) -> None:
        assert self.bridging is not None
        if self.bridging.lending.ending(key) is not None or not self.bridging.has_joined(node):
            self._end_kept(key)
            self._emptied.add(queue)  # nobody has seen it come, and nobody here may run it
            self._moves.append(moves.Done(queue, node, (key,)))
            return
        del self._kept[key]
        self._lent[key] = (queue, node)
        self.bridging.lend_kept(key, node, is_final=is_final)

    def _end_kept(self, key: int) -> None:
        if self._kept.pop(key, None) is not None:
            assert self.bridging is not None
            self.bridging.end_kept(key)

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

    # ---- what becomes of what was lent
    def node_gone(self, node: str, *, is_lost: bool) -> None:
        """It is lost (what it had has been told already), or being drained: nothing goes there."""
        self._move(moves.NodeLost(node) if is_lost else moves.NodeLeaves(node))

    def over(self, key: int, ran_s: float, window: int | None) -> None:
        """It has ended there, or its node is lost."""
        queue, node = self._lent.pop(key, (0, ""))
        if node:
            self._move(moves.Done(queue, node, (key,), ran_s, window))

    def came_back(self, key: int, window: int | None) -> bool:
        """It has not been run; True: it is kept until ``Forwarding`` has a place for it."""
        queue, node = self._lent.pop(key, (0, ""))
        if not node:
            return False
        assert self.bridging is not None
        if self.bridging.lending.ending(key) is not None or queue not in self._forwarding.sources:
            self._move(moves.Done(queue, node, (key,), 0.0, window))
            return False
        self._kept[key] = queue
        self._move(moves.Returned(queue, node, (key,), window))
        return True

    def runs(self, key: int) -> None:
        """It was asked back too late."""
        queue, node = self._lent.get(key, (0, ""))
        if node:
            self._move(moves.Running(queue, node, (key,)))

    def cancel(self, key: int, recursive: bool, forced: bool, late: bool) -> None:
        """A task that is the daemon's is to end: its claim is marked."""
        if self.bridging is None:
            return
        if late:
            self.bridging.lending.note_late(key)
        if key in self._kept:
            self._move(moves.TaskEnded(self._kept[key], key))
            self._end_kept(key)
            return
        self.bridging.cancel(key, recursive=recursive, forced=forced, late=late)
