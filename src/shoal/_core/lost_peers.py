"""Which nodes live, and when nothing can come any more of what a dead one had passed on.

A node is *settled* about a dead one when it has heard of the death, so that it takes nothing more
from there, and when what was unknown to its home at that moment is known (or lost). Who holds
something on behalf of a dead node asks all living ones (a *round*), and lets go when all have
answered that they are settled. ::

    C  PeerLost(B) -> SettleLost(B) to A and D
    A  heard of it, nothing unknown          -> LostSettled(B)
    D  PeerLost(B), one hold unanswered ...  answered -> LostSettled(B)
    C  the round is over: what it held for B ends

1. A round waits for nodes that lived when it began and have not answered. Who dies meanwhile is
   waited for until the round about it is over: it may have passed on what it got from the first.
2. A round waits only for who died later, so no two wait for each other.
3. Who joined after a death is not asked: the dead node's links were gone before it came, and from
   others it gets only what they hold for it.
4. A question is answered once, also if it comes before the news.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal._core.remote_ref_events import AskAboutNode, Batch, Peer
from shoal._proto.holds import LostSettled, Name, SettleLost


class LostPeers:
    """The lives of the other nodes, and the rounds about those that are over."""

    def __init__(self) -> None:
        self._live: dict[str, int] = {}
        self._dead: dict[str, int] = {}
        """The last life of each that is over."""
        self._rounds: dict[Peer, dict[Peer, None]] = {}
        """By dead node: who is not settled about it, as far as this node knows."""
        self._unsettled: dict[Peer, dict[Name, None]] = {}
        """By dead node: what was not known when it was lost, and still is not."""
        self._askers: dict[Peer, dict[Peer, None]] = {}
        """By dead node: who waits for this node to be settled about it."""

    def peer(self, node: str) -> Peer | None:
        """The life of that node which is a member now."""
        epoch = self._live.get(node)
        return None if epoch is None else (node, epoch)

    def is_live(self, peer: Peer) -> bool:
        """Whether that life is a member."""
        return self._live.get(peer[0]) == peer[1]

    def is_over(self, peer: Peer) -> bool:
        """Whether that life has been declared over, or a later one has."""
        return self._dead.get(peer[0], -1) >= peer[1]

    def join(self, peer: Peer) -> None:
        """A new member."""
        self._live[peer[0]] = peer[1]

    def end(self, lost: Peer) -> None:
        """It is over."""
        if self.is_live(lost):
            del self._live[lost[0]]
        self._dead[lost[0]] = max(lost[1], self._dead.get(lost[0], -1))
        for about in list(self._askers):
            self._askers[about].pop(lost, None)
            if not self._askers[about]:
                del self._askers[about]

    def unsettle(self, out: Batch, lost: Peer, unknown: Iterable[Name]) -> None:
        """``unknown``: of what homes that live do not know yet that it is here."""
        if waits_for := dict.fromkeys(unknown):
            self._unsettled[lost] = waits_for
        self._maybe_answer(out, lost)

    @property
    def is_quiet(self) -> bool:
        """Whether nobody waits for an answer about the dead."""
        return not (self._rounds or self._unsettled or self._askers)

    # ---- what this node holds on behalf of the dead
    def is_awaited(self, lost: Peer) -> bool:
        """Whether a round of this node waits for it."""
        return any(lost in waiting for waiting in self._rounds.values())

    def begin_round(self, out: Batch, lost: Peer) -> list[Peer]:
        """Ask all others about it; the dead whose rounds are over by that."""
        self._rounds[lost] = dict.fromkeys(self._live.items())
        for node in self._live:
            out.send(node, SettleLost(*lost))
        return self._ended(lost)

    def hear_settled(self, lost: Peer, frm: Peer) -> list[Peer]:
        """The answer of one; the dead whose rounds are over by that."""
        if lost not in self._rounds:
            return []
        self._rounds[lost].pop(frm, None)
        return self._ended(lost)

    def _ended(self, lost: Peer) -> list[Peer]:
        ended = []
        maybe = [lost]
        while maybe:
            lost = maybe.pop()
            if self._rounds.get(lost, True):
                continue
            del self._rounds[lost]
            ended.append(lost)
            for other, waiting in self._rounds.items():
                if lost in waiting:
                    del waiting[lost]
                    maybe.append(other)
        return ended

    # ---- what others hold
    def hear_asked(self, out: Batch, lost: Peer, frm: Peer) -> None:
        """``frm`` wants to know when this node is settled about it."""
        self._askers.setdefault(lost, {})[frm] = None
        if not self.is_live(lost) and not self.is_over(lost):
            out.commands.append(AskAboutNode(*lost))
        self._maybe_answer(out, lost)

    def know(self, out: Batch, name: Name) -> None:
        """It is not unknown any more."""
        for lost in list(self._unsettled):
            if self._unsettled[lost].pop(name, self) is None and not self._unsettled[lost]:
                del self._unsettled[lost]
                self._maybe_answer(out, lost)

    def _maybe_answer(self, out: Batch, lost: Peer) -> None:
        if self.is_over(lost) and lost not in self._unsettled:
            for node, _ in self._askers.pop(lost, ()):
                out.send(node, LostSettled(*lost))

    def validate(self, unknown: Iterable[Name]) -> None:
        """Assert the invariants; ``unknown`` as in ``unsettle``."""
        unknown = set(unknown)
        for lost, waiting in self._rounds.items():
            assert self.is_over(lost), lost
            assert waiting, f"the round about {lost} is over"
            for peer in waiting:
                assert self.is_live(peer) or peer in self._rounds, (lost, peer)
        for lost, names in self._unsettled.items():
            assert names and unknown.issuperset(names), lost
        for lost, askers in self._askers.items():
            assert askers and (not self.is_over(lost) or lost in self._unsettled), lost
            assert all(self.is_live(peer) for peer in askers), lost
