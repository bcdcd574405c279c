"""A program at a terminal of its own: a pty with a person who types what the test says."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import termios
from collections.abc import Mapping
from types import TracebackType

from shoal._base import clock

LONG_S = 60.0


class Program:
    """Python code, or a command, that runs at a pty; a context manager."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.said = ""
        """Everything so far; lines end with a newline alone."""
        self._seen = 0
        variables = {**os.environ, **(env or {}), "TERM": "dumb"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, *arguments], variables)
        self.attributes = termios.tcgetattr(self.fd)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def expect(self, text: str) -> str:
        """Read until ``text`` has come, behind what was expected last; what came with it."""
        deadline = clock.now() + LONG_S
        while (at := self.said.find(text, self._seen)) < 0:
            assert clock.now() < deadline, f"{text!r} did not come:\n{self.said}"
            assert self._read(), f"it ended without {text!r}:\n{self.said}"
        before, self._seen = self._seen, at + len(text)
        return self.said[before : self._seen]

    def see(self, text: str) -> None:
        """Read until ``text`` has come, whatever was expected before."""
        before, self._seen = self._seen, 0
        self.expect(text)
        self._seen = before

    def type(self, text: str) -> None:
        """What a person types."""
        os.write(self.fd, text.encode())

    def answer(self, prompt: str, text: str) -> str:
        """Wait for ``prompt``, then type."""
        said = self.expect(prompt)
        self.type(text)
        return said

    def end(self) -> int:
        """Wait for the end; the exit code."""
        deadline = clock.now() + LONG_S
        while self._read():
            assert clock.now() < deadline, self.said
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self.fd], (), (), 1.0)[0]:
            return True
        try:
            data = os.read(self.fd, 64 << 10)
        except OSError:  # nobody has the terminal open any more
            return False
        self.said += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
