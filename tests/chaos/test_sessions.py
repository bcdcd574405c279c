"""Sessions of ``shoal start`` whose control store is killed, kept away, and loses its files."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from shoal import lowlevel
from tests.chaos import audit
from tests.chaos.loads import Appending
from tests.chaos.test_store import damage
from tests.torture.processes import eventually, kill
from tests.torture.started import Started, shoal_command

WAIT_S = 60.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with audit.session(tmp_path_factory.mktemp("chaos"), 2) as started:
        yield started


@pytest.fixture
def session(shared: Started) -> Iterator[Started]:
    """The same for all cases; each ends with the audit."""
    with audit.audited(shared):
        yield shared


def store_row(session: Started) -> dict[str, object]:
    row = session.facts()["store"]
    assert isinstance(row, dict)
    return row


def serving(session: Started, than: int = 0) -> int:
    """Wait until a store of a later epoch than ``than`` serves; its epoch."""
    eventually(
        lambda: int(str(store_row(session)["epoch"])) > than and not store_row(session)["away_s"],
        WAIT_S,
        "no control store serves",
    )
    return int(str(store_row(session)["epoch"]))


def kill_store(session: Started) -> None:
    """``kill -9``, if there is one at the moment."""
    pid = int(str(session.facts()["store_pid"]))
    if pid:
        kill(pid)


def keep_away(session: Started) -> int:
    """Kill the store and hold the lock in its place; the descriptor, whose closing lets go of it.

    The next store may be there before us, on a machine that is busy: it is killed, too."""
    lock = os.open(journal_of(session) / "lock", os.O_RDWR)

    def is_ours() -> bool:
        kill_store(session)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    eventually(is_ours, WAIT_S, "the lock of a store that was killed is free")
    return lock


def journal_of(session: Started) -> Path:
    return Path(str(store_row(session)["journal"]))


def append_under_kills(session: Started, folder: Path, actors: int, kills: int, seed: int) -> float:
    """L2 while the store is killed again and again; the longest round in seconds."""
    chance = random.Random(seed)
    load = Appending(folder, actors)
    killed = 0
    wanted = {b"%d-%d" % (seed, number): chance.randbytes(20) for number in range(kills)}
    for key, value in wanted.items():
        epoch = serving(session)
        kill_store(session)
        killed += 1
        for _ in range(chance.randrange(1, 6)):
            load.round()
        # The store may be away: the change waits for it, and is acknowledged once it is on disk.
        lowlevel.kv_put(key, value)
        serving(session, epoch)
    assert killed == kills and load.judge() == load.calls
    for key, value in wanted.items():
        assert lowlevel.kv_get(key) == value
    return load.worst_s


def test_calls_are_exact_while_the_store_is_killed(session: Started, tmp_path: Path) -> None:
    append_under_kills(session, tmp_path / "files", actors=4, kills=5, seed=2)


def work_without_store(session: Started, folder: Path, seconds: float) -> int:
    """G2: for as long as somebody else has the lock no store can serve; how many calls worked."""
    load = Appending(folder / "files", actors=3)
    load.round()
    epoch = serving(session)
    lock = keep_away(session)
    answered = threading.Event()

    def change() -> None:
        lowlevel.kv_put(b"while away", b"1")
        answered.set()

    thread = threading.Thread(target=change)
    try:
        eventually(
            lambda: any("exit code 3" in text for text in notices(session)), WAIT_S, "nobody tried"
        )
        thread.start()
        end = time.monotonic() + seconds
        for number in itertools.count():
            load.round()
            if number >= 10 and time.monotonic() >= end:
                break
        assert shoal.get(shoal.remote(os.getpid).remote(), timeout=WAIT_S) != os.getpid()
        new = Appending(folder / "new", actors=1)
        new.round()
        assert not answered.is_set(), "nothing is acknowledged that is not on disk"
        assert lowlevel.kv_get(b"while away") is None
        status = shoal_command("status", environment=session.environment)
        assert "control store: away for" in status and "1 change" in status
    finally:
        os.close(lock)
    thread.join(WAIT_S)
    assert answered.is_set() and lowlevel.kv_get(b"while away") == b"1"
    assert serving(session) > epoch
    assert load.judge() == load.calls and new.judge() == new.calls
    return load.calls + new.calls


def test_existing_work_goes_on_without_the_store(session: Started, tmp_path: Path) -> None:
    assert work_without_store(session, tmp_path, seconds=0.0) > 30


def notices(session: Started) -> list[str]:
    found = store_row(session)["notices"]
    assert isinstance(found, list)
    return [str(text) for text in found]


def losses(session: Started) -> int:
    """How often it was said that a store has less than it had acknowledged."""
    return sum("less than it had acknowledged" in text for text in notices(session))


@pytest.mark.parametrize("how", ["older", "gone"])
def test_a_store_that_lost_its_files_is_told_again(
    session: Started, how: str, tmp_path: Path
) -> None:
    """G4: the daemon knows what was acknowledged; what was deleted stays deleted."""
    journal, before = journal_of(session), losses(session)
    lowlevel.kv_put(b"deleted", b"1")
    serving(session)
    pid = int(str(session.facts()["store_pid"]))
    os.kill(pid, signal.SIGSTOP)  # so that its files are of one moment
    older = tmp_path / "older"
    shutil.copytree(journal, older)
    os.kill(pid, signal.SIGCONT)
    lowlevel.kv_delete(b"deleted")
    lowlevel.kv_put(b"kept", how.encode())
    os.kill(pid, signal.SIGSTOP)
    for file in journal.iterdir():
        if file.name != "lock":
            file.unlink()
    if how == "older":
        for file in older.iterdir():
            if file.name != "lock":
                shutil.copy(file, journal / file.name)
    os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: losses(session) > before,
        WAIT_S,
        "nobody said that something was lost",
    )
    assert lowlevel.kv_get(b"kept") == how.encode() and lowlevel.kv_get(b"deleted") is None
    lowlevel.kv_put(b"written down", b"1")
    epoch = serving(session)
    kill_store(session)
    serving(session, epoch)
    assert lowlevel.kv_get(b"kept") == how.encode() and lowlevel.kv_get(b"deleted") is None
    assert "less than it had acknowledged" in shoal_command(
        "status", environment=session.environment
    )


def test_programs_hear_of_a_full_disk_and_go_on(
    tmp_path: Path,
    failing_io: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """S1: running work needs no journal; a change waits, says why, and is there afterwards."""
    full, kept = tmp_path / "full", tmp_path / "sessions-of-test" / "kept-disk"
    monkeypatch.setenv("LD_PRELOAD", str(failing_io))
    monkeypatch.setenv("FAIL_BELOW", str(kept))
    monkeypatch.setenv("FULL_WHILE", str(full))
    with audit.session(tmp_path, 2, "--name", "disk") as started, audit.audited(started):
        serving(started)
        full.touch()
        thread = threading.Thread(target=lowlevel.kv_put, args=(b"meanwhile", b"1"))
        thread.start()
        said = []

        def heard(words: str) -> bool:
            said.append(capfd.readouterr().err)
            return words in "".join(said)

        eventually(lambda: heard("changes wait until it can"), WAIT_S, "nobody says why it waits")
        assert "shoal: control store: the journal cannot be written" in "".join(said)
        load = Appending(tmp_path / "files", actors=2)
        load.round()
        assert thread.is_alive(), "nothing is acknowledged that is not on disk"
        full.unlink()
        thread.join(WAIT_S)
        eventually(lambda: heard("can be written again"), WAIT_S, "nobody says that it is over")
        assert lowlevel.kv_get(b"meanwhile") == b"1" and load.judge() == load.calls
        del load


def test_daemons_of_programs_have_no_journal() -> None:
    code = """
        import shoal
        from shoal._runtime import cluster
        shoal.init(num_cpus=1)
        (row,) = cluster.table("session")
        print(any("sqlite" in m or m.endswith((".journal", ".control")) for m in row["modules"]))
    """
    assert run(code, dict(os.environ, SHOAL_ADDRESS="local")) == "False\n"


# ---- another session of the same name
FIRST = """
    import shoal
    from shoal import lowlevel
    from shoal.util import placement_group
    shoal.init(namespace="common")

    @shoal.remote
    class Counter:
        def __init__(self, start, *more):
            self.value = start
        def add(self):
            self.value += 1
            return self.value, shoal.get_runtime_context().incarnation

    kept = Counter.options(name="kept", lifetime="detached").remote(10)
    refs = Counter.options(name="refs", lifetime="detached").remote(1, [shoal.put(1)])
    gone = Counter.options(name="gone").remote(1)
    group = placement_group([{"CPU": 1}], name="group", lifetime="detached")
    shoal.get(group.ready())
    lowlevel.kv_put(b"k", b"v")
    print(*(shoal.get(each.add.remote()) for each in (kept, refs, gone)))
