"""The daemon's half of the zygote: requests to fork, answers, and a new zygote when one was killed.

The other half stands in ``zygote``, the packets in ``_proto.forking``.

When a zygote dies, what it had been asked and had not answered is unknown: it may have forked. The
kernel has made all its children ours by then (we are a subreaper), so every child of ours that
nobody knows is killed and reaped before ``on_lost`` gives those requests up; only then may their
process indexes be used again.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence

import msgspec

from shoal._proto import forking
from shoal._runtime import descendants, wire
from shoal._runtime.daemon_loop import READ, WRITE, Loop
from shoal._runtime.zygote_spawn import spawn_zygote

FAILURES_MOST = 3
"""Zygotes in a row that ended before their first worker."""


class Listeners(msgspec.Struct, frozen=True):
    """What happens with what the zygote says."""

    on_forked: Callable[[int, int, int], None]
    """(start, pid, pidfd); the pidfd is the listener's to close."""
    on_failed: Callable[[int, str], None]
    """(start, reason)"""
    on_exited: Callable[[int, int], None]
    """(pid, wait status)"""
    on_useless: Callable[[], None]
    """Zygotes end as soon as they begin: there is no point in another."""
    on_lost: Callable[[], None]
    """The zygote died; all unanswered requests are void."""
    known_pids: Callable[[], frozenset[int]]
    """Children that are to live on."""


class ZygoteLink:
    """One zygote at a time, the one in use now."""

    def __init__(
        self,
        loop: Loop,
        place: tuple[str, str],
        first: tuple[int, int],
        listeners: Listeners,
    ) -> None:
        """``place`` is (session, directory); ``first`` the zygote that was spawned before all
        else."""
        self._loop = loop
        self._session, self._directory = place
        self._listeners = listeners
        self._setup: tuple[bytes, tuple[int, int]] | None = None
        self._unsent: list[tuple[bytes, Sequence[int]]] = []
        self._failures = 0
        self._use(*first)

    def _use(self, pid: int, channel_fd: int) -> None:
        self.pid = pid
        channel = self._channel = socket.socket(fileno=channel_fd)
        self._is_open = True
        self._has_forked = False
        channel.setblocking(False)
        self._loop.watch(channel.fileno(), self._ready)

    def set_up(self, setup: forking.Setup, memory_fd: int, eventfd: int) -> None:
        """Hand over what all workers get; repeated for each new zygote."""
        self._setup = (forking.encode(setup), (memory_fd, eventfd))
        self._send(*self._setup)

    def fork(self, asked: forking.Fork, ends: tuple[int, ...]) -> None:
        """Ask for a worker; takes ``ends`` (the worker's, of pipes and connection) over and closes
        them once they are sent."""
        self._send(forking.encode(asked), ends)

    def ended(self) -> None:
        """The zygote's pid has been reaped: take in what it said last and exec another."""
        while self._receive():
            pass
        self.pid = 0
        self._close_channel()
        self._channel.close()
        for _, fds in self._unsent:
            self._close_ends(fds)
        self._unsent.clear()
        print("the zygote has ended: starting another", file=sys.stderr, flush=True)
        self._kill_unknown_children()
        self._failures = 0 if self._has_forked else self._failures + 1
        if self._failures >= FAILURES_MOST:
            self._listeners.on_useless()
            return
        self._use(*spawn_zygote(self._session, self._directory))
        if self._setup is not None:
            self._send(*self._setup)
        self._listeners.on_lost()

    def _kill_unknown_children(self) -> None:
        known = self._listeners.known_pids()
        for seen in descendants.list_processes():
            if seen.parent == os.getpid() and seen.pid not in known and descendants.kill(seen):
                os.waitpid(seen.pid, 0)

    def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        self._unsent.append((packet, fds))
        if len(self._unsent) == 1:
            self._flush()

    def _close_channel(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.unwatch(self._channel.fileno())

    def _flush(self) -> None:
        while self._unsent and self._is_open:
            packet, fds = self._unsent[0]
            try:
                wire.send_with_descriptors(self._channel, packet, list(fds))
            except BlockingIOError:
                # Packets that wait for a zygote that is still importing.
                self._loop.change(self._channel.fileno(), READ | WRITE)
                return
            except OSError:
                self._close_channel()  # it is dead; ``ended`` follows
                return
            self._unsent.pop(0)
            self._close_ends(fds)

    def _close_ends(self, fds: Sequence[int]) -> None:
        if self._setup is None or fds is not self._setup[1]:
            for fd in fds:
                os.close(fd)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._loop.change(self._channel.fileno(), READ)
            self._flush()
        if events & ~WRITE:
            self._receive()

    def _receive(self) -> bool:
        """Take in one packet; False if there is none."""
        try:
            packet, fds = wire.receive_with_descriptors(self._channel, forking.MAX_PACKET_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            packet, fds = b"", []
        if not packet:
            # The end of the stream: SIGCHLD follows; do not be woken for ever until then.
            self._close_channel()
            return False
        message = forking.decode(packet)
        if isinstance(message, forking.Forked):
            self._has_forked = True
            self._listeners.on_forked(message.start, message.pid, fds[0])
        elif isinstance(message, forking.ForkFailed):
            self._listeners.on_failed(message.start, message.reason)
        elif isinstance(message, forking.Exited):
            self._listeners.on_exited(message.pid, message.status)
        return True
