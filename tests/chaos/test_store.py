"""The control store alone: killed, its disk failing, its files damaged, started twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.stores import ANSWER_S, Client, StoreProcess

BATCH = 20
LOOK_S = 2.0
"""For an answer, before it is looked whether the store has ended."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    process = StoreProcess(tmp_path / "store")
    yield process
    process.close()


def check(client: Client, asked: dict[bytes, bytes]) -> None:
    """Everything acknowledged is there, and nothing that nobody asked for."""
    for key, value in client.acknowledged.items():
        assert client.value(key) == value, f"{key!r} was acknowledged and is lost"
    for key, value in asked.items():
        assert client.value(key) in (None, value), f"{key!r} is wrong"


def kill_at_random(store: StoreProcess, rounds: int, seed: int) -> int:
    """G1: a batch is asked for, the store is killed at some moment, another one is started; how
    many requests were answered."""
    chance = random.Random(seed)
    client = Client(store)
    asked: dict[bytes, bytes] = {}
    for number in range(rounds):
        store.start()
        client.join()
        client.repeat()
        for each in range(BATCH):
            key = b"%d-%d" % (number, each)
            asked[key] = chance.randbytes(chance.randrange(200))
            client.put(key, asked[key])
        killer = threading.Timer(chance.random() * 0.02, store.kill)
        killer.start()
        client.answers()
        killer.join(ANSWER_S)
    store.start()
    client.join()
    check(client, asked)
    client.repeat()
    assert client.answers()
    assert client.acknowledged == asked
    check(client, asked)
    client.leave()
    return len(asked)


def test_killed_at_random_moments(store: StoreProcess) -> None:
    assert kill_at_random(store, rounds=8, seed=1) == 8 * BATCH
    assert "damaged" not in store.said() and "missing" not in store.said()


def test_a_second_store_refuses(store: StoreProcess, tmp_path: Path) -> None:
    """G5."""
    store.start()
    client = Client(store)
    first = client.join()
    second = StoreProcess(tmp_path / "second")
    second.kept = store.kept
    second.start()
    assert second.process is not None and second.process.wait(ANSWER_S) == 3
    assert "another control store" in second.said() and "refuses" in second.said()
    client.put(b"k", b"v")
    assert client.answers(), "the first serves on"
    store.kill()
    store.start()
    assert client.join().epoch == first.epoch + 1
    client.leave()
    second.close()


# ---- its files
def filled(store: StoreProcess, keys: int) -> Client:
    """A store that has acknowledged ``keys`` keys, one after the other, and was killed."""
    store.start()
    client = Client(store)
    client.join()
    for number in range(keys):
        client.put(b"k%d" % number, b"v%d" % number)
        assert client.answers()
    client.leave()
    store.kill()
    return client


