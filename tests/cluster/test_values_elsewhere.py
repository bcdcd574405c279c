"""Large results that stay on the node that ran the task, and are lost with it: made again.

First in node memories with real workers (`bridge_nodes`), where every moment can be chosen; then
between real daemons. Losing a node takes a lease, so one loss there serves all checks.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from shoal.testing import Cluster
from tests.cluster.bridge_nodes import BEGUN, CALLS, GO, Failed, Nodes
from tests.cluster.conftest import LEASE_S

LARGE = 4000  # times 250 bytes
VALUE = bytes(range(250)) * LARGE


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes("a", "b", "c")
    CALLS.clear()
    GO.clear()
    BEGUN.clear()
    made["a"].keep_lineage()
    yield made
    made.finish()


def on(nodes: Nodes, where: str, *what: Any, args: Any = (), retries: int = 1) -> Any:
    """A result of a task of a's that `where` has run, and keeps."""
    if not nodes[where].workers:
        nodes[where].add_worker()
    ref = nodes["a"].submit(*what, args=args, retries=retries)
    nodes["a"].lend(ref, where)
    nodes.until(ref.is_sealed)
    assert nodes["a"].memory.is_elsewhere(ref.key)
    return ref


class Reader:
    """What a driver of a node gets, while the test lets things happen."""

    def __init__(self, nodes: Nodes, ref: Any, node: str = "a") -> None:
        self._out: list[Any] = []
        self._get: Callable[[Any, float], Any] = nodes[node].driver.memory.get
        self._thread = threading.Thread(target=self._read, args=(ref,), daemon=True)
        self._thread.start()

    def _read(self, ref: Any) -> None:
        try:
            self._out.append(self._get(ref, 20))
        except Failed as error:
            self._out.append(error)

    def value(self, nodes: Nodes) -> Any:
        nodes.until(lambda: self._out)
        self._thread.join()
        return self._out[0]


def queued(nodes: Nodes) -> list[int]:
    return nodes["a"].memory.queued(nodes["a"].queue[0], 9)


def send_on(nodes: Nodes, where: str) -> None:
    """The rebuild that a has queued is run by another node."""
    nodes.until(lambda: queued(nodes))
    nodes["a"].lend(queued(nodes)[0], where)


# ---- what stays, and how it was made
def test_a_result_that_stays_abroad_has_its_recipe_and_keeps_it(nodes: Nodes) -> None:
    ref = on(nodes, "b", "large", LARGE)
    memory = nodes["a"].memory
    before = memory.recipe_of(ref.key)
    assert before is not None and before[9] == [ref.key] and before[4] == 1
    assert nodes.get("a", ref) == VALUE
    assert memory.recipe_of(ref.key) == before, "it stands in the value now"
    never = on(nodes, "b", "large", LARGE, retries=0)
    assert memory.recipe_of(never.key) is None
    assert nodes.get("a", never) == VALUE


def test_what_is_in_it_is_held_here_meanwhile(nodes: Nodes) -> None:
    ref = on(nodes, "b", "crate", "of b", 1_000_000)
    (inner,) = (key for key in nodes["a"].memory.contained(ref.key) if not is_recipe(nodes, key))
    assert nodes["a"].bridging.proxies.proxy_name(inner).node == "b"
    box = nodes.get("a", ref)
    assert nodes.get("a", box[0]) == "of b" and len(box[1]) == 1_000_000
    assert nodes["a"].memory.recipe_of(ref.key) is not None
    # And freed as it is, never looked at.
    unread = on(nodes, "b", "crate", "never seen", 1_000_000)
    del unread, box


def is_recipe(nodes: Nodes, key: int) -> bool:
    return nodes["a"].memory.recipe(key) is not None


# ---- lost with its node
def test_it_is_made_again_when_somebody_reads_it_and_retries_count(nodes: Nodes) -> None:
    ref = on(nodes, "b", "large", LARGE)
    nodes.kill("b")
    nodes.quiet()
    assert nodes["a"].memory.is_lost(ref.key) and not queued(nodes), "nobody has read it"
    reader = Reader(nodes, ref)
    nodes["c"].add_worker()
    send_on(nodes, "c")
    assert reader.value(nodes) == VALUE
    assert nodes.pulled[-1][:2] == ("c", "a"), "the other node has run it again, and given it"
    lost = nodes["a"].lost
    assert lost is not None and lost.counts["rebuilt"] == 1


def test_what_was_made_again_abroad_may_be_lost_again(nodes: Nodes) -> None:
    ref = on(nodes, "b", "large", LARGE)
    nodes.kill("b")
    reader = Reader(nodes, ref)
    nodes["c"].add_worker()
    send_on(nodes, "c")
    nodes.until(lambda: nodes["a"].memory.is_elsewhere(ref.key))
    nodes.cut.add("c")
    nodes.kill("c")
    nodes.cut.clear()
    error = reader.value(nodes)
    assert isinstance(error, Failed)
    text = "its task has run 2 times already, and max_retries=1 allows no more"
    assert text in str(error) and "node c, which had its bytes, is lost" in str(error)


def test_an_argument_that_only_lineage_knows_is_made_again_too(nodes: Nodes) -> None:
    first = on(nodes, "b", "large", LARGE)
    second = on(nodes, "b", "same", args=[first])
    del first
    nodes.kill("b")
    nodes["a"].add_worker()
    assert nodes.get("a", second) == VALUE
    assert len(nodes["a"].workers[0].ran) == 2


