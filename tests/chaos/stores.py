"""A control store without a daemon, and a client that repeats what was not answered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from shoal._core.store import Answered, Join, Joined, Request
from shoal._proto import frames
from shoal._proto.messages import GetTable, KvAnswer, KvGet, KvPut, Table
from shoal._runtime import session_dir, wire
from shoal._runtime.store_wire import LISTENER_FD, store_messages

ANSWER_S = 60.0


def build_shim(folder: Path, name: str) -> Path:
    """Compile what stands between a process and the kernel."""
    built = folder / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.cpp")
    compiler = os.environ.get("CXX", "c++")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-std=c++17", str(source), "-o", str(built), "-ldl"],
        check=True,
        timeout=120,
    )
    return built


class StoreProcess:
    """The store as a daemon starts it, and starts it again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = folder / "kept"
        folder.mkdir(parents=True, exist_ok=True)
        self._listening = session_dir.listen(str(folder), session_dir.STORE_SOCKET_NAME)
        self.log = folder / "store.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, variables: Mapping[str, str] | None = None) -> None:
        """Exec one; it serves when it answers."""

        def listener_as_3() -> None:
            os.dup2(self._listening, LISTENER_FD)

        # One system call between fork and exec, which takes no lock of any thread.
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "shoal._runtime.control", str(self.kept)],
                env={**os.environ, **(variables or {})},
                preexec_fn=listener_as_3,  # noqa: PLW1509
                close_fds=False,
                stderr=log,
            )

    def kill(self) -> None:
        """``kill -9``, and gone when this returns."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(ANSWER_S)

    def close(self) -> None:
        """End it, whatever its state."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(ANSWER_S)
        os.close(self._listening)

    def connect(self) -> socket.socket:
        """A connection; it waits in the kernel's queue while no store runs."""
        connected = wire.connect(str(self.folder / session_dir.STORE_SOCKET_NAME))
        connected.settimeout(ANSWER_S)
        return connected

    def said(self) -> str:
        """What it wrote to its log."""
        return self.log.read_text()


class Client:
    """One caller, as ``_core.mirror`` is one: numbers that grow, and every answer awaited."""

    def __init__(self, store: StoreProcess, name: str = "client") -> None:
        self._store = store
        self._name = name
        self._number = 0
        self._socket: socket.socket | None = None
        self._decoder = frames.FrameDecoder(store_messages())
        self.unanswered: dict[int, KvPut] = {}
        self.acknowledged: dict[bytes, bytes] = {}
        self.sequence = 0

    def join(self, answer_s: float = ANSWER_S) -> Joined:
        """Connect to whoever serves now."""
        self.leave()
        self._socket = self._store.connect()
        self._socket.settimeout(answer_s)
        self._decoder = frames.FrameDecoder(store_messages())
        self._number += 1
        self._send(self._number, Join(self._name, sequence=self.sequence))
        for frame in self._frames():
            if isinstance(frame.body, Joined):
                self._socket.settimeout(ANSWER_S)
                return frame.body
        raise ConnectionError("the store ended before it answered")

    def leave(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def put(self, key: bytes, value: bytes) -> None:
        """Ask for a key that nobody has; its answer comes with ``answers``."""
        self._number += 1
        self.unanswered[self._number] = KvPut(key, value, overwrite=False)
        self._ask(self._number)

    def repeat(self) -> None:
        """Ask again for everything that was not answered."""
        for number in self.unanswered:
            self._ask(number)

    def answers(self) -> bool:
        """Read until everything is answered; False if the store ended before that."""
        try:
            frames_seen = self._frames()
            while self.unanswered:
                frame = next(frames_seen, None)
                if frame is None:
                    return False
                if isinstance(frame.body, Answered):
                    self._take(frame.id, frame.body)
        except ConnectionError:
            return False
        return True

    def _take(self, number: int, answer: Answered) -> None:
        put = self.unanswered.pop(number, None)
        if put is not None:
            assert answer.body == KvAnswer(existed=False), f"{put.key!r} was done twice"
            self.acknowledged[put.key] = put.value
            self.sequence = max(self.sequence, answer.sequence)

    def value(self, key: bytes) -> bytes | None:
        """What the store has."""
        self._send(1 << 30, KvGet(key))
        for frame in self._frames():
            if isinstance(frame.body, KvAnswer):
                return frame.body.value
        raise ConnectionError("the store ended")

    def table(self) -> dict[str, object]:
        """What the store says of itself."""
        self._send(1 << 30, GetTable("store"))
        for frame in self._frames():
            if isinstance(frame.body, Table):
                return frame.body.rows[0]
        raise ConnectionError("the store ended")

    def _ask(self, number: int) -> None:
        try:
            self._send(number, Request(min(self.unanswered), self.unanswered[number]))
        except OSError:
            pass  # it has ended: what is not answered is repeated

    def _send(self, number: int, body: object) -> None:
        assert self._socket is not None
        self._socket.sendall(store_messages().encode(number, body))

    def _frames(self):  # type: ignore[no-untyped-def]
        assert self._socket is not None
        while (received := wire.receive_frames(self._socket, self._decoder)) is not None:
            yield from received[0]
