"""Every kind of misuse and misfortune gets a clear error, soon, and the session goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from tests.torture.processes import eventually

SOON_S = 30.0
"""What is promised within a second or two, on a machine that has much else to do."""


@shoal.remote
def echo(x: Any = None) -> Any:
    return x


@shoal.remote(max_retries=0)
def kill_self(how: str) -> None:
    print("last words", file=sys.stderr, flush=True)
    if how == "segfault":
        import ctypes

        ctypes.string_at(0)
    elif how == "exit":
        os._exit(5)
    os.kill(os.getpid(), signal.SIGKILL)


@shoal.remote
class Actor:
    def __init__(self, given: Any = None) -> None:
        self.given = given

    def work(self, x: Any = None) -> Any:
        return x


# ---- options


def test_unknown_options_list_the_valid_ones() -> None:
    for make in (
        lambda: shoal.remote(num_cpu=1)(lambda: 1),
        lambda: echo.options(num_cpu=1),
        lambda: Actor.options(num_cpu=1),
    ):
        with pytest.raises(
            errors.OptionError, match=r"num_cpu'. Did you mean num_cpus\?"
        ) as caught:
            make()
        assert "num_gpus" in caught.value.valid and isinstance(caught.value, ValueError)
    with pytest.raises(errors.OptionError, match="no option 'max_restarts'"):
        echo.options(max_restarts=1)
    with pytest.raises(errors.OptionError, match="no option 'max_retries'"):
        Actor.options(max_retries=1)
    with pytest.raises(errors.OptionError, match="init has no option 'cpus'"):
        shoal.init(cpus=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "given",
    [
        {"num_cpus": -1},
        {"num_cpus": "two"},
        {"num_cpus": True},
        {"num_cpus": float("nan")},
        {"num_gpus": 1.5},
        {"resources": {"CPU": 1}},
        {"resources": {"disk": -1}},
        {"resources": ["disk"]},
        {"num_returns": -1},
        {"num_returns": 1.5},
        {"num_returns": "many"},
        {"max_retries": -2},
        {"retry_exceptions": [1]},
        {"name": ""},
        {"scheduling_strategy": "RANDOM"},
    ],
)
def test_ill_typed_options(given: dict[str, Any]) -> None:
    with pytest.raises(errors.OptionError, match=next(iter(given))) as caught:
        echo.options(**given).remote()
    if given != {"num_gpus": 1.5}:  # of the right type, and no amount that a GPU can be cut into
        assert "max_retries" in caught.value.valid and "max_retries" in str(caught.value)


def test_what_is_not_there_yet_says_so() -> None:
    with pytest.raises(errors.OptionError, match="runtime_env is not there: containers"):
        echo.options(runtime_env={"image_uri": "x"})


def test_remote_of_something_remote_or_not_callable() -> None:
    for thing in (echo, Actor, Actor.options(num_cpus=1)):
        with pytest.raises(TypeError, match="remote already"):
            shoal.remote(thing)
    with pytest.raises(TypeError, match="not a int"):
        shoal.remote(3)  # type: ignore[call-overload]
    with pytest.raises(errors.OptionError, match="by name"):
        shoal.remote(echo, num_cpus=1)  # type: ignore[call-overload]
    with pytest.raises(errors.OptionError, match="brackets"):
        shoal.remote()
    with pytest.raises(errors.OptionError, match="by name"):
        shoal.method()


def test_unsatisfiable_resources_fail_within_a_second() -> None:
    shoal.init(num_cpus=2)
    refs = [echo.options(num_cpus=99).remote(), echo.options(resources={"tpu": 1}).remote()]
    with pytest.raises(errors.UnschedulableError, match=r"CPU 99.*more than.*CPU 2"):
        shoal.get(refs[0], timeout=SOON_S)
    with pytest.raises(errors.UnschedulableError, match="tpu 1"):
        shoal.get(refs[1], timeout=SOON_S)
    with pytest.raises((errors.UnschedulableError, errors.ActorDiedError), match=r"GPU|node"):
        shoal.get(Actor.options(num_gpus=8).remote().work.remote(), timeout=SOON_S)
    # The best of several: what else runs here may hold up one of them.
    assert min(seconds_until_refused(echo.options(num_cpus=99)) for _ in range(5)) < 0.5
    assert min(seconds_until_refused(echo.options(num_cpus=99, num_returns=2)) for _ in "ab") < 4
    assert shoal.get(echo.remote(1)) == 1


def seconds_until_refused(function: Any) -> float:
    began = time.monotonic()
    with pytest.raises(errors.UnschedulableError, match="CPU 99"):
        shoal.get(function.remote(), timeout=SOON_S)
    return time.monotonic() - began


# ---- returns


def test_wrong_number_of_returns() -> None:
    two = shoal.remote(num_returns=2)(lambda value: value)
    for value, what in ((1, "one int"), ((1, 2, 3), "3 values")):
        for ref in two.remote(value):
            with pytest.raises(ValueError, match=f"num_returns=2, but the task returned {what}"):
                shoal.get(ref)


def test_a_generator_that_is_returned_as_one_value() -> None:
    @shoal.remote(num_returns=1)
    def items() -> Any:
        return (i for i in range(3))

    with pytest.raises(TypeError, match="generator"):
        shoal.get(items.remote())


def test_what_only_actors_may_ask_or_do() -> None:
    """Programs written for Ray catch the first as RuntimeError, the second as TypeError."""
    shoal.init(num_cpus=1)
    with pytest.raises(errors.NotInActorError, match="does not run in an actor") as asked:
        _ = shoal.get_runtime_context().current_actor
    with pytest.raises(errors.NotInActorError, match="only inside") as done:
        shoal.exit_actor()
    assert isinstance(asked.value, RuntimeError) and isinstance(done.value, TypeError)


# ---- get, put, wait


@pytest.mark.parametrize("value", [3, "text", {"a": 1}, None, b"x", 1.5])
def test_get_of_no_ref(value: Any) -> None:
    with pytest.raises(TypeError, match="already resolved"):
        shoal.get(value)
    with pytest.raises(errors.NotARefError, match="item 1"):
        shoal.get([shoal.put(1), value])
    with pytest.raises(errors.NotARefError):
        shoal.wait([value])
    with pytest.raises(errors.NotARefError):
        shoal.as_completed([value])


def test_get_inside_a_task_on_an_argument() -> None:
    @shoal.remote
    def mistaken(x: Any) -> Any:
        return shoal.get(x)

    with pytest.raises(errors.NotARefError, match="arrive there already resolved"):
        shoal.get(mistaken.remote(shoal.put(1)))


def test_get_of_functions_and_wrong_timeouts() -> None:
    with pytest.raises(errors.NotARefError, match=r"forget .remote"):
        shoal.get(echo)
    with pytest.raises(errors.OptionError, match="timeout"):
        shoal.get(shoal.put(1), timeout="soon")  # type: ignore[arg-type]


def test_put_of_a_ref() -> None:
    with pytest.raises(TypeError, match="put of a ref"):
        shoal.put(shoal.put(1))


def test_wait_refuses_nonsense() -> None:
    ref = shoal.put(1)
    for arguments, what in (
        (([ref, ref],), "each ref once"),
        (([ref], 0), "num_returns"),
        (([ref], 2), "num_returns"),
        (([ref], 1, -1), "negative"),
        (([ref], 1, "x"), "timeout"),
    ):
        refs, *rest = arguments
        given = dict(zip(("num_returns", "timeout"), rest))
        with pytest.raises(ValueError, match=what):
            shoal.wait(refs, **given)
    with pytest.raises(errors.NotARefError):
        shoal.wait(ref)


# ---- values that can not travel


class Session:
    def __init__(self) -> None:
        self._lock = threading.Lock()


class Request:
    def __init__(self) -> None:
        self.session = Session()


def test_an_unpicklable_argument_is_named_by_its_path() -> None:
    with pytest.raises(errors.SerializationError, match=r"args\[0\].session._lock") as caught:
        echo.remote(Request())
    assert caught.value.path == "args[0].session._lock" and isinstance(caught.value, TypeError)
    with pytest.raises(errors.SerializationError, match=r"x\['a'\]\[1\]"):
        echo.remote(x={"a": [1, threading.Lock()]})
    with pytest.raises(errors.SerializationError, match=r"value\[0\]"):
        shoal.put([threading.Lock()])
    with pytest.raises(errors.SerializationError, match=r"args\[0\]"):
        Actor.remote(threading.Lock())


def test_an_unpicklable_closure_is_named_by_its_path() -> None:
    request = Request()

    @shoal.remote
    def task() -> Any:
        return request

    with pytest.raises(errors.SerializationError, match=r"closure variable request.session._lock"):
        task.remote()


def test_an_unpicklable_result() -> None:
    @shoal.remote
    def task() -> Any:
        return {"held": threading.Lock()}

    with pytest.raises(errors.SerializationError, match=r"the returned value\['held'\]"):
        shoal.get(task.remote())


def test_an_unpicklable_exception() -> None:
    @shoal.remote
    def task() -> None:
        raise ValueError("with a lock", threading.Lock())

    with pytest.raises(errors.TaskError, match=r"ValueError: .*could not be pickled") as caught:
        shoal.get(task.remote())
    assert "raise ValueError" in caught.value.remote_traceback


def test_a_value_larger_than_the_store() -> None:
    shoal.init(num_cpus=1, object_store_memory=64 << 20)
    with pytest.raises(errors.ObjectStoreFullError, match=r"larger than .* 67,108,864") as caught:
        shoal.put(np.zeros(20_000_000))
    assert caught.value.asked_bytes >= 160_000_000 and isinstance(caught.value, MemoryError)
    with pytest.raises(errors.ObjectStoreFullError):
        echo.remote(np.zeros(20_000_000))

    @shoal.remote
    def make(n: int) -> Any:
        return np.zeros(n)

    with pytest.raises(errors.ObjectStoreFullError, match="160,000"):
        shoal.get(make.remote(20_000_000))
    assert shoal.get(make.remote(1_000_000)).sum() == 0
    captured = np.zeros(20_000_000)
    for use in (
        lambda: shoal.put(memoryview(captured)),
        lambda: shoal.put(bytearray(160_000_000)),
        lambda: echo.remote(x=bytes(160_000_000)),
        shoal.remote(lambda: captured[0]).remote,
    ):
        with pytest.raises(errors.ObjectStoreFullError, match=r"160,000,\d+ bytes is larger"):
            use()


# ---- the end of sessions and processes


async def wait_for(ref: shoal.ObjectRef) -> Any:
    return await ref


def test_handles_of_an_ended_session() -> None:
    ref = shoal.put(1)
    actor = Actor.remote()
    shoal.get(actor.work.remote())
    method = actor.work
    old = shoal.get_runtime_context().session
    shoal.shutdown()
    for use in (
        lambda: shoal.get(ref),
        lambda: shoal.get([ref]),
        lambda: shoal.wait([ref]),
        lambda: list(shoal.as_completed([ref])),
        ref.future,
        lambda: asyncio.run(wait_for(ref)),
        method.remote,
        lambda: shoal.kill(actor),
    ):
        with pytest.raises(errors.SessionEndedError, match=old):
            use()
    assert not shoal.is_initialized(), "none is started only to say so"
    shoal.init(num_cpus=1)
    now = shoal.get_runtime_context().session
    for use in (
        lambda: shoal.get(ref),
        lambda: echo.remote(ref),
        lambda: echo.remote([ref]),
        method.remote,
        actor.work.remote,
        lambda: shoal.kill(actor),
    ):
        with pytest.raises(errors.SessionEndedError, match=f"{old}.*{now}"):
            use()
    assert shoal.get(echo.remote(2)) == 2


def test_a_second_init() -> None:
    first = shoal.init(num_cpus=1)
    with pytest.raises(errors.SessionExistsError, match="ignore_reinit_error"):
        shoal.init()
    assert shoal.init(ignore_reinit_error=True)["session"] == first["session"]


def test_wrong_arguments_of_init() -> None:
    for given in (
        {"num_cpus": -1},
        {"object_store_memory": 5},
        {"namespace": ""},
        {"log_to_driver": 1},
        {"weight": 0},
        {"resources": {"GPU": 1}},
    ):
        with pytest.raises(errors.OptionError, match=next(iter(given))):
            shoal.init(**given)  # type: ignore[arg-type]
    with pytest.raises(ConnectionError, match="no session 'nowhere'"):
        shoal.init("nowhere")
    with pytest.raises(errors.OptionError, match=r"has no field 'pips'.*Valid: conda"):
        shoal.init(runtime_env={"pips": ["x"]})
    assert not shoal.is_initialized()


def test_handles_in_a_forked_child() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import os, numpy as np, shoal
                from shoal import errors
                shoal.init(num_cpus=1)
                f = shoal.remote(lambda: 1)
                ref, kept = f.remote(), shoal.get(shoal.put(np.arange(100_000)))
                shoal.get(ref)
                pid = os.fork()
                if pid == 0:
                    for use in (lambda: shoal.get(ref), lambda: f.remote(), lambda: shoal.put(1),
                                lambda: shoal.nodes(), lambda: shoal.wait([ref])):
                        try:
                            use()
                        except errors.ForkedProcessError:
                            print("refused", flush=True)
                    print(kept[-1], flush=True)
                    raise SystemExit
                os.waitpid(pid, 0)
                print("parent", shoal.get(f.remote()), shoal.get(ref))
                """
            ),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = ["refused"] * 5 + ["99999", "parent 1 1"]
    assert done.stdout.splitlines() == expected, done.stdout + done.stderr


