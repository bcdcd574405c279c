"""Refs across nodes: every interleaving of small cases, and machines that are broken on purpose.

The numbers of states are printed (``pytest -s``). Larger cases: ``python -m
shoal.testing.sim.remote_refs --sends 5 --deaths 1``.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from shoal._core.lost_peers import LostPeers
from shoal._core.owned_refs import OwnedRefs
from shoal._core.proxies import Proxies, Proxy
from shoal._core.remote_ref_events import AskAboutNode, Batch, Command, Event, Peer, TellSealed
from shoal._core.remote_refs import RemoteRefs
from shoal._proto.holds import LostSettled, Name
from shoal.testing.sim.ref_sites import Case, RefViolation
from shoal.testing.sim.remote_refs import (
    EPOCH,
    Explorer,
    in_own_value,
    in_value,
    one_ref,
    told,
    two_refs,
)

Patch = pytest.MonkeyPatch

R = Name("C", EPOCH, 1)
V = Name("A", EPOCH, 2)


def chain(routes: str, deaths: int = 0, mortals: tuple[str, ...] = ()) -> Case:
    """Four nodes, and a ref of C's that takes these ways, in any order, each any time."""
    ways = tuple(routes.split())
    return Case(("C", "A", "B", "D"), (R,), {}, len(ways), deaths, mortals, routes=ways)


def later(case: Case, *joiners: str) -> Case:
    """Some of its nodes come some time."""
    return msgspec.structs.replace(case, joiners=joiners)


def partitioned(case: Case) -> Case:
    """Who is declared dead goes on until it hears so."""
    return msgspec.structs.replace(case, has_zombies=True)


SOUND = {
    "2 nodes, 1 ref": partitioned(one_ref(2, 4, 1)),
    "2 nodes, 2 refs": partitioned(two_refs(2, 3, 1)),
    "3 nodes, 1 ref": partitioned(one_ref(3, 3, 1)),
    "3 nodes, 2 refs": partitioned(two_refs(3, 2, 1)),
    "3 nodes, 2 refs, nobody dies": two_refs(3, 3, 0),
    "3 nodes, what is sealed is told": partitioned(told(3, 2, 1)),
    "3 nodes, in a value of the same home": in_own_value(3, 3, 1),
    "4 nodes, who has passed it on dies": chain("CA AB BD", 1, ("B",)),
    "4 nodes, two who have passed it on die": chain("CB BA AD", 2, ("A", "B")),
    "4 nodes, who gets it has just joined": later(chain("CA AB BD", 1, ("B",)), "D"),
    "4 nodes, who gets it joins after its home": later(chain("CA AB AD", 1, ("C",)), "D"),
}


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_freed_too_early_or_kept(name: str) -> None:
    report = Explorer(SOUND[name]).run()
    print(f"{name}: {report}")
    assert report.quiet > 1


def test_a_ref_made_on_c_put_into_a_value_on_a_and_taken_out_on_b() -> None:
    """All of it happens in some way, and every drop and every single death in every order."""
    seen = set()

    class Watching(Explorer):
        def _check(self, state: tuple[int, ...]) -> None:
            super()._check(state)
            a, b = state[self.case.nodes.index("A")], state[self.case.nodes.index("B")]
            if b != -1 and R in self._sites[b].has and V in self._sites[b].landed:
                home = "lives" if a != -1 else "is dead"
                seen.add(f"taken out on B, A {home}")
            if a != -1 and V in self._sites[a].freed:
                seen.add("the value is freed")

    report = Watching(in_value(3, 4, 1)).run()
    print(f"made, put, taken out: {report}")
    assert seen == {
        "taken out on B, A lives",
        "taken out on B, A is dead",
        "the value is freed",
    }


def test_long_ways_at_random() -> None:
    """Five nodes, four refs, one of them in a value, many sends and three deaths."""
    nodes = ("C", "A", "B", "D", "E")
    refs = (R, V, Name("C", EPOCH, 3), Name("B", EPOCH, 4))
    steps = 0
    for seed in range(12):
        case = Case(nodes, refs, {V: R}, sends=40, deaths=seed % 4, has_seals=seed % 2 == 0)
        case = msgspec.structs.replace(case, has_zombies=seed % 3 == 0, joiners=("E",))
        steps += Explorer(case).walk(random.Random(seed))
    print(f"{steps} steps")
    assert steps > 12 * 40


# ---- broken on purpose: `validate` is off, only what is seen from outside counts
def a_drop_ends_whatever_is_counted(monkeypatch: Patch) -> None:
    original = OwnedRefs.drop

    def drop(self: OwnedRefs, out: Batch, peer: Peer, key: int, count: int) -> None:
        if key in self:
            original(self, out, peer, key, self._owned[key].holders[peer].count)

    monkeypatch.setattr(OwnedRefs, "drop", drop)


