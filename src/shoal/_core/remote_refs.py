"""Refs across nodes: who may still need an object, counted so that nothing is freed too early.

An object lives at its *home*, the node whose process made it. On every other node that has a ref
there is one *proxy*. Home keeps a hold for each node that has one (RULES O-2); nodes know nothing
of each other's processes, and home nothing of how many refs a node has. ::

        A sends a ref of C's to B                     C sends a ref of its own to B

    A  lends (B)                                      C  counts B: 1
    A ---- message with the ref ----> B               C ---- message ----> B  proxy, count 1
                                      B  proxy        B ---- DropRefs(1) --> C  counts B: 0, frees
                      C <- HoldRefs - B  count 1
    C  counts B: 1    C -- RefsHeld-> B  known        a second message that crosses the drop:
    A <------- ConfirmRefs ---------- B               C counts B: 2 - 1, B makes a new proxy
    A  lends no more

**Counting.** What home counts for a node and what the node counts for itself are the same number
as soon as everything between the two has arrived: each send by home and each ``HoldRefs`` adds one
at both, and a ``DropRefs`` takes away as many as its sender had counted. A drop that crosses a send
leaves that send counted. A boolean in the place of the number frees too early.

**Custody.** A ref on its way is held by its sender: by home's count if that is home; else the
sender keeps its own proxy (it *lends* it) until the receiver confirms, which it does when home has
answered it. A ref that was in a value is held by the value's home, as long as this node keeps the
value: so it does (``kept_for``) until the inner home has answered. A ref that goes to its home
needs nothing: the sender's drop comes behind it.

**Death.** A node that is lost may have passed refs on, and who got them may not be counted yet.
What others hold for a dead node therefore stays until every living node has said that it is
*settled* about it: it gets nothing more from there, and home has answered every hold that it had
asked for until then. (Asking the others is a *round*.) If one of those dies before it has answered,
its own round must end first. A home that is lost takes its objects along (O-6); there is nothing to
count any more.

Invariants (``validate``):

1. What home counts for a dead node, and what was lent to it, stands until the round about it is
   over.
2. A proxy is *known* from when home has answered a hold, or has sent the ref itself. What is owed
   (confirmations, values kept) is owed by proxies that are not known yet, and only by those.
3. A proxy without holders here stays while it is not known, lent, kept for another, or while an
   answer of home is on its way: an answer is never taken for that to a later hold.
4. A lost proxy owes nothing, lends nothing and is not dropped at home.

Home's counts are in ``owned_refs``, the table of proxies in ``proxies``, rounds in ``lost_peers``,
each with invariants of its own.

The cost of an event is what it names; that of a death is what the dead had to do with. A death
costs two rows per pair of a node that held something for the dead and a living node.

Dropped: home counting what is on its way (each send by a third node would tell home first: a round
trip before each send instead of after it); weights that are halved with each send (a node that dies
takes its share along, so that nothing is ever freed); ending a dead node's holds at once, or when
its peers had only *heard* of the death (the explorer shows both to free too early: what a dead node
had taken out of a value is held by the value, whose home is not the home of what was taken).

``testing.sim.remote_refs`` explores all interleavings of this with three nodes and a death.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal._core.lost_peers import LostPeers
from shoal._core.owned_refs import OwnedRefs
from shoal._core.proxies import Proxies, Proxy
from shoal._core.remote_ref_events import (
    Arrived,
    AskAboutNode,
    Batch,
    BlamePeer,
    Command,
    Event,
    Heard,
    Landed,
    LocalGone,
    LoseProxy,
    MakeProxy,
    Peer,
    PeerJoined,
    PeerLost,
    ReleaseProxy,
    SealedHere,
    SealProxy,
    Sending,
)
from shoal._proto.holds import (
    ConfirmRefs,
    DropRefs,
    HoldRefs,
    LostSettled,
    Name,
    RefsBody,
    RefsHeld,
    SealedAtHome,
    SettleLost,
)


class RemoteRefs:
    """The counting of one life of one node."""

    def __init__(self, node: str, epoch: int) -> None:
        self.me: Peer = (node, epoch)
        self.owned = OwnedRefs()
        self.peers = LostPeers()
        self.proxies = Proxies()

    def step(self, now: float, event: Event) -> list[Command]:
        """What happened; what is to be done, in that order."""
        out = Batch()
        match event:
            case Sending(to, names):
                self._send(out, to, names)
            case Arrived(frm, names):
                sender = self.peers.peer(frm)
                assert sender is not None, f"{frm} is no member: what comes from it is late"
                for name in names:
                    self._arrive(now, out, name, sender)
            case Landed(outer, names):
                self._land(now, out, outer, names)
            case LocalGone(names):
                for name in names:
                    if proxy := self.proxies.find(name):
                        proxy.is_local = False
                        self._maybe_drop(out, proxy)
            case SealedHere(keys):
                for key in keys:
                    self.owned.seal(out, key, self.peers.is_live)
            case Heard(node, body, gone):
                # Late news of a dead node changes nothing.
                if speaker := self.peers.peer(node):
                    self._hear(out, speaker, body, gone)
            case PeerJoined(node, epoch):
                self._join(out, (node, epoch))
            case PeerLost(node, epoch):
                self._lose_peer(out, (node, epoch))
        return out.finished()

    # ---- what the shell may ask
    def has(self, name: Name) -> bool:
        """Whether there is a proxy of that name whose home is not lost."""
        proxy = self.proxies.find(name)
        return proxy is not None and not proxy.is_lost

    def is_peer(self, node: str, epoch: int) -> bool:
        """Whether what comes from there counts."""
        return self.peers.is_live((node, epoch))

    def is_held_abroad(self, key: int) -> bool:
        """Whether other nodes may have refs to this object of ours."""
        return key in self.owned

    def waits(self) -> list[tuple[Name, str, str, float]]:
        """(ref, what for, node, since when) of proxies that stay only until a node has answered."""
        rows = []
        for proxy in self.proxies:
            if not proxy.is_local and not proxy.is_lost:
                if not proxy.is_known or proxy.is_asked:
                    rows.append((proxy.name, "home's answer", proxy.name.node, proxy.since))
                rows += [(proxy.name, "confirmed", node, proxy.since) for node, _ in proxy.lent]
        return rows

    # ---- refs that leave and arrive
    def _send(self, out: Batch, to: str, names: Iterable[Name]) -> None:
        peer = self.peers.peer(to)
        if peer is None:
            return  # Nothing reaches a node that is over.
        for name in names:
            if (name.node, name.epoch) == self.me:
                self.owned.count(out, peer, name.key)
            elif (name.node, name.epoch) != peer:
                proxy = self.proxies.find(name)
                assert proxy is not None, f"{name} is sent by who does not have it"
                if not proxy.is_lost:
                    self.proxies.lend(proxy, peer)

    def _arrive(self, now: float, out: Batch, name: Name, frm: Peer) -> None:
        proxy = self._take_in(now, out, name)
        if proxy is None or proxy.is_lost:
            return  # Its sender hears of the same death.
        if frm == proxy.home:
            proxy.count += 1
            self._know(out, proxy)
        elif proxy.is_known:
            out.confirms.setdefault(frm[0], []).append(name)
        else:
            proxy.owed[frm] = proxy.owed.get(frm, 0) + 1
            self._ask(out, proxy)

    def _land(self, now: float, out: Batch, outer: Name, names: Iterable[Name]) -> None:
        if (outer.node, outer.epoch) == self.me:
            return  # Home holds what is in its values since they were sealed.
        value = self.proxies.find(outer)
        assert value is not None and not value.is_lost, f"{outer} is not here: drop its bytes"
        for name in names:
            proxy = self._take_in(now, out, name)
            if proxy is None or proxy.is_lost or proxy.is_known:
                continue
            proxy.inside[outer] = None
            value.kept_for[name] = None
            self._ask(out, proxy)

    def _take_in(self, now: float, out: Batch, name: Name) -> Proxy | None:
        """The proxy, made or found; somebody here has it now. None for an object of this node."""
        home = (name.node, name.epoch)
        if home == self.me:
            return None
        proxy = self.proxies.find(name)
        if proxy is not None:
            proxy.is_local = True
            return proxy
        proxy = Proxy(name, now)
        self.proxies.add(proxy)
        out.commands.append(MakeProxy(name))
        if self.peers.is_over(home):
            proxy.is_lost = True
            out.commands.append(LoseProxy(name, is_home_lost=True))
        else:
            self.proxies.unknown[name] = proxy
            if not self.peers.is_live(home):
                out.commands.append(AskAboutNode(*home))
        return proxy

    def _ask(self, out: Batch, proxy: Proxy) -> None:
        """Have home count this node; a home that has not joined yet is asked when it does."""
        if not proxy.is_asked and self.peers.is_live(proxy.home):
            proxy.is_asked = True
            proxy.count += 1
            out.holds.setdefault(proxy.name.node, []).append(proxy.name.key)

    def _know(self, out: Batch, proxy: Proxy) -> None:
        """Home counts this node: who kept the ref alive for it need not any more."""
        if not proxy.is_known:
            proxy.is_known = True
            self._confirm(out, proxy)
            self._end_custody(out, proxy)

    def _confirm(self, out: Batch, proxy: Proxy) -> None:
        for (node, _), times in proxy.owed.items():
            out.confirms.setdefault(node, []).extend([proxy.name] * times)

    def _end_custody(self, out: Batch, proxy: Proxy) -> None:
        """It is not unknown any more: known, or lost."""
        proxy.owed.clear()
        self.proxies.unknown.pop(proxy.name, None)
        for outer in proxy.inside:
            value = self.proxies.find(outer)
            assert value is not None
            del value.kept_for[proxy.name]
            self._maybe_drop(out, value)
        proxy.inside.clear()
        self.peers.know(out, proxy.name)

    def _maybe_drop(self, out: Batch, proxy: Proxy) -> None:
        """Let go of a proxy that nobody needs here."""
        if proxy.must_stay or self.proxies.find(proxy.name) is not proxy:
            return
        self.proxies.remove(proxy)
        if not proxy.is_lost and self.peers.is_live(proxy.home):
            out.drops.setdefault(proxy.name.node, []).append((proxy.name.key, proxy.count))
        out.commands.append(ReleaseProxy(proxy.name))

    # ---- what peers say
    def _hear(self, out: Batch, frm: Peer, body: RefsBody, gone: tuple[int, ...]) -> None:
        match body:
            case HoldRefs(keys):
                alive = tuple(key for key in keys if key not in gone)
                for key in alive:
                    self.owned.count(out, frm, key)
                out.send(frm[0], RefsHeld(alive, tuple(key for key in keys if key in gone)))
            case RefsHeld(keys, missing):
                self._hear_held(out, frm, keys, missing)
            case DropRefs(keys, counts):
                # Counts without keys, or the other way round, say nothing.
                for key, count in zip(keys, counts):
                    self.owned.drop(out, frm, key, count)
            case ConfirmRefs(names):
                for name in names:
                    self._hear_confirmed(out, frm, name)
            case SealedAtHome(key):
                proxy = self.proxies.of_home(frm).get(key)
                if proxy is not None and not proxy.is_sealed:
                    proxy.is_sealed = True
                    out.commands.append(SealProxy(proxy.name, body))
            case SettleLost(node, epoch):
                self.peers.hear_asked(out, (node, epoch), frm)
            case LostSettled(node, epoch):
                self._end_rounds(out, self.peers.hear_settled((node, epoch), frm))

    def _hear_held(self, out: Batch, home: Peer, keys: Iterable[int], gone: Iterable[int]) -> None:
        answers = [(key, True) for key in keys] + [(key, False) for key in gone]
        for key, is_held in answers:
            proxy = self.proxies.of_home(home).get(key)
            if proxy is None or not proxy.is_asked:
                why = f"it answers about its object {key:016x}, of which it was not asked"
                out.commands.append(BlamePeer(home[0], why))
            elif is_held:
                proxy.is_asked = False
                self._know(out, proxy)
                self._maybe_drop(out, proxy)
            else:
                self._confirm(out, proxy)
                self._lose_proxy(out, proxy, is_home_lost=False)

    def _hear_confirmed(self, out: Batch, frm: Peer, name: Name) -> None:
        proxy = self.proxies.find(name)
        if proxy is not None and frm in proxy.lent:  # Else its home has been lost since.
            self.proxies.confirm(proxy, frm)
            self._maybe_drop(out, proxy)

    # ---- nodes
    def _join(self, out: Batch, peer: Peer) -> None:
        if peer == self.me or self.peers.is_over(peer):
            return
        self._lose_earlier(out, peer)
        self.peers.join(peer)
        for proxy in self.proxies.of_home(peer).values():
            if not proxy.is_known:
                self._ask(out, proxy)

    def _lose_earlier(self, out: Batch, peer: Peer) -> None:
        """A later life of a node says that an earlier one is over."""
        before = self.peers.peer(peer[0])
        if before is not None and before[1] < peer[1]:
            self._lose_peer(out, before)

    def _lose_peer(self, out: Batch, lost: Peer) -> None:
        if self.peers.is_over(lost):
            return
        self._lose_earlier(out, lost)
        # From here on nothing is sent there: a later life would take it for its own.
        self.peers.end(lost)
        for proxy in list(self.proxies.of_home(lost).values()):
            # Losing one may have dropped another of them.
            if not proxy.is_lost and self.proxies.find(proxy.name) is proxy:
                self._lose_proxy(out, proxy, is_home_lost=True)
        for proxy in self.proxies.unknown.values():
            proxy.owed.pop(lost, None)
        self.peers.unsettle(out, lost, self.proxies.unknown)
        if self.owned.is_holder(lost) or self.proxies.lent_to(lost) or self.peers.is_awaited(lost):
            self._end_rounds(out, self.peers.begin_round(out, lost))

    def _end_rounds(self, out: Batch, ended: Iterable[Peer]) -> None:
        """Nobody can come any more with what these dead nodes had passed on."""
        for lost in ended:
            self.owned.end(out, lost)
            for proxy in self.proxies.lent_to(lost):
                self.proxies.end_loan(proxy, lost)
                self._maybe_drop(out, proxy)

    def _lose_proxy(self, out: Batch, proxy: Proxy, is_home_lost: bool) -> None:
        """Invariant 4."""
        proxy.is_lost, proxy.is_asked = True, False
        out.commands.append(LoseProxy(proxy.name, is_home_lost))
        for name in proxy.kept_for:
            inner = self.proxies.find(name)
            assert inner is not None
            del inner.inside[proxy.name]
        proxy.kept_for.clear()
        self._end_custody(out, proxy)
        for peer in list(proxy.lent):
            self.proxies.end_loan(proxy, peer)
        self._maybe_drop(out, proxy)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left but what is known of nodes."""
        return self.proxies.is_empty and self.owned.is_empty and self.peers.is_quiet

    def validate(self) -> None:
        """Assert the invariants."""
        for proxy in self.proxies:
            assert proxy.is_lost or not self.peers.is_over(proxy.home), proxy.name
        self.proxies.validate()
        self.owned.validate()
        self.peers.validate(self.proxies.unknown)
