"""Placement groups of a cluster, on one node: what it asks of the control store, what it reserves
for it, and where what runs in a group goes. (Whole clusters: tests/cluster.)
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal._base import records
from shoal._base.config import NodeConfig
from shoal._core import causes, guests, node_row
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.node import NodeMachine
from shoal._core.resources import UNIT
from shoal._core.shared_groups import RESERVE_S
from shoal._proto import messages as m
from shoal._proto.strategies import LabelRule
from shoal._proto.views import NodeRow, Wish
from tests.unit.test_core_guests import OTHER, PYTHON, THIRD, InCluster
from tests.unit.test_core_node import DRIVER, WORKER, kinds, refusal, reply

ME = b"0123456789abcdef".hex()
GROUP = "g"
IN_ANY, IN_FIRST, IN_SECOND = (m.InGroup(GROUP, index, False) for index in (-1, 0, 1))
QUEUE, SECOND = 7, 3


class Member(InCluster):
    """A node of a cluster with a program on it."""

    def __init__(self, **total: float) -> None:
        super().__init__(**total)
        self.driver()
        self.tell(seen.NodesChanged(frozenset({OTHER, THIRD})))

    def make(self, *bundles: dict[str, float], index: int = DRIVER, **more: Any) -> do.AskStore:
        """Ask for a group; what the store is asked."""
        asked = [{"CPU": 1.0}, {"CPU": 1.0}] if not bundles else list(bundles)
        body = m.CreateGroup(GROUP, asked, more.pop("strategy", "SPREAD"), **more)
        return only(self.ask(index, body), do.AskStore)

    def told(self, ask: do.AskStore | None, state: str, *nodes: str, **more: Any) -> list[Any]:
        """The store answers, or has news."""
        group = self.tables.groups.find(GROUP)
        spec = group.spec if group is not None else more.pop("spec", None)
        ticket = 0 if ask is None else ask.ticket
        return self.tell(seen.GroupTold(ticket, spec, state, nodes or ("",) * len(spec.bundles)))

    def reserve(self, *indexes: int, order: int = 5, request: int = 1, **more: Any) -> list[Any]:
        spec = more.pop("spec", None) or spec_of(**more)
        return self.tell(seen.BundlesWanted(order, request, indexes, spec))

    def free(self) -> float:
        return float(self.tables.scheduler.held.available()["CPU"]) / UNIT

    def state(self) -> str:  # type: ignore[override]
        return str(self.tables.groups.find(GROUP).state)

    def in_group(self, strategy: m.Strategy, number: int = QUEUE, cpus: float = 1.0) -> Any:
        """A queue of its own program in the group."""
        out = self.ask(DRIVER, m.OpenQueue({"CPU": cpus}, strategy))
        self.tell(seen.QueueCreated(only(out, do.NewQueue).ticket, number, 1))
        return self.queue(number)

    def wish(self, number: int = QUEUE) -> Wish | None:
        return guests.wish_of(self.tables, self.queue(number), PYTHON)


def only(commands: list[Any], kind: type) -> Any:
    (found,) = [c for c in commands if isinstance(c, kind)]
    return found


def spec_of(*bundles: dict[str, float], strategy: str = "SPREAD") -> m.CreateGroup:
    return m.CreateGroup(GROUP, list(bundles) or [{"CPU": 1.0}, {"CPU": 1.0}], strategy)


def placed(*nodes: str) -> Member:
    """A group of this node's program, with its bundles on these; those of this node are here."""
    node = Member()
    ask = node.make()
    own = tuple(index for index, name in enumerate(nodes) if name == ME)
    if own:
        assert node.reserve(*own) == [do.SayReserved(5, True)]
        node.tell(seen.BundlesOpened(GROUP, 1))
    node.told(ask, "CREATED", *nodes)
    return node


# ---- whoever makes it
def test_a_group_is_asked_of_the_store_and_there_when_it_says_so() -> None:
    node = Member()
    ask = node.make(waits=True)
    assert isinstance(ask.body, m.CreateGroup) and ask.body.namespace
    assert node.told(ask, "PENDING") == [] and node.state() == "PENDING"
    row = node.tables.store.rows["groups"][GROUP]
    assert row["nodes"] == ["", ""] and row["state"] == "PENDING"
    out = node.told(None, "CREATED", OTHER, THIRD)
    assert reply(out, m.GroupAnswer).is_ready
    assert node.tables.store.rows["groups"][GROUP]["nodes"] == [OTHER, THIRD]
    assert node.free() == 2, "nothing of it is here"
    assert reply(node.ask(DRIVER, m.WaitGroup(GROUP, None)), m.GroupAnswer).is_ready


