"""The zygote: the template from which workers are forked, and the guard of the session.

**Template.** It begins as a fork of a daemon that has nothing yet, or is exec'd by it
(``zygote_spawn``), imports what every worker needs once, and forks a worker in a few milliseconds;
pages it has touched are shared with all of them.

**Guard.** It watches the daemon's pidfd. When the daemon is gone without having ended the session
(``kill -9``), the zygote kills every process of the session, removes the session directory and
exits. If the zygote itself is killed, workers go on (they become children of the daemon, which is
a subreaper too) and the daemon execs a new zygote.

Invariants:

1. One thread, always: no threads are started and nothing is imported that starts one (OpenBLAS
   does: NumPy is not preloaded; it would also give all workers the same random numbers, PROTOCOL
   E1).
2. Only the zygote reaps its children, so a pid it has just forked cannot have been used again
   when it opens the pidfd for the daemon.
3. A forked worker leaves the loop's frames by ``return``, so that ``worker.main`` keeps nothing of
   the loop alive; it ends there.

The daemon's half stands in ``daemon_processes``; the packets between them in ``_proto.forking``.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import types
from typing import NoReturn, TextIO

import msgspec

from shoal._base import environment
from shoal._proto import forking
from shoal._runtime import descendants, registry, session_dir, wire, worker
from shoal._runtime.client import Connection

_CLEAN_UP_S = 2.5
_WORKER_OOM_SCORE = 300


class Place(msgspec.Struct, frozen=True):
    """Where a process that has just been forked is to begin."""

    setup: forking.Setup
    memory_fd: int
    eventfd: int
    index: int
    python: str
    stdout_fd: int
    stderr_fd: int
    link_fd: int = -1
    """Its end of the connection to the daemon; an exec'd worker connects by itself."""


class Template:
    """What all workers have in common, made once before they are forked."""

    def __init__(self) -> None:
        self.main = types.ModuleType("__main__")
        """What is pickled by reference to __main__ means the user's program, never this file."""
        self.stdout, self.stderr = _text_streams()
        self.variables = environment.inherited_variables()
        """Before ``prepare``: those of exec'd workers."""
        self.prepared = worker.Prepared()

    def prepare(self, setup: forking.Setup) -> None:
        """Do what can be done as soon as the session is known."""
        self.prepared = worker.prepare(setup.socket_path)


def _text_streams() -> tuple[TextIO, TextIO]:
    """Streams over 1 and 2 for workers, opened while both are pipes: a stream remembers of what
    kind its descriptor was."""
    kept = [os.dup(1), os.dup(2)]
    pipe = os.pipe2(os.O_CLOEXEC)
    for fd in (1, 2):
        os.dup2(pipe[1], fd)
    streams = _text_stream(1, "strict"), _text_stream(2, "backslashreplace")
    for fd, former in zip((1, 2), kept, strict=True):
        os.dup2(former, fd)
    for fd in (*kept, *pipe):
        os.close(fd)
    return streams


def _text_stream(fd: int, errors: str) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors=errors, closefd=False)