def a_node_drops_one_however_often_it_was_counted(monkeypatch: Patch) -> None:
    original = RemoteRefs._maybe_drop

    def maybe_drop(self: RemoteRefs, out: Batch, proxy: Proxy) -> None:
        proxy.count = min(proxy.count, 1)
        original(self, out, proxy)

    monkeypatch.setattr(RemoteRefs, "_maybe_drop", maybe_drop)


def the_sender_keeps_nothing(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Proxies, "lend", lambda self, proxy, to: None)


def confirmed_before_home_has_answered(monkeypatch: Patch) -> None:
    original = RemoteRefs._ask

    def ask(self: RemoteRefs, out: Batch, proxy: Proxy) -> None:
        original(self, out, proxy)
        self._confirm(out, proxy)
        proxy.owed.clear()

    monkeypatch.setattr(RemoteRefs, "_ask", ask)


def one_confirmation_ends_all_loans(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Proxies, "confirm", Proxies.end_loan)


def a_known_ref_is_not_confirmed(monkeypatch: Patch) -> None:
    original = RemoteRefs._arrive

    def arrive(self: RemoteRefs, now: float, out: Batch, name: Name, frm: Peer) -> None:
        original(self, now, out, name, frm)
        out.confirms.clear()

    monkeypatch.setattr(RemoteRefs, "_arrive", arrive)


def dropped_while_an_answer_is_on_its_way(monkeypatch: Patch) -> None:
    """The answer is taken for that to a later hold."""
    original = RemoteRefs._hear_held

    def must_stay(self: Proxy) -> bool:
        return self.is_local or not self.is_known or bool(self.lent) or bool(self.kept_for)

    def hear_held(
        self: RemoteRefs, out: Batch, home: Peer, keys: tuple[int, ...], gone: tuple[int, ...]
    ) -> None:
        here = self.proxies.of_home(home)
        asked = [key for key in keys if key in here and here[key].is_asked]
        original(self, out, home, asked, [key for key in gone if key in here])

    monkeypatch.setattr(Proxy, "must_stay", property(must_stay))
    monkeypatch.setattr(RemoteRefs, "_hear_held", hear_held)


def what_was_sealed_is_told_once_per_node(monkeypatch: Patch) -> None:
    """Not once per proxy: the second one of a node is never told."""

    def drop(self: OwnedRefs, out: Batch, peer: Peer, key: int, count: int) -> None:
        holder = self._owned[key].holders[peer]
        holder.count -= count
        if not holder.count:
            self._forget(out, peer, key)

    monkeypatch.setattr(OwnedRefs, "drop", drop)


def only_the_moment_of_sealing_tells(monkeypatch: Patch) -> None:
    original = OwnedRefs.count

    def count(self: OwnedRefs, out: Batch, peer: Peer, key: int) -> None:
        commands, out.commands = out.commands, []
        original(self, out, peer, key)
        out.commands = commands + [row for row in out.commands if not isinstance(row, TellSealed)]

    monkeypatch.setattr(OwnedRefs, "count", count)


def a_value_is_not_kept_for_what_was_in_it(monkeypatch: Patch) -> None:
    original = RemoteRefs._land

    def land(
        self: RemoteRefs, now: float, out: Batch, outer: Name, names: tuple[Name, ...]
    ) -> None:
        original(self, now, out, outer, names)
        value = self.proxies.find(outer)
        assert value is not None
        value.kept_for.clear()
        for name in names:
            if proxy := self.proxies.find(name):
                proxy.inside.clear()

    monkeypatch.setattr(RemoteRefs, "_land", land)


def what_a_dead_node_held_ends_at_once(monkeypatch: Patch) -> None:
    def begin_round(self: LostPeers, out: Batch, lost: Peer) -> list[Peer]:
        return [lost]

    monkeypatch.setattr(LostPeers, "begin_round", begin_round)


def what_a_dead_node_was_lent_ends_at_once(monkeypatch: Patch) -> None:
    original = RemoteRefs._lose_peer

    def lose_peer(self: RemoteRefs, out: Batch, lost: Peer) -> None:
        original(self, out, lost)
        for proxy in self.proxies.lent_to(lost):
            self.proxies.end_loan(proxy, lost)
            self._maybe_drop(out, proxy)

    monkeypatch.setattr(RemoteRefs, "_lose_peer", lose_peer)


def what_a_dead_node_held_stays(monkeypatch: Patch) -> None:
    def begin_round(self: LostPeers, out: Batch, lost: Peer) -> list[Peer]:
        return []

    monkeypatch.setattr(LostPeers, "begin_round", begin_round)


