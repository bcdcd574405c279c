"""What goes wrong with compiled graphs: wrong use, deaths on every side; nothing hangs or stays."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors, lowlevel
from shoal.dag import CompiledDAG, InputNode, MultiOutputNode
from tests.torture.processes import eventually, kill

LONG_S = 60.0


@shoal.remote(num_cpus=0)
class Worker:
    def add(self, x: Any, more: Any = 1) -> Any:
        return x + more

    def echo(self, x: Any) -> Any:
        return x

    def pid(self, _: Any = None) -> int:
        return os.getpid()

    def wait(self, path: str) -> str:
        eventually(lambda: os.path.exists(path), LONG_S, path)
        return path

    def die(self, x: Any) -> Any:
        if x == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    def leave(self, x: Any) -> None:
        shoal.exit_actor()

    def lock(self, x: Any) -> Any:
        return threading.Lock()

    def large(self, n: int) -> bytes:
        return bytes(n)

    @shoal.method(num_returns=2)
    def pair(self, x: Any) -> Any:
        return x

    def exit(self, x: Any) -> Any:
        sys.exit(x)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """In the place of conftest's: one session for all tests of this module."""


def large() -> list[Any]:
    """Objects that may be channels."""
    return [row for row in shoal.state.objects() if row.size_bytes > 50_000]


@pytest.fixture(autouse=True)
def nothing_is_left(session: None) -> Iterator[None]:
    """Whatever went wrong, no channel stays in memory and no count is wrong."""
    yield

    gc.collect()  # what pytest knows of errors leads to frames, and those to graphs
    eventually(lambda: not large(), 30, "the channels are freed")
    audit = lowlevel.memory().audit()
    assert audit["wrong_counts"] == audit["leaked_blocks"] == 0


def compiled(make: Any, **options: Any) -> CompiledDAG:
    with InputNode() as inp:
        graph = make(inp)
    return graph.compile(**options)


# ---- wrong use


def test_results_are_taken_once_and_do_not_travel() -> None:
    a = Worker.remote()
    with compiled(a.echo.bind) as graph:
        ref = graph.execute(None)
        assert shoal.get(ref) is None
        with pytest.raises(ValueError, match="taken already"):
            shoal.get(ref)
        ref = graph.execute(1)
        for thing in (ref, graph):
            with pytest.raises(errors.GraphError, match="can not travel"):
                pickle.dumps(thing)
        with pytest.raises(errors.GraphError, match="enable_asyncio"):
            ref.__await__()
        with pytest.raises(errors.GraphError, match="enable_asyncio"):
            graph.execute_async(1).send(None)
        assert shoal.get([ref, shoal.put(2)]) == [1, 2]


def test_wrong_arguments_of_execute() -> None:
    a = Worker.remote()
    with compiled(lambda i: a.add.bind(i[0], more=i.more)) as graph:
        for args, kwargs in [((), {}), ((1,), {}), ((1, 2), {"more": 1}), ((1,), {"less": 1})]:
            with pytest.raises(ValueError, match=r"execute\(<0>, more=\)"):
                graph.execute(*args, **kwargs)
        assert shoal.get(graph.execute(1, more=2)) == 3


