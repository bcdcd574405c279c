"""The key-value table that all nodes of a cluster share: each request is carried out once."""

from __future__ import annotations

import pytest

from shoal._core.members import interface as on
from shoal._core.mirror import Mirror
from shoal._core.store import ANSWERS, CALLERS, KV, Joined, Report, StoreMachine
from shoal._proto import membership as m
from shoal._proto.messages import Failure, KvAnswer, KvDelete, KvGet, KvKeys, KvPut
from tests.unit.members_by_hand import Cluster

FIRST = KvPut(b"k", b"a", overwrite=False)


def asked(cluster: Cluster, node: str, number: int, body: m.AskBody, below: int = 0) -> m.ToldBody:
    cluster.told.clear()
    cluster.step(on.Heard(m.Ask(node, 1, cluster.life, number, below, body)))
    (told,) = [told for to, told in cluster.told if to == node and isinstance(told, m.Told)]
    assert told.number == number
    return told.body


def kinds(cluster: Cluster) -> set[str]:
    return {kind for kind, _ in cluster.disk} & {KV, CALLERS, ANSWERS}


def test_what_one_node_writes_others_read() -> None:
    cluster = Cluster("a", "b")
    assert asked(cluster, "a", 1, FIRST) == KvAnswer(existed=False)
    assert asked(cluster, "b", 1, FIRST) == KvAnswer(existed=True), "the first one has it"
    assert asked(cluster, "b", 2, KvGet(b"k")) == KvAnswer(value=b"a", existed=True)
    assert asked(cluster, "b", 3, KvKeys(b"")) == KvAnswer(keys=[b"k"])
    assert asked(cluster, "b", 4, KvDelete(b"k")) == KvAnswer(existed=True)
    assert asked(cluster, "a", 2, KvGet(b"k")) == KvAnswer()


@pytest.mark.parametrize("restarts", [0, 1, 2])
def test_a_repeated_request_is_answered_as_it_was(restarts: int) -> None:
    """Also by a store in another life, which was told nothing of it but by its disk."""
    cluster = Cluster("a", "b")
    assert asked(cluster, "a", 1, FIRST) == KvAnswer(existed=False)
    for _ in range(restarts):
        cluster.restart()
    assert asked(cluster, "a", 1, FIRST) == KvAnswer(existed=False)
    assert asked(cluster, "a", 2, FIRST, below=2) == KvAnswer(existed=True)


def test_requests_may_change_places() -> None:
    """What was sent over a connection that broke comes after what was sent over the next one."""
    cluster = Cluster("a")
    assert asked(cluster, "a", 2, KvPut(b"l", b"2")) == KvAnswer(existed=False)
    assert asked(cluster, "a", 1, KvPut(b"k", b"1")) == KvAnswer(existed=False)
    assert cluster.table.kv == {"": {b"k": b"1", b"l": b"2"}}


def test_answers_go_when_they_were_heard_and_all_of_it_with_the_node() -> None:
    cluster = Cluster("a", "b")
    for number in range(1, 6):
        asked(cluster, "a", number, KvPut(b"k", b"%d" % number), below=number)
    assert sum(kind == ANSWERS for kind, _ in cluster.disk) == 1
    cluster.step(on.Heard(m.Obituary("a", 1)))
    assert kinds(cluster) == {KV}, "the table stays"
    assert not cluster.table.callers


def test_more_keys_than_a_message_holds_are_refused() -> None:
    cluster = Cluster("a")
    for number in range(1, 10):
        asked(cluster, "a", number, KvPut(bytes([number]) * (1 << 20), b""))
    answer = asked(cluster, "a", 10, KvKeys(b""))
    assert isinstance(answer, Failure) and b"longer prefix" in answer.record
    assert asked(cluster, "a", 11, KvKeys(b"\x01")) == KvAnswer(keys=[b"\x01" * (1 << 20)])


def test_a_daemon_that_tells_everything_again_leaves_the_table() -> None:
    """The store's file was damaged: the head's daemon knows rows, but not what others wrote."""
    mirror, store = Mirror("d", has_process=True, shares_kv=True), StoreMachine()
    mirror.connected()
    mirror.epoch = 9
    mirror.tables.apply(KvPut(b"f", b"1", "shoal.functions"))
    mirror.tables.apply(KvPut(b"old", b"1"))
    store.carry_out(KvPut(b"k", b"b"), [])
    store.carry_out_once("a@1", 4, 0, FIRST, [])
    from_store = mirror.joined(Joined(1, 0, is_behind=True))[0]
    (report,) = [c.write for c in from_store if isinstance(getattr(c, "write", None), Report)]
    store._reported(report, [])
    assert store.kv == {"": {b"k": b"b"}, "shoal.functions": {b"f": b"1"}}
    assert mirror.tables.kv[""] == {b"old": b"1"}, "of a former life; nobody reads it"
