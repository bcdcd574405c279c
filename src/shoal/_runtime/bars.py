"""Progress bars of one process: what it counts, and how the one who draws them hears of it.

::

    worker:   update() -> Bar.n          (memory only)
              reporter thread            at most every ``INTERVAL_S``, changed bars only
                 -> one line on fd 1: PROGRESS_MARK and JSON
              daemon's worker_logs       the way of everything that workers print
                 -> LogLines -> driver's LogPrinter -> board (``bars_board``)
    driver:   update() -> Bar.n          the board looks at it when it draws

A bar is counted where the work is and drawn in one place, the job's driver: a terminal has one
writer. Marks take the way of printed lines because it is there already: it knows the job's driver,
keeps the order, and costs the daemon nothing else. The daemon takes them out of the log files.

Invariants:

1. ``update`` sends nothing and asks no clock; the first one after a report wakes the reporter.
2. The last state of a bar is sent by ``close``, in the thread that closes: it is on its way before
   the result of the task that closed it.
3. A mark is one ``write`` below ``PIPE_BUF``, so two threads never mix theirs.
4. The reporter's thread ends when no bar has been open for ``LINGER_S``.
5. A bar is named by its process and a number: what user code forks in a worker reports for
   itself. Bars in a child of a driver that draws count, and are shown nowhere: the terminal is its
   parent's.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from typing import Protocol

import msgspec

from shoal._base import clock
from shoal._proto.messages import PROGRESS_MARK
from shoal._runtime import context

INTERVAL_S = 0.1
LINGER_S = 1.0
TEXT_MOST = 200
"""Characters of a description or note: a mark stays below PIPE_BUF even if each is escaped."""


class Bar:
    """One bar: what its owner counts."""

    __slots__ = (
        "desc",
        "initial",
        "interval_s",
        "is_closed",
        "is_dirty",
        "label",
        "leaves",
        "n",
        "note",
        "number",
        "place",
        "sent_at",
        "started_at",
        "total",
        "unit",
    )

    def __init__(self, desc: str, total: float | None, unit: str) -> None:
        self.desc = desc
        self.total = total
        self.unit = unit
        self.n: float = 0
        self.initial: float = 0
        self.note = ""
        """What ``set_postfix`` said."""
        self.place = 0
        self.leaves = True
        self.interval_s = INTERVAL_S
        self.number = 0
        self.label = ""
        self.started_at = clock.now()
        self.sent_at = 0.0
        self.is_dirty = False
        self.is_closed = False


class Shown(msgspec.Struct, array_like=True):
    """A bar on its way to who draws it."""

    pid: int
    number: int
    label: str
    desc: str
    n: int | float
    total: int | float | None
    unit: str
    note: str
    place: int
    initial: int | float
    elapsed_s: float
    leaves: bool
    is_closed: bool
    node: str = ""
    """Name of the node that it is on, if that is another one."""


def shown(bar: Bar, now: float) -> Shown:
    """What is to be seen of ``bar``."""
    return Shown(
        os.getpid(),
        bar.number,
        bar.label,
        bar.desc[:TEXT_MOST],
        bar.n,
        bar.total,
        bar.unit[:TEXT_MOST],
        bar.note[:TEXT_MOST],
        bar.place,
        bar.initial,
        now - bar.started_at,
        bar.leaves,
        bar.is_closed,
    )


class Place(Protocol):
    """Where the bars of a process go: to its reporter, or to the board that draws them."""

    def open(self, bar: Bar) -> None:
        """A bar begins."""

    def note(self, bar: Bar) -> None:
        """It has changed for the first time since it was shown."""

    def close(self, bar: Bar) -> None:
        """It has ended; its last state is to be seen."""


class Nowhere:
    """A forked child's: the terminal is its parent's."""

    def open(self, bar: Bar) -> None:
        """Nothing."""

    def note(self, bar: Bar) -> None:
        """Nothing, and never again for this bar."""
        bar.is_dirty = True

    def close(self, bar: Bar) -> None:
        """Nothing."""


class Reporter:
    """A worker's: says what has changed, now and then."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._numbers = itertools.count(1)
        # A collection may drop a bar, and so close it, in the middle of anything here: the lock
        # may be taken twice, and a SimpleQueue is the only signal that may be given anywhere.
        self._lock = threading.RLock()
        self._open: dict[int, Bar] = {}
        self._changed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def open(self, bar: Bar) -> None:
        """Begin with ``bar``."""
        bar.number = next(self._numbers)
        bar.label = _label()
        with self._lock:
            self._open[bar.number] = bar
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shoal-bars", daemon=True)
                self._thread.start()
        self.note(bar)

    def note(self, bar: Bar) -> None:
        """Have it said by and by."""
        bar.is_dirty = True
        self._changed.put(None)

    def close(self, bar: Bar) -> None:
        """Say it now."""
        with self._lock:
            if self._open.pop(bar.number, None) is not None:
                self._send(bar)
        self._changed.put(None)

    def _run(self) -> None:
        while True:
            with self._lock:
                patience_s = None if self._open else LINGER_S
            try:
                self._changed.get(timeout=patience_s)
            except queue.Empty:
                with self._lock:
                    if not self._open:
                        self._thread = None
                        return
                continue
            while not self._changed.empty():
                self._changed.get()
            self._say_changes()
            time.sleep(INTERVAL_S)

    def _say_changes(self) -> None:
        now = clock.now()
        with self._lock:
            for bar in list(self._open.values()):
                if not bar.is_dirty:
                    continue
                if now - bar.sent_at < bar.interval_s:
                    self._changed.put(None)  # it is looked at again
                else:
                    # Cleared first: what changes from here on is said the next time.
                    bar.is_dirty = False
                    self._send(bar)

    def _send(self, bar: Bar) -> None:
        bar.sent_at = clock.now()
        mark = msgspec.json.encode(shown(bar, bar.sent_at))
        try:
            os.write(self._fd, PROGRESS_MARK.encode() + mark + b"\n")
        except OSError:
            pass  # the daemon has gone, and this process is about to


def _label() -> str:
    """Who counts: an actor's class or a task's function."""
    if context.process.class_name:
        return context.process.class_name.rsplit(".", 1)[-1]
    task = context.running.get()
    return context.function_name(task).rsplit(".", 1)[-1] if task is not None else ""


_places: dict[int, Place] = {}
"""This process's, by its pid: what a child inherits is its parent's."""


def place() -> Place | None:
    """Where bars of this process go; None in a driver that has not begun to draw."""
    found = _places.get(os.getpid())
    if found is not None:
        return found
    if context.process.is_worker:
        found = Reporter()
    elif _places:
        found = Nowhere()
    else:
        return None
    _places[os.getpid()] = found
    return found


def set_place(new: Place) -> None:
    """The board of a driver draws its bars."""
    _places[os.getpid()] = new
