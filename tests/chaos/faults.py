"""What is done to a session at work, drawn from one seed; each fault ends before the next audit.

==========  ========================================================================================
kill        SIGKILL of a worker, an actor's process, the zygote (once it has forked) or the store
stop        SIGSTOP of one of them for a while, or of the node daemon for a shorter while
full        the disk below the session (logs, journal, spilled values) has no byte left for a while
corrupt     some bytes of a file of spilled values change
pressure    half of node memory is held by somebody else for a while
==========  ========================================================================================
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import shoal
from tests.torture.faults import Targets
from tests.torture.processes import signal_session_process
from tests.torture.started import Started

KILLS = {"worker": 10, "actor": 6, "store": 3, "zygote": 1}
STOPS = {"worker": 6, "actor": 4, "zygote": 2, "store": 2, "daemon": 1}
KINDS = {"kill": 12, "stop": 6, "full": 1, "corrupt": 3, "pressure": 1}
LEAST_S, MOST_S = 0.05, 1.5
DAEMON_MOST_S = 0.3
DISK_BYTES = 1 << 30


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int = DISK_BYTES) -> Iterator[bool]:
    """A tmpfs of ``size_bytes`` on ``folder``, if we may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes},mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


class Faults:
    """One at a time begins; those that last end by themselves."""

    def __init__(self, started: Started, disk: Path | None, chance: random.Random) -> None:
        self._started = started
        self._disk = disk
        self.chance = chance
        self._targets = Targets(started)
        self._lasting: list[threading.Thread] = []
        self._over = threading.Event()
        self.injected: Counter[str] = Counter()

    def inject(self) -> None:
        """One fault, if there is somebody to meet it."""
        (kind,) = self.chance.choices(list(KINDS), list(KINDS.values()))
        name = getattr(self, f"_{kind}")()
        if name:
            self.injected[name] += 1

    def end(self) -> None:
        """All of them are over."""
        self._over.set()
        for thread in self._lasting:
            thread.join()

    def _victim(self, roles: dict[str, int]) -> tuple[str, int]:
        (role,) = self.chance.choices(list(roles), list(roles.values()))
        pids = self._targets.pids(role)
        return (role, self.chance.choice(pids)) if pids else ("", 0)

    def _kill(self) -> str:
        role, pid = self._victim(KILLS)
        if not pid or not signal_session_process(pid, self._started.session, signal.SIGKILL):
            return ""
        self._targets.forget()
        return f"kill {role}"

    def _stop(self) -> str:
        role, pid = self._victim(STOPS)
        if not pid or not signal_session_process(pid, self._started.session, signal.SIGSTOP):
            return ""
        seconds = self.chance.uniform(LEAST_S, DAEMON_MOST_S if role == "daemon" else MOST_S)
        self._later(lambda: self._go_on(pid, seconds))
        return f"stop {role}"

    def _go_on(self, pid: int, seconds: float) -> None:
        self._over.wait(seconds)
        signal_session_process(pid, self._started.session, signal.SIGCONT)

    def _full(self) -> str:
        if self._disk is None:
            return ""
        seconds = self.chance.uniform(LEAST_S, MOST_S)
        disk = self._disk
        filler = disk / f"filler-{self.chance.getrandbits(32)}"  # one may still be there
        self._later(lambda: self._fill(filler, seconds))
        return "disk full"

    def _fill(self, path: Path, seconds: float) -> None:
        with path.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
            self._over.wait(seconds)
        path.unlink()

    def _corrupt(self) -> str:
        if self._disk is None:
            return ""
        files = sorted(self._disk.rglob("*.spill"))
        if not files:
            return ""
        with contextlib.suppress(OSError):
            fd = os.open(self.chance.choice(files), os.O_RDWR)
            try:
                at = self.chance.randrange(max(1, os.fstat(fd).st_size))
                os.pwrite(fd, bytes(byte ^ 0xFF for byte in os.pread(fd, 64, at)), at)
            finally:
                os.close(fd)
            return "corrupt spilled value"
        return ""

    def _pressure(self) -> str:
        capacity = int(str(self._started.facts()["memory_capacity_bytes"]))
        seconds = self.chance.uniform(LEAST_S, MOST_S)
        self._later(lambda: self._press(capacity // 2, seconds))
        return "memory pressure"

    def _press(self, size: int, seconds: float) -> None:
        held = []
        with contextlib.suppress(shoal.errors.ObjectStoreFullError):
            for _ in range(8):
                held.append(shoal.put(bytes(size // 8)))
        self._over.wait(seconds)

    def _later(self, rest: object) -> None:
        thread = threading.Thread(target=rest)  # type: ignore[arg-type]
        self._lasting = [each for each in self._lasting if each.is_alive()] + [thread]
        thread.start()
