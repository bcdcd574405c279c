"""Work between this node and the others: what goes out, what comes in, what is needed for both.

Made where the node is in a cluster, as ``ClusterNode`` is. It joins what knows nothing of each
other::

    ClusterNode   who is there, and what they send     --> Bridging
    NodeMachine   queues of this node, looked at       --> Outgoing (Forwarding) --> Bridging.lend
    Bridging      one of ours has ended, or come back  --> Outgoing
    Bridging      a task of another node has come      --> Incoming (Hosting), a queue of a guest
    Bridging      an actor, a name                     --> ActorsAbroad, Names

``Forwarding`` decides what leaves and ``Hosting`` what is let in (RULES S-11, S-12);
``NodeMachine`` makes queues for what comes (``guests``). This file carries what one says to the
other.

1. Nodes are taken in and lost here, for all parts, in the order in which the control store says so.
2. What a node sent in an epoch of ours that is over is not read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, get_args

from shoal._core import events, guests
from shoal._core.node import NodeMachine
from shoal._core.remote_ref_events import PeerLost
from shoal._native import Memory, ObjectRef
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
from shoal._proto.listings import AskRows, RowsTold
from shoal._runtime.bridge.around import HomeRow, LockRow, NameRow, Surroundings, Watch
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.daemon_actors_abroad import ActorsAbroad
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_draining import Drainer
from shoal._runtime.daemon_forwarding import Outgoing
from shoal._runtime.daemon_groups_abroad import GroupsAbroad
from shoal._runtime.daemon_homes import Homes
from shoal._runtime.daemon_hosting import Incoming
from shoal._runtime.daemon_listings import Listings
from shoal._runtime.daemon_locks import SharedLocks
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.daemon_names import Names
from shoal._runtime.daemon_seen import Seen

_CROSSING = (*get_args(BridgeBody), *get_args(HoldsBody))
_OVER = (membership.DEAD, membership.DRAINED)


class Ways(NamedTuple):
    """What it needs of the daemon's other parts."""

    make_room: Callable[[], object]
    bring_back: Callable[[int], object]
    lost: Callable[[int, str], bool]


