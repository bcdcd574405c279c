"""Large values and the disk below them (R2, S1, S2, S3, S4), in a store that has room for a few.

L3: values are put by an actor and made by tasks, borrowed by another actor, and several times as
large as the store together; each is a keyed stream of bytes, so that whoever reads one knows
whether it is right. The disk is the real one behind ``failing_io.cpp``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import shake_128
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from tests.chaos import audit
from tests.chaos.loads import Graph
from tests.torture.processes import eventually, kill
from tests.torture.started import Started

LONG_S = 120.0
STORE_BYTES = 32 << 20
"""Sixteen places of 2 MiB, of which small things of several processes can take half."""
VALUE_BYTES = 960 << 10
MANY = 48
FEW = 36
"""Both are more than there is room for."""
SOON_S = 30.0
"""The promise is a second; the rest is patience with a busy machine."""


def value_of(number: int) -> bytes:
    """Different in every byte from value to value, and cheap to make."""
    return shake_128(str(number).encode()).digest(1 << 10) * (VALUE_BYTES >> 10)


@shoal.remote(max_retries=-1)
def make(number: int) -> bytes:
    return value_of(number)


@shoal.remote(num_cpus=0)
class Owner:
    """Makes values in both ways, and keeps none."""

    def pid(self) -> int:
        return os.getpid()

    def values(self, count: int) -> list[Any]:
        put = [shoal.put(value_of(number)) for number in range(0, count, 2)]
        made = [make.remote(number) for number in range(1, count, 2)]
        shoal.wait(made, num_returns=len(made), fetch_local=False)
        return [ref for pair in zip(put, made) for ref in pair]


@shoal.remote(num_cpus=0)
class Borrower:
    """Reads what others have made."""

    def take(self, refs: list[Any]) -> None:
        self._refs = refs

    def wrong(self) -> list[int]:
        """Which values are not what they should be."""
        return [
            number
            for number, ref in enumerate(self._refs)
            if shoal.get(ref, timeout=LONG_S) != value_of(number)
        ]


class Disk:
    """The directory of spilled values, and what is wrong with it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "spilled"
        self.full, self.slow = folder / "full", folder / "slow"
        self.path.mkdir()

    @contextmanager
    def being(self, state: Path) -> Iterator[None]:
        state.touch()
        try:
            yield
        finally:
            state.unlink()

    def files(self) -> list[Path]:
        return sorted(self.path.rglob("*.spill"))