class Zygote:
    """State of the zygote's one loop. ``serve`` returns only in a forked child."""

    def __init__(
        self,
        channel: socket.socket,
        daemon_pid: int,
        place: tuple[str, str],
        template: Template,
    ) -> None:
        """``place`` is (session, directory)."""
        self._channel = channel
        self._template = template
        self._session, self._directory = place
        try:
            self._daemon = os.pidfd_open(daemon_pid)
        except ProcessLookupError:
            self._end_session()
        if os.getppid() != daemon_pid:
            self._end_session()
        self._memory_fd = -1
        self._eventfd = -1
        self._setup: forking.Setup | None = None
        self._waker, self._wakee = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> Place:
        """Answer the daemon until it ends; returns in each child that was forked."""
        signal.set_wakeup_fd(self._wakee, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        for fd in (self._channel.fileno(), self._daemon, self._waker):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._daemon in ready:
                self._end_session()
            if self._waker in ready:
                self._read_waker()
                self._report_ended()
            if self._channel.fileno() in ready:
                packet, descriptors = self._receive()
                if not packet:
                    # The end of the channel comes a moment before the end of the daemon. Only the
                    # second counts, so look at nothing but that any more.
                    poll.unregister(self._channel)
                elif (place := self._answer(packet, descriptors)) is not None:
                    return place

    def _read_waker(self) -> None:
        try:
            os.read(self._waker, 4096)
        except BlockingIOError:
            pass

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            return wire.receive_with_descriptors(self._channel, forking.MAX_PACKET_BYTES)
        except ConnectionResetError:
            return b"", []

    def _answer(self, packet: bytes, descriptors: list[int]) -> Place | None:
        message = forking.decode(packet)
        if isinstance(message, forking.Setup):
            self._memory_fd, self._eventfd = descriptors
            self._setup = message
            self._template.prepare(message)
        elif isinstance(message, forking.Fork):
            return self._fork(message, descriptors)
        return None

    def _fork(self, request: forking.Fork, ends: list[int]) -> Place | None:
        try:
            pid = os.fork()
        except OSError as error:
            reason = f"fork failed: {error.strerror}"
            self._send(forking.ForkFailed(request.start, reason))
        else:
            if pid == 0:
                self._forget()
                assert self._setup is not None
                memory = (self._memory_fd, self._eventfd)
                return Place(self._setup, *memory, request.index, request.python, *ends)
            pidfd = os.pidfd_open(pid)
            self._send(forking.Forked(request.start, pid), pidfd)
            os.close(pidfd)
        for fd in ends:
            os.close(fd)
        return None

    def _forget(self) -> None:
        """In a child: leave no trace of the zygote's own loop."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._channel.detach()  # closed with all others

    def _report_ended(self) -> None:
        for pid, status in descendants.reap().items():
            self._send(forking.Exited(pid, status))

    def _send(
        self, message: forking.Forked | forking.ForkFailed | forking.Exited, *fds: int
    ) -> None:
        try:
            wire.send_with_descriptors(self._channel, forking.encode(message), fds)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon is dying; its pidfd will say so

    def _end_session(self) -> None:
        """The daemon is gone: end everything that is left, then this process."""
        descendants.end_all(self._session, frozenset(), _CLEAN_UP_S)
        registry.unregister(os.path.dirname(self._directory), self._session)
        session_dir.remove(self._directory)
        os._exit(0)


def begin_worker(place: Place, template: Template) -> NoReturn:
    """Turn a freshly forked child into worker ``place.index`` and run it to its end."""
    os.setsid()
    os.dup2(place.stdout_fd, 1)
    os.dup2(place.stderr_fd, 2)
    low = 3
    for fd in sorted((place.memory_fd, place.eventfd, place.link_fd)):
        if fd >= 0:
            os.closerange(low, fd)
            low = fd + 1
    os.closerange(low, 1 << 20)
    descendants.set_oom_score(_WORKER_OOM_SCORE)
    setup = place.setup
    if place.python:
        arguments = ["-P", "-m", "shoal._runtime.worker", str(place.index), setup.socket_path]
        os.execve(place.python, [place.python, *arguments], template.variables)
    descendants.set_process_name(f"shoal-worker-{place.index}")
    sys.modules["__main__"] = template.main
    sys.stdout = sys.__stdout__ = template.stdout  # type: ignore[misc,assignment]
    sys.stderr = sys.__stderr__ = template.stderr  # type: ignore[misc,assignment]
    _reseed()
    gc.enable()
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, place.link_fd)
    welcome = msgspec.structs.replace(setup.welcome, index=place.index)
    worker.begin(Connection(link), welcome, (place.memory_fd, place.eventfd), template.prepared)


def _reseed() -> None:
    """Give this process random numbers of its own, whatever a preloaded module had drawn."""
    if (random := sys.modules.get("random")) is not None:
        random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.seed()


def main(arguments: list[str]) -> NoReturn:
    """Run the zygote: ``CHANNEL_FD DAEMON_PID SESSION DIRECTORY``; never returns."""
    channel_fd, daemon_pid, session, directory = arguments
    descendants.set_process_name("shoal-zygote")
    descendants.set_oom_score(0)
    descendants.become_subreaper()
    channel = socket.socket(fileno=int(channel_fd))
    channel.set_inheritable(False)
    # Nobody sends one to the zygote; workers have what Python has by itself.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    template = Template()
    zygote = Zygote(channel, int(daemon_pid), (session, directory), template)
    # What was imported stays for ever; frozen objects are never visited by a collection, so that
    # the pages that hold them stay shared with the workers. (Collecting first would take 5 ms and
    # leave holes, in which workers would write.)
    gc.freeze()
    begin_worker(zygote.serve(), template)
