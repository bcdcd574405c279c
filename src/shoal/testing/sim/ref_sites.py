"""One node as the explorer of refs sees it: ``RemoteRefs`` and a shell of the smallest size.

A site does what a node's bridge does with ``RemoteRefs`` (the rules are in ``remote_ref_events``),
with sets in the place of node memory. It knows what really is, and never asks the machine: who on
this node holds a ref, which of its own objects are freed, which proxies there are. Its users hold a
ref or they do not (``USER``), a value that is here holds what is in it (``VALUE``).

What a node must never do is raised here as ``RefViolation``: to let go of a proxy that somebody
has, to pin what is freed, to tell its users that an object is gone although its home lives. What
takes two nodes to see is looked at in ``remote_refs``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from shoal._core import remote_ref_events as ev
from shoal._core.remote_refs import RemoteRefs
from shoal._proto.holds import HoldRefs, Name, RefsBody, SealedAtHome

USER = 1
VALUE = 2
EPOCH = 1


class RefViolation(AssertionError):
    """A rule is broken."""


class Refs(msgspec.Struct, frozen=True, array_like=True):
    """Any message that carries refs."""

    names: tuple[Name, ...]


Row = RefsBody | Refs


class Act(msgspec.Struct, frozen=True, array_like=True):
    """Something that may happen at a node by itself."""

    kind: str
    """send, drop, seal, take (refs out of a value), put (them into one)."""
    name: Name
    to: str = ""


class Case(msgspec.Struct, frozen=True):
    """What there is at the beginning, and how much may happen."""

    nodes: tuple[str, ...]
    names: tuple[Name, ...]
    """Each is held by a user of its home, except values, which are made."""
    inside: dict[Name, Name] = {}
    """Which ref will be in which value, once the value's home puts it there."""
    sends: int = 3
    """How often a ref is sent, put into a value or taken out."""
    deaths: int = 0
    mortals: tuple[str, ...] = ()
    """Who may die; all, if it is empty."""
    has_seals: bool = False
    """Objects are sealed some time; else they stay pending."""
    joiners: tuple[str, ...] = ()
    """Nodes that come later."""
    has_zombies: bool = False
    """Who is declared dead goes on until it hears so."""
    routes: tuple[str, ...] = ()
    """Who sends refs to whom, as ``CA`` for C to A; everybody to all, if it is empty."""


Make = Callable[[str, int], RemoteRefs]


