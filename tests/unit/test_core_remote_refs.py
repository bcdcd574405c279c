"""Refs across nodes: single decisions of one node. All of them together: tests/sim."""

from __future__ import annotations

import msgspec
import pytest

from shoal._core import remote_ref_events as ev
from shoal._core.remote_refs import RemoteRefs
from shoal._proto.holds import (
    ConfirmRefs,
    CopySource,
    DropRefs,
    HoldRefs,
    HoldsBody,
    LostSettled,
    Name,
    RefsBody,
    RefsHeld,
    SealedAtHome,
    SettleLost,
)

MINE = Name("B", 1, 5)
R1, R2, R3 = Name("C", 1, 1), Name("C", 1, 2), Name("A", 1, 3)


class Node:
    """``RemoteRefs`` of B, which knows A and C."""

    def __init__(self, *peers: str) -> None:
        self.refs = RemoteRefs("B", 1)
        for peer in peers or ("A", "C"):
            self.feed(ev.PeerJoined(peer, 1))

    def feed(self, event: ev.Event, now: float = 0.0) -> list[ev.Command]:
        out = self.refs.step(now, event)
        self.refs.validate()
        return out

    def hears(self, node: str, body: RefsBody, *gone: int) -> list[ev.Command]:
        return self.feed(ev.Heard(node, body, gone))


def test_holds_and_drops_are_batched_per_home() -> None:
    node = Node("A", "C", "D")
    assert node.feed(ev.Arrived("D", (R1, R3, R2))) == [
        ev.MakeProxy(R1),
        ev.MakeProxy(R3),
        ev.MakeProxy(R2),
        ev.Send("C", HoldRefs((1, 2))),
        ev.Send("A", HoldRefs((3,))),
    ]
    assert node.hears("C", RefsHeld((1, 2))) == [ev.Send("D", ConfirmRefs((R1, R2)))]
    assert node.feed(ev.LocalGone((R1, R2, R3))) == [
        ev.ReleaseProxy(R1),
        ev.ReleaseProxy(R2),
        ev.Send("C", DropRefs((1, 2), (1, 1))),
    ]
    # The answer about R3 is still on its way.
    assert node.refs.waits() == [(R3, "home's answer", "A", 0.0)]
    assert node.hears("A", RefsHeld((3,))) == [
        ev.ReleaseProxy(R3),
        ev.Send("D", ConfirmRefs((R3,))),
        ev.Send("A", DropRefs((3,), (1,))),
    ]
    assert node.refs.is_empty


def test_each_time_that_a_ref_stands_in_a_message_counts() -> None:
    node = Node()
    node.feed(ev.Arrived("A", (R1, R1)))
    assert node.hears("C", RefsHeld((1,))) == [ev.Send("A", ConfirmRefs((R1, R1)))]
    assert node.feed(ev.Arrived("C", (R1, R1))) == []
    assert node.feed(ev.Sending("A", (R1, R1))) == []
    node.feed(ev.LocalGone((R1,)))
    assert node.refs.waits() == [(R1, "confirmed", "A", 0.0)]
    assert node.hears("A", ConfirmRefs((R1,))) == []
    assert node.hears("A", ConfirmRefs((R1,))) == [
        ev.ReleaseProxy(R1),
        ev.Send("C", DropRefs((1,), (3,))),
    ]


def test_a_ref_that_goes_home_needs_nothing() -> None:
    node = Node()
    node.feed(ev.Arrived("C", (R1,)))
    assert node.feed(ev.Sending("C", (R1,))) == []
    assert node.feed(ev.LocalGone((R1,))) == [
        ev.ReleaseProxy(R1),
        ev.Send("C", DropRefs((1,), (1,))),
    ]
    assert node.feed(ev.Arrived("C", (MINE,))) == []


def test_home_pins_what_others_have_and_tells_each_of_them_once() -> None:
    node = Node()
    assert node.feed(ev.Sending("A", (MINE,))) == [ev.Pin(5)]
    assert node.refs.is_held_abroad(5)
    assert node.hears("C", HoldRefs((5,))) == [ev.Send("C", RefsHeld((5,)))]
    assert node.feed(ev.SealedHere((5,))) == [ev.TellSealed("A", 5), ev.TellSealed("C", 5)]
    assert node.feed(ev.SealedHere((5,))) == []
    assert node.feed(ev.Sending("A", (MINE,))) == []
    # What A was told went with its proxy; the second send is still to be told.
    assert node.hears("A", DropRefs((5,), (1,))) == [ev.TellSealed("A", 5)]
    assert node.hears("A", DropRefs((5,), (1,))) == []
    assert node.hears("C", DropRefs((5,), (1,))) == [ev.Unpin(5)]
    assert node.refs.is_empty


