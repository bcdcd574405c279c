"""The control store's side of members with a disk, and nodes that answer by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shoal._base.config import LeaseTimes
from shoal._core.members import interface as on
from shoal._core.members.nodes import NODES, NodeRecord
from shoal._core.members.store_side import MEMBER_KINDS, MembersMachine
from shoal._core.store import Erase, Keep, StoreMachine
from shoal._proto import membership as m
from shoal._proto.views import NodeRow

ROW = {"CPU": 40_000}


def first_with_room(spec: m.RegisterActor, rows: Mapping[str, NodeRow]) -> str:
    needed = round(spec.hold.get("CPU", 0.0) * 10_000)
    return next((node for node, row in rows.items() if row.free.get("CPU", 0) >= needed), "")


def one_each(
    spec: m.GroupSpec,
    missing: Sequence[int],
    fixed: Mapping[int, str],
    rows: Mapping[str, NodeRow],
) -> dict[int, str] | None:
    free = [node for node in rows if node not in fixed.values()]
    return dict(zip(missing, free)) if len(free) >= len(missing) else None


class Cluster:
    """The machine, a disk, and nodes that answer by hand."""

    def __init__(self, *nodes: str) -> None:
        self.now = 100.0
        self.times = LeaseTimes()
        """Those of the next life of the store."""
        self.disk: dict[tuple[str, bytes], bytes] = {}
        self.life = 0
        self.told: list[tuple[str, m.ToNode]] = []
        self.notices: list[str] = []
        self.facts: dict[str, int] = {}
        self.numbers: dict[str, int] = {}
        self.restart()
        for node in nodes:
            self.join(node)

    def restart(self) -> None:
        """Another life of the store, from what is on disk."""
        self.life += 1
        self.table = StoreMachine()
        self.table.restore((p, row) for p, row in self.disk.items() if p[0] not in MEMBER_KINDS)
        self.machine = MembersMachine(
            self.life, first_with_room, one_each, times=self.times, table=self.table
        )
        self.machine.restore(self.disk.items())
        self.facts.clear()
        self.step(on.Served())

    def step(self, event: on.StoreEvent) -> list[on.StoreCommand]:
        commands = self.machine.step(self.now, event)
        self.machine.validate()
        is_telling = False
        for command in commands:
            match command:
                case Keep(kind, key, value):
                    assert not is_telling, "kept after something was told"
                    self.disk[kind, key] = value
                case Erase(kind, key):
                    assert not is_telling
                    self.disk.pop((kind, key), None)
                case on.Tell(node, body):
                    is_telling = True
                    self.told.append((node, body))
                case on.Notice(text):
                    self.notices.append(text)
        self.table.validate()
        assert {**dict(self.machine.contents()), **dict(self.table.contents())} == self.disk
        return commands

    def take(self, kind: type) -> list[m.ToNode]:
        """What of that kind has been told since the last look at anything."""
        found = [body for _, body in self.told if isinstance(body, kind)]
        self.told.clear()
        return found

    def orders(self, node: str) -> list[m.OrderBody]:
        """What the last message with orders wants of a node."""
        last = [b for to, b in self.told if to == node and isinstance(b, m.Orders)][-1]
        return [order.body for order in last.orders]

    def number_of(self, node: str, kind: type) -> int:
        """The number of an order."""
        last = [b for to, b in self.told if to == node and isinstance(b, m.Orders)][-1]
        return next(order.number for order in last.orders if isinstance(order.body, kind))

    # ---- what nodes say
    def ask_to_join(self, node: str, request: int = 1, former: int = 0, **more: str) -> None:
        values = {"name": "", "address": "", "role": m.ROLE_NODE, "version": "", **more}
        row = NodeRow(node, total=ROW, free=ROW)
        body = m.JoinCluster(node, request, former, labels={}, row=row, **values)
        self.step(on.Heard(body))

    def join(self, node: str, request: int = 1, former: int = 0) -> int:
        self.ask_to_join(node, request, former)
        (admitted,) = self.take(m.Admitted)
        assert isinstance(admitted, m.Admitted)
        self.report(node, admitted.epoch)
        self.renew(node, admitted.epoch)
        return admitted.epoch

    def renew(self, node: str, epoch: int = 1, row: NodeRow | None = None) -> None:
        row = NodeRow(node, total=ROW, free=ROW) if row is None else row
        self.step(on.Heard(m.Renew(node, epoch, 1, self.life, row, m.Standing())))

    def report(self, node: str, epoch: int = 1, whole: m.Whole | None = None) -> None:
        whole = m.Whole([], []) if whole is None else whole
        self.facts[node] = 2
        self.step(on.Heard(m.Facts(node, epoch, self.life, 2, [], whole)))

    def fact(self, node: str, *facts: m.Fact, epoch: int = 1) -> None:
        first = self.facts[node]
        self.facts[node] += len(facts)
        self.step(on.Heard(m.Facts(node, epoch, self.life, first, list(facts))))

    def ask(self, node: str, body: m.AskBody, epoch: int = 1) -> m.ToldBody | None:
        self.told.clear()
        number = self.numbers[node] = self.numbers.get(node, 0) + 1
        self.step(on.Heard(m.Ask(node, epoch, self.life, number, number, body)))
        told = [b.body for _, b in self.told if isinstance(b, m.Told) and b.number == number]
        return told[0] if told else None

    def start_actor(self, node: str, spec: m.RegisterActor, asker: str = "a") -> None:
        """Register, offer, accept, alive."""
        self.ask(asker, spec)
        order = self.number_of(node, m.OfferActor)
        self.fact(node, m.OfferAnswered(order, spec.actor_id, 1, True))
        self.fact(node, m.ActorAlive(spec.actor_id, 1))


def silence(cluster: Cluster, for_s: float, *renewing: str) -> None:
    """Time passes; only some are heard."""
    for _ in range(round(for_s * 2)):
        cluster.now += 0.5
        for node in renewing:
            cluster.renew(node)
        cluster.step(on.AlarmRang())


def state_of(cluster: Cluster, node: str) -> str:
    row = cluster.disk[NODES, node.encode()]
    return msgspec.msgpack.decode(row, type=NodeRecord).state


NAMED = m.RegisterActor("x", name="n", hold={"CPU": 1.0}, max_restarts=-1)
