"""The control store of a cluster: the announced port, and who is a member.

Part of the store's process (``control``) where ``shoal start --head --listen`` started it. The port
is held here, not by the head's daemon, so that the cluster is served on while that is restarted.
What a connection is for stands in its first bytes; what is for the head's daemon is handed to it as
a descriptor, before a byte of TLS has been read::

    purpose   desk
    join      here: certificates for who knows the secret
    store     here: ``Peers`` under the name "store"; membership travels over it
    node,     the daemon of this machine: [first bytes] and the descriptor, through a socket pair
    bulk

All decisions are in ``_core.members``: each command list is performed in its order, and what it
tells anybody goes out only when what it keeps is on disk (``ControlStore.keep``).

A node speaks for itself only: what it says under another name ends nothing, and is not heard.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from shoal._base import clock
from shoal._base.config import lease_times
from shoal._core.cluster_choices import ClusterChoices
from shoal._core.members import interface as members
from shoal._core.members.store_side import KvTable, MembersMachine
from shoal._core.store import Effect, Erase, Keep
from shoal._proto import links, membership
from shoal._proto.links import NodeBody
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.links import keys
from shoal._runtime.links.door import Arrival, Desk, Door, listen_again
from shoal._runtime.links.handshake import Contexts
from shoal._runtime.links.joining import JoinDesk
from shoal._runtime.links.peers import PeerEvents, PeerOptions, Peers
from shoal._runtime.store_wire import OfCluster

Place = tuple[str, bytes]
_SAID = get_args(membership.ToStore)


class ClusterStore:
    """Members of the cluster, and the way to them."""

    def __init__(
        self,
        loop: Loop,
        told: OfCluster,
        sockets: tuple[socket.socket, socket.socket],
        journal: tuple[int, Iterable[tuple[Place, bytes]]],
        keep: Callable[[Sequence[Effect], Callable[[], None]], None],
        tell: Callable[[str], None],
        table: KvTable,
    ) -> None:
        """Serve.

        Args:
            loop: Calls back.
            told: Where the keys are, how long leases last.
            sockets: The announced port, and the way to the daemon of this machine.
            journal: (life of the store, rows that membership had kept).
            keep: (effects, then): ``then`` is called when they are on disk.
            tell: One line for the log and for people.
            table: The key-value table, which all members share.
        """
        self._loop = loop
        self._keep = keep
        self._tell_people = tell
        self._alarm: Timer | None = None
        self._handed = sockets[1]
        epoch, rows = journal
        credentials = keys.load(told.keys, keys.STORE)
        events = PeerEvents(
            received=self._received,
            linked=lambda node: None,
            suspected=self._suspected,
            open_source=lambda node, name: None,
        )
        self._peers = Peers(loop, credentials, events, PeerOptions(epoch))
        self._choices = choices = ClusterChoices(epoch)
        self._machine = MembersMachine(
            epoch,
            choices.actor,
            choices.group,
            choices.candidates,
            lease_times(told.lease_s),
            table=table,
        )
        self._machine.restore(rows)
        hand: dict[int, Desk] = dict.fromkeys((links.NODE, links.BULK, links.BULK_BACK), self._hand)
        joins = JoinDesk(loop, Contexts(credentials), self._say)
        desks: dict[int, Desk] = {links.JOIN: joins, **self._peers.desks(), **hand}
        listen_again(sockets[0])
        self._door = Door(loop, sockets[0], credentials.secret.id, desks)
        self._step(members.Served())

    def rows(self) -> list[dict[str, object]]:
        """Who is linked, for whoever looks at the store."""
        return self._peers.rows()

    def _say(self, label: str, why: str) -> None:
        self._door.refusals.say(label, why)

    # ---- connections for the daemon
    def _hand(self, arrival: Arrival) -> None:
        try:
            socket.send_fds(self._handed, [arrival.preface], [arrival.connection.fileno()])
        except OSError as error:
            self._door.refusals.say(arrival.label, f"the node daemon does not take it: {error}")
        finally:
            arrival.connection.close()

    # ---- membership
    def _received(self, node: str, body: NodeBody) -> None:
        if not isinstance(body, _SAID) or body.node != node:
            print(f"node {node} said what is not its own", file=sys.stderr, flush=True)
            return
        self._step(members.Heard(body))

    def _suspected(self, node: str, why: str) -> None:
        found = self._machine.nodes.nodes.get(node)
        if found is not None:
            self._step(members.Suspected(node, found.record.epoch, why))

    def _step(self, event: members.StoreEvent) -> None:
        effects: list[Effect] = []
        tells: list[members.Tell] = []
        self._choices.now = clock.now()
        for command in self._machine.step(self._choices.now, event):
            match command:
                case Keep() | Erase():
                    effects.append(command)
                case members.Tell():
                    tells.append(command)
                case members.SetAlarm(at):
                    self._set_alarm(at)
                case members.Notice(text):
                    self._tell_people(text)
        if effects or tells:
            self._keep(effects, lambda: self._tell_all(tells))

    def _tell_all(self, tells: list[members.Tell]) -> None:
        for tell in tells:
            self._loop.guard(self._peers.send, tell.node, tell.body)

    def _set_alarm(self, at: float | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        if at is not None:
            self._alarm = self._loop.call_at(at, lambda: self._step(members.AlarmRang()))
