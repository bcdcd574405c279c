"""Actors cross nodes: handles, hosts, names, ends; real daemons, and the audit of both nodes.

One pair of nodes serves the file (``two_nodes``); what becomes of an actor whose host is lost
stands at the end, in a cluster of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal.testing import Cluster
from shoal.testing.polling import wait_until
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.cluster import two_nodes
from tests.cluster.conftest import LEASE_S, looked_around
from tests.cluster.two_nodes import HERE, THERE

LONG_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with looked_around():
        yield


@pytest.fixture(scope="module")
def cluster(_nothing_is_left: None) -> Iterator[Cluster]:
    with two_nodes.made() as made:
        yield made


@pytest.fixture
def driver(cluster: Cluster) -> Iterator[None]:
    """The test is a driver on the first node."""
    with two_nodes.driven(cluster.head, cluster.nodes):
        yield


def get(refs: Any) -> Any:
    return shoal.get(refs, timeout=LONG_S)


class _Counter:
    def __init__(self, count: int = 0) -> None:
        self.count = count

    def add(self, more: int = 1) -> int:
        self.count += more
        return self.count

    def where(self) -> str:
        return str(shoal.get_runtime_context().get_node_id())

    def same(self, value: Any) -> Any:
        return value

    def fail(self) -> None:
        raise ValueError("not this time")

    def wait(self, seconds: float) -> str:
        time.sleep(seconds)
        return "waited"


def counter_class() -> Any:
    """By value, as a program's own: workers do not import this module."""
    body = {name: value for name, value in vars(_Counter).items() if not name.startswith("__")}
    made = type("Counter", (), {**body, "__init__": _Counter.__init__})
    made.__module__ = "__main__"
    for each in (made.__init__, *body.values()):  # type: ignore[misc]
        each.__module__ = "__main__"
    return made


Counter = shoal.remote(counter_class())


@shoal.remote
def use(handle: Any, count: int) -> tuple[list[int], str]:
    values = shoal.get([handle.add.remote() for _ in range(count)], timeout=20)
    return values, str(shoal.get_runtime_context().get_node_id())


@shoal.remote
def use_named(name: str) -> int:
    return int(shoal.get(shoal.get_actor(name).add.remote(), timeout=20))


# ---- handles
def test_a_handle_works_where_it_comes_to(driver: None, cluster: Cluster) -> None:
    names = two_nodes.names()
    counter = Counter.options(**HERE).remote()
    values, node = get(use.options(**THERE).remote(counter, 100))
    assert values == list(range(1, 101)), "calls of one caller stay in their order"
    assert names[node] == "node-2"
    assert get(counter.add.remote()) == 101
    values, node = get(use.options(**HERE).remote(counter, 2))
    assert (values, names[node]) == ([102, 103], "node-1")


def test_an_actor_that_a_task_made_elsewhere(driver: None) -> None:
    @shoal.remote
    def make() -> Any:
        made = Counter.remote(100)
        shoal.get(made.add.remote())
        return made

    counter = get(make.options(**THERE).remote())
    assert get(counter.add.remote()) == 102
    assert two_nodes.names()[get(counter.where.remote())] == "node-2"
    assert get(use.options(**HERE).remote(counter, 1))[0] == [103]


# ---- hosts
def test_an_actor_lives_where_there_is_what_it_asks_for(driver: None) -> None:
    counter = Counter.options(**THERE).remote(10)
    assert two_nodes.names()[get(counter.where.remote())] == "node-2"
    assert get([counter.add.remote() for _ in range(200)]) == list(range(11, 211))
    array = np.arange(500_000)
    assert (get(counter.same.remote(array)) == array).all()
    assert (get(counter.same.remote(shoal.put(array))) == array).all()
    with pytest.raises(ValueError, match="not this time"):
        get(counter.fail.remote())
    assert get(use.options(**THERE).remote(counter, 3))[0] == [211, 212, 213]


