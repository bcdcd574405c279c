"""Connection of a driver or worker to its node daemon: requests, answers, news.

One daemon thread, the *session thread*, reads frames. A request may come from any thread: it writes
its frame under the send lock and sleeps on a lock of its own until the session thread has put the
answer into its record. Nothing here stands on the path of a task; a request costs two thread
switches.

Invariants:

1. Every request ends: with its answer, or with ``SessionLostError`` once the connection is at its
   end. The wait is a plain lock, so signals (Ctrl-C) interrupt it in the main thread.
2. ``lost`` is called once, in the session thread, after every waiting request has been failed.
3. News (id 0) is handed to ``news`` in the session thread, in the order of arrival; what it raises
   is printed and does not end the thread.
4. In a forked child nothing is sent: two processes must not share one stream.
"""

from __future__ import annotations

import _thread
import itertools
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from shoal import errors
from shoal._base import clock
from shoal._proto import frames, messages
from shoal._runtime import wire

T = TypeVar("T")


class _Pending:
    """One request on its way."""

    __slots__ = ("answer", "done", "is_kept", "undo")

    def __init__(self) -> None:
        self.is_kept = True
        """Whoever asked takes it out of the table; else its answer does."""
        self.undo: messages.Body | None = None
        """Nobody waits any more: to be sent if the answer says that something was granted."""
        self.answer: messages.Message | None = None
        self.done = threading.Lock()
        self.done.acquire()


class Coming:
    """An answer that is on its way, for who may want to wait for it later, or never."""

    def __init__(self, pending: _Pending, question: messages.Body) -> None:
        self._pending = pending
        self._question = question

    def wait(self, timeout_s: float | None) -> bool:
        """Whether it is there within ``timeout_s`` (None: wait for ever)."""
        done = self._pending.done
        if not done.acquire(timeout=-1 if timeout_s is None else timeout_s):
            return False
        done.release()
        return True

    def result(self, expect: type[T]) -> T:
        """The answer, which is there; raises as ``Connection.request`` does."""
        return _result(self._pending.answer, self._question, expect)


