"""A cgroup v2 for each worker, where the kernel lets us make some: the best source for its memory.

::

    P                       the group that we were started in
    P/shoal-rest            who was in P: a group whose groups have limits may have no processes
    P/shoal-PID.START       of this session; PID and START TIME of its node daemon
    P/shoal-PID.START/3.17  of worker 3, the 17th that was started

Such a group knows the memory of a worker and of all that it has started, wherever that went. The
kernel itself holds its limit (``memory=``, and some more for what is no allocation), ends all of
it at once and says so: nobody has to look in time, and nobody is guessed. And all of it can be
ended with one write, also what has called ``setsid``, lost its parent and cleaned its environment.

1. Groups are made only where that is ours to do: P has the memory controller and can be written
   to, and either gives it to its groups already, or has been *delegated* (systemd marks such
   groups; the root of a cgroup namespace is a container's own), or ``SHOAL_CGROUP`` names it.
   Elsewhere there are none, nothing is moved, and memory is read from /proc.
2. A worker joins its group by itself, before anything of the user's runs. Who is not in it (no
   permission) is read from /proc as if there were none.
3. ``memory.high`` is not used: who is over it because of memory that the kernel holds for him is
   slowed down for ever and never ended.
4. Memory of values was touched first by the node daemon, so it is charged to nobody's group.
5. At the end all is as it was: groups removed, who was moved is moved back. If daemon and zygote
   are killed both, the next session in P removes what is empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Container, Iterator

import msgspec

from shoal._base import clock, environment
from shoal._runtime import session_dir
from shoal._runtime.machine_facts import enclosing_groups

REST = "shoal-rest"
PREFIX = "shoal-"
NO_GROUPS = "none"
BESIDES_BYTES = 16 << 20
BESIDES_SHARE = 16
"""A limit is higher than what was asked for by so much, and one part in so many: page tables and
stacks in the kernel, and files that are being read, count in a group."""
MOVES_MOST = 20
"""Times to look for processes that were forked while others were moved."""
END_S = 2.0
"""Time for what is in a session's group to be gone after SIGKILL."""
END_PAUSE_S = 0.005


# ---- files of groups
def read(path: str) -> str:
    """What the file says; "": it is not there, or not for us to see."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def write(path: str, text: str) -> bool:
    """Whether the kernel took it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def field(path: str, name: str) -> int:
    """That line of a file of names and numbers; 0: there is none."""
    for line in read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def number(path: str) -> int:
    """What a file of one number says; 0: nothing, or no limit."""
    text = read(path).strip()
    return int(text) if text.isdigit() else 0


def join(path: str) -> None:
    """This process, and what it will start, is in that group from now on, if it may."""
    write(path + "/cgroup.procs", "0")


def pids_in(path: str) -> list[int]:
    """Processes of the group itself."""
    return [int(line) for line in read(path + "/cgroup.procs").split()]


