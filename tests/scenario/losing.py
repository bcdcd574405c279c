"""Values that are lost: they leave memory, and the files that they are in are cut."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from shoal._runtime import cluster

KEPT_BYTES = 1000
"""What is left of a file."""


def lose(files: Path, refs: list[Any]) -> None:
    """Everything in ``refs`` leaves memory, and its file in the directory ``files`` is cut."""
    shoal.wait(refs, num_returns=len(refs))
    for _ in range(20):  # what shares its memory with something that is looked at stays that time
        ballast = [shoal.put(np.full(131_000, -1, dtype=np.int64)) for _ in range(64)]
        if all(ref.memory.spilled(ref.key) for ref in refs):
            break
    assert all(ref.memory.spilled(ref.key) for ref in refs)
    del ballast
    cut(files)


def cut(files: Path) -> None:
    """Every file in the directory keeps its first bytes only, and stays so."""
    deadline = time.monotonic() + 60
    while not _stay_cut(list(files.iterdir())):  # what is just being written makes it long again
        assert time.monotonic() < deadline


def _stay_cut(paths: list[Path]) -> bool:
    for path in paths:
        os.truncate(path, KEPT_BYTES)
    before = _written_bytes()
    time.sleep(0.02)
    return _written_bytes() == before and all(p.stat().st_size <= KEPT_BYTES for p in paths)


def _written_bytes() -> int:
    return int(cluster.table("session")[0]["spilling"]["spilled_bytes"])
