"""The nodes of a cluster, as the control store knows them: epochs, leases, deaths.

::

                  JoinCluster                no renewal for a lease and a margin
    (unknown) ---------------> ALIVE ------------------------------------------> DEAD
                               |   ^ \\--------- Obituary, or it joins again ----->|
                   DrainMember |   |                                              |
                               v   | next epoch, by the node's next JoinCluster   |
                            DRAINING ---- Obituary(is_drained) --> DRAINED        |
                                   ^----------------------------------------------+

1. An epoch is given once, and is on disk before the node hears of it. A death is on disk before
   anybody acts on it. An epoch that is dead stays dead: whoever speaks for it is told so, and ends
   everything before it joins again.
2. By silence a node is declared dead a lease and a margin after its last renewal was *heard*; the
   node counts its lease from when that renewal was *sent*. So the holder has let go. How long the
   lease of an epoch lasts is on disk with the epoch, and stays so: a later life of the store may
   grant longer or shorter ones, and those that its former life has granted are known to it.
3. A store declares nobody dead by silence before ``takeover_s`` after it first served, and before
   the lease and the margin of that very node: leases that its former life has granted are over
   then. A store that was stopped itself (its alarm comes late)
   does not know who was silent, and begins counting anew.
4. A node that speaks for itself of its end (it joins again, an obituary) has ended; no time needs
   to pass.
5. Suspicion only keeps new things away from a node, until it is heard again.
6. ``version`` counts changes of who is a member and in what state; rows of what is free are not
   part of it, and go to nobody who has not asked.
7. A name is a node's until it is dead. Who asks for one that is taken is refused only when its node
   has spoken since: a machine that starts again after a crash asks before its former life is known
   to be over, and gets no answer until then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from shoal._base.config import LeaseTimes
from shoal._core.deadlines import Deadlines
from shoal._core.members.exchange import Outbox
from shoal._core.resources import parse
from shoal._core.store import Effect, Erase, Keep
from shoal._proto import membership as m
from shoal._proto.views import NodeRow

NODES = "members.nodes"
DOUBT_S = 5.0
"""Who asks for a taken name so soon after somebody else has is not the first to ask (rule 7)."""
GONE_STATES = (m.DRAINED, m.DEAD)

Creator = tuple[str, int]
"""The node, in one epoch, that has asked for something, and may ask again until it hears of it."""
NOBODY: Creator = ("", 0)

_encode = msgspec.msgpack.encode


class NodeRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is on disk of a node."""

    node: str
    epoch: int
    request: int
    name: str
    address: str
    role: str
    labels: dict[str, str]
    state: str
    why: str = ""
    drain_s: float = 0.0
    """How long a drain may take, if it is being drained."""
    lease_s: float = LeaseTimes().lease_s
    """How long one renewal lets this epoch act."""


_decoder = msgspec.msgpack.Decoder(NodeRecord)


class Node:
    """One node in its newest epoch."""

    __slots__ = (
        "answered_below",
        "doubted_at",
        "heard_at",
        "is_reported",
        "is_suspected",
        "known_version",
        "outbox",
        "promised",
        "record",
        "row",
        "settled",
        "spoke_at",
        "standing",
        "told",
        "version",
    )

    def __init__(self, record: NodeRecord, now: float, orders_most: int) -> None:
        self.record = record
        self.heard_at = now
        """When its lease was last granted, on the store's clock."""
        self.spoke_at = self.doubted_at = float("-inf")
        """When it last renewed its lease, and when somebody first asked for its name (rule 7)."""
        self.is_reported = False
        """This life of the store has heard its whole state."""
        self.is_suspected = False
        self.outbox = Outbox(orders_most)
        self.row = NodeRow(record.node)
        self.standing = m.Standing()
        self.version = 0
        self.known_version = -1
        """The version of the members that the node has."""
        self.promised: dict[int, dict[str, int]] = {}
        """Order -> what it asks for, until a row is heard that can know of it."""
        self.settled: set[int] = set()
        """Those of ``promised`` that have been answered."""
        self.told: dict[int, m.ToldBody | None] = {}
        """Asks that were heard, with what was told; None: not yet."""
        self.answered_below = 0
        """Every ask with a lower number has been answered, and is read no more."""

    @property
    def is_living(self) -> bool:
        """Whether it may still act."""
        return self.record.state not in GONE_STATES

    @property
    def accepts(self) -> bool:
        """Whether anything new may be offered to it."""
        return (
            self.record.state == m.ALIVE
            and self.record.role == m.ROLE_NODE
            and self.is_reported
            and not self.is_suspected
            and not self.row.is_draining
        )

    def heard_row(self, row: NodeRow, standing: m.Standing) -> None:
        """What it says of itself now."""
        self.row, self.standing = row, standing
        for order in self.settled:
            self.promised.pop(order, None)
        self.settled.clear()

    def room(self) -> NodeRow:
        """Its row, less what it has been asked to take since."""
        if not self.promised:
            return self.row
        free = dict(self.row.free)
        for amounts in self.promised.values():
            for name, units in amounts.items():
                free[name] = free.get(name, 0) - units
        return msgspec.structs.replace(self.row, free=free)

    def member(self) -> m.MemberRow:
        """The row that others get."""
        record = self.record
        return m.MemberRow(
            node=record.node,
            epoch=record.epoch,
            name=record.name,
            address=record.address,
            role=record.role,
            labels=record.labels,
            state=record.state,
            row=self.row,
            standing=self.standing,
            why=record.why,
        )


