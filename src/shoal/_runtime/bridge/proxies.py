"""Objects of other nodes on this one, and ours on theirs: what ``RemoteRefs`` decides, done to
node memory.

An object of another node has one slot here, its *proxy* (native/bridge.cpp), from the first message
that brings a ref to it until the last holder here has gone and nothing is owed for it any more. To
everybody but the daemon it is a pending object like any other.

::

    a message with refs arrives: arrived()       -> a ref of the daemon's for each, in that order
    a message with refs leaves:  send()          -> counted before, news of them behind it
    inbox: a proxy with no holder                -> LocalGone
    inbox: a proxy that somebody looks at        -> its bytes are pulled (pulling.py)
    completions: one of ours that others have    -> SealedHere

Invariants:

1. ``_keys`` and ``_names`` say the same. A key of ours has no entry: its name is made from it.
2. What other nodes hold of ours is held here by one ref of the daemon's (``_pins``).
3. A proxy is sealed once. If its home is lost afterwards and its bytes are not here, who looks gets
   the error; what is here stays, and is *adopted*: whoever gets a ref to it from here on gets one
   to an object of this node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from shoal import _native
from shoal._base import clock, records
from shoal._core import remote_ref_events as happenings
from shoal._core.remote_refs import RemoteRefs
from shoal._native import Memory, ObjectRef
from shoal._proto.holds import HoldRefs, Name, RefsBody, SealedAtHome
from shoal._runtime.bridge.around import SMALL_BYTES, Surroundings, lost_value, until_room
from shoal._runtime.bridge.images import Image, open_image


class Proxies:
    """The refs that this node shares with others.

    ``needed`` is called with the key of a proxy whose bytes somebody waits for, ``settled`` with
    that of one that has its value, or its error, at last; ``released`` before a proxy goes, and
    ``unneeded`` with the key of one of ours that no other node has any more.
    """

    def __init__(self, memory: Memory, me: tuple[str, int], around: Surroundings) -> None:
        self.me = me
        self.refs = RemoteRefs(*me)
        self._memory = memory
        self._around = around
        self._keys: dict[Name, int] = {}
        self._names: dict[int, Name] = {}
        self._pins: dict[int, ObjectRef[Any]] = {}
        self.adopted: set[int] = set()
        """Proxies whose home is gone, or goes, and whose bytes are here: they are ours too."""
        self.successors: dict[int, ObjectRef[Any]] = {}
        """Of lifetime objects of actors whose home has moved: what stands for them now. Goes with
        what it stands for."""
        self.is_lifetime: Callable[[int], bool] = lambda key: False
        """Whether calls from here go to the actor whose lifetime object that is: as long as its
        home lives, nobody else's is given out."""
        self._events: list[happenings.Event] = []
        self._is_stepping = False
        self.needed: Callable[[int], None] = lambda key: None
        self.settled: Callable[[int], None] = lambda key: None
        self.released: Callable[[int, Name], None] = lambda key, name: None
        self.unneeded: Callable[[int], None] = lambda key: None

    # ---- names
    def name_of(self, key: int) -> Name:
        """What the object of this slot is called everywhere."""
        if (successor := self.successors.get(key)) is not None:
            return self.name_of(successor.key)
        if key in self.adopted:
            return Name(*self.me, key)
        return self._names.get(key) or Name(*self.me, key)

    def home_name(self, key: int) -> Name:
        """Of a lifetime object: what its actor is called where its home is."""
        if key in self.successors:
            return self.name_of(key)
        return self._names.get(key) or Name(*self.me, key)

    def key_of(self, name: Name) -> int | None:
        """The slot of an object here; None: it has none."""
        return name.key if (name.node, name.epoch) == self.me else self._keys.get(name)

    def proxy_name(self, key: int) -> Name | None:
        """The name of an object of another node; None: it is ours."""
        return self._names.get(key)

    def homes(self) -> dict[int, tuple[str, int]]:
        """Of all that stand for objects of other nodes: those, and the keys there."""
        return {key: (name.node, name.key) for key, name in self._names.items()}

    def hold(self, names: Iterable[Name]) -> list[ObjectRef[Any]]:
        """Refs to objects that have slots here. What is gone all the same is one that is lost."""
        return [self._hold(name) for name in names]

    def _hold(self, name: Name) -> ObjectRef[Any]:
        key = self.key_of(name)
        ref = None if key is None else self._memory.ref(key)
        return ref if ref is not None else self._lost_ref(f"node {name.node} does not have it")

    def _lost_ref(self, problem: str) -> ObjectRef[Any]:
        key = self._memory.new_proxy(0)
        ref = self._memory.ref(key)
        assert ref is not None, "it was made a moment ago"
        self._seal(key, _native.FORMAT_ERROR_RECORD, lost_value(problem))
        self._memory.release(key)
        return ref

    # ---- messages
    def send(self, node: str, body: Any, names: tuple[Name, ...]) -> None:
        """Send a row that carries refs, which somebody here holds."""
        orders = self.refs.step(clock.now(), happenings.Sending(node, names))
        self._around.links.send(node, body)
        self._run(orders)

    def arrived(self, node: str, names: tuple[Name, ...]) -> list[ObjectRef[Any]]:
        """A row with these refs has come: hold them until it has been dealt with."""
        assert not self._is_stepping, "links deliver nothing inside of send"
        if names:
            self.post(happenings.Arrived(node, names))
        return self.hold(names)

    def landed(self, outer: Name, names: tuple[Name, ...]) -> list[ObjectRef[Any]] | None:
        """The bytes of a proxy are here, with these refs in them; None: nobody wants them."""
        if not self.refs.has(outer):
            return None
        self.post(happenings.Landed(outer, names))
        return self.hold(names)

    def heard(self, node: str, body: RefsBody) -> None:
        """A row about refs has come."""
        gone: tuple[int, ...] = ()
        if isinstance(body, HoldRefs):
            gone = tuple(key for key in body.keys if not self._memory.is_live(key))
        self.post(happenings.Heard(node, body, gone))

    # ---- what is seen in node memory
    def look(self, key: int) -> None:
        """A row of the inbox."""
        name = self._names.get(key)
        if name is None:
            return
        if self._memory.handles(key) == 0:
            self.post(happenings.LocalGone((name,)))
            return
        found = self._memory.spilled(key) if self._memory.is_elsewhere(key) else None
        if found is not None and found[2]:
            self.needed(key)

    def sweep(self) -> None:
        """The inbox has lost rows: look at everything."""
        for key in list(self._names):
            self.look(key)

    def sealed(self, key: int) -> None:
        """An object of ours that was watched has its value."""
        if key in self._pins:
            self.post(happenings.SealedHere((key,)))

    # ---- decisions
    def post(self, event: happenings.Event) -> None:
        """Decide, and do it. What happens meanwhile is decided afterwards."""
        self._events.append(event)
        self._run(())

    def _run(self, orders: Iterable[happenings.Command]) -> None:
        is_outer, self._is_stepping = not self._is_stepping, True
        try:
            for order in orders:
                self._perform(order)
            while is_outer and self._events:
                for order in self.refs.step(clock.now(), self._events.pop(0)):
                    self._perform(order)
        finally:
            self._is_stepping = not is_outer

    def _perform(self, order: happenings.Command) -> None:
        match order:
            case happenings.Send():
                self._around.links.send(order.node, order.body)
            case happenings.MakeProxy():
                key = self._memory.new_proxy(0)
                self._keys[order.name] = key
                self._names[key] = order.name
            case happenings.SealProxy():
                self._perform_seal(order)
            case happenings.LoseProxy():
                self._perform_lose(order)
            case happenings.ReleaseProxy():
                key = self._keys.pop(order.name)
                self.adopted.discard(key)
                self.successors.pop(key, None)
                self.released(key, self._names.pop(key))
                self._memory.release(key)
            case happenings.Pin():
                self._perform_pin(order.key)
            case happenings.Unpin():
                self.unneeded(order.key)
                self._pins.pop(order.key, None)
            case happenings.TellSealed():
                self._perform_tell(order)
            case happenings.BlamePeer():
                self._around.blame(order.node, order.why)
            case happenings.AskAboutNode():
                self._around.ask_about(order.node, order.epoch)

    def _perform_seal(self, order: happenings.SealProxy) -> None:
        key, row = self._keys[order.name], order.row
        if row.data is not None:
            self._seal(key, row.format, row.data, in_block=row.in_block)
        elif self._memory.seal_elsewhere(key, row.format, row.size_bytes):
            self.settled(key)

    def _seal(self, key: int, format: int, data: bytes, *, in_block: bool = False) -> None:
        def step() -> bool:
            try:
                if self._memory.seal_image(key, format, in_block, data) is False:
                    return False
            except ValueError as error:  # its home has sent what is no value
                record = records.pack("InternalError", message=f"a value is none: {error}")
                if (
                    self._memory.seal_image(key, _native.FORMAT_ERROR_RECORD, False, record)
                    is False
                ):
                    return False
            self.settled(key)
            return True

        until_room(self._around, len(data), step)

    def _perform_lose(self, order: happenings.LoseProxy) -> None:
        key, home = self._keys[order.name], order.name.node
        problem = f"its home, node {home}, " + (
            "is lost" if order.is_home_lost else "has it no more"
        )
        if self._memory.is_elsewhere(key):
            self._memory.lose(key, lost_value(problem))
            self.settled(key)
        elif not self._memory.unsealed([key]):
            self.adopted.add(key)
        else:
            self._seal(key, _native.FORMAT_ERROR_RECORD, lost_value(problem))

    def _perform_pin(self, key: int) -> None:
        ref = self._memory.ref(key)
        if ref is None:
            return
        self._pins[key] = ref
        if not self._memory.watch(ref, key):
            self._events.append(happenings.SealedHere((key,)))

    def _perform_tell(self, order: happenings.TellSealed) -> None:
        ref = self._pins.get(order.key)
        row = self._row(order.key, ref) if ref is not None else None
        if row is None:
            problem = f"node {self.me[0]} does not have it any more"
            data = lost_value(problem)
            row = SealedAtHome(order.key, _native.FORMAT_ERROR_RECORD, len(data), data)
        self._around.links.send(order.node, row)

    def _row(self, key: int, ref: ObjectRef[Any]) -> SealedAtHome | None:
        """What others are told of a sealed object of ours."""
        if (left := self._memory.peek(ref)) is not None:
            return SealedAtHome(key, left[0], len(left[1]), left[1])
        try:
            found = open_image(self._memory, key)
        except ValueError as error:
            data = records.pack("NotSupportedError", message=str(error))
            return SealedAtHome(key, _native.FORMAT_ERROR_RECORD, len(data), data)
        if isinstance(found, Image):
            plain = found.plain() if found.size <= SMALL_BYTES else None
            if plain is None and found.size <= SMALL_BYTES and not found.contained:
                return SealedAtHome(key, found.format, found.size, found.whole(), in_block=True)
            return SealedAtHome(key, found.format, found.size, plain)
        sight = self._memory.sight(key) if found is not None else None
        return None if sight is None else SealedAtHome(key, sight[1], sight[16], None)
