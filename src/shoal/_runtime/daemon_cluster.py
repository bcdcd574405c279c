"""The daemon's part in a cluster: its door, its links, its lease.

Made only where the session was started with ``--listen`` or ``--address``; a session of one machine
imports none of this. All that is decided about membership is decided by
``_core.members.node_side.MemberMachine``; this file carries what it says to the control store,
which is a peer called ``STORE`` like any other node, and performs its commands::

    joining --Joined--> joined        (the head: listening, as soon as it is joined)
       |
       +----JoinRefused--> refused    whoever started the node reads why, and ends it

1. The announced port of a head is held by the store's process; connections that are for this
   daemon come through ``handed`` (``store_cluster``). Any other node has a door of its own, or
   none: then it only dials out.
2. A node that is told that it was declared dead ends every worker, sees that they are gone, and
   joins again in a new epoch; what its own programs have asked for begins anew there.
3. What goes out with renewals is built as often as they go out; an idle node does that and nothing
   else.
"""

from __future__ import annotations

import fcntl
import functools
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, get_args

from shoal._base import clock, records
from shoal._core.members import interface as members
from shoal._core.members.node_side import Identity, MemberMachine
from shoal._core.policies.labels import HEAD_LABEL
from shoal._proto import links, membership, messages
from shoal._proto.links import NodeBody
from shoal._proto.views import Candidates
from shoal._runtime import entering, last_words, launch, session_dir
from shoal._runtime.daemon_connections import Connection
from shoal._runtime.daemon_kv import SharedTable
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.daemon_members import Members
from shoal._runtime.daemon_store import ClusterPort
from shoal._runtime.links import door, keys
from shoal._runtime.links.peers import PeerEvents, PeerOptions, Peers, new_epoch
from shoal._runtime.store_wire import OfCluster

ROW_S = 1.0
LOOK_S = 0.5
"""Who asks for the nodes waits for the store for so long; then what is known is shown."""
END_LOOK_S = 0.01
"""How often it is looked whether what was killed is gone."""
SAID_S = 2.0
"""So long a head that is stopped waits for its store to have written that down."""
LEAVE_S = 0.3
"""Between the last word of a node that leaves and its end."""
SECURITY = "TLS 1.3 both ways, a token to join"
FIRST_FREE_FD = 10
"""Above those that a child is given: a dup2 onto itself would leave close-on-exec set."""
_SAID = get_args(membership.ToNode)
GroupOrder = members.ReserveBundles | members.OpenBundles | members.FreeBundles | members.NewsHeard
"""What ``daemon_groups_abroad`` performs."""


class Ports:
    """The descriptors of a cluster, opened before anything else so that what is wrong with them is
    the answer to whoever started the node."""

    def __init__(self, settings: launch.Membership) -> None:
        """Listen, if the node is to.

        Raises:
            OSError: the port is in use, or the address is not one of this machine.
            CredentialsError: the keys cannot be used.
        """
        self.settings = settings
        self.listening: socket.socket | None = None
        self.address = ""
        if settings.listen:
            self.listening = _listen(settings.listen)
            self.address = entering.announced(settings.listen, self.listening.getsockname()[1])
        self.handed: socket.socket | None = None
        self.store: ClusterPort | None = None
        if settings.is_head:
            assert self.listening is not None
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            theirs.setblocking(False)
            self.handed = ours
            port, way = (
                fcntl.fcntl(each.detach(), fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_FD)
                for each in (self.listening, theirs)
            )
            told = OfCluster(settings.keys, settings.lease_s)
            self.store = ClusterPort(told, port, way, functools.partial(door.refuse, port))

    @property
    def store_address(self) -> str:
        """Where the control store is dialled."""
        if not self.settings.is_head:
            return self.settings.addresses[0]
        host, _, port = self.address.rpartition(":")
        listens_everywhere = self.settings.listen.rpartition(":")[0] in entering.EVERYWHERE
        return f"127.0.0.1:{port}" if listens_everywhere else f"{host}:{port}"


def _role(settings: launch.Membership) -> str:
    """What people call it."""
    if settings.is_driver:
        return membership.ROLE_DRIVER
    return "head" if settings.is_head else membership.ROLE_NODE