def children_of(path: str) -> list[str]:
    """Names of the groups in it."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _remove(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def _end(path: str, limit_s: float = 0.0) -> bool:
    """End all that is in it, and remove it; False if it is still there after ``limit_s``."""
    deadline = clock.now() + limit_s
    while not _remove(path):
        # (An old kernel has no such file: who is in there is ended as without groups.)
        write(path + "/cgroup.kill", "1")
        for name in children_of(path):
            _remove(f"{path}/{name}")
        if _remove(path):
            break
        if clock.now() >= deadline:
            return False
        time.sleep(END_PAUSE_S)
    return True


@contextlib.contextmanager
def _alone(parent: str) -> Iterator[None]:
    """No other session changes that group meanwhile."""
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# ---- where
def _is_delegated(path: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            pass
    # The machine's own root has no such file; that of a cgroup namespace has.
    is_root = any(line == "0::/" for line in read("/proc/self/cgroup").splitlines())
    return is_root and os.path.exists(path + "/cgroup.type")


def find_parent(wanted: str) -> tuple[str, str]:
    """(the group below which ours may be made, "") or ("", why there is none); ``wanted`` as in
    ``SHOAL_CGROUP``."""
    if wanted == NO_GROUPS:
        return "", "SHOAL_CGROUP=none"
    path = wanted.rstrip("/")
    if not path:
        path = next((each.path for each in enclosing_groups("memory") if each.is_v2), "")
        path = path.rstrip("/")
    if not path:
        return "", "no cgroup v2 is mounted"
    if os.path.basename(path) == REST:
        path = os.path.dirname(path)
    if "memory" not in read(path + "/cgroup.controllers").split():
        return "", f"{path} has no memory controller"
    if not os.access(path, os.W_OK) or not os.access(path + "/cgroup.procs", os.W_OK):
        return "", f"{path} is not ours to write to"
    gives = "memory" in read(path + "/cgroup.subtree_control").split()
    if not (gives or wanted or _is_delegated(path)):
        return "", f"{path} is not delegated"
    return path, ""


def _move(source: str, target: str) -> bool:
    """All processes; also those that are forked meanwhile."""
    for _ in range(MOVES_MOST):
        pids = pids_in(source)
        if not pids:
            return True
        for pid in pids:
            write(target + "/cgroup.procs", str(pid))
    return not pids_in(source)


def _give_memory(parent: str) -> bool:
    """Have the groups in it have the memory controller."""
    control = parent + "/cgroup.subtree_control"
    if "memory" in read(control).split() or write(control, "+memory"):
        return True
    rest = f"{parent}/{REST}"
    try:
        os.makedirs(rest, exist_ok=True)
    except OSError:
        return False
    if _move(parent, rest) and write(control, "+memory"):
        return True
    _move(rest, parent)
    _remove(rest)
    return False


def _take_memory_back(parent: str) -> None:
    """As it was before the first session, if this was the last one."""
    rest = f"{parent}/{REST}"
    if children_of(parent) != [REST]:
        return
    if write(parent + "/cgroup.subtree_control", "-memory"):
        _move(rest, parent)
        _remove(rest)


def _remove_dead_sessions(parent: str) -> None:
    for name in children_of(parent):
        pid, _, start_time = name.removeprefix(PREFIX).partition(".")
        if not (name.startswith(PREFIX) and pid.isdigit() and start_time.isdigit()):
            continue
        path = f"{parent}/{name}"
        is_empty = not field(path + "/cgroup.events", "populated")
        if is_empty and not session_dir.is_alive(int(pid), int(start_time)):
            for each in children_of(path):
                _remove(f"{path}/{each}")
            _remove(path)


def make_session_group(wanted: str) -> tuple[str, str]:
    """(its path, "") or ("", why there is none)."""
    parent, why = find_parent(wanted)
    if not parent:
        return "", why
    path = f"{parent}/{PREFIX}{os.getpid()}.{session_dir.process_start_time(os.getpid())}"
    try:
        with _alone(parent):
            _remove_dead_sessions(parent)
            if not _give_memory(parent):
                return "", f"{parent} gives no memory controller to groups in it"
            os.mkdir(path)
            if write(path + "/cgroup.subtree_control", "+memory"):
                return path, ""
            _remove(path)
            return "", f"{path} gives no memory controller to groups in it"
    except OSError as error:
        return "", f"no group can be made in {parent}: {error.strerror}"


def end_session_group(path: str) -> None:
    """End all that is in it, and leave nothing of it."""
    if not path:
        return
    parent = os.path.dirname(path)
    with contextlib.suppress(OSError), _alone(parent):
        _end(path, END_S)
        _take_memory_back(parent)


# ---- of workers
class Group(msgspec.Struct):
    """One worker's."""

    path: str
    job: int = -1
    is_joined: bool = False
    base: int = 0
    """What was in it when it got its limit."""
    is_limited: bool = False