class Abroad:
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
        self._me = machine.tables.config.node_id.hex()
        self._bridging: Bridging | None = None
        self._last: Bridging | None = None
        self._former: list[Bridging] = []
        """Of epochs that are over: somebody here still has their refs."""
        self._epochs: dict[str, int] = {}
        self._asked: set[tuple[str, int]] = set()
        self._early: list[tuple[str, NodeBody]] = []
        self.outgoing = Outgoing(loop, memory, machine, cluster, post)
        self.incoming = Incoming(machine, cluster, post)
        self.seen = Seen(machine, cluster, post)
        self.names = Names(loop, machine, cluster, post)
        self.locks = SharedLocks(loop, cluster, machine.tables.locks)
        self.listings = Listings(loop, memory, machine, cluster, self.bridges)
        self.groups = GroupsAbroad(cluster, post)
        self.actors = ActorsAbroad(loop, memory, machine, cluster, post, ways)
        self.homes = Homes(loop, machine, cluster, self.actors, post)
        self.drainer = Drainer(loop, memory, machine, cluster, post)
        self.drainer.look_at_homes = self.homes.look
        cluster.joined, cluster.left = self._joined, self._left
        cluster.received, cluster.open_source = self._received, self._open_source
        cluster.members_changed = self._members_changed

    # ---- nodes
    def _joined(self, epoch: int) -> None:
        """This node is a member, in a new epoch."""
        self._left()
        around = Surroundings(
            links=self._cluster.peers,
            call_later=self._loop.call_later,
            describe_queue=self._describe_queue,
            find_queue=self.incoming.find_queue,
            find_actor=self.actors.find,
            watch=_Watching(self, self._post),
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
        if self._last is not None:
            self._bridging.visiting.streams.go_on_from(self._last.visiting.streams)
        self._last = self._bridging
        self._bridging.lending.is_needy = self.outgoing.is_needy
        self.actors.begin(self._bridging)
        self.drainer.bridging = self.homes.bridging = self._bridging
        self.names.bridging = self.outgoing.bridging = self._bridging
        self.locks.begin(self._bridging)
        early, self._early = self._early, []
        for node, body in early:
            self._received(node, body)

    def _left(self) -> None:
        """Its epoch is over: for the others it is lost, and so are they for it."""
        for node in sorted(self._epochs):
            self._lose(node, "this node was given up by the cluster")
        if self._bridging is not None:
            self.groups.end("its node was given up by the cluster")
            self.actors.end()
            self.homes.end()
            self.names.end()
            self.locks.end()
            self._former.append(self._bridging)
            self._bridging = self.outgoing.bridging = self.drainer.bridging = None
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
                is_drained = row.state == membership.DRAINED and row.epoch == known
                self._lose(row.node, row.why or "it is lost", is_drained=is_drained)
            self._settle(row)
        self._tell_nodes()
        for row in living:
            if row.node not in self._epochs:
                self._cluster.peers.connect(row.node, row.address)
                self._take_in(row)
            if row.state == membership.DRAINING:
                self._bridging.node_leaves(row.node)
                self.outgoing.node_gone(row.node, is_lost=False)
        self._tell_nodes()

    def _take_in(self, row: membership.MemberRow) -> None:
        assert self._bridging is not None
        self._epochs[row.node] = row.epoch
        is_driver = row.role == membership.ROLE_DRIVER
        self._bridging.node_joined(row.node, row.epoch, is_driver=is_driver)
        self.names.node_joined(row.node)
        self.locks.node_joined(row.node)

    def _lose(self, node: str, why: str, *, is_drained: bool = False) -> None:
        del self._epochs[node]
        if self._bridging is not None:
            self.names.node_lost(node)
            self.locks.node_lost(node)
            self.actors.node_lost(node)
            self.homes.node_lost(node)
            self._bridging.node_lost(node, is_drained=is_drained)
        self.seen.node_lost(node)
        self.outgoing.node_gone(node, is_lost=True)
        self.incoming.node_lost(node)
        self.seen.node_lost(node)
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
        self.listings.tell_nodes(frozenset(self._epochs))

    # ---- what they send
    def _received(self, node: str, body: NodeBody) -> None:
        if isinstance(body, AskRows | RowsTold):
            self.listings.received(node, body)
        elif not isinstance(body, _CROSSING):
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

    # ---- queues and tasks of this node
    def looked(self, queues: Iterable[events.QueueState]) -> None:
        """The machine has looked at these, or somebody asks for room."""
        if len(self._machine.tables.scheduler.asks) and not self.actors.looks():
            self.actors.look()
        if self._epochs:
            self.outgoing.looked(queues)

    def _describe_queue(self, queue: int) -> bytes:
        """Of a class queue what its tasks need, of an actor's which of its queues it is."""
        number = self.actors.number_of(queue)
        tables = self._machine.tables
        return guests.describe(tables, queue) if number is None else bytes([number])

    def end_job(self, job: int) -> None:
        """A job of this node has ended."""
        if self._bridging is not None:
            self._bridging.end_job(job, "its driver has ended")

    def note_may_run_again(self, key: int) -> None:
        """The worker that ran a task of another node says that its exception may be retried."""
        if self._bridging is not None:
            self._bridging.visiting.note_may_run_again(key)


class _Watching(Watch):
    """Hands what the bridge says to whom it concerns."""

    def __init__(self, abroad: Abroad, post: Callable[[events.AnyEvent], None]) -> None:
        self._post = post
        self._outgoing, self._incoming = abroad.outgoing, abroad.incoming
        self._actors, self._names, self._locks = abroad.actors, abroad.names, abroad.locks
        self._homes = abroad.homes

    def over(self, key: int, ran_s: float, window: int | None) -> None:
        self._outgoing.over(key, ran_s, window)

    def came_back(self, key: int, window: int | None) -> bool:
        return self._outgoing.came_back(key, window)

    def runs(self, key: int) -> None:
        self._outgoing.runs(key)

    def admit(self, node: str, body: ForwardTask) -> str:
        return self._incoming.admit(node, body)

    def visit_over(self, node: str, number: int) -> tuple[float, int | None]:
        return self._incoming.visit_over(node, number)

    def job_ended(self, node: str, job: int, reason: str) -> None:
        self._post(events.GuestEnded(node, job, reason))

    def lost_call(self, queue: int, node: str) -> bytes:
        return self._actors.lost_call(queue, node)

    def actor_came(self, node: str, body: HostActor, refs: list[ObjectRef[Any]]) -> None:
        self._actors.came(node, body, refs)

    def actor_told(self, node: str, body: ActorState, refs: list[ObjectRef[Any]]) -> None:
        self._actors.told(node, body, refs)

    def name_row(self, node: str, body: NameRow, refs: list[ObjectRef[Any]]) -> None:
        names = self._names
        match body:
            case NameAsk():
                names.asked(node, body)
            case NameAnswer():
                names.answered(node, body)
            case ActorAsk():
                names.actor_asked(node, body)
            case ActorAnswer():
                names.actor_told(node, body, refs)

    def home_row(self, node: str, body: HomeRow, refs: list[ObjectRef[Any]]) -> None:
        self._homes.came(node, body, refs)

    def lock_row(self, node: str, body: LockRow) -> None:
        self._locks.row(node, body)

    def actor_ends(self, node: str, body: EndActor) -> None:
        self._actors.ends(node, body)
