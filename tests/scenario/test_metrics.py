"""`shoal.util.metrics` in drivers, tasks and actors, and how its figures are read."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import shoal
from shoal.util.metrics import Counter, Gauge, Histogram


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """The tests of this file share one session."""


@shoal.remote
class Worker:
    def __init__(self) -> None:
        self.pages = Counter("pages", "Pages read", tag_keys=("disk",))
        self.load = Gauge("load")

    def count(self, n: int) -> int:
        for _ in range(n):
            self.pages.inc(tags={"disk": "a"})
        self.load.set(n)
        return os.getpid()


def value(name: str, **filters: Any) -> float:
    (row,) = shoal.state.metrics(name=name, **filters)
    return row.value


def test_counts_of_all_processes_add_up_and_outlive_them(session: None) -> None:
    workers = [Worker.remote() for _ in range(2)]
    pids = shoal.get([worker.count.remote(10) for worker in workers])
    Counter("pages", tag_keys=("disk",)).inc(5, {"disk": "a"})
    assert value("pages", tags={"disk": "a"}) == 25
    assert {row.pid for row in shoal.state.metrics(name="load")} == set(pids)
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(shoal.errors.ActorError):
        shoal.get(workers[0].count.remote(1))
    assert value("pages") == 25, "a counter never goes back"
    assert [row.pid for row in shoal.state.metrics(name="load")] == pids[1:], "a gauge does go"
    shoal.get(workers[1].count.remote(1))
    assert value("pages") == 26


def test_histograms_and_prometheus(session: None) -> None:
    times = Histogram("times", "Seconds", boundaries=[0.1, 1], tag_keys=("a-b", "le"))
    times.set_default_tags({"le": "x"})
    for seconds in (0.05, 0.1, 0.5, 7):
        times.observe(seconds, {"a-b": 'quoted "\\\n'})
    (row,) = shoal.state.metrics(name="times")
    assert (row.count, row.value) == (4, pytest.approx(7.65))
    assert row.buckets == {0.1: 2, 1.0: 3, float("inf"): 4}
    Gauge("depth").set(-2)
    done = subprocess.run(
        [sys.executable, "-m", "shoal", "metrics"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    check_text(done.stdout)


def check_text(text: str) -> None:
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert found["times"].type == "histogram"
    samples = {s.labels.get("le"): s.value for s in found["times"].samples}
    assert (samples["0.1"], samples["1.0"], samples["+Inf"]) == (2, 3, 4)
    sample = found["times"].samples[0]
    assert sample.labels["a_b"] == 'quoted "\\\n' and sample.labels["exported_le"] == "x"
    (depth,) = found["depth"].samples
    assert depth.value == -2 and depth.labels["worker_pid"] == str(os.getpid())
    assert "session" in depth.labels


def test_served_at_a_port_of_this_machine(session: None) -> None:
    Counter("served").inc()
    server = subprocess.Popen(
        [sys.executable, "-m", "shoal", "metrics", "--serve", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=30) as page:
            assert "served_total" in page.read().decode()
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()


def test_threads_lose_nothing(session: None) -> None:
    counter = Counter("threads")

    def count() -> None:
        for _ in range(5000):
            counter.inc()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value("threads") == 20_000


def test_metrics_travel_and_are_one_by_name(session: None) -> None:
    counter = Counter("travels", tag_keys=("a",)).set_default_tags({"a": "1"})
    same = pickle.loads(pickle.dumps(counter))
    same.inc()
    counter.inc()

    @shoal.remote
    def count() -> dict[str, Any]:
        counter.inc()
        return counter.info

    assert shoal.get(count.remote()) == counter.info
    assert value("travels", tags={"a": "1"}) == 3
    assert pickle.loads(pickle.dumps(Histogram("h", boundaries=[1]))).boundaries == [1]


def test_a_forked_child_counts_for_itself(session: None) -> None:
    counter = Counter("forks")
    counter.inc()
    pid = os.fork()
    if pid == 0:
        counter.inc(100)
        os._exit(0)
    os.waitpid(pid, 0)
    counter.inc()
    assert value("forks") == 2


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Counter(""), ValueError, "needs a name"),
        (lambda: Counter("1x"), ValueError, "is no name"),
        (lambda: Counter("x", tag_keys="ab"), TypeError, "tuple of strings"),
        (lambda: Counter("x", tag_keys=(1,)), TypeError, "must be strings"),
        (lambda: Counter("x", tag_keys=("a", "a")), ValueError, "twice"),
        (lambda: Counter("x").inc(0), ValueError, "above 0"),
        (lambda: Counter("x").inc(float("nan")), ValueError, "above 0"),
        (lambda: Counter("x").inc("1"), TypeError, "must be a number"),
        (lambda: Counter("x").inc(tags={"b": "1"}), ValueError, "no tag 'b'"),
        (lambda: Counter("x", tag_keys=("a",)).inc(), ValueError, "needs a value for the tags a"),
        (lambda: Counter("x", tag_keys=("a",)).inc(tags={"a": 1}), TypeError, "must be strings"),
        (lambda: Counter("x").set_default_tags({"b": "1"}), ValueError, "no tag 'b'"),
        (lambda: Gauge("x").set("1"), TypeError, "must be a number"),
        (lambda: Histogram("x"), ValueError, "needs boundaries"),
        (lambda: Histogram("x", boundaries=[0, 1]), ValueError, "above 0"),
        (lambda: Histogram("x", boundaries=[2, 1]), ValueError, "must grow"),
        (lambda: Histogram("x", boundaries=[1]).observe(float("inf")), ValueError, "finite"),
    ],
)
def test_misuse(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_another_metric_of_the_same_name() -> None:
    first = Counter("same")
    with pytest.raises(ValueError, match="another kind"):
        Gauge("same")
    assert Counter("same", "described otherwise").info["name"] == first.info["name"]


def test_counted_without_a_session(session: None) -> None:
    """In a process of its own: what is counted before `init` goes into the session."""
    program = """if True:
        import shoal
        from shoal.util.metrics import Counter
        counter = Counter("early")
        counter.inc()
        for round in range(2):
            with shoal.init("local", num_cpus=1):
                counter.inc()
                print([row.value for row in shoal.state.metrics()])
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == ["[2.0]", "[1.0]"], done.stderr
