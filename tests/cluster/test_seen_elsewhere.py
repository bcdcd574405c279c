"""What people see of tasks that run on another node: their lines, why they are not done, tables.

Real daemons: one cluster of two nodes for all tests, whose driver is this process. ``node-2`` alone
has a licence.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal._proto import reasons as r
from shoal.testing import Cluster
from shoal.testing.polling import wait_until
from shoal.util.progress import trange
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.cluster.conftest import looked_around

LONG_S = 60.0
FAR: dict[str, Any] = {"resources": {"licence": 1}}
SHARED: dict[str, Any] = {"resources": {"licence": 0.1}}


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[Cluster]:
    """Of all tests together: the cluster lives while they run."""
    with looked_around(), Cluster() as made:
        made.add_node(num_cpus=2)
        made.add_node(num_cpus=2, resources={"licence": 1}, labels={"zone": "b"})
        yield made


@pytest.fixture(autouse=True)
def _program(_nothing_is_left: Cluster) -> None:
    """Each test is a driver of its own."""
    _nothing_is_left.connect()


@shoal.remote
def wait_there(seconds: float = 60.0) -> str:
    time.sleep(seconds)
    return "done"


@shoal.remote
def say(text: str) -> None:
    print("out", text)
    print("err", text, file=sys.stderr)


class Screen:
    """All that this program has shown so far."""

    def __init__(self, capsys: Any) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def look(self) -> None:
        found = self._capsys.readouterr()
        self.out += found.out
        self.err += found.err

    def until(self, shows: Callable[[Screen], object]) -> None:
        def is_there() -> object:
            self.look()
            return shows(self)

        assert wait_until(is_there, LONG_S), f"{self.out[-2000:]}\n{self.err[-2000:]}"


@pytest.fixture
def screen(capsys: Any) -> Screen:
    return Screen(capsys)


@pytest.fixture
def held() -> Iterator[Any]:
    """A task that has the licence, for as long as the test takes."""
    ref = wait_there.options(**FAR).remote()
    until_why(ref, r.OnNode)
    yield ref
    shoal.cancel(ref)
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(ref, timeout=LONG_S)


def until_why(ref: Any, kind: type[r.Reason]) -> Any:
    """The first reason, once it is one of ``kind``."""
    found: list[r.Reason] = []

    def is_there() -> bool:
        found[:] = [shoal.state.why(ref).reason]
        return isinstance(found[0], kind)

    assert wait_until(is_there, LONG_S), found
    return found[0]


def get(ref: Any) -> Any:
    return shoal.get(ref, timeout=LONG_S)


# ---- lines
def test_lines_of_the_other_node_reach_the_driver(screen: Screen) -> None:
    @shoal.remote
    class Talker:
        def talk(self) -> None:
            print("an actor")

    @shoal.remote
    def nest() -> None:
        get(say.options(**SHARED).remote("child"))
        get(Talker.options(**SHARED).remote().talk.remote())

    get(say.options(**SHARED).remote("there"))
    get(nest.options(**SHARED).remote())
    get(say.remote("here"))
    there = r"\(say pid=\d+, node-2\) "
    for text in ("there", "child"):
        screen.until(lambda s, text=text: re.search(rf"^{there}out {text}$", s.out, re.M))
        screen.until(lambda s, text=text: re.search(rf"^{there}err {text}$", s.err, re.M))
    screen.until(lambda s: re.search(r"^\(Talker pid=\d+, node-2\) an actor$", s.out, re.M))
    screen.until(lambda s: re.search(r"^\(say pid=\d+\) out here$", s.out, re.M))


def test_lines_of_what_a_task_elsewhere_has_submitted_come_from_wherever_it_runs(
    screen: Screen,
) -> None:
    here = NodeAffinitySchedulingStrategy(shoal.get_runtime_context().get_node_id(), soft=False)

    @shoal.remote
    def nest() -> None:
        get(say.options(scheduling_strategy=here).remote("back"))

    get(nest.options(**SHARED).remote())
    screen.until(lambda s: re.search(r"^\(say pid=\d+, node-1\) out back$", s.out, re.M))


def test_of_a_flood_each_line_is_shown_or_counted(screen: Screen) -> None:
    count = 6000

    @shoal.remote
    def flood() -> None:
        for number in range(count):
            print(f"{number:06} " + "x" * 1000)

    def is_complete(seen: Screen) -> bool:
        shown = len(re.findall(r"^\(flood pid=\d+, node-2\) \d{6} x+$", seen.out, re.M))
        unshown = sum(map(int, re.findall(r"(\d+) lines of workers are not shown", seen.err)))
        return shown + unshown == count

    get(flood.options(**SHARED).remote())
    get(say.options(**SHARED).remote("after it"))  # what was left out is said with the next line
    screen.until(is_complete)


def test_bars_of_the_other_node_are_drawn(screen: Screen) -> None:
    @shoal.remote
    def count() -> None:
        for _ in trange(20, desc="work"):
            pass

    get(count.options(**SHARED).remote())
    screen.until(lambda s: re.search(r"\(count pid=\d+, node-2\) work 100 %: 20 of 20", s.err))


# ---- why
def test_a_lent_task_says_where_it_is(held: Any) -> None:
    reason = until_why(held, r.OnNode)
    nodes = {node["NodeName"]: node["NodeID"] for node in shoal.nodes()}
    assert (reason.node, reason.node_id) == ("node-2", nodes["node-2"])
    assert reason.name == "wait_there" and 0 <= reason.since_s < 60
    with pytest.raises(errors.GetTimeoutError, match="has been on node node-2 for"):
        shoal.get(held, timeout=0.1)


def test_what_finds_no_room_says_which_node_it_waits_for(held: Any) -> None:
    ref = wait_there.options(**FAR).remote()
    follower = say.remote(ref)
    reason = until_why(ref, r.WaitsForNode)
    assert reason.asked == {"CPU": 1.0, "licence": 1.0} and reason.nodes == ["node-2"]
    chain = [type(each) for each in shoal.state.why(follower).chain]
    assert chain == [r.WaitsForArgument, r.WaitsForNode]
    shoal.cancel(ref)
    with pytest.raises(errors.TaskCancelledError):
        get(follower)


def test_a_deadline_of_a_lent_task_says_how_long_it_took() -> None:
    get(wait_there.options(**FAR).remote(0))
    ref = wait_there.options(timeout_s=3, **FAR).remote()
    with pytest.raises(errors.DeadlineExceededError) as caught:
        get(ref)
    error = caught.value
    assert 3 <= error.timeout_s < 10 and error.stages_s["running"] > 0.2
    assert error.stage == "running" and f"{error.timeout_s:g} s" in str(error)


def test_an_actor_on_the_other_node_says_where_it_and_its_calls_are(screen: Screen) -> None:
    @shoal.remote
    class Keeper:
        def keep(self, seconds: float) -> None:
            print("keeps")
            time.sleep(seconds)

    keeper = Keeper.options(**SHARED).remote()
    get(keeper.keep.remote(0))
    screen.until(lambda s: re.search(r"Keeper pid=\d+, node-2\) keeps$", s.out, re.M))
    lives = until_why(keeper, r.ActorOnNode)
    assert (lives.node, lives.state) == ("node-2", "ALIVE") and lives.pid > 0
    call = keeper.keep.remote(60)
    assert until_why(call, r.OnNode).name.endswith("Keeper.keep")
    shoal.kill(keeper)
    with pytest.raises(errors.ActorDiedError):
        get(call)


def test_an_actor_that_finds_no_room_says_which_node_it_waits_for(held: Any) -> None:
    @shoal.remote
    class Keeper:
        pass

    keeper = Keeper.options(**FAR).remote()
    waits = until_why(keeper, r.ActorPending).cause
    assert isinstance(waits, r.WaitsForNode) and waits.nodes == ["node-2"], waits


# ---- notices
def test_notices_speak_of_the_cluster(screen: Screen, held: Any) -> None:
    busy = wait_there.options(**FAR).remote()  # node-2 could run it: nobody is warned
    large = wait_there.options(resources={"licence": 7}).remote()
    until_why(busy, r.WaitsForNode)
    text = "no node of the cluster has that (CPU: the most is 2, on node-1; licence: the most is 1,"
    screen.until(lambda s: text in s.err)
    assert "'licence': 7.0" in screen.err and "'licence': 1.0" not in screen.err
    assert until_why(large, r.Infeasible).text.startswith("no node of the cluster has that")
    for ref in (busy, large):
        shoal.cancel(ref)


def test_a_generator_on_another_node_is_explained() -> None:
    @shoal.remote(_generator_backpressure_num_objects=1)
    def numbers() -> Iterator[int]:
        yield from range(3)

    far: dict[str, Any] = {"resources": {"licence": 0.5}}
    stream = numbers.options(**far).remote()
    assert get(stream._next_sync(LONG_S)) == 0
    assert until_why(stream, r.OnNode).node == "node-2"
    assert [get(stream._next_sync(LONG_S)) for _ in range(2)] == [1, 2]

    @shoal.remote
    def call_it_there() -> list[int]:
        return [shoal.get(ref) for ref in numbers.options(**far).remote()]

    assert get(call_it_there.options(**SHARED).remote()) == [0, 1, 2]


# ---- tables
def test_tables_say_where_tasks_and_values_are(held: Any) -> None:
    def runs_there() -> bool:
        (row,) = shoal.state.tasks(task_id=held.task_id().hex())
        assert row.state in ("FORWARDED", "RUNNING") and row.node == "node-2", row
        return row.state == "RUNNING" and row.worker > 0 and row.started_s is not None

    assert wait_until(runs_there, LONG_S)

    @shoal.remote
    def big() -> Any:
        return np.ones(1_000_000)

    zone: dict[str, Any] = {"label_selector": {"zone": "b"}}
    ref = big.options(**zone).remote()
    shoal.wait([ref], timeout=LONG_S)
    where = lambda: [each.where for each in shoal.state.memory(object_id=ref.hex())]  # noqa: E731
    assert where() == ["node node-2"]
    ready = shoal.state.why(ref).reason
    assert isinstance(ready, r.Ready) and ready.node == "node-2" and not ready.is_evicted
    (over,) = shoal.state.tasks(task_id=ref.task_id().hex())
    assert (over.state, over.worker) == ("FINISHED", -1)
    story = [line.text for line in shoal.state.story(ref)]
    assert any(text.endswith("big is taken for another node, attempt 1") for text in story)
    assert get(ref).sum() == 1_000_000
    assert where() == ["memory"] and shoal.state.why(ref).reason == r.Ready(id=ref.hex())
