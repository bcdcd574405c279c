"""Real sessions, seen from outside: what runs, what each kind of death leaves, what is refused.

Everything is found by the session's id in /proc, never by a process' name.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from shoal import errors
from shoal._base import environment
from shoal._native import LAYOUT_HASH
from shoal._proto import frames, messages
from shoal._runtime import descendants, launch, node_spawn, session_dir, wire
from shoal._runtime.launch import Launched
from shoal._runtime.observer import Observer
from shoal._runtime.store_wire import store_messages

NOBODY = 1 << 30
"""A pid that no process has."""


def wait_until(condition: Callable[[], object], limit_s: float = 30.0) -> float:
    """Poll until ``condition()``; seconds it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + limit_s, "it did not happen in time"
        time.sleep(0.002)
    return time.monotonic() - begun


def processes_of(session: str) -> list[int]:
    """Processes that carry the session's id, and what descends from them."""
    return [each.pid for each in descendants.of_session(session, NOBODY, frozenset())]


class Running:
    """One session of a test."""

    def __init__(self, launched: Launched) -> None:
        self.launched = launched
        self.session = launched.settings.session
        self.directory = launched.settings.directory
        self.observer = Observer(launched.socket_path)
        wait_until(self.workers)

    def row(self) -> dict[str, object]:
        return self.observer.table("session")[0]

    def workers(self) -> list[dict[str, object]]:
        return self.observer.table("workers")

    def pid(self, which: str) -> int:
        return int(str(self.row()[which]))

    def is_gone(self) -> bool:
        return not processes_of(self.session) and not os.path.exists(self.directory)

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.launched.pid, 0)


@pytest.fixture
def begin(tmp_path: pathlib.Path) -> Iterator[Callable[[bool], Running]]:
    """Start sessions; whatever is left of them at the end fails the test."""
    sessions: list[Running] = []

    def start(started: bool = False) -> Running:
        variables = environment.inherited_variables()
        launched = launch.launch(
            str(tmp_path), variables, started=started, num_cpus=2, object_store_memory=64 << 20
        )
        sessions.append(Running(launched))
        return sessions[-1]

    yield start
    for session in sessions:
        with contextlib.suppress(OSError, errors.ShoalError):
            session.observer.stop()
        session.reap()
        wait_until(session.is_gone)


def pids(session: Running) -> list[object]:
    """Pids of the session's workers."""
    return [row["pid"] for row in session.workers()]


Begin = Callable[..., Running]


# ---- an idle session
def test_an_idle_session_is_a_daemon_a_zygote_and_workers(begin: Begin) -> None:
    session = begin()

    def expected() -> set[object]:
        return {session.pid("pid"), session.pid("zygote_pid"), *pids(session)}

    wait_until(lambda: set(processes_of(session.session)) == expected())


def test_an_idle_session_listens_on_no_network(begin: Begin) -> None:
    session = begin()
    sockets = set()
    for pid in processes_of(session.session):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    for table in ("tcp", "tcp6", "udp", "udp6"):
        rows = pathlib.Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        assert not {f"socket:[{row.split()[9]}]" for row in rows} & sockets


def test_an_idle_daemon_sleeps(begin: Begin) -> None:
    session = begin()

    def share(seconds: float) -> float:
        """Of one core, that the daemon uses in so many seconds."""
        before, began = cpu_s(session.launched.pid), time.monotonic()
        time.sleep(seconds)
        return (cpu_s(session.launched.pid) - before) / (time.monotonic() - began)

    # Memory is being warmed at first: it is asleep soon, not at once.
    wait_until(lambda: share(1.0) < 0.005)


def test_the_session_directory_is_closed_to_others(begin: Begin) -> None:
    session = begin()
    for directory, _, _ in os.walk(session.directory):
        assert os.stat(directory).st_mode & 0o077 == 0


# ---- deaths (RULES section 2)
def test_daemon_killed(begin: Begin) -> None:
    session = begin()
    os.kill(session.launched.pid, signal.SIGKILL)
    session.reap()
    wait_until(session.is_gone)


