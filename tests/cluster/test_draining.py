"""``shoal drain``: a node gets rid of what it has, and leaves; what was meant for one that is gone.

Real daemons. Each test has a node of its own that leaves; those that stay are the same for nearly
all of them, and are audited after each.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal.testing import Cluster, ClusterError, Node
from shoal.testing.polling import wait_until
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity
from tests.cluster import two_nodes
from tests.cluster.conftest import LEASE_S, looked_around
from tests.cluster.test_actors_elsewhere import counter_class

LONG_S = 60.0
LEAVES = "leaves"
"""Name of the node that is drained, and of a resource that only it has."""
_leaving: list[str] = []
"""Ids of those, one for each test, the present one last."""


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """The look around comes after the last test: the nodes that stay live that long."""
    with looked_around():
        yield


@pytest.fixture(scope="module")
def staying(_nothing_is_left: None) -> Iterator[Cluster]:
    """The head, and one that stays too."""
    with Cluster(lease_s=LEASE_S) as made:
        made.add_node("head", num_cpus=1)
        made.add_node("stays", num_cpus=2)
        yield made


@contextmanager
def leaving(cluster: Cluster) -> Iterator[Node]:
    """One that is to leave; it, and who else came, is gone afterwards."""
    stay = list(cluster.nodes)
    node = cluster.add_node(LEAVES, num_cpus=2, resources={LEAVES: 1})
    (row,) = node.observe("cluster")
    _leaving.append(str(row["node_id"]))
    try:
        yield node
    finally:
        for each in [each for each in cluster.nodes if each not in stay]:
            cluster.remove_node(each)


@contextmanager
def three(staying: Cluster) -> Iterator[tuple[Cluster, Node]]:
    """This program on the head, one that is to leave, and one that stays."""
    head, stays = staying.nodes
    with leaving(staying) as node, two_nodes.driven(head, [head, stays]):
        yield staying, node


def ids() -> dict[str, str]:
    """Of those that have that name now, or had it last."""
    return {**{name: node for node, name in two_nodes.names().items()}, LEAVES: _leaving[-1]}


def drain(cluster: Cluster, *options: str) -> str:
    return cluster.head.command("drain", LEAVES, *options)


def member(cluster: Cluster) -> dict[str, Any]:
    rows = cluster.head.observe("members")
    (row,) = [row for row in rows if row["node_id"] == _leaving[-1]]
    return row


def wait_for(what: Callable[[], object]) -> bool:
    return bool(wait_until(what, LONG_S))


def has_left(cluster: Cluster, node: Node) -> bool:
    """It said that it was drained, and none of its processes is left."""
    return member(cluster)["state"] == "DRAINED" and not node.processes()


def get(refs: Any) -> Any:
    return shoal.get(refs, timeout=LONG_S)


# ---- what waits, what runs
def test_tasks_go_elsewhere_or_end(staying: Cluster, tmp_path: Path) -> None:
    with three(staying) as (cluster, node):
        folder, names = tmp_path, two_nodes.names()

        @shoal.remote
        def run(number: int) -> str:
            own = str(shoal.get_runtime_context().get_node_id())
            with open(folder / f"{number}", "a") as file:
                file.write(f"{own}\n")
            while not (folder / "go").exists():
                time.sleep(0.01)
            return own

        refs = [run.options(scheduling_strategy="SPREAD").remote(n) for n in range(30)]

        def runs() -> list[str]:
            begun = [line for path in folder.iterdir() for line in path.read_text().split()]
            return [names[each] for each in begun]

        assert wait_for(lambda: runs().count(LEAVES) == 2 and runs().count("stays") == 2)
        told = drain(cluster)
        assert "takes nothing new" in told and "2 tasks" in told
        assert wait_for(lambda: (member(cluster)["left"] or {}).get("tasks") == 2)
        assert member(cluster)["state"] == "DRAINING" and "2 tasks" in cluster.head.command(
            "status"
        )
        (folder / "go").touch()
        ended = Counter(names[each] for each in get(refs))
        assert ended[LEAVES] == 2 and ended["stays"] and sum(ended.values()) == 30
        assert sorted(runs()) == sorted(ended.elements()), "nothing ran twice"
        assert wait_for(lambda: has_left(cluster, node))
        assert get(run.options(scheduling_strategy="SPREAD").remote(99)) != ids().get(LEAVES)


def test_what_came_back_and_has_no_node_goes_to_one_that_joins_later(
    staying: Cluster, tmp_path: Path
) -> None:
    with three(staying) as (cluster, _):
        folder = tmp_path

        @shoal.remote(scheduling_strategy="SPREAD", resources={LEAVES: 0.1}, num_cpus=2)
        def run(number: int) -> str:
            (folder / f"{number}").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
            return str(shoal.get_runtime_context().get_node_id())

        refs = [run.remote(n) for n in range(4)]
        assert wait_for(lambda: len(list(folder.iterdir())) == 1)
        drain(cluster)
        waiting = [ref for ref in refs if not (folder / f"{refs.index(ref)}").exists()]
        # They stand in no queue: the daemon looks for a node for them.
        assert wait_for(lambda: sum(row["count"] for row in cluster.head.observe("demand")) == 3)
        cluster.add_node("later", num_cpus=2, resources={LEAVES: 1})
        has_begun = wait_for(lambda: len(list(folder.iterdir())) == 2)
        assert has_begun, [str(shoal.state.why(ref)) for ref in waiting]
        (folder / "go").touch()
        assert get(waiting) == [ids()["later"]] * 3


def test_what_runs_when_the_time_is_up_runs_again_uncharged(
    staying: Cluster, tmp_path: Path
) -> None:
    with three(staying) as (cluster, node):
        folder, away = tmp_path, Affinity(ids()[LEAVES], soft=True)

        @shoal.remote(scheduling_strategy=away)
        def run(name: str) -> str:
            own = str(shoal.get_runtime_context().get_node_id())
            with open(folder / name, "a") as file:
                file.write(f"{own}\n")
            while not (folder / "go").exists():
                time.sleep(0.01)
            with open(folder / f"{name} again", "a") as file:
                file.write(f"{own}\n")
            return own

        @shoal.remote(max_restarts=0, num_cpus=0, scheduling_strategy=away)
        class Stays:
            def hello(self) -> str:
                return "hello"

        actor = Stays.remote()
        assert get(actor.hello.remote()) == "hello"
        retried = run.options(max_retries=1).remote("retried")
        never = run.options(max_retries=0).remote("never")
        assert wait_for(lambda: (folder / "retried").exists() and (folder / "never").exists())
        drain(cluster, "--deadline", "2min")
        assert wait_for(lambda: (member(cluster)["left"] or {}).get("actors") == 1)
        assert get(actor.hello.remote()) == "hello", "it may not be restarted, so it stays"
        assert "is being drained already" in drain(cluster, "--deadline", "1s")
        with pytest.raises(errors.WorkerCrashedError, match="was drained"):
            get(never)
        with pytest.raises(errors.ActorDiedError, match="drained"):
            get(actor.hello.remote())
        assert wait_for(lambda: len((folder / "retried").read_text().split()) == 2)
        (folder / "go").touch()
        assert get(retried) != ids().get(LEAVES)
        assert wait_for(lambda: has_left(cluster, node))


# ---- actors
def test_an_actor_moves_between_two_calls(staying: Cluster, tmp_path: Path) -> None:
    with three(staying) as (cluster, node):
        names = two_nodes.names()
        Moving = shoal.remote(counter_class()).options(
            max_restarts=1, num_cpus=0, scheduling_strategy=Affinity(ids()[LEAVES], soft=True)
        )
        actor = Moving.remote()
        assert names[get(actor.where.remote())] == LEAVES
        slow = actor.wait.remote(1.0)
        calls = [actor.add.remote() for _ in range(50)]
        drain(cluster)
        calls += [actor.add.remote() for _ in range(50)]
        assert get(slow) == "waited", "what runs goes on to its end"
        values = get(calls)
        before = max(number for number, value in enumerate(values) if value == 1)
        lives = [*range(1, before + 1), *range(1, 101 - before)]
        assert values == lives, "each call once, in their order, in two lives"
        assert names[get(actor.where.remote())] != LEAVES
        assert wait_for(lambda: has_left(cluster, node))
        (row,) = [r for r in cluster.head.observe("actors") if r["state"] != "DEAD"]
        assert (row["restarts"], row["incarnation"]) == (0, 2), "and it was not charged"
        del actor, Moving


# ---- actors whose home is the node
@contextmanager
def homes(staying: Cluster, **options: Any) -> Iterator[tuple[Cluster, Node, Any, Any]]:
    """As ``three``, with an actor that a task on the node has made, and a task for the others."""
    Made = shoal.remote(counter_class()).options(num_cpus=0, **options)
    with three(staying) as (cluster, node):

        @shoal.remote(num_cpus=0, resources={LEAVES: 0.1})
        def make() -> Any:
            actor = Made.remote()
            assert shoal.get(actor.add.remote(), timeout=20) == 1
            return actor

        yield cluster, node, get(make.remote()), Made


@pytest.mark.parametrize("lifetime", [None, "detached"])
def test_an_actor_gets_another_home(staying: Cluster, tmp_path: Path, lifetime: str | None) -> None:
    options = {"max_restarts": 1, "lifetime": lifetime}
    if lifetime:
        options["name"] = "kept"
    with homes(staying, **options) as (cluster, node, actor, Made):
        names = two_nodes.names()

        @shoal.remote(num_cpus=0, scheduling_strategy=Affinity(ids()["stays"], soft=False))
        def call(handle: Any, begun: str, seconds: float) -> list[int]:
            values: list[int] = []
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                refs = [handle.add.remote() for _ in range(20)]
                values += shoal.get(refs, timeout=LONG_S)
                Path(begun).touch()
            return values

        begun = tmp_path / "begun"
        beside = call.remote(actor, str(begun), 3.0)
        assert wait_for(begun.exists)
        slow = actor.wait.remote(1.0)
        calls = [actor.add.remote() for _ in range(50)]
        drain(cluster, "--deadline", "2min")
        calls += [actor.add.remote() for _ in range(50)]
        assert get(slow) == "waited", "what runs goes on to its end"
        for values in (get(calls), get(beside)):
            again = [n for n in range(1, len(values)) if values[n] < values[n - 1]]
            assert len(again) <= 1, "the calls of one caller stay in their order, in two lives"
        assert wait_for(lambda: has_left(cluster, node))
        total = len(calls) + len(get(beside))
        assert names[get(actor.where.remote())] in ("head", "stays")
        last = get(actor.add.remote())
        assert last <= total + 2
        if lifetime:
            assert get(shoal.get_actor("kept").add.remote()) == last + 1
            with pytest.raises(ValueError, match="kept"):
                Made.options(name="kept").remote()
        (row,) = [r for r in cluster.head.observe("actors") if r["state"] != "DEAD"]
        assert (row["restarts"], row["incarnation"]) == (0, 2), "and it was not charged"
        if lifetime:
            shoal.kill(shoal.get_actor("kept"))
            with pytest.raises(errors.ActorDiedError):
                get(actor.add.remote())
        del actor


def test_one_that_lived_elsewhere_and_one_with_a_checkpoint_too(
    staying: Cluster, tmp_path: Path
) -> None:
    class Kept:
        def __init__(self) -> None:
            self.count = 0

        def add(self) -> int:
            self.count += 1
            return self.count

        def __shoal_checkpoint__(self) -> int:
            return self.count

        def __shoal_restore__(self, count: int) -> None:
            self.count = count

    options = {"max_restarts": 1, "lifetime": "detached", "max_concurrency": 2}
    with homes(staying, **options) as (cluster, node, actor, Made):
        away = {"scheduling_strategy": Affinity(ids()["stays"], soft=False)}

        @shoal.remote(num_cpus=0, resources={LEAVES: 0.1})
        def make() -> tuple[Any, Any]:
            far = Made.options(max_concurrency=1, **away).remote()
            kept = shoal.remote(Kept).options(max_restarts=-1, num_cpus=0).remote()
            assert shoal.get([kept.add.remote(), far.add.remote()], timeout=20) == [1, 1]
            return far, kept

        far, kept = get(make.remote())
        guest = shoal.remote(Kept).options(
            max_restarts=-1, num_cpus=0, scheduling_strategy=Affinity(ids()[LEAVES], soft=True)
        )
        mine = guest.remote()
        assert [get(mine.add.remote()) for _ in range(3)] == [1, 2, 3]
        calls = [(kept.add.remote(), far.add.remote()) for _ in range(20)]
        drain(cluster, "--deadline", "2min")
        calls += [(kept.add.remote(), far.add.remote()) for _ in range(20)]
        assert wait_for(lambda: has_left(cluster, node))
        assert [get(ours) for ours, _ in calls] == [*range(2, 42)], "its state came along"
        assert get(mine.add.remote()) == 4, "also that of one whose home has stayed"
        last = [get(theirs) for _, theirs in calls]
        before = last.index(1) if 1 in last else len(last)
        assert last == [*range(2, before + 2), *range(1, len(last) - before + 1)]
        assert two_nodes.names()[get(far.where.remote())] == "stays"
        assert get(actor.add.remote()) > 0
        for each in (actor, far):
            shoal.kill(each)
        del actor, far, kept, mine, calls


def test_one_that_may_not_be_restarted_ends_with_its_home(staying: Cluster, tmp_path: Path) -> None:
    with homes(staying, max_restarts=0) as (cluster, node, actor, _):
        drain(cluster, "--deadline", "2min")
        assert wait_for(lambda: (member(cluster)["left"] or {}).get("actors") == 1)
        assert [get(actor.add.remote()) for _ in range(3)] == [2, 3, 4], "until the time is up"
        drain(cluster, "--deadline", "1s")
        with pytest.raises(errors.ActorDiedError, match="drained"):
            while True:
                get(actor.add.remote())
        assert wait_for(lambda: has_left(cluster, node))
        del actor


def test_who_calls_it_on_the_node_that_leaves_calls_it_where_it_is(
    staying: Cluster, tmp_path: Path
) -> None:
    with three(staying) as (cluster, node):
        folder = tmp_path
        Moving = shoal.remote(counter_class()).options(
            max_restarts=1, num_cpus=0, scheduling_strategy=Affinity(ids()[LEAVES], soft=True)
        )
        actor = Moving.remote()

        @shoal.remote(num_cpus=0, resources={LEAVES: 0.1}, max_retries=0)
        def call(handle: Any) -> list[int]:
            values: list[int] = []
            while not (folder / "go").exists():
                values += shoal.get([handle.add.remote() for _ in range(5)], timeout=LONG_S)
                (folder / "begun").touch()
            return values

        calls = call.remote(actor)
        assert wait_for((folder / "begun").exists)
        drain(cluster, "--deadline", "2min")
        assert wait_for(lambda: get(actor.where.remote()) != ids()[LEAVES])
        (folder / "go").touch()
        values = get(calls)
        first = values.index(1, 1) if 1 in values[1:] else len(values)
        assert values == [*range(1, first + 1), *range(1, len(values) - first + 1)]
        assert wait_for(lambda: has_left(cluster, node))


# ---- values
def test_values_are_not_lost(staying: Cluster) -> None:
    with three(staying) as (cluster, node):
        names = two_nodes.names()
        there = {"num_cpus": 0, "resources": {LEAVES: 0.1}, "max_retries": 0}

        @shoal.remote(**there)
        def make(value: float) -> Any:
            return np.full(400_000, value)

        @shoal.remote(**there)
        def give() -> list[Any]:
            return [shoal.put(np.full(400_000, 7.0)), shoal.put([shoal.put(8)])]

        @shoal.remote(num_cpus=1)
        def total(value: Any) -> tuple[float, str]:
            return float(value.sum()), str(shoal.get_runtime_context().get_node_id())

        kept = [make.remote(float(n)) for n in range(5)]
        large, nested = get(give.remote())
        assert not shoal.wait([*kept, large], num_returns=6, timeout=LONG_S, fetch_local=False)[1]
        drain(cluster)
        assert wait_for(lambda: has_left(cluster, node))
        assert [value[0] for value in get(kept)] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert get(large)[0] == 7.0 and get(get(nested)[0]) == 8
        spread = [total.options(scheduling_strategy="SPREAD").remote(large) for _ in range(4)]
        found = get(spread)
        assert {value for value, _ in found} == {2_800_000.0}
        assert {names[place] for _, place in found} == {"head", "stays"}, "its refs still travel"
        del kept, large, nested, spread


# ---- a program of its own
def test_a_program_on_the_node_is_waited_for_and_then_ends_with_it(staying: Cluster) -> None:
    with leaving(staying) as node:
        shoal.init(node.address, log_to_driver=False)
        try:
            told = drain(staying, "--deadline", "2min")
            assert "1 program" in told and "they end with it" in told

            @shoal.remote
            def where() -> str:
                return str(shoal.get_runtime_context().get_node_id())

            others = (ids()["head"], ids()["stays"])
            assert get(where.remote()) in others, "what it submits goes elsewhere"
            drain(staying, "--deadline", "1s")
            with pytest.raises(errors.ShoalError):
                shoal.get(where.options(resources={"nobody": 1}).remote(), timeout=LONG_S)
        finally:
            shoal.shutdown()
        assert wait_for(lambda: has_left(staying, node))


# ---- what is refused
def test_what_cannot_be_drained_is_said(staying: Cluster) -> None:
    with three(staying) as (cluster, node):
        for name, why in (("head", "it is the head"), ("nobody", "there is no node nobody")):
            with pytest.raises(ClusterError, match=why):
                cluster.head.command("drain", name)
        drain(cluster)
        assert wait_for(lambda: has_left(cluster, node))
        told = cluster.head.command("drain", _leaving[-1])
        assert "has been drained, and has left" in told, "others of its name are too"
        with pytest.raises(ClusterError, match="there is no node nobody"):
            cluster.head.command("drain", "nobody")


# ---- affinities to nodes that are gone
def test_a_soft_affinity_to_a_lost_node_is_none(staying: Cluster) -> None:
    with three(staying) as (cluster, node):
        lost = ids()[LEAVES]

        @shoal.remote(num_cpus=2)
        def where() -> str:
            return str(shoal.get_runtime_context().get_node_id())

        @shoal.remote(num_cpus=2)
        def hold(seconds: float) -> None:
            time.sleep(seconds)

        near = where.options(scheduling_strategy=Affinity(lost, soft=True))
        assert get(near.remote()) == lost
        holds = hold.options(scheduling_strategy=Affinity(lost, soft=True)).remote(60.0)
        waiting = [near.remote() for _ in range(3)]
        assert not shoal.wait(waiting, timeout=0.5)[0]
        cluster.kill_node(node)
        shoal.cancel(holds, force=True)
        assert lost not in get(waiting)
        assert get(near.remote()) != lost
        cluster.remove_node(node, gracefully=False)


def test_a_hard_affinity_to_a_drained_node_is_an_error(staying: Cluster) -> None:
    with three(staying) as (cluster, node):
        gone = Affinity(ids()[LEAVES], soft=False)

        @shoal.remote
        def where() -> str:
            return str(shoal.get_runtime_context().get_node_id())

        assert get(where.options(scheduling_strategy=gone).remote())
        drain(cluster)
        assert wait_for(lambda: has_left(cluster, node))
        with pytest.raises(errors.UnschedulableError, match="has been drained"):
            get(where.options(scheduling_strategy=gone).remote())
