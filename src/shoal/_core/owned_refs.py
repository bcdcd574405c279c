"""What home knows of who has refs to its objects: one count per node, and who was told.

It owns the home's side of the counting that ``remote_refs`` describes, and nothing else.

1. An object stands here, and is pinned, exactly while some node's count is not 0.
2. The list of a node's objects says what the counts say.
3. A node is told once for each proxy that it makes: it is told again when it has dropped a proxy
   and was sent the ref again before that, since what it was told went with the proxy.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shoal._core.remote_ref_events import Batch, BlamePeer, Peer, Pin, TellSealed, Unpin


class Holder(msgspec.Struct):
    """What home counts for one node."""

    count: int = 0
    is_told: bool = False
    """The proxy that this node has now was told what the object is."""


class Owned(msgspec.Struct):
    """An object of this node that others have refs to."""

    holders: dict[Peer, Holder] = {}
    is_sealed: bool = False


class OwnedRefs:
    """All objects of this node that others have refs to."""

    def __init__(self) -> None:
        self._owned: dict[int, Owned] = {}
        self._held_by: dict[Peer, dict[int, None]] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._owned

    @property
    def is_empty(self) -> bool:
        """Whether no node has a ref to anything of this one."""
        return not self._owned

    def is_holder(self, peer: Peer) -> bool:
        """Whether that node is counted for any object."""
        return peer in self._held_by

    def held(self) -> list[int]:
        """All that others have refs to."""
        return list(self._owned)

    def holders(self, key: int) -> list[str]:
        """Nodes that are counted for an object."""
        owned = self._owned.get(key)
        return [] if owned is None else [node for node, _ in owned.holders]

    def count(self, out: Batch, peer: Peer, key: int) -> None:
        """That node has got one more."""
        owned = self._owned.get(key)
        if owned is None:
            owned = self._owned[key] = Owned()
            out.commands.append(Pin(key))
        holder = owned.holders.setdefault(peer, Holder())
        holder.count += 1
        self._held_by.setdefault(peer, {})[key] = None
        self._tell(out, peer, key, owned)

    def drop(self, out: Batch, peer: Peer, key: int, count: int) -> None:
        """That node has dropped a proxy, for which it had counted so many."""
        owned = self._owned.get(key)
        holder = None if owned is None else owned.holders.get(peer)
        if owned is None or holder is None or holder.count < count:
            has = 0 if holder is None else holder.count
            why = f"it drops {count} refs to object {key:016x} of this node, and has {has}"
            out.commands.append(BlamePeer(peer[0], why))
            return
        holder.count -= count
        if holder.count:
            holder.is_told = False
            self._tell(out, peer, key, owned)
        else:
            self._forget(out, peer, key)

    def end(self, out: Batch, peer: Peer) -> None:
        """Nobody can come any more who has a ref from that dead node."""
        for key in list(self._held_by.get(peer, ())):
            self._forget(out, peer, key)

    def seal(self, out: Batch, key: int, is_live: Callable[[Peer], bool]) -> None:
        """The object has its value. A later life of a dead holder is not the one counted."""
        owned = self._owned.get(key)
        if owned is not None:
            owned.is_sealed = True
            for peer in filter(is_live, owned.holders):
                self._tell(out, peer, key, owned)

    def _tell(self, out: Batch, peer: Peer, key: int, owned: Owned) -> None:
        holder = owned.holders[peer]
        if owned.is_sealed and not holder.is_told:
            holder.is_told = True
            out.commands.append(TellSealed(peer[0], key))

    def _forget(self, out: Batch, peer: Peer, key: int) -> None:
        owned = self._owned[key]
        del owned.holders[peer]
        of_peer = self._held_by[peer]
        del of_peer[key]
        if not of_peer:
            del self._held_by[peer]
        if not owned.holders:
            del self._owned[key]
            out.commands.append(Unpin(key))

    def validate(self) -> None:
        """Assert the invariants."""
        listed = {(peer, key) for peer, keys in self._held_by.items() for key in keys}
        counted = {(peer, key) for key, owned in self._owned.items() for peer in owned.holders}
        assert listed == counted
        for key, owned in self._owned.items():
            assert owned.holders, key
            for peer, holder in owned.holders.items():
                assert holder.count > 0, (key, peer)
                assert owned.is_sealed or not holder.is_told, (key, peer)
