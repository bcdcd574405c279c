"""A link's decisions one at a time, who may stand at the door, and the bytes between machines."""

from __future__ import annotations

import os
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._core import link_events as core
from shoal._core.doorkeeper import Doorkeeper, DoorLimits, LineBudget, source_of
from shoal._core.link import Link
from shoal._core.link_events import LinkLimits
from shoal._proto import links
from shoal._proto.frames import FrameError
from shoal._proto.links import Bye, Hello, LinkDecoder, PieceAsked, Relay


def of_kind(commands: list[Any], kind: type) -> list[Any]:
    return [command for command in commands if isinstance(command, kind)]


def linked(link: Link, now: float, connection: int = 7, epoch: int = 1, turn: int = 1) -> list[Any]:
    """Have a peer greet that has nothing yet."""
    return link.step(now, core.Greeted(connection, False, epoch, 0, 0, turn))


# ---- suspicion (RULES section 3: an end, a refused dial, half a second)
def test_a_lost_peer_is_suspected_after_half_a_second_and_a_failed_dial() -> None:
    link = Link("a", 1, "b")
    link.step(0.0, core.AddressesKnown(("there",)))
    link.step(0.5, core.DialFailed("not yet"))
    linked(link, 1.0)
    dials = of_kind(link.step(5.0, core.Ended(7, "reset")), core.Dial)
    assert dials == [core.Dial("there")]
    assert of_kind(link.step(5.4, core.DialFailed("refused")), core.Suspected) == []
    assert link.wake_at is not None and link.wake_at <= 5.5
    assert of_kind(link.step(5.5, core.Ticked()), core.Suspected) == [core.Suspected("refused")]
    assert of_kind(link.step(9.0, core.Ticked()), core.Suspected) == []
    back = linked(link, 10.0, 8, turn=2)
    assert of_kind(back, core.Linked) == [core.Linked(1, is_new=False)]
    assert not link.suspicion.is_told


def test_that_nobody_listens_is_told_of_a_peer_that_ended_the_connection_itself() -> None:
    for is_peers, was_refused in ((True, True), (True, False), (False, True)):
        link = Link("a", 1, "b")
        link.step(0.0, core.AddressesKnown(("there",)))
        link.step(0.5, core.DialFailed("it has not begun", was_refused=True))
        linked(link, 1.0)
        assert of_kind(link.step(5.0, core.Ended(7, "reset", is_peers)), core.Dial) != []
        told = of_kind(link.step(5.2, core.DialFailed("refused", was_refused)), core.Refused)
        assert told == ([core.Refused(5.0)] if is_peers and was_refused else [])


def test_what_a_node_cut_off_itself_is_not_ended_by_the_peer() -> None:
    link = Link("a", 1, "b")
    link.step(0.0, core.AddressesKnown(("there",)))
    linked(link, 1.0)
    link.step(1.0, core.Given(b"x"))
    assert of_kind(link.step(11.0, core.Ticked()), core.Close) != []
    assert of_kind(link.step(11.1, core.DialFailed("no", was_refused=True)), core.Refused) == []


def test_a_dial_that_hangs_is_no_suspicion_until_it_has_failed() -> None:
    link = Link("a", 1, "b")
    link.step(0.0, core.AddressesKnown(("there",)))
    assert of_kind(link.step(1.9, core.Ticked()), core.Suspected) == []
    assert of_kind(link.step(2.0, core.DialFailed("late")), core.Suspected) != []


def test_a_peer_that_only_dials_is_suspected_when_it_does_not_come_back() -> None:
    link = Link("a", 1, "b")
    linked(link, 1.0)
    link.step(5.0, core.Ended(7, "reset"))
    assert of_kind(link.step(5.5, core.Ticked()), core.Suspected) != []


def test_pauses_between_dials_grow_and_are_bounded() -> None:
    link, now, pauses = Link("a", 1, "b"), 0.0, []
    link.step(now, core.AddressesKnown(("there", "relay:c")))
    asked = []
    for _ in range(12):
        link.step(now, core.DialFailed("refused"))
        wake_at = min(at for at in (link.wake_at,) if at is not None)
        while not (dials := of_kind(link.step(wake_at, core.Ticked()), core.Dial)):
            assert link.wake_at is not None
            wake_at = link.wake_at
        asked.append(dials[0].address)
        pauses.append(round(wake_at - now, 3))
        now = wake_at
    assert pauses[0] == 0.05 and pauses == sorted(pauses) and pauses[-1] == 2.0
    assert asked[:4] == ["relay:c", "there", "relay:c", "there"]