def test_what_is_gone_at_home_is_lost_here() -> None:
    home = Node()
    assert home.hears("A", HoldRefs((5, 6)), 6) == [ev.Pin(5), ev.Send("A", RefsHeld((5,), (6,)))]
    node = Node()
    node.feed(ev.Arrived("A", (R1,)))
    assert node.hears("C", RefsHeld((), (1,))) == [
        ev.LoseProxy(R1, is_home_lost=False),
        ev.Send("A", ConfirmRefs((R1,))),
    ]
    assert not node.refs.has(R1)
    assert node.feed(ev.Sending("A", (R1,))) == []
    assert node.feed(ev.LocalGone((R1,))) == [ev.ReleaseProxy(R1)]


def test_a_proxy_is_sealed_once() -> None:
    node = Node()
    row = SealedAtHome(1, 2, 3, b"abc")
    assert node.hears("C", row) == []
    node.feed(ev.Arrived("C", (R1,)))
    assert node.hears("C", row) == [ev.SealProxy(R1, row)]
    assert node.hears("C", row) == []


def test_a_value_is_kept_until_home_knows_of_what_was_in_it() -> None:
    node = Node()
    node.feed(ev.Arrived("A", (R3,)))
    node.feed(ev.Landed(R3, (R1, MINE)))
    assert node.feed(ev.LocalGone((R3,))) == []
    assert node.hears("C", RefsHeld((1,))) == [
        ev.ReleaseProxy(R3),
        ev.Send("A", DropRefs((3,), (1,))),
    ]


def test_bytes_that_come_home_bring_nothing_new() -> None:
    node = Node()
    assert node.feed(ev.Landed(MINE, (R1,))) == []


@pytest.mark.parametrize(
    "row",
    [
        HoldRefs((1, 2)),
        RefsHeld((1,), (2,)),
        DropRefs((1, 2), (3, 4)),
        ConfirmRefs((R1, R3)),
        SettleLost("C", 2),
        LostSettled("C", 2),
        SealedAtHome(1, 2, 3, None),
        CopySource(1, "C", 2, 3, (R1,)),
    ],
    ids=lambda row: type(row).__name__,
)
def test_rows_survive_the_link(row: HoldsBody) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=HoldsBody) == row


def test_refs_of_a_home_that_nobody_has_told_of_wait_for_it() -> None:
    node = Node("A")
    assert node.feed(ev.Arrived("A", (R1,))) == [ev.MakeProxy(R1), ev.AskAboutNode("C", 1)]
    assert node.feed(ev.LocalGone((R1,))) == []
    assert node.feed(ev.PeerJoined("C", 1)) == [ev.Send("C", HoldRefs((1,)))]
    assert node.hears("C", RefsHeld((1,))) == [
        ev.ReleaseProxy(R1),
        ev.Send("A", ConfirmRefs((R1,))),
        ev.Send("C", DropRefs((1,), (1,))),
    ]


def test_or_are_lost_with_it() -> None:
    node = Node("A")
    node.feed(ev.Arrived("A", (R1,)))
    assert node.feed(ev.PeerLost("C", 1)) == [ev.LoseProxy(R1, is_home_lost=True)]
    assert node.feed(ev.Arrived("A", (R2,))) == [
        ev.MakeProxy(R2),
        ev.LoseProxy(R2, is_home_lost=True),
    ]
    assert node.feed(ev.LocalGone((R1, R2))) == [ev.ReleaseProxy(R1), ev.ReleaseProxy(R2)]
    assert node.refs.is_empty


def test_a_later_life_of_a_node_ends_the_earlier_one() -> None:
    node = Node()
    node.feed(ev.Arrived("C", (R1,)))
    assert node.feed(ev.PeerJoined("C", 2)) == [ev.LoseProxy(R1, is_home_lost=True)]
    assert node.refs.is_peer("C", 2) and not node.refs.is_peer("C", 1)
    again = Name("C", 2, 1)
    assert node.feed(ev.Arrived("C", (again,))) == [ev.MakeProxy(again)]
    # Late news of the earlier life changes nothing.
    assert node.feed(ev.PeerLost("C", 1)) == []
    assert node.feed(ev.PeerJoined("C", 1)) == []
    assert node.refs.has(again) and not node.refs.has(R1)


def test_nothing_is_sent_to_a_lost_home() -> None:
    """It may be back as another life, which would take it for its own."""
    node = Node()
    value = R2
    node.feed(ev.Arrived("A", (R1,)))
    node.feed(ev.Arrived("C", (value,)))
    node.feed(ev.Landed(value, (R1,)))
    assert node.feed(ev.LocalGone((value,))) == []
    assert node.feed(ev.PeerJoined("C", 2)) == [
        ev.LoseProxy(R1, is_home_lost=True),
        ev.ReleaseProxy(value),
    ]


