"""This process's terminal, lent to tasks that stand at a breakpoint: one after the other.

A program learns from its daemon that one of its tasks has stopped (``TaskStopped``). If it has a
terminal it joins at once, so that the task waits for it, and talks to the first; the others queue
up. ``shoal debug`` does the same with one task, from anywhere.

While a conversation lasts Ctrl-C belongs to the debugger: the terminal hands it over as text, at
once. Everything is as before when it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import sys
import termios
import threading
from collections.abc import Iterator

from shoal._proto.messages import TaskStopped
from shoal._runtime import terminals, wire

END_S = 2.0
_STDIN = 0
_DISABLED = b"\0"


def has_terminal() -> bool:
    """Whether somebody may type at this process: it is in the foreground of a terminal."""
    try:
        is_ours = sys.stdin is sys.__stdin__ and os.isatty(_STDIN)
        return is_ours and os.tcgetpgrp(_STDIN) == os.getpgrp() and _output() >= 0
    except OSError:
        return False


def _output() -> int:
    """Where a conversation is shown: stdout, or stderr if only that is a terminal; -1: nowhere."""
    return next((fd for fd in (1, 2) if os.isatty(fd)), -1)


class Console:
    """Joins the tasks of one program at its terminal."""

    def __init__(self, session_directory: str) -> None:
        self._directory = os.path.join(session_directory, terminals.DIRECTORY)
        self._waiting: queue.SimpleQueue[tuple[socket.socket, str] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._open: set[socket.socket] = set()

    def stopped(self, news: TaskStopped) -> None:
        """A task has stopped: join it, or say how somebody can."""
        if not news.name:
            _say(f"{news.place} waits for an editor")
            return
        if not has_terminal():
            _say(
                f"{news.place} has stopped, and no terminal is here: `shoal debug {news.name}`"
                " in another one joins it; without anybody it goes on by itself"
            )
            return
        try:
            client = wire.connect(os.path.join(self._directory, news.name + ".sock"))
        except OSError:  # it goes on already
            return
        self._open.add(client)
        if self._thread is not None and self._thread.is_alive() and len(self._open) > 1:
            _say(f"{news.place} has stopped, too: it is next")
        self._waiting.put((client, news.place))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shoal-console", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """The session ends: so does every conversation."""
        if self._thread is None:
            return
        self._waiting.put(None)
        for client in list(self._open):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._thread.join(END_S)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            client, place = item
            with client:
                _say(f"{place} has stopped: this is its debugger (c goes on, q ends the task)")
                talk(client)
                _say(f"the debugger of {place} has ended")
            self._open.discard(client)


def talk(client: socket.socket) -> None:
    """Pass on what is typed here and what is said there, until the other side hangs up."""
    out = _output() if _output() >= 0 else 1
    sys.stdout.flush()
    watched = [client.fileno(), _STDIN]
    with _own_interrupts():
        while True:
            ready, _, _ = select.select(watched, (), ())
            try:
                if client.fileno() in ready:
                    said = client.recv(64 << 10)
                    if not said:
                        return
                    _write(out, said)
                if _STDIN in ready:
                    typed = os.read(_STDIN, 64 << 10)
                    client.sendall(typed or terminals.END)
                    if not typed and not os.isatty(_STDIN):
                        watched.remove(_STDIN)
            except OSError:
                return


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _own_interrupts() -> Iterator[None]:
    """Have Ctrl-C arrive as text that ends its line, instead of as a signal."""
    if not os.isatty(_STDIN):
        yield
        return
    before = termios.tcgetattr(_STDIN)
    mine = termios.tcgetattr(_STDIN)
    mine[6] = list(mine[6])
    mine[6][termios.VINTR] = _DISABLED
    mine[6][termios.VEOL] = terminals.INTERRUPT
    termios.tcsetattr(_STDIN, termios.TCSADRAIN, mine)
    try:
        yield
    finally:
        termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


def _say(text: str) -> None:
    sys.stderr.write(f"shoal: {text}\n")
    sys.stderr.flush()