def test_values_that_can_not_travel_leave_the_graph_usable() -> None:
    a = Worker.remote()

    def make(i: Any) -> Any:
        return MultiOutputNode([a.large.bind(i.n), a.lock.bind(i.n), a.exit.bind(i.n)])

    with compiled(a.echo.bind, buffer_size_bytes=60_000) as graph:
        with pytest.raises(ValueError, match=r"100,\d\d\d bytes, .* carry 60,000"):
            graph.execute(b"x" * 100_000)
        with pytest.raises(errors.SerializationError, match="lock"):
            graph.execute(threading.Lock())
        assert shoal.get(graph.execute(1)) == 1
    with compiled(make, buffer_size_bytes=60_000) as graph:
        for _ in range(2):
            large, lock, end = graph.execute(n=100_000)
            with pytest.raises(ValueError, match=r"what Worker\.large returned has 100,"):
                shoal.get(large)
            with pytest.raises(errors.SerializationError, match="lock"):
                shoal.get(lock)
            with pytest.raises(errors.TaskError, match=r"sys\.exit"):
                shoal.get(end)
            assert len(shoal.get(graph.execute(n=10)[0])) == 10
    with compiled(lambda i: MultiOutputNode(list(a.pair.bind(i)))) as graph:
        with pytest.raises(ValueError, match="returned one value"):
            shoal.get(graph.execute(1))
        assert shoal.get(graph.execute((1, 2))) == [1, 2]


def test_an_error_larger_than_its_channel_is_cut() -> None:
    a = Worker.remote()
    with compiled(a.add.bind, buffer_size_bytes=2_000) as graph:

        class Loud:
            def __add__(self, other: Any) -> Any:
                raise ValueError("x" * 10_000)

        with pytest.raises(errors.TaskError, match="larger than the channel"):
            shoal.get(graph.execute(Loud()))
        assert shoal.get(graph.execute(1)) == 2


def test_timeouts_lose_nothing(tmp_path: Path) -> None:
    a, b = Worker.remote(), Worker.remote()

    def make(i: Any) -> Any:
        return MultiOutputNode([b.echo.bind(i), a.wait.bind(i)])

    with compiled(make, submit_timeout_s=0.05, max_inflight_executions=20) as graph:
        path = str(tmp_path / "go")
        refs = graph.execute(path)
        with pytest.raises(errors.GetTimeoutError, match="not ready after"):
            shoal.get(refs, timeout=0.05)
        with pytest.raises(TimeoutError, match="room for the input"):
            for _ in range(20):
                graph.execute(path)
        Path(path).touch()
        assert shoal.get(refs, timeout=LONG_S) == [path, path]
    a, go = Worker.remote(), tmp_path / "later"
    with compiled(a.wait.bind) as graph:
        ready, late = graph.execute(path), graph.execute(str(go))
        with pytest.raises(errors.GetTimeoutError):
            shoal.get([ready, late], timeout=0.2)
        go.touch()
        assert shoal.get([ready, late], timeout=LONG_S) == [path, str(go)]


def test_use_after_teardown() -> None:
    a = Worker.remote()
    graph = compiled(a.echo.bind)
    refs = [graph.execute(i) for i in range(3)]
    assert shoal.get(refs[0]) == 0
    graph.teardown()
    graph.teardown()
    for use in (lambda: graph.execute(1), lambda: shoal.get(refs[1]), refs[2].get):
        with pytest.raises(errors.GraphEndedError, match="torn down"):
            use()
    assert shoal.get(a.echo.remote(5)) == 5
    with compiled(a.echo.bind) as again:
        assert shoal.get(again.execute(6)) == 6
    again = compiled(a.echo.bind)
    again.teardown(kill_actors=True)
    with pytest.raises(errors.ActorDiedError):
        shoal.get(a.echo.remote(5))


def test_teardown_ends_who_waits() -> None:
    a = Worker.remote()
    graph = compiled(a.echo.bind)
    ref = graph.execute(1)
    assert shoal.get(ref) == 1
    waiting = graph.execute(2)
    shoal.get(waiting)
    later = graph._results
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            later.take(2, 0, None)
        except BaseException as error:
            raised.append(error)

    graph._pipeline.begin()  # as if an execution were on its way for ever
    thread = threading.Thread(target=wait)
    thread.start()
    graph.teardown()
    thread.join(LONG_S)
    assert type(raised[0]) is errors.GraphEndedError


# ---- deaths