def test_all_results_of_a_task_are_made_again_in_one_run(nodes: Nodes) -> None:
    """Each of them has the others beside it, which are lost as well."""
    nodes["b"].add_worker()
    refs = nodes["a"].submit("pieces", 5, n=5, retries=1)
    nodes["a"].lend(refs[0], "b")
    nodes.until(lambda: all(ref.is_sealed() for ref in refs))
    nodes.kill("b")
    nodes["a"].add_worker()
    assert [nodes.get("a", ref) for ref in refs] == [bytes([at]) * 100_000 for at in range(5)]
    assert len(nodes["a"].workers[0].ran) == 1


def test_what_may_not_run_again_is_lost(nodes: Nodes) -> None:
    ref = on(nodes, "b", "large", LARGE, retries=0)
    nodes.kill("b")
    with pytest.raises(Failed, match=r"which had its bytes, is lost; its task may not run again"):
        nodes.get("a", ref)


def test_a_result_that_cannot_be_pulled_is_made_again(nodes: Nodes) -> None:
    ref = on(nodes, "b", "large", LARGE)
    nodes["b"].bridging.visiting._kept.clear()  # as if it had never kept it
    nodes["a"].add_worker()
    assert nodes.get("a", ref) == VALUE
    assert len(nodes["a"].workers[0].ran) == 1


def test_another_node_gets_what_is_made_again_at_home(nodes: Nodes) -> None:
    ref = on(nodes, "b", "large", LARGE)
    size = nodes["a"].submit("size", args=[ref])
    nodes["c"].add_worker()
    nodes.cut.add("b")
    nodes["a"].lend(size, "c")  # c asks a for it, a asks b
    nodes.until(lambda: nodes.pulls)
    nodes.kill("b")
    nodes.cut.clear()
    nodes["a"].add_worker()
    assert nodes.get("a", size) == len(VALUE)
    assert nodes["a"].workers[0].ran, "made again here"


# ---- where the bytes are already
def test_an_argument_that_lies_where_the_task_runs_does_not_travel(nodes: Nodes) -> None:
    crate = on(nodes, "b", "crate", "of b", 20_000_000)
    opened = nodes["a"].submit("open", args=[crate])
    nodes["a"].lend(opened, "b")
    assert nodes.get("a", opened) == "of b"
    assert nodes.pulled == []
    # Home can still get it, and a third node from either of them.
    assert len(nodes.get("a", crate)[1]) == 20_000_000
    again = nodes["a"].submit("open", args=[crate])
    nodes["c"].add_worker()
    nodes["a"].lend(again, "c")
    assert nodes.get("a", again) == "of b"


def test_who_has_it_no_more_gets_it_from_home(nodes: Nodes) -> None:
    large = on(nodes, "b", "large", LARGE)
    size = nodes["a"].submit("size", args=[large])
    nodes["a"].lend(size, "b")
    nodes.until(lambda: any(getattr(row, "kept", None) for _, _, row in nodes.rows))
    nodes["b"].bridging.visiting._kept.clear()  # home has let it go meanwhile
    nodes["a"].add_worker()  # makes it again, as b has it no more for home either
    assert nodes.get("a", size) == len(VALUE)


def test_a_small_array_goes_with_the_news_of_it(nodes: Nodes) -> None:
    array = nodes["a"].driver.put(pickle.PickleBuffer(bytearray(b"7" * 10_000)))
    copy = nodes["a"].submit("bytes", args=[array])
    nodes["b"].add_worker()
    nodes["a"].lend(copy, "b")
    assert nodes.get("a", copy) == b"7" * 10_000
    assert nodes.pulled == []


# ---- between real daemons
@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tasks write their names, one line for each run."""
    return tmp_path_factory.mktemp("values") / "ran"


def runs(ran: Path) -> list[str]:
    return sorted(ran.read_text().split())


def test_a_lost_node_takes_no_value_with_it_that_can_be_made_again(ran: Path) -> None:
    @shoal.remote(resources={"far": 1})
    def make(name: str, n: int, *others: Any) -> bytes:
        with ran.open("a") as file:
            file.write(name + "\n")
        return name[:1].encode() * (n + sum(len(other) for other in others))

    with Cluster(lease_s=LEASE_S) as cluster:
        cluster.add_node(num_cpus=2)
        far = cluster.add_node(num_cpus=2, resources={"far": 2})
        cluster.connect()
        x = make.remote("x", 300_000)
        y = make.remote("y", 100_000, x)
        never = make.options(max_retries=0).remote("never", 400_000)
        unread = make.remote("unread", 500_000)
        here = make.remote("here", 600_000)
        shoal.wait([x, y, never, unread, here], num_returns=5, timeout=20)
        assert shoal.get(here, timeout=20) == b"h" * 600_000
        assert runs(ran) == ["here", "never", "unread", "x", "y"]
        del x
        cluster.remove_node(far, gracefully=False)
        # Who waits for a rebuild that no node can run waits until one comes.
        with pytest.raises(errors.GetTimeoutError):
            shoal.get(y, timeout=0.5)
        cluster.add_node(num_cpus=1, resources={"far": 1})
        with pytest.raises(errors.ObjectLostError, match="which had its bytes, is lost; its task"):
            shoal.get(never, timeout=30)
        assert shoal.get(y, timeout=30) == b"y" * 400_000
        assert shoal.get(here, timeout=20) == b"h" * 600_000, "it had come before"
        assert runs(ran) == ["here", "never", "unread", "x", "x", "y", "y"]
        assert len(shoal.get(unread, timeout=20)) == 500_000