def test_actors_for_which_there_is_no_room_here(driver: None) -> None:
    actors = [Counter.options(num_cpus=1).remote() for _ in range(4)]
    homes = [two_nodes.names()[home] for home in get([a.where.remote() for a in actors])]
    assert sorted(homes) == ["node-1", "node-1", "node-2", "node-2"]
    more = Counter.options(num_cpus=1).remote()
    ready, waiting = shoal.wait([more.where.remote()], timeout=0.5)
    assert not ready, "all CPUs are taken"
    del actors
    assert get(waiting[0])


def test_spread(driver: None) -> None:
    actors = [Counter.options(scheduling_strategy="SPREAD").remote() for _ in range(4)]
    homes = [two_nodes.names()[home] for home in get([a.where.remote() for a in actors])]
    assert sorted(homes) == ["node-1", "node-1", "node-2", "node-2"]


def test_concurrency_groups_and_async(driver: None) -> None:
    class Waiter:
        async def wait(self, seconds: float) -> str:
            import asyncio

            await asyncio.sleep(seconds)
            return "waited"

        @shoal.method(concurrency_group="io")
        async def quick(self) -> str:
            return "quick"

    Waiter.__module__ = "__main__"
    made: Any = shoal.remote(concurrency_groups={"io": 1}, max_concurrency=2)(Waiter)
    waiter = made.options(**THERE).remote()
    get(waiter.quick.remote())
    slow = [waiter.wait.remote(1.0) for _ in range(2)]
    assert get(waiter.quick.remote()) == "quick"
    ready, _ = shoal.wait(slow, num_returns=2, timeout=0)
    assert not ready, "the group has a queue of its own"
    assert get(slow) == ["waited", "waited"]


# ---- ends
def test_killed_and_constructor_and_exit(driver: None, cluster: Cluster) -> None:
    counter = Counter.options(**THERE).remote()
    get(counter.add.remote())
    shoal.kill(counter)
    with pytest.raises(errors.ActorDiedError, match="killed"):
        get(counter.add.remote())

    class Broken:
        def __init__(self) -> None:
            raise ValueError("it cannot begin")

        def call(self) -> None: ...

    Broken.__module__ = "__main__"
    broken = shoal.remote(Broken).options(**THERE).remote()
    with pytest.raises(errors.ActorDiedError, match="it cannot begin"):
        get(broken.call.remote())

    @shoal.remote
    def kill(handle: Any) -> None:
        shoal.kill(handle)

    ours = Counter.options(**HERE).remote()
    get(ours.add.remote())
    get(kill.options(**THERE).remote(ours))
    with pytest.raises(errors.ActorDiedError, match="killed"):
        for _ in range(200):
            get(ours.add.remote())


def test_its_process_dies(driver: None) -> None:
    options: dict[str, Any] = {**THERE, "max_restarts": 1, "max_task_retries": 1}
    counter = Counter.options(**options).remote(5)
    assert get(counter.add.remote()) == 6
    slow = counter.wait.remote(2.0)
    os.kill(_pid(counter), 9)
    assert get(slow) == "waited", "it is run again in the next life"
    assert get(counter.add.remote()) == 6
    os.kill(_pid(counter), 9)
    with pytest.raises(errors.ActorDiedError):
        for _ in range(200):
            get(counter.add.remote())


def _pid(counter: Any) -> int:
    actor_id = counter._actor_id.hex()
    rows = [row for row in shoal.state.actors() if row.actor_id == actor_id]
    return int(rows[0].pid)


def test_its_last_handle_goes(driver: None, cluster: Cluster) -> None:
    counter = Counter.options(**THERE).remote()
    last = counter.wait.remote(0.5)
    del counter
    assert get(last) == "waited", "what was called is done"
    other = cluster.nodes[1]

    def is_free() -> bool:
        return not [row for row in other.observe("workers") if row["state"] == "actor"]

    assert wait_until(is_free, LONG_S)