# ---- tasks that end their process


def test_sys_exit_in_a_task() -> None:
    @shoal.remote
    def leave(code: Any) -> None:
        sys.exit(code)

    with pytest.raises(errors.TaskError, match=r"sys.exit\(3\)") as caught:
        shoal.get(leave.remote(3))
    assert isinstance(caught.value.cause, SystemExit) and not isinstance(caught.value, SystemExit)
    assert shoal.get(echo.remote(1)) == 1


@pytest.mark.parametrize(
    ("how", "what"),
    [("exit", "exit code 5"), ("segfault", "SIGSEGV"), ("kill", "SIGKILL")],
)
def test_a_task_whose_process_dies(how: str, what: str) -> None:
    with pytest.raises(errors.WorkerCrashedError, match=what) as caught:
        shoal.get(kill_self.remote(how))
    assert "last words" in str(caught.value) and caught.value.pid
    assert "What to do:" in str(caught.value)
    assert shoal.get(echo.remote(1)) == 1


def test_a_task_that_is_killed_from_outside(tmp_path: Any) -> None:
    @shoal.remote(max_retries=0)
    def sleep(file: str) -> None:
        print("still alive", file=sys.stderr, flush=True)
        with open(file + ".part", "w") as out:
            out.write(str(os.getpid()))
        os.rename(file + ".part", file)
        time.sleep(60)

    file = tmp_path / "pid"
    ref = sleep.remote(str(file))
    while not file.exists():
        time.sleep(0.01)
    pid = int(file.read_text())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.WorkerCrashedError, match="SIGKILL") as caught:
        shoal.get(ref)
    assert caught.value.pid == pid and "still alive" in str(caught.value)