"""
SECOND = """
    import shoal
    from shoal import lowlevel, state
    shoal.init(namespace="common")
    print(shoal.get(shoal.get_actor("kept").add.remote()))
    for name in ("refs", "gone"):
        try:
            shoal.get_actor(name)
        except shoal.errors.ActorNotFoundError:
            print("no", name)
    print(lowlevel.kv_get(b"k"), [group.state for group in state.groups(name="group")])
    print(len(state.jobs(state="ENDED")) >= 2)
    shoal.util.get_placement_group("group")
    shoal.kill(shoal.get_actor("kept"))
"""
THIRD = """
    import shoal
    shoal.init(namespace="common")
    try:
        shoal.get_actor("kept")
    except shoal.errors.ActorNotFoundError:
        print("no kept")
"""


def run(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("end", ["stop", "killed"])
def test_a_named_session_goes_on(tmp_path: Path, end: str) -> None:
    environment = {**os.environ, "SHOAL_DIR": str(tmp_path)}
    environment.pop("SHOAL_ADDRESS", None)

    def command(*words: str) -> str:
        return shoal_command(*words, environment=environment)

    command("start", "--num-cpus", "2", "--name", "house")
    try:
        assert run(FIRST, environment) == "(11, 1) (2, 1) (2, 1)\n"
        if end == "stop":
            command("stop")
        else:
            kill_daemon(tmp_path)
        command("start", "--num-cpus", "2", "--name", "house")
        assert "started as house" in command("status")
        out = run(SECOND, environment)
        assert out == "(11, 2)\nno refs\nno gone\nb'v' ['CREATED']\nTrue\n"
        if end == "killed":
            return
        command("stop")
        (journal,) = (tmp_path / "kept-house").glob("journal-*.db")
        damage(journal, "cut", random.Random(3))
        said = command("start", "--num-cpus", "2", "--name", "house")
        assert "is damaged" in said and "the last good state is used: copy-" in said, said
        assert run(THIRD, environment) == "no kept\n"
        command("stop")
        command("start", "--num-cpus", "2", "--name", "house", "--fresh")
        assert "none" in command("list", "jobs")
    finally:
        command("stop")


def kill_daemon(root: Path) -> None:
    """``kill -9`` of the node daemon, and wait until its store has let go of the journal."""
    (entry,) = (root / "sessions").glob("*.json")
    os.kill(json.loads(entry.read_text())["pid"], signal.SIGKILL)
    with open(root / "kept-house" / "lock", "rb") as lock:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                assert time.monotonic() < deadline, "the store lives on without its daemon"
                time.sleep(0.02)