class Connection:
    """The stream between this process and its daemon."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream
        self._decoder = frames.FrameDecoder()
        self._send_lock = threading.Lock()
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._is_open = True
        self._early: list[messages.Frame] = []
        """Came before there was a session thread."""
        self._pid = os.getpid()
        self._news: Callable[[messages.Message], None] = lambda body: None
        self._lost: Callable[[], None] = lambda: None
        self._look: Callable[[], float] | None = None
        self._look_at = 0.0

    @property
    def fd(self) -> int:
        """Descriptor of the stream."""
        return self._socket.fileno()

    def hello(
        self, body: messages.Hello, meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[messages.Welcome, list[int]]:
        """Introduce this process and wait for the daemon's welcome and its descriptors.

        ``meanwhile`` is called between question and answer.

        Raises:
            ShoalError: the daemon refused.
            ConnectionError: it went away.
        """
        return self.ask(body, messages.Welcome, meanwhile)

    def ask(
        self, body: messages.Body, expect: type[T], meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[T, list[int]]:
        """Send ``body`` and return its answer and descriptors, before there is a session thread.

        Raises:
            ShoalError: the daemon refused.
            ConnectionError: it went away.
        """
        number = next(self._ids)
        self._socket.sendall(frames.encode(number, body))
        meanwhile()
        descriptors: list[int] = []
        while True:
            received = wire.receive_frames(self._socket, self._decoder)
            if received is None:
                raise ConnectionError("the node daemon closed the connection")
            descriptors += received[1]
            answer = None
            for frame in received[0]:
                if frame.id == number:
                    answer = frame.body
                else:
                    self._early.append(frame)
            if isinstance(answer, expect):
                return answer, descriptors
            if isinstance(answer, messages.Failure):
                raise errors.from_record(answer.record)

    def start(
        self,
        news: Callable[[messages.Message], None],
        lost: Callable[[], None],
        look: Callable[[], float] | None = None,
        look_after_s: float = 0.0,
    ) -> None:
        """Begin to read in the session thread; ``look`` is called there now and then, first after
        ``look_after_s``, and says after how many seconds again.

        Not a ``threading.Thread``: nobody joins it, and waiting until it runs would cost every
        start of a worker two thread switches.
        """
        self._news = news
        self._lost = lost
        self._look = look
        self._look_at = clock.now() + look_after_s
        _thread.start_new_thread(self._read, ())

    def tell(self, body: messages.Body) -> None:
        """Send ``body``, which has no answer.

        Raises:
            SessionLostError: the daemon has ended.
        """
        self._send(frames.encode(0, body))

    def request(self, body: messages.Body, expect: type[T], undo: messages.Body | None = None) -> T:
        """Send ``body`` and return its answer, an ``expect``.

        ``undo`` is sent should this wait be interrupted (Ctrl-C) and a ``LockAnswer`` say later
        that the lock is held.

        Raises:
            ShoalError: the daemon refused, with its reason.
            SessionLostError: the daemon died before it answered.
            ForkedProcessError: this is a forked child.
        """
        if os.getpid() != self._pid:
            raise errors.ForkedProcessError
        pending = _Pending()
        number = next(self._ids)
        self._pending[number] = pending
        try:
            self._send(frames.encode(number, body))
            pending.done.acquire()
        except KeyboardInterrupt:
            pending.undo = undo
            raise
        finally:
            if pending.undo is None:
                self._pending.pop(number, None)
        return _result(pending.answer, body, expect)

    def begin(self, body: messages.Body) -> Coming:
        """Send ``body`` and do not wait for its answer.

        Raises:
            SessionLostError: the daemon has ended.
        """
        pending = _Pending()
        pending.is_kept = False
        number = next(self._ids)
        self._pending[number] = pending
        self._send(frames.encode(number, body))
        return Coming(pending, body)

    @property
    def is_asking(self) -> bool:
        """Whether an answer has not come yet."""
        return bool(self._pending)

    def end(self) -> None:
        """Close a connection that was never started."""
        self._socket.close()

    def close(self) -> None:
        """End the stream; the session thread ends, ``lost`` is called."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _send(self, data: bytes) -> None:
        try:
            with self._send_lock:
                if not self._is_open:
                    raise errors.SessionLostError
                self._socket.sendall(data)
        except OSError:
            raise errors.SessionLostError from None

    def _read(self) -> None:
        try:
            for frame in self._early:
                self._deliver(frame)
            while (received := self._receive()) is not None:
                for descriptor in received[1]:
                    os.close(descriptor)
                for frame in received[0]:
                    self._deliver(frame)
        except (OSError, frames.FrameError):
            pass
        with self._send_lock:
            self._is_open = False
        for pending in list(self._pending.values()):
            _release(pending)
        self._socket.close()
        self._lost()

    def _receive(self) -> tuple[list[messages.Frame], list[int]] | None:
        if self._look is not None:
            coming = select.poll()
            coming.register(self._socket, select.POLLIN)
            while not coming.poll(max(0.0, self._look_at - clock.now()) * 1000):
                self._look_at = clock.now() + self._look()
        return wire.receive_frames(self._socket, self._decoder)

    def _deliver(self, frame: messages.Frame) -> None:
        if frame.id == 0:
            try:
                self._news(frame.body)
            except Exception as error:  # a full disk or a closed terminal must not end the session
                print(f"shoal: {type(error).__name__}: {error}", file=sys.__stderr__)
            return
        pending = self._pending.get(frame.id)
        if pending is None:
            return
        pending.answer = frame.body
        _release(pending)
        if not pending.is_kept:
            del self._pending[frame.id]
        if pending.undo is not None:
            del self._pending[frame.id]
            if isinstance(frame.body, messages.LockAnswer) and frame.body.held:
                self._send(frames.encode(next(self._ids), pending.undo))


def _result(answer: messages.Message | None, question: messages.Body, expect: type[T]) -> T:
    if isinstance(answer, expect):
        return answer
    if isinstance(answer, messages.Failure):
        raise errors.from_record(answer.record)
    if answer is None:
        raise errors.SessionLostError
    raise errors.InternalError(f"{type(question).__name__} was answered with {answer!r}")


def _release(pending: _Pending) -> None:
    try:
        pending.done.release()
    except RuntimeError:  # answered and lost at once
        pass