def test_a_refusal_of_the_store_is_the_answer_and_the_end() -> None:
    node = Member()
    ask = node.make(name="n")
    record = causes.group_name_taken("n", "s")
    out = node.tell(seen.GroupTold(ask.ticket, record=record))
    assert refusal(out) == "GroupAlreadyExistsError" and node.state() == "REMOVED"


@pytest.mark.parametrize("is_told", [False, True])
def test_who_waits_hears_of_the_end(is_told: bool) -> None:
    node = Member()
    ask = node.make(waits=True)
    node.told(ask, "PENDING")
    if is_told:
        out = node.told(None, "REMOVED")
    else:
        out = node.ask(DRIVER, m.RemoveGroup(GROUP))
        asked = only(out, do.AskStore)
        assert asked.body == m.RemoveGroup(GROUP)
        answer = node.tell(seen.GroupTold(asked.ticket))
        assert reply(answer, m.Done) == m.Done(), "when the store has it on disk"
    assert refusal(out) == "GroupRemovedError" and node.state() == "REMOVED"
    assert node.told(None, "CREATED", OTHER, THIRD) == [] and node.state() == "REMOVED"


def test_its_job_ends_and_the_store_is_told_unless_it_is_detached() -> None:
    for detached in (False, True):
        node = Member()
        node.driver(SECOND)
        node.told(node.make(index=SECOND, detached=detached), "CREATED", OTHER, THIRD)
        out = node.ask(SECOND, m.LeaveJob())
        asked = [c.body for c in out if isinstance(c, do.AskStore)]
        assert asked == ([] if detached else [m.RemoveGroup(GROUP)])


def test_lost_bundles_are_said_and_who_asks_waits_again() -> None:
    node = placed(OTHER, THIRD)
    node.told(None, "RESCHEDULING", OTHER, "")
    assert node.state() == "RESCHEDULING"
    assert "Reply" not in kinds(node.ask(DRIVER, m.WaitGroup(GROUP, None)))
    assert [row["bundles"] for row in node_row.waiting_rows(node.tables)] == [[{"CPU": UNIT}]]
    out = node.told(None, "CREATED", OTHER, ME)
    assert reply(out, m.GroupAnswer).is_ready and node_row.waiting_rows(node.tables) == []


# ---- who uses a group of another node
def test_who_names_a_group_that_is_not_known_waits_for_the_store() -> None:
    node = Member()
    for body in (
        m.OpenQueue({"CPU": 1.0}, IN_ANY),
        m.OpenQueue({}, m.GroupReady(GROUP)),
        m.WaitGroup(GROUP, None),
    ):
        out = node.ask(DRIVER, body)
        assert out == [do.AskStore(out[0].ticket, m.GetGroup(GROUP))]
        gone = node.tell(
            seen.GroupTold(out[0].ticket, record=causes.group_not_found("", "", GROUP))
        )
        assert refusal(gone) == "GroupRemovedError"
    ask = only(node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}, IN_ANY)), do.AskStore)
    out = node.told(ask, "CREATED", OTHER, THIRD, spec=spec_of())
    assert kinds(out) == ["NewQueue"], "the request goes on"
    assert kinds(node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}, IN_FIRST))) == ["NewQueue"]
    assert node.ask(DRIVER, m.LeaveJob()) and node.state() == "CREATED", "it is not its program's"


def test_by_name_the_store_is_asked_always() -> None:
    node = placed(OTHER, THIRD)
    ask = only(node.ask(DRIVER, m.GetGroup(name="n")), do.AskStore)
    assert isinstance(ask.body, m.GetGroup) and ask.body.namespace, "of its own namespace"
    assert reply(node.told(ask, "CREATED", OTHER, THIRD), m.GroupFacts).group_id == GROUP
    ask = only(node.ask(DRIVER, m.GetGroup(name="n")), do.AskStore)
    record = causes.group_not_found("n", "s", "")
    assert refusal(node.tell(seen.GroupTold(ask.ticket, record=record))) == "GroupNotFoundError"