def test_the_dead_are_told_nothing() -> None:
    node = Node()
    node.feed(ev.Sending("A", (MINE,)))
    node.feed(ev.PeerLost("A", 1))
    node.feed(ev.PeerJoined("A", 2))
    assert node.feed(ev.SealedHere((5,))) == []
    assert node.feed(ev.Sending("A", (MINE,))) == [ev.TellSealed("A", 5)]


def test_names_of_an_earlier_life_of_this_node_are_lost() -> None:
    node = Node()
    node.feed(ev.PeerLost("B", 0))
    old = Name("B", 0, 5)
    assert node.feed(ev.Arrived("A", (old,))) == [
        ev.MakeProxy(old),
        ev.LoseProxy(old, is_home_lost=True),
    ]


def test_what_a_dead_node_held_stays_until_the_others_are_settled_about_it() -> None:
    node = Node("A", "C", "D")
    node.feed(ev.Sending("A", (MINE,)))
    lost = node.feed(ev.PeerLost("A", 1))
    assert lost == [ev.Send("C", SettleLost("A", 1)), ev.Send("D", SettleLost("A", 1))]
    assert node.hears("C", LostSettled("A", 1)) == []
    # D dies before it has answered, and may have passed on what it had got from A.
    assert node.feed(ev.PeerLost("D", 1)) == [ev.Send("C", SettleLost("D", 1))]
    assert node.hears("C", LostSettled("D", 1)) == [ev.Unpin(5)]
    assert node.refs.is_empty


def test_a_death_costs_nothing_where_nothing_was_held_for_the_dead() -> None:
    node = Node("A", "C", "D")
    assert node.feed(ev.PeerLost("D", 1)) == []


def test_a_node_is_settled_when_it_has_heard_and_its_holds_are_answered() -> None:
    node = Node("A", "C", "D")
    node.feed(ev.Arrived("D", (R1,)))
    assert node.hears("A", SettleLost("D", 1)) == []
    assert node.feed(ev.PeerLost("D", 1)) == []
    assert node.hears("C", SettleLost("D", 1)) == []
    assert node.hears("C", RefsHeld((1,))) == [
        ev.Send("A", LostSettled("D", 1)),
        ev.Send("C", LostSettled("D", 1)),
    ]
    assert node.hears("A", SettleLost("D", 1)) == [ev.Send("A", LostSettled("D", 1))]


def test_asked_about_a_node_that_it_does_not_know_it_asks_itself() -> None:
    node = Node("A")
    assert node.hears("A", SettleLost("E", 1)) == [ev.AskAboutNode("E", 1)]
    assert node.feed(ev.PeerLost("E", 1)) == [ev.Send("A", LostSettled("E", 1))]


@pytest.mark.parametrize(
    "row, why",
    [
        (
            DropRefs((5,), (2,)),
            "it drops 2 refs to object 0000000000000005 of this node, and has 1",
        ),
        (
            DropRefs((6,), (1,)),
            "it drops 1 refs to object 0000000000000006 of this node, and has 0",
        ),
        (RefsHeld((1,)), "it answers about its object 0000000000000001, of which it was not asked"),
        (
            RefsHeld((), (9,)),
            "it answers about its object 0000000000000009, of which it was not asked",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_ignored_and_told(row: RefsBody, why: str) -> None:
    node = Node()
    node.feed(ev.Sending("A", (MINE,)))
    assert node.hears("A", row) == [ev.BlamePeer("A", why)]
    assert node.refs.is_held_abroad(5)


@pytest.mark.parametrize(
    "row",
    [
        ConfirmRefs((R1,)),
        SealedAtHome(9, 0, 0, b""),
        LostSettled("C", 1),
        LostSettled("nobody", 7),
        DropRefs((5,), ()),
    ],
    ids=str,
)
def test_what_says_nothing_changes_nothing(row: RefsBody) -> None:
    node = Node()
    node.feed(ev.Sending("A", (MINE,)))
    assert node.hears("A", row) == []


def test_keys_and_counts_of_no_object_do_not_come_in() -> None:
    for data in (["HoldRefs", [-1]], ["DropRefs", [1], [0]], ["DropRefs", [1], [-1]]):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(data), type=HoldsBody)


def test_nothing_is_counted_for_who_is_over() -> None:
    node = Node()
    node.feed(ev.PeerLost("A", 1))
    assert node.feed(ev.Sending("A", (MINE,))) == []
    assert node.hears("A", HoldRefs((5,))) == []
    assert node.refs.is_empty
