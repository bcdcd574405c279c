"""Cgroups of workers: what is read from their files, where they are made, and real ends.

Directories play groups where what matters is what stands in files; who is ended by a group is
ended in a real one. The whole of it, with the kernel's limits, is in tests/chaos.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal._runtime import worker_groups
from shoal._runtime.machine_facts import Group, enclosing_groups
from shoal._runtime.worker_groups import WorkerGroups, find_parent, make_session_group

MB = 1 << 20
PID = 4711
LATE_S = 60.0


def fill(path: Path, **files: object) -> None:
    """Files of a group, "." for "__" in their names."""
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(f"{text}\n")


def worker(groups: WorkerGroups, index: int = 3) -> Path:
    """The group of a worker that is in it."""
    path = Path(groups.open(index))
    fill(path, cgroup__procs=PID, memory__current=50 * MB, memory__max="max")
    fill(path, memory__stat=f"anon {40 * MB}\nfile {9 * MB}", memory__swap__current=MB)
    fill(path, memory__events="max 0\noom 0\noom_kill 0", memory__peak=200 * MB)
    fill(path, **{"memory__events__local": "max 0\noom 0\noom_kill 0"})
    return path


def test_what_is_anonymous_in_a_group_is_its_own_swapped_out_or_not(tmp_path: Path) -> None:
    groups = WorkerGroups(str(tmp_path))
    worker(groups)
    assert groups.own_bytes(3, PID) == 41 * MB
    assert groups.own_bytes(4, PID) is None, "it has no group"
    assert groups.row() == {"source": "cgroup", "source_why": str(tmp_path)}


def test_who_could_not_join_is_not_read_from_his_group(tmp_path: Path) -> None:
    groups = WorkerGroups(str(tmp_path))
    path = worker(groups)
    assert groups.own_bytes(3, PID + 1) is None
    groups.limit(3, PID + 1, 100 * MB)
    assert (path / "memory.max").read_text() == "max\n" and not groups.kill(3)


def test_the_limit_comes_and_goes_with_what_the_worker_is_for(tmp_path: Path) -> None:
    groups = WorkerGroups(str(tmp_path))
    path = worker(groups)
    groups.limit(3, PID, 0)
    assert (path / "memory.max").read_text() == "max\n"
    groups.limit(3, PID, 160 * MB)
    assert int((path / "memory.max").read_text()) == (50 + 160 + 10 + 16) * MB
    groups.limit(3, PID, 0)
    assert (path / "memory.max").read_text().startswith("max")


def test_whom_the_kernel_ended_is_known_and_whether_it_was_his_own_limit(tmp_path: Path) -> None:
    groups = WorkerGroups(str(tmp_path))
    path = worker(groups)
    assert groups.killed(3) == groups.killed(4) == ("", 0)
    fill(path, memory__events="max 0\noom 0\noom_kill 1")
    evidence, peak = groups.killed(3)
    assert evidence == f"oom_kill in {path}/memory.events is 1" and peak == 0, "the node's"
    groups.limit(3, PID, 100 * MB)
    fill(path, **{"memory__events__local": "max 9\noom 1\noom_kill 1"})
    assert groups.killed(3)[1] == 150 * MB, "its peak, without what it had before"


def test_without_groups_nothing_is_made_and_nothing_known() -> None:
    groups = WorkerGroups("", "no cgroup v2 is mounted")
    assert groups.open(3) == "" and groups.own_bytes(3, PID) is None and not groups.kill(3)
    groups.label(3, 1)
    groups.limit(3, PID, MB)
    groups.close(3)
    groups.end()
    assert groups.killed(3) == ("", 0) and groups.end_left(()) == 0
    assert groups.row() == {"source": "proc", "source_why": "no cgroup v2 is mounted"}


def test_groups_are_made_only_where_that_is_ours_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Group("/sys/fs/cgroup/memory", is_v2=False), Group(str(tmp_path), is_v2=True)]
    monkeypatch.setattr(worker_groups, "enclosing_groups", lambda _: found)
    fill(tmp_path, cgroup__controllers="cpu", cgroup__procs="", cgroup__subtree_control="")
    assert find_parent("none") == ("", "SHOAL_CGROUP=none")
    assert find_parent("") == ("", f"{tmp_path} has no memory controller")
    fill(tmp_path, cgroup__controllers="cpu memory")
    marks: dict[str, bytes] = {}

    def getxattr(path: str, name: str) -> bytes:
        if name not in marks:
            raise OSError
        return marks[name]

    monkeypatch.setattr(os, "getxattr", getxattr)
    read = worker_groups.read
    own = "0::/user.slice\n"
    monkeypatch.setattr(
        worker_groups, "read", lambda path: own if path == "/proc/self/cgroup" else read(path)
    )
    assert find_parent("") == ("", f"{tmp_path} is not delegated")
    assert find_parent(f"{tmp_path}/") == (str(tmp_path), ""), "it was named"
    marks["user.delegate"] = b"1"
    assert find_parent("") == (str(tmp_path), "")
    marks.clear()
    fill(tmp_path, cgroup__subtree_control="memory")
    assert find_parent("") == (str(tmp_path), ""), "it gives memory to its groups already"
    found[1] = Group(str(tmp_path / worker_groups.REST), is_v2=True)
    assert find_parent("") == (str(tmp_path), ""), "an earlier session has moved us"
    found.pop()
    assert find_parent("") == ("", "no cgroup v2 is mounted")


def test_who_may_not_make_groups_is_told_why(tmp_path: Path) -> None:
    path, why = make_session_group(str(tmp_path / "missing"))
    assert path == "" and "has no memory controller" in why
    fill(tmp_path, cgroup__controllers="memory", cgroup__procs="", cgroup__subtree_control="memory")
    path, why = make_session_group(str(tmp_path))
    assert path == "" and "gives no memory controller" in why
    assert not [entry for entry in tmp_path.iterdir() if entry.is_dir()], "nothing is left"


@pytest.fixture
def real() -> Iterator[WorkerGroups]:
    """In a cgroup v2, with or without controllers."""
    own = [group.path for group in enclosing_groups("memory") if group.is_v2]
    path = Path(own[0] if own else "/none") / f"shoal-unit-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup v2 can be made here: {error.strerror}")
    groups = WorkerGroups(str(path))
    yield groups
    worker_groups._end(str(path), LATE_S)
    assert not path.exists()


def start_in(groups: WorkerGroups, index: int) -> subprocess.Popen[str]:
    """A worker that has started somebody who is in a session of his own, and goes on if he ends."""
    path = groups.open(index)
    program = f"echo $$ > {path}/cgroup.procs; setsid sleep 600 & echo $!; wait; sleep 600"
    process = subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    end = time.monotonic() + LATE_S
    while len(worker_groups.pids_in(path)) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    groups.label(index, 7)
    assert groups._joined(index, process.pid) is not None
    return process


def wait_until_empty(path: str) -> None:
    end = time.monotonic() + LATE_S
    while worker_groups.pids_in(path):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_ends_with_all_that_it_started(real: WorkerGroups) -> None:
    process = start_in(real, 3)
    path = real._groups[3].path
    assert real.kill(3)
    assert process.wait(LATE_S) == -9
    wait_until_empty(path)
    real.close(3)
    assert not os.path.exists(path) and not real._left


def test_what_a_worker_leaves_ends_with_its_job(real: WorkerGroups) -> None:
    process = start_in(real, 3)
    path = real._groups[3].path
    process.kill()
    process.wait(LATE_S)
    real.close(3)
    assert real.end_left({7}) == 0
    assert len(worker_groups.pids_in(path)) == 1, "its job goes on"
    end = time.monotonic() + LATE_S
    while real.end_left(()):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not os.path.exists(path)


def test_the_end_of_a_session_leaves_nobody(real: WorkerGroups) -> None:
    process = start_in(real, 3)
    path = os.path.dirname(real._groups[3].path)
    worker_groups.end_session_group(path)
    assert not os.path.exists(path) and process.wait(LATE_S) == -9