# ---- bundles here
def test_bundles_are_reserved_then_open_then_given_back() -> None:
    node = Member()
    assert node.reserve(1) == [do.SayReserved(5, True)] and node.free() == 1
    assert node.tables.groups.find(GROUP) is None, "nobody uses it before it is there"
    out = node.tell(seen.BundlesOpened(GROUP, 1))
    ask = only(out, do.AskStore)
    assert ask.body == m.GetGroup(GROUP), "from now on this node hears of it"
    node.told(ask, "CREATED", OTHER, ME)
    out = node.tell(seen.BundlesUnwanted(GROUP, 1, True))
    assert do.SayGivenBack(GROUP, 1) in out and node.free() == 2 and node.state() == "REMOVED"
    assert not node.tables.groups.parts


def test_a_try_that_failed_leaves_nothing() -> None:
    node = Member()
    node.reserve(0, 1)
    out = node.tell(seen.BundlesUnwanted(GROUP, 1, False))
    assert out == [do.SayGivenBack(GROUP, 1)] and node.free() == 2
    assert node.tables.groups.find(GROUP) is None and not node.tables.groups.parts
    assert node.tell(seen.BundlesUnwanted(GROUP, 1, False)) == [do.SayGivenBack(GROUP, 1)]


def test_what_the_node_can_never_have_is_refused_at_once() -> None:
    node = Member()
    out = node.reserve(0, spec=spec_of({"CPU": 3.0}))
    assert not only(out, do.SayReserved).is_accepted and not node.tables.groups.parts


def test_what_is_in_use_is_refused_after_a_while() -> None:
    node = Member()
    node.living_actor(hold={"CPU": 1.5})
    for order in (5, 6):
        assert "SayReserved" not in kinds(node.reserve(0, order=order, request=order))
    out = node.tell(seen.AlarmRang(), after=RESERVE_S)
    assert [(c.order, c.is_accepted) for c in out if isinstance(c, do.SayReserved)] == [
        (5, False),
        (6, False),
    ]
    assert not node.tables.groups.parts and node.free() == 0.5


def test_an_order_that_is_taken_back_while_it_stands_in_the_line() -> None:
    node = Member()
    actor_id = node.living_actor(hold={"CPU": 1.5})
    assert "SayReserved" not in kinds(node.reserve(0))
    out = node.tell(seen.BundlesUnwanted(GROUP, 1, True))
    assert do.SayGivenBack(GROUP, 1) in out and "SayReserved" not in kinds(out)
    node.ask(DRIVER, m.KillActor(actor_id, True))
    node.tell(seen.ProcessDied(WORKER, None, 9))
    assert node.free() == 2 and not node.tables.groups.parts


def test_what_runs_in_a_bundle_ends_before_it_is_given_back() -> None:
    node = placed(ME, OTHER)
    node.tell(seen.Began())
    queue = node.in_group(IN_FIRST)
    node.worker(WORKER)
    out = node.tell(seen.Looked((seen.QueueState(QUEUE, 1, 0),)))
    assert do.Assign(WORKER, QUEUE) in out
    node.tell(
        seen.Looked(
            (seen.QueueState(QUEUE, 0, 1),),
            (seen.WorkerState(WORKER, QUEUE, QUEUE, 1, False, 99),),
        )
    )
    out = node.tell(seen.BundlesUnwanted(GROUP, 1, True))
    assert do.Kill(WORKER) in out and "SayGivenBack" not in kinds(out)
    assert queue.dead_record is not None and node.free() == 1
    out = node.tell(seen.ProcessDied(WORKER, None, 9))
    assert do.SayGivenBack(GROUP, 1) in out and node.free() == 2


def test_an_epoch_that_is_over_takes_all_groups_with_it() -> None:
    node = placed(ME, OTHER)
    node.reserve(0, request=9)
    out = node.tell(seen.GroupsOver("given up"))
    assert node.state() == "REMOVED" and not node.tables.groups.parts and node.free() == 2
    assert {c.request for c in out if isinstance(c, do.SayGivenBack)} == {1, 9}