# ---- names
def test_a_name_is_the_clusters(driver: None) -> None:
    here = Counter.options(name="here", **HERE).remote()
    there = Counter.options(name="there", **THERE).remote(100)
    assert get(use_named.options(**THERE).remote("here")) == 1
    assert get(use_named.options(**HERE).remote("there")) == 101
    with pytest.raises(errors.ActorAlreadyExistsError):
        Counter.options(name="there").remote()

    @shoal.remote
    def take(name: str, if_exists: bool) -> int:
        made = Counter.options(name=name, get_if_exists=if_exists).remote(1000)
        return int(shoal.get(made.add.remote(), timeout=20))

    with pytest.raises(errors.ActorAlreadyExistsError):
        get(take.options(**THERE).remote("here", False))
    assert get(take.options(**THERE).remote("here", True)) == 2
    with pytest.raises(errors.ActorNotFoundError):
        shoal.get_actor("nobody")
    shoal.kill(there)

    def is_free() -> bool:
        try:
            Counter.options(name="there").remote()
        except errors.ActorAlreadyExistsError:
            return False
        return True

    assert wait_until(is_free, LONG_S)
    del here


def test_a_detached_actor_of_another_node(cluster: Cluster) -> None:
    first, second = cluster.nodes
    with two_nodes.driven(second, []):
        shoal.shutdown()
        shoal.init(second.address, namespace="shop", log_to_driver=False)
        kept = Counter.options(name="kept", lifetime="detached", **THERE).remote(7)
        get(kept.add.remote())
        del kept
    with two_nodes.driven(first, cluster.nodes):
        shoal.shutdown()
        shoal.init(first.address, namespace="shop", log_to_driver=False)
        kept = shoal.get_actor("kept")
        assert get(kept.add.remote()) == 9
        shoal.kill(kept)


def test_a_detached_actor_that_a_task_on_another_node_made(driver: None) -> None:
    @shoal.remote
    def make() -> Any:
        made = Counter.options(name="made", lifetime="detached", num_cpus=0).remote(7)
        shoal.get(made.add.remote())
        return made

    kept = get(make.options(**THERE).remote())
    assert get(kept.add.remote()) == 9
    shoal.kill(kept)  # its class, which is this program's, is let go there and here


def test_large_results_reach_a_third_node_by_way_of_their_home() -> None:
    class Maker:
        def make(self, size: int) -> Any:
            return np.ones(size)

        def make_several(self, count: int, size: int) -> Iterator[Any]:
            for _ in range(count):
                yield np.ones(size)

    Maker.__module__ = "__main__"

    @shoal.remote(num_cpus=0)
    def sizes(maker: Any) -> list[int]:
        made = [maker.make.remote(100_000), *maker.make_several.remote(3, 50_000)]
        return [len(value) for value in shoal.get(made)]

    with Cluster() as cluster:
        for name in ("home", "host", "third"):
            cluster.add_node(num_cpus=1, resources={name: 1})
        with two_nodes.driven(cluster.head, cluster.nodes):
            maker = shoal.remote(Maker).options(resources={"host": 1}).remote()
            for _ in range(2):
                found = get(sizes.options(resources={"third": 1}).remote(maker))
                assert found == [100_000, 50_000, 50_000, 50_000]
            del maker


# ---- no room
def test_one_that_restarts_does_not_wait_at_a_full_host(tmp_path: Path) -> None:
    waits, holds, go_on = (tmp_path / name for name in ("waits", "holds", "go on"))

    @shoal.remote(num_cpus=1)
    def hold() -> None:
        holds.touch()
        while not go_on.exists():
            time.sleep(0.02)

    @shoal.remote(num_cpus=0, resources={"x": 1})
    def holds_there() -> None:
        here = shoal.get_runtime_context().get_node_id()
        near = NodeAffinitySchedulingStrategy(here, soft=False)
        task = hold.options(scheduling_strategy=near).remote()
        waits.touch()
        shoal.get(task)

    with Cluster() as made:
        head = made.add_node(num_cpus=0)
        made.add_node(num_cpus=1, resources={"x": 1})
        shoal.init(head.address, log_to_driver=False)
        try:
            actor = Counter.options(num_cpus=1, max_restarts=-1, max_task_retries=-1).remote()
            there = get(actor.where.remote())
            task = holds_there.remote()
            assert wait_until(waits.exists, LONG_S)
            made.add_node(num_cpus=1)
            # Each time it waits longer before it begins again, until the task has its CPU.
            assert wait_until(lambda: holds.exists() or shoal.kill(actor, no_restart=False), LONG_S)
            calls = [actor.add.remote() for _ in range(20)]
            assert get(calls) == list(range(1, 21)), "in their order, in its new life"
            assert get(actor.where.remote()) != there
            go_on.touch()
            get(task)
        finally:
            go_on.touch()
            shoal.shutdown()


