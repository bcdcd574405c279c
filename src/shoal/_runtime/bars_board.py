"""All progress bars of a job, drawn by its driver.

::

    session thread: take(mark) --,
    user's threads: open, close --+--> rows --> drawing thread (10 times a second, while there
                                  |             are bars) --> stderr
    pidfd of each process --------'

On a terminal the bars stand below everything else: rich redraws them, and while it does, what
programs and workers print through ``sys.stdout`` and ``sys.stderr`` comes above. Elsewhere (a file,
a pipe) each bar is a plain line every ``PLAIN_S`` and one at its end.

Invariants:

1. Rows are only touched under the lock; ``_draw`` is the only one that writes, under it too.
2. A row whose process has ended is closed: its pidfd says so, ``GRACE_S`` after which nothing of it
   can be on its way any more.
3. Without bars there is no thread, no descriptor and no change to ``sys.stdout``.
4. rich is imported when the first bar is drawn on a terminal: 60 ms that other programs do not pay.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import select
import sys
import threading
import time
from typing import Any

import msgspec

from shoal._base import clock
from shoal._runtime import bars
from shoal._runtime.bars import Bar, Shown

DRAW_S = 0.1
PLAIN_S = 5.0
GRACE_S = 0.5
BAR_COLUMNS = 30
BAR_COLUMNS_LEAST = 6

Who = tuple[str, int]
"""Name of another node ("": this one), and pid."""
Key = tuple[Who, int]
"""Process and number of a bar."""


class _Row:
    """One bar, as it was last seen."""

    __slots__ = ("bar", "began_at", "is_dead", "seen", "written_at")

    def __init__(self, seen: Shown, now: float, bar: Bar | None) -> None:
        self.seen = seen
        self.began_at = now - seen.elapsed_s
        self.bar = bar
        """The bar itself, if it is of this process."""
        self.is_dead = False
        """Its process ended before it did."""
        self.written_at = self.began_at

    def elapsed_s(self, now: float) -> float:
        """For how long it has been counting, or did."""
        return self.seen.elapsed_s if self.seen.is_closed else now - self.began_at


class _Process:
    """A process that has bars here."""

    __slots__ = ("ended_at", "is_away", "pidfd")

    def __init__(self, who: Who) -> None:
        self.ended_at: float | None = None
        self.pidfd = -1
        self.is_away = bool(who[0])
        """On another node: its daemon says when it has ended."""
        if not self.is_away:
            with contextlib.suppress(OSError):  # it has ended already
                self.pidfd = os.pidfd_open(who[1])

    def is_over(self, now: float) -> bool:
        """Whether it ended so long ago that nothing of it can come."""
        if self.ended_at is None and not self.is_away and not self._lives():
            self.ended_at = now
        return self.ended_at is not None and now - self.ended_at >= GRACE_S

    def _lives(self) -> bool:
        if self.pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Give its descriptor back."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def seconds(value: float) -> str:
    """``value`` seconds, short: ``4.2 s``, ``03:20``, ``1:02:03``."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    if minutes < 60:
        return f"{minutes:02}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def amount(value: float) -> str:
    """A count with commas, or a number with a few digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def name_of(seen: Shown) -> str:
    """Who counts what."""
    where = f", {seen.node}" if seen.node else ""
    who = f"({seen.label} pid={seen.pid}{where})" if seen.label else ""
    return " ".join(part for part in (who, seen.desc) if part)


def figures(seen: Shown, elapsed_s: float) -> str:
    """What stands behind a bar: how many of how many, for how long, how fast, how long still."""
    done = amount(seen.n)
    if seen.total is not None:
        done += f" of {amount(seen.total)}"
    parts = [f"{done} {seen.unit}", seconds(elapsed_s)]
    rate = (seen.n - seen.initial) / elapsed_s if elapsed_s > 0 else 0.0
    if rate > 0:
        parts.append(f"{rate:,.3g}/s" if rate >= 1 else f"{1 / rate:,.3g} s each")
        if seen.total is not None and not seen.is_closed and seen.total > seen.n:
            parts.append(f"{seconds((seen.total - seen.n) / rate)} left")
    if seen.note:
        parts.append(seen.note)
    return ", ".join(parts)


class Board:
    """The bars of a job."""

    def __init__(self) -> None:
        self._rows: dict[Key, _Row] = {}
        self._ended: list[_Row] = []
        """Closed, and not yet drawn for the last time."""
        self._processes: dict[Who, _Process] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._live: Any = None
        self._streams = sys.stdout, sys.stderr
        """What the program has when there are no bars."""
        self._is_terminal: bool | None = None

    # ---- bars of this process

    def open(self, bar: Bar) -> None:
        """Begin to draw ``bar``."""
        bar.number = next(self._numbers)
        now = clock.now()
        with self._lock:
            seen = bars.shown(bar, now)
            self._rows[("", seen.pid), seen.number] = _Row(seen, now, bar)
            self._begin()

    def note(self, bar: Bar) -> None:
        """The board looks itself: nothing is to be said."""
        bar.is_dirty = True

    def close(self, bar: Bar) -> None:
        """Draw ``bar`` for the last time, now: what the program prints next comes after it."""
        with self._lock:
            row = self._rows.pop((("", os.getpid()), bar.number), None)
            if row is not None:
                row.seen = bars.shown(bar, clock.now())
                self._ended.append(row)
                self._draw()

    # ---- bars of workers

    def take(self, mark: str, label: str, node: str = "") -> None:
        """News of a worker's bar; ``label`` is who prints, if the mark does not say it, and
        ``node`` where, if it is not here."""
        try:
            seen = msgspec.json.decode(mark, type=Shown)
        except msgspec.DecodeError:
            return  # a program printed what only looks like one
        if not seen.label:
            seen.label = label
        seen.node = node
        now = clock.now()
        who = node, seen.pid
        key = who, seen.number
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                row = self._rows[key] = _Row(seen, now, None)
                if who not in self._processes:
                    self._processes[who] = _Process(who)
                self._begin()
            row.seen = seen
            if seen.is_closed:
                self._ended.append(self._rows.pop(key))

    def process_ended(self, node: str, pid: int) -> None:
        """A process of another node: nothing of it comes any more."""
        with self._lock:
            if (process := self._processes.get((node, pid))) is not None:
                process.ended_at = clock.now() - GRACE_S

    def flush(self) -> None:
        """The session is over: draw bars of workers for the last time, and forget them."""
        with self._lock:
            for key, row in list(self._rows.items()):
                if row.bar is None:
                    self._ended.append(self._rows.pop(key))
            self._draw()

    def forget_in_child(self) -> None:
        """After a fork: what the child prints is printed as if there were no bars."""
        if self._live is not None:
            sys.stdout, sys.stderr = self._streams

    def stop(self) -> None:
        """The program is over: draw all bars for the last time."""
        with self._lock:
            self._ended += self._rows.values()
            self._rows.clear()
            self._draw()

    # ---- drawing

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shoal-board", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._look()
                self._draw()
                if not self._rows:
                    self._thread = None
                    return
            time.sleep(DRAW_S)

    def _look(self) -> None:
        """Bring what bars of this process count, and close those whose process has ended."""
        now = clock.now()
        over = {who for who, process in self._processes.items() if process.is_over(now)}
        for key, row in list(self._rows.items()):
            if row.bar is not None:
                row.seen = bars.shown(row.bar, now)
                row.bar.is_dirty = False
            elif key[0] in over:
                row.is_dead = row.seen.is_closed = True
                row.seen.elapsed_s = now - row.began_at
                self._ended.append(self._rows.pop(key))

    def _draw(self) -> None:
        ended, self._ended = self._ended, []
        used = {who for who, _ in self._rows}
        for who in [who for who in self._processes if who not in used]:
            self._processes.pop(who).close()
        if sys.stderr is None:
            return
        if self._is_terminal is None:
            self._is_terminal = sys.stderr.isatty()
        now = clock.now()
        if self._is_terminal:
            self._draw_terminal(ended, now)
        else:
            self._write_lines(ended, now)

    def _in_order(self) -> list[_Row]:
        def place(row: _Row) -> tuple[object, ...]:
            seen = row.seen
            return seen.node, seen.pid, seen.place, seen.number

        return sorted(self._rows.values(), key=place)

    def _write_lines(self, ended: list[_Row], now: float) -> None:
        due = [row for row in self._in_order() if now - row.written_at >= PLAIN_S]
        lines = []
        for row in [*ended, *due]:
            if row.seen.is_closed and not row.seen.leaves and not row.is_dead:
                continue
            row.written_at = now
            lines.append(self._line(row, now))
        if lines:
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()

    @staticmethod
    def _line(row: _Row, now: float) -> str:
        seen = row.seen
        share = f"{100 * seen.n / seen.total:.0f} %: " if seen.total else ""
        end = " (its process ended)" if row.is_dead else ""
        name = name_of(seen)
        return f"{name}{' ' if name else ''}{share}{figures(seen, row.elapsed_s(now))}{end}"

    def _draw_terminal(self, ended: list[_Row], now: float) -> None:
        from rich.console import Console
        from rich.live import Live

        if self._live is None:
            if not self._rows and not ended:
                return
            self._streams = sys.stdout, sys.stderr
            self._live = Live(
                console=Console(stderr=True),
                auto_refresh=False,
                transient=True,
                # What goes into a file must not come to the terminal instead.
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            )
            self._live.start()
        console = self._live.console
        left = [row for row in ended if row.seen.leaves or row.is_dead]
        if left:
            console.print(self._table(left, now, console.width))
        self._live.update(self._table(self._in_order(), now, console.width), refresh=True)
        if not self._rows:
            self._live.stop()
            self._live = None

    @staticmethod
    def _table(rows: list[_Row], now: float, columns: int) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        said = [
            (
                name_of(row.seen),
                figures(row.seen, row.elapsed_s(now)),
                ", its process ended" if row.is_dead else "",
            )
            for row in rows
        ]
        # Names and figures say more than the bar does: it takes what they leave.
        longest = max((len(name) + len(text) + len(end) for name, text, end in said), default=0)
        width = max(BAR_COLUMNS_LEAST, min(BAR_COLUMNS, columns - longest - 3))
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(width=width)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for row, (name, text, end) in zip(rows, said, strict=True):
            drawn = ProgressBar(
                total=row.seen.total,
                completed=row.seen.n,
                width=width,
                pulse=row.seen.total is None and not row.seen.is_closed,
            )
            table.add_row(Text(name), drawn, Text(text) + Text(end, style="red"))
        return table


def board() -> Board:
    """The board of this process, which is a driver."""
    found = bars.place()
    if not isinstance(found, Board):
        found = Board()
        bars.set_place(found)
        atexit.register(found.stop)
        os.register_at_fork(after_in_child=found.forget_in_child)
    return found