# ---- back-pressure
def test_congestion_is_told_once_and_ends_at_half() -> None:
    link = Link("a", 1, "b", LinkLimits(waiting_most_bytes=100))
    linked(link, 0.0)
    told = []
    for _ in range(15):
        told += of_kind(link.step(0.0, core.Given(b"0123456789")), core.Congested)
        link.validate()
    assert told == [core.Congested(True)]
    assert of_kind(link.step(0.1, core.FrameCame(7, 0, 9)), core.Congested) == []
    assert of_kind(link.step(0.1, core.FrameCame(7, 0, 10)), core.Congested) == [
        core.Congested(False)
    ]
    link.validate()


def test_a_peer_that_takes_nothing_loses_its_connection_but_not_its_messages() -> None:
    link = Link("a", 1, "b")
    linked(link, 0.0)
    link.step(1.0, core.Given(b"x"))
    link.step(8.0, core.Moved(7))  # its machine took bytes: slow is not silent
    assert of_kind(link.step(17.9, core.Ticked()), core.Close) == []
    assert of_kind(link.step(18.0, core.Ticked()), core.Close) != []
    writes = of_kind(linked(link, 20.0, 8, turn=2), core.Write)
    assert [(w.connection, w.number, w.data) for w in writes] == [(8, 1, b"x")]


def test_an_idle_link_expects_nothing() -> None:
    link = Link("a", 1, "b")
    linked(link, 0.0)
    link.step(0.0, core.FrameCame(7, 1, 0, b"x"))
    assert link.wake_at is not None
    assert of_kind(link.step(link.wake_at, core.Ticked()), core.Acknowledge) != []
    assert link.wake_at is None


# ---- lives
def test_a_new_life_of_the_peer_is_said_and_nothing_old_goes_to_it() -> None:
    link = Link("a", 1, "b")
    link.step(0.0, core.Given(b"before any life was known"))
    assert [w.number for w in of_kind(linked(link, 0.0), core.Write)] == [1]
    link.step(1.0, core.Given(b"lost"))
    out = linked(link, 2.0, 8, epoch=2, turn=2)
    assert of_kind(out, core.SessionEnded) == [core.SessionEnded(1, 2)]
    assert of_kind(out, core.Write) == []
    assert of_kind(out, core.Linked) == [core.Linked(2, is_new=True)]
    sent = of_kind(link.step(2.0, core.Given(b"new")), core.Write)
    assert [w.number for w in sent] == [1]


def test_a_former_life_is_told_that_it_is_over() -> None:
    link = Link("a", 1, "b")
    linked(link, 0.0, epoch=5)
    out = linked(link, 1.0, 8, epoch=4, turn=2)
    assert [(c.connection, c.is_over) for c in of_kind(out, core.Close)] == [(8, True)]
    assert link.connection == 7 and link.peer_epoch == 5


def test_who_was_declared_dead_does_not_come_back_with_that_life() -> None:
    link = Link("a", 1, "b")
    link.step(0.0, core.AddressesKnown(("there",)))
    linked(link, 0.0, epoch=5)
    link.step(0.0, core.Given(b"x"))
    out = link.step(1.0, core.Forgotten())
    assert of_kind(out, core.Close)[0].is_over
    assert of_kind(out, core.SessionEnded) == [core.SessionEnded(5, 1)]
    assert link.outbox.size_bytes == 0 and link.wake_at is None
    assert of_kind(linked(link, 2.0, 8, epoch=5), core.Close)[0].is_over
    link.validate()
    assert of_kind(linked(link, 3.0, 9, epoch=6), core.Linked) == [core.Linked(6, is_new=True)]