def test_it_gets_its_turn_where_tasks_never_leave_a_gap(driver: None, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"

    @shoal.remote(num_cpus=1, resources={"there": 0.01})
    def short() -> None:
        time.sleep(0.1)

    @shoal.remote(num_cpus=0, resources={"there": 0.01})
    def keep_busy() -> None:
        waits = [short.remote() for _ in range(8)]
        while not go_on.exists():
            waits = [*shoal.wait(waits)[1], short.remote()]
        shoal.get(waits)

    busy = keep_busy.remote()
    try:
        assert wait_until(lambda: shoal.available_resources()["CPU"] == 2, LONG_S)
        actor = Counter.options(num_cpus=1, **THERE).remote()
        assert get(actor.add.remote()) == 1
    finally:
        go_on.touch()
        get(busy)


def test_one_that_has_a_checkpoint_takes_it_along(tmp_path: Path) -> None:
    holds, go_on = tmp_path / "holds", tmp_path / "go on"

    class Keeper(_Counter):
        def __shoal_checkpoint__(self) -> int:
            return self.count

        def __shoal_restore__(self, state: int) -> None:
            self.count = state

    @shoal.remote(num_cpus=1)
    def hold() -> None:
        holds.touch()
        while not go_on.exists():
            time.sleep(0.02)

    with Cluster() as made:
        head = made.add_node(num_cpus=1)
        shoal.init(head.address, log_to_driver=False)
        try:
            body = {name: value for name, value in vars(Keeper).items() if "shoal" in name}
            kind = type("Keeper", (counter_class(),), body)
            kind.__module__ = "__main__"
            keeper = shoal.remote(kind).options(num_cpus=1, max_restarts=-1, max_task_retries=-1)
            actor = keeper.remote()
            assert get(actor.add.remote()) == 1
            task = hold.remote()
            assert wait_until(lambda: holds.exists() or shoal.kill(actor, no_restart=False), LONG_S)
            made.add_node(num_cpus=1)
            assert get(actor.add.remote()) == 2, "on the other node: it goes on where it was"
            assert two_nodes.names()[get(actor.where.remote())] == "node-2"
            go_on.touch()
            get(task)
        finally:
            go_on.touch()
            shoal.shutdown()


# ---- losses
def test_its_host_is_lost() -> None:
    with Cluster(lease_s=LEASE_S) as made:
        head = made.add_node(num_cpus=1)
        nodes = [made.add_node(num_cpus=2, resources={"x": 1}) for _ in range(2)]
        shoal.init(head.address, log_to_driver=False)
        try:
            names = two_nodes.names()
            options: dict[str, Any] = {"num_cpus": 0, "resources": {"x": 0.1}}
            lives_on = Counter.options(max_restarts=2, max_task_retries=-1, **options).remote()
            host = names[get(lives_on.where.remote())]
            others = [Counter.options(**options).remote() for _ in range(8)]
            homes = [names[home] for home in get([each.where.remote() for each in others])]
            ends = others[homes.index(host)]
            slow = ends.wait.remote(60.0)
            made.kill_node(next(node for node in nodes if node.name == host))
            calls = [lives_on.add.remote() for _ in range(20)]
            assert shoal.get(calls, timeout=60)[-1] >= 1
            assert names[get(lives_on.where.remote())] != host
            with pytest.raises(errors.ActorDiedError, match="lost"):
                shoal.get(slow, timeout=60)
            with pytest.raises(errors.ActorDiedError, match="lost"):
                get(ends.add.remote())
        finally:
            shoal.shutdown()
