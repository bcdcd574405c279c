"""``shoal.lock`` keeps out everybody who uses the name, on whatever node; real daemons.

What becomes of a lock when the head begins anew stands in ``test_head_lost``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.testing import Cluster
from shoal.testing.polling import wait_until
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


@pytest.fixture
def driver(cluster: Cluster) -> Iterator[None]:
    with two_nodes.driven(cluster.head, cluster.nodes):
        yield


def get(refs: Any) -> Any:
    return shoal.get(refs, timeout=LONG_S)


@shoal.remote(num_cpus=0)
def count_up(path: str, times: int) -> None:
    for _ in range(times):
        with shoal.lock("count"):
            with open(path) as file:
                count = int(file.read())
            time.sleep(0.001)
            with open(path, "w") as file:
                file.write(str(count + 1))


@shoal.remote(num_cpus=0)
def take(timeout_s: float) -> bool:
    lock = shoal.lock("kept")
    is_held = lock.acquire(timeout=timeout_s)
    if is_held:
        lock.release()
    return is_held


@shoal.remote(num_cpus=0, max_retries=0)
def keep(has_it: str, go_on: str, dies: bool) -> None:
    with shoal.lock("kept"):
        open(has_it, "w").close()
        while not os.path.exists(go_on):
            time.sleep(0.01)
        if dies:
            os._exit(1)


def test_it_keeps_out_those_of_other_nodes(driver: None, tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    get([count_up.options(**where).remote(str(path), 20) for where in (HERE, THERE, HERE, THERE)])
    assert path.read_text() == "80"


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("where", [HERE, THERE])
def test_who_waits_gets_it_when_the_holder_lets_go_or_dies(
    driver: None, tmp_path: Path, where: Any, dies: bool
) -> None:
    has_it, go_on = tmp_path / "has it", tmp_path / "go on"
    holder = keep.options(**where).remote(str(has_it), str(go_on), dies)
    assert wait_until(has_it.exists, LONG_S)
    assert shoal.lock("kept").locked()
    for other in (HERE, THERE):
        assert get([take.options(**other).remote(each) for each in (0.0, 0.1)]) == [False, False]
    waiting = [take.options(**other).remote(LONG_S) for other in (HERE, THERE)]
    why = f"which {'a process of another node' if where is THERE else 'worker'}"
    assert wait_until(lambda: why in str(shoal.state.why(waiting[0])), LONG_S), why
    go_on.touch()
    assert get(waiting) == [True, True]
    shoal.wait([holder], timeout=LONG_S)
    assert not shoal.lock("kept").locked()


def test_a_lost_node_has_no_locks(tmp_path: Path) -> None:
    has_it, go_on = tmp_path / "has it", tmp_path / "go on"
    with Cluster() as made:
        head, lost = made.add_node(num_cpus=1), made.add_node(resources={"there": 1})
        shoal.init(head.address, log_to_driver=False)
        try:
            keep.options(**THERE).remote(str(has_it), str(go_on), False)
            assert wait_until(has_it.exists, LONG_S)
            waiting = take.remote(LONG_S)
            made.kill_daemon(lost)
            assert get(waiting)
        finally:
            shoal.shutdown()
            made.remove_node(lost, gracefully=False)