def test_zygote_killed_and_workers_go_on(begin: Begin) -> None:
    session = begin()
    workers = session.workers()
    zygote = session.pid("zygote_pid")
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: session.pid("zygote_pid") != zygote)
    assert {row["pid"] for row in workers} <= set(pids(session))
    victim = int(str(workers[0]["pid"]))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in pids(session))


def test_zygote_killed_and_the_store_goes_on(begin: Begin) -> None:
    session = begin(started=True)
    zygote, store = session.pid("zygote_pid"), session.pid("store_pid")
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: session.pid("zygote_pid") != zygote)
    assert session.pid("store_pid") == store
    assert session_dir.process_start_time(store)


def test_zygote_and_then_daemon_killed(begin: Begin) -> None:
    session = begin()
    zygote = session.pid("zygote_pid")
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: session.pid("zygote_pid") != zygote)
    os.kill(session.launched.pid, signal.SIGKILL)
    session.reap()
    wait_until(session.is_gone)


def test_worker_killed(begin: Begin) -> None:
    session = begin()
    victim = int(str(session.workers()[0]["pid"]))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in pids(session))
    assert not session_dir.process_start_time(victim)


def test_owner_killed(tmp_path: pathlib.Path) -> None:
    program = """
        import sys, time
        from shoal._base import environment
        from shoal._runtime import launch
        variables = environment.inherited_variables()
        print(launch.launch(sys.argv[1], variables, started=False).socket_path)
        sys.stdout.flush()
        time.sleep(100)
        """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    path = owner.stdout.readline().strip()
    with Observer(path) as observer:
        session = observer.welcome.session
        directory = observer.welcome.directory
        wait_until(lambda: observer.table("workers"))
    owner.kill()
    owner.wait()
    wait_until(lambda: not processes_of(session) and not os.path.exists(directory))
    owner.stdout.close()


def test_sigterm_ends_the_session(begin: Begin) -> None:
    session = begin()
    os.kill(session.launched.pid, signal.SIGTERM)
    session.reap()
    wait_until(session.is_gone)


def test_store_killed(begin: Begin) -> None:
    session = begin(started=True)
    ask_store(session, messages.KvPut(b"only in the store", b"1"))

    def seconds_without_it() -> float:
        store = session.pid("store_pid")
        os.kill(store, signal.SIGKILL)
        return wait_until(lambda: session.pid("store_pid") != store)

    # The best of several: what else runs here may hold up one of them.
    assert any(seconds_without_it() < 1.0 for _ in range(8))
    # What was acknowledged is on disk.
    rows = ask_store(session, messages.KvKeys(b""))
    assert isinstance(rows, messages.KvAnswer)
    assert rows.keys == [b"only in the store"]


def cpu_s(pid: int) -> float:
    """What the threads of a process have used so far; a tick is too much for one that sleeps."""
    used_ns = 0
    for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            used_ns += int((thread / "schedstat").read_text().split()[0])
    return used_ns / 1e9


def ask_store(session: Running, body: messages.Message) -> messages.Message:
    """Ask the store's process itself."""
    path = os.path.join(session.directory, session_dir.STORE_SOCKET_NAME)
    with contextlib.closing(wire.connect(path)) as connection:
        connection.settimeout(30)
        connection.sendall(store_messages().encode(1, body))
        received = wire.receive_frames(connection, frames.FrameDecoder(store_messages()))
    assert received is not None
    answer = received[0][0].body
    assert isinstance(answer, messages.Message)
    return answer


# ---- who is let in, and what is read from them
def test_garbage_closes_its_connection_and_nothing_else(begin: Begin) -> None:
    session = begin()
    for junk in (b"GET / HTTP/1.1\r\n\r\n" * 10, struct.pack("<I", 2**31), b"\1\0\0\0\xc1"):
        with contextlib.closing(wire.connect(session.launched.socket_path)) as connection:
            connection.settimeout(30)
            connection.sendall(junk)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert session.workers()


def test_a_request_before_hello_is_refused(begin: Begin) -> None:
    session = begin()
    answer = first_answer(session, messages.StopSession())
    assert isinstance(answer, messages.Failure)
    assert session.workers()


