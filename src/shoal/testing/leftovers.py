"""What tests leave behind when they are killed, and who removes it.

Owns: the mark that every process of a test's cluster carries, the directories of such clusters, and
the look around for those whose maker is gone.

::

    <tmp>/shoal-clusters-<uid>/          mode 0700
      <maker's pid>-<its start time>-<number>/      one cluster: a directory for each node

    SHOAL_TEST_CLUSTER=<the same name>/<node>       in the environment of all its processes, also of
                                                    children that called setsid

A maker is named by pid and start time, so a later process with its pid is somebody else. Networks
need no entry of their own: namespaces, the interfaces and rules in them go with the processes that
hold them, and those end with their maker's pipe (``networks``).

Invariants:

1. Only processes that carry the mark are ended, each through a pidfd that was opened before its
   mark was read: a pid that is used again is never hit.
2. Nothing of a maker that lives is touched, whatever it has forgotten.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from shoal._runtime import session_dir
from shoal.testing.polling import wait_until

VARIABLE = "SHOAL_TEST_CLUSTER"
_NAME = re.compile(r"(\d+)-(\d+)-\d+")
_numbers = itertools.count(1)


def root() -> Path:
    """Where directories of clusters are; of this user only."""
    return Path(session_dir.check_root(f"{tempfile.gettempdir()}/shoal-clusters-{os.getuid()}"))


def new_cluster() -> Path:
    """Remove what dead makers have left, and make the directory of a new cluster of this process.

    Its name is the mark.
    """
    remove()
    pid = os.getpid()
    started = session_dir.process_start_time(pid)
    made = root() / f"{pid}-{started}-{next(_numbers)}"
    made.mkdir(mode=0o700)
    return made


def processes(mark: str) -> dict[int, str]:
    """Living processes that carry ``mark`` (or one that begins with it and "/"), with theirs."""
    found = {}
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        carried = _mark_of(pid)
        is_alive = carried and session_dir.process_start_time(pid) is not None
        if is_alive and (carried == mark or carried.startswith(mark + "/")):
            found[pid] = carried
    return found


def end(mark: str, deadline_s: float = 10.0) -> list[int]:
    """SIGKILL to every process that carries ``mark``, until there is none; return their pids.

    Raises:
        TimeoutError: some are still there: the kernel waits for a disk or a debugger.
    """
    ended: set[int] = set()

    def are_gone() -> bool:
        left = processes(mark)
        for pid in left:
            _kill(pid, mark)
        ended.update(left)
        return not left

    if not wait_until(are_gone, deadline_s):
        raise TimeoutError(f"processes of {mark} do not end: {processes(mark)}")
    return sorted(ended)


def remove() -> list[str]:
    """End and remove everything whose maker is dead; return what there was."""
    names = {entry.name for entry in root().iterdir()}
    gone = sorted(name for name in names | marks() if is_orphaned(name))
    for name in gone:
        end(name)
        shutil.rmtree(root() / name, ignore_errors=True)
    return gone


def is_orphaned(name: str) -> bool:
    """Whether the maker of that cluster is dead."""
    match = _NAME.fullmatch(name)
    return match is not None and not session_dir.is_alive(int(match[1]), int(match[2]))


def network_namespaces(variable: str = "") -> set[int]:
    """Numbers of all network namespaces in which a process is, or that have a name.

    Args:
        variable: ``NAME=value``: only of processes with that in their environment.
    """
    places = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    if variable:
        places = [path for path in places if variable.encode() in _environment(path.name)]
    found = set()
    for path in [*(place / "ns" / "net" for place in places), *Path("/run/netns").glob("*")]:
        try:
            found.add(path.stat().st_ino)
        except OSError:
            continue  # it has just ended, or belongs to somebody else
    return found


def marks() -> set[str]:
    """Names of all clusters of which a process lives."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {mark.partition("/")[0] for mark in map(_mark_of, pids) if mark}


def _environment(pid: int | str) -> list[bytes]:
    """``NAME=value`` of each variable with which it began; none of those of others."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _mark_of(pid: int) -> str:
    prefix = VARIABLE.encode() + b"="
    for variable in _environment(pid):
        if variable.startswith(prefix):
            return variable[len(prefix) :].decode(errors="replace")
    return ""


def _kill(pid: int, mark: str) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        carried = _mark_of(pid)
        if carried == mark or carried.startswith(mark + "/"):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has just ended
    finally:
        os.close(pidfd)
