"""The zygote: the template from which workers are forked, and the guard of the session.

**Template.** It begins as a fork of a daemon that has nothing yet, or is exec'd by it
(``zygote_spawn``), imports what every worker needs once, and forks a worker in a few milliseconds;
pages it has touched are shared with all of them.

**Lease.** Of a node of a cluster it ends what must not outlive the node's lease, if the daemon,
which does that first, stands still (``_core.reactions_lease``).

**Guard.** It watches the daemon's pidfd. When the daemon is gone without having ended the session
(``kill -9``), the zygote kills every process of the session, says to the cluster, if there is one,
that nothing of this node is left (``last_words``), removes the session directory and exits. If the
zygote itself is killed, workers go on (they become children of the daemon, which is
a subreaper too) and the daemon execs a new zygote.

Invariants:

1. One thread, always: no threads are started and nothing is imported that starts one (OpenBLAS
   does: NumPy is not preloaded; it would also give all workers the same random numbers, PROTOCOL
   E1).
2. Only the zygote reaps its children, so a pid it has just forked cannot have been used again
   when it opens the pidfd for the daemon.
3. A forked worker begins on top of the loop's frames, which it never sees again: leaving them would
   mean taking apart what they hold, page by page that it shares with us.

The daemon's half stands in ``daemon_processes``; the packets between them in ``_proto.forking``.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from typing import NoReturn

from shoal._base import clock
from shoal._native import become_subreaper, fork_worker, lease_of, leased_processes
from shoal._proto import forking
from shoal._runtime import descendants, registry, session_dir, wire, worker_groups
from shoal._runtime.worker_template import Template

_CLEAN_UP_S = 2.5
_LEASE_GRACE_S = 0.3
"""For the daemon, which ends what is leased itself if it does not stand still."""
_LEASE_LOOK_S = 5.0
"""How often it is looked whether there is a lease, or it is shorter now."""
_WORKER_OOM_SCORE = 300


class Zygote:
    """State of the zygote's one loop. A forked child leaves it for ``Template.begin``."""

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
        self._workers: set[int] = set()
        self._daemon_pid = daemon_pid
        try:
            self._daemon = os.pidfd_open(daemon_pid)
        except ProcessLookupError:
            self._end_session()
        if os.getppid() != daemon_pid:
            self._end_session()
        self._waker, self._wakee = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> NoReturn:
        """Answer the daemon until it ends."""
        signal.set_wakeup_fd(self._wakee, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        for fd in (self._channel.fileno(), self._daemon, self._waker):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._look_at_lease())}
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
                else:
                    self._answer(packet, descriptors)

    def _look_at_lease(self) -> float | None:
        """In how many milliseconds to look again; None: never."""
        if not self._template.setup.has_lease:
            return None
        memory_fd = self._template.memory_fds[0]
        until = lease_of(memory_fd)
        left_s = until + _LEASE_GRACE_S - clock.now()
        if not until or left_s > 0:
            return 1000 * min(left_s, _LEASE_LOOK_S) if until else 1000 * _LEASE_LOOK_S
        leased = set(leased_processes(memory_fd))
        for seen in descendants.list_processes() if leased else ():
            if seen.pid in leased and seen.parent in (os.getpid(), self._daemon_pid):
                descendants.kill(seen)
        return 1000 * _LEASE_GRACE_S

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

    def _answer(self, packet: bytes, descriptors: list[int]) -> None:
        message = forking.decode(packet)
        if isinstance(message, forking.Setup):
            memory_fd, eventfd = descriptors
            self._template.prepare(message, (memory_fd, eventfd))
        elif isinstance(message, forking.Fork):
            self._fork(message, descriptors)

    def _fork(self, request: forking.Fork, ends: list[int]) -> None:
        try:
            stdout, stderr, *link = ends
            kept = sorted((*link, *self._template.memory_fds))
            name = f"shoal-worker-{request.index}"
            pid = fork_worker((stdout, stderr), kept, name, _WORKER_OOM_SCORE)
        except OSError as error:
            reason = f"fork failed: {error.strerror}"
            self._send(forking.ForkFailed(request.start, reason))
        else:
            if pid == 0:
                self._channel.detach()  # closed with all others
                if request.group:
                    worker_groups.join(request.group)
                self._template.begin(request.index, request.python, *link)
            self._workers.add(pid)
            pidfd = os.pidfd_open(pid)
            self._send(forking.Forked(request.start, pid), pidfd)
            os.close(pidfd)
        for fd in ends:
            os.close(fd)

    def _report_ended(self) -> None:
        for pid, status in descendants.reap(self._workers).items():
            self._workers.discard(pid)
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
        is_over = descendants.end_all(self._session, frozenset(), _CLEAN_UP_S)
        worker_groups.end_session_group(self._template.setup.group)
        registry.unregister(os.path.dirname(self._directory), self._session)
        if is_over and os.path.exists(os.path.join(self._directory, session_dir.MEMBER_NAME)):
            self._say_last_words()
        session_dir.remove(self._directory)
        os._exit(0)

    def _say_last_words(self) -> None:
        """To the cluster: this node has ended."""
        from shoal._runtime import last_words

        try:
            last_words.say(self._directory)
        except (OSError, ValueError):
            pass  # somebody removes the directory already: that its lease is over says it too


def main(arguments: list[str]) -> NoReturn:
    """Run the zygote: ``CHANNEL_FD DAEMON_PID SESSION DIRECTORY``; never returns."""
    channel_fd, daemon_pid, session, directory = arguments
    descendants.set_process_name("shoal-zygote")
    descendants.set_oom_score(0)
    become_subreaper()
    channel = socket.socket(fileno=int(channel_fd))
    channel.set_inheritable(False)
    # Nobody sends one to the zygote; workers have what Python has by itself.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    template = Template()
    template.rehearse()
    zygote = Zygote(channel, int(daemon_pid), (session, directory), template)
    # What was imported stays for ever; frozen objects are never visited by a collection, so that
    # the pages that hold them stay shared with the workers. (Collecting first would take 5 ms and
    # leave holes, in which workers would write.)
    gc.freeze()
    zygote.serve()