def first_answer(session: Running, body: messages.Body) -> messages.Message:
    """What a new connection gets for ``body``."""
    with contextlib.closing(wire.connect(session.launched.socket_path)) as connection:
        connection.settimeout(30)
        connection.sendall(frames.encode(1, body))
        received = wire.receive_frames(connection, frames.FrameDecoder())
    assert received is not None
    (frame,) = received[0]
    return frame.body  # type: ignore[no-any-return]


def test_another_build_is_refused_by_name(begin: Begin) -> None:
    session = begin()
    hello = messages.Hello("driver", 1, "9.9", LAYOUT_HASH ^ 1, "3.99", job=messages.JobConfig())
    answer = first_answer(session, hello)
    assert isinstance(answer, messages.Failure)
    with pytest.raises(errors.UsageError, match=r"9\.9.*3\.99"):
        raise errors.from_record(answer.record)


def test_a_process_that_is_no_worker_cannot_join_as_one(begin: Begin) -> None:
    session = begin()
    hello = messages.Hello("worker", os.getpid(), "", LAYOUT_HASH, "", index=1)
    assert isinstance(first_answer(session, hello), messages.Failure)


def test_a_thousand_idle_connections_stop_nobody(begin: Begin) -> None:
    session = begin()
    crowd = [wire.connect(session.launched.socket_path) for _ in range(500)]

    def seconds_to_an_answer() -> float:
        begun = time.monotonic()
        with Observer(session.launched.socket_path) as observer:
            observer.resources()
        return time.monotonic() - begun

    assert min(seconds_to_an_answer() for _ in range(3)) < 1.0
    for connection in crowd:
        connection.close()