def test_an_actor_whose_constructor_raises() -> None:
    @shoal.remote
    class Broken:
        def __init__(self) -> None:
            raise KeyError("no such model")

        def work(self) -> int:
            return 1

    actor = Broken.remote()
    for _ in range(2):
        with pytest.raises(errors.ActorDiedError, match="no such model") as caught:
            shoal.get(actor.work.remote())
        assert isinstance(caught.value.cause, KeyError) and "Broken" in str(caught.value)
    assert shoal.get(echo.remote(1)) == 1


def test_a_dead_daemon_loses_the_session() -> None:
    from shoal import lowlevel  # noqa: F401  (the daemon's pid is known to the session only)
    from shoal._runtime import session as sessions

    shoal.init(num_cpus=1)
    ref = echo.remote(1)
    shoal.get(ref)
    sleeper = shoal.remote(lambda: time.sleep(60)).remote()
    daemon = sessions.current().daemon_pid
    timer = threading.Timer(0.3, lambda: os.kill(daemon, signal.SIGKILL))
    timer.start()
    with pytest.raises(errors.SessionLostError):
        shoal.get(sleeper, timeout=SOON_S)
    for use in (lambda: shoal.get(ref), echo.remote, shoal.nodes):
        with pytest.raises(errors.SessionLostError, match="lost"):
            use()
    assert not shoal.is_initialized()
    shoal.init(num_cpus=1)
    assert shoal.get(echo.remote(5)) == 5