class WorkerGroups:
    """All of a session; where there are none, nothing happens and nothing is known."""

    def __init__(self, path: str, why: str = "") -> None:
        self.path = path
        """Of the session; "": there are none."""
        self.why = why
        """There are none."""
        self._groups: dict[int, Group] = {}
        self._left: list[Group] = []
        """Their worker is gone; something that it started may be there."""
        self._made = 0

    @classmethod
    def make(cls) -> WorkerGroups:
        """Of a session that begins."""
        path, why = make_session_group(environment.read().cgroup)
        what = f"each has a cgroup below {path}" if path else f"read from /proc: {why}"
        print(f"memory of workers: {what}", file=sys.stderr, flush=True)
        return cls(path, why)

    def row(self) -> dict[str, str]:
        """For people."""
        return {"source": "cgroup" if self.path else "proc", "source_why": self.path or self.why}

    def open(self, index: int) -> str:
        """A group for the worker that is about to be started; "": it has none."""
        if not self.path:
            return ""
        self._made += 1
        path = f"{self.path}/{index}.{self._made}"
        try:
            os.mkdir(path)
        except OSError:
            return ""
        # Half of a worker is of no use to anybody.
        write(path + "/memory.oom.group", "1")
        self._groups[index] = Group(path)
        return path

    def label(self, index: int, job: int) -> None:
        """Whom the worker works for."""
        group = self._groups.get(index)
        if group is not None:
            group.job = job

    def _joined(self, index: int, pid: int) -> Group | None:
        group = self._groups.get(index)
        if group is None or group.is_joined:
            return group
        if pid not in pids_in(group.path):
            return None
        group.is_joined = True
        return group

    def own_bytes(self, index: int, pid: int) -> int | None:
        """What the worker and all that it started have for themselves, swapped out or not; None:
        nobody knows."""
        group = self._joined(index, pid)
        if group is None:
            return None
        anonymous = field(group.path + "/memory.stat", "anon")
        return anonymous + number(group.path + "/memory.swap.current")

    def limit(self, index: int, pid: int, declared: int) -> None:
        """From now on it may take ``declared`` bytes more than it has, and a little; 0: as many as
        there are."""
        group = self._joined(index, pid)
        if group is None or not (declared or group.is_limited):
            return
        if not declared:
            group.is_limited = not write(group.path + "/memory.max", "max")
            return
        group.base = number(group.path + "/memory.current")
        most = group.base + declared + declared // BESIDES_SHARE + BESIDES_BYTES
        group.is_limited = write(group.path + "/memory.max", str(most))

    def killed(self, index: int) -> tuple[str, int]:
        """(what shows that the kernel ended the worker for its memory, the most that it took since
        it had a limit, if that was the limit which it met); ("", 0): it did not."""
        group = self._groups.get(index)
        if group is None:
            return "", 0
        path = group.path + "/memory.events"
        count = field(path, "oom_kill")
        if not count:
            return "", 0
        peak = 0
        if group.is_limited and field(path + ".local", "oom"):
            most = number(group.path + "/memory.peak") or number(group.path + "/memory.max")
            peak = max(1, most - group.base)
        return f"oom_kill in {path} is {count}", peak

    def kill(self, index: int) -> bool:
        """End the worker and all that it started; False if that has to be done otherwise."""
        group = self._groups.get(index)
        return group is not None and group.is_joined and write(group.path + "/cgroup.kill", "1")

    def close(self, index: int) -> None:
        """The worker is gone."""
        group = self._groups.pop(index, None)
        if group is not None and not _remove(group.path):
            self._left.append(group)

    def end_left(self, running: Container[int]) -> int:
        """What workers have left behind ends with their job; how many groups could not be removed
        at once although nobody may be in there any more."""
        stuck = 0
        for group in list(self._left):
            is_over = group.job not in running
            if _end(group.path) if is_over else _remove(group.path):
                self._left.remove(group)
            else:
                stuck += is_over
        return stuck

    def end(self) -> None:
        """The session is over."""
        end_session_group(self.path)
