"""``shoal logs``: what workers have printed, for people, and as it comes.

Nobody's output may do anything to the terminal that shows it: control characters are shown as
escapes, long lines are cut, and of a line that was drawn over itself with carriage returns the last
state is shown. ``--json`` shows everything as it was kept.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec

from shoal import errors
from shoal._runtime import log_files
from shoal._runtime.log_files import Follower, Wanted
from shoal._runtime.log_records import LogLine
from shoal._runtime.observer import Observer

SHOWN_MOST = 4000
"""Characters of one line."""
_ODD = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What moves a cursor, changes colours, or turns the direction of writing."""


def shown(text: str) -> str:
    """``text`` as a terminal may have it."""
    drawn = text.rpartition("\r")[2]
    cut = drawn[:SHOWN_MOST]
    safe = _ODD.sub(_escape, cut)
    more = len(drawn) - len(cut)
    return f"{safe} ... ({more:,} more characters)" if more else safe


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()


def line_of(line: LogLine) -> str:
    """One line for people."""
    at = time.strftime("%H:%M:%S", time.localtime(line.time))
    level = f" {line.level}" if line.level else ""
    stream = " stderr" if line.stream == "stderr" else ""
    name = shown(line.name or "worker")
    millis = int(line.time % 1 * 1000)
    return f"{at}.{millis:03d} ({name} pid={line.pid}{stream}{level}) {shown(line.text)}"


def show(
    sockets: Sequence[str], wanted: Wanted, tail: int | None, follow: bool, as_json: bool
) -> None:
    """Print such lines of all these sessions; ``follow``: until they end, or Ctrl-C."""
    directories = [os.path.dirname(path) for path in sockets]
    for path in sockets:
        with contextlib.suppress(OSError, errors.ShoalError), Observer(path) as observer:
            observer.table("logs")  # its daemon reads what has been printed so far
    lines: Iterator[LogLine]
    if follow:
        lines = log_files.follow([Follower(each, wanted) for each in directories], tail)
    else:
        each = [log_files.read(directory, wanted) for directory in directories]
        lines = iter(log_files.last(heapq.merge(*each, key=lambda line: line.time), tail))
    try:
        for line in lines:
            text = msgspec.json.encode(line).decode() if as_json else line_of(line)
            _print(text, follow)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # `| head` has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(text: str, at_once: bool) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=at_once)


def actor_id(sockets: Sequence[str], given: str) -> str:
    """The id of an actor that is given by id or by name."""
    for path in sockets:
        with contextlib.suppress(OSError, errors.ShoalError), Observer(path) as observer:
            for row in observer.table("actors"):
                if given == row.get("name"):
                    return str(row["actor_id"])
    return given
