"""Tasks cross nodes: real daemons, real links, and the audit of both nodes after every test.

One pair of nodes serves the whole file (``two_nodes``); each test is a driver of its own. What
becomes of work whose node is lost stands in ``test_work_losses``.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
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
from tests.cluster.conftest import looked_around
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


@pytest.fixture(autouse=True)
def _driver(cluster: Cluster) -> Iterator[None]:
    """Each test is a driver on the first node."""
    with two_nodes.driven(cluster.head, cluster.nodes):
        yield


def get(refs: Any) -> Any:
    return shoal.get(refs, timeout=LONG_S)


# Tasks name nothing of this module, or their workers would have to import it, and pytest with it.


@shoal.remote
def where(*_: Any) -> str:
    return str(shoal.get_runtime_context().get_node_id())


@shoal.remote
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return str(shoal.get_runtime_context().get_node_id())


@shoal.remote
def same(value: Any) -> Any:
    return value


@shoal.remote
def opened(box: list[Any]) -> Any:
    return shoal.get(box[0])


@pytest.fixture
def ids(cluster: Cluster) -> dict[str, str]:
    return {name: node for node, name in two_nodes.names().items()}


# ---- where things run
def test_a_task_runs_where_its_resource_is(ids: dict[str, str]) -> None:
    assert get(where.options(**THERE).remote()) == ids["node-2"]
    assert get(where.options(**HERE).remote()) == ids["node-1"]
    assert get(where.remote()) == ids["node-1"], "what fits here stays here"


def test_more_tasks_than_fit_here_use_both_nodes(ids: dict[str, str]) -> None:
    count = Counter(get([nap.remote(0.05) for _ in range(40)]))
    assert set(count) == set(ids.values())
    assert min(count.values()) >= 4, f"{count}: both have two CPUs"


def test_spread_takes_turns(ids: dict[str, str]) -> None:
    spread = nap.options(scheduling_strategy="SPREAD")
    for _ in range(3):
        count = Counter(get([spread.remote(0.05) for _ in range(20)]))
        assert min(count.get(node, 0) for node in ids.values()) >= 8, count
        time.sleep(1.5)  # longer than what was heard of a node while it had work is believed


@pytest.mark.parametrize("name", ["node-1", "node-2"])
@pytest.mark.parametrize("soft", [False, True])
def test_affinity(ids: dict[str, str], name: str, soft: bool) -> None:
    near = NodeAffinitySchedulingStrategy(ids[name], soft=soft)
    found = get([nap.options(scheduling_strategy=near).remote(0.01) for _ in range(6)])
    assert set(found) == {ids[name]}


def test_affinity_to_nobody(ids: dict[str, str]) -> None:
    nobody = "ab" * 16
    soft = NodeAffinitySchedulingStrategy(nobody, soft=True)
    assert get(where.options(scheduling_strategy=soft).remote()) in ids.values()
    hard = NodeAffinitySchedulingStrategy(nobody, soft=False)
    ref = where.options(scheduling_strategy=hard).remote()
    assert shoal.wait([ref], timeout=0.3) == ([], [ref]), "it waits for the node to come"
    shoal.cancel(ref)
    with pytest.raises(errors.TaskCancelledError):
        get(ref)


def test_labels(ids: dict[str, str]) -> None:
    assert get(where.options(label_selector={"zone": "b"}).remote()) == ids["node-2"]
    assert get(where.options(label_selector={"zone": "!b"}).remote()) == ids["node-1"]


def test_resources_add_up(ids: dict[str, str], tmp_path: Path) -> None:
    total = shoal.cluster_resources()
    assert (total["CPU"], total["here"], total["there"]) == (4, 1, 1)
    go_on = tmp_path / "go on"

    @shoal.remote(num_cpus=2, resources={"there": 1})
    def hold() -> str:
        assert wait_until(go_on.exists, LONG_S)
        return str(shoal.get_runtime_context().get_node_id())

    ref = hold.remote()
    assert wait_until(lambda: "there" not in shoal.available_resources(), LONG_S)
    assert shoal.available_resources()["CPU"] == 2
    go_on.touch()
    assert get(ref) == ids["node-2"]
    assert wait_until(lambda: shoal.available_resources() == total, LONG_S)


def test_a_driver_on_the_second_node(cluster: Cluster, ids: dict[str, str]) -> None:
    shoal.shutdown()
    second = cluster.nodes[1]
    with two_nodes.driven(second, cluster.nodes):
        assert shoal.get_runtime_context().get_node_id() == ids["node-2"]
        assert get(where.remote()) == ids["node-2"]
        array = np.arange(300_000)
        back = get(same.options(**HERE).remote(array))
        assert (back == array).all()
        assert get(where.options(**HERE).remote()) == ids["node-1"]
        count = Counter(get([nap.remote(0.05) for _ in range(40)]))
        assert min(count[node] for node in ids.values()) >= 4, count
    shoal.init(cluster.head.address, log_to_driver=False)


# ---- values
VALUES = {
    "nothing": lambda: None,
    "a number": lambda: 7,
    "text": lambda: "abc" * 100,
    "bytes": lambda: bytes(range(256)) * 2_000,
    "small array": lambda: np.arange(100),
    "array": lambda: np.arange(2_000_000, dtype=np.float32).reshape(1000, 2000),
    "arrays": lambda: {"a": np.ones(100_000), "b": [np.zeros(3), "c"]},
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_arrive_as_they_were(kind: str) -> None:
    """As result, as argument by value, by ref, by name, and inside a list."""
    make = VALUES[kind]
    made = get(shoal.remote(make).options(**THERE).remote())
    _assert_equal(made, make())
    there = same.options(**THERE)
    _assert_equal(get(there.remote(make())), make())
    ref = shoal.put(make())
    _assert_equal(get(there.remote(ref)), make())
    _assert_equal(get(there.remote(value=ref)), make())
    _assert_equal(get(opened.options(**THERE).remote([ref])), make())


def _assert_equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and (found == expected).all()
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            _assert_equal(found[name], expected[name])
    elif isinstance(expected, list):
        for left, right in zip(found, expected, strict=True):
            _assert_equal(left, right)
    else:
        assert found == expected


def test_several_results() -> None:
    @shoal.remote(num_returns=3, **THERE)
    def three() -> tuple[int, Any, str]:
        return 1, np.ones(200_000), "c"

    refs = three.remote()
    assert get(refs[2]) == "c" and get(refs[0]) == 1
    assert get(refs[1]).sum() == 200_000


def test_refs_that_come_from_abroad() -> None:
    """Made there, given here inside a value, read here and by others, and handed on."""

    @shoal.remote(**THERE)
    def give() -> list[Any]:
        return [shoal.put(np.full(200_000, 3)), shoal.put("small"), same.remote("a task's")]

    refs = get(give.remote())
    array, small, result = refs
    assert get(small) == "small" and get(result) == "a task's"
    assert get(array).sum() == 600_000
    for place in (HERE, THERE):
        assert get(same.options(**place).remote(array)).sum() == 600_000
        assert get(opened.options(**place).remote([small])) == "small"
    again = get(same.options(**THERE).remote([array]))
    assert again == [array], "the same object, under the name that it has here"


def test_there_and_back_again() -> None:
    """Each step on the other node than the one before; nobody waits in between."""

    @shoal.remote
    def step(before: Any, n: int) -> Any:
        return np.append(before, np.full(20_000, n))

    value = shoal.put(np.zeros(1))
    for n in range(8):
        value = step.options(**(THERE if n % 2 else HERE)).remote(value, n)
    assert get(value).sum() == 20_000 * sum(range(8))


def test_many_small_ones() -> None:
    there = same.options(**THERE)
    assert get([there.remote(n) for n in range(500)]) == list(range(500))
    sums = get([same.options(**HERE).remote(there.remote(n)) for n in range(100)])
    assert sums == list(range(100))


def test_waiting_for_what_runs_abroad(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"

    @shoal.remote(**THERE)
    def later() -> Any:
        while not go_on.exists():
            time.sleep(0.01)
        return np.ones(500_000)

    slow, quick = later.remote(), same.options(**THERE).remote(1)
    ready, rest = shoal.wait([slow, quick], num_returns=1, timeout=LONG_S)
    assert (ready, rest) == ([quick], [slow])
    with pytest.raises(errors.GetTimeoutError):
        shoal.get(slow, timeout=0.05)
    go_on.touch()
    assert shoal.wait([slow], timeout=LONG_S, fetch_local=False) == ([slow], [])
    assert get(slow).sum() == 500_000


# ---- tasks that make tasks
def _here() -> Callable[[], str]:
    """Says on which node it is called; a closure, so that it travels by value."""
    return lambda: str(shoal.get_runtime_context().get_node_id())


def test_nested_tasks(ids: dict[str, str]) -> None:
    here = _here()

    @shoal.remote
    def outer(n: int) -> tuple[str, list[str], int]:
        places = [*shoal.get([where.remote() for _ in range(n)])]
        home = shoal.get(where.options(**HERE).remote())
        return here(), [*places, home], shoal.get(same.options(**HERE).remote(n))

    place, inner, n = get(outer.options(**THERE).remote(4))
    assert (place, n) == (ids["node-2"], 4)
    assert inner[-1] == ids["node-1"]


def test_nested_deep(ids: dict[str, str]) -> None:
    """Down five levels, each on the other node; all but the last wait for the next."""

    here = _here()

    @shoal.remote
    def down(level: int) -> list[str]:
        if level == 0:
            return [here()]
        place = THERE if level % 2 else HERE
        return [here(), *shoal.get(down.options(**place).remote(level - 1))]

    path = get(down.options(**THERE).remote(5))
    assert path == [ids["node-2"], *[ids["node-2"], ids["node-1"]] * 2, ids["node-2"]]


def test_functions_that_name_others() -> None:
    @shoal.remote
    def double(n: int) -> int:
        return 2 * n

    factor = np.full(100_000, 3)

    @shoal.remote
    def total(n: int) -> int:
        return int(factor[0]) * shoal.get(double.remote(n)) + shoal.get(
            double.options(**HERE).remote(n)
        )

    assert get(total.options(**THERE).remote(5)) == 40
    given = get(same.options(**THERE).remote(double))
    assert get(given.options(**THERE).remote(4)) == 8, "a function as an argument and a result"


def test_mutual_recursion() -> None:
    places = [HERE, THERE]

    @shoal.remote
    def even(n: int) -> bool:
        return True if n == 0 else shoal.get(odd.options(**places[n % 2]).remote(n - 1))

    @shoal.remote
    def odd(n: int) -> bool:
        return False if n == 0 else shoal.get(even.options(**places[n % 2]).remote(n - 1))

    assert get(even.options(**THERE).remote(4)) is True
    assert get(odd.options(**THERE).remote(4)) is False


# ---- what fails
def test_exceptions() -> None:
    @shoal.remote(**THERE)
    def fail(value: Any) -> None:
        raise ValueError("no good", value)

    with pytest.raises(ValueError, match="no good") as caught:
        get(fail.remote(3))
    assert isinstance(caught.value, errors.TaskError)
    assert 'raise ValueError("no good"' in caught.value.remote_traceback
    for place in (HERE, THERE):
        with pytest.raises(ValueError, match="no good"):
            get(same.options(**place).remote(fail.remote(3)))


def test_an_exception_that_may_be_retried(tmp_path: Path) -> None:
    path = str(tmp_path / "tries")

    @shoal.remote(max_retries=3, retry_exceptions=[KeyError], **THERE)
    def flaky(kind: type[Exception], good: int) -> int:
        with open(path, "a") as file:
            file.write("x")
        size = os.path.getsize(path)
        if size < good:
            raise kind(size)
        return size

    assert get(flaky.remote(KeyError, 3)) == 3
    os.unlink(path)
    with pytest.raises(ValueError):
        get(flaky.remote(ValueError, 3))
    assert os.path.getsize(path) == 1, "that one is not retried"
    os.unlink(path)
    with pytest.raises(KeyError):
        get(flaky.remote(KeyError, 100))
    assert os.path.getsize(path) == 4, "the first, and three more"


@pytest.mark.parametrize("retries", [0, 2])
def test_a_worker_that_dies(tmp_path: Path, retries: int) -> None:
    path = tmp_path / "tries"

    @shoal.remote(max_retries=retries, **THERE)
    def die(alive_at: int) -> int:
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < alive_at:
            os._exit(3)
        return os.path.getsize(path)

    with pytest.raises(errors.WorkerCrashedError, match="exit code 3"):
        get(die.remote(100))
    assert path.stat().st_size == 1 + retries
    path.unlink()
    if retries:
        assert get(die.remote(2)) == 2


def test_cancel(tmp_path: Path) -> None:
    begun, ran = tmp_path / "begun", tmp_path / "ran"

    @shoal.remote(num_cpus=2, **THERE)
    def long() -> None:
        begun.touch()
        time.sleep(600)

    @shoal.remote(num_cpus=2, **THERE)
    def never() -> None:
        ran.touch()

    running, queued = long.remote(), never.remote()
    assert wait_until(begun.exists, LONG_S)
    shoal.cancel(queued)
    with pytest.raises(errors.TaskCancelledError):
        get(queued)
    shoal.cancel(running)
    with pytest.raises(errors.TaskCancelledError):
        get(running)
    assert not ran.exists()
    assert get(where.options(num_cpus=2, **THERE).remote()), "its CPUs are free again"


def test_cancel_by_force_and_below(tmp_path: Path) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"

    @shoal.remote(num_cpus=0, **HERE)
    def child() -> None:
        begun.touch()
        try:
            time.sleep(600)
        finally:
            ended.touch()

    @shoal.remote(**THERE)
    def parent() -> None:
        shoal.get(child.remote())

    ref = parent.remote()
    assert wait_until(begun.exists, LONG_S)
    shoal.cancel(ref, force=True, recursive=True)
    with pytest.raises(errors.TaskCancelledError):
        get(ref)
    assert wait_until(ended.exists, LONG_S), "what it had sent home ends too"


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_more_time() -> None:
    with pytest.raises(errors.DeadlineExceededError, match=r"within 0\.[3-9]") as caught:
        get(nap.options(timeout_s=0.3, **THERE).remote(600))
    assert 0.3 <= caught.value.timeout_s < LONG_S
    assert get(nap.options(timeout_s=600, **THERE).remote(0))


def test_the_end_of_a_job_ends_its_workers_abroad(cluster: Cluster, tmp_path: Path) -> None:
    pids = [tmp_path / "1", tmp_path / "2"]

    @shoal.remote(**THERE)
    def sit(path: Path) -> None:
        path.with_suffix(".new").write_text(str(os.getpid()))
        path.with_suffix(".new").rename(path)
        time.sleep(600)

    refs = [sit.remote(path) for path in pids]
    assert wait_until(lambda: all(path.exists() for path in pids), LONG_S)
    running = [int(path.read_text()) for path in pids]
    assert all(pid in cluster.nodes[1].processes() for pid in running)
    shoal.shutdown()
    assert wait_until(lambda: not any(_is_running(pid) for pid in running), LONG_S)
    del refs
    shoal.init(cluster.head.address, log_to_driver=False)


def test_environments_travel(tmp_path: Path) -> None:
    @shoal.remote(runtime_env={"env_vars": {"COLOUR": "blue"}}, **THERE)
    def colour() -> str | None:
        return os.environ.get("COLOUR")

    assert get(colour.remote()) == "blue"
