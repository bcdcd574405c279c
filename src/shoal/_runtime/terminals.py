"""The terminal of a task that stands at a breakpoint: lines over a unix socket of the session.

::

    pdb in the task -- Terminal (queue) -- its thread -- <session>/debug/<pid>-<n>.sock -- whoever
                                                                                           joined

Whoever connects is shown what was said since the last line that was typed, and types; who comes
later takes over. The stream is plain text with two marks of their own: INTERRUPT is Ctrl-C, END is
Ctrl-D. A connection that ends without a mark has only gone away: the task waits for the next one.

Beside each socket stands a file ``.json`` that says who waits there and where (``Stop``), which is
all that ``shoal debug`` reads.

Invariants:

1. What the task says never blocks it: what nobody reads is kept, ``SHOWN_BYTES`` of it.
2. ``close`` ends the thread and takes both files away; the session's end does, too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import select
import socket
import threading

import msgspec

from shoal._base import clock
from shoal._runtime import session_dir

DIRECTORY = "debug"
INTERRUPT = b"\x03"
END = b"\x04"
SHOWN_BYTES = 16 << 10
SEND_S = 5.0
"""A terminal that takes nothing for so long has gone."""

_numbers = itertools.count(1)


class Stop(msgspec.Struct, frozen=True):
    """A task that stands at a breakpoint."""

    name: str
    """Of its files, and for people."""
    pid: int
    task: str
    task_id: str
    attempt: int
    job: int
    file: str
    line: int
    began: float
    """Boot-time clock."""

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return f"{self.task} (pid {self.pid}, attempt {self.attempt}) at {self.file}:{self.line}"


def new_name() -> str:
    """A name for a stop of this process."""
    return f"{os.getpid()}-{next(_numbers)}"


def stops(session_directory: str) -> list[tuple[Stop, str]]:
    """(stop, path of its socket) of all who wait now, the oldest first."""
    directory = os.path.join(session_directory, DIRECTORY)
    found = []
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    for name in names:
        path = os.path.join(directory, name)
        if not name.endswith(".json"):
            continue
        try:
            with open(path, "rb") as file:
                stop = msgspec.json.decode(file.read(), type=Stop)
        except (OSError, msgspec.MsgspecError):  # it goes on already
            continue
        if os.path.exists(f"/proc/{stop.pid}"):
            found.append((stop, path.removesuffix(".json") + ".sock"))
    return sorted(found, key=lambda row: row[0].began)


class Terminal:
    """What a debugger in a task reads from and writes to; a text file, as far as it needs one."""

    encoding = "utf-8"

    def __init__(self, session_directory: str, stop: Stop) -> None:
        directory = os.path.join(session_directory, DIRECTORY)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._path = os.path.join(directory, stop.name)
        self._typed: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._joined = threading.Event()
        self._lock = threading.Lock()
        self._client: socket.socket | None = None
        self._shown = b""
        self._left_at = clock.now()
        """When the last one went away, or this began."""
        self._is_closed = False
        self.on_interrupt = lambda: None
        """Called in the terminal's thread when Ctrl-C comes while nobody is asked anything."""
        self.is_asking = True
        self._listener = socket.socket(fileno=session_dir.listen(directory, stop.name + ".sock"))
        self._waker, self._wakee = os.pipe2(os.O_CLOEXEC)
        with open(self._path + ".part", "wb") as file:
            file.write(msgspec.json.encode(stop))
        os.rename(self._path + ".part", self._path + ".json")
        self._thread = threading.Thread(target=self._serve, name="shoal-terminal", daemon=True)
        self._thread.start()

    # ---- what the debugger does
    def readline(self) -> str:
        """The next line, "" at Ctrl-D; raises ``KeyboardInterrupt`` at Ctrl-C."""
        line = self._typed.get()
        if line is None:
            raise KeyboardInterrupt
        return line.decode(errors="replace")

    def write(self, text: str) -> int:
        """Show ``text`` to whoever has joined, now or later."""
        data = text.encode(errors="replace")
        with self._lock:
            self._shown = (self._shown + data)[-SHOWN_BYTES:]
            if self._client is not None:
                self._send(data)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """Not here: the terminal is another process's."""
        return False

    # ---- who is there
    def wait_joined(self, patience_s: float) -> bool:
        """Wait until somebody has joined; False if nobody has within ``patience_s``."""
        return self._joined.wait(patience_s)

    def deserted_s(self) -> float:
        """For how long nobody has been there; 0 if somebody is."""
        with self._lock:
            return 0.0 if self._client is not None else clock.now() - self._left_at

    def give_up(self) -> None:
        """End the wait of ``readline`` as Ctrl-D does."""
        self._typed.put(b"")

    def close(self) -> None:
        """Say goodbye to whoever is there, and leave nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        for path in (self._path + ".json", self._path + ".sock"):
            try:
                os.unlink(path)
            except OSError:
                pass
        os.close(self._wakee)  # its thread sees the end, and closes the rest

    # ---- its thread
    def _serve(self) -> None:
        try:
            while not self._is_closed:
                watched = [self._listener.fileno(), self._waker]
                client = self._client
                if client is not None:
                    watched.append(client.fileno())
                ready, _, _ = select.select(watched, (), ())
                if self._listener.fileno() in ready:
                    self._take_over(self._listener.accept()[0])
                elif client is not None and client.fileno() in ready:
                    self._read(client)
        except (OSError, ValueError):
            pass
        with self._lock:
            self._drop()
        self._listener.close()
        os.close(self._waker)

    def _take_over(self, client: socket.socket) -> None:
        client.settimeout(SEND_S)
        with self._lock:
            if self._client is not None:
                self._send(b"\nshoal: another terminal has taken over\n")
            self._drop()
            self._client = client
            self._send(self._shown)
        self._joined.set()

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(64 << 10)
        except OSError:
            data = b""
        if not data:
            with self._lock:
                self._drop()
            return
        for piece in _pieces(data):
            if piece == INTERRUPT and not self.is_asking:
                self.on_interrupt()
                continue
            with self._lock:
                self._shown = b""
            self._typed.put(None if piece == INTERRUPT else b"" if piece == END else piece)

    def _send(self, data: bytes) -> None:
        assert self._client is not None
        try:
            self._client.sendall(data)
        except OSError:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)  # its thread sees the end

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
            self._left_at = clock.now()


def _pieces(data: bytes) -> list[bytes]:
    """Lines and marks, in their order. A terminal sends whole lines."""
    pieces: list[bytes] = []
    for line in data.splitlines(keepends=True):
        while line:
            places = [line.find(mark) for mark in (INTERRUPT, END)]
            at = min((place for place in places if place >= 0), default=-1)
            if at < 0:
                pieces.append(line)
                break
            # What was typed before the mark is forgotten, as in a terminal.
            pieces.append(line[at : at + 1])
            line = line[at + 1 :].lstrip(b"\n")
    return pieces
