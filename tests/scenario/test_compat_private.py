"""The private names of Ray that much-used programs use: each one of the list in `private.py`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

import shoal
from shoal._base import clock
from shoal.compat.ray import for_tests, modules, private
from shoal.compat.ray.names import HINTS, MODULES, home_of


@shoal.remote
class Counter:
    """Counts."""

    def __init__(self) -> None:
        self.n = 0

    def add(self, n: int = 1) -> int:
        self.n += n
        return self.n


@shoal.remote
def double(x: int) -> int:
    return 2 * x


@shoal.remote
def mode() -> tuple[int | None, bool]:
    return private.global_worker.mode, private.global_worker.connected


@pytest.fixture
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        yield


def test_where_this_process_is() -> None:
    worker = private.global_worker
    assert worker.mode is None and not worker.connected and worker.node is None
    with pytest.raises(AttributeError, match="docs/from-ray"):
        _ = worker.core_worker
    with shoal.init(num_cpus=1) as context:
        assert worker.mode == private.SCRIPT_MODE and worker.connected
        assert shoal.get(mode.remote()) == (private.WORKER_MODE, True)
        node = worker.node
        assert node is not None
        assert node.address_info["session_dir"] == node.get_session_dir_path()
        assert os.path.isdir(node.get_session_dir_path())
        assert node.unique_id == context["node_id"]
        assert node.session_name == context["session"]
        assert worker.node_ip_address == node.node_ip_address == private.get_node_ip_address()
        assert worker.namespace == context["namespace"]


def test_object_exists(session: None) -> None:
    assert private.global_worker.core_worker.object_exists(shoal.put(1))


def test_what_is_not_in_the_list_says_so(session: None) -> None:
    for thing in (
        private.global_worker,
        private.global_worker.core_worker,
        private.global_worker.node,
    ):
        with pytest.raises(AttributeError, match=r"docs/from-ray\.md lists"):
            _ = thing.nonsense  # type: ignore[union-attr]


def test_resources_per_node(session: None) -> None:
    node = shoal.get_runtime_context().get_node_id()
    assert private.total_resources_per_node()[node]["CPU"] == 2
    assert private.available_resources_per_node()[node]["CPU"] == 2
    assert len(private.node_ids()) == 1


def test_actors(session: None) -> None:
    counter = Counter.remote()
    assert shoal.get(counter.add.remote()) == 1
    assert private.actors(counter._ray_actor_id)["State"] == "ALIVE"
    assert private.actors()[counter._ray_actor_id.hex()]["ActorClassName"] == "Counter"
    assert private.actors("ff") == {}


def test_wait_for_condition() -> None:
    answers = iter([False, False, True])
    private.wait_for_condition(lambda: next(answers), timeout=5, retry_interval_ms=1)
    assert next(answers, None) is None
    before = clock.now()
    with pytest.raises(RuntimeError, match="not met") as told:
        private.wait_for_condition(lambda: 1 / 0, timeout=0.01, retry_interval_ms=1)
    assert isinstance(told.value.__cause__, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        private.wait_for_condition(lambda: 1 / 0, raise_exceptions=True)
    with pytest.raises(RuntimeError, match="not met"):
        private.wait_for_condition(lambda n: n, timeout=0.01, retry_interval_ms=1, n=0)
    assert clock.now() - before < 5


def test_internal_kv(session: None) -> None:
    put, get = private._internal_kv_put, private._internal_kv_get
    assert private._internal_kv_initialized()
    assert not put("a", "one")
    assert put(b"a", b"two", overwrite=False)
    assert get(b"a") == b"one"
    assert get("a", namespace="other") is None
    assert not put("ab", "three", namespace="other")
    assert private._internal_kv_list("a", namespace=b"other") == [b"ab"]
    assert private._internal_kv_exists("ab", namespace="other")
    assert private._internal_kv_del("a", del_by_prefix=True, namespace="other") == 1
    assert not private._internal_kv_exists("ab", namespace="other")
    assert private._internal_kv_del("a") == 1
    assert private._internal_kv_del("a") == 0


def test_plain_functions_and_classes_behind_remote_ones() -> None:
    assert double._function(4) == 8
    plain = Counter.__ray_metadata__.modified_class
    assert plain().add(2) == 2
    assert Counter.__ray_actor_class__ is plain
    assert Counter.__ray_metadata__.class_name == "Counter"


def test_methods_that_every_actor_has(session: None) -> None:
    counter = Counter._remote(args=(), num_cpus=0)
    assert shoal.get(counter.__ray_ready__.remote()) is True
    assert shoal.get(counter.__ray_call__.remote(lambda self, n: self.add(n), 5)) == 5
    assert shoal.get(double._remote(args=(4,), num_cpus=1)) == 8
    assert counter._ray_actor_id == counter._actor_id


def test_where_values_are(session: None) -> None:
    refs = [shoal.put(bytes(300_000)), double.remote(2)]
    shoal.get(refs)
    told = private.get_object_locations(refs)
    me = shoal.get_runtime_context().get_node_id()
    assert [told[ref]["node_ids"] for ref in refs] == [[me], [me]]
    assert told[refs[0]]["object_size"] >= 300_000 and not told[refs[0]]["did_spill"]
    assert private.get_local_object_locations(refs[:1]) == {refs[0]: told[refs[0]]}
    with pytest.raises(ValueError, match="at least one"):
        private.get_object_locations([])


def test_a_value_that_is_still_to_come_is_nowhere(session: None) -> None:
    event = for_tests.SignalActor.remote()
    ref = event.wait.remote()
    row = {"node_ids": [], "object_size": 0, "did_spill": False}
    assert private.get_object_locations([ref]) == {ref: row}
    shoal.get(event.send.remote())
    shoal.get(ref)
    assert private.get_object_locations([ref])[ref]["node_ids"]


def test_event_and_semaphore(session: None) -> None:
    event = for_tests.SignalActor.remote()
    shoal.get(event.wait.remote(should_wait=False))
    waits = event.wait.remote()
    private.wait_for_condition(lambda: shoal.get(event.cur_num_waiters.remote()) == 1)
    shoal.get(event.send.remote(clear=True))
    shoal.get(waits)
    again = event.wait.remote()
    private.wait_for_condition(lambda: shoal.get(event.cur_num_waiters.remote()) == 1)
    shoal.get(event.send.remote())
    shoal.get(again)
    semaphore = for_tests.Semaphore.remote(value=1)
    shoal.get(semaphore.acquire.remote())
    assert shoal.get(semaphore.locked.remote())
    second = semaphore.acquire.remote()
    shoal.get(semaphore.release.remote())
    shoal.get(second)


def test_types(session: None) -> None:
    assert isinstance(shoal.put(1), modules._look_up("ray._raylet", "ObjectRef"))


def test_the_list_is_whole() -> None:
    """Each name of private modules stands in the essay of `private.py`."""
    essay = private.__doc__ or ""
    hidden = [module for module in MODULES if re.search(r"\._private|_raylet|experimental", module)]
    for module in hidden:
        for home, text in MODULES[module].items():
            for name in text.split():
                assert home_of(module, name) == home
                if home.endswith(".private") and not name.startswith("_internal_kv"):
                    assert name in essay, f"{module}.{name} is not in the list"
    assert all(module in HINTS for module in ("ray._private", "ray._raylet", "ray.experimental"))
