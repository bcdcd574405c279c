"""Finding and ending every process of a session, also those that tried to get away.

User code starts programs; some of them call ``setsid`` or outlive their parent. A process belongs
to a session if ``SHOAL_SESSION`` in the environment it was exec'd with says so, or if it descends
from one that does, or from the caller. The caller is a *subreaper*: an orphan becomes its child,
so what cleaned its environment and left its parent is still found by parentage.

Used by the node daemon at the end of a session and by the zygote when the daemon was killed.
Processes are signalled through a pidfd whose start time was compared, so a pid that was used
again is never hit.

What a worker has started ends with the worker: each worker leads a process group, and whoever
collects a dead one (its zygote, or the daemon once that is gone) ends its group first. What has
left the group lives to the end of its job (``strays``), or of the session.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Container

import msgspec

from shoal._base import clock

_PAUSE_S = 0.005
_EXIT_CODE = 49
"""In ``/proc/PID/stat``, behind the name."""


class Seen(msgspec.Struct, frozen=True):
    """One process as /proc shows it."""

    pid: int
    parent: int
    start_time: int


def set_process_name(name: str) -> None:
    """Set what ``ps`` and ``top`` show for this process (at most 15 characters)."""
    _write("/proc/self/comm", name.encode()[:15])


def set_oom_score(adjustment: int) -> None:
    """Tell the kernel whom to end first when memory is gone (higher: earlier); lowering may not
    be allowed."""
    try:
        _write("/proc/self/oom_score_adj", b"%d" % adjustment)
    except OSError:
        pass


def _write(path: str, data: bytes) -> None:
    """Without a file object: each worker does this as it starts."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    """Without a file object: there may be a thousand processes to look at while a program waits
    for its session to end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        whole = part = os.read(fd, 1 << 16)
        while part and len(whole) % (1 << 16) == 0:
            part = os.read(fd, 1 << 16)
            whole += part
        return whole
    finally:
        os.close(fd)


def list_processes() -> list[Seen]:
    """Return all processes that are not dead yet (zombies left out)."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            one = seen(int(name))
        except OSError:
            continue
        if one is not None:
            found.append(one)
    return found


def seen(pid: int) -> Seen | None:
    """What /proc says of process ``pid``; None: it is dead and not collected yet.

    Raises:
        OSError: there is none.
    """
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return Seen(pid, int(fields[1]), int(fields[19]))


def carries_session(pid: int, session: str) -> bool:
    """Whether process ``pid`` was exec'd with ``SHOAL_SESSION=session``."""
    try:
        return f"SHOAL_SESSION={session}".encode() in _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return False


def of_session(session: str, root: int, spared: frozenset[int], since: int = 0) -> list[Seen]:
    """Return the processes of ``session`` and the descendants of process ``root``, without
    ``spared``; ``since``: start time of the first process of the session, if that is known."""
    processes = list_processes()
    later = (each.pid for each in processes if each.start_time >= since)
    ours = {root} | {pid for pid in later if carries_session(pid, session)}
    grown = True
    while grown:
        more = {each.pid for each in processes if each.parent in ours and each.pid not in ours}
        grown = bool(more)
        ours |= more
    return [each for each in processes if each.pid in ours and each.pid not in spared]


def kill(target: Seen) -> bool:
    """Send SIGKILL to exactly that process; False if it is gone or not ours to end."""
    try:
        pidfd = os.pidfd_open(target.pid)
    except OSError:
        return False
    try:
        with open(f"/proc/{target.pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if int(fields[19]) != target.start_time:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def status_of_zombie(pid: int) -> int | None:
    """The wait status of a process that has ended and that its parent has yet to hear of."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[_EXIT_CODE]) if fields[0] == b"Z" else None


def reap(leaders: Container[int] = ()) -> dict[int, int]:
    """Collect children that have ended: wait status by pid.

    With each of ``leaders`` ends its process group: what it has started, and what these have, but
    for those who have left the group (``setsid``). Until a process has been collected nobody else
    can have its pid, so no other group is hit, and a member that forks takes the signal along.
    """
    ended: dict[int, int] = {}
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return ended
            if found.si_pid in leaders:
                _kill_group(found.si_pid)
            _, ended[found.si_pid] = os.waitpid(found.si_pid, 0)
        except ChildProcessError:
            return ended


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it led none; or its last members are somebody else's


def end_all(session: str, spared: frozenset[int], limit_s: float, since: int = 0) -> bool:
    """Kill what belongs to ``session`` or descends from this process until nothing is left.

    A process can fork while we look; so look again until a look finds nobody. False if something
    was still there after ``limit_s`` (another user's process, or one stuck in the kernel).
    """
    deadline = clock.now() + limit_s
    spared = spared | {os.getpid()}
    while True:
        targets = of_session(session, os.getpid(), spared, since)
        if not targets:
            return True
        for target in targets:
            kill(target)
        reap()
        if clock.now() > deadline:
            return False
        time.sleep(_PAUSE_S)
