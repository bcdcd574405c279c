"""The bytes that a node gets from others, or keeps for them: pulled once, whoever looks.

The other side of ``copies``. However many processes of a node look at a value, its home is asked
once and the bytes come once; then the node is a source for others. ::

              Needed              CopySource             PullEnded("")
    (nothing) ------> asked -----------------> pulling ----------------> here
                        ^                         |  PullEnded(why)       |  RoomNeeded
                        +-------------------------+                       v
                                                                      (nothing)

What was made here for another home is *primary* from the beginning: it stays, whoever looks, until
home says ``FreePrimary``. An ordinary copy goes with its proxy, or when memory is short, and home
is told.

1. There is at most one pull of a value at a time, and none of what is here.
2. Home's list of copies has this node exactly from ``CopyLanded`` (or home's own ``Stored``) to
   ``CopyDropped`` (or home's ``FreePrimary``), as soon as everything on the way has arrived.
3. What nobody needs any more while it is on its way is dropped when it has landed, and asked for
   again if somebody needs it by then.
4. Nothing is remembered of a value that is neither here nor on its way.
"""

from __future__ import annotations

import msgspec

from shoal._core import copy_events as ev
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


class Copy(msgspec.Struct):
    """One value of another node (or one of this node's whose bytes are elsewhere)."""

    is_here: bool = False
    is_primary: bool = False
    source: str = ""
    """Whom it is being pulled from."""
    is_unwanted: bool = False
    """Its proxy went while the bytes were on their way."""
    is_needed_again: bool = False
    """There is a new proxy since, and somebody looks at it."""
    is_leaving: bool = False
    """Home has yet to say whether the primary copy may go."""


class CopiesHere:
    """All values whose bytes are here for their homes, or on their way."""

    def __init__(self) -> None:
        self._copies: dict[Name, Copy] = {}
        self._keys: dict[tuple[str, int], Name] = {}
        """By home's node and key: rows from home name no epoch."""

    def step(self, now: float, event: ev.Here) -> list[ev.Command]:
        """What happened; what is to be done, in that order."""
        out: list[ev.Command] = []
        match event:
            case ev.Needed(name):
                self._need(out, name)
            case ev.CopyHeard(node, body):
                self._hear(out, node, body)
            case ev.PullEnded(name, source, why):
                self._end_pull(out, name, source, why)
            case ev.Produced(name):
                self._produce(out, name)
            case ev.BytesLost(name):
                if self.is_here(name):
                    self._remove(name)
                    out.append(Send(name.node, CopyDropped(name.key)))
            case ev.RoomNeeded(name):
                self._make_room(out, name)
            case ev.ProxyGone(name):
                self._lose_proxy(out, name)
            case ev.NodeGone(node):
                for name in [name for name in self._copies if name.node == node]:
                    if self._remove(name).is_primary:
                        out.append(ev.EndPrimary(name))
        return out

    @property
    def is_empty(self) -> bool:
        """Whether nothing is here for others, or on its way."""
        return not self._copies

    def is_here(self, name: Name) -> bool:
        """Whether the bytes can be given to others."""
        copy = self._copies.get(name)
        return copy is not None and copy.is_here

    def is_primary(self, name: Name) -> bool:
        """Whether they stay until home lets them go."""
        copy = self._copies.get(name)
        return copy is not None and copy.is_primary

    def is_needed(self, name: Name) -> bool:
        """Whether they are on their way."""
        copy = self._copies.get(name)
        return copy is not None and not copy.is_here

    def _add(self, name: Name) -> Copy:
        self._keys[name.node, name.key] = name
        return self._copies.setdefault(name, Copy())

    def _remove(self, name: Name) -> Copy:
        del self._keys[name.node, name.key]
        return self._copies.pop(name)

    # ---- what happens here
    def _need(self, out: list[ev.Command], name: Name) -> None:
        copy = self._copies.get(name)
        if copy is None:
            self._add(name)
            out.append(Send(name.node, WantCopy(name.key)))
        elif copy.is_unwanted:
            copy.is_needed_again = True

    def _produce(self, out: list[ev.Command], name: Name) -> None:
        copy = self._copies.get(name)
        if copy is not None and not copy.is_here:
            out.append(ev.Show(name))
        self._add(name)
        self._copies[name] = Copy(is_here=True, is_primary=True)

    def _end_pull(self, out: list[ev.Command], name: Name, source: str, why: str) -> None:
        copy = self._copies.get(name)
        if copy is None or copy.source != source:
            # Home was lost, or has given it up, or the bytes were made here in the meantime.
            if not why and not self.is_here(name):
                out.append(ev.DropBytes(name))
            return
        copy.source = ""
        if copy.is_unwanted:
            self._remove(name)
            if not why:
                out.append(ev.DropBytes(name))
            out.append(Send(name.node, CopyDropped(name.key)))
            if copy.is_needed_again:
                self._need(out, name)
        elif why:
            out.append(Send(name.node, CopyFailed(name.key, source, why)))
        else:
            copy.is_here = True
            out += [ev.Show(name), Send(name.node, CopyLanded(name.key))]

    def _make_room(self, out: list[ev.Command], name: Name) -> None:
        copy = self._copies.get(name)
        if copy is None or not copy.is_here or copy.is_leaving:
            return
        if copy.is_primary:
            copy.is_leaving = True
            out.append(Send(name.node, LeaveCopy(name.key)))
        else:
            self._remove(name)
            out += [ev.DropBytes(name), Send(name.node, CopyDropped(name.key))]

    def _lose_proxy(self, out: list[ev.Command], name: Name) -> None:
        copy = self._copies.get(name)
        if copy is None or copy.is_primary:
            return
        if copy.source:
            copy.is_unwanted, copy.is_needed_again = True, False
        else:
            # The block goes with the slot.
            self._remove(name)
            out.append(Send(name.node, CopyDropped(name.key)))

    # ---- what home says
    def _hear(self, out: list[ev.Command], home: str, body: CopyBody) -> None:
        name = self._keys.get((home, body.key))
        copy = None if name is None else self._copies[name]
        match body:
            case CopySource(key, source):
                # Who wants it no longer has told so, and home counts no pull any more.
                if name is not None and copy is not None and not copy.is_here and not copy.source:
                    copy.source = source
                    out.append(ev.Pull(name, source))
            case NoCopy(_, record):
                # Bytes that have landed since stay for those who have refs here.
                if name is not None and not self._remove(name).is_here:
                    out.append(ev.Fail(name, record))
            case TakePrimary(key):
                # Else home learns from the CopyDropped that is on its way already. A second one
                # would take back what this node has asked for since.
                if copy is not None and copy.is_here:
                    copy.is_primary = True
                    out.append(Send(home, PrimaryTaken(key)))
            case LeaveRefused():
                if name is not None and copy is not None:
                    copy.is_leaving = False
                    out.append(ev.Spill(name))
            case FreePrimary():
                if name is not None and copy is not None and copy.is_primary:
                    self._remove(name)
                    if copy.is_leaving:
                        out.append(ev.DropBytes(name))
                    out.append(ev.EndPrimary(name))

    def validate(self) -> None:
        """Assert the invariants."""
        assert {(name.node, name.key): name for name in self._copies} == self._keys
        for name, copy in self._copies.items():
            assert not (copy.is_here and copy.source), name
            assert copy.is_here or not (copy.is_primary or copy.is_leaving), name
            assert copy.source or not copy.is_unwanted, name
            assert copy.is_unwanted or not copy.is_needed_again, name
            assert copy.is_primary or not copy.is_leaving, name
