"""One busy process per core beside what is measured, as on a machine that is also used otherwise.

They are plain processes of the same priority, bound to no core. Each ends when it is told to,
when its parent is gone, or after `LONGEST_S`: a benchmark that is killed leaves nothing behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_S = 300
BUSY = """
import os, sys, time
parent, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while os.getppid() == parent and time.monotonic() < end:
    for _ in range(100_000):
        pass
"""


@contextmanager
def busy_neighbours(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep `count` processes busy for as long as the block runs."""
    command = [sys.executable, "-S", "-c", BUSY, str(os.getpid()), str(LONGEST_S)]
    children = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield children
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()
