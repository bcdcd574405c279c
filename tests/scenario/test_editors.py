"""``breakpoint()`` with ``SHOAL_DEBUGGER=debugpy``: an editor that comes, goes, or never comes."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any

import pytest

from tests.torture.processes import eventually

LONG_S = 60.0
PROGRAM = """
import shoal

shoal.init(num_cpus=1)


def stops(x):
    y = x * 2
    breakpoint()
    return y + 1


@shoal.remote
class Keeper:
    def stops(self, x):
        return stops(x)


@shoal.remote
def other():
    return 7


def say(text):
    print(text, flush=True)


deserted = {"env_vars": {"SHOAL_DEBUGGER_WAIT_S": "0.1"}}
task = shoal.remote(stops)
say(f"result {shoal.get(task.options(runtime_env=deserted).remote(1))}")
first = task.remote(20)
say(f"meanwhile {shoal.get(other.remote())}")  # the CPU of who waits for an editor is lent
say(f"result {shoal.get(first)}")
keeper = Keeper.remote()
for x in (30, 40):
    say(f"result {shoal.get(keeper.stops.remote(x))}")
"""


class Editor:
    """A client of the debug adapter protocol; a context manager."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=LONG_S)
        self._file = self._socket.makefile("rb")
        self._sent = 0
        self.ask("initialize", adapterID="test")
        self._send("attach", {"justMyCode": False})
        self.until("event", "initialized")
        self.ask("configurationDone")

    def __enter__(self) -> Editor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a request."""
        self._send(command, arguments)
        answer = self.until("command", command)
        assert answer["success"], answer
        return dict(answer.get("body", {}))

    def until(self, field: str, value: str) -> dict[str, Any]:
        """The next message of that kind; what comes before it does not matter."""
        while True:
            message = self._receive()
            if message.get(field) == value:
                return message

    def stopped(self) -> tuple[int, dict[str, Any]]:
        """Wait until a thread has stopped: (thread, its innermost frame)."""
        thread = self.until("event", "stopped")["body"]["threadId"]
        return thread, self.ask("stackTrace", threadId=thread)["stackFrames"][0]

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        self._sent += 1
        request = {
            "seq": self._sent, "type": "request", "command": command, "arguments": arguments,
        }  # fmt: skip
        body = json.dumps(request).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def _receive(self) -> dict[str, Any]:
        length = 0
        while line := self._file.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert length, "the adapter has hung up"
        return dict(json.loads(self._file.read(length)))


class Output:
    """What a program and its workers say: the order of lines of several processes is none."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines
        self._said: list[str] = []
        """What nobody has looked for."""

    def find(self, pattern: str) -> re.Match[str]:
        """Take out a line that matches; read until it is there."""
        for line in itertools.chain(list(self._said), self._read()):
            if found := re.search(pattern, line):
                self._said.remove(line)
                return found
        raise AssertionError(f"no line matches {pattern!r}:\n{''.join(self._said)}")

    def port(self) -> int:
        """Where the next task waits for an editor."""
        found = self.find(r"stops .* at \S+: (\{.*\}) waits for an editor")
        configuration = json.loads(found[1])
        assert configuration["type"] == "debugpy" and configuration["request"] == "attach"
        assert configuration["connect"]["host"] == "127.0.0.1"
        return int(configuration["connect"]["port"])

    def _read(self) -> Iterator[str]:
        for line in self._lines:
            self._said.append(line)
            yield line


def processes_of(directory: str) -> list[int]:
    """Those whose environment names ``directory``."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if directory.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended, or is nobody's business
            continue
    return found


@pytest.fixture
def program(tmp_path: pathlib.Path) -> Iterator[tuple[pathlib.Path, subprocess.Popen[str]]]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    variables = {
        "SHOAL_DIR": str(tmp_path / "s"),
        "SHOAL_DEBUGGER": "debugpy",
        "SHOAL_DEBUGGER_WAIT_S": str(LONG_S),
    }
    with subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        try:
            yield path, process
        finally:
            process.kill()


def test_an_editor_comes_and_goes(
    tmp_path: pathlib.Path, program: tuple[pathlib.Path, subprocess.Popen[str]]
) -> None:
    path, process = program
    line = PROGRAM[: PROGRAM.index("return y + 1")].count("\n") + 1
    assert process.stdout is not None
    output = Output(process.stdout)
    output.port()  # nobody comes there
    output.find("no editor has come to the breakpoint of stops")
    output.find("^result 3$")
    port = output.port()
    output.find("^meanwhile 7$")
    with Editor(port) as editor:
        thread, frame = editor.stopped()
        assert (frame["name"], frame["line"]) == ("stops", line)
        assert frame["source"]["path"] == str(path)
        assert editor.ask("evaluate", expression="y", frameId=frame["id"])["result"] == "40"
        editor.ask("continue", threadId=thread)
        output.find("^result 41$")
    with Editor(output.port()) as editor:
        thread, frame = editor.stopped()
        editor.ask("evaluate", expression="y = 1", frameId=frame["id"], context="repl")
        editor.ask("continue", threadId=thread)
        output.find("^result 2$")
        editor.stopped()  # it is there already; then it goes without a word
    output.find("^result 81$")
    assert process.wait(LONG_S) == 0
    directory = str(tmp_path / "s")
    eventually(lambda: not processes_of(directory), LONG_S, "an adapter has outlived its task")