def settled_as_soon_as_it_is_heard(monkeypatch: Patch) -> None:
    original = LostPeers.unsettle
    monkeypatch.setattr(
        LostPeers, "unsettle", lambda self, out, lost, unknown: original(self, out, lost, ())
    )


def settled_before_it_is_heard(monkeypatch: Patch) -> None:
    def hear_asked(self: LostPeers, out: Batch, lost: Peer, frm: Peer) -> None:
        out.send(frm[0], LostSettled(*lost))

    monkeypatch.setattr(LostPeers, "hear_asked", hear_asked)


def who_dies_in_a_round_is_forgotten(monkeypatch: Patch) -> None:
    original = RemoteRefs._lose_peer

    def lose_peer(self: RemoteRefs, out: Batch, lost: Peer) -> None:
        original(self, out, lost)
        for about in list(self.peers._rounds):
            self._end_rounds(out, self.peers.hear_settled(about, lost))

    monkeypatch.setattr(RemoteRefs, "_lose_peer", lose_peer)


def who_dies_in_a_round_is_waited_for_in_vain(monkeypatch: Patch) -> None:
    monkeypatch.setattr(LostPeers, "is_awaited", lambda self, lost: False)


def refs_of_a_lost_home_are_waited_for(monkeypatch: Patch) -> None:
    monkeypatch.setattr(RemoteRefs, "_lose_proxy", lambda self, out, proxy, is_home_lost: None)


def a_lost_ref_stays_lent(monkeypatch: Patch) -> None:
    original = RemoteRefs._lose_proxy

    def lose_proxy(self: RemoteRefs, out: Batch, proxy: Proxy, is_home_lost: bool) -> None:
        lent = dict(proxy.lent)
        original(self, out, proxy, is_home_lost)
        proxy.lent.update(lent)

    monkeypatch.setattr(RemoteRefs, "_lose_proxy", lose_proxy)


def unknown_homes_are_not_asked_about(monkeypatch: Patch) -> None:
    original = RemoteRefs.step

    def step(self: RemoteRefs, now: float, event: Event) -> list[Command]:
        out = original(self, now, event)
        return [command for command in out if not isinstance(command, AskAboutNode)]

    monkeypatch.setattr(RemoteRefs, "step", step)


Break = Callable[[Patch], None]

BROKEN: list[tuple[Break, Case, str]] = [
    (a_drop_ends_whatever_is_counted, one_ref(2, 2, 0), "is freed, and"),
    (a_node_drops_one_however_often_it_was_counted, one_ref(2, 2, 0), "not so pinned"),
    (the_sender_keeps_nothing, one_ref(3, 2, 0), "freed"),
    (confirmed_before_home_has_answered, one_ref(3, 2, 0), "freed"),
    (one_confirmation_ends_all_loans, one_ref(3, 3, 0), "freed"),
    (a_known_ref_is_not_confirmed, one_ref(3, 3, 0), "keeps"),
    (dropped_while_an_answer_is_on_its_way, one_ref(3, 4, 0), "freed"),
    (what_was_sealed_is_told_once_per_node, told(2, 2, 0), "never told"),
    (only_the_moment_of_sealing_tells, told(3, 2, 0), "never told"),
    (a_value_is_not_kept_for_what_was_in_it, in_value(3, 4, 0), "freed"),
    (what_a_dead_node_held_ends_at_once, one_ref(3, 2, 1), "freed"),
    (what_a_dead_node_was_lent_ends_at_once, chain("CA AB BC", 1, ("B",)), "freed"),
    (what_a_dead_node_held_stays, one_ref(2, 1, 1), "not so pinned"),
    (settled_as_soon_as_it_is_heard, chain("CA AB BD", 1, ("B",)), "freed"),
    (settled_before_it_is_heard, one_ref(3, 2, 1), "freed"),
    (who_dies_in_a_round_is_forgotten, chain("CB BA AD", 2, ("A", "B")), "freed"),
    (who_dies_in_a_round_is_waited_for_in_vain, one_ref(3, 2, 2), "not so pinned"),
    (unknown_homes_are_not_asked_about, later(chain("CA AD", 1, ("C",)), "D"), "waits for"),
    (refs_of_a_lost_home_are_waited_for, one_ref(2, 1, 1), "waits for"),
    (a_lost_ref_stays_lent, one_ref(3, 2, 1), "keeps a ref"),
]


@pytest.mark.parametrize("way, case, rule", BROKEN, ids=[row[0].__name__ for row in BROKEN])
def test_what_is_broken_is_caught(way: Break, case: Case, rule: str, monkeypatch: Patch) -> None:
    way(monkeypatch)
    with pytest.raises(RefViolation) as caught:
        Explorer(case, is_validated=False).run()
    said = str(caught.value).splitlines()[0]
    print(f"{way.__name__}: {said}")
    assert rule in said
