"""What a worker of plain tasks prints says which task printed it.

Many functions run in one worker, and the daemon is never told which: that would cost a message per
task. So the streams themselves note a change, and only when something is printed: a line of its
own,
``LABEL_MARK`` and the function's name, which the daemon takes out again (it stays in the log file,
where it tells the same to a reader). Output of C code carries the last label. Actors need none of
this.
"""

from __future__ import annotations

import io
import sys
from typing import TextIO

from shoal._runtime import context
from shoal._runtime.worker_logs import LABEL_MARK


class LabelledStream(io.TextIOWrapper):
    """A text stream that notes whose output begins."""

    _function = 0
    _is_line_start = True

    def write(self, text: str, /) -> int:
        """Write ``text``, behind a note if another function has begun to print."""
        task = context.running.get()
        function = task.function if task is not None else 0
        if function != self._function and self._is_line_start and task is not None:
            self._function = function
            super().write(f"{LABEL_MARK}{context.function_name(task).rsplit('.', 1)[-1]}\n")
        if text:
            self._is_line_start = text[-1] == "\n"
        return super().write(text)


def _labelled(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    # Opened anew: the old buffer remembers of what kind its descriptor was before the fork.
    buffer = open(stream.fileno(), "wb", closefd=False)  # noqa: SIM115
    return LabelledStream(buffer, stream.encoding, stream.errors, line_buffering=True)


def install() -> None:
    """Replace this process's streams."""
    sys.stdout = sys.__stdout__ = _labelled(sys.stdout)  # type: ignore[misc,assignment]
    sys.stderr = sys.__stderr__ = _labelled(sys.stderr)  # type: ignore[misc,assignment]
