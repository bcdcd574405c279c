"""Explanations of values that are in a file or lost: where they are, and who makes them again.

The store has 32 MB, values 1 MB: ``push_out`` fills it twice, so what was there is in files then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import state
from shoal._proto import reasons as r
from shoal.errors._why import Why
from tests.scenario.losing import cut

ONE = 1 << 20
LATE_S = 60.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("lost", numbered=False)
    path.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_DIR", str(path))
        files = path / "spilled"
        files.mkdir()
        shoal.init(
            num_cpus=2,
            object_store_memory=32 << 20,
            object_spilling_directory=str(files),
            lineage_bytes=32 << 20,
            log_to_driver=False,
        )
        yield path
        shoal.shutdown()


@pytest.fixture(autouse=True)
def _end_session(root: Path) -> Iterator[None]:
    """One session for all tests here: the one of tests/conftest.py would end it."""
    yield


def array(i: int) -> Any:
    return np.full(ONE // 8 - 100, i, dtype=np.int64)


@shoal.remote(max_retries=3)
def made(i: int, gate: Path) -> Any:
    """Its second attempt waits."""
    deadline = time.monotonic() + 120
    is_again = shoal.get_runtime_context().attempt > 1
    while is_again and not gate.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return array(i)


@shoal.remote(max_retries=3)
def plus(values: Any, i: int) -> Any:
    return values + i


def push_out(refs: list[Any]) -> None:
    """Until all of them are in files."""
    shoal.wait(refs, num_returns=len(refs))
    deadline = time.monotonic() + LATE_S
    while not all(getattr(state.why(ref).reason, "file", "") for ref in refs):
        assert time.monotonic() < deadline, [str(state.why(ref)) for ref in refs]
        ballast = [shoal.put(array(-1)) for _ in range(64)]
        del ballast


def explained(about: Any, is_right: Callable[[Why], bool]) -> Why:
    deadline = time.monotonic() + LATE_S
    while not is_right(why := state.why(about)):
        assert time.monotonic() < deadline, str(why)
        time.sleep(0.01)
    return why


def names(why: Why) -> list[str]:
    return [type(reason).__name__ for reason in why.chain]


def command(root: Path, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "shoal", *words, "--json"],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "SHOAL_DIR": str(root)},
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_value_in_a_file_and_one_that_is_made_again(root: Path, tmp_path: Path) -> None:
    gate = tmp_path / "go"
    warm = [shoal.put(array(0)) for _ in range(8)]  # memory that is there: what is remembered of a
    del warm  # task is dropped where there is none at once
    first = made.remote(1, gate)
    second = plus.remote(first, 10)
    push_out([first, second])
    ready = state.why(second).reason
    assert isinstance(ready, r.Ready) and Path(ready.file).parent == root / "spilled"
    assert "on disk in" in str(state.why(second))
    (held,) = state.memory(object_id=second.hex())
    assert held.where == ready.file and held.state == "VALUE"
    cut(root / "spilled")
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(int(shoal.get(second)[7])))
    reader.start()
    try:
        chain = ["Rebuilding", "Running", "Rebuilding", "Running"]
        why = explained(second, lambda why: names(why) == chain)
        outer, task, inner, runs = why.chain
        assert isinstance(outer, r.Rebuilding) and isinstance(inner, r.Rebuilding)
        assert (outer.object, inner.object) == (second.hex(), first.hex())
        assert (outer.attempt, outer.attempts_most) == (2, 4) == (inner.attempt, 4)
        assert "too short" in outer.problem and "attempt 2 of 4, because" in str(why)
        assert isinstance(task, r.Running) and isinstance(runs, r.Running)
        assert (task.name, runs.name) == ("plus", "made") and task.waits
        assert names(state.why()) == chain, "what the program waits for"
        told = command(root, "why", second.hex())["chain"]
        assert [row["type"] for row in told] == chain and "attempt 2 of 4" in told[0]["text"]
        (held,) = state.memory(object_id=first.hex())
        assert held.where == "being rebuilt, attempt 2"
    finally:
        gate.touch()
        reader.join(LATE_S)
    assert found == [11]
    rows = command(root, "story", second.hex())
    texts = [row["text"] for row in rows]
    assert "left for a file" in texts and "its value is lost" in texts
    again = texts.index("is made again by its task, attempt 2")
    assert texts[again + 1] == "came back from its file"
    assert all(row["ago_s"] >= 0 for row in rows)
