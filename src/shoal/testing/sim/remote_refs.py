"""Every interleaving of refs between a few nodes: ``python -m shoal.testing.sim.remote_refs``.

What is explored is the real ``RemoteRefs`` of every node, joined by links: one queue per ordered
pair of nodes. From the beginning of a ``Case`` each thing that may happen next is tried, in every
state that was ever reached: a message arrives (the first of any link), a user sends a ref, drops
it, puts it into a value or takes it out, an object is sealed, a node dies, a living node hears of a
death or that another node has come. A dead node's messages arrive until the receiver has heard of
its death, and are lost then, so each receiver gets any beginning of what was sent to it. What the
control store says of nodes is heard by each in the same order, some time. With ``has_zombies`` a
node that is declared dead goes on until it hears of it itself (RULES section 3: a partition).

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

Refs meet each other only in values, in batches, and in what a node waits for before it is settled,
so one ref shows all that counting can do, and two what a value can. Counts are compared with zero
and with each other only: a third crossing adds no new order to those of two. All broken machines
of the test show within four sends.

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
"""Sites (or ``DEAD``, ``TO_COME``), then what is on each link, then how much of the control store's
log each node has heard, sends and deaths left, and the number of that log."""

News = tuple[str, int]
"""joined or lost, and which node."""
What = Act | tuple[str, Row] | str
"""What happens at a node: an act, a message and its sender, or news."""

DEAD = -1
TO_COME = -2
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
        self._did: dict[tuple[int, What], tuple[int, tuple[tuple[str, Row], ...]]] = {}
        self._logs: list[tuple[News, ...]] = [()]
        self._log_ids: dict[tuple[News, ...], int] = {(): 0}
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
        way: list[str] = []
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
        first = [node for node in self.case.nodes if node not in self.case.joiners]
        sites = [
            self._site_id(Site(self.case, node, self._make, first)) if node in first else TO_COME
            for node in self.case.nodes
        ]
        rest = [0] * self.n + [self.case.sends, self.case.deaths, 0]
        return (*sites, *[0] * len(self._pairs), *rest)

    def _way(self, came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
        way: list[str] = []
        while (step := came_from[state]) is not None:
            state, told = step
            way.append(told)
        return way[::-1]

    # ---- what may happen
    def _next(self, state: State) -> Iterator[tuple[str, State]]:
        """(what happens, the state after it), for everything that may happen now."""
        nodes, n, rest = self.case.nodes, self.n, self._rest
        for a in range(n):
            if state[a] < 0:
                continue
            for act in self._acts_of(state[a]):
                is_free = act.kind in {"drop", "seal"}
                if is_free or state[rest + n]:
                    spent = list(state)
                    spent[rest + n] -= not is_free
                    yield f"{nodes[a]}: {act}", self._do(spent, a, act)
        for (a, b), at in self._link_at.items():
            if state[at] and state[b] >= 0 and self._knows(state, b, a):
                row, *later = self._links[state[at]]
                after = list(state)
                after[at] = self._link_id(tuple(later))
                yield f"{nodes[a]} -> {nodes[b]}: {row}", self._do(after, b, (nodes[a], row))
        yield from self._next_of_nodes(state)

    def _next_of_nodes(self, state: State) -> Iterator[tuple[str, State]]:
        """Nodes come, are declared dead, and hear of each other."""
        nodes, rest = self.case.nodes, self._rest
        log = self._log(state)
        for a, number in enumerate(state[: self.n]):
            if number == TO_COME:
                yield f"{nodes[a]} joins", self._let_join(state, a)
            if number < 0:
                continue
            if state[rest + a] < len(log):
                kind, b = log[state[rest + a]]
                if b == a:
                    # It hears that it is over.
                    yield f"{nodes[a]} ends", self._end(list(state), a)
                    continue
                after = list(state)
                after[rest + a] += 1
                if kind == "lost":
                    after[self._link_at[b, a]] = after[self._link_at[a, b]] = 0
                yield (
                    f"{nodes[a]} hears: {nodes[b]} {kind}",
                    self._do(after, a, f"{kind} {nodes[b]}"),
                )
            else:
                for asked in self._sites[number].asked:
                    if ("lost", self._index[asked]) in log:
                        after = list(state)
                        yield f"{nodes[a]} is told: {asked}", self._do(after, a, f"lost {asked}")
            is_mortal = nodes[a] in (self.case.mortals or nodes)
            if ("lost", a) in log:
                yield f"{nodes[a]} ends", self._end(list(state), a)
            elif state[rest + self.n + 1] and is_mortal:
                yield f"{nodes[a]} dies", self._declare(state, a)

    def _log(self, state: State) -> tuple[News, ...]:
        return self._logs[state[self._rest + self.n + 2]]

    def _add_news(self, state: list[int], news: News) -> None:
        log = (*self._logs[state[self._rest + self.n + 2]], news)
        number = self._log_ids.setdefault(log, len(self._logs))
        if number == len(self._logs):
            self._logs.append(log)
        state[self._rest + self.n + 2] = number

    def _heard(self, state: Sequence[int], a: int) -> tuple[News, ...]:
        return self._logs[state[self._rest + self.n + 2]][: state[self._rest + a]]

    def _knows(self, state: Sequence[int], a: int, b: int) -> bool:
        """Whether ``b`` is a member, as far as ``a`` has heard."""
        heard = self._heard(state, a)
        has_joined = self.case.nodes[b] not in self.case.joiners or ("joined", b) in heard
        return has_joined and ("lost", b) not in heard

    def _let_join(self, state: State, a: int) -> State:
        after = list(state)
        self._add_news(after, ("joined", a))
        after[self._rest + a] = len(self._logs[after[-1]])
        members = [node for b, node in enumerate(self.case.nodes) if self._knows(after, a, b)]
        after[a] = self._site_id(Site(self.case, self.case.nodes[a], self._make, members))
        return tuple(after)

    def _declare(self, state: State, a: int) -> State:
        """The control store says that it is dead; if it lives, it has yet to hear of it."""
        after = list(state)
        after[self._rest + self.n + 1] -= 1
        self._add_news(after, ("lost", a))
        return tuple(after) if self.case.has_zombies else self._end(after, a)

    def _end(self, state: list[int], a: int) -> State:
        """It does nothing any more; what it has sent can still arrive."""
        state[a] = DEAD
        state[self._rest + a] = 0
        for b in range(self.n):
            if b != a:
                state[self._link_at[b, a]] = 0
        return tuple(state)

    def _do(self, state: list[int], a: int, what: What) -> State:
        """Something happens at node ``a``; what it sends goes onto its links."""
        done = self._did.get((state[a], what))
        if done is None:
            done = self._did[state[a], what] = self._perform(state[a], what)
        state[a], sent = done
        for to, row in sent:
            b = self._index[to]
            is_heard = ("lost", a) in self._heard(state, b) or ("lost", b) in self._heard(state, a)
            if state[b] >= 0 and not is_heard:
                at = self._link_at[a, b]
                state[at] = self._link_id((*self._links[state[at]], row))
        return tuple(state)

    def _perform(self, number: int, what: What) -> tuple[int, tuple[tuple[str, Row], ...]]:
        site: Site = pickle.loads(pickle.dumps(self._sites[number]))
        if isinstance(what, str):
            sent = site.hear(*what.split())
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
        members = self._members(state)
        for at in members:
            for name in self._sites[state[at]].freed:
                self._check_freed(state, members, name)
        if self._is_quiet(state):
            self.quiet += 1
            self._check_quiet([self._sites[state[at]] for at in members])

    def _members(self, state: State) -> list[int]:
        """Nodes that live and are not declared dead."""
        log = self._log(state)
        return [a for a in range(self.n) if state[a] >= 0 and ("lost", a) not in log]

    def _check_freed(self, state: State, members: list[int], name: Name) -> None:
        nodes = self.case.nodes
        for at in members:
            if name in self._sites[state[at]].has:
                raise RefViolation(f"{name} is freed, and {nodes[at]} has it")
        for (a, b), at in self._link_at.items():
            if b in members and name in self._carried[state[at]]:
                raise RefViolation(f"{name} is freed, and on its way {nodes[a]} -> {nodes[b]}")

    def _is_quiet(self, state: State) -> bool:
        """Nothing is on its way, and all have heard of all nodes."""
        if any(state[self.n : self._rest]):
            return False
        members = self._members(state)
        asked = any(self._sites[state[a]].asked for a in members)
        said = len(self._log(state))
        return not asked and all(state[self._rest + a] == said for a in members)

    def _check_quiet(self, sites: list[Site]) -> None:
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


def passed_on(_nodes: int, sends: int, deaths: int) -> Case:
    """Always C, A, B and D: A puts C's ref into a value, B takes it out, gives it to D and dies."""
    inner, outer = Name("C", EPOCH, 1), Name("A", EPOCH, 2)
    return Case(
        ("C", "A", "B", "D"),
        (inner, outer),
        {outer: inner},
        sends=max(sends, 5),
        deaths=deaths,
        mortals=("B",),
        routes=("CA", "AB", "BD"),
    )


CASES: dict[str, Callable[[int, int, int], Case]] = {
    "one-ref": one_ref,
    "two-refs": two_refs,
    "told": told,
    "in-value": in_value,
    "in-own-value": in_own_value,
    "passed-on": passed_on,
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
    parser.add_argument("--zombies", action="store_true", help="the dead go on until they hear it")
    options = parser.parse_args(arguments)
    for name in [options.case] if options.case else CASES:
        case = CASES[name](options.nodes, options.sends, options.deaths)
        case = msgspec.structs.replace(case, has_zombies=options.zombies)
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
