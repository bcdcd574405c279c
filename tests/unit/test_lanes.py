"""What the fault proxy does to bytes, on a clock of the test's own."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.testing.lanes import NEVER, SEGMENT_BYTES, ConnectionReset, Faults, Lane


def lane(**faults: object) -> Lane:
    return Lane(Faults(**faults), random.Random(1))  # type: ignore[arg-type]


def test_without_faults_everything_passes_at_once() -> None:
    one = lane()
    one.feed(5.0, b"abc")
    assert one.wakes_at() == 5.0
    assert one.take(5.0, 2) == b"ab" and one.take(5.0, 9) == b"c"
    assert one.wakes_at() == NEVER
    one.end(6.0)
    assert one.has_ended(6.0) and one.room() == 0


def test_a_delay_holds_for_bytes_and_for_their_end() -> None:
    one = lane(delay_s=0.2)
    one.feed(1.0, b"abc")
    one.end(1.1)
    assert one.take(1.19, 9) == b"" and one.wakes_at() == pytest.approx(1.2)
    assert one.take(1.2, 9) == b"abc"
    assert not one.has_ended(1.29) and one.wakes_at() == pytest.approx(1.3)
    assert one.has_ended(1.3)


def test_a_line_has_a_speed() -> None:
    one = lane(bandwidth=1000 * SEGMENT_BYTES)
    one.feed(0.0, bytes(100 * SEGMENT_BYTES))
    assert len(one.take(0.0505, 1 << 30)) == 50 * SEGMENT_BYTES
    one.feed(0.0505, b"last")
    assert len(one.take(0.0995, 1 << 30)) == 49 * SEGMENT_BYTES
    assert one.take(0.101, 1 << 30) == bytes(SEGMENT_BYTES) + b"last"


def test_a_lost_segment_holds_those_behind_it() -> None:
    one = lane(loss=1.0, stall_s=0.3)
    one.feed(0.0, b"first")
    one.faults = Faults()
    one.feed(0.1, b"second")
    assert one.take(0.29, 99) == b"" and one.stalled == 1
    assert one.take(0.3, 99) == b"firstsecond"


def test_a_cut_tells_nothing_and_loses_nothing() -> None:
    one = lane()
    one.feed(0.0, b"before")
    one.faults = Faults(is_cut=True)
    assert one.take(1.0, 99) == b"" and one.wakes_at() == NEVER and one.room() == 0
    one.end(1.0)
    assert not one.has_ended(99.0)
    one.faults = Faults()
    assert one.take(99.0, 99) == b"before" and one.has_ended(99.0)


def test_a_full_window_stops_the_sender() -> None:
    one = lane(window_bytes=10, delay_s=1.0)
    one.feed(0.0, b"12345678")
    assert one.room() == 2
    one.feed(0.0, b"90")
    assert one.room() == 0
    one.take(1.0, 4)
    assert one.room() == 4


def test_one_bit_of_a_corrupt_segment_flips() -> None:
    one = lane(corrupt=1.0)
    sent = bytes(3 * SEGMENT_BYTES)
    one.feed(0.0, sent)
    got = one.take(0.0, 1 << 20)
    assert len(got) == len(sent) and one.changed == 3
    for at in range(0, len(sent), SEGMENT_BYTES):
        bits = sum(byte.bit_count() for byte in got[at : at + SEGMENT_BYTES])
        assert bits == 1


def test_dice_can_end_a_connection_and_come_from_the_seed() -> None:
    def fate(seed: int) -> int:
        one = Lane(Faults(reset=0.02), random.Random(seed))
        for number in range(10_000):
            try:
                one.feed(0.0, b"x")
            except ConnectionReset:
                return number
        return -1

    fates = [fate(seed) for seed in range(20)]
    assert fates == [fate(seed) for seed in range(20)] and len(set(fates)) > 5
    assert 5 < sum(fates) / 20 < 200


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.5}, {"delay_s": -1.0}, {"window_bytes": 0}, {"corrupt": -0.1}]
)
def test_faults_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Faults(**wrong)  # type: ignore[arg-type]


# ---- any life of a lane


class Overtaking(Lane):
    """Broken: a later segment may be due before an earlier one."""

    def _send(self, due: float, data: bytes) -> None:
        self._last_due = max(self._last_due, due)
        self._under_way.append((due, data))
        self._under_way = type(self._under_way)(sorted(self._under_way, key=lambda each: each[0]))


class Misplacing(Lane):
    """Broken: what the receiver has not taken goes to the end."""

    def put_back(self, data: bytes) -> None:
        if data:
            self._under_way.append((0.0, data))
            self.held_bytes += len(data)


class Dropping(Lane):
    """Broken: a cut loses what is under way."""

    def take(self, now: float, most_bytes: int) -> bytes:
        if self.faults.is_cut:
            self._under_way.clear()
            self.held_bytes = 0
        return super().take(now, most_bytes)


class Hasty(Lane):
    """Broken: the end of the stream overtakes its bytes."""

    def has_ended(self, now: float) -> bool:
        return self._end_due is not None


class Deaf(Lane):
    """Broken: it does not say when to look again."""

    def wakes_at(self) -> float:
        return NEVER


LIVES = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(1, 4000)),
        st.tuples(st.just("take"), st.integers(1, 6000)),
        st.tuples(st.just("part"), st.integers(0, 100)),
        st.tuples(st.just("time"), st.integers(0, 300)),
        st.tuples(st.just("faults"), st.integers(0, 4)),
    ),
    max_size=40,
)
KINDS = [
    Faults(),
    Faults(delay_s=0.1, jitter_s=0.1),
    Faults(is_cut=True),
    Faults(bandwidth=50_000.0, loss=0.3),
    Faults(window_bytes=500),
]


def live(kind: type[Lane], life: list[tuple[str, int]], seed: int) -> None:
    """One life, and then a quiet time in which everything must arrive; judged from outside."""
    chance = random.Random(seed)
    one, now = kind(KINDS[0], chance), 0.0
    sent, got = bytearray(), bytearray()
    for what, amount in life:
        if what == "feed":
            data = chance.randbytes(min(amount, one.room()))
            if data:
                one.feed(now, data)
                sent += data
        elif what == "take":
            got += one.take(now, amount)
        elif what == "part":
            data = one.take(now, 4000)
            kept = len(data) * amount // 100
            got += data[:kept]
            one.put_back(data[kept:])
        elif what == "time":
            now += amount / 1000
        else:
            one.faults = KINDS[amount]
        one.validate()
    one.faults = Faults()
    one.end(now)
    for _ in range(10_000):
        got += one.take(now, 1000)
        if one.has_ended(now):
            break
        assert one.wakes_at() < NEVER, "it waits for nothing"
        now = max(now, one.wakes_at())
    assert one.has_ended(now) and got == sent, "lost, doubled, changed or out of order"


@settings(max_examples=200, deadline=None)
@given(LIVES, st.integers(0, 1 << 30))
def test_bytes_arrive_in_order_and_each_once(life: list[tuple[str, int]], seed: int) -> None:
    live(Lane, life, seed)


@pytest.mark.parametrize("broken", [Overtaking, Misplacing, Dropping, Hasty, Deaf])
def test_broken_lanes_are_caught(broken: type[Lane]) -> None:
    chance = random.Random(4)
    makers: list[Callable[[], tuple[str, int]]] = [
        lambda: ("feed", chance.randrange(1, 4000)),
        lambda: ("take", chance.randrange(1, 6000)),
        lambda: ("part", chance.randrange(100)),
        lambda: ("time", chance.randrange(300)),
        lambda: ("faults", chance.randrange(len(KINDS))),
    ]
    for seed in range(300):
        try:
            live(broken, [chance.choice(makers)() for _ in range(40)], seed)
        except AssertionError:
            return
    pytest.fail(f"{broken.__name__} was not caught in 300 lives")
