"""The store's tables: a mirror that applies the same writes is equal; a report rebuilds a lost
store."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._core.store import DropRow, PutRow, StoreAsked, StoreMachine
from shoal._proto.messages import Done, KvAnswer, KvDelete, KvGet, KvKeys, KvPut, Message

KEYS = st.sampled_from([b"a", b"ab", b"b"])
SPACES = st.sampled_from(["", "n"])

WRITES = st.one_of(
    st.builds(KvPut, KEYS, st.binary(max_size=3), SPACES, st.booleans()),
    st.builds(KvDelete, KEYS, SPACES),
    st.builds(
        PutRow,
        st.sampled_from(["nodes", "jobs"]),
        st.sampled_from(["1", "2"]),
        st.just({"state": "ALIVE"}),
    ),
    st.builds(DropRow, st.sampled_from(["nodes", "jobs"]), st.sampled_from(["1", "2"])),
)


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


def test_every_request_is_answered_at_once() -> None:
    (reply,) = StoreMachine().step(0.0, StoreAsked(3, 7, PutRow("jobs", "1", {})))
    assert (reply.caller, reply.ticket, reply.body) == (3, 7, Done())


@settings(max_examples=100, deadline=None)
@given(st.lists(WRITES, max_size=30), st.integers(0, 30))
def test_a_lost_store_is_rebuilt_from_the_mirror(writes: list[Message], cut: int) -> None:
    mirror, store = StoreMachine(), StoreMachine()
    model: dict[tuple[str, bytes], bytes] = {}
    for number, write in enumerate(writes):
        if number == cut:
            store = StoreMachine()
            store.apply(mirror.report())
        answer = store.apply(write)
        assert mirror.apply(write) == answer
        if isinstance(write, KvPut):
            assert isinstance(answer, KvAnswer)
            if write.overwrite or not answer.existed:
                model[write.namespace, write.key] = write.value
        elif isinstance(write, KvDelete):
            model.pop((write.namespace, write.key), None)
        store.validate()
    assert store.rows == mirror.rows and store.kv == mirror.kv
    flat = {(space, k): v for space, entries in store.kv.items() for k, v in entries.items()}
    assert flat == model
