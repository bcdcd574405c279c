"""The table of a node's proxies: objects of other nodes that it has refs to.

It owns the records and the lists by which they are found; what they mean, and when they change,
is in ``remote_refs``.

1. A proxy stands under its home and its key, once.
2. ``unknown`` has those that are neither known at home nor lost.
3. Who was lent something is listed for exactly those peers whose loan is not confirmed.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shoal._core.remote_ref_events import Peer
from shoal._proto.holds import Name


class Proxy(msgspec.Struct):
    """An object of another node."""

    name: Name
    since: float
    """When it was made here."""
    count: int = 0
    """What home counts for this node, once all that is on its way has arrived."""
    is_local: bool = True
    """Somebody here besides the daemon has it."""
    is_asked: bool = False
    """Home has yet to answer a ``HoldRefs``."""
    is_known: bool = False
    """Home has answered, or has sent the ref itself."""
    is_sealed: bool = False
    is_lost: bool = False
    owed: dict[Peer, int] = {}
    """Whom to confirm how often, once it is known."""
    lent: dict[Peer, int] = {}
    """Who has yet to confirm how often."""
    inside: dict[Name, None] = {}
    """Values that are kept until it is known."""
    kept_for: dict[Name, None] = {}
    """What was in it and is not known yet."""

    @property
    def home(self) -> Peer:
        """Whose it is."""
        return self.name.node, self.name.epoch

    @property
    def must_stay(self) -> bool:
        """Somebody here has it, or others depend on this node having it."""
        if self.is_local or self.is_lost:
            return self.is_local
        return not self.is_known or self.is_asked or bool(self.lent) or bool(self.kept_for)


class Proxies:
    """All proxies of a node."""

    def __init__(self) -> None:
        self._by_home: dict[Peer, dict[int, Proxy]] = {}
        self._lent_to: dict[Peer, dict[Name, None]] = {}
        self.unknown: dict[Name, Proxy] = {}

    def __iter__(self) -> Iterator[Proxy]:
        for of_home in self._by_home.values():
            yield from of_home.values()

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return not self._by_home

    def find(self, name: Name) -> Proxy | None:
        """The proxy of that name."""
        return self._by_home.get((name.node, name.epoch), {}).get(name.key)

    def of_home(self, home: Peer) -> dict[int, Proxy]:
        """Those of one home, by key; to look at."""
        return self._by_home.get(home, {})

    def add(self, proxy: Proxy) -> None:
        """A new one."""
        assert self.find(proxy.name) is None, proxy.name
        self._by_home.setdefault(proxy.home, {})[proxy.name.key] = proxy

    def remove(self, proxy: Proxy) -> None:
        """It is gone."""
        of_home = self._by_home[proxy.home]
        del of_home[proxy.name.key]
        if not of_home:
            del self._by_home[proxy.home]

    def lend(self, proxy: Proxy, to: Peer) -> None:
        """It is sent to a node that is not its home."""
        proxy.lent[to] = proxy.lent.get(to, 0) + 1
        self._lent_to.setdefault(to, {})[proxy.name] = None

    def confirm(self, proxy: Proxy, by: Peer) -> None:
        """One of the loans to that node is over."""
        proxy.lent[by] -= 1
        if not proxy.lent[by]:
            self.end_loan(proxy, by)

    def end_loan(self, proxy: Proxy, to: Peer) -> None:
        """All loans of it to that node are over."""
        del proxy.lent[to]
        of_peer = self._lent_to[to]
        del of_peer[proxy.name]
        if not of_peer:
            del self._lent_to[to]

    def lent_to(self, peer: Peer) -> list[Proxy]:
        """What that node has yet to confirm."""
        lent = [self.find(name) for name in self._lent_to.get(peer, ())]
        return [proxy for proxy in lent if proxy is not None]

    def validate(self) -> None:
        """Assert the invariants, here and of what proxies owe each other."""
        lent: set[tuple[Peer, Name]] = set()
        unknown: set[Name] = set()
        for proxy in self:
            name = proxy.name
            assert self.find(name) is proxy and proxy.must_stay, name
            if proxy.is_known or proxy.is_lost:
                assert not proxy.owed and not proxy.inside, name
            else:
                unknown.add(name)
            if proxy.is_lost:
                assert not proxy.lent and not proxy.kept_for and not proxy.is_asked, name
            for outer in proxy.inside:
                value = self.find(outer)
                assert value is not None and name in value.kept_for, (name, outer)
            for inner in proxy.kept_for:
                assert name in self.unknown[inner].inside, (name, inner)
            assert all(times > 0 for times in (*proxy.lent.values(), *proxy.owed.values())), name
            lent |= {(peer, name) for peer in proxy.lent}
        assert unknown == self.unknown.keys()
        assert lent == {(peer, name) for peer, names in self._lent_to.items() for name in names}