def test_an_actor_that_died_before() -> None:
    a, b = Worker.remote(), Worker.remote()
    shoal.kill(b)
    with pytest.raises(errors.ActorDiedError, match="killed with kill"):
        compiled(lambda i: b.echo.bind(a.echo.bind(i)))
    assert shoal.get(a.echo.remote(1)) == 1
    with compiled(a.echo.bind) as graph:
        assert shoal.get(graph.execute(1)) == 1


@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_actor_that_dies_while_executing(where: int) -> None:
    actors = [Worker.remote() for _ in range(3)]

    def make(i: Any) -> Any:
        value = i
        for number, worker in enumerate(actors):
            value = (worker.die if number == where else worker.echo).bind(value)
        return value

    graph = compiled(make)
    assert shoal.get(graph.execute("fine")) == "fine"
    refs = [graph.execute("fine"), graph.execute("die")]
    with contextlib.suppress(errors.ActorDiedError):  # it may be dead by now
        refs.append(graph.execute("never"))
    assert shoal.get(refs[0]) == "fine"
    for ref in refs[1:]:
        with pytest.raises(errors.ActorDiedError, match="its process died") as raised:
            shoal.get(ref, timeout=LONG_S)
        assert raised.value.signal == signal.SIGKILL
        assert "compile it again" in raised.value.__notes__[0]
    with pytest.raises(errors.ActorDiedError):
        graph.execute(1)
    others = [worker for number, worker in enumerate(actors) if number != where]
    assert shoal.get([worker.echo.remote(1) for worker in others], timeout=LONG_S) == [1, 1]
    graph.teardown()
    with compiled(others[0].echo.bind) as again:
        assert shoal.get(again.execute(1)) == 1


def test_an_actor_that_leaves_or_comes_back() -> None:
    a = Worker.remote()
    graph = compiled(a.leave.bind)
    with pytest.raises(errors.ActorDiedError, match="exit_actor"):
        shoal.get(graph.execute(1), timeout=LONG_S)
    again = Worker.options(max_restarts=1, max_task_retries=5).remote()
    graph = compiled(again.die.bind)
    ref = graph.execute("die")
    with pytest.raises((errors.ActorUnavailableError, errors.ActorDiedError)):
        shoal.get(ref, timeout=LONG_S)
    assert shoal.get(again.echo.remote(1), timeout=LONG_S) == 1
    with compiled(again.echo.bind) as graph:
        assert shoal.get(graph.execute(1)) == 1


def test_a_graph_that_nobody_has_ends() -> None:
    a = Worker.remote()
    compiled(a.echo.bind)
    gc.collect()

    def threads() -> list[str]:
        names: list[str] = shoal.get(
            a.__ray_call__.remote(lambda _: [t.name for t in threading.enumerate()])
        )
        return names

    eventually(lambda: threads() == ["MainThread"], 30, "the loop has ended")


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Whatever is freed is freed by its last holder."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("how", ["raises", "dies", "dies, asyncio", "is dead"])
def test_a_caught_error_keeps_no_channels(how: str, without_collector: None) -> None:
    def use() -> None:
        actor = Worker.remote()
        if how == "is dead":
            shoal.kill(actor)
        graph = compiled(actor.die.bind, enable_asyncio="asyncio" in how)
        if how == "dies, asyncio":
            asyncio.run(awaited(graph))
        else:
            shoal.get(graph.execute("die" if how == "dies" else None) if how != "raises" else bad())

    async def awaited(graph: CompiledDAG) -> None:
        with contextlib.suppress(errors.ActorDiedError):  # `asyncio.run` would tie a knot
            await (await graph.execute_async("die"))

    def bad() -> Any:
        with compiled(Worker.remote().add.bind) as graph:
            return shoal.get(graph.execute("text"))

    try:
        use()
    except (errors.ActorDiedError, TypeError):
        pass
    eventually(lambda: not large(), LONG_S, "the channels are freed")


