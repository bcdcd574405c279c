"""Finds the processes of one session as the kernel knows them, by the mark in their environment.

Every process of a session carries `SHOAL_SESSION=<id>` in the environment it was started with, also
children that user code made and that called `setsid`. Names and parents prove nothing; this does. A
driver that started a session is not marked: it is a user's program.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX"


def session_pids(session: str) -> set[int]:
    """Every living process of the session."""
    mark = f"SHOAL_SESSION={session}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if mark in environment.split(b"\0") and is_running(int(entry.name)):
            found.add(int(entry.name))
    return found


def is_worker(pid: int) -> bool:
    """Whether the process calls itself a worker; a fork of the zygote that has just begun may not
    yet."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("shoal-worker")
    except OSError:
        return False


def kill(pid: int) -> None:
    """SIGKILL; nothing happens if it is gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def eventually(condition: Callable[[], T], deadline_s: float, what: str) -> T:
    """Poll until `condition` gives something true; fails with `what` and the last answer."""
    end = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {what} (last: {answer!r})"
        time.sleep(0.01)
    return answer


def tcp_listeners(pids: set[int]) -> list[str]:
    """Local addresses on which one of the processes listens for TCP."""
    inodes = set()
    for pid in pids:
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(link)
                if target.startswith("socket:["):
                    inodes.add(target[len("socket:[") : -1])
        except OSError:
            continue
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1])
    return found


def cpu_s(pids: set[int]) -> float:
    """CPU seconds that the processes have used so far."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """How many descriptors the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def own_memory_bytes(pid: int) -> int:
    """Memory of the process that it shares with nobody (node memory is not in it); 0 if gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def signal_session_process(pid: int, session: str, number: int) -> bool:
    """Signal the process if it is still one of the session; a pid that is used again never is."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if f"SHOAL_SESSION={session}".encode() not in Path(f"/proc/{pid}/environ").read_bytes():
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)
