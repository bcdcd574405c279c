"""How much memory workers have: performs ``ReadMemory``.

A process's own memory is what is anonymous in it and in the processes that it has started: node
memory, which all of them have mapped, is nobody's own. The quick figure is one small file per
process (``statm``: resident without shared). It counts pages that a forked child shares with its
parent twice, so where there are children, and it matters, the kernel is asked for the exact share
(``smaps_rollup``), which takes a thousand times as long for a large process. Where each worker has
a cgroup of its own (``worker_groups``), that says it better; what a fresh worker has is added, so
that figures of both kinds can be compared: the zygote's pages that it shares are not its group's.

Workers that are idle are read once when they have become so, and now and then.

A limit of the session's own (``SHOAL_MEMORY_BYTES``) is compared with what the session's processes
and node memory have together; else what the machine and every enclosing group say holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from shoal._core import commands, events
from shoal._core.events import AnyEvent, ProcessMemory
from shoal._native import Memory
from shoal._runtime.daemon_processes import Processes
from shoal._runtime.machine_facts import Pressure

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
IDLE_LOOKS = 16
"""An idle worker is read again after so many looks."""
NEAR_SHARE = 0.8
"""Of the node's memory: above it is told what programs have, and what of the store is warm and free
goes, but for the reserve that is kept at such times: nobody is ended for memory that none uses."""
CHILDREN_MOST = 1000


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # it has just gone
        return b""
    finally:
        os.close(fd)


def quick_bytes(pid: int) -> int:
    """What the process has for itself, pages that it shares with its parent included."""
    fields = _read(f"/proc/{pid}/statm").split()
    return max(0, int(fields[1]) - int(fields[2])) * PAGE_BYTES if len(fields) > 2 else 0


def exact_bytes(pid: int) -> int:
    """The same with its part of what it shares; 0 if the kernel does not say."""
    total = 0
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith((b"Pss_Anon:", b"SwapPss:")):
            total += int(line.split()[1]) << 10
    return total


def children_of(pid: int) -> list[int]:
    """Processes that it has started, from whichever thread, and theirs."""
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < CHILDREN_MOST:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:  # it has just gone
            continue
        words = [_read(f"/proc/{parent}/task/{each}/children").split() for each in threads]
        children = [int(word) for row in words for word in row]
        found += children
        waiting += children
    return found


def own_bytes(pid: int, exact_above: int) -> int:
    """What the process and what it has started have for themselves."""
    children = children_of(pid)
    quick = quick_bytes(pid) + sum(quick_bytes(child) for child in children)
    if not children or quick < exact_above:
        return quick
    exact = sum(exact_bytes(each) for each in (pid, *children))
    return min(quick, exact) if exact else quick


class ProcessMemories:
    """Reads what the machine wants to know."""

    def __init__(
        self,
        memory: Memory,
        post: Callable[[AnyEvent], None],
        processes: Processes,
        limit_bytes: int,
    ) -> None:
        """``limit_bytes``: of the session's own; 0: what the machine has."""
        self._memory = memory
        self._post = post
        self._processes = processes
        self._limit_bytes = limit_bytes
        self._oom_kills = processes.oom_kills
        self._groups = processes.groups
        self._fresh = 0
        self._pressure = Pressure()
        self._idle: dict[int, int] = {}
        """Workers that were read while they were idle, and looks since."""
        self._functions: dict[int, tuple[int, int]] = {}
        """The task whose function was asked for, and the function, by worker."""
        self.zygote_pid: Callable[[], int] = lambda: 0
        self.drivers: Callable[[], Iterable[int]] = lambda: ()
        """Pids of programs."""

    def _pid_of(self, index: int) -> int:
        process = self._processes.get(index)
        return 0 if process is None else process.pid

    def perform_read_memory(self, command: commands.ReadMemory) -> None:
        self._oom_kills.look()
        fresh = self._fresh = quick_bytes(self.zygote_pid())
        rows = tuple(self._process(wanted) for wanted in command.workers)
        if command.is_first_look:
            for wanted in command.workers:
                pid = self._pid_of(wanted.index)
                self._groups.limit(wanted.index, pid, wanted.declared_bytes)
            self._post(events.MemoryRead(0, 1, rows, is_first_look=True))
            return
        asked = {wanted.index for wanted in command.workers}
        for known in (self._idle, self._functions):
            for index in [index for index in known if index not in asked]:
                del known[index]  # type: ignore[attr-defined]
        used, limit = self._node(rows, fresh)
        drivers: tuple[tuple[int, int], ...] = ()
        if used > NEAR_SHARE * limit:
            used -= self._memory.give_back(max(0, limit - used))
            drivers = tuple((pid, quick_bytes(pid)) for pid in self.drivers())
        self._post(events.MemoryRead(used, limit, rows, fresh, drivers))

    def _node(self, rows: Iterable[ProcessMemory], fresh: int) -> tuple[int, int]:
        if not self._limit_bytes:
            return self._pressure.used_and_limit()
        _, populated, _ = self._memory.usage()
        used = populated + fresh + quick_bytes(os.getpid())
        used += sum(quick_bytes(pid) for pid in self.drivers())
        for row in rows:
            own = row.own_bytes
            if own < 0:
                own = self._own(row.index, 1 << 62)
            used += max(0, own - fresh)
        return used, self._limit_bytes

    def _process(self, wanted: commands.MemoryOf) -> ProcessMemory:
        index = wanted.index
        _, _, depth, is_blocked, task = self._memory.process_state(index)
        if depth:
            self._idle.pop(index, None)
        elif index in self._idle and self._idle[index] < IDLE_LOOKS:
            self._idle[index] += 1
            return self._row(wanted, -1)
        else:
            self._idle[index] = 0
        own = self._own(index, wanted.exact_bytes)
        if not depth:
            return self._row(wanted, own)
        if depth > 1:
            running = self._memory.process_sight(index)[3]
            task = running[-1] if running else task
        function = 0
        if own >= wanted.exact_bytes and not wanted.is_actor:
            function = self._function(index, task)
        return self._row(wanted, own, task, function, is_blocked)

    def _own(self, index: int, exact_above: int) -> int:
        pid = self._pid_of(index)
        found = self._groups.own_bytes(index, pid)
        return own_bytes(pid, exact_above) if found is None else found + self._fresh

    @staticmethod
    def _row(
        wanted: commands.MemoryOf,
        own: int,
        task: int = 0,
        function: int = 0,
        is_blocked: bool = False,
    ) -> ProcessMemory:
        return ProcessMemory(
            wanted.index,
            own,
            task,
            function,
            is_blocked,
            wanted.declared_bytes,
            wanted.is_actor,
            wanted.can_return,
            wanted.is_free,
        )

    def _function(self, index: int, task: int) -> int:
        known = self._functions.get(index)
        if known is None or known[0] != task:
            sight = self._memory.sight(task)
            known = self._functions[index] = (task, 0 if sight is None else sight[6])
        return known[1]