@pytest.fixture(scope="module")
def disk(failing_io: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    made = Disk(tmp_path_factory.mktemp("disk"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(failing_io))
        patch.setenv("FAIL_BELOW", str(made.path))
        patch.setenv("FULL_WHILE", str(made.full))
        patch.setenv("SLOW_WHILE", str(made.slow))
        yield made


@pytest.fixture(scope="module")
def session(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    store = ("--object-store-memory", str(STORE_BYTES))
    place = ("--object-spilling-directory", str(disk.path))
    with audit.session(tmp_path_factory.mktemp("chaos"), 2, *store, *place) as started:
        yield started
    assert not disk.files(), "files of values are left"


@pytest.fixture
def case(session: Started, disk: Disk) -> Iterator[Started]:
    with audit.audited(session):
        yield session
    eventually(lambda: not disk.files(), LONG_S, "files of values are gone")


def wrong(refs: list[Any]) -> list[int]:
    """Which values are not what they should be."""
    return [
        number
        for number, ref in enumerate(refs)
        if shoal.get(ref, timeout=LONG_S) != value_of(number)
    ]


def spilling(started: Started) -> dict[str, int]:
    """What the daemon says of the files of values."""
    found = started.facts()["spilling"]
    assert isinstance(found, dict)
    return found


def test_r2_values_outlive_who_made_them(case: Started, disk: Disk) -> None:
    """The owner dies while another actor has borrowed everything: all of it is still there."""
    owner, borrower = Owner.remote(), Borrower.remote()
    refs = shoal.get(owner.values.remote(MANY), timeout=LONG_S)
    shoal.get(borrower.take.remote(refs), timeout=LONG_S)
    reading = borrower.wrong.remote()
    kill(shoal.get(owner.pid.remote(), timeout=LONG_S))
    with pytest.raises(errors.ActorDiedError):
        shoal.get(owner.pid.remote(), timeout=LONG_S)
    assert disk.files(), "they do not all have room"
    assert shoal.get(reading, timeout=LONG_S) == [] and wrong(refs) == []
    refs.clear()
    assert shoal.get(borrower.wrong.remote(), timeout=LONG_S) == []


def test_s1_a_full_disk_is_told_and_over_once_there_is_room(case: Started, disk: Disk) -> None:
    refs = [shoal.put(value_of(number)) for number in range(MANY)]
    more: list[Any] = []
    with disk.being(disk.full):
        begun = time.monotonic()
        with pytest.raises(errors.ObjectStoreFullError) as caught:
            for number in range(MANY):
                begun = time.monotonic()
                more.append(shoal.put(value_of(number)))
        assert time.monotonic() - begun < SOON_S
        assert "No space left on device" in str(caught.value), caught.value
        assert str(disk.path) in str(caught.value)
    more += [shoal.put(value_of(number)) for number in range(len(more), MANY)]
    assert shoal.get(make.remote(MANY), timeout=LONG_S) == value_of(MANY)
    assert wrong(refs) == [] and wrong(more) == [], "what was there stayed"


def test_s2_a_store_that_is_full_says_so_and_has_room_again(case: Started, tmp_path: Path) -> None:
    """Nothing can leave that is looked at; nobody is ended by SIGBUS."""
    graph = Graph(tmp_path, "beside", leaves=8)
    looked_at = []
    with pytest.raises(errors.ObjectStoreFullError):
        for _ in range(2 * STORE_BYTES // VALUE_BYTES):
            looked_at.append(shoal.get(shoal.put(np.ones(VALUE_BYTES // 8))))
    assert len(looked_at) > STORE_BYTES // VALUE_BYTES // 2
    del looked_at[:]
    refs = [shoal.put(value_of(number)) for number in range(MANY)]
    assert wrong(refs) == [] and graph.judge(LONG_S) == 0


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        for at in range(VALUE_BYTES // 8, path.stat().st_size, VALUE_BYTES // 4):
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def damage(paths: list[Path], how: Callable[[Path], None]) -> list[Path]:
    """Those that were still there: values leave and come back meanwhile, and files with them."""
    met = []
    for path in paths:
        with suppress(FileNotFoundError):
            how(path)
            met.append(path)
    return met


DAMAGE: dict[str, Callable[[Path], None]] = {"flip": flip, "cut": cut, "delete": Path.unlink}


@pytest.mark.parametrize("how", DAMAGE)
def test_s3_no_damaged_file_is_read_as_a_value(case: Started, disk: Disk, how: str) -> None:
    """What a task has made is made again; what was put is lost, by name."""
    before = spilling(case)["lost"]
    owner = Owner.remote()
    refs = shoal.get(owner.values.remote(MANY), timeout=LONG_S)
    paths = damage(disk.files(), DAMAGE[how])
    assert paths
    lost = []
    for number, ref in enumerate(refs):
        begun = time.monotonic()
        try:
            assert shoal.get(ref, timeout=LONG_S) == value_of(number), "silently wrong"
        except errors.ObjectLostError as error:
            assert any(str(path) in str(error) for path in paths), error
            lost.append(number)
        assert time.monotonic() - begun < SOON_S
    assert not [number for number in lost if number % 2], "what has a task is made again"
    assert spilling(case)["lost"] > before, "nothing was found, so nothing was damaged"


def test_s4_a_slow_disk_costs_time_and_nothing_else(
    case: Started, disk: Disk, tmp_path: Path
) -> None:
    """50 ms for each look at the disk: exact, and nobody is taken for dead."""
    facts, before = case.facts(), spilling(case)
    with disk.being(disk.slow):
        owner, borrower = Owner.remote(), Borrower.remote()
        pid = shoal.get(owner.pid.remote(), timeout=LONG_S)
        graph = Graph(tmp_path, "beside", leaves=16)
        refs = shoal.get(owner.values.remote(FEW), timeout=LONG_S)
        shoal.get(borrower.take.remote(refs), timeout=LONG_S)
        assert shoal.get(borrower.wrong.remote(), timeout=LONG_S) == []
        assert graph.judge(LONG_S) == 0, "no run was lost"
        assert shoal.get(owner.pid.remote(), timeout=LONG_S) == pid
    after = spilling(case)
    assert after["restored_bytes"] > before["restored_bytes"] and after["lost"] == before["lost"]
    for name in ("pid", "zygote_pid", "store_pid"):
        assert case.facts()[name] == facts[name], "nobody died"
