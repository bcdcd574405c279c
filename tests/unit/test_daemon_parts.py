"""Parts of the daemon that need no daemon: directories, the machine."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from shoal._base import clock
from shoal._runtime import (
    daemon_memory,
    descendants,
    machine_facts,
    registry,
    session_dir,
)
from shoal._runtime.registry import Entry
from tests.torture.processes import eventually


# ---- session directories
def test_a_session_directory_is_for_its_owner_only(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path / "root")
    path = session_dir.create(root, "one")
    assert os.stat(root).st_mode & 0o777 == 0o700
    assert os.stat(path).st_mode & 0o777 == 0o700
    session_dir.remove(path)
    session_dir.remove(path)
    assert not os.path.exists(path)


def test_an_open_root_is_closed_and_a_link_is_refused(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    session_dir.check_root(str(root))
    assert root.stat().st_mode & 0o777 == 0o700
    link = tmp_path / "link"
    link.symlink_to(root)
    with pytest.raises(session_dir.SessionDirectoryError, match="SHOAL_DIR"):
        session_dir.check_root(str(link))


def test_nothing_but_a_session_directory_is_ever_removed(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="not a session directory"):
        session_dir.remove(str(tmp_path))
    assert tmp_path.exists()


def test_dead_sessions_leave_the_registry(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path)
    mine = session_dir.process_start_time(os.getpid())
    assert mine is not None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    living = Entry("b", session_dir.create(root, "b"), os.getpid(), mine)
    dead = Entry("a", session_dir.create(root, "a"), ended.pid, 1)
    reused = Entry("c", session_dir.create(root, "c"), os.getpid(), mine + 1)
    for entry in (living, dead, reused):
        registry.register(root, entry)
    (tmp_path / "sessions" / "torn.json").write_bytes(b'{"session"')
    assert registry.started_sessions(root) == [living]
    assert os.listdir(tmp_path / "sessions") == ["b.json"]
    assert sorted(name for name in os.listdir(root)) == ["session-b", "sessions"]


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    start_time = session_dir.process_start_time(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not session_dir.is_alive(child.pid, start_time or 0)
    child.wait()


# ---- the machine
def test_a_group_ends_with_its_leader_before_that_is_collected() -> None:
    program = "import os; os.setsid(); os.write(1, b'%d\\n' % os.fork()); os.read(0, 1)"
    leader = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert leader.stdout is not None
    said = {leader.stdout.readline().strip(), leader.stdout.readline().strip()}
    (child,) = (int(word) for word in said - {"0"})
    leader.kill()
    eventually(lambda: session_dir.process_start_time(leader.pid) is None, 30, "it ends")
    assert session_dir.process_start_time(child) is not None
    assert descendants.reap({leader.pid}) == {leader.pid: signal.SIGKILL}
    eventually(lambda: session_dir.process_start_time(child) is None, 30, "its child ends")
    leader.returncode = -signal.SIGKILL


def test_what_this_process_may_use_is_within_what_there_is() -> None:
    assert 0 < machine_facts.usable_cores() <= (os.cpu_count() or 1)
    in_all = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < machine_facts.usable_memory_bytes() <= in_all
    assert 0 < machine_facts.Headroom().bytes_free() <= in_all
    assert machine_facts.gpu_count("") == 0


def test_a_core_is_free_if_it_was_idle_of_late(tmp_path: pathlib.Path) -> None:
    stat = tmp_path / "stat"

    def idle(ticks: int) -> None:
        stat.write_text(f"cpu  1 2 3 {ticks} 5 6\ncpu0 1 2 3 4\n")

    idle(1000)
    cores = machine_facts.IdleCores(10.0, str(stat))
    assert not cores.is_one_free(10.1), "too early to know"
    idle(1200)
    assert cores.is_one_free(11.0)
    idle(1201)
    assert cores.is_one_free(11.1), "the last answer holds for a while"
    assert not cores.is_one_free(12.0)


# ---- warm memory
class WarmedInSteps:
    """Loop, node memory, headroom and cores in one: what `Warming` asks for, on a clock of ours."""

    STEP_CPU_S = 0.01

    def __init__(self, monkeypatch: pytest.MonkeyPatch, is_core_free: bool) -> None:
        self.now = self.cpu = 0.0
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.budgets: list[int] = []
        self.is_core_free = is_core_free
        self.is_asked_for_memory = False
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(clock, "cpu", lambda: self.cpu)
        monkeypatch.setattr(daemon_memory, "IdleCores", lambda now: self)

    def is_one_free(self, now: float) -> bool:
        return self.is_core_free

    def bytes_for_values(self) -> int:
        return 8 << 30

    def populate(self, budget_bytes: int, headroom_bytes: int) -> tuple[int, bool]:
        self.budgets.append(budget_bytes)
        self.cpu += self.STEP_CPU_S
        self.now += self.STEP_CPU_S
        return budget_bytes, True

    def call_when_idle(self, call: Callable[[], None]) -> None:
        self.call_later(0.0, call)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.later.append((self.now + delay_s, call))

    def go_on_until(self, end: float) -> None:
        while due := [entry for entry in self.later if entry[0] <= end]:
            entry = min(due, key=lambda entry: entry[0])
            self.later.remove(entry)
            self.now = max(self.now, entry[0])
            entry[1]()
        self.now = max(self.now, end)


@pytest.mark.parametrize(("is_core_free", "share"), [(True, 0.5), (False, 0.05)])
def test_what_nobody_waits_for_takes_little_of_a_core(
    monkeypatch: pytest.MonkeyPatch, is_core_free: bool, share: float
) -> None:
    machine = WarmedInSteps(monkeypatch, is_core_free)
    warming = daemon_memory.Warming(machine, machine, machine, bool)  # type: ignore[arg-type]
    warming.start()
    machine.go_on_until(5.0)
    assert machine.cpu == pytest.approx(5.0 * share, rel=0.15)
    small = daemon_memory.BUSY_STEP_BYTES
    assert all(budget <= small for budget in machine.budgets) != is_core_free


def test_busy_cores_give_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = WarmedInSteps(monkeypatch, is_core_free=False)
    warming = daemon_memory.Warming(machine, machine, machine, bool)  # type: ignore[arg-type]
    warming.start()
    machine.go_on_until(100.0)
    given = daemon_memory.BUSY_CPU_S
    assert given <= machine.cpu <= given + 3 * machine.STEP_CPU_S
    machine.is_core_free = True
    machine.go_on_until(120.0)
    assert machine.cpu > 5 * given, "it goes on where a core is free"


def test_nothing_is_warmed_while_the_daemon_works(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = WarmedInSteps(monkeypatch, is_core_free=True)
    warming = daemon_memory.Warming(machine, machine, machine, bool)  # type: ignore[arg-type]
    warming.start()
    for tenth in range(1, 100):
        warming.work_was_done()
        machine.go_on_until(tenth / 10)
    assert machine.budgets == [daemon_memory.STEP_BYTES], "only the first step of the start"
    machine.is_asked_for_memory = True
    warming.bell_rang()
    assert len(machine.budgets) == 2, "who asks is served at once"