@pytest.mark.parametrize("is_detached", [False, True])
def test_a_group_that_goes_on_without_the_node_may_come_back_to_its_next_epoch(
    is_detached: bool,
) -> None:
    node = Member()
    if is_detached:  # of a program here
        node.told(node.make(detached=True), "CREATED", ME, OTHER)
    spec = spec_of()
    node.reserve(0, request=1, spec=spec)
    node.tell(seen.BundlesOpened(GROUP, 1))
    node.tell(seen.GroupsOver("given up"))
    assert node.tables.groups.find(GROUP) is None and node.free() == 2
    assert GROUP not in node.tables.store.rows["groups"]
    assert only(node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}, IN_ANY)), do.AskStore)
    node.reserve(0, request=2, spec=spec)
    asked = only(node.tell(seen.BundlesOpened(GROUP, 2)), do.AskStore)
    node.tell(seen.GroupTold(asked.ticket, spec, "CREATED", (ME, OTHER)))
    assert node.state() == "CREATED" and node.free() == 1
    assert node.in_group(IN_FIRST, 7).is_feasible
    node.tell(seen.BundlesUnwanted(GROUP, 2, True))
    assert node.state() == "REMOVED" and node.free() == 2


# ---- where what is in it goes
def test_a_task_goes_to_the_node_of_its_bundle() -> None:
    node = placed(ME, OTHER)
    first, second = node.in_group(IN_FIRST, 7), node.in_group(IN_SECOND, 8)
    assert first.is_feasible and node.wish(7) is None, "its only bundle is here"
    rules = ((LabelRule("shoal.io/node-id", "in", (OTHER,)),),)
    assert not second.is_feasible and node.wish(8) == Wish((), rules, PYTHON)
    either = node.in_group(IN_ANY, 9)
    assert either.is_feasible and node.wish(9) == Wish((), rules, PYTHON)
    assert [guests.slots_in_group(node.tables, q, OTHER) for q in (first, second, either)] == [
        0,
        1,
        1,
    ]
    half = node.in_group(IN_SECOND, 10, cpus=0.25)
    assert guests.slots_in_group(node.tables, half, OTHER) == 4


def test_nothing_leaves_before_the_group_is_there_or_after_it_is_gone() -> None:
    node = Member()
    ask = node.make()
    queue = node.in_group(IN_SECOND)
    node.in_group(IN_FIRST, 9)
    assert not queue.is_feasible and node.wish() is None
    out = node.told(ask, "CREATED", OTHER, THIRD)
    assert do.Look((QUEUE, 9)) in out, "what waits in it is looked at again"
    assert node.wish() is not None
    node.told(None, "RESCHEDULING", OTHER, "")
    assert node.wish() is None and node.wish(9) is not None, "that bundle is where it was"
    node.told(None, "CREATED", OTHER, OTHER)
    wish = node.wish()
    assert wish is not None and wish.labels[0][0].values == (OTHER,)
    out = node.told(None, "REMOVED")
    assert {c.queue for c in out if isinstance(c, do.KillQueue)} == {QUEUE, 9}
    assert not node.tables.scheduler.held.queues


def test_bundles_that_come_here_later_serve_what_waits() -> None:
    node = placed(OTHER, THIRD)
    node.tell(seen.Began())
    queue = node.in_group(IN_SECOND)
    node.worker(WORKER)
    node.tell(seen.Looked((seen.QueueState(QUEUE, 3, 0),)))
    assert not queue.is_feasible
    node.told(None, "RESCHEDULING", OTHER, "")
    node.reserve(1, request=2)
    assert do.Look((QUEUE,)) in node.tell(seen.BundlesOpened(GROUP, 2)) and queue.is_feasible
    out = node.tell(seen.Looked((seen.QueueState(QUEUE, 3, 0),)))
    assert do.Assign(WORKER, QUEUE) in out


def test_it_says_which_bundle_and_the_other_node_finds_it() -> None:
    home, there = placed(ME, OTHER), Member()
    home.in_group(m.InGroup(GROUP, 1, True))
    place = guests.describe(home.tables, QUEUE)
    there.tell(seen.NodesChanged(frozenset({ME, OTHER})))
    assert there.wanted(place, 4) == []
    assert "no bundle here" in str(guests.find(there.tables, OTHER, 1, place))
    there.reserve(1)
    there.tell(seen.BundlesOpened(GROUP, 1))
    there.wanted(place, 4)
    target = there.queue(4).target
    group = there.tables.groups.find(GROUP)
    assert target.hosts and target.captures and target.room is group.rooms[1]
    killed = only(there.tell(seen.BundlesUnwanted(GROUP, 1, True)), do.KillQueue)
    assert killed.queue == 4 and guests.find(there.tables, OTHER, 1, place) is None


