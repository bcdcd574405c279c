"""Where am I, who am I: the runtime context, ids, refs as objects, the timeline, utilities."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors, ids, lowlevel, state
from shoal.util import (
    deregister_serializer,
    inspect_serializability,
    list_named_actors,
    register_serializer,
)
from tests.torture.processes import eventually


def facts() -> dict[str, Any]:
    """What code can ask about itself, wherever it runs."""
    here = shoal.get_runtime_context()
    return {
        "job": here.get_job_id(),
        "node": here.get_node_id(),
        "worker": here.get_worker_id(),
        "task": here.get_task_id(),
        "parent": here.get_parent_task_id(),
        "name": here.get_task_name(),
        "function": here.get_task_function_name(),
        "actor": here.get_actor_id(),
        "actor_name": here.get_actor_name(),
        "attempt": here.attempt,
        "resources": here.get_assigned_resources(),
        "accelerators": here.get_accelerator_ids(),
        "namespace": here.namespace,
        "pid": os.getpid(),
    }


@shoal.remote
def look() -> dict[str, Any]:
    return facts()


@shoal.remote(num_cpus=0)
class Looker:
    def look(self) -> dict[str, Any]:
        return facts()

    def current(self) -> Any:
        return shoal.get_runtime_context().current_actor


def test_a_driver() -> None:
    shoal.init(num_cpus=1, namespace="here")
    seen = facts()
    assert seen["task"] is None and seen["actor"] is None and seen["actor_name"] is None
    assert seen["attempt"] == 0 and seen["resources"] == {} and seen["namespace"] == "here"
    assert seen["node"] == shoal.nodes()[0]["NodeID"]
    here = shoal.get_runtime_context()
    assert here.is_driver and here.task_id.is_nil() and here.actor_id.is_nil()
    assert here.job_id == ids.JobID.from_hex(seen["job"]) == ids.JobID.from_int(1)
    assert here.node_id.hex() == seen["node"]
    assert here.get_runtime_env_string() == "{}" and here.get_placement_group_id() is None
    assert here.get_node_labels() == shoal.nodes()[0]["Labels"]
    assert here.get()["job_id"] == seen["job"] and "task_id" not in here.get()
    assert here.current_placement_group_id.is_nil() and here.get_resource_ids() == {"GPU": []}
    assert not here.should_capture_child_tasks_in_placement_group
    assert here.get_session_name() == f"session-{here.session}"
    assert os.path.isdir(os.path.join(here.get_temp_dir(), here.get_session_name()))
    with pytest.raises(errors.UsageError):
        print(here.current_actor)


def test_a_task() -> None:
    shoal.init(num_cpus=2, resources={"disk": 3})
    ref = look.options(num_cpus=0.5, resources={"disk": 1}).remote()
    seen = shoal.get(ref)
    assert seen["task"] == ref.task_id().hex() == ref.hex()[:48]
    assert seen["function"] == "look" and seen["name"] == "look"
    assert seen["attempt"] == 1 and seen["parent"] is None and seen["actor"] is None
    assert seen["resources"] == {"CPU": 0.5, "disk": 1.0}
    assert seen["accelerators"] == {"GPU": []}
    assert seen["job"] == shoal.get_runtime_context().get_job_id()
    assert seen["worker"] == ids.WorkerID.from_hex(seen["worker"]).hex()
    assert int(seen["worker"][-8:], 16) == seen["pid"]


@pytest.mark.parametrize(
    "arguments",
    [(), (1,), ([1, 2],), (np.arange(10),), ("x" * 200_000,)],
    ids=["none", "plain", "pickled", "framed", "stored"],
)
def test_calls_may_have_names_of_their_own(arguments: tuple[Any, ...]) -> None:
    @shoal.remote
    def length(*values: Any) -> tuple[str | None, str | None, int]:
        here = shoal.get_runtime_context()
        return here.get_task_name(), here.get_task_function_name(), len(values)

    function = "test_calls_may_have_names_of_their_own.<locals>.length"
    called = length.options(name="Länge v1.2")
    refs = [called.remote(*arguments), length.remote(*arguments)]
    refs.append(called.remote(shoal.put(1), *arguments))
    n = len(arguments)
    assert shoal.get(refs) == [
        ("Länge v1.2", function, n),
        (function, function, n),
        ("Länge v1.2", function, n + 1),
    ]


def test_the_name_of_a_call_is_in_its_error() -> None:
    @shoal.remote
    class Divider:
        def divide(self, a: int, *, by: int) -> float:
            return a / by

    divider = Divider.remote()
    with pytest.raises(ZeroDivisionError) as found:
        shoal.get(divider.divide.options(name="half").remote(1, by=0))
    assert found.value.task == "half"  # type: ignore[attr-defined]


def test_an_actor() -> None:
    shoal.init(num_cpus=2)
    looker: Any = Looker.options(name="looker", num_cpus=1).remote()  # type: ignore[attr-defined]
    ref = looker.look.remote()
    seen = shoal.get(ref)
    assert seen["task"] == ref.task_id().hex()
    assert seen["function"] == "Looker.look" and seen["actor_name"] == "looker"
    assert seen["resources"] == {"CPU": 1.0}
    assert seen["actor"] == looker._actor_id.hex() == state.actors()[0].actor_id
    assert ids.ActorID.from_hex(seen["actor"]).job_id().hex() == seen["job"]
    assert shoal.get(looker.current.remote()) == looker


def test_nested_and_helped_tasks_know_themselves() -> None:
    @shoal.remote
    def outer() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]:
        before = facts()
        ref = look.remote()
        inner = shoal.get(ref)  # run here, by helping: there is one CPU
        return before, inner, facts(), ref.task_id().hex()

    shoal.init(num_cpus=1)
    before, inner, after, inner_id = shoal.get(outer.remote())
    assert before == after and before["function"].endswith("outer")
    assert inner["task"] == inner_id != before["task"]
    assert inner["parent"] == before["task"] and inner["function"] == "look"


def test_threads_and_coroutines_of_a_task() -> None:
    @shoal.remote
    def with_thread() -> tuple[Any, Any]:
        seen: list[Any] = []
        here = shoal.get_runtime_context()
        thread = threading.Thread(target=lambda: seen.append(here.get_task_id()))
        thread.start()
        thread.join()
        return here.get_task_id(), seen[0]

    @shoal.remote
    async def with_coroutines() -> tuple[Any, Any]:
        async def ask() -> Any:
            await asyncio.sleep(0)
            return facts()["task"]

        return facts()["task"], list(await asyncio.gather(ask(), ask()))

    mine, of_thread = shoal.get(with_thread.remote())
    assert mine == of_thread
    mine, of_coroutines = shoal.get(with_coroutines.remote())
    assert of_coroutines == [mine, mine]


def test_the_task_of_a_value() -> None:
    @shoal.remote(num_returns=3)
    def three() -> Any:
        here = shoal.get_runtime_context()
        return here.get_task_id(), shoal.put("x"), [shoal.put(b"x" * 10_000)]

    refs: Any = three.remote()
    task_id = shoal.get(refs[0])
    small, large = shoal.get(refs[1]), shoal.get(refs[2])[0]
    assert {ref.task_id().hex() for ref in [*refs, small, large]} == {task_id}
    assert len({ref.hex() for ref in [*refs, small, large]}) == 5
    assert shoal.put(1).task_id() not in [ref.task_id() for ref in refs]
    here = shoal.get_runtime_context().job_id
    assert {ref.job_id() for ref in [*refs, small, large, shoal.put(1)]} == {here}
    lowlevel.memory().job = 7  # as a value has it that another job has made
    assert shoal.put(1).job_id() == ids.JobID.from_int(7) and refs[0].job_id() == here


def test_ids_of_tables_are_those_of_refs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @shoal.remote
    def wait_for(path: str) -> None:
        while not os.path.exists(path):
            threading.Event().wait(0.005)

    ref = wait_for.remote(str(gate))
    rows = [row for row in state.tasks() if row.task_id == ref.task_id().hex()]
    assert len(rows) == 1 and rows[0].name.endswith("wait_for")
    assert state.objects(object_id=ref.hex())[0].state == "PENDING"
    gate.touch()
    shoal.get(ref)
    names = {event.name.rpartition(".")[2] for event in state.events(id=ref.task_id().hex())}
    assert names == {"", "wait_for"}


# ---- refs


def test_refs_are_values() -> None:
    ref = shoal.put(1)
    again = shoal.get(shoal.put([ref]))[0]
    assert again == ref and hash(again) == hash(ref) and again is not ref
    assert {ref: "found"}[again] == "found" and ref != shoal.put(1) and ref != 1
    assert ref.binary().hex() == ref.hex() and len(ref.binary()) == ids.ObjectID.SIZE
    assert ids.ObjectID.from_binary(ref.binary()).hex() == ref.hex()
    assert ref.hex()[16:24] == shoal.get_runtime_context().get_node_id()[:8]


def test_futures_of_a_ref() -> None:
    ref = look.remote()
    assert ref.future().result(timeout=30)["function"] == "look"

    async def wait() -> Any:
        future = look.remote().as_future()
        assert isinstance(future, asyncio.Future)
        first = await asyncio.wait_for(future, 30)
        second = await look.remote()
        return first["function"], second["function"]

    assert asyncio.run(wait()) == ("look", "look")


def test_a_ref_that_is_pickled_outside_is_kept_and_says_so() -> None:
    ref = shoal.put({"a": 1})
    with pytest.warns(UserWarning, match="pickled outside"):
        data = pickle.dumps(ref)
    del ref
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = pickle.loads(data)
    assert shoal.get(again) == {"a": 1}


def test_call_sites_are_recorded_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look.remote().call_site() == ""
    shoal.shutdown()
    monkeypatch.setenv("SHOAL_RECORD_CALL_SITES", "1")
    site = look.remote().call_site()
    assert f"{__file__}:" in site and "test_call_sites_are_recorded" in site
    shoal.shutdown()


# ---- the timeline


def test_the_timeline_is_a_trace(tmp_path: Path) -> None:
    @shoal.remote
    def inner(n: int) -> int:
        return n

    @shoal.remote
    def outer() -> int:
        return sum(shoal.get([inner.remote(1), inner.remote(2)]))

    shoal.init(num_cpus=1)
    looker: Any = Looker.remote()  # type: ignore[attr-defined]
    assert shoal.get([outer.remote(), looker.look.remote()])[0] == 3
    path = tmp_path / "trace.json"
    assert shoal.timeline(str(path)) is None
    trace = json.loads(path.read_text())
    slices = [event for event in trace if event["ph"] == "X"]
    names = [event["name"].rpartition(".")[2] for event in slices]
    assert sorted(names) == ["inner", "inner", "look", "outer"]
    by_name = {name: event for name, event in zip(names, slices)}
    assert by_name["look"]["name"] == "Looker.look" and by_name["look"]["cat"] == "call"
    rows = {
        event["tid"]: event["args"]["name"]
        for event in trace
        if event["ph"] == "M" and event["name"] == "thread_name"
    }
    assert {event["tid"] for event in slices} == set(rows), "each row has a name"
    assert {event["pid"] for event in trace} == {1}, "0 is the idle process of kernel traces"
    assert rows[by_name["look"]["tid"]].startswith("Looker (pid ")
    assert rows[by_name["outer"]["tid"]].startswith("worker (pid ")
    assert all(event["dur"] >= 0 and event["args"]["waited_us"] >= 0 for event in slices)
    running = [event for event in slices if event["args"].get("running")]
    assert not running


def trace_problems(trace: list[dict[str, Any]]) -> list[str]:
    """What is wrong with ``trace`` by the published format of trace events."""
    found = []
    rows: dict[tuple[int, int], list[tuple[float, float]]] = {}
    named = set()
    for event in trace:
        whose = event.get("pid"), event.get("tid", 0)
        if not isinstance(event.get("name"), str) or not all(type(i) is int for i in whose):
            found.append(f"no name, pid or tid: {event}")
        elif event["ph"] == "M":
            kinds = ("process_name", "process_sort_index", "thread_name", "thread_sort_index")
            if event["name"] not in kinds or not isinstance(event.get("args"), dict):
                found.append(f"no metadata event: {event}")
            named.add((event["name"], *whose))
        elif event["ph"] != "X" or not isinstance(event.get("cat"), str):
            found.append(f"neither metadata nor a complete event: {event}")
        elif any(type(event.get(k)) not in (int, float) or event[k] < 0 for k in ("ts", "dur")):
            found.append(f"times are no microseconds: {event}")
        else:
            rows.setdefault(whose, []).append((event["ts"], -event["dur"]))
    for row, spans in rows.items():
        if ("thread_name", *row) not in named or ("process_name", row[0], 0) not in named:
            found.append(f"row {row} has no name")
        open_ends: list[float] = []
        for begin, minus in sorted(spans):
            while open_ends and open_ends[-1] <= begin + 0.001:
                open_ends.pop()
            if open_ends and begin - minus > open_ends[-1] + 0.001:
                found.append(f"row {row}: what begins at {begin} ends after what is around it")
            open_ends.append(begin - minus)
    return found


def test_a_trace_of_everything_at_once_is_well_formed(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    @shoal.remote
    def leaf() -> int:
        return 1

    @shoal.remote
    def tree() -> int:
        return sum(shoal.get([leaf.remote() for _ in range(3)]))

    @shoal.remote
    def stream() -> Iterator[int]:
        yield from shoal.get([leaf.remote(), leaf.remote()])

    @shoal.remote(max_retries=1)
    def crashes() -> None:
        if shoal.get_runtime_context().attempt == 1:
            os._exit(1)

    @shoal.remote
    def stays() -> None:
        begun.touch()
        time.sleep(600)

    @shoal.remote
    class Awaits:
        async def both(self) -> int:
            return sum(await asyncio.gather(leaf.remote(), leaf.remote()))

    @shoal.remote(max_concurrency=4)
    class Threads:
        def gets(self) -> int:
            return shoal.get(leaf.remote())

    shoal.init(num_cpus=2)
    awaits, threads = Awaits.remote(), Threads.remote()
    calls = [call for _ in range(8) for call in (awaits.both.remote(), threads.gets.remote())]
    shoal.get([*calls, tree.remote(), tree.remote(), crashes.remote()])
    assert shoal.get(list(stream.remote())) == [1, 1]
    stopped = stays.remote()
    eventually(begun.exists, 30, "a task runs")
    shoal.cancel(stopped)
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(stopped, timeout=30)
    begun.unlink()
    running = stays.remote()
    eventually(begun.exists, 30, "another task runs")
    trace = shoal.timeline()
    assert trace is not None
    assert trace_problems(json.loads(json.dumps(trace))) == []
    slices = [
        (event["name"].rpartition(".")[2], bool(event["args"].get("running")))
        for event in trace
        if event["ph"] == "X"
    ]
    names = Counter(name for name, _ in slices)
    assert names["crashes"] == names["stays"] == 2 and names["gets"] == names["both"] == 8, names
    assert [name for name, is_running in slices if is_running] == ["stays"]
    shoal.cancel(running)
    nobody = {"ph": "X", "cat": "task", "name": "f", "pid": 1, "tid": -1, "ts": 1, "dur": 1}
    assert len(trace_problems([*trace, nobody])) == 1


# ---- utilities


def test_nodes_have_the_rows_that_people_read() -> None:
    shoal.init(num_cpus=2)
    node = shoal.nodes()[0]
    for name in ("NodeID", "Alive", "NodeManagerAddress", "NodeManagerHostname", "Resources"):
        assert node[name], name
    named = [name for name in shoal.cluster_resources() if name.startswith("node:")]
    assert set(named) == {"node:__internal_head__", f"node:{node['NodeManagerAddress']}"}
    here = shoal.remote(os.getpid).options(resources=dict.fromkeys(named, 0.01))
    assert shoal.get(here.remote(), timeout=30) > 0
    assert node["Resources"]["CPU"] == 2 and isinstance(node["Labels"], dict)


def test_named_actors() -> None:
    shoal.init(num_cpus=1, namespace="here")
    kept = [
        Looker.options(name="one").remote(),  # type: ignore[attr-defined]
        Looker.options(name="two", namespace="there").remote(),  # type: ignore[attr-defined]
        Looker.remote(),  # type: ignore[attr-defined]
    ]
    assert list_named_actors() == ["one"]
    rows: Any = list_named_actors(all_namespaces=True)
    expected = [("here", "one"), ("there", "two")]
    assert sorted((row["namespace"], row["name"]) for row in rows) == expected
    shoal.kill(kept[0])
    assert list_named_actors() == []


class Point:
    def __init__(self, x: int) -> None:
        self.x = x
        self.lock = threading.Lock()


def test_serializers_of_ones_own() -> None:
    @shoal.remote
    def x_of(point: Any) -> Any:
        return type(point).__name__, point.x

    with pytest.raises(errors.SerializationError, match="lock"):
        shoal.put(Point(1))
    register_serializer(Point, serializer=lambda p: p.x, deserializer=lambda x: Point(x + 100))
    try:
        assert shoal.get(shoal.put([Point(1)]))[0].x == 101
        assert shoal.get(x_of.remote(Point(2))) == ("Point", 102)
    finally:
        deregister_serializer(Point)
        deregister_serializer(Point)
    with pytest.raises(errors.SerializationError):
        shoal.put(Point(1))
    with pytest.raises(errors.OptionError, match="class"):
        register_serializer(1, serializer=repr, deserializer=repr)  # type: ignore[arg-type]
    with pytest.raises(errors.OptionError, match="deserializer"):
        register_serializer(Point, serializer=repr, deserializer=3)  # type: ignore[arg-type]


def test_what_keeps_a_value_from_travelling() -> None:
    out = io.StringIO()
    assert inspect_serializability([1, "a"], print_file=out) == (True, set())
    lock = threading.Lock()

    def uses() -> Any:
        return lock

    can, obstacles = inspect_serializability(uses, name="uses", print_file=out)
    assert not can and [o.obj for o in obstacles] == [lock]
    assert "uses: closure variable lock is a lock" in out.getvalue()
    can, obstacles = inspect_serializability({"a": [lock, {}]}, print_file=out)
    assert not can and next(iter(obstacles)).name.endswith("['a'][0]")


def test_the_environment_as_text() -> None:
    @shoal.remote(runtime_env={"env_vars": {"X": "1"}})
    def text() -> str:
        return shoal.get_runtime_context().get_runtime_env_string()

    assert json.loads(shoal.get(text.remote())) == {"env_vars": {"X": "1"}}


# ---- where calls run side by side


@shoal.remote(num_cpus=0, max_concurrency=4)
class Threads:
    def __init__(self) -> None:
        self.barrier = threading.Barrier(3)

    def ask(self) -> tuple[Any, ...]:
        here = shoal.get_runtime_context()
        before = here.get_task_id()
        self.barrier.wait(timeout=30)  # three of them are inside now
        child = look.remote()
        parent = shoal.get(child)["parent"]
        return before, here.get_task_id(), parent, here.get_task_function_name()


@shoal.remote(num_cpus=0)
class Loop:
    async def ask(self) -> tuple[Any, ...]:
        here = shoal.get_runtime_context()
        before = here.get_task_id()
        child = look.remote()
        await asyncio.sleep(0.01)
        parent = (await child)["parent"]
        return before, here.get_task_id(), parent, here.get_task_function_name()


@pytest.mark.parametrize("kind", [Threads, Loop], ids=["threads", "loop"])
def test_calls_side_by_side_know_themselves(kind: Any) -> None:
    shoal.init(num_cpus=1)
    actor = kind.remote()
    refs = [actor.ask.remote() for _ in range(3)]
    for ref, (before, after, parent, name) in zip(refs, shoal.get(refs)):
        assert before == after == parent == ref.task_id().hex()
        assert name == ("Threads.ask" if kind is Threads else "Loop.ask")
