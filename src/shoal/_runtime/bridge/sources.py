"""Bytes that others come for: from here, or from wherever else they are by now.

For values of this node it is decided here who pulls them from whom (``_core.copies``): whoever has
got one gives it to the next, so a value that all want does not leave its home a hundred times. ::

    WantCopy    ---> who has it, and gives to the fewest?   this node: pinned, CopySource(this node)
                                                            another:   CopySource(that one)
    CopyLanded  ---> one more who has it                    CopyFailed ---> the next who has it
    CopyDropped ---> one less
    WantCopy from the node that a result stays on: CopySource(kept=...), it copies what it has

Invariants:

1. What another node pulls from its home is pinned from ``CopySource`` until it says ``CopyLanded``,
   ``CopyFailed`` or ``CopyDropped``, or is lost.
2. A copy of another node's value is given as long as its proxy is here; who comes later hears that
   there is none, and asks home again.
3. What home said of a value (format, size, refs in it) is said of it by everybody, and kept until
   nobody else has a ref to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from shoal import _native
from shoal._base import clock, records
from shoal._core import copy_events as copying
from shoal._core.copies import CopiesAtHome
from shoal._core.copies_here import CopiesHere
from shoal._core.remote_ref_events import Send
from shoal._native import Memory, Moving
from shoal._proto import holds
from shoal._proto.holds import Name
from shoal._runtime.bridge.around import Surroundings, lost_value
from shoal._runtime.bridge.images import Image, open_image
from shoal._runtime.bridge.proxies import Proxies

COMING = "its bytes are on their way to that node"
"""Why a node does not give bytes now: in a file, or on a third node. It is to be asked again."""
HomeRow = holds.WantCopy | holds.CopyLanded | holds.CopyFailed | holds.CopyDropped | holds.LeaveCopy


class OfResult(msgspec.Struct, frozen=True, array_like=True):
    """What a node calls the bytes of a result that it kept for home."""

    number: int
    index: int


class OfObject(msgspec.Struct, frozen=True, array_like=True):
    """What everybody calls the bytes of an object."""

    node: str
    epoch: int
    key: int


class Sources:
    """Values that are come for.

    ``fetch_home`` brings a value of this node home whose bytes are elsewhere, and calls
    ``came_back``; ``stays`` says where they are: node, number, index. ``kept`` gives the key of a
    result that is kept for its home; 0: it is not.
    """

    def __init__(
        self, memory: Memory, proxies: Proxies, here: CopiesHere, around: Surroundings
    ) -> None:
        self._memory = memory
        self._proxies = proxies
        self._here = here
        self._around = around
        self._copies = CopiesAtHome(proxies.me[0])
        self._facts: dict[int, tuple[int, int, tuple[Name, ...]]] = {}
        """Of values that others have: format, size, refs in them."""
        self._served: dict[tuple[str, int], Image] = {}
        self._asking: dict[int, list[str]] = {}
        """Of values of ours that are not in memory: who wants them."""
        self._pins: dict[int, Moving] = {}
        """For these they come back."""
        self._alarm_at: float | None = None
        self._kept_there: set[tuple[str, int]] = set()
        """Who was told that it has the bytes of a value of ours itself."""
        self.stays: Callable[[int], tuple[str, int, int] | None] = lambda key: None
        self.fetch_home: Callable[[int], None] = lambda key: None
        self.kept: Callable[[str, int, int], int] = lambda node, number, index: 0
        proxies.unneeded = self._forget

    # ---- who comes
    def heard(self, node: str, body: HomeRow) -> None:
        """A node wants the bytes of a value of ours, has them, or wants them no longer."""
        key = body.key
        if isinstance(body, holds.WantCopy):
            if not self._memory.is_live(key):
                me = self._proxies.me[0]
                record = lost_value(f"node {me} does not have it any more")
                self._around.links.send(node, holds.NoCopy(key, record))
                return
            if not self._copies.places(key):
                self._run(copying.Stored(key, self._proxies.me[0]))
        else:
            self._served.pop((node, key), None)
            if node in self._asking.get(key, ()):
                self._asking[key].remove(node)
        self._run(copying.CopyHeard(node, body))

    def node_joined(self, node: str, is_driver: bool) -> None:
        """A node that may come, and be come to."""
        self._run(copying.NodeRole(node, is_driver))

    def node_lost(self, node: str) -> None:
        """What it had of ours is its no more."""
        self._kept_there = {place for place in self._kept_there if place[0] != node}
        for place in [place for place in self._served if place[0] == node]:
            del self._served[place]
        for asking in self._asking.values():
            if node in asking:
                asking.remove(node)
        self._run(copying.NodeGone(node))

    def _forget(self, key: int) -> None:
        """No other node has a ref to it."""
        self._facts.pop(key, None)
        self._kept_there = {place for place in self._kept_there if place[1] != key}
        self._run(copying.Unneeded(key))

    def places(self, key: int) -> list[str]:
        """Nodes that have the bytes of a value of ours."""
        return self._copies.places(key)

    @property
    def is_empty(self) -> bool:
        """Whether nobody else has, or wants, the bytes of anything."""
        return self._copies.is_empty and not (self._facts or self._served or any(self._asking))

    # ---- who gives
    def _run(self, event: copying.AtHome) -> None:
        for order in self._copies.step(clock.now(), event):
            if isinstance(order, copying.Direct):
                self._perform_direct(order)
            elif isinstance(order, Send) and order.node != self._proxies.me[0]:
                self._around.links.send(order.node, order.body)
            # Home is always among the places: it neither makes a value again nor fetches it.
        self._set_alarm()

    def _set_alarm(self) -> None:
        at = self._copies.next_deadline()
        if at is None or (self._alarm_at is not None and self._alarm_at <= at):
            return
        self._alarm_at = at
        self._around.call_later(max(0.0, at - clock.now()), self._ring)

    def _ring(self) -> None:
        self._alarm_at = None
        self._run(copying.Ticked())

    def _perform_direct(self, order: copying.Direct) -> None:
        if order.source == self._proxies.me[0]:
            self._serve(order.node, order.key)
            return
        format, size, names = self._facts[order.key]
        row = holds.CopySource(order.key, order.source, format, size, names)
        self._around.links.send(order.node, row)

    def _serve(self, node: str, key: int) -> None:
        """This node gives it, as soon as it is in memory."""
        try:
            found = open_image(self._memory, key) if self._memory.is_live(key) else None
        except ValueError as error:
            self._refuse(node, key, records.pack("NotSupportedError", message=str(error)))
            return
        if isinstance(found, Moving):
            if self._is_there(node, key):
                return
            self._asking.setdefault(key, []).append(node)
            self._pins[key] = found
            if self._memory.is_elsewhere(key):
                self.fetch_home(key)
            else:
                self._around.bring_back(key)
            return
        me = self._proxies.me[0]
        if found is None:
            self._refuse(node, key, lost_value(f"node {me} does not have it any more"))
        elif found.format in (_native.FORMAT_ERROR_RECORD, _native.FORMAT_ERROR_PICKLE):
            record = lost_value(f"it was lost on node {me}")
            if found.format == _native.FORMAT_ERROR_RECORD:
                record = found.plain() or record
            self._refuse(node, key, record)
        else:
            self._served[node, key] = found
            names = tuple(self._proxies.name_of(inner) for inner in found.contained)
            self._facts[key] = found.format, found.size, names
            row = holds.CopySource(key, me, found.format, found.size, names)
            self._around.links.send(node, row)

    def inside(self, key: int) -> list[int]:
        """What is in a value whose bytes are away, without its recipe."""
        keys = self._memory.contained(key)
        if keys and self._memory.recipe(keys[-1]) is not None:
            keys.pop()
        return keys

    def _is_there(self, node: str, key: int) -> bool:
        """Whether it stays on that very node, which is told so: bytes that are there need not come
        here first. Who asks again has it no more."""
        stays, sight = self.stays(key), self._memory.sight(key)
        if stays is None or sight is None or stays[0] != node or (node, key) in self._kept_there:
            return False
        self._kept_there.add((node, key))
        names = tuple(self._proxies.name_of(inner) for inner in self.inside(key))
        self._facts[key] = sight[1], sight[16], names
        me = self._proxies.me[0]
        row = holds.CopySource(key, me, sight[1], sight[16], names, kept=(stays[1], stays[2]))
        self._around.links.send(node, row)
        return True

    def _refuse(self, node: str, key: int, record: bytes) -> None:
        self._around.links.send(node, holds.NoCopy(key, record))
        self._run(copying.CopyHeard(node, holds.CopyDropped(key)))

    def came_back(self, key: int) -> None:
        """A value of ours is in memory again, or lost."""
        self._pins.pop(key, None)
        for node in self._asking.pop(key, ()):
            self._serve(node, key)

    # ---- giving
    def open(self, node: str, name: bytes) -> tuple[memoryview, Callable[[], None]] | str | None:
        """Bytes that ``node`` pulls from here, and what to call when they have gone; or why it is
        to ask again."""
        try:
            image = self._find(node, name)
        except (msgspec.MsgspecError, ValueError):
            return None
        if image is None or isinstance(image, str):
            return image
        keep, view = image, memoryview(image.data)

        def release() -> None:
            nonlocal keep
            view.release()
            del keep

        return view, release

    def _find(self, node: str, name: bytes) -> Image | str | None:
        kind = msgspec.msgpack.decode(name, type=list[Any])
        if len(kind) == 2:
            wanted = msgspec.convert(kind, OfResult)
            return self._open(self.kept(node, wanted.number, wanted.index))
        of = Name(**msgspec.structs.asdict(msgspec.convert(kind, OfObject)))
        if (of.node, of.epoch) == self._proxies.me:
            return self._served.get((node, of.key))
        return self._open(self._proxies.key_of(of) or 0) if self._here.is_here(of) else None

    def _open(self, key: int) -> Image | str | None:
        image = open_image(self._memory, key) if key else None
        if not isinstance(image, Moving):
            return image
        is_away = self._memory.is_elsewhere(key)
        if is_away and key not in self._pins:
            self.fetch_home(key)
        elif not is_away:
            self._around.bring_back(key)
        self._pins[key] = image
        return COMING
