"""Tasks, values and refs across nodes, in real node memories with real workers; the links
are queues in memory (`bridge_nodes`). Each test ends by asserting that nothing is left anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shoal import _native
from shoal._base import records
from shoal._proto import bridge as rows
from shoal._proto import holds
from tests.cluster.bridge_nodes import BEGUN, CALLS, GO, Failed, Nodes

LARGE = 4000  # times 250 bytes


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes("a", "b", "c")
    CALLS.clear()
    GO.clear()
    BEGUN.clear()
    yield made
    made.finish()


def rows_of(nodes: Nodes, kind: type[Any]) -> list[Any]:
    return [body for _, _, body in nodes.rows if isinstance(body, kind)]


# ---- results
def test_a_task_runs_on_another_node(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    ref = nodes["a"].submit("add", 1, 2, 39)
    nodes["a"].lend(ref, "b")
    assert nodes["a"].memory.task_state(ref.key)[:3] == (3, 1, 0), "RUNNING by the daemon"
    assert nodes.get("a", ref) == 42
    del ref


def as_bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(memoryview(value))


@pytest.mark.parametrize("n", [3, 30, 100, 20_000])
@pytest.mark.parametrize("function", ["text", "large", "array"])
def test_any_value_comes_as_it_is(nodes: Nodes, function: str, n: int) -> None:
    nodes["b"].add_worker()
    away, here = nodes["a"].submit(function, n), nodes["a"].submit(function, n)
    nodes["a"].lend(away, "b")
    value = nodes.get("a", away)
    nodes["a"].add_worker()
    assert as_bytes(value) == as_bytes(nodes.get("a", here)) and len(as_bytes(value)) >= n
    del away, here, value


@pytest.mark.parametrize("value", [None, True, False, -7, 2**70, 1.5, "s", b"b", [1, "2"]])
def test_small_values_come_as_they_are(nodes: Nodes, value: Any) -> None:
    nodes["b"].add_worker()
    ref = nodes["a"].submit("same", value)
    nodes["a"].lend(ref, "b")
    got = nodes.get("a", ref)
    assert got == value and type(got) is type(value)
    del ref


def test_several_results_and_none(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    refs = nodes["a"].submit("three", 7, n=3)
    nodes["a"].lend(refs[0], "b")
    assert [nodes.get("a", ref) for ref in refs] == [7, [7], "x" * 50]
    assert nodes["a"].submit("wait", n=0) is None
    (key,) = nodes["a"].memory.queued(nodes["a"].queue[0], 10)
    nodes["a"].lend(key, "b")
    nodes.until(BEGUN.is_set)
    GO.set()
    nodes.until(lambda: not nodes["a"].bridging.machine.lendings)
    del refs


def test_an_exception_is_the_result(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    ref = nodes["a"].submit("raise", "no such number")
    nodes["a"].lend(ref, "b")
    with pytest.raises(Failed, match="no such number"):
        nodes.get("a", ref)
    del ref


def test_large_results_stay_until_somebody_looks(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    ref = nodes["a"].submit("large", LARGE)
    nodes["a"].lend(ref, "b")
    nodes.until(ref.is_sealed)
    nodes.quiet()
    assert nodes["a"].memory.is_elsewhere(ref.key) and nodes.pulled == []
    assert nodes["b"].memory.usage()[0] > 250 * LARGE
    for _ in range(3):
        assert nodes.get("a", ref) == bytes(range(250)) * LARGE
    assert len(nodes.pulled) == 1 and not nodes["a"].memory.is_elsewhere(ref.key)
    nodes.quiet()
    assert nodes["b"].memory.usage()[0] < 250 * LARGE, "its copy is not needed any more"
    del ref


def test_many_who_look_at_once_pull_once(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    ref = nodes["a"].submit("large", LARGE)
    nodes["a"].lend(ref, "b")
    nodes.until(ref.is_sealed)
    got: list[int] = []
    memory = nodes["a"].driver.memory
    threads = [
        threading.Thread(target=lambda: got.append(len(memory.get(ref, 20)))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    nodes.until(lambda: len(got) == 5)
    for thread in threads:
        thread.join()
    assert len(nodes.pulled) == 1


def test_a_large_result_that_nobody_looks_at_is_let_go(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    ref = nodes["a"].submit("large", LARGE)
    nodes["a"].lend(ref, "b")
    nodes.until(ref.is_sealed)
    del ref
    nodes.until(lambda: nodes["b"].memory.usage()[0] < 250 * LARGE)
    assert nodes.pulled == []


# ---- arguments
@pytest.mark.parametrize("size", [10, 300, 20_000, 250 * LARGE])
def test_arguments_come_along(nodes: Nodes, size: int) -> None:
    nodes["b"].add_worker()
    value = nodes["a"].driver.put(b"v" * size)
    refs = [nodes["a"].submit("size", args=[value]) for _ in range(4)]
    for ref in refs:
        nodes["a"].lend(ref, "b")
    assert [nodes.get("a", ref) for ref in refs] == [size] * 4
    assert len(nodes.pulled) == (size > 16384), "once per node, however many need it"
    del refs, value


def test_large_arguments_come_before_a_worker_has_the_task(nodes: Nodes) -> None:
    worker = nodes["b"].add_worker()
    value = nodes["a"].driver.put(b"v" * 250_000)
    ref = nodes["a"].submit("size", args=[value])
    nodes["a"].lend(ref, "b")
    nodes.until(lambda: rows_of(nodes, holds.WantCopy))
    assert worker.ran == [] and nodes["b"].memory.queue_state(nodes["b"].queue[0])[0] == 0
    assert nodes.get("a", ref) == 250_000
    del ref, value


def test_a_result_is_the_argument_of_another(nodes: Nodes) -> None:
    """Of three nodes: made on one, needed on the other, both for the third."""
    nodes["b"].add_worker()
    nodes["c"].add_worker()
    first = nodes["a"].submit("large", 400)
    second = nodes["a"].submit("size", args=[first])
    nodes["a"].lend(first, "b")
    nodes.until(first.is_sealed)
    nodes["a"].lend(second, "c")
    assert nodes.get("a", second) == 100_000
    assert [pull[:2] for pull in nodes.pulled] == [("b", "a"), ("a", "c")]
    del first, second


def test_a_ref_inside_is_told_when_it_has_a_value(nodes: Nodes) -> None:
    nodes["a"].add_worker()
    nodes["b"].add_worker()
    pending = nodes["a"].submit("wait")
    nodes.until(BEGUN.is_set)
    ref = nodes["a"].submit("open", [pending])
    nodes["a"].lend(ref, "b")
    nodes.until(lambda: nodes["b"].workers[0].ran)
    nodes.quiet()
    assert not ref.is_sealed()
    GO.set()
    assert nodes.get("a", ref) == "waited"
    del pending, ref


def test_refs_come_back_inside_results(nodes: Nodes) -> None:
    """A worker there puts a value, and returns its ref; one of ours goes there and back."""
    nodes["b"].add_worker()
    box = nodes["a"].submit("boxed", "made abroad")
    nodes["a"].lend(box, "b")
    inner = nodes.get("a", box)[0]
    assert nodes.get("a", inner) == "made abroad"
    ours = nodes["a"].driver.put("ours")
    back = nodes["a"].submit("same", [ours])
    nodes["a"].lend(back, "b")
    (same,) = nodes.get("a", back)
    assert same == ours
    large = nodes["a"].submit("boxed", b"w" * 100_000)
    nodes["a"].lend(large, "b")
    assert len(nodes.get("a", nodes.get("a", large)[0])) == 100_000
    del box, inner, ours, back, same, large


def test_refs_inside_values_that_are_pulled(nodes: Nodes) -> None:
    """The value of a's is read on b; what is in it is c's."""
    for name in "bc":
        nodes[name].add_worker()
    box = nodes["a"].submit("boxed", "of c")
    nodes["a"].lend(box, "c")
    (inner,) = nodes.get("a", box)
    value = nodes["a"].driver.put([inner, b"p" * 50_000])
    del box, inner
    ref = nodes["a"].submit("open", args=[value])
    nodes["a"].lend(ref, "b")
    assert nodes.get("a", ref) == "of c"
    del ref, value


def test_an_error_of_an_argument_goes_along(nodes: Nodes) -> None:
    nodes["a"].add_worker()
    nodes["b"].add_worker()
    bad = nodes["a"].submit("raise", "bad argument")
    nodes.until(bad.is_sealed)
    ref = nodes["a"].submit("open", [bad])
    nodes["a"].lend(ref, "b")
    with pytest.raises(Failed, match="bad argument"):
        nodes.get("a", ref)
    del bad, ref


# ---- back
def test_what_was_not_begun_comes_back(nodes: Nodes) -> None:
    ref = nodes["a"].submit("add", 20, 22)
    nodes["a"].lend(ref, "b")
    nodes.until(lambda: nodes["b"].memory.queued(nodes["b"].queue[0], 9))
    nodes["a"].bridging.recall(ref.key)
    nodes.until(lambda: rows_of(nodes, rows.TaskReturned))
    assert nodes["a"].memory.queued(nodes["a"].queue[0], 9) == [ref.key]
    assert nodes["a"].memory.task_state(ref.key)[:2] == (2, 2), "queued, another attempt"
    nodes["a"].add_worker()
    nodes["b"].add_worker()
    assert nodes.get("a", ref) == 42 and nodes["b"].workers[0].ran == []
    del ref


def test_what_runs_does_not_come_back(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    ref = nodes["a"].submit("wait")
    nodes["a"].lend(ref, "b")
    nodes.until(BEGUN.is_set)
    nodes["a"].bridging.recall(ref.key)
    nodes.until(lambda: rows_of(nodes, rows.TaskRuns))
    GO.set()
    assert nodes.get("a", ref) == "waited"
    del ref


def test_who_cannot_run_it_gives_it_back(nodes: Nodes) -> None:
    nodes["b"].has_room = False
    ref = nodes["a"].submit("add", 1)
    nodes["a"].lend(ref, "b")
    nodes.until(lambda: rows_of(nodes, rows.TaskReturned))
    assert rows_of(nodes, rows.TaskReturned)[0].why == "there is no cpu"
    nodes["a"].add_worker()
    assert nodes.get("a", ref) == 1
    del ref


def test_what_is_cancelled_is_cancelled_there(nodes: Nodes) -> None:
    waiting, running = (nodes["a"].submit("wait") for _ in range(2))
    nodes["a"].lend(running, "b")
    nodes["b"].add_worker()
    nodes.until(BEGUN.is_set)
    nodes["a"].lend(waiting, "b")
    nodes.until(lambda: len(nodes["b"].memory.list_tasks(10)) == 2)
    for ref in (waiting, running):
        record = records.pack("TaskCancelledError", stage="queued")
        asked = nodes["a"].memory.cancel(ref.key, False, record, record)
        assert asked[0][2] == 0, "the daemon has it"
        how = {"recursive": False, "forced": False, "late": False}
        assert nodes["a"].bridging.cancel(ref.key, **how)
    nodes.until(lambda: len(nodes["b"].cancelled) == 2)
    GO.set()
    for ref in (waiting, running):
        with pytest.raises(Failed, match="TaskCancelledError"):
            nodes.get("a", ref)
    del waiting, running, ref


# ---- failures
def test_a_process_that_died_there_is_a_retry_here(nodes: Nodes) -> None:
    ref = nodes["a"].submit("add", 5, retries=1)
    for attempt in range(2):
        nodes["a"].lend(ref, "b")
        nodes.until(lambda: nodes["b"].memory.queued(nodes["b"].queue[0], 9))
        (visit,) = nodes["b"].memory.queued(nodes["b"].queue[0], 9)
        nodes["b"].memory.fail(visit, records.pack("WorkerCrashedError", attempt=attempt))
        nodes.until(lambda: not nodes["a"].bridging.machine.is_lent(ref.key))
    with pytest.raises(Failed, match="WorkerCrashedError"):
        nodes.get("a", ref)


def test_the_tasks_of_a_lost_node_run_again_or_fail(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    again = nodes["a"].submit("add", 42, retries=1)
    once = nodes["a"].submit("add", 1)
    started = nodes["a"].submit("wait", retries=-1)
    nodes["a"].lend(started, "b")
    nodes.until(BEGUN.is_set)
    nodes["a"].lend(again, "b")
    nodes["a"].lend(once, "b")
    nodes.quiet()
    nodes.kill("b")
    GO.set()
    nodes["a"].add_worker()
    with pytest.raises(Failed, match="node b, which ran it, is lost"):
        nodes.get("a", once)
    assert nodes.get("a", again) == 42 and nodes.get("a", started) == "waited"
    del again, once, started


def test_what_is_to_go_to_a_lost_node_stays(nodes: Nodes) -> None:
    """Who hears that the tasks of a node have ended with it has room there for the next ones."""
    kept, other = nodes["a"].submit("add", 42), nodes["a"].submit("add", 1)
    assert nodes["a"].bridging.keep(kept.key) == {}
    nodes.kill("b")
    nodes["a"].bridging.lend_kept(kept.key, "b", is_final=False)
    assert not nodes["a"].bridging.machine.is_lent(kept.key)
    nodes["a"].add_worker()
    assert nodes.get("a", kept) == 42 and nodes.get("a", other) == 1
    del kept, other


def test_values_on_a_lost_node_are_lost(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    large, box = nodes["a"].submit("large", LARGE), nodes["a"].submit("boxed", "of b")
    small = nodes["a"].submit("text", 5)
    for ref in (large, box, small):
        nodes["a"].lend(ref, "b")
    nodes.until(lambda: large.is_sealed() and box.is_sealed() and small.is_sealed())
    (inner,) = nodes.get("a", box)
    nodes.kill("b")
    with pytest.raises(Failed, match="ObjectLostError"):
        nodes.get("a", large)
    assert nodes.get("a", small) == "é" * 5
    # What was small was told before its node died.
    assert nodes.get("a", inner) == "of b"


def test_a_puller_is_told_that_its_source_is_lost(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    ref = nodes["a"].submit("large", LARGE)
    nodes["a"].lend(ref, "b")
    nodes.until(ref.is_sealed)
    nodes.cut.add("b")
    out: list[str] = []

    def look() -> None:
        try:
            nodes["a"].driver.memory.get(ref, 20)
        except Failed as error:
            out.append(str(error))

    thread = threading.Thread(target=look)
    thread.start()
    nodes.until(lambda: nodes.pulls)
    nodes.kill("b")
    nodes.until(lambda: out)
    thread.join()
    assert "which had its bytes, is lost" in out[0]
    nodes.cut.clear()


def test_what_runs_for_a_lost_home_is_nobodys(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    value = nodes["a"].driver.put(b"v" * 100_000)
    ref = nodes["a"].submit("wait", args=[value])
    kept = nodes["a"].submit("large", LARGE)
    for one in (kept, ref):
        nodes["a"].lend(one, "b")
    nodes.until(BEGUN.is_set)
    nodes.quiet()
    nodes.kill("a")
    assert nodes["b"].cancelled, "it is ended"
    GO.set()
    nodes.quiet()
    del ref, kept, one, value


def test_nothing_is_lost_or_doubled_by_a_cut(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    refs = []
    for number in range(40):
        if number == 15:
            nodes.cut.add("b")
        refs.append(nodes["a"].submit("add", number))
        nodes["a"].lend(refs[-1], "b")
        nodes.turn()
    nodes.quiet()
    assert not refs[-1].is_sealed()
    nodes.cut.clear()
    assert [nodes.get("a", ref) for ref in refs] == list(range(40))
    assert len(nodes["b"].workers[0].ran) == 40
    del refs


def test_memory_that_stays_writable_stays(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    block = nodes["a"].driver.memory.shared_block(100)
    ref = nodes["a"].submit("open", [block.ref])
    nodes["a"].lend(ref, "b")
    with pytest.raises(Failed, match="writable"):
        nodes.get("a", ref)
    del block, ref


# ---- what is sent is looked at
@pytest.mark.parametrize("damage", ["short", "table", "place", "format"])
def test_what_is_no_value_is_refused(nodes: Nodes, damage: str) -> None:
    ref = nodes["a"].submit("add", 1)
    nodes["a"].lend(ref, "b")
    nodes.quiet()
    image = bytearray(b"\0" * 64)
    image[8:24] = (24).to_bytes(8, "little") + (8).to_bytes(8, "little")
    format = _native.FORMAT_PICKLE
    if damage == "short":
        del image[20:]
    elif damage == "table":
        image[0:4] = b"\xff\xff\xff\xff"
    elif damage == "place":
        image[8:16] = (2**63).to_bytes(8, "little")
    else:
        format = 99
    result = rows.Result(format, len(image), True, bytes(image))
    nodes["a"].bridging.receive("b", rows.TaskEnded(1, rows.ENDED, (result,)))
    with pytest.raises(Failed, match="is none"):
        nodes.get("a", ref)
    (visit,) = nodes["b"].memory.queued(nodes["b"].queue[0], 9)
    nodes["b"].add_worker()
    nodes.quiet()
    del ref, visit


def test_the_name_of_an_object_is_its_homes(nodes: Nodes) -> None:
    """A proxy can be told what its home calls it; small text gives way to that in its slot."""
    memory, reader = nodes["a"].memory, nodes["a"].driver.memory
    key = memory.new_proxy(5, bytes(range(32)))
    ref = reader.ref(key)
    assert ref.binary() == bytes(range(32))
    text = ("é" * 25).encode()
    assert memory.seal_image(key, 6, False, text) is True
    assert memory.seal_image(key, 6, False, text) is None, "once"
    assert reader.get(ref, 1) == "é" * 25 and ref.binary() == bytes(range(32))
    memory.release(key)
    assert memory.is_live(key)
    del ref
    assert not memory.is_live(key)


# ---- memory that is full, values in files
def test_what_there_is_no_room_for_comes_when_there_is(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    reader = nodes["b"].driver
    filling = []
    with pytest.raises(_native.FullError):
        while True:
            nodes.turn()
            filling.append(reader.memory.put(_native.FORMAT_BYTES, b"f" * 3_000_000, (), (), 1.0))
    while (more := fill_more(nodes["b"].memory)) is not None:  # the reserve, which is for results
        filling.append(more)
    value = nodes["a"].driver.put(b"v" * 3_000_000)
    ref = nodes["a"].submit("size", args=[value])
    nodes["a"].lend(ref, "b")
    nodes.until(lambda: nodes["b"].bridging.pulling._pulls)
    for _ in range(100):  # never quiet: it is tried again and again
        nodes.turn()
    assert not ref.is_sealed() and nodes.pulled == []
    assert nodes["b"].bridging.pulling._pulls, "it is tried again"
    del filling[:]
    assert nodes.get("a", ref) == 3_000_000


def fill_more(memory: Any) -> Any:
    """A ref to 3 MB that the daemon has written; None if there is no room."""
    memory.populate(64 << 20, 1 << 40)
    image = b"\0" * 8 + (24).to_bytes(8, "little") + (2_999_976).to_bytes(8, "little")
    key = memory.new_proxy(5)
    ref = memory.ref(key)
    is_written = memory.seal_image(key, _native.FORMAT_BYTES, True, image + bytes(2_999_976))
    memory.release(key)
    return ref if is_written else None


def test_a_value_in_a_file_is_brought_back_for_others(nodes: Nodes) -> None:
    nodes["b"].add_worker()
    daemon, files = nodes["a"].memory, {}
    value = nodes["a"].driver.put(b"v" * 300_000)
    moving = daemon.begin_spill(value.key)
    files[1] = bytes(memoryview(moving))
    assert daemon.end_spill(moving, 1) >= 300_000
    del moving

    def bring_back(key: int) -> None:
        assert daemon.spilled(key)[2] > 0, "it is pinned"
        moving = daemon.begin_restore(key)
        with memoryview(moving) as view:
            view[:] = files[1]
        daemon.end_restore(moving)
        nodes["a"].bridging.pulling.sources.came_back(key)

    around = nodes["a"].bridging._around
    around.bring_back = lambda key: around.call_later(0.01, lambda: bring_back(key))
    ref = nodes["a"].submit("size", args=[value])
    nodes["a"].lend(ref, "b")
    assert nodes.get("a", ref) == 300_000
    assert daemon.spilled(value.key) is None
