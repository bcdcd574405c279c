"""The processes of a node: drivers and workers, from before they exist until after their end.

A record of this table is opened when a worker is asked for or a driver says Hello, and closed
when the machine says ``CloseProcess`` (or when a start failed). The key is the process index in
node memory.

How a death becomes an event (PROTOCOL A14)::

    pidfd readable                      all threads are gone: nothing of it writes to node memory
      -> exit status from the zygote    (after STATUS_WAIT_S, what the kernel shows of a zombie;
                                         of one that was reaped the zygote's word is on its way)
      -> last output is read
      -> memory.repair(index)           finishes what it was in the middle of
      -> ProcessDied                    the machine answers each running task, then CloseProcess

A worker whose connection ends while its process lives (user code closed our descriptors, or called
``os.execv``) is killed through its pidfd first, after a moment for one that is just ending. A
driver may leave: the end of its connection is enough, since a client closes its view of node
memory before it hangs up.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Collection, Iterator, Sized

import msgspec

from shoal._core import commands, events
from shoal._core.events import AnyEvent, RunningTask
from shoal._native import WORKER_EXIT, Memory
from shoal._proto import forking
from shoal._proto.messages import LogLines
from shoal._runtime import descendants, session_dir
from shoal._runtime.daemon_connections import Connection
from shoal._runtime.daemon_lines import Home
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.daemon_zygote import Listeners, ZygoteLink
from shoal._runtime.log_budget import LogBudget
from shoal._runtime.lookers import Lookers
from shoal._runtime.oom_kills import OomKills
from shoal._runtime.worker_groups import WorkerGroups
from shoal._runtime.worker_logs import WorkerLog

KIND_DRIVER = 1
KIND_WORKER = 2
STATUS_WAIT_S = 0.2
STATUS_LOOKS = 10
"""How often that is waited for, of a process that the zygote has reaped: its word may stand behind
others, or the daemon was held up itself. A zygote that died in between never says it."""
_ABOUT = 6
"""Of ``Memory.sight``."""
HANG_UP_S = 0.25
"""How long a worker may live on after the end of its connection."""


class Process(msgspec.Struct):
    """One driver or worker."""

    index: int
    kind: int
    pid: int = 0
    pidfd: int = -1
    start: int = 0
    """Ticket of its ``StartWorker``."""
    python: str = ""
    output: tuple[int, int] | None = None
    """Read ends of its pipes until it has a log."""
    link: socket.socket | None = None
    """Our end of its connection until it has been forked; None: it connects by itself."""
    log: WorkerLog | None = None
    connection: Connection | None = None
    has_joined: bool = False
    is_abandoned: bool = False
    is_dead: bool = False
    status: int | None = None
    """As ``os.waitpid`` gives it."""
    timer: Timer | None = None
    looks: int = 0
    """For its status, while it was dead."""


def _open_ends(process: Process) -> tuple[int, ...]:
    """Open the pipes for what it prints, and its connection if it is to be forked; keeps our ends
    in ``process`` and returns the worker's.

    Raises:
        OSError: there are no descriptors left.
    """
    opened: list[int] = []
    try:
        for _ in range(2):
            opened += os.pipe2(os.O_CLOEXEC)
        if not process.python:
            process.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            opened.append(theirs.detach())
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    stdout, stdout_write, stderr, stderr_write, *link = opened
    process.output = (stdout, stderr)
    return stdout_write, stderr_write, *link


def exit_of(status: int | None) -> tuple[int | None, int | None]:
    """Return (exit code, signal) of a wait status; both None if nobody knows it."""
    if status is None:
        return None, None
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def _about(memory: Memory, key: int) -> int:
    sight = memory.sight(key)
    return 0 if sight is None else sight[_ABOUT]


class Processes:
    """The table of processes; performs what the machine wants of them."""

    def __init__(
        self,
        loop: Loop,
        memory: Memory,
        logs: tuple[str, LogBudget],
        post: Callable[[AnyEvent], None],
        forward: Callable[[int | Home, LogLines], None],
    ) -> None:
        self._loop = loop
        self._memory = memory
        self._log_directory, self._log_budget = logs
        self.groups = WorkerGroups.make()
        self._post = post
        self._forward = forward
        self._by_index: dict[int, Process] = {}
        self._starting: dict[int, Process] = {}
        """By start ticket: those that have not joined."""
        self._by_pid: dict[int, Process] = {}
        """Workers, from their fork until they are closed."""
        self.worker_pids: Collection[int] = self._by_pid
        self.tables: dict[str, Sized] = {
            "processes": self._by_index,
            "starting": self._starting,
            "pids": self._by_pid,
        }
        """For who counts their rows."""
        self.lookers = Lookers(loop, memory, self.pids)
        self.oom_kills = OomKills()
        self._zygote: ZygoteLink | None = None
        self.interpreter: Callable[[str], str] = lambda python: python
        """What to exec for a name of an interpreter."""
        self._let_in: Callable[[socket.socket, int], Connection] | None = None

    def pids(self) -> frozenset[int]:
        """Of all drivers and workers."""
        return frozenset(each.pid for each in self._by_index.values())

    def listeners(
        self, on_useless: Callable[[], None], known_pids: Callable[[], frozenset[int]]
    ) -> Listeners:
        """What the zygote's link tells us."""
        return Listeners(
            on_useless=on_useless,
            on_forked=self._forked,
            on_failed=self._fork_failed,
            on_exited=self.ended,
            on_lost=self._zygote_lost,
            known_pids=known_pids,
        )

    def use(self, zygote: ZygoteLink, let_in: Callable[[socket.socket, int], Connection]) -> None:
        """Fork workers from now on through ``zygote``, and have their connections served."""
        self._zygote = zygote
        self._let_in = let_in

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._by_index.values()))

    def get(self, index: int) -> Process | None:
        """The process with that index, if it is open."""
        return self._by_index.get(index)

    # ---- joining
    def open_driver(self, connection: Connection) -> Process | None:
        """Give a driver that said Hello a process index; None if the table is full.

        Raises:
            OSError: it is gone already.
        """
        pidfd = connection.peer_pidfd()
        index = self._memory.open_process(KIND_DRIVER)
        if index < 0:
            os.close(pidfd)
            return None
        process = Process(index, KIND_DRIVER, connection.pid, pidfd, connection=connection)
        process.has_joined = True
        connection.index = index
        self._by_index[index] = process
        self._loop.watch(pidfd, lambda _: self._pidfd_ready(process))
        return process

    def is_starting(self, index: int) -> bool:
        """Whether worker ``index`` was asked for and the zygote has not told its pid yet."""
        process = self._by_index.get(index)
        return process is not None and process.kind == KIND_WORKER and process.pid == 0

    def join_worker(self, index: int, connection: Connection) -> bool:
        """A worker is connected; False if it is not the process that was started as ``index``."""
        process = self._by_index.get(index)
        if process is None or process.has_joined or process.pid != connection.pid:
            return False
        if process.is_abandoned:
            return False
        process.connection = connection
        process.has_joined = True
        connection.index = index
        self._starting.pop(process.start, None)
        return True

    # ---- what the machine wants
    def perform_start_worker(self, command: commands.StartWorker) -> None:
        assert self._zygote is not None
        index = self._memory.open_process(KIND_WORKER)
        if index < 0:
            self._post(events.WorkerStartFailed(command.start, "the table of processes is full"))
            return
        process = Process(index, KIND_WORKER, start=command.start, python=command.python)
        try:
            ends = _open_ends(process)
        except OSError as error:
            self._memory.close_process(index)
            self._post(events.WorkerStartFailed(command.start, f"no pipes: {error.strerror}"))
            return
        self._by_index[index] = self._starting[command.start] = process
        python = self.interpreter(command.python)
        group = self.groups.open(index)
        self._zygote.fork(forking.Fork(command.start, index, python, group), ends)

    def perform_abandon_start(self, command: commands.AbandonStart) -> None:
        process = self._starting.get(command.start)
        if process is not None:
            process.is_abandoned = True
            self._kill(process)

    def perform_kill(self, command: commands.Kill) -> None:
        process = self._by_index.get(command.index)
        if process is None or (command.is_whole and self.groups.kill(command.index)):
            return
        self._kill(process)

    def perform_leave(self, command: commands.Leave) -> None:
        if command.index in self._by_index:
            self._memory.assign(command.index, WORKER_EXIT)

    def perform_close_process(self, command: commands.CloseProcess) -> None:
        process = self._by_index.get(command.index)
        if process is not None and process.is_dead:
            self._close(process)

    def perform_label_worker(self, command: commands.LabelWorker) -> None:
        process = self._by_index.get(command.index)
        if process is not None and process.log is not None:
            to = command.home or command.driver
            process.log.assign(to, command.job, command.actor_id, command.label)
            self.groups.label(command.index, command.job)

    # ---- the zygote's answers
    def _forked(self, start: int, pid: int, pidfd: int) -> None:
        process = self._starting[start]
        process.pid, process.pidfd = pid, pidfd
        self._by_pid[pid] = process
        assert process.output is not None
        worker = (process.index, pid)
        place = (self._log_budget, self._log_directory)
        process.log = WorkerLog(self._loop, *place, worker, process.output, self._forward)
        process.output = None
        self._loop.watch(pidfd, lambda _: self._pidfd_ready(process))
        if process.is_abandoned:
            self._kill(process)
            return
        self._post(events.WorkerForked(start, process.index, pid))
        if process.link is not None and not process.is_abandoned:
            assert self._let_in is not None
            link, process.link = process.link, None
            if self.join_worker(process.index, self._let_in(link, pid)):
                self._post(events.WorkerJoined(process.index, 0, pid))

    def _fork_failed(self, start: int, reason: str) -> None:
        process = self._starting[start]
        self._close(process)
        if not process.is_abandoned:
            self._post(events.WorkerStartFailed(start, reason))

    def _zygote_lost(self) -> None:
        for start, process in list(self._starting.items()):
            if process.pid == 0:
                self._fork_failed(start, "the zygote was killed")

    def ended(self, pid: int, status: int) -> None:
        """Process ``pid`` was reaped, by the zygote or (its zygote is gone) by ourselves."""
        process = self._by_pid.get(pid)
        if process is None:
            return
        process.status = status
        if process.timer is not None:
            process.timer.cancel()
            self._finish(process)

    # ---- deaths
    def connection_closed(self, connection: Connection) -> None:
        """The connection of a process is gone: a driver has left, a worker must be dead or end
        now."""
        process = self._by_index.get(-1 if connection.index is None else connection.index)
        if process is None or process.connection is not connection:
            return
        process.connection = None
        if process.kind == KIND_DRIVER:
            self._pidfd_ready(process)
        else:
            # One that ends by itself hangs up a moment before its pidfd speaks.
            self._loop.call_later(HANG_UP_S, lambda: self._kill(process))

    def _kill(self, process: Process) -> None:
        if process.pidfd >= 0 and not process.is_dead:
            try:
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def _pidfd_ready(self, process: Process) -> None:
        """All threads of the process are gone (or a driver has left)."""
        if process.pidfd < 0:
            return
        self._loop.unwatch(process.pidfd)
        os.close(process.pidfd)
        process.pidfd = -1
        process.is_dead = True
        if process.kind == KIND_DRIVER or process.status is not None:
            self._finish(process)
        else:
            process.timer = self._loop.call_later(STATUS_WAIT_S, lambda: self._finish(process))

    def _finish(self, process: Process) -> None:
        process.timer = None
        if process.status is None and process.kind == KIND_WORKER:
            # The zygote is busy, stopped or gone: what it has not reaped tells how it ended.
            process.status = descendants.status_of_zombie(process.pid)
            process.looks += 1
            if process.status is None and process.looks < STATUS_LOOKS:
                process.timer = self._loop.call_later(STATUS_WAIT_S, lambda: self._finish(process))
                return
        if process.connection is not None:
            process.connection.read_rest()
        stderr = process.log.last_stderr() if process.log is not None else ()
        running = tuple(
            RunningTask(*row, about=_about(self._memory, row[0]))
            for row in self._memory.repair(process.index)
        )
        code, signal_number = exit_of(process.status)
        if process.has_joined:
            oom, peak = self.groups.killed(process.index)
            if not oom and process.kind != KIND_DRIVER:
                oom = self.oom_kills.claim(signal_number)
            dead = events.ProcessDied(
                process.index, code, signal_number, stderr, running, oom, peak
            )
            self._post(dead)
            return
        # It never said Hello, so nobody ever gave it a task.
        self._close(process)
        if not process.is_abandoned:
            how = f"signal {signal_number}" if signal_number else f"exit code {code}"
            reason = "\n".join([f"the worker ended before it had joined ({how})", *stderr])
            self._post(events.WorkerStartFailed(process.start, reason))

    def _close(self, process: Process) -> None:
        """Nothing of the process is left: give its index back."""
        self._by_index.pop(process.index, None)
        self._starting.pop(process.start, None)
        if self._by_pid.get(process.pid) is process:
            del self._by_pid[process.pid]
        for fd in process.output or ():
            os.close(fd)
        if process.link is not None:
            process.link.close()
        if process.connection is not None:
            process.connection.index = None
            process.connection.close()
        if process.log is not None:
            process.log.let_go()
        self.lookers.close_process(process.index)
        self.groups.close(process.index)

    def kill_all(self) -> frozenset[tuple[int, int]]:
        """End every worker at once; (pid, start time) of each."""
        killed = set()
        for process in self._by_index.values():
            if process.kind == KIND_WORKER:
                killed.add((process.pid, session_dir.process_start_time(process.pid) or 0))
                self._kill(process)
        return frozenset(killed)