# ---- Ctrl-C

INTERRUPTED = """
import os, signal, sys, time, shoal
shoal.init(num_cpus=1)

@shoal.remote
def sleep(s):
    time.sleep(s)
    return s

shoal.get(sleep.remote(0))
ref = sleep.remote(3600)
for i in range(int(sys.argv[1])):
    try:
        print("waiting", flush=True)
        shoal.get(ref) if sys.argv[2] == "get" else shoal.wait([ref])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print(shoal.get(sleep.options(num_cpus=0).remote(0)), flush=True)
"""


@pytest.mark.parametrize("what", ["get", "wait"])
def test_ctrl_c_once_and_twice(what: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "2", what],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.1)  # it may wait by now; also an earlier signal is answered
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
    assert process.stdout.readline() == "0\n"
    assert process.wait(SOON_S) == 0


def processes_of(session: str) -> list[str]:
    """Command lines of what carries the session's id in its environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                if f"SHOAL_SESSION={session}".encode() in environ.read().split(b"\0"):
                    with open(f"/proc/{pid}/cmdline") as line:
                        found.append(line.read())
        except OSError:  # it ended meanwhile
            pass
    return found


UNCAUGHT = """
import time, shoal
print(shoal.init(num_cpus=1)["session"], flush=True)
ref = shoal.remote(lambda: time.sleep(3600)).remote()
print("waiting", flush=True)
shoal.get(ref)
"""


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_that_ends_the_driver_leaves_nothing(times: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", UNCAUGHT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    session = process.stdout.readline().strip()
    assert process.stdout.readline() == "waiting\n"
    eventually(lambda: len(processes_of(session)) >= 3, SOON_S, "daemon, zygote, worker")
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.03)
    assert process.wait(SOON_S) != 0
    eventually(lambda: not processes_of(session), SOON_S, "nothing is left")
