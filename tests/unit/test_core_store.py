"""The store's tables: what is on disk is the state, requests are carried out once, and a mirror
tells a store that has lost something what it knew."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._core import commands as do
from shoal._core.mirror import Mirror
from shoal._core.store import (
    Answered,
    DropRecord,
    DropRow,
    Erase,
    Join,
    Joined,
    Keep,
    PutRecord,
    PutRow,
    Request,
    StoreAsked,
    StoreCommand,
    StoreMachine,
    StoreReply,
)
from shoal._proto.messages import Done, KvAnswer, KvDelete, KvGet, KvKeys, KvPut, Message

KEYS = st.sampled_from([b"a", b"ab", b"b"])
SPACES = st.sampled_from(["", "n", "shoal.functions"])
NAMES = st.sampled_from(["1", "2"])
ROWS = st.sampled_from(
    [{"state": "ALIVE"}, {"state": "ALIVE", "detached": True}, {"state": "DEAD", "name": "x"}]
)
WRITES = st.one_of(
    st.builds(KvPut, KEYS, st.binary(max_size=3), SPACES, st.booleans()),
    st.builds(KvDelete, KEYS, SPACES),
    st.builds(PutRow, st.sampled_from(["nodes", "jobs", "groups"]), NAMES, ROWS),
    st.builds(DropRow, st.sampled_from(["nodes", "jobs", "groups"]), NAMES),
    st.builds(PutRecord, NAMES, st.binary(max_size=3)),
    st.builds(DropRecord, NAMES),
)

Disk = dict[tuple[str, bytes], bytes]


def write_down(disk: Disk, commands: list[StoreCommand]) -> list[StoreReply]:
    """A fake journal: the effects of one transaction, and what may be answered after it."""
    for command in commands:
        if isinstance(command, Keep):
            disk[command.kind, command.key] = command.value
        elif isinstance(command, Erase):
            disk.pop((command.kind, command.key), None)
    return [command for command in commands if isinstance(command, StoreReply)]


def restored(disk: Disk) -> StoreMachine:
    store = StoreMachine()
    store.restore(disk.items())
    return store


def test_key_value_table() -> None:
    store = StoreMachine()
    assert store.apply(KvPut(b"k", b"1")) == KvAnswer(existed=False)
    assert store.apply(KvPut(b"k", b"2", overwrite=False)) == KvAnswer(existed=True)
    assert store.apply(KvGet(b"k")) == KvAnswer(value=b"1", existed=True)
    assert store.apply(KvGet(b"k", "other")) == KvAnswer()
    store.apply(KvPut(b"kk", b""))
    assert store.apply(KvKeys(b"k")) == KvAnswer(keys=[b"k", b"kk"])
    assert store.apply(KvDelete(b"k")) == KvAnswer(existed=True)
    assert store.apply(KvDelete(b"k")) == KvAnswer(existed=False)


def test_effects_come_before_the_answer_that_needs_them() -> None:
    store = StoreMachine()
    store.step(0.0, StoreAsked(3, 6, Join("d")))
    commands = store.step(0.0, StoreAsked(3, 7, Request(7, PutRow("jobs", "1", {}))))
    assert [type(command) for command in commands] == [Keep, Keep, StoreReply]
    assert commands[-1] == StoreReply(3, 7, Answered(1, Done()))


def test_what_passes_is_not_on_disk() -> None:
    store = StoreMachine()
    for write in (
        PutRow("actors", "a", {"name": "", "detached": False}),
        PutRow("functions", "1/f", {}),
        KvPut(b"token", b"key", "shoal.functions"),
    ):
        store.apply(write)
    assert dict(store.contents()) == {} and store.sequence == 0
    store.apply(PutRow("actors", "b", {"name": "x", "detached": False}))
    assert [kind for (kind, _), _ in store.contents()] == ["actors"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(WRITES, st.integers(0, 3), st.booleans()), max_size=25))
def test_any_prefix_of_the_journal_has_what_was_acknowledged(
    writes: list[tuple[Message, int, bool]],
) -> None:
    """A caller sends each write once, or more often; the store is killed before or after a
    transaction is on disk. What is answered is what a store that never died would have answered."""
    disk: Disk = {}
    store = restored(disk)
    model = StoreMachine()
    store.step(0.0, StoreAsked(1, 1, Join("d")))
    for number, (write, repeats, dies_unwritten) in enumerate(writes, start=2):
        request = Request(number, write)  # type: ignore[arg-type]
        if dies_unwritten:
            store.step(0.0, StoreAsked(1, number, request))  # and nothing of it reaches the disk
            store = restored(disk)
            store.step(0.0, StoreAsked(1, 1, Join("d")))
            store.step(0.0, StoreAsked(1, 0, model.passing()))
        expected = model.apply(write)
        for _ in range(repeats + 1):
            (reply,) = write_down(disk, store.step(0.0, StoreAsked(1, number, request)))
            assert isinstance(reply.body, Answered) and reply.body.body == expected
            assert dict(store.contents()) == disk
            copy = restored(disk)
            assert dict(copy.contents()) == disk
            copy.validate()
    lasting = {place: value for place, value in disk.items() if place[0] not in BOOKS}
    assert lasting == dict(model.contents()), "everything acknowledged, and nothing else"


BOOKS = ("callers", "answers")


def test_a_repeated_request_is_answered_as_it_was() -> None:
    disk: Disk = {}
    store = StoreMachine()
    store.step(0.0, StoreAsked(1, 1, Join("d")))
    claim = KvPut(b"leader", b"me", overwrite=False)
    write_down(disk, store.step(0.0, StoreAsked(1, 2, Request(2, claim))))
    store = restored(disk)
    store.step(0.0, StoreAsked(5, 3, Join("d", epoch=1, sequence=0)))
    (reply,) = write_down(disk, store.step(0.0, StoreAsked(5, 2, Request(2, claim))))
    assert reply.body == Answered(0, KvAnswer(existed=False)), "it won then, and has won now"
    (other,) = write_down(disk, store.step(0.0, StoreAsked(5, 4, Request(4, claim))))
    assert isinstance(other.body, Answered) and other.body.body == KvAnswer(existed=True)
    assert [key for kind, key in disk if kind == "answers"] == [
        msgspec.msgpack.encode(("d", 4)),
    ], "an answer that has been read is forgotten"


def test_what_is_asked_before_the_join_is_done_once() -> None:
    """A daemon that has just connected again may be asked for something before it has said who it
    is; it asks again when it has joined, also if that is another store."""
    disk: Disk = {}
    store = StoreMachine()
    store.step(0.0, StoreAsked(1, 1, Join("d")))
    write_down(disk, store.step(0.0, StoreAsked(1, 2, Request(2, KvPut(b"k", b"v")))))
    delete = Request(3, KvDelete(b"k"))
    store = restored(disk)
    assert write_down(disk, store.step(0.0, StoreAsked(1, 3, delete))) == []
    store = restored(disk)
    store.step(0.0, StoreAsked(1, 4, Join("d", epoch=0, sequence=1)))
    (reply,) = write_down(disk, store.step(0.0, StoreAsked(1, 3, delete)))
    assert isinstance(reply.body, Answered) and reply.body.body == KvAnswer(existed=True)


def carry(mirror: Mirror, store: StoreMachine, commands: list[do.Command], disk: Disk) -> list[int]:
    """Let the store answer, until nothing is under way; the requests that were replied to."""
    told = []
    while commands:
        command = commands.pop(0)
        if isinstance(command, do.Reply):
            told.append(command.request)
        if not isinstance(command, do.WriteStore):
            continue
        asked = StoreAsked(1, command.ticket, command.write)
        for reply in write_down(disk, store.step(0.0, asked)):
            if isinstance(reply.body, Joined):
                commands += mirror.joined(reply.body)[0]
            else:
                commands += mirror.answered(reply.ticket, reply.body)
    return told


@pytest.mark.parametrize("kept", [0, 1, 3, 4])
def test_a_store_that_has_lost_something_is_told_everything_again(kept: int) -> None:
    """G4: the file is an older copy, or empty; a key that was deleted must not come back."""
    mirror, store, disk = Mirror("d", has_process=True), StoreMachine(), {}
    store.epoch = 3
    carry(mirror, store, mirror.connected(), disk)
    old: Disk = {}
    writes = [KvPut(b"gone", b"1"), KvPut(b"k", b"1"), KvDelete(b"gone"), KvPut(b"k", b"2")]
    for number, write in enumerate(writes):
        if number == kept:
            old = dict(disk)
        carry(mirror, store, mirror.write_kv(write, do.Reply(1, number, write)), disk)
    assert mirror.sequence == store.sequence == 4
    if kept == 4:
        old = dict(disk)
    away = mirror.write_kv(KvPut(b"new", b"3"), do.Reply(1, 9, Done()))
    assert away, "sent, and never answered"
    store = restored(old)
    store.epoch, store.sequence = 4, kept
    told = carry(mirror, store, mirror.connected(), old)
    assert told == [9]
    assert store.kv == mirror.tables.kv == {"": {b"k": b"2", b"new": b"3"}}
    assert dict(store.contents()) == old
    assert bool(store.notices) == (kept < 4) and mirror.epoch == store.epoch
    assert (store.epoch > 4) == (kept < 4), "and nobody who served before may serve again"


def test_what_is_asked_while_the_store_is_away_is_answered_later() -> None:
    mirror, store, disk = Mirror("d", has_process=True), StoreMachine(), {}
    assert mirror.write(PutRow("jobs", "1", {}), (do.Reply(1, 5, Done()),)) == []
    assert mirror.write(PutRow("nodes", "1", {}), (do.Reply(1, 6, Done()),)) == [
        do.Reply(1, 6, Done())
    ], "what is not lasting is acknowledged at once"
    assert carry(mirror, store, mirror.connected(), disk) == [5]
    assert store.rows["nodes"] == {"1": {}}, "and reported"
    assert carry(mirror, store, mirror.connected(), disk) == [], "a second one has it already"
