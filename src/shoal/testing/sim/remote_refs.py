"""Every interleaving of refs between a few nodes: ``python -m shoal.testing.sim.remote_refs``.

What is explored is the real ``RemoteRefs`` of every node, joined by links: one queue per ordered
pair of nodes. From the beginning of a ``Case`` each thing that may happen next is tried, in every
state that was ever reached: a message arrives (the first of any link), a user sends a ref, drops
it, puts it into a value or takes it out, an object is sealed, a node dies, a living node hears of a
death. A dead node's messages arrive until the receiver has heard of its death, and are lost then,
so each receiver gets any beginning of what was sent to it. Deaths are heard in their order.

Rules:

* **Never too early**: while the home of a ref lives and a living node has the ref, or it is in a
  message that can still arrive, home has not freed it.
* **Never too late**: once nothing is on its way and every death is heard (*quiet*), home has freed
  exactly what nobody has, nobody has a proxy that he does not need, and no table remembers
  anything of what is over.
* **Told**: when it is quiet, who has a ref to a sealed object was told, exactly once per proxy; who
  has one of a lost home knows that.
* What a single node must never do (``ref_sites``), and ``RemoteRefs.validate`` in every state.

``Explorer.walk`` goes one way at random through cases that are too large for all of them.

Sends are bounded, so the states are finitely many and quiet is reached from each: every step uses
up a send, a message, a holder, a death or the news of one.

A node's state is interned: a global state is a tuple of small numbers, and what a node does in a
state on an event is computed once, however many global states it is part of.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import random
import sys
from collections.abc import Callable, Iterator, Sequence

import msgspec

from shoal._base import clock
from shoal._core.remote_refs import RemoteRefs
from shoal._proto.holds import Name
from shoal.testing.sim.ref_sites import (
    EPOCH,
    Act,
    Case,
    Make,
    Refs,
    RefViolation,
    Row,
    Site,
    freeze_site,
)

State = tuple[int, ...]
"""Sites (-1: dead), then what is on each link, then who has heard which deaths, sends and deaths
left, and the order of the deaths."""

DEAD = -1
USUAL = 0.9
"""How often nobody dies or drops a ref, on one way at random."""


class Report(msgspec.Struct, frozen=True):
    """What was looked at."""

    states: int
    steps: int
    quiet: int
    """States in which nothing was on its way."""
    sites: int
    """Different states of single nodes."""
    longest: int
    """Steps from the beginning to the last state found."""


class Explorer:
    """One case, breadth first."""

    def __init__(self, case: Case, make: Make = RemoteRefs, is_validated: bool = True) -> None:
        self.case = case
        self.n = len(case.nodes)
        self.is_validated = is_validated
        self._sites: list[Site] = []
        self._site_ids: dict[object, int] = {}
        self._acts: dict[int, list[Act]] = {}
        self._did: dict[tuple[int, object], tuple[int, tuple[tuple[str, Row], ...]]] = {}
        self._links: list[tuple[Row, ...]] = [()]
        self._link_ids: dict[tuple[Row, ...], int] = {(): 0}
        self._pairs = [(a, b) for a in range(self.n) for b in range(self.n) if a != b]
        self._link_at = {pair: self.n + at for at, pair in enumerate(self._pairs)}
        self._rest = self.n + len(self._pairs)
        self._index = {node: at for at, node in enumerate(case.nodes)}
        self._make = make
        self._carried: dict[int, frozenset[Name]] = {0: frozenset()}
        self.quiet = 0

    def run(self, most: int = 10_000_000) -> Report:
        """Look at every state. Raises ``RefViolation`` with the way to it."""
        start = self._start()
        came_from: dict[State, tuple[State, str] | None] = {start: None}
        front = [start]
        steps = depth = 0
        while front:
            depth += 1
            found = []
            for state in front:
                try:
                    self._check(state)
                    for told, after in self._next(state):
                        steps += 1
                        if after not in came_from:
                            came_from[after] = state, told
                            found.append(after)
                except (AssertionError, KeyError) as error:
                    way = "\n  ".join(self._way(came_from, state))
                    raise RefViolation(f"{error!r}\nafter\n  {way}") from error
            front = found
            if len(came_from) > most:
                raise ValueError(f"more than {most} states: make the case smaller")
        return Report(len(came_from), steps, self.quiet, len(self._sites), depth - 1)

    def walk(self, chance: random.Random) -> int:
        """One way through a case that is too large, to its end; how many steps it had."""
        state = self._start()
        way = []
        try:
            while True:
                self._check(state)
                following = list(self._next(state))
                if not following:
                    assert self._is_quiet(state), "nothing can happen, and not everything is over"
                    return len(way)
                # Else all would be dead, or have nothing, before much has happened.
                usual = [(told, to) for told, to in following if not _is_end(told)]
                told, state = chance.choice(
                    usual if usual and chance.random() < USUAL else following
                )
                way.append(told)
        except (AssertionError, KeyError) as error:
            lines = "\n  ".join(way)
            raise RefViolation(f"{error!r}\nafter\n  {lines}") from error

    def _start(self) -> State:
        sites = [self._site_id(Site(self.case, node, self._make)) for node in self.case.nodes]
        rest = [0] * self.n + [self.case.sends, self.case.deaths, 0]
        return (*sites, *[0] * len(self._pairs), *rest)

    def _way(self, came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
        way = []
        while (step := came_from[state]) is not None:
            state, told = step
            way.append(told)
        return way[::-1]

    # ---- what may happen
    def _next(self, state: State) -> Iterator[tuple[str, State]]:
        """(what happens, the state after it), for everything that may happen now."""
        nodes, n, rest = self.case.nodes, self.n, self._rest
        sends, deaths, order = state[rest + n :]
        for a in range(n):
            if state[a] == DEAD:
                continue
            for act in self._acts_of(state[a]):
                is_free = act.kind in {"drop", "seal"}
                if is_free or sends:
                    spent = list(state)
                    spent[rest + n] -= not is_free
                    yield f"{nodes[a]}: {act}", self._do(spent, a, act)
        for (a, b), at in self._link_at.items():
            if state[at] and state[b] != DEAD:
                row, *later = self._links[state[at]]
                after = list(state)
                after[at] = self._link_id(tuple(later))
                yield f"{nodes[a]} -> {nodes[b]}: {row}", self._do(after, b, (nodes[a], row))
        for dead in _digits(order):
            for b in range(n):
                heard = state[rest + b]
                if state[b] != DEAD and not heard & 1 << dead and self._is_next(order, heard, dead):
                    after = list(state)
                    after[rest + b] |= 1 << dead
                    after[self._link_at[dead, b]] = 0
                    yield f"{nodes[b]} hears of {nodes[dead]}", self._do(after, b, nodes[dead])
        if deaths:
            for a in range(n):
                if state[a] != DEAD and nodes[a] in (self.case.mortals or nodes):
                    yield f"{nodes[a]} dies", self._kill(state, a)

    def _is_next(self, order: int, heard: int, dead: int) -> bool:
        """Whether all earlier deaths have been heard."""
        earlier = itertools.takewhile(lambda node: node != dead, _digits(order))
        return all(heard & 1 << node for node in earlier)

    def _kill(self, state: State, a: int) -> State:
        after = list(state)
        after[a] = DEAD
        after[self._rest + a] = 0
        for b in range(self.n):
            if b != a:
                after[self._link_at[b, a]] = 0
        after[self._rest + self.n + 1] -= 1
        after[self._rest + self.n + 2] = after[self._rest + self.n + 2] * 10 + a + 1
        return tuple(after)

    def _do(self, state: list[int], a: int, what: Act | tuple[str, Row] | str) -> State:
        """Something happens at node ``a``; what it sends goes onto its links."""
        done = self._did.get((state[a], what))
        if done is None:
            done = self._did[state[a], what] = self._perform(state[a], what)
        state[a], sent = done
        for to, row in sent:
            b = self._index[to]
            if state[b] != DEAD:
                at = self._link_at[a, b]
                state[at] = self._link_id((*self._links[state[at]], row))
        return tuple(state)

    def _perform(
        self, number: int, what: Act | tuple[str, Row] | str
    ) -> tuple[int, tuple[tuple[str, Row], ...]]:
        site: Site = pickle.loads(pickle.dumps(self._sites[number]))
        if isinstance(what, str):
            sent = site.lose(what)
        elif isinstance(what, Act):
            sent = site.act(what)
        else:
            sent = site.deliver(*what)
        if self.is_validated:
            site.refs.validate()
        return self._site_id(site), tuple(sent)

    def _acts_of(self, number: int) -> list[Act]:
        if number not in self._acts:
            self._acts[number] = self._sites[number].acts()
        return self._acts[number]

    def _site_id(self, site: Site) -> int:
        frozen = freeze_site(site)
        number = self._site_ids.setdefault(frozen, len(self._sites))
        if number == len(self._sites):
            self._sites.append(site)
        return number

    def _link_id(self, rows: tuple[Row, ...]) -> int:
        number = self._link_ids.setdefault(rows, len(self._links))
        if number == len(self._links):
            self._links.append(rows)
            names = (row.names for row in rows if isinstance(row, Refs))
            self._carried[number] = frozenset(itertools.chain.from_iterable(names))
        return number

    # ---- the rules
    def _check(self, state: State) -> None:
        for at, number in enumerate(state[: self.n]):
            if number != DEAD:
                for name in self._sites[number].freed:
                    self._check_freed(state, at, name)
        if self._is_quiet(state):
            self.quiet += 1
            self._check_quiet(state)

    def _check_freed(self, state: State, home: int, name: Name) -> None:
        for at, number in enumerate(state[: self.n]):
            if number != DEAD and name in self._sites[number].has:
                raise RefViolation(f"{name} is freed, and {self.case.nodes[at]} has it")
        for (a, b), at in self._link_at.items():
            if name in self._carried[state[at]]:
                nodes = self.case.nodes
                raise RefViolation(f"{name} is freed, and on its way {nodes[a]} -> {nodes[b]}")

    def _is_quiet(self, state: State) -> bool:
        """Nothing is on its way, and all have heard of all deaths."""
        if any(state[self.n : self._rest]):
            return False
        dead = 0
        for node in _digits(state[self._rest + self.n + 2]):
            dead |= 1 << node
        heard = state[self._rest : self._rest + self.n]
        return all(dead == h for h, number in zip(heard, state) if number != DEAD)

    def _check_quiet(self, state: State) -> None:
        sites = [self._sites[number] for number in state[: self.n] if number != DEAD]
        living = {site.node for site in sites}
        for site in sites:
            for name in site.born:
                is_held = any(name in other.has for other in sites)
                if is_held == (name in site.freed):
                    raise RefViolation(f"{name} is held: {is_held}, freed: {not is_held}")
                is_abroad = any(name in other.has for other in sites if other is not site)
                if is_abroad != (name in site.pinned):
                    raise RefViolation(f"{name} is held abroad: {is_abroad}, not so pinned")
                for other in sites:
                    if name in site.sealed and other.proxies.get(name) == "pending":
                        raise RefViolation(f"{other.node} was never told what {name} is")
            for name, kind in site.proxies.items():
                if name not in site.has:
                    raise RefViolation(f"{site.node} keeps {name}, which nobody there has")
                if name.node not in living and kind != "lost" and name not in site.landed:
                    raise RefViolation(f"{site.node} waits for {name} of a lost home")
            self._check_tables(site)

    def _check_tables(self, site: Site) -> None:
        refs = site.refs
        if refs.proxies.unknown or not refs.peers.is_quiet:
            raise RefViolation(f"{site.node} waits for an answer that does not come")
        if any(proxy.lent or proxy.is_asked or proxy.kept_for for proxy in refs.proxies):
            raise RefViolation(f"{site.node} keeps a ref for somebody who does not need it")
        if refs.waits():
            raise RefViolation(f"{site.node} says that it waits, for nothing: {refs.waits()}")
        if refs.is_empty != (not site.proxies and not site.pinned):
            raise RefViolation(f"tables of {site.node} are not empty")


def _is_end(told: str) -> bool:
    return told.endswith(" dies") or "kind='drop'" in told


def _digits(order: int) -> Iterator[int]:
    """The nodes that died, the first one first."""
    return (int(digit) - 1 for digit in (str(order) if order else ""))


# ---- cases
def one_ref(nodes: int, sends: int, deaths: int) -> Case:
    """A ref made on C, sent anywhere."""
    names = tuple("CABD"[:nodes])
    return Case(names, (Name("C", EPOCH, 1),), sends=sends, deaths=deaths)


def two_refs(nodes: int, sends: int, deaths: int) -> Case:
    """A ref made on C and one made on A, sent anywhere."""
    names = tuple("CABD"[:nodes])
    refs = (Name("C", EPOCH, 1), Name("A", EPOCH, 2))
    return Case(names, refs, sends=sends, deaths=deaths)


def told(nodes: int, sends: int, deaths: int) -> Case:
    """A ref made on C, which is sealed some time."""
    return msgspec.structs.replace(one_ref(nodes, sends, deaths), has_seals=True)


def in_value(nodes: int, sends: int, deaths: int) -> Case:
    """A ref made on C, put into a value on A, taken out on B (and anywhere else)."""
    case = two_refs(nodes, sends, deaths)
    inner, outer = case.names
    return msgspec.structs.replace(case, inside={outer: inner})


def in_own_value(nodes: int, sends: int, deaths: int) -> Case:
    """A ref made on C, put into a value on C as well, taken out anywhere."""
    names = tuple("CABD"[:nodes])
    inner, outer = Name("C", EPOCH, 1), Name("C", EPOCH, 2)
    return Case(names, (inner, outer), {outer: inner}, sends, deaths)


CASES: dict[str, Callable[[int, int, int], Case]] = {
    "one-ref": one_ref,
    "two-refs": two_refs,
    "told": told,
    "in-value": in_value,
    "in-own-value": in_own_value,
}


def main(arguments: Sequence[str]) -> int:
    """Explore what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m shoal.testing.sim.remote_refs",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--case", choices=CASES, help="one of them (default: all)")
    parser.add_argument("--nodes", type=int, default=3, help="how many, up to 4 (default 3)")
    parser.add_argument("--sends", type=int, default=3, help="how often refs travel (default 3)")
    parser.add_argument("--deaths", type=int, default=1, help="how many nodes die (default 1)")
    options = parser.parse_args(arguments)
    for name in [options.case] if options.case else CASES:
        case = CASES[name](options.nodes, options.sends, options.deaths)
        began = clock.now()
        try:
            report = Explorer(case).run()
        except RefViolation as violation:
            print(f"{name}: {violation}")
            return 1
        print(f"{name}: {report}, {clock.now() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
