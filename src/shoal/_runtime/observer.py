"""Looking at a session from outside: a connection that is no driver and has no place in node
memory."""

from __future__ import annotations

import itertools
import os
from types import TracebackType
from typing import TypeVar

from shoal import errors
from shoal._proto import frames, messages
from shoal._runtime import wire

ANSWER_S = 5.0

T = TypeVar("T")


class Observer:
    """One blocking connection to a node daemon; a context manager."""

    def __init__(self, socket_path: str, answer_s: float = ANSWER_S) -> None:
        """Connect and say Hello.

        Args:
            socket_path: Of the daemon.
            answer_s: How long it may take for an answer.

        Raises:
            OSError: nobody listens there, or nobody answers.
            ShoalError: the daemon refuses.
        """
        self._socket = wire.connect(socket_path, answer_s)
        self._socket.settimeout(answer_s)
        self._decoder = frames.FrameDecoder()
        self._numbers = itertools.count(1)
        hello = messages.Hello("observer", os.getpid(), "", 0, "")
        self.welcome = self.ask(hello, messages.Welcome)

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self, body: messages.Body, expect: type[T]) -> T:
        """Send ``body`` and return its answer.

        Raises:
            ConnectionError: the daemon has ended.
            TimeoutError: it did not answer within ``answer_s``.
            ShoalError: it refuses.
        """
        number = next(self._numbers)
        self._socket.sendall(frames.encode(number, body))
        while True:
            received = wire.receive_frames(self._socket, self._decoder)
            if received is None:
                raise ConnectionError("the session has ended")
            for frame in received[0]:
                if isinstance(frame.body, messages.Failure):
                    raise errors.from_record(frame.body.record)
                if frame.id == number and isinstance(frame.body, expect):
                    return frame.body

    def table(self, name: str, limit: int = 10_000) -> list[dict[str, object]]:
        """Return the rows of one of the daemon's tables."""
        return self.ask(messages.GetTable(name, limit), messages.Table).rows

    def everywhere(self, name: str, limit: int = 10_000) -> messages.Table:
        """Return the rows of all nodes, of a table that there is of them all, and what is
        missing."""
        return self.ask(messages.GetTable(name, limit, is_everywhere=True), messages.Table)

    def resources(self) -> messages.Resources:
        """Return the node's totals and what of them is free."""
        return self.ask(messages.GetResources(), messages.Resources)

    def stop(self) -> None:
        """Ask the session to end; the connection ends with it."""
        try:
            self.ask(messages.StopSession(), messages.Done)
        except ConnectionError:
            pass