def test_teardown_frees_the_channels_of_a_graph_that_somebody_keeps() -> None:
    actor = Worker.remote()
    graph = compiled(actor.echo.bind)
    refs = [graph.execute(i) for i in range(3)]
    assert shoal.get(refs[2]) == 2 and large()
    graph.teardown()
    eventually(lambda: not large(), LONG_S, "the channels are freed")
    for ref in refs[:2]:
        with pytest.raises(errors.GraphEndedError):
            shoal.get(ref)
    died = compiled(actor.die.bind)
    refs = [died.execute(x) for x in (1, 2, "die")]
    assert shoal.get(refs[0]) == 1
    with pytest.raises(errors.ActorDiedError):
        shoal.get(refs[2])
    died.teardown()
    eventually(lambda: not large(), LONG_S, "the channels are freed")
    for use in (lambda: shoal.get(refs[1]), lambda: died.execute(1)):
        with pytest.raises(errors.ActorDiedError):
            use()


def test_the_end_of_a_session_ends_its_graphs() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import shoal
                from shoal.dag import InputNode

                @shoal.remote
                class Worker:
                    def echo(self, x):
                        return x

                shoal.init("local", num_cpus=1)
                a = Worker.remote()
                with InputNode() as inp:
                    graph = a.echo.bind(inp).compile()
                ref = graph.execute(1)
                shoal.shutdown()
                for use in (lambda: graph.execute(1), lambda: shoal.get(ref), graph.teardown):
                    try:
                        print(use())
                    except shoal.errors.ShoalError as error:
                        print(type(error).__name__)
                """
            ),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["GraphEndedError", "GraphEndedError", "None"]


DRIVER = """
    import sys, time
    import shoal
    from shoal.dag import InputNode

    @shoal.remote(num_cpus=0)
    class Worker:
        def echo(self, x):
            return x

    shoal.init("auto", namespace="graphs")
    actors = [Worker.options(name=name, lifetime="detached").remote() for name in "ab"]
    with InputNode() as inp:
        graph = actors[1].echo.bind(actors[0].echo.bind(inp)).compile()
    assert shoal.get(graph.execute(1)) == 1
    print("ready", flush=True)
    while True:
        shoal.get(graph.execute(1))
"""


def test_the_driver_is_killed_and_detached_actors_go_on(tmp_path: Path) -> None:
    environment = {**os.environ, "SHOAL_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "shoal"]
    check = """
        import threading, time
        import shoal
        shoal.init("auto", namespace="graphs")
        actors = [shoal.get_actor(name) for name in "ab"]
        def names(_):
            return [thread.name for thread in threading.enumerate()]
        end = time.monotonic() + 20
        while time.monotonic() < end:
            now = shoal.get([actor.__ray_call__.remote(names) for actor in actors], timeout=20)
            large = [row for row in shoal.state.objects() if row.size_bytes > 50_000]
            if now == [["MainThread"]] * 2 and not large:
                break
            time.sleep(0.05)
        print(now, large, shoal.get([actor.echo.remote(7) for actor in actors], timeout=20))
        from shoal.dag import InputNode
        with InputNode() as inp:
            graph = actors[0].echo.bind(actors[1].echo.bind(inp)).compile()
        print(shoal.get(graph.execute("again")))
        graph.teardown()
        audit = shoal.lowlevel.memory().audit()
        print(audit["wrong_counts"], audit["leaked_blocks"])
        for actor in actors:
            shoal.kill(actor)
    """
    started = subprocess.run([*command, "start", "--num-cpus", "2"], env=environment, check=False)
    assert started.returncode == 0
    try:
        driver = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(DRIVER)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdout is not None and driver.stdout.readline() == "ready\n"
        time.sleep(0.05)
        kill(driver.pid)
        driver.wait(LONG_S)
        driver.stdout.close()
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(check)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        subprocess.run([*command, "stop"], env=environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    expected = "[['MainThread'], ['MainThread']] [] [7, 7]\nagain\n0 0\n"
    assert done.stdout == expected, done.stderr
