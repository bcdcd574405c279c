"""Where copies are and who pulls from whom: single decisions, lives at random, broken machines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from shoal._core import copies as at_home
from shoal._core import copy_events as ev
from shoal._core.copies import RETRY_S, CopiesAtHome, Value, Wish
from shoal._core.copies_here import CopiesHere
from shoal._core.remote_ref_events import Send
from shoal._proto.holds import (
    CopyBody,
    CopyDropped,
    CopyFailed,
    CopyLanded,
    CopySource,
    FreePrimary,
    LeaveCopy,
    LeaveRefused,
    Name,
    NoCopy,
    PrimaryTaken,
    TakePrimary,
    WantCopy,
)
from shoal.testing.sim.copies import CopyViolation, CopyWorld, broadcast, live

Patch = pytest.MonkeyPatch

N = Name("A", 1, 7)


class Home:
    """``CopiesAtHome`` of A, without a clock of its own."""

    def __init__(self, *places: str, drivers: Sequence[str] = ()) -> None:
        self.copies = CopiesAtHome("A")
        self.now = 0.0
        for node in drivers:
            self.feed(ev.NodeRole(node, True))
        first, *others = places
        self.feed(ev.Stored(7, first))
        for node in others:
            self.says(node, WantCopy(7))
            self.says(node, CopyLanded(7))

    def feed(self, event: ev.AtHome) -> list[ev.Command]:
        out = self.copies.step(self.now, event)
        self.copies.validate()
        return out

    def says(self, node: str, body: CopyBody) -> list[ev.Command]:
        return self.feed(ev.CopyHeard(node, body))

    def wants(self, *nodes: str) -> list[tuple[str, str]]:
        """(who, from whom) of those that may pull now."""
        out = [self.says(node, WantCopy(7)) for node in nodes]
        return directs([command for commands in out for command in commands])


def directs(commands: list[ev.Command]) -> list[tuple[str, str]]:
    return [(c.node, c.source) for c in commands if isinstance(c, ev.Direct)]


# ---- who pulls from whom
def test_a_source_gives_to_few_and_who_has_it_is_a_source() -> None:
    home = Home("A")
    assert home.wants("B", "C", "D", "E") == [("B", "A"), ("C", "A")]
    assert directs(home.says("B", CopyLanded(7))) == [("D", "B"), ("E", "B")]
    assert home.copies.places(7) == ["A", "B"]


def test_the_copy_with_the_fewest_pullers_is_asked() -> None:
    home = Home("A", "B")
    assert home.wants("C", "D", "E") == [("C", "B"), ("D", "A"), ("E", "B")]


def test_who_wants_it_twice_is_sent_once() -> None:
    home = Home("A")
    assert home.wants("B", "B") == [("B", "A")]


def test_who_wants_it_no_longer_makes_room_for_the_next() -> None:
    home = Home("A")
    assert home.wants("B", "C", "D") == [("B", "A"), ("C", "A")]
    assert directs(home.says("B", CopyDropped(7))) == [("D", "A")]
    assert home.says("D", CopyDropped(7)) == []


def test_a_drivers_machine_gives_once_and_only_what_nobody_else_has() -> None:
    home = Home("L", drivers=["L"])
    assert home.wants("B", "C", "D") == [("B", "L")]
    assert directs(home.says("B", CopyLanded(7))) == [("C", "B"), ("D", "B")]
    assert home.wants("E") == []
    assert directs(home.says("C", CopyLanded(7))) == [("E", "C")]


def test_a_value_that_is_not_stored_yet_is_waited_for() -> None:
    home = Home("A")
    assert home.feed(ev.CopyHeard("B", WantCopy(8))) == []
    assert home.feed(ev.Stored(8, "C")) == [ev.Direct("B", 8, "C")]


def test_another_place_is_tried_first_and_then_home_fetches_it() -> None:
    home = Home("C", "D")
    assert home.wants("B") == [("B", "D")]
    assert directs(home.says("B", CopyFailed(7, "D", "refused"))) == [("B", "C")]
    assert home.says("B", CopyFailed(7, "C", "refused")) == [ev.FetchHome(7)]
    assert home.wants("A") == [("A", "D")]
    assert directs(home.says("A", CopyLanded(7))) == [("B", "A")]


def test_places_that_have_failed_are_tried_again_later() -> None:
    home = Home("A")
    assert home.wants("B") == [("B", "A")]
    assert home.says("B", CopyFailed(7, "A", "broken")) == []
    assert home.copies.next_deadline() == RETRY_S
    home.now = RETRY_S / 2
    assert home.feed(ev.Ticked()) == []
    home.now = RETRY_S
    assert directs(home.feed(ev.Ticked())) == [("B", "A")]
    assert home.copies.next_deadline() is None


# ---- the primary copy
def test_the_primary_copy_goes_only_after_another_has_taken_its_place() -> None:
    home = Home("C", "D")
    assert home.says("C", LeaveCopy(7)) == [Send("D", TakePrimary(7))]
    assert home.says("D", PrimaryTaken(7)) == [Send("C", FreePrimary(7))]
    assert home.copies.places(7) == ["D"]


def test_a_copy_that_is_gone_meanwhile_does_not_become_primary() -> None:
    home = Home("C", "D", "E")
    assert home.says("C", LeaveCopy(7)) == [Send("D", TakePrimary(7))]
    assert home.says("D", CopyDropped(7)) == [Send("E", TakePrimary(7))]
    assert home.says("E", CopyDropped(7)) == [Send("C", LeaveRefused(7))]
    assert home.copies.places(7) == ["C"]


def test_who_leaves_gives_to_nobody_any_more() -> None:
    home = Home("C", "D")
    home.says("C", LeaveCopy(7))
    assert home.wants("E", "F", "G") == [("E", "D"), ("F", "D")]


def test_a_drivers_copy_becomes_primary_last() -> None:
    home = Home("C", "L", "E", drivers=["L"])
    assert home.says("C", LeaveCopy(7)) == [Send("E", TakePrimary(7))]


def test_with_its_node_another_copy_becomes_primary_or_it_is_made_again() -> None:
    home = Home("C", "D")
    assert home.feed(ev.NodeGone("C")) == [Send("D", TakePrimary(7))]
    home.says("D", PrimaryTaken(7))
    assert home.feed(ev.NodeGone("D")) == [ev.Remake(7)]
    assert home.wants("B") == []
    assert home.feed(ev.Stored(7, "E")) == [ev.Direct("B", 7, "E")]


def test_who_asks_for_what_is_given_up_hears_so_also_later() -> None:
    home = Home("C")
    home.feed(ev.NodeGone("C"))
    home.wants("B")
    assert home.feed(ev.GivenUp(7, b"why")) == [Send("B", NoCopy(7, b"why"))]
    assert home.says("D", WantCopy(7)) == [Send("D", NoCopy(7, b"why"))]
    assert home.feed(ev.Unneeded(7)) == []
    assert not home.copies._values


def test_what_nobody_needs_is_freed_where_it_is_kept() -> None:
    home = Home("C")
    assert home.feed(ev.Unneeded(7)) == [Send("C", FreePrimary(7))]
    assert home.says("C", LeaveCopy(7)) == [Send("C", FreePrimary(7))]


# ---- the node that pulls
def test_it_is_pulled_once_whoever_looks() -> None:
    here = CopiesHere()
    source = ev.CopyHeard("A", CopySource(7, "C", 0, 10))
    assert here.step(0.0, ev.Needed(N)) == [Send("A", WantCopy(7))]
    assert here.step(0.0, ev.Needed(N)) == []
    assert here.step(0.0, source) == [ev.Pull(N, "C")]
    assert here.step(0.0, source) == here.step(0.0, ev.Needed(N)) == []
    assert here.step(0.0, ev.PullEnded(N, "C")) == [ev.Show(N), Send("A", CopyLanded(7))]
    assert here.step(0.0, ev.Needed(N)) == []
    assert here.step(0.0, ev.ProxyGone(N)) == [Send("A", CopyDropped(7))]
    here.validate()
    assert not here.is_here(N) and not here.is_needed(N)


def test_what_lands_for_nobody_is_dropped_and_asked_for_again_if_somebody_came() -> None:
    here = CopiesHere()
    here.step(0.0, ev.Needed(N))
    here.step(0.0, ev.CopyHeard("A", CopySource(7, "C", 0, 10)))
    assert here.step(0.0, ev.ProxyGone(N)) == []
    assert here.step(0.0, ev.Needed(N)) == []
    assert here.step(0.0, ev.PullEnded(N, "C")) == [
        ev.DropBytes(N),
        Send("A", CopyDropped(7)),
        Send("A", WantCopy(7)),
    ]


def test_what_was_made_here_stays_without_a_proxy() -> None:
    here = CopiesHere()
    here.step(0.0, ev.Produced(N))
    assert here.step(0.0, ev.ProxyGone(N)) == []
    assert here.step(0.0, ev.RoomNeeded(N)) == [Send("A", LeaveCopy(7))]
    assert here.step(0.0, ev.RoomNeeded(N)) == []
    assert here.step(0.0, ev.CopyHeard("A", LeaveRefused(7))) == [ev.Spill(N)]
    assert here.step(0.0, ev.CopyHeard("A", FreePrimary(7))) == [ev.EndPrimary(N)]
    assert not here.is_here(N)


def test_copies_of_a_lost_home_are_forgotten_and_the_kept_one_ends() -> None:
    here = CopiesHere()
    here.step(0.0, ev.Produced(N))
    assert here.step(0.0, ev.NodeGone("A")) == [ev.EndPrimary(N)]
    assert here.step(0.0, ev.PullEnded(N, "C")) == [ev.DropBytes(N)]


def test_who_is_asked_to_be_primary_and_has_dropped_it_does_not_say_so_twice() -> None:
    """A second CopyDropped would take back the question that was sent after the first."""
    here = CopiesHere()
    here.step(0.0, ev.Needed(N))
    here.step(0.0, ev.CopyHeard("A", CopySource(7, "C", 0, 10)))
    here.step(0.0, ev.PullEnded(N, "C"))
    assert here.step(0.0, ev.RoomNeeded(N)) == [ev.DropBytes(N), Send("A", CopyDropped(7))]
    assert here.step(0.0, ev.Needed(N)) == [Send("A", WantCopy(7))]
    assert here.step(0.0, ev.CopyHeard("A", TakePrimary(7))) == []


# ---- lives at random
def test_nothing_is_lost_or_kept_whatever_happens() -> None:
    given = 0
    for seed in range(400):
        given += sum(live(seed).given.values())
    assert given > 400


def test_what_a_dead_node_had_is_found_elsewhere_or_made_again() -> None:
    remakes = 0
    for seed in range(600):
        remakes += live(seed, deaths=3).remakes
    assert remakes > 50


@pytest.mark.parametrize("count", [2, 3, 8, 64, 500])
def test_one_value_goes_to_all_nodes_like_a_rumour(count: int) -> None:
    times, given = broadcast(count)
    assert times <= math.ceil(math.log2(count)) + 2
    assert given <= math.ceil(math.log2(count)) + 2, "home gives as often as anybody"


# ---- broken on purpose
def a_puller_is_no_source(monkeypatch: Patch) -> None:
    original = Value.add_place

    def add_place(self: Value, node: str) -> None:
        if not self.places:
            original(self, node)

    monkeypatch.setattr(Value, "add_place", add_place)


def the_primary_copy_goes_without_a_word(monkeypatch: Patch) -> None:
    original = CopiesHere._make_room

    def make_room(self: CopiesHere, out: list[ev.Command], name: Name) -> None:
        if name in self._copies:
            self._copies[name].is_primary = False
        original(self, out, name)

    monkeypatch.setattr(CopiesHere, "_make_room", make_room)


def it_may_go_before_another_has_answered(monkeypatch: Patch) -> None:
    original = CopiesAtHome._find_successor

    def find(self: CopiesAtHome, out: list[ev.Command], key: int, value: Value) -> None:
        original(self, out, key, value)
        if value.successor:
            self._take_primary(out, key, value, value.successor)

    monkeypatch.setattr(CopiesAtHome, "_find_successor", find)


def a_node_asks_whenever_somebody_looks(monkeypatch: Patch) -> None:
    def need(self: CopiesHere, out: list[ev.Command], name: Name) -> None:
        self._add(name).source = ""
        out.append(Send(name.node, WantCopy(name.key)))

    monkeypatch.setattr(CopiesHere, "_need", need)


def dropped_copies_are_not_told(monkeypatch: Patch) -> None:
    original = CopiesHere.step

    def step(self: CopiesHere, now: float, event: ev.Here) -> list[ev.Command]:
        out = original(self, now, event)
        return [c for c in out if not (isinstance(c, Send) and isinstance(c.body, CopyDropped))]

    monkeypatch.setattr(CopiesHere, "step", step)


def a_failed_pull_is_forgotten(monkeypatch: Patch) -> None:
    original = CopiesAtHome._end_pull

    def end_pull(self: CopiesAtHome, value: Value, node: str) -> Wish | None:
        original(self, value, node)
        return None

    monkeypatch.setattr(CopiesAtHome, "_end_pull", end_pull)


def what_has_failed_is_never_tried_again(monkeypatch: Patch) -> None:
    monkeypatch.setattr(CopiesAtHome, "next_deadline", lambda self: None)


def the_next_primary_copy_is_not_asked(monkeypatch: Patch) -> None:
    original = CopiesAtHome._find_successor

    def find(self: CopiesAtHome, out: list[ev.Command], key: int, value: Value) -> None:
        if value.leaving:
            original(self, out, key, value)

    monkeypatch.setattr(CopiesAtHome, "_find_successor", find)


def kept_copies_are_not_freed(monkeypatch: Patch) -> None:
    monkeypatch.setattr(CopiesAtHome, "_free", lambda self, out, key: self._values.pop(key, None))


BROKEN: list[tuple[Callable[[Patch], None], int, int]] = [
    (a_puller_is_no_source, 0, 50),
    (the_primary_copy_goes_without_a_word, 0, 50),
    (it_may_go_before_another_has_answered, 0, 400),
    (a_node_asks_whenever_somebody_looks, 0, 50),
    (dropped_copies_are_not_told, 0, 50),
    (a_failed_pull_is_forgotten, 0, 400),
    (what_has_failed_is_never_tried_again, 0, 400),
    (the_next_primary_copy_is_not_asked, 3, 400),
    (kept_copies_are_not_freed, 0, 50),
]


@pytest.mark.parametrize("way, deaths, seeds", BROKEN, ids=[row[0].__name__ for row in BROKEN])
def test_what_is_broken_is_caught(
    way: Callable[[Patch], None], deaths: int, seeds: int, monkeypatch: Patch
) -> None:
    """`validate` is off: only what is seen from outside counts."""
    way(monkeypatch)
    monkeypatch.setattr(CopiesAtHome, "validate", lambda self: None)
    monkeypatch.setattr(CopiesHere, "validate", lambda self: None)
    with pytest.raises(CopyViolation):
        for seed in range(seeds):
            live(seed, deaths)


def test_without_the_bound_the_home_gives_it_to_all(monkeypatch: Patch) -> None:
    monkeypatch.setattr(at_home, "PULLS_MOST", 1000)
    world = CopyWorld(20, transfer_s=float)
    world.home = CopiesAtHome("n0", pulls_most=1000)
    world.store("n0")
    with pytest.raises(CopyViolation, match="at a time"):
        for node in world.nodes:
            world.need(node)
        world.run()
