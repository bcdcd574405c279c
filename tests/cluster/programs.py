"""Programs that a test talks to while they run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.testing.polling import wait_until

TALKER = Path(__file__).with_name("talker.py")
PATIENCE_S = 30.0


class Program:
    """A running program that says one JSON object a line; a context manager that ends it."""

    def __init__(self, words: Sequence[str], enter: Sequence[str] = ()) -> None:
        self.said: list[dict[str, Any]] = []
        self._taken = 0
        self._process = subprocess.Popen(
            [*enter, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            assert self.next()["ready"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(json.loads(line))

    def next(self, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """What it says next."""
        assert wait_until(lambda: len(self.said) > self._taken, patience_s), "it says nothing"
        self._taken += 1
        return self.said[self._taken - 1]

    def ask(self, *words: object) -> dict[str, Any]:
        """Tell it something, and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self.next()

    def has_said(self, **facts: object) -> bool:
        """Whether one of its lines says this."""
        return any(facts.items() <= said.items() for said in self.said)

    def wait_for(self, **facts: object) -> None:
        """Until one of its lines says this."""
        said = wait_until(lambda: self.has_said(**facts), PATIENCE_S)
        assert said, f"it has not said {facts}, but {self.said[-5:]}"

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End its input, and it ends."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._reader.join(PATIENCE_S)
            self._process.stdout.close()


def talker(*words: object, enter: Sequence[str] = ()) -> Program:
    """``talker.py`` in some role, in a host of which ``enter`` are the words."""
    return Program([sys.executable, "-E", "-S", str(TALKER), *map(str, words)], enter)