class NodeTable:
    """All nodes: those that live, and the last dead ones."""

    def __init__(self, times: LeaseTimes, store_epoch: int) -> None:
        self._times = times
        self.nodes: dict[str, Node] = {}
        self._dead: OrderedDict[str, None] = OrderedDict()
        self._silent: Deadlines[str] = Deadlines()
        self._acts_from = float("inf")
        """Nobody is dead by silence before (rule 3)."""
        self._names: dict[str, str] = {}
        """Name -> the living node that has it."""
        self.version = store_epoch << 32
        """Greater than any that a former life of the store has told."""

    # ---- questions
    def living(self, node: str, epoch: int) -> Node | None:
        """The node, if this epoch of it is a member."""
        found = self.nodes.get(node)
        if found is None or found.record.epoch != epoch or not found.is_living:
            return None
        return found

    def is_over(self, node: str, epoch: int) -> bool:
        """Whether nothing of that epoch can act any more."""
        return self.living(node, epoch) is None

    def members(self) -> list[Node]:
        """Those that live."""
        return [node for node in self.nodes.values() if node.is_living]

    def rooms(self) -> dict[str, NodeRow]:
        """Rows of all that accept, less what has been promised."""
        return {node.record.node: node.room() for node in self.nodes.values() if node.accepts}

    def is_all_reported(self) -> bool:
        """Whether nobody who may hold something has yet to say so."""
        return all(node.is_reported for node in self.nodes.values() if node.is_living)

    def next_at(self) -> float | None:
        """When to look at it again."""
        silent = self._silent.next()
        return None if silent is None else max(silent, self._acts_from)

    def changes_since(self, version: int) -> list[Node]:
        """What has changed among the members, the oldest change first."""
        found = [node for node in self.nodes.values() if node.version > version]
        found.sort(key=lambda node: node.version)
        return found

    # ---- time
    def served(self, now: float) -> None:
        """The store begins, or has been away (rule 3)."""
        self._acts_from = now + self._times.takeover_s
        for node in self.nodes.values():
            if node.is_living:
                self._granted(node, now)

    def _granted(self, node: Node, now: float) -> None:
        node.heard_at = now
        times = self._times
        margin_s = times.takeover_s - times.lease_s
        self._silent.set(node.record.node, now + node.record.lease_s + margin_s)

    def _lease_s(self, role: str) -> float:
        return self._times.driver_lease_s if role == m.ROLE_DRIVER else self._times.lease_s

    def silent(self, now: float) -> list[Node]:
        """Those that are dead by silence."""
        if now < self._acts_from:
            return []
        return [self.nodes[name] for name in self._silent.due(now)]

    # ---- changes
    def refusal(self, now: float, body: m.JoinCluster) -> str | None:
        """Why it cannot be a member; None: who has its name may be gone, so it is to wait."""
        other = self._names.get(body.name) if body.name else None
        if other is None or other == body.node:
            return ""
        holder = self.nodes[other]
        if now - holder.doubted_at > DOUBT_S:
            holder.doubted_at = now
        if holder.spoke_at <= holder.doubted_at:
            return None
        return (
            f"a node named {body.name!r} is already a member (node id {other});"
            " What to do: start this one with another --name, or drain that one"
        )

    def is_repeated(self, body: m.JoinCluster) -> bool:
        """Whether this request has been answered by an epoch that lives."""
        known = self.nodes.get(body.node)
        return known is not None and known.is_living and known.record.request == body.request

    def is_old(self, body: m.JoinCluster) -> bool:
        """Whether the node has begun another life since it said this."""
        known = self.nodes.get(body.node)
        return known is not None and body.request < known.record.request

    def admit(self, now: float, body: m.JoinCluster, effects: list[Effect]) -> Node:
        """A new epoch; its former one is over."""
        known = self.nodes.get(body.node)
        epoch = max(body.former, 0 if known is None else known.record.epoch) + 1
        assert known is None or not known.is_living
        record = NodeRecord(
            node=body.node,
            epoch=epoch,
            request=body.request,
            name=body.name,
            address=body.address,
            role=body.role,
            labels=body.labels,
            state=m.ALIVE,
            lease_s=self._lease_s(body.role),
        )
        node = self.nodes[body.node] = Node(record, now, self._times.orders_most)
        # It was written when its former epoch was the last one, which others know to be over.
        node.row = msgspec.structs.replace(body.row, epoch=epoch, number=0)
        self._dead.pop(body.node, None)
        if body.name:
            self._names[body.name] = body.node
        self._granted(node, now)
        self._changed(node, effects)
        return node

    def renew_join(self, now: float, node: Node) -> None:
        """It has not heard that it is a member, and asks again."""
        self._granted(node, now)

    def renewed(self, now: float, node: Node, body: m.Renew) -> None:
        """Its lease begins anew."""
        self._granted(node, now)
        node.spoke_at = now
        node.is_suspected = False
        node.known_version = body.members
        node.heard_row(body.row, body.standing)

    def drain(self, node: Node, deadline_s: float, effects: list[Effect]) -> None:
        """It is to accept nothing new, hand over and leave."""
        node.record = msgspec.structs.replace(node.record, drain_s=deadline_s)
        self.set_state(node, m.DRAINING, "", effects)

    def set_state(self, node: Node, state: str, why: str, effects: list[Effect]) -> None:
        """Draining; or its end, on disk before anybody acts on it."""
        record = node.record
        node.record = msgspec.structs.replace(record, state=state, why=why)
        self._changed(node, effects)
        if state not in GONE_STATES:
            return
        self._silent.set(record.node, None)
        if self._names.get(record.name) == record.node:
            del self._names[record.name]
        node.outbox = Outbox(self._times.orders_most)
        node.promised, node.settled = {}, set()
        self._dead[record.node] = None
        while len(self._dead) > self._times.dead_members_most:
            oldest, _ = self._dead.popitem(last=False)
            del self.nodes[oldest]
            effects.append(Erase(NODES, oldest.encode()))

    def _changed(self, node: Node, effects: list[Effect]) -> None:
        self.version += 1
        node.version = self.version
        effects.append(Keep(NODES, node.record.node.encode(), _encode(node.record)))

    # ---- the disk
    def contents(self) -> Iterator[tuple[tuple[str, bytes], bytes]]:
        """All of it that is lasting."""
        for name, node in self.nodes.items():
            yield (NODES, name.encode()), _encode(node.record)

    def restore(self, rows: Iterable[bytes], now: float) -> None:
        """Become what was on disk; ``served`` follows."""
        for data in rows:
            record = _decoder.decode(data)
            node = self.nodes[record.node] = Node(record, now, self._times.orders_most)
            self.version += 1
            node.version = self.version
            if not node.is_living:
                self._dead[record.node] = None
            elif record.name:
                self._names[record.name] = record.node

    def validate(self) -> None:
        """Assert what must hold."""
        for name, node in self.nodes.items():
            assert node.record.node == name and node.record.epoch > 0
            assert (name in self._dead) == (not node.is_living)
            assert (name in self._silent) == node.is_living or self._acts_from == float("inf")
            assert node.is_living or not node.outbox.orders
            assert node.settled <= set(node.promised)
        for text, name in self._names.items():
            assert self.nodes[name].is_living and self.nodes[name].record.name == text
        self._silent.validate()


def units(amounts: Mapping[str, float]) -> dict[str, int]:
    """Amounts as accounts count them."""
    return dict(parse(amounts))