def test_to_go_on_as_another_epoch_says_nothing_about_the_peers() -> None:
    link = Link("a", 1, "b")
    link.step(0.0, core.AddressesKnown(("there",)))
    link.step(0.0, core.DialFailed("not yet"))
    linked(link, 1.0)
    link.step(1.0, core.Given(b"x"))
    out = link.step(2.0, core.BeganAnew(2))
    assert [close.is_over for close in of_kind(out, core.Close)] == [False]
    assert of_kind(out, core.SessionEnded) == [core.SessionEnded(1, 1)]
    assert link.epoch == 2 and link.connection is None
    while not of_kind(out, core.Dial):
        assert link.wake_at is not None
        out = link.step(link.wake_at, core.Ticked())
    link.validate()


def test_who_hears_that_its_life_is_over_stops_dialling() -> None:
    link = Link("a", 1, "b")
    link.step(0.0, core.AddressesKnown(("there",)))
    linked(link, 0.0)
    out = link.step(1.0, core.ToldOver(7, "epoch 1 of node a is over"))
    assert of_kind(out, core.Fenced) == [core.Fenced("epoch 1 of node a is over")]
    link.step(1.0, core.Ended(7, "bye"))
    assert of_kind(link.step(60.0, core.Ticked()), core.Dial) == []
    other = Link("a", 1, "b")
    out = other.step(0.0, core.Greeted(3, False, 1, 2, 0, 1))
    assert of_kind(out, core.Fenced) and other.connection is None


def test_impossible_claims_end_the_connection() -> None:
    for event in (core.FrameCame(7, 0, 1), core.FrameCame(7, 2, 0, b"x")):
        link = Link("a", 1, "b")
        linked(link, 0.0)
        assert of_kind(link.step(0.0, event), core.Close) != []
        assert link.connection is None
        link.validate()
    link = Link("a", 1, "b")
    out = link.step(0.0, core.Greeted(7, False, 1, 1, 9, 1))
    assert of_kind(out, core.Close) != [] and link.connection is None
    link.validate()


# ---- the door
def test_idle_strangers_make_room_for_others_oldest_first() -> None:
    keeper = Doorkeeper(DoorLimits(pending_per_source=3, pending_most=5))
    assert [keeper.arrived(0.0, "x", n) for n in range(3)] == [[], [], []]
    assert keeper.arrived(0.1, "x", 3) == [0]
    assert keeper.arrived(0.1, "y", 4) == [] and keeper.arrived(0.1, "y", 5) == []
    assert keeper.arrived(0.2, "z", 6) == [1], "the largest source makes room"
    keeper.validate()
    assert keeper.expired(2.05) == [2] and keeper.expired(2.05) == []
    keeper.left(6)
    keeper.validate()
    assert keeper.wake_at == pytest.approx(2.1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 30)), max_size=80))
def test_the_doorkeeper_against_a_naive_list(actions: list[tuple[int, int, int]]) -> None:
    limits = DoorLimits(pending_per_source=3, pending_most=7, pending_s=2.0)
    keeper, naive, now, number = Doorkeeper(limits), [], 0.0, 0
    for kind, source, detail in actions:
        if kind < 2:
            number += 1
            own = [entry for entry in naive if entry[1] == f"s{source}"]
            gone = keeper.arrived(now, f"s{source}", number)
            if len(own) == 3:
                assert gone == [own[0][0]]
            elif len(naive) == 7:
                sizes = {s: sum(e[1] == s for e in naive) for _, s, _ in naive}
                (left,) = (entry for entry in naive if entry[0] == gone[0])
                assert sizes[left[1]] == max(sizes.values())
                assert left == next(entry for entry in naive if entry[1] == left[1])
            else:
                assert gone == []
            naive = [entry for entry in naive if entry[0] not in gone]
            naive.append((number, f"s{source}", now))
        elif kind == 2 and naive:
            keeper.left(naive.pop(detail % len(naive))[0])
        else:
            now += detail / 10
            late = [entry[0] for entry in naive if entry[2] + 2.0 <= now]
            assert keeper.expired(now) == late
            naive = [entry for entry in naive if entry[0] not in late]
        keeper.validate()
        assert len(keeper) == len(naive)