def _identity(rows: Members, ports: Ports) -> Identity:
    """As whom it joins."""
    settings = ports.settings
    return Identity(
        node=rows.node_id,
        name=settings.node_name,
        address=ports.address,
        role=membership.ROLE_DRIVER if settings.is_driver else membership.ROLE_NODE,
        labels={**rows.labels, **({HEAD_LABEL: "true"} if settings.is_head else {})},
        version=messages.VERSION,
    )


def _member(rows: Members, ports: Ports, link_epoch: int) -> last_words.Member:
    """Who has ended, once it has."""
    place = (ports.settings.keys, ports.store_address)
    return last_words.Member(rows.node_id, rows.epoch, link_epoch, *place)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return door.listen(address) if port != "0" else door.listen_anywhere(host.strip("[]"))[0]


def _answer(connection: Connection, request: int, body: membership.ToldBody) -> None:
    """Give a program what the store has told."""
    if isinstance(body, membership.DrainRefused):
        record = records.pack("UsageError", message=body.why)
        connection.send(request, messages.Failure(record))
    elif isinstance(body, messages.Failure | messages.KvAnswer):
        connection.send(request, body)
    else:
        connection.send(request, messages.Done())


class ClusterNode:
    """One node of a cluster."""

    def __init__(
        self,
        loop: Loop,
        ports: Ports,
        rows: Members,
        end: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        """``end`` ends the session, ``tell`` says a line to people."""
        self._loop, self._ports = loop, ports
        self.rows = rows
        """What is known of this node and of the others."""
        self._end, self._tell = end, tell
        self._alarm: Timer | None = None
        self._row_timer: Timer | None = None
        self._ticket = self._look_ticket = 0
        self._looking: list[Callable[[], None]] = []
        """Who waits for the rows of the other nodes."""
        self._asked: dict[int, Callable[[membership.ToldBody], None]] = {}
        self._failing_since: float | None = None
        self._state, self._why, self._failure = "joining", "", ""
        self.drain: Callable[[], None] = self.handed_over
        self.kill_workers: Callable[[], frozenset[tuple[int, int]]] = frozenset
        """Kills every worker; (pid, start time) of each."""
        self.look: Callable[[], None] = lambda: None
        """Looks at the workers, so that who has nothing to do counts as free in the row."""
        self.received: Callable[[str, NodeBody], None] = lambda node, body: None
        """Takes what is not membership's: messages of other nodes."""
        self.open_source: Callable[[str, bytes], Any] = lambda node, name: None
        """(node, name) -> (bytes, release) of a value that a node pulls, or None."""
        self.candidates_heard: Callable[[list[Candidates]], None] = lambda candidates: None
        """Takes where there may be room for what waits here."""
        self.lease_set: Callable[[float], None] = lambda until: None
        """Takes until when this node may begin anything."""
        self.groups_told: Callable[[GroupOrder], None] = lambda order: None
        self.members_changed: Callable[[list[membership.MemberRow]], None] = lambda rows: None
        self.joined: Callable[[int], None] = lambda epoch: None
        """This node is a member from now on, in that epoch."""
        self.left: Callable[[], None] = lambda: None
        """Its epoch is over."""
        credentials = keys.load(ports.settings.keys, rows.node_id)

        def refused(node: str, dialled_at: float) -> None:
            if node == keys.STORE:
                self._step(members.StoreRefused(dialled_at))

        events = PeerEvents(
            received=self._received,
            linked=self._linked,
            suspected=self._suspected,
            open_source=self._opened,
            refused=refused,
            fenced=lambda node, why: print(f"{node}: {why}", file=sys.stderr, flush=True),
        )
        self.peers = Peers(loop, credentials, events, PeerOptions(new_epoch(), ports.address))
        self._door: door.Door | None = None
        if ports.handed is not None:
            loop.watch(ports.handed.fileno(), lambda _: self._take_handed())
        elif ports.listening is not None:
            cluster = credentials.secret.id
            self._door = door.Door(loop, ports.listening, cluster, self.peers.desks())
        self._machine = MemberMachine(_identity(rows, ports))
        rows.door.add_request(messages.AskDrain, self.ask_drain)
        SharedTable(rows.door, self._ask_for)
        rows.door.refresh = self.refresh
        self._show()
        self.row_changed()
        self._step(members.Began())
        self.peers.connect(keys.STORE, ports.store_address)

    def close(self, *, has_journal: bool) -> None:
        """Leave: nothing runs here any more, and the store is told so. The head's store ends next,
        so what it has a journal for is waited for."""
        is_head = self._ports.settings.is_head
        if self._state == "joined" and not is_head:
            over = membership.Obituary(self.rows.node_id, self.rows.epoch)
            self._loop.guard(self.peers.send, keys.STORE, over)
        self.peers.close()
        if self._state == "joined" and is_head and has_journal:
            member = _member(self.rows, self._ports, self.peers.epoch)
            self._loop.guard(last_words.tell, member, SAID_S)
        if self._door is not None:
            self._door.close()

    # ---- what people see
    def _show(self) -> None:
        ports = self._ports
        is_up = self._state == "joined" and ports.settings.is_head
        self.rows.cluster = {
            "role": _role(ports.settings),
            "state": "listening" if is_up else self._state,
            "why": self._why or self._failure,
            "failing_since": self._failing_since,
            "node_id": self.rows.node_id,
            "name": ports.settings.node_name,
            "address": ports.address,
            "store_address": ports.store_address,
            "security": SECURITY,
            "keys": ports.settings.keys,
        }

    # ---- connections
    def _take_handed(self) -> None:
        assert self._ports.handed is not None
        try:
            preface, fds, _, _ = socket.recv_fds(self._ports.handed, links.PREFACE_BYTES, 1)
        except BlockingIOError:
            return
        for fd in fds:
            if len(preface) == links.PREFACE_BYTES:
                os.set_inheritable(fd, False)
                self.peers.accepted(fd, preface)
            else:
                os.close(fd)

    def _linked(self, node: str) -> None:
        if node == keys.STORE:
            self._failing_since, self._failure = None, ""
            self._show()

    def _suspected(self, node: str, why: str) -> None:
        if node == keys.STORE:
            self._failing_since = self._failing_since or clock.now()
            self._failure = why
            self._show()

    def _opened(self, node: str, name: bytes) -> Any:
        return self.open_source(node, name)

    def _received(self, node: str, body: NodeBody) -> None:
        if node == keys.STORE and isinstance(body, _SAID):
            self._step(members.StoreSaid(body))
        elif node != keys.STORE and not isinstance(body, _SAID):
            self.received(node, body)
        else:
            print(f"{node} said what is not its own", file=sys.stderr, flush=True)

    # ---- membership
    def ask_drain(self, connection: Connection, request: int, body: messages.AskDrain) -> None:
        """Have a node drained; the answer is the store's."""
        ask = membership.DrainMember(body.node, body.deadline_s, body.only_if_idle)
        self._ask_for(connection, request, ask)

    def _ask_for(self, connection: Connection, request: int, body: membership.AskBody) -> None:
        """Ask the store on behalf of a program."""
        self.ask(body, lambda told: _answer(connection, request, told))

    def ask(self, body: membership.AskBody, then: Callable[[membership.ToldBody], None]) -> None:
        """Ask the store, as soon as there is a way to it."""
        self._ticket += 1
        self._asked[self._ticket] = then
        self._step(members.Asked(self._ticket, body))

    def happened(self, event: members.BundlesDecided | members.BundlesFreed) -> None:
        """What has become of an order about bundles."""
        self._step(event)

    def refresh(self, then: Callable[[], None]) -> None:
        """Call ``then`` when the store has told of all nodes as they are, or does not answer."""
        if self._state != "joined" or not self.peers.is_linked(keys.STORE):
            then()
            return
        self._looking.append(then)
        if len(self._looking) == 1:
            self._ticket += 1
            self._look_ticket = self._ticket
            self._look_timer = self._loop.call_later(LOOK_S, self._looked)
            self._step(members.Asked(self._ticket, membership.ListMembers()))

    def ask_room(self) -> bool:
        """More waits here than can run here: the store is to know soon; False: it is away."""
        self.row_changed(is_urgent=True)
        return self.peers.is_linked(keys.STORE)

    def _looked(self) -> None:
        self._look_timer.cancel()
        waiting, self._looking = self._looking, []
        for then in waiting:
            self._loop.guard(then)

    def row_changed(self, *, is_urgent: bool = False) -> None:
        """What others are to know of this node."""
        self.look()
        if self._row_timer is not None:
            self._row_timer.cancel()
        self._row_timer = self._loop.call_later(ROW_S, self.row_changed)
        self._step(members.RowChanged(self.rows.row(), self.rows.standing(), is_urgent))

    def _step(self, event: members.NodeEvent) -> None:
        for command in self._machine.step(clock.now(), event):
            self._loop.guard(self._perform, command)

    def _perform(self, command: members.NodeCommand) -> None:
        match command:
            case members.TellStore(body):
                self.peers.send(keys.STORE, body)
            case members.SetAlarm(at):
                self._set_alarm(at)
            case members.Joined(epoch):
                self.rows.epoch = epoch
                self._state, self._why = "joined", ""
                self._show()
                if not self._ports.settings.is_head:
                    member = _member(self.rows, self._ports, self.peers.epoch)
                    last_words.keep(self.rows.directory, member)
                self.joined(epoch)
            case members.JoinRefused(why):
                self._state, self._why = "refused", why
                self._show()
                self._tell(f"the cluster refuses this node: {why}")
            case members.SetLease(until):
                self.lease_set(until)
            case members.EndLeased():
                pass  # the node's machine looks at the time, and the zygote at node memory
            case members.EndEverything(why):
                self._end_everything(why)
            case members.MembersHeard(rows):
                self._members_heard(rows)
            case members.CandidatesHeard(candidates):
                self.candidates_heard(candidates)
            case members.AskAnswered(ticket, body):
                self._answered(ticket, body)
            case members.Drain():
                self._drain()
            case members.EndRest():
                pass  # what runs ends with the epoch: its home is to hear of a drain, not a crash
            case members.ConsiderOffer(order):
                refused = "this node takes no actors of other nodes"
                self._step(members.OfferDecided(order, False, refused))
            case members.ReserveBundles() | members.OpenBundles() | members.FreeBundles():
                self.groups_told(command)
            case members.NewsHeard():
                self.groups_told(command)
            case members.Notice(text):
                print(text, file=sys.stderr, flush=True)

    def _set_alarm(self, at: float | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        if at is not None:
            self._alarm = self._loop.call_at(at, lambda: self._step(members.AlarmRang()))

    def _members_heard(self, rows: list[membership.MemberRow]) -> None:
        self.rows.heard(rows)
        for row in rows:
            if row.node == self.rows.node_id:
                continue
            if row.state in (membership.DEAD, membership.DRAINED):
                self.peers.forget(row.node)
                continue
            if HEAD_LABEL in row.labels:
                self.peers.relay_through(row.node)
            self.peers.connect(row.node, row.address)
        self.members_changed(rows)

    def _answered(self, ticket: int, body: membership.ToldBody) -> None:
        if isinstance(body, membership.MemberList):
            self.rows.heard(body.rows)
            self.members_changed(list(body.rows))
            if ticket == self._look_ticket and self._looking:
                self._looked()
            return
        then = self._asked.pop(ticket, None)
        if then is not None:
            then(body)

    # ---- ends
    def _end_everything(self, why: str) -> None:
        """Nothing of this epoch may act any more: first of all every worker ends."""
        print(f"everything that runs on this node is ended: {why}", file=sys.stderr, flush=True)
        self._state, self._why = "joining", why
        self._show()
        self.left()
        self._await_end(self.kill_workers())

    def _await_end(self, killed: frozenset[tuple[int, int]]) -> None:
        alive = frozenset(each for each in killed if session_dir.is_alive(*each))
        if alive:
            self._loop.call_later(END_LOOK_S, lambda: self._await_end(alive))
            return
        if self.rows.is_draining:
            self.rows.is_drained = True
            self._step(members.EverythingEnded())
            self._loop.call_later(LEAVE_S, lambda: self._end("the node has been drained"))
            return
        # Others have forgotten the sessions that they had with us, for good.
        self.peers.begin_epoch(new_epoch())
        self._step(members.EverythingEnded())

    def _drain(self) -> None:
        self.rows.is_draining = True
        self.row_changed()
        self.drain()

    def handed_over(self) -> None:
        """``drain`` has got rid of all that this node had."""
        self._step(members.HandedOver())
