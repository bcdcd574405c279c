"""Several programs in one session of ``shoal start``: joining, names, detached actors, job ends."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors, state
from tests.torture.processes import eventually


def command(*words: str, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run ``shoal <words>``."""
    return subprocess.run(
        [sys.executable, "-m", "shoal", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **given,
    )


def program(code: str) -> str:
    """Run another driver and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@shoal.remote(num_cpus=0)
class Adder:
    def __init__(self) -> None:
        self.n = 0

    def add(self, n: int) -> int:
        self.n += n
        return self.n


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SHOAL_DIR", str(tmp_path))
    done = command("start", "--num-cpus", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    yield
    shoal.shutdown()
    command("stop")


def test_init_joins_a_started_session(started: None) -> None:
    with shoal.init() as context:
        assert context["resources"]["CPU"] == 4
        session = context["session"]
        other = program("import shoal; print(shoal.init('auto')['session'])")
        assert other.strip() == session
        assert len(state.jobs()) == 2
    assert shoal.init(session)["session"] == session
    shoal.shutdown()
    with pytest.raises(errors.OptionError, match="num_cpus"):
        shoal.init(num_cpus=2)
    with shoal.init("local", num_cpus=1) as context:
        assert context["session"] != session


@shoal.remote(num_cpus=0)
def twice(n: int) -> int:
    return 2 * n


@shoal.remote(num_cpus=0)
def twice_twice(n: int) -> int:
    return shoal.get(twice.remote(shoal.get(twice.remote(n))))


def test_who_leaves_and_joins_again_has_its_functions_and_classes(started: None) -> None:
    for _ in range(3):
        with shoal.init():
            assert shoal.get(twice_twice.remote(2)) == 8
            assert shoal.get(Adder.remote().add.remote(3)) == 3
    with shoal.init():
        ended = [job for job in state.jobs() if job.state == "ENDED"]
        assert len(ended) == 3 and all(job.reason for job in ended)


def test_another_program_joins_a_session_that_init_began() -> None:
    ask = "import sys, shoal; print(shoal.init(sys.argv[1], namespace='n')['session'])"
    use = "; print(shoal.get(shoal.get_actor('adder').add.remote(2)))"
    with shoal.init(num_cpus=1, namespace="n") as context:
        adder = Adder.options(name="adder").remote()
        directory = shoal.get_runtime_context().gcs_address
        for address in (directory, context["session"]):
            said = subprocess.run(
                [sys.executable, "-c", ask + use, address],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert said.stdout.split()[:1] == [context["session"]], said.stderr
        assert shoal.get(adder.add.remote(1)) == 5
    with pytest.raises(ConnectionError):
        shoal.init(directory)


def test_names_and_detached_actors(started: None) -> None:
    make = """
        import shoal
        shoal.init(namespace="common")

        @shoal.remote
        class Store:
            def __init__(self): self.values = []
            def add(self, x): self.values.append(x); return self.values

        kept = Store.options(name="kept", lifetime="detached").remote()
        gone = Store.options(name="gone").remote()
        print(shoal.get(kept.add.remote("first")), shoal.get(gone.add.remote(1)))
    """
    assert program(make) == "['first'] [1]\n"
    shoal.init(namespace="common")
    assert shoal.get(shoal.get_actor("kept").add.remote("second")) == ["first", "second"]
    eventually(
        lambda: not state.actors(name="gone", state="ALIVE"), 30, "an actor outlives its job"
    )
    with pytest.raises(errors.ActorNotFoundError):
        shoal.get_actor("gone")
    shoal.kill(shoal.get_actor("kept"))
    with pytest.raises(errors.ActorNotFoundError):
        shoal.get_actor("kept")


def test_a_killed_driver_leaves_the_session_as_it_was(started: None) -> None:
    shoal.init()
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import shoal, time
                shoal.init()
                f = shoal.remote(lambda: time.sleep(600))
                refs = [f.remote() for _ in range(10)]
                print("ready", flush=True)
                time.sleep(600)
                """
            ),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None and other.stdout.readline() == "ready\n"
    eventually(lambda: len(state.tasks(state="RUNNING")) == 4, 30, "the other's tasks do not run")
    other.kill()
    other.wait()

    def is_over() -> bool:
        return {task.state for task in state.tasks()} <= {"FINISHED", "FAILED"}

    eventually(is_over, 30, "tasks of a dead driver are left")
    eventually(lambda: shoal.available_resources().get("CPU") == 4, 30, "CPUs are not given back")
    assert shoal.get(shoal.remote(os.getpid).remote()) != os.getpid()


def test_stopping_the_session_is_seen(started: None) -> None:
    shoal.init()
    ref = shoal.put(1)
    assert command("stop").returncode == 0
    eventually(lambda: not shoal.is_initialized(), 30, "the end of the session is not seen")
    with pytest.raises(errors.SessionLostError):
        shoal.get(ref)