def test_handshakes_and_lines_are_bounded_per_second() -> None:
    limits = DoorLimits(handshakes_per_s=10, handshakes_burst=20, sources_most=2, lines_burst=3)
    keeper, budget = Doorkeeper(limits), LineBudget(limits)
    assert sum(keeper.may_shake_hands(0.0, "x") for _ in range(100)) == 20
    assert sum(keeper.may_shake_hands(1.0, "x") for _ in range(100)) == 10
    assert keeper.may_shake_hands(1.0, "y")
    assert [budget.take(0.0) for _ in range(5)] == [0, 0, 0, None, None]
    assert budget.take(1.0) == 2, "what was not written is counted"


def test_sources_are_addresses_or_networks() -> None:
    assert source_of("10.0.0.7") == "10.0.0.7" == source_of("::ffff:10.0.0.7")
    assert source_of("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert source_of("2001:db8::9") == "2001:db8:0:0::/64"
    assert source_of("fe80::1%eth0") == "fe80:0:0:0::/64"


# ---- bytes
BODIES = [
    Relay("a", "b", b"x" * 100, True),
    PieceAsked(7, b"name", 1 << 40, 5),
    links.Piece(7, 0, 3, b"abc"),
    links.DialBulk(4),
]


def test_bodies_come_out_as_they_went_in() -> None:
    for body in BODIES:
        assert links.decode_body(links.encode_body(body)) == body
    for row in (Hello("a", 1, 2, 3, 4), Bye("why", True)):
        assert links.decode_control(links.encode_body(row)) == row


def test_a_control_row_is_no_body_and_a_body_no_control_row() -> None:
    with pytest.raises(FrameError):
        links.decode_body(links.encode_body(Bye("x")))
    with pytest.raises(FrameError):
        links.decode_control(links.encode_body(BODIES[0]))


def test_a_body_that_is_too_large_is_refused_where_it_is_made() -> None:
    with pytest.raises(FrameError, match="larger than what one frame"):
        links.encode_body(Relay("a", "b", bytes(links.MAX_BODY_BYTES)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 64))
def test_a_stream_may_be_cut_anywhere(bodies: list[bytes], step: int) -> None:
    stream = b"".join(
        links.frame_header(n, n // 2, len(body)) + body for n, body in enumerate(bodies, 1)
    )
    decoder, frames = LinkDecoder(), []
    for at in range(0, len(stream), step):
        frames += decoder.feed(stream[at : at + step])
    assert [(f.number, f.ack, f.data) for f in frames] == [
        (n, n // 2, body) for n, body in enumerate(bodies, 1)
    ]


@pytest.mark.parametrize("length", [links.MAX_BODY_BYTES + 1, 1 << 31, (1 << 32) - 1])
def test_an_announced_length_is_refused_before_it_is_waited_for(length: int) -> None:
    with pytest.raises(FrameError, match="was announced"):
        LinkDecoder().feed(struct.pack("<IQQ", length, 1, 0))


def test_random_bytes_give_frames_or_an_error_and_nothing_else() -> None:
    rng = random.Random(7)
    good = [links.encode_body(body) for body in BODIES]
    for _ in range(3000):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        for decode in (links.decode_body, links.decode_control):
            try:
                decode(bytes(data[: rng.randrange(len(data) + 1)]))
            except FrameError:
                pass


def test_deep_nesting_is_an_error() -> None:
    with pytest.raises(FrameError):
        links.decode_body(b"\x91" * 1_000_000)


def test_prefaces() -> None:
    nonce = os.urandom(32)
    data = links.new_preface(links.NODE, "0badcafe", nonce)
    assert len(data) == links.PREFACE_BYTES
    preface = links.read_preface(data)
    assert preface is not None and preface.nonce == nonce
    assert (preface.purpose, preface.cluster) == (links.NODE, "0badcafe")
    assert preface.version == links.LINK_VERSION
    assert links.read_preface(b"GET / HTTP/1.1\r\n".ljust(links.PREFACE_BYTES)) is None
    strange = bytearray(data)
    strange[16:32] = b"\x1b[31mred\n\0".ljust(16, b"\xff")
    read = links.read_preface(bytes(strange))
    assert read is not None and read.release == "[31mred", "nothing of it can change a terminal"


def test_versions_one_minor_apart_understand_each_other() -> None:
    assert links.can_speak((1, 4), (1, 3)) and links.can_speak((1, 4), (1, 5))
    assert not links.can_speak((1, 4), (1, 6)) and not links.can_speak((1, 4), (2, 4))