@pytest.mark.parametrize("ending", ["", "-wal"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_a_damaged_journal_is_found_and_said(store: StoreProcess, ending: str, how: str) -> None:
    """What was acknowledged is there, or its loss is said: never something wrong."""
    client = filled(store, keys=12)
    (journal,) = store.kept.glob("journal-*.db")
    damage(Path(str(journal) + ending), how, random.Random(7))
    store.start()
    joined = client.join()
    asked = {b"k%d" % number: b"v%d" % number for number in range(12)}
    lost = [key for key, value in asked.items() if client.value(key) != value]
    assert all(client.value(key) is None for key in lost), "wrong data"
    assert joined.is_behind or not lost
    assert "missing" in store.said() or not lost
    assert joined.notices or not lost
    client.put(b"new", b"value")
    assert client.answers(), "and it serves"
    client.leave()


def damage(file: Path, how: str, chance: random.Random) -> None:
    """Change a file as disks and people do."""
    data = bytearray(file.read_bytes())
    if how == "flip":
        for _ in range(8):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del data[len(data) // 2 :]
    else:
        data.clear()
    file.write_bytes(data)


def test_a_damaged_journal_is_replaced_by_its_copy(store: StoreProcess) -> None:
    client = filled(store, keys=5)
    store.start()
    client.join()
    assert store.process is not None
    store.process.terminate()
    assert store.process.wait(ANSWER_S) == 0, "a last copy is written"
    (journal,) = store.kept.glob("journal-*.db")
    damage(journal, "cut", random.Random(3))
    store.start()
    joined = client.join()
    assert not joined.is_behind and any("damaged" in text for text in joined.notices)
    check(client, {b"k%d" % number: b"v%d" % number for number in range(5)})
    assert list(store.kept.glob("damaged-*")), "kept for whoever wants to look"
    client.leave()


# ---- its disk
def test_a_full_disk_is_said_and_survived(
    store: StoreProcess, failing_io: Path, tmp_path: Path
) -> None:
    """S1: who asks waits, and can hear why; once there is room all of it is there."""
    full = tmp_path / "full"
    store.start(
        {
            "LD_PRELOAD": str(failing_io),
            "FAIL_BELOW": str(store.kept),
            "FULL_WHILE": str(full),
        }
    )
    client, other = Client(store), Client(store, "other")
    client.join()
    client.put(b"before", b"1")
    assert client.answers()
    other.join()
    full.touch()
    client.put(b"meanwhile", b"2")
    deadline = time.monotonic() + ANSWER_S
    while not (said := str(other.table()["failure"])):
        assert time.monotonic() < deadline, "nobody says that the disk is full"
    assert "full" in said, said
    assert client.unanswered, "nothing is acknowledged that is not on disk"
    assert "changes wait" in store.said()
    full.unlink()
    assert client.answers() and other.table()["failure"] == ""
    other.leave()
    client.leave()
    store.kill()
    store.start()
    assert not client.join().is_behind
    check(client, {b"before": b"1", b"meanwhile": b"2"})
    assert list(store.kept.glob("journal-*.db")), "in the new file"
    client.leave()


WAYS = ("5", "28", "torn", "kill")
"""EIO, ENOSPC, half a write and no more, nothing at all and no more."""


def fail_at(store: StoreProcess, failing_io: Path, at: int, how: str) -> None:
    """G3: the store's ``at``-th write, sync or truncation goes wrong while it is filled."""
    failing = {
        "LD_PRELOAD": str(failing_io),
        "FAIL_BELOW": str(store.kept),
        "FAIL_AT": str(at),
        "FAIL_HOW": how,
    }
    store.start(failing)
    client = Client(store)
    asked = {b"k%d" % number: b"v" * 50 * number for number in range(10)}
    waiting = list(asked)
    deadline = time.monotonic() + ANSWER_S
    while waiting or client.unanswered:
        assert time.monotonic() < deadline
        try:
            client.join(LOOK_S)
        except OSError:
            if store.process is None or store.process.poll() is not None:
                store.start()
            continue
        client.repeat()
        is_alive = client.answers()
        while is_alive and waiting:
            key = waiting.pop(0)
            client.put(key, asked[key])
            is_alive = client.answers()
    check(client, asked)
    assert client.acknowledged == asked
    client.leave()
    assert "damaged" not in store.said(), store.said()


def lie_at(store: StoreProcess, failing_io: Path, at: int) -> int:
    """G3: one bit of the ``at``-th write is another one, and nobody is told; how many keys of 12
    another store has then. What it has not it says is lost."""
    shim = {"LD_PRELOAD": str(failing_io), "FAIL_BELOW": str(store.kept)}
    store.start({**shim, "FAIL_AT": str(at), "FAIL_HOW": "flip"})
    client = Client(store)
    client.join()
    asked = {b"k%d" % number: b"v" * 50 * number for number in range(12)}
    for key, value in asked.items():
        client.put(key, value)
        assert client.answers()
    client.leave()
    store.kill()
    store.start()
    joined = client.join()
    found = {key: client.value(key) for key in asked}
    assert all(value in (None, asked[key]) for key, value in found.items()), "wrong data"
    lost = [key for key, value in found.items() if value is None]
    assert not lost or (joined.is_behind and joined.notices), f"{lost} are lost silently"
    client.put(b"new", b"value")
    assert client.answers(), "and it serves"
    client.leave()
    return len(asked) - len(lost)


@pytest.mark.parametrize("at", [2, 7, 13, 19])
def test_a_disk_that_lies_is_found_out(store: StoreProcess, failing_io: Path, at: int) -> None:
    assert 0 <= lie_at(store, failing_io, at) <= 12


@pytest.mark.parametrize("at", range(1, 42, 5))
def test_the_disk_fails_once(store: StoreProcess, failing_io: Path, at: int) -> None:
    fail_at(store, failing_io, at, WAYS[at % len(WAYS)])
    assert store.process is not None and store.process.poll() is None, "and it serves"
