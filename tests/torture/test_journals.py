"""What actors did is read from their journals: files that each call appends its number to.

The journal is the truth about executions, the answers are what the caller believes. Both must fit,
whenever the actor's process is killed: without retries a call runs at most once, with them at least
once, in order; constructors that die are tried again more and more slowly; what the dead have made
stays.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal._base import config
from shoal.errors import ActorDiedError, ActorError
from tests.torture.processes import eventually, kill
from tests.torture.test_torture import SEED

LONG_S = 60.0
ACTORS = 2
CALLS = 100
KILLS = 3
"""Of each actor: after more of them the pauses before it is made again are longer and longer."""


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2, log_to_driver=False):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """In the place of conftest's: one session for all tests of this module."""


def append(path: str, text: str) -> None:
    """One write: lines never mix, and what is written is there, whoever dies then."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def lines_of(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@shoal.remote(num_cpus=0)
class Journal:
    def __init__(self, path: str) -> None:
        self.path = path

    def pid(self) -> int:
        return os.getpid()

    def add(self, number: int) -> int:
        append(self.path, str(number))
        return number


def killed_now_and_then(actor: Any, path: Path, chance: random.Random) -> tuple[list[Any], int]:
    """Calls with numbers from 0 on, and kills between them; the refs and how many kills."""
    refs: list[Any] = []
    kills = 0
    while len(refs) < CALLS or kills < KILLS:
        refs += [actor.add.remote(len(refs) + i) for i in range(chance.randint(1, 20))]
        if kills < KILLS and chance.random() < 0.5:
            try:
                pid = shoal.get(actor.pid.options(max_task_retries=0).remote(), timeout=LONG_S)
            except ActorError:
                continue
            refs += [actor.add.remote(len(refs) + i) for i in range(10)]
            time.sleep(chance.uniform(0.0, 0.002))
            kill(pid)
            kills += 1
    return refs, kills


@pytest.mark.parametrize("which", range(ACTORS))
def test_without_retries_a_call_runs_at_most_once(which: int, tmp_path: Path) -> None:
    path, chance = tmp_path / "journal", random.Random(SEED + which)
    actor = Journal.options(max_restarts=-1).remote(str(path))
    refs, _ = killed_now_and_then(actor, path, chance)
    heard: dict[int, ActorError | None] = {}
    for number, ref in enumerate(refs):
        try:
            assert shoal.get(ref, timeout=LONG_S) == number
            heard[number] = None
        except ActorError as error:
            heard[number] = error
    times = Counter(lines_of(path))
    assert max(times.values()) == 1, f"seed {SEED}: ran twice: {times.most_common(3)}"
    for number, error in heard.items():
        if error is None:
            assert times[number] == 1, f"seed {SEED}: {number} was answered and never ran"
        elif not error.may_have_run:
            assert times[number] == 0, f"seed {SEED}: {number} ran, its error denies it"
    ran = lines_of(path)
    assert ran == sorted(ran), f"seed {SEED}: out of order"


@pytest.mark.parametrize("which", range(ACTORS))
def test_with_retries_only_interrupted_calls_run_twice(which: int, tmp_path: Path) -> None:
    path, chance = tmp_path / "journal", random.Random(SEED + which)
    actor = Journal.options(max_restarts=-1, max_task_retries=-1).remote(str(path))
    refs, kills = killed_now_and_then(actor, path, chance)
    assert shoal.get(refs, timeout=LONG_S) == list(range(len(refs)))
    ran = lines_of(path)
    assert ran == sorted(ran), f"seed {SEED}: out of order"
    assert set(ran) == set(range(len(refs)))
    assert len(ran) - len(refs) <= kills, f"seed {SEED}: more ran twice than were interrupted"


@shoal.remote(num_cpus=0, max_restarts=-1)
class Doomed:
    """Dies while it is made, until there is a file."""

    def __init__(self, path: str) -> None:
        append(path, str(time.monotonic_ns()))
        if not os.path.exists(path + "-lives"):
            os.kill(os.getpid(), signal.SIGKILL)

    def echo(self, x: int) -> int:
        return x


def test_constructors_that_die_are_tried_more_and_more_slowly(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    actor = Doomed.remote(str(path))
    eventually(lambda: len(lines_of(path)) >= 4, LONG_S, "it is tried again")
    other = Journal.remote(str(tmp_path / "other"))
    assert shoal.get(other.add.remote(1), timeout=LONG_S) == 1, "others start meanwhile"
    Path(f"{path}-lives").touch()
    assert shoal.get(actor.echo.remote(5), timeout=LONG_S) == 5
    starts = lines_of(path)
    pauses = [(b - a) / 1e9 for a, b in itertools.pairwise(starts)]
    least = [config.Limits().restart_backoff_s * 2.0**i for i in range(len(pauses))]
    assert all(pause >= wanted for pause, wanted in zip(pauses[1:3], least)), (pauses, least)


@shoal.remote(num_cpus=0)
class Raising:
    def __init__(self, path: str) -> None:
        append(path, "1")
        raise ValueError("not today")

    def echo(self, x: int) -> int:
        return x


def test_a_constructor_that_raises_is_final(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    actor = Raising.options(max_restarts=-1).remote(str(path))
    for _ in range(2):
        with pytest.raises(ActorDiedError, match="not today"):
            shoal.get(actor.echo.remote(1), timeout=LONG_S)
    assert lines_of(path) == [1]


@shoal.remote(num_cpus=0)
class Owner:
    def make(self, count: int) -> list[Any]:
        """Values that it has put, and results of tasks that it has started."""
        refs = [shoal.put(np.full(20_000, number)) for number in range(count)]
        return refs + [filled.remote(number) for number in range(count)]

    def pid(self) -> int:
        return os.getpid()


@shoal.remote
def filled(number: int) -> Any:
    return np.full(20_000, number)


def test_what_a_dead_process_has_made_stays() -> None:
    owner = Owner.remote()
    refs = shoal.get(owner.make.remote(10), timeout=LONG_S)
    pid = shoal.get(owner.pid.remote(), timeout=LONG_S)
    kill(pid)
    with pytest.raises(ActorDiedError):
        shoal.get(owner.pid.remote(), timeout=LONG_S)
    for number, ref in enumerate(refs):
        assert (shoal.get(ref, timeout=LONG_S) == number % 10).all()
