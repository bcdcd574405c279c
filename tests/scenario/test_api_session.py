"""Sessions through the public API: init, shutdown, context, tables, locks, logs."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

import shoal
from shoal import errors, state
from tests.torture.processes import eventually


def run(code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_init_and_shutdown_many_times() -> None:
    for i in range(3):
        assert not shoal.is_initialized()
        with shoal.init(num_cpus=1 + i) as context:
            assert shoal.is_initialized()
            assert context["resources"]["CPU"] == 1 + i
            assert "session" in repr(context) and "<table>" in context._repr_html_()
            assert context.address_info == dict(context)
            assert shoal.get(shoal.put(i)) == i
        assert not os.path.exists(context["session_dir"])
    shoal.shutdown()


def test_the_api_starts_a_session_by_itself() -> None:
    assert shoal.get(shoal.put(1)) == 1
    assert shoal.is_initialized()


def test_resources() -> None:
    shoal.init(num_cpus=4, num_gpus=1, resources={"disk": 2.5})
    total = shoal.cluster_resources()
    assert (total["CPU"], total["GPU"], total["disk"]) == (4, 1, 2.5)

    @shoal.remote(num_cpus=1, resources={"disk": 2})
    class Holds:
        def free(self) -> dict[str, float]:
            return shoal.available_resources()

    free = shoal.get(Holds.remote().free.remote())
    assert free["CPU"] == 3 and free["disk"] == 0.5
    node = shoal.nodes()[0]
    assert node["Alive"] and node["Resources"]["CPU"] == 4
    assert node["NodeID"] == shoal.get_runtime_context().get_node_id()


def test_values_stay_valid_after_shutdown() -> None:
    import numpy as np

    array = shoal.get(shoal.put(np.arange(300_000)))
    shoal.shutdown()
    assert array[-1] == 299_999


def test_state_tables() -> None:
    shoal.init(num_cpus=1)

    @shoal.remote
    def sleep(s: float) -> None:
        time.sleep(s)

    @shoal.remote
    class Named:
        def work(self) -> None:
            pass

    actor = Named.options(name="n1").remote()
    shoal.get(actor.work.remote())
    running, queued = sleep.remote(30), sleep.remote(30)
    held = sleep.remote(running)
    eventually(lambda: len(state.tasks(state="RUNNING")) == 1, 30, "nothing runs")
    tasks = {task.state: task for task in state.tasks()}
    assert set(tasks) == {"RUNNING", "QUEUED", "HELD", "FINISHED"}
    assert tasks["RUNNING"].name.endswith("sleep") and tasks["RUNNING"].attempt == 1
    assert len(state.tasks(limit=1)) == 1
    assert [a.name for a in state.actors(state="ALIVE")] == ["n1"]
    assert {f.name.rsplit(".", 1)[1] for f in state.functions()} == {"sleep", "Named"}
    assert state.jobs()[0].pid == os.getpid() and len(state.nodes()) == 1
    assert [w.actor_id for w in state.workers() if w.actor_id] == [actor._actor_id.hex()]
    assert any(o.state == "PENDING" for o in state.objects())
    assert {"submitted", "taken"} <= {e.kind for e in state.events()}
    with pytest.raises(errors.OptionError, match="no field 'colour'"):
        state.tasks(colour="red")
    del running, queued, held


def test_key_value_table() -> None:
    from shoal import lowlevel

    assert lowlevel.kv_put(b"a", b"1") and not lowlevel.kv_put(b"a", b"2", overwrite=False)
    assert lowlevel.kv_get(b"a") == b"1" and lowlevel.kv_keys() == [b"a"]
    assert lowlevel.kv_get(b"a", namespace="other") is None
    assert lowlevel.kv_delete(b"a") and not lowlevel.kv_delete(b"a")


def test_a_lock_loses_no_update(tmp_path: Any) -> None:
    path = str(tmp_path / "n")
    with open(path, "w") as file:
        file.write("0")

    @shoal.remote
    def add(lock: Any) -> None:
        for _ in range(5):
            with lock:
                with open(path) as file:
                    n = int(file.read())
                time.sleep(0.001)
                with open(path, "w") as file:
                    file.write(str(n + 1))

    shoal.init(num_cpus=4)
    shoal.get([add.remote(shoal.lock("n")) for _ in range(8)])
    with open(path) as file:
        assert file.read() == "40"


def test_a_lock_by_itself() -> None:
    lock = shoal.lock("a")
    assert lock.acquire() and lock.locked()
    assert not shoal.lock("a").acquire(timeout=0)
    assert not shoal.lock("a").acquire(timeout=0.05)
    with pytest.raises(RuntimeError, match="this thread already"):
        lock.acquire()
    lock.release()
    assert not lock.locked()
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()
    assert shoal.lock().name != shoal.lock().name
    with pytest.raises(errors.OptionError):
        shoal.lock("")


def test_a_lock_of_a_dead_holder_is_free() -> None:
    @shoal.remote(max_retries=0)
    def die() -> None:
        shoal.lock("mortal").acquire()
        os._exit(1)

    with pytest.raises(errors.WorkerCrashedError):
        shoal.get(die.remote())
    assert shoal.lock("mortal").acquire(timeout=30)


def test_output_of_workers_is_shown_with_a_prefix() -> None:
    done = run(
        """
        import shoal, sys, time, os
        shoal.init(num_cpus=2)

        @shoal.remote
        def speak(i):
            print("hello from a task")
            print("to stderr", file=sys.stderr)
            os.write(1, b"written by C\\n")
            return os.getpid()

        @shoal.remote
        class Actor:
            def __repr__(self): return "Actor<7>"
            def speak(self): print("an actor speaks")

        print(sorted(set(shoal.get([speak.remote(i) for i in range(2)]))))
        a = Actor.remote()
        shoal.get(a.speak.remote())
        """
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "(speak pid=" in out and "hello from a task" in out and "written by C" in out
    assert "(Actor<7> pid=" in out and "an actor speaks" in out
    assert "to stderr" in done.stderr


def test_the_same_line_of_many_processes_is_shown_once() -> None:
    done = run(
        """
        import os, shoal, shutil, tempfile, time
        shoal.init(num_cpus=3)
        folder = tempfile.mkdtemp()

        @shoal.remote
        def speak(i):
            while len(os.listdir(folder)) < 3:  # all in processes of their own
                open(f"{folder}/{i}", "w").close()
                time.sleep(0.01)
            print("the same line")

        shoal.get([speak.remote(i) for i in range(3)])
        shutil.rmtree(folder)
        """
    )
    shown = [line for line in done.stdout.splitlines() if "the same line" in line]
    assert len(shown) == 2 and "2 more processes" in shown[1], done.stdout


def test_logs_can_be_turned_off() -> None:
    done = run(
        """
        import shoal
        shoal.init(num_cpus=1, log_to_driver=False)
        @shoal.remote
        def speak(): print("not shown")
        shoal.get(speak.remote())
        """
    )
    assert done.returncode == 0 and "not shown" not in done.stdout


def test_a_program_that_a_task_starts_joins_the_session() -> None:
    @shoal.remote
    def child() -> str:
        code = "import shoal; print(shoal.init()['session'], shoal.get(shoal.put(3)))"
        done = run(code)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert shoal.get(child.remote()) == f"{shoal.get_runtime_context().session} 3\n"


def test_forking_in_a_task() -> None:
    @shoal.remote
    def pool() -> list[int]:
        with multiprocessing.get_context("fork").Pool(2) as processes:
            return processes.map(abs, [-1, 2])

    assert shoal.get(pool.remote()) == [1, 2]


def test_a_program_that_ends_without_shutdown_leaves_nothing() -> None:
    done = run("import shoal; c = shoal.init(num_cpus=1); print(c['session_dir'])")
    directory = done.stdout.strip()
    eventually(lambda: not os.path.exists(directory), 30, f"{directory} is left")


def test_the_import_is_light() -> None:
    done = run(
        """
        import sys, time
        began = time.process_time()
        import shoal
        took = time.process_time() - began
        heavy = {"pickle", "cloudpickle", "asyncio", "msgspec", "numpy"} & set(sys.modules)
        print(took, heavy)
        """
    )
    took, heavy = done.stdout.split(maxsplit=1)
    assert float(took) < 0.1 and heavy.strip() == "set()", done.stdout


def test_a_program_in_main_with_its_own_classes(tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import dataclasses
            import shoal

            @dataclasses.dataclass
            class Point:
                x: int

            FACTOR = 3

            def scale(p):
                return Point(FACTOR * p.x)

            @shoal.remote
            def task(p):
                return scale(p)

            @shoal.remote
            def down(n):
                return 0 if n == 0 else 1 + shoal.get(down.remote(n - 1))

            @shoal.remote
            class Keeper:
                def __init__(self): self.points = []
                def keep(self, p): self.points.append(p); return self.points
                def clone(self): return Keeper.remote()

            got = shoal.get(task.remote(Point(2)))
            assert type(got) is Point and got == Point(6), got
            keeper = Keeper.remote()
            assert shoal.get(keeper.keep.remote(Point(1))) == [Point(1)]
            other = shoal.get(keeper.clone.remote())
            assert shoal.get(other.keep.remote(Point(5))) == [Point(5)]
            assert shoal.get(down.remote(6)) == 6
            print("ok")
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "ok\n", done.stderr


def test_a_program_ends_well_while_threads_wait() -> None:
    # A thread that wakes as the interpreter ends was unwound through native frames: an abort.
    code = """
        import threading
        import shoal

        shoal.init(num_cpus=1)
        block = shoal.lowlevel.shared_block(64)
        for _ in range(8):
            threading.Thread(target=block.wait, args=(0, 0, None), daemon=True).start()
        sleep = shoal.remote(lambda: __import__("time").sleep(60))
        waiting = sleep.remote().future()
        print("ends")
    """
    for _ in range(4):
        done = run(code)
        assert (done.returncode, done.stdout) == (0, "ends\n"), done.stderr
