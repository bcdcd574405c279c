"""Output of workers in the driver's terminal: a prefix, and the same line of many workers only
once.

::

    (train pid=4711) loss 0.31
    (train pid=4712) loading weights                  <- the others say it too within 5 s
    (train pid=4713, node-2) loss 0.30                <- of another node
    (train) loading weights [7 more processes]        <- said once, when the 5 s are over

News of progress bars come as marked lines and go to who draws them (``bars_board``).

Lines are compared across processes only: a program that prints one line in a loop sees all of them.
Runs in the session thread; the one timer exists only while something is held back.
"""

from __future__ import annotations

import sys
import threading
from typing import TextIO

from shoal._base import clock
from shoal._proto.messages import PROGRESS_MARK, LogLines

WINDOW_S = 5.0
MOST_KEPT = 1000
Process = tuple[str, int]
"""Node and pid."""


class _Said:
    """A line that was printed a moment ago."""

    __slots__ = ("at", "label", "pid", "pids", "stream")

    def __init__(self, pid: Process, label: str, stream: str, at: float) -> None:
        self.pid = pid
        self.label = label
        self.stream = stream
        self.at = at
        self.pids: set[Process] = set()
        """Other processes that said it too."""


class LogPrinter:
    """Prints what workers write."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], _Said] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._has_bars = False

    def show(self, news: LogLines) -> None:
        """Print lines of one worker, or count them if others have said the same."""
        now = clock.now()
        label, pid = news.label or "worker", (news.node, news.pid)
        where = f", {news.node}" if news.node else ""
        if not news.lines and self._has_bars:
            self._end_bars(news)
        with self._lock:
            out = []
            for line in news.lines:
                if PROGRESS_MARK in line:
                    line = self._take_bar(line, label, news.node)
                    if not line:
                        continue
                said = self._said.get((label, line))
                if said is not None and now - said.at < WINDOW_S and said.pid != pid:
                    said.pids.add(pid)
                    self._start_timer()
                    continue
                if line.strip() and (said is None or now - said.at >= WINDOW_S):
                    out += self._summary(label, line, said)
                    self._said[label, line] = _Said(pid, label, news.stream, now)
                out.append(f"({label} pid={news.pid}{where}) {line}")
            if len(self._said) > MOST_KEPT:
                out += self._forget(now - WINDOW_S)
            _print(out, news.stream)

    def _take_bar(self, line: str, label: str, node: str) -> str:
        """Give the news of a progress bar to who draws them; what was printed before it is left."""
        from shoal._runtime import bars_board

        printed, _, mark = line.partition(PROGRESS_MARK)
        bars_board.board().take(mark, label, node)
        self._has_bars = True
        return printed

    def flush(self) -> None:
        """Say what is held back, and end the bars of workers."""
        if self._has_bars:
            self._flush_bars()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for stream in ("stdout", "stderr"):
                _print(self._forget(float("inf"), stream), stream)

    @staticmethod
    def _end_bars(news: LogLines) -> None:
        from shoal._runtime import bars_board

        bars_board.board().process_ended(news.node, news.pid)

    @staticmethod
    def _flush_bars() -> None:
        from shoal._runtime import bars_board

        bars_board.board().flush()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(WINDOW_S, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def _forget(self, before: float, stream: str | None = None) -> list[str]:
        out = []
        for (label, line), said in list(self._said.items()):
            if said.at <= before and (stream is None or said.stream == stream):
                out += self._summary(label, line, said)
                del self._said[label, line]
        return out

    @staticmethod
    def _summary(label: str, line: str, said: _Said | None) -> list[str]:
        if said is None or not said.pids:
            return []
        n = len(said.pids)
        return [f"({label}) {line} [{n} more process{'es' if n > 1 else ''}]"]


def _print(lines: list[str], stream: str) -> None:
    if not lines:
        return
    target: TextIO | None = sys.stderr if stream == "stderr" else sys.stdout
    if target is not None:
        target.write("\n".join(lines) + "\n")
        target.flush()