def test_a_session_that_cannot_start_says_why(tmp_path: pathlib.Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        launched = launch.launch(str(tmp_path), environment.inherited_variables(), started=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(errors.ShoalError, match=r"could not be started.*ulimit -f"):
        Observer(launched.socket_path)
    os.waitpid(launched.pid, 0)
    wait_until(lambda: not processes_of(launched.settings.session))
    assert os.listdir(tmp_path) == []


def test_a_session_that_cannot_fork_ends(tmp_path: pathlib.Path) -> None:
    # Every zygote imports this one, and the daemon never does.
    (tmp_path / "cloudpickle.py").write_text("import sys\nsys.exit('broken')\n")
    variables = {**environment.inherited_variables(), "PYTHONPATH": str(tmp_path)}
    launched = launch.launch(str(tmp_path / "sessions"), variables, started=False)
    _, status = os.waitpid(launched.pid, 0)
    assert status == 0
    wait_until(lambda: not processes_of(launched.settings.session))
    assert os.listdir(tmp_path / "sessions") == []


# ---- pickle (RULES Z-1)
def test_daemon_and_store_never_load_pickle(begin: Begin) -> None:
    session = begin(started=True)
    table = ask_store(session, messages.GetTable("session"))
    assert isinstance(table, messages.Table)
    for modules in (session.row()["modules"], table.rows[0]["modules"]):
        assert isinstance(modules, list)
        assert "msgspec" in modules
        loaded = [name for name in modules if "pickle" in name or "multiprocessing" in name]
        assert loaded == []


def test_the_store_ends_with_its_daemon(begin: Begin) -> None:
    session = begin(started=True)
    store = session.pid("store_pid")
    os.kill(session.launched.pid, signal.SIGKILL)
    session.reap()
    wait_until(lambda: not session_dir.process_start_time(store))


# ---- what user code leaves behind
ESCAPE = """
    import os, signal, subprocess, sys
    import shoal

    @shoal.remote
    def escape():
        # A child in a session of its own, with an empty environment, whose parent is gone.
        command = "setsid env -i sleep 1000 > /dev/null 2>&1 < /dev/null & echo $!"
        shell = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True)
        return int(shell.stdout), os.environ["SHOAL_SESSION"]

    shoal.init(num_cpus=1)
    pid, session = shoal.get(escape.remote())
    print(pid, session, flush=True)
    if sys.argv[1] == "driver":
        os.kill(os.getpid(), signal.SIGKILL)
    elif sys.argv[1] == "daemon":
        os.kill(int(sys.stdin.readline()), signal.SIGKILL)
        sys.stdin.readline()
    else:
        shoal.shutdown()
    """


@pytest.mark.parametrize("how", ["driver", "daemon", "shutdown"])
def test_children_that_tried_to_get_away_end_with_the_session(
    how: str, tmp_path: pathlib.Path
) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ESCAPE), how],
        env={**os.environ, "SHOAL_DIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdin is not None
    child, session = driver.stdout.readline().split()
    if how == "daemon":
        with Observer(session_dir.sockets(str(tmp_path))[0]) as observer:
            daemon = observer.table("session")[0]["pid"]
        assert session_dir.process_start_time(int(child))
        driver.stdin.write(f"{daemon}\n")
        driver.stdin.flush()
    wait_until(lambda: session_dir.process_start_time(int(child)) is None, 5)
    wait_until(lambda: not processes_of(session) and not session_dir.sockets(str(tmp_path)))
    driver.communicate("\n")


# ---- interpreters
def other_environment(place: pathlib.Path) -> str:
    """A second virtual environment with the packages of this one; its interpreter."""
    (place / "bin").mkdir(parents=True)
    for name in ("pyvenv.cfg", "lib"):
        (place / name).symlink_to(pathlib.Path(sys.prefix) / name)
    (place / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    return str(place / "bin" / "python")


def test_a_job_of_another_interpreter_gets_workers_of_it(tmp_path: pathlib.Path) -> None:
    program = """
        import os, sys
        import shoal
        shoal.init("auto")

        @shoal.remote
        def who():
            os.write(1, b"from the worker\\n")
            return sys.executable, sys.argv, os.environ["SHOAL_SESSION"]

        # One write: the worker's line, shown by another thread, must not come between.
        sys.stdout.write(shoal.get(who.remote())[0] + "\\n")
        """
    variables = {**environment.inherited_variables(), "SHOAL_DIR": str(tmp_path / "sessions")}
    shoal = [sys.executable, "-m", "shoal"]
    subprocess.run([*shoal, "start", "--num-cpus", "1"], env=variables, check=True)
    try:
        python = other_environment(tmp_path / "other")
        done = subprocess.run(
            [python, "-c", textwrap.dedent(program)],
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        subprocess.run([*shoal, "stop"], env=variables, check=True)
    assert done.returncode == 0, done.stderr
    assert python in done.stdout.splitlines()


def test_a_session_that_is_not_wanted_after_all_leaves_nothing(tmp_path: pathlib.Path) -> None:
    """`init` begins the daemon before it knows the options; wrong ones end it again."""
    program = """
        import os, shoal
        try:
            shoal.init(num_cpus="many")
        except shoal.errors.OptionError:
            print("refused")
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("no child")
    """
    variables = {**environment.inherited_variables(), "SHOAL_DIR": str(tmp_path / "sessions")}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30)
    assert done.stdout.split("\n")[:2] == ["refused", "no child"], done.stderr
    wait_until(lambda: os.listdir(tmp_path / "sessions") == [])


def test_a_session_that_does_not_answer_is_given_up_wholly(tmp_path: pathlib.Path) -> None:
    launched = launch.launch(str(tmp_path), environment.inherited_variables(), started=True)
    with Observer(launched.socket_path) as observer:
        observer.resources()
    os.kill(launched.pid, signal.SIGSTOP)
    launch.give_up(launched)
    wait_until(lambda: not processes_of(launched.settings.session))
    wait_until(lambda: [path.name for path in tmp_path.rglob("*")] == ["sessions"])


def test_a_fork_that_keeps_the_settings_pipe_stops_nobody(tmp_path: pathlib.Path) -> None:
    begun = node_spawn.begin(str(tmp_path))
    kept = os.dup(begun._settings_fd)  # what the child of another thread's fork would have
    launched = launch.settle(begun, started=False, num_cpus=1)
    with Observer(launched.socket_path) as observer:
        observer.stop()
    os.waitpid(launched.pid, 0)
    os.close(kept)


def test_settings_that_cannot_be_sent_leave_nothing(tmp_path: pathlib.Path) -> None:
    begun = node_spawn.begin(str(tmp_path))
    with pytest.raises(TypeError):
        launch.settle(begun, started=False, resources={"odd": object()})  # type: ignore[dict-item]
    wait_until(lambda: not processes_of(begun.session) and not list(tmp_path.iterdir()))
