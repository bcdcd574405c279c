"""Bytes that come here from other nodes, and those that others come for.

::

    a proxy that is looked at       WantCopy ---> home
                                             <--- CopySource: there they are, and these refs in them
                                    (bulk transfer)
                                    CopyLanded -> home lets go of its pin
    a result that stayed abroad     (bulk transfer) FreeResults -> the node that ran the task

Only somebody who looks makes a value come (its slot comes out of the inbox), or a task of another
node whose argument it is: those come before a worker is given the task (``fetch``). Whoever looks
at the same value meanwhile waits for the same transfer, so each value comes once per node.

Invariants:

1. A value is pulled at most once at a time. Its memory is taken first; where there is none, that is
   tried again, and nothing is asked of anybody before.
2. What another node pulls from here is pinned from ``CopySource`` until it says ``CopyLanded`` or
   ``CopyFailed``, or is lost.
3. A result that stays abroad (``Stays``) is let go there exactly once: when it has come, or when
   its slot here is free.
4. A pull that fails ``FAILURES_MOST`` times ends with an error for its readers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from shoal import _native
from shoal._base import records
from shoal._native import Memory, Moving, ObjectRef
from shoal._proto import bridge as rows
from shoal._proto import holds
from shoal._proto.holds import Name
from shoal._runtime.bridge.around import RETRY_S, Surroundings, lost_value
from shoal._runtime.bridge.images import Image, open_image
from shoal._runtime.bridge.proxies import Proxies

FAILURES_MOST = 5
_SLOT = (1 << 32) - 1


class OfResult(msgspec.Struct, frozen=True, array_like=True):
    """What a node calls the bytes of a result that it kept for home."""

    number: int
    index: int


class OfObject(msgspec.Struct, frozen=True, array_like=True):
    """What home calls the bytes of an object."""

    node: str
    epoch: int
    key: int


@dataclass(slots=True)
class Stays:
    """A result of ours whose bytes are on the node that ran the task."""

    key: int
    node: str
    number: int
    index: int
    inside: list[ObjectRef[Any]]
    """The refs in it, for when it comes."""


@dataclass(slots=True)
class Pull:
    """One value on its way here."""

    failures: int = 0
    is_asked: bool = False
    """Home was asked where the bytes are."""
    moving: Moving | None = None


class Pulling:
    """Values that come, and values that are come for."""

    def __init__(self, memory: Memory, proxies: Proxies, around: Surroundings) -> None:
        self._memory = memory
        self._proxies = proxies
        self._around = around
        self._pulls: dict[int, Pull] = {}
        self._stays: dict[int, Stays] = {}
        """By slot."""
        self._awaited: dict[int, list[Callable[[], None]]] = {}
        self._served: dict[tuple[str, int], Image] = {}
        self._asking: dict[int, list[str]] = {}
        """Of values of ours that are not in memory: who wants them."""
        self._pins: dict[int, Moving] = {}
        """For these they come back."""
        self.kept: Callable[[str, int, int], int] = lambda node, number, index: 0
        """The key of a result that is kept for its home; 0: it is not."""
        proxies.needed = self.need
        proxies.settled = self._settled

    # ---- values that come
    def fetch(self, ref: ObjectRef[Any], done: Callable[[], None]) -> None:
        """Call ``done`` once the value is in this node's memory, or is an error."""
        key = ref.key
        if self._is_here(key):
            done()
            return
        self._awaited.setdefault(key, []).append(done)
        if self._memory.is_elsewhere(key):
            self.need(key)
        elif not self._memory.watch(ref, key):
            self._settled(key)

    def _is_here(self, key: int) -> bool:
        return not self._memory.is_elsewhere(key) and not self._memory.unsealed([key])

    def _settled(self, key: int) -> None:
        """It has a value or an error now; perhaps elsewhere."""
        if key not in self._awaited:
            return
        if not self._is_here(key):
            if self._memory.is_elsewhere(key):
                self.need(key)
            return
        for done in self._awaited.pop(key):
            done()

    def sealed(self, key: int) -> None:
        """An object that was watched has its value."""
        self._settled(key)

    def need(self, key: int) -> None:
        """Somebody waits for the bytes."""
        if key not in self._pulls and self._memory.is_elsewhere(key):
            self._pulls[key] = Pull()
            self._begin(key)

    def _begin(self, key: int) -> None:
        pull = self._pulls.get(key)
        if pull is None:
            return
        if not self._memory.is_elsewhere(key):
            del self._pulls[key]
            self._settled(key)
            return
        if pull.moving is None:
            moving = self._memory.begin_restore(key)
            if not isinstance(moving, Moving):
                size = (self._memory.spilled(key) or (0, 0, 0))[1]
                self._around.make_room(size)
                self._around.call_later(RETRY_S, lambda: self._begin(key))
                return
            pull.moving = moving
        name = self._proxies.proxy_name(key)
        stays = self._stays.get(key & _SLOT)
        if name is not None and not pull.is_asked:
            pull.is_asked = True
            self._around.links.send(name.node, holds.WantCopy(name.key))
        elif stays is not None:
            source = OfResult(stays.number, stays.index)
            self._transfer(key, pull, stays.node, source, lambda: stays.inside)

    def _transfer(
        self,
        key: int,
        pull: Pull,
        node: str,
        source: OfResult | OfObject,
        inside: Callable[[], list[ObjectRef[Any]] | None],
    ) -> None:
        assert pull.moving is not None, "the memory is taken first"
        view = memoryview(pull.moving)

        def done(why_not: str) -> None:
            view.release()
            if self._pulls.get(key) is not pull:
                return  # nobody wants it any more
            if why_not:
                self._failed(key, pull, node, why_not)
            else:
                self._landed(key, pull, inside)

        self._around.links.pull(node, msgspec.msgpack.encode(source), view, done)

    def _landed(
        self, key: int, pull: Pull, inside: Callable[[], list[ObjectRef[Any]] | None]
    ) -> None:
        moving, pull.moving = pull.moving, None
        assert moving is not None, "its bytes have come there"
        del self._pulls[key]
        refs = inside() if self._memory.is_elsewhere(key) else None
        if refs is None:
            return
        if not self._memory.end_pull(moving, refs):
            problem = "its bytes were damaged on their way from another node"
            self._memory.lose(key, records.pack("InternalError", message=problem))
        self._let_go(key, moving_is_here=True)
        self._settled(key)

    def _failed(self, key: int, pull: Pull, node: str, why_not: str) -> None:
        pull.failures += 1
        name = self._proxies.proxy_name(key)
        if pull.failures >= FAILURES_MOST:
            problem = f"its bytes could not be had from node {node}: {why_not}"
            self._lose(key, lost_value(problem))
            if name is not None:
                self._around.links.send(name.node, holds.CopyDropped(name.key))
            return
        pull.is_asked = False
        if name is not None:
            self._around.links.send(name.node, holds.CopyDropped(name.key))
        self._around.call_later(RETRY_S * 2**pull.failures, lambda: self._begin(key))

    def _lose(self, key: int, record: bytes) -> None:
        self._pulls.pop(key, None)
        self._stays.pop(key & _SLOT, None)
        if self._memory.is_elsewhere(key):
            self._memory.lose(key, record)
        self._settled(key)

    def _let_go(self, key: int, moving_is_here: bool) -> None:
        """The bytes abroad are not needed any more."""
        stays = self._stays.pop(key & _SLOT, None)
        if stays is not None:
            body = rows.FreeResults(stays.number, (stays.index,))
            self._around.links.send(stays.node, body)
            return
        name = self._proxies.proxy_name(key) if moving_is_here else None
        if name is not None:
            self._around.links.send(name.node, holds.CopyLanded(name.key))

    def stay(self, stays: Stays) -> None:
        """A result of ours stays on the node that made it, until somebody looks."""
        self._stays[stays.key & _SLOT] = stays

    def look(self, key: int) -> None:
        """A row of the inbox: somebody looks at a result that is abroad, or nobody has it any
        more."""
        stays = self._stays.get(key & _SLOT)
        if stays is None:
            return
        if not self._memory.is_live(stays.key):
            self._pulls.pop(stays.key, None)
            self._let_go(stays.key, moving_is_here=False)
            return
        found = self._memory.spilled(stays.key)
        if found is not None and found[2]:
            self.need(stays.key)

    def sweep(self) -> None:
        """The inbox has lost rows: look at everything."""
        for stays in list(self._stays.values()):
            self.look(stays.key)

    # ---- values that others come for
    def heard(self, node: str, epoch: int, body: holds.CopyBody) -> None:
        """A row about bytes has come."""
        match body:
            case holds.WantCopy():
                self._serve(node, body.key)
            case holds.CopySource():
                self._come_from(node, epoch, body)
            case holds.NoCopy():
                key = self._proxies.key_of(Name(node, epoch, body.key))
                if key is not None:
                    self._lose(key, body.record)
            case holds.CopyLanded() | holds.CopyFailed() | holds.CopyDropped():
                self._served.pop((node, body.key), None)
                if node in self._asking.get(body.key, ()):
                    self._asking[body.key].remove(node)

    def _come_from(self, home: str, epoch: int, body: holds.CopySource) -> None:
        name = Name(home, epoch, body.key)
        key = self._proxies.key_of(name)
        pull = None if key is None else self._pulls.get(key)
        if key is None or pull is None or pull.moving is None:
            self._around.links.send(home, holds.CopyDropped(body.key))
            return
        source = OfObject(home, epoch, body.key)
        inside = lambda: self._proxies.landed(name, body.contained)  # noqa: E731
        self._transfer(key, pull, body.source, source, inside)

    def _serve(self, node: str, key: int) -> None:
        try:
            found = open_image(self._memory, key) if self._memory.is_live(key) else None
        except ValueError as error:
            record = records.pack("NotSupportedError", message=str(error))
            self._around.links.send(node, holds.NoCopy(key, record))
            return
        if isinstance(found, Moving):
            self._asking.setdefault(key, []).append(node)
            self._pins[key] = found
            if self._memory.is_elsewhere(key):
                self._awaited.setdefault(key, []).append(lambda: self.came_back(key))
                self.need(key)
            else:
                self._around.bring_back(key)
            return
        me = self._proxies.me[0]
        if found is None:
            record = lost_value(f"node {me} does not have it any more")
            self._around.links.send(node, holds.NoCopy(key, record))
        elif found.format in (_native.FORMAT_ERROR_RECORD, _native.FORMAT_ERROR_PICKLE):
            record = lost_value(f"it was lost on node {me}")
            if found.format == _native.FORMAT_ERROR_RECORD:
                record = found.plain() or record
            self._around.links.send(node, holds.NoCopy(key, record))
        else:
            self._served[node, key] = found
            names = tuple(self._proxies.name_of(inner) for inner in found.contained)
            row = holds.CopySource(key, me, found.format, found.size, names)
            self._around.links.send(node, row)

    def came_back(self, key: int) -> None:
        """A value of ours is in memory again, or lost."""
        self._pins.pop(key, None)
        for node in self._asking.pop(key, ()):
            self._serve(node, key)

    def open_source(self, node: str, name: bytes) -> tuple[memoryview, Callable[[], None]] | None:
        """Bytes that ``node`` pulls from here, and what to call when they have gone."""
        image: Image | Moving | None
        try:
            kind = msgspec.msgpack.decode(name, type=list[Any])
            if len(kind) == 2:
                wanted = msgspec.convert(kind, OfResult)
                key = self.kept(node, wanted.number, wanted.index)
                image = open_image(self._memory, key) if key else None
            else:
                image = self._served.get((node, msgspec.convert(kind, OfObject).key))
        except (msgspec.MsgspecError, ValueError):
            return None
        if not isinstance(image, Image):
            if isinstance(image, Moving):  # in a file: it comes, and they will ask again
                self._pins[key] = image
                self._around.bring_back(key)
            return None
        keep, view = image, memoryview(image.data)

        def release() -> None:
            nonlocal keep
            view.release()
            del keep

        return view, release

    def node_lost(self, node: str) -> None:
        """What others had of it comes no more; what it had of ours is its no more."""
        for place in [place for place in self._served if place[0] == node]:
            del self._served[place]
        for stays in [stays for stays in self._stays.values() if stays.node == node]:
            self._lose(stays.key, lost_value(f"node {node}, which had its bytes, is lost"))