def test_ready_runs_anywhere_once_it_is_there() -> None:
    node = Member()
    ask = node.make()
    out = node.ask(DRIVER, m.OpenQueue({}, m.GroupReady(GROUP)))
    node.tell(seen.QueueCreated(only(out, do.NewQueue).ticket, QUEUE, 1))
    assert node.wish() is None and not node.queue(QUEUE).target.room.accounts
    node.told(ask, "CREATED", OTHER, THIRD)
    assert node.queue(QUEUE).target.room.accounts and node.wish() == Wish((), (), PYTHON)
    place = guests._decoder.decode(guests.describe(node.tables, QUEUE))
    assert place.group == "", "who runs it need not know the group"


def test_actors_wait_for_their_bundle_here() -> None:
    node = placed(OTHER, THIRD)
    out = node.actor(hold={"CPU": 1.0}, strategy=IN_SECOND)
    actor_id = reply(out, m.ActorInfo).actor_id
    assert actor_id in node.tables.scheduler.asks.impossible
    node.told(None, "RESCHEDULING", OTHER, "")
    node.reserve(1, request=2)
    node.tell(seen.BundlesOpened(GROUP, 2))
    assert actor_id not in node.tables.scheduler.asks.impossible
    assert "Assign" in kinds(node.worker(WORKER))
    assert node.tables.scheduler.held.holds[actor_id].grant.account.total == {"CPU": UNIT}


def came(node: Member, cpus: float, key: int = 70) -> list[Any]:
    """An actor of another node is to live in the first bundle."""
    spec = m.ActorSpec(
        function=50,
        arguments=51,
        class_name="C",
        methods=b"",
        hold={"CPU": cpus},
        strategy=IN_FIRST,
    )
    place = guests._encoder.encode(guests.ClassPlace((), m.JobConfig()))
    return node.tell(seen.ActorCame(OTHER, key, f"a{key}", 3, place, spec))


def test_a_guest_lives_in_its_bundle_or_is_refused() -> None:
    node = Member()
    assert came(node, 1.0) == [do.TellHome(OTHER, 70, "REFUSED")]
    node.reserve(0)
    node.tell(seen.BundlesOpened(GROUP, 1))
    (made,) = came(node, 0.75)
    node.tell(seen.QueueCreated(made.ticket, 20, 1))
    node.worker(WORKER)
    assert node.tables.scheduler.held.holds["a70"].grant.account.total == {"CPU": UNIT}
    assert came(node, 0.5, key=71) == [do.TellHome(OTHER, 71, "REFUSED")], "that has it for good"
    out = node.tell(seen.BundlesUnwanted(GROUP, 1, True))
    told = only(out, do.TellHome)
    assert told.state == "DEAD" and records.unpack(told.cause)[1]["reason"] == "group_removed"


# ---- what no cluster of this shape can have
def rows(*cpus: float) -> seen.NodesChanged:
    known = tuple(
        seen.KnownNode(f"n{at}", NodeRow(name, total={"CPU": int(cpu * UNIT)}))
        for at, (name, cpu) in enumerate(zip((OTHER, THIRD), cpus))
    )
    return seen.NodesChanged(frozenset(known_node.row.node for known_node in known), known, PYTHON)


def test_its_program_hears_what_the_cluster_lacks() -> None:
    config = msgspec.structs.replace(Member().tables.config, started=True, node_name="me")
    assert isinstance(config, NodeConfig) and config.can_grow
    node = Member()
    node.machine = NodeMachine(msgspec.structs.replace(config, has_store_process=False))
    node.driver()
    node.tell(rows(2.0, 4.0))
    node.told(node.make({"CPU": 1.0}, {"CPU": 8.0}), "PENDING")
    out = node.tell(seen.AlarmRang(), after=2.0)
    notice = only(out, do.Notify).body
    assert "no node could ever have bundle 1 (CPU=8)" in notice.text
    assert node.tables.store.rows["groups"][GROUP]["reason"].startswith("no node could ever")
    assert "Notify" not in kinds(node.tell(seen.AlarmRang(), after=10.0)), "once in a while"
    node.tell(rows(2.0, 8.0))
    assert "Notify" not in kinds(node.tell(seen.AlarmRang(), after=100.0)), "now it could"
    assert node.tables.groups.find(GROUP).why == ""