class Site:
    """One living node."""

    def __init__(self, case: Case, node: str, make: Make, members: Sequence[str]) -> None:
        self.case = case
        self.node = node
        self.refs = make(node, EPOCH)
        self.has: dict[Name, int] = {}
        """Who here has it: ``USER | VALUE``."""
        self.born = {n for n in case.names if n.node == node and n not in case.inside}
        self.freed: set[Name] = set()
        self.sealed: set[Name] = set()
        self.pinned: set[Name] = set()
        self.proxies: dict[Name, str] = {}
        """pending, sealed or lost."""
        self.landed: set[Name] = set()
        """Values of others whose bytes are here."""
        self.known = {other for other in members if other != node}
        """The other members, as far as this node has heard."""
        self.lost: set[str] = set()
        self.asked: set[str] = set()
        """Nodes that the control store was asked about."""
        self._out: list[tuple[str, Row]] = []
        self._events: deque[ev.Event] = deque()
        for other in members:
            self.refs.step(0.0, ev.PeerJoined(other, EPOCH))
        for name in self.born:
            self.has[name] = USER

    # ---- what may happen
    def acts(self) -> list[Act]:
        """What users of this node may do now."""
        acts = []
        for name, who in self.has.items():
            if who & USER:
                acts.append(Act("drop", name))
                acts += [Act("send", name, to) for to in self._receivers()]
                inner = self.case.inside.get(name)
                if inner and not self.has.get(inner, 0) & USER and self._is_readable(name):
                    acts.append(Act("take", name))
        for name, inner in self.case.inside.items():
            if name.node == self.node and name not in self.born and self.has.get(inner, 0) & USER:
                acts.append(Act("put", name))
        if self.case.has_seals:
            acts += [Act("seal", n) for n in self.born - self.sealed - self.freed]
        return acts

    def _receivers(self) -> list[str]:
        routes = self.case.routes
        return [to for to in sorted(self.known) if not routes or self.node + to in routes]

    def _is_readable(self, value: Name) -> bool:
        return value.node == self.node or value in self.landed or self.refs.has(value)

    def act(self, act: Act) -> list[tuple[str, Row]]:
        """It happens; what is sent, in order."""
        name = act.name
        match act.kind:
            case "send":
                commands = self.refs.step(0.0, ev.Sending(act.to, (name,)))
                self._out.append((act.to, Refs((name,))))
                self._perform(commands)
            case "drop":
                self._end(name, USER)
            case "seal":
                self.sealed.add(name)
                self._events.append(ev.SealedHere((name.key,)))
            case "put":
                self.born.add(name)
                self.has[name] = USER
                self.has[self.case.inside[name]] |= VALUE
            case "take":
                self._take(name, self.case.inside[name])
        return self._run()

    def _take(self, value: Name, inner: Name) -> None:
        if value.node != self.node and value not in self.landed:
            self._perform(self.refs.step(0.0, ev.Landed(value, (inner,))))
            self.landed.add(value)
            self._hold(inner, VALUE)
        self._hold(inner, USER)

    def deliver(self, frm: str, row: Row) -> list[tuple[str, Row]]:
        """A message arrives; what is sent, in order."""
        if isinstance(row, Refs):
            self._perform(self.refs.step(0.0, ev.Arrived(frm, row.names)))
            for name in row.names:
                self._hold(name, USER)
        else:
            gone: tuple[int, ...] = ()
            if isinstance(row, HoldRefs):
                freed = {name.key for name in self.freed}
                gone = tuple(key for key in row.keys if key in freed)
            self._events.append(ev.Heard(frm, row, gone))
        return self._run()

    def hear(self, kind: str, node: str) -> list[tuple[str, Row]]:
        """News of another node, joined or lost; what is sent, in order."""
        self.asked.discard(node)
        if kind == "lost":
            self.known.discard(node)
            self.lost.add(node)
            self._events.append(ev.PeerLost(node, EPOCH))
        else:
            self.known.add(node)
            self._events.append(ev.PeerJoined(node, EPOCH))
        return self._run()

    # ---- node memory
    def _hold(self, name: Name, who: int) -> None:
        if name in self.freed:
            raise RefViolation(f"{name} comes home to {self.node}, which has freed it")
        if name.node != self.node and name not in self.proxies:
            raise RefViolation(f"{name} has arrived at {self.node} and has no proxy there")
        self.has[name] = self.has.get(name, 0) | who

    def _end(self, name: Name, who: int) -> None:
        self.has[name] &= ~who
        if not self.has[name]:
            del self.has[name]
            if name.node == self.node:
                self._maybe_free(name)
            else:
                self._events.append(ev.LocalGone((name,)))

    def _maybe_free(self, name: Name) -> None:
        if name not in self.has and name not in self.pinned:
            self.freed.add(name)
            if inner := self.case.inside.get(name):
                self._end(inner, VALUE)

    def _run(self) -> list[tuple[str, Row]]:
        while self._events:
            event = self._events.popleft()
            if isinstance(event, ev.LocalGone) and event.names[0] in self.has:
                continue
            self._perform(self.refs.step(0.0, event))
        out, self._out = self._out, []
        return out

    def _perform(self, commands: list[ev.Command]) -> None:
        for command in commands:
            match command:
                case ev.Send(node, body):
                    # Rows about copies are none of this machine's.
                    self._out.append((node, cast(RefsBody, body)))
                case ev.TellSealed(node, key):
                    self._out.append((node, SealedAtHome(key, 0, 0, b"")))
                case ev.MakeProxy(name):
                    self.proxies[name] = "pending"
                case ev.SealProxy(name):
                    if self.proxies.get(name) != "pending":
                        raise RefViolation(f"{self.node} seals {name} a second time")
                    self.proxies[name] = "sealed"
                case ev.LoseProxy(name, is_home_lost):
                    self._lose_proxy(name, is_home_lost)
                case ev.ReleaseProxy(name):
                    self._release(name)
                case ev.Pin(key):
                    self._pin(self._own(key))
                case ev.Unpin(key):
                    self.pinned.remove(self._own(key))
                    self._maybe_free(self._own(key))
                case ev.BlamePeer(node, why):
                    raise RefViolation(f"{self.node} blames {node}: {why}")
                case ev.AskAboutNode(node):
                    if node in self.known | self.lost:
                        raise RefViolation(f"{self.node} asks about {node}, which it knows")
                    self.asked.add(node)

    def _own(self, key: int) -> Name:
        return Name(self.node, EPOCH, key)

    def _lose_proxy(self, name: Name, is_home_lost: bool) -> None:
        if not is_home_lost:
            raise RefViolation(f"{name} was freed at home while {self.node} was to get it")
        if name.node not in self.lost:
            raise RefViolation(f"{self.node} has lost {name}, whose home lives")
        if name not in self.landed:
            self.proxies[name] = "lost"

    def _release(self, name: Name) -> None:
        if name in self.has:
            raise RefViolation(f"{self.node} lets go of {name}, which its users have")
        del self.proxies[name]
        if name in self.landed:
            self.landed.remove(name)
            self._end(self.case.inside[name], VALUE)

    def _pin(self, name: Name) -> None:
        if name in self.freed:
            raise RefViolation(f"{self.node} pins {name}, which it has freed")
        self.pinned.add(name)
        if name in self.sealed:
            self._events.append(ev.SealedHere((name.key,)))


def freeze(thing: object) -> object:
    """The same for two states exactly if nothing can tell them apart."""
    if isinstance(thing, dict):
        return frozenset((key, freeze(value)) for key, value in thing.items())
    if isinstance(thing, set):
        return frozenset(thing)
    if isinstance(thing, Name | str | int | float | tuple | None):
        return thing
    if isinstance(thing, msgspec.Struct):
        return tuple(freeze(getattr(thing, field)) for field in thing.__struct_fields__)
    return tuple(freeze(value) for _, value in sorted(vars(thing).items()))


def freeze_site(site: Site) -> object:
    """``freeze`` of what can change in it."""
    return (
        site.node,
        freeze(site.refs),
        freeze(site.has),
        *map(frozenset, (site.born, site.freed, site.sealed, site.pinned, site.landed)),
        *map(frozenset, (site.known, site.lost, site.asked)),
        freeze(site.proxies),
    )
