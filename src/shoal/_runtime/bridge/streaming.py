"""Streams across nodes: what a generator yields on another node goes to whoever reads it at home.

A generator that is lent has a stream on both nodes. There it is a visit like any other, whose
consumer is the daemon; at home the daemon fills the chain of cells that the task has there, as a
worker would. So neither the generator nor its consumer sees a difference::

    there   cell sealed --> item: small ones whole, of large ones the bytes stay (StreamItems)
    home    item made, cell sealed, chain of the task advanced; the consumer reads it
            the consumer seals an ack --> StreamSeen --> there: the ack of that item is sealed

``_core.flows`` says how much may be on its way. A task that runs again, here or on a third node,
goes on at the first cell without an item: what has been given is not given twice.

Invariants:

1. At home the items of a row are in memory, in their order, before the task's own result is: that
   waits while there is no room for them.
2. There the end of a visit is told when all of its items are sent.
3. Nothing is watched that is never sealed: the last cell of a stream there is sealed when its task
   has ended, and an ack at home when nobody else has it any more.
4. What has been yielded for a visit that nobody wants any more is dropped, and its task cancelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from shoal import _native
from shoal._base import records
from shoal._core import bridge, flows
from shoal._native import Memory, ObjectRef, Task
from shoal._proto import bridge as rows
from shoal._runtime.bridge.around import Surroundings, until_room
from shoal._runtime.bridge.proxies import Proxies
from shoal._runtime.bridge.pulling import Pulling, Stays
from shoal._runtime.cells import cell_value

LOOK_S = 1.0
"""How often acks of streams that have ended are looked at."""
Place = tuple[str, int]
"""The other node, and the number of the lending."""


# ---- at home
class _Coming:
    """A stream of ours that another node fills."""

    __slots__ = ("acks", "after", "cell", "flow", "is_writing", "item", "place", "steps", "task")

    def __init__(self, task: Task, place: Place, cell: ObjectRef[Any], given: int) -> None:
        self.task = task
        self.place = place
        self.cell = cell
        """The first one without an item."""
        self.flow = flows.Inflow(given)
        self.steps: deque[tuple[rows.Result, list[ObjectRef[Any]]]] = deque()
        """Items that are not in memory yet, with the refs in them."""
        self.is_writing = False
        self.item: ObjectRef[Any] | None = None
        """Of the first of these, made already; its cell has no room yet."""
        self.acks: deque[ObjectRef[Any]] = deque()
        self.after: Callable[[], None] | None = None
        """It has ended there: what to do when all is in memory."""


class StreamsHome:
    """Streams of ours that are filled elsewhere."""

    def __init__(
        self, memory: Memory, proxies: Proxies, pulling: Pulling, around: Surroundings
    ) -> None:
        self._memory = memory
        self._proxies = proxies
        self._pulling = pulling
        self._around = around
        self._coming: dict[int, _Coming] = {}
        """By the key of the task."""
        self._keys: dict[Place, int] = {}
        self._acks: dict[int, _Coming] = {}
        """Who waits for which ack."""
        self._left: dict[int, ObjectRef[Any]] = {}
        """Acks that were watched when their stream ended."""

    def begin(self, task: Task, node: str, number: int) -> int:
        """It goes to ``node``: how many items it has."""
        memory, cell = self._memory, task.stream()
        assert cell is not None, "it is a stream"
        while cell.is_sealed():
            following = memory.ref(memory.contained(cell.key)[1])
            assert following is not None, "a cell holds the next one"
            cell = following
        task.advance_stream(cell)  # so both of its places name the same one
        given = memory.pending_number(cell)
        self._coming[task.key] = _Coming(task, (node, number), cell, given)
        self._keys[node, number] = task.key
        return given

    def came(self, node: str, body: rows.StreamItems, refs: list[ObjectRef[Any]]) -> None:
        """Items; ``refs``: to all that stands in them, in their order."""
        key = self._keys.get((node, body.number), 0)
        coming = self._coming.get(key)
        if coming is None or not coming.flow.came(body.first, len(body.items)):
            if coming is not None:
                self._around.blame(node, f"sent items from {body.first}, which are not the next")
            self._free(node, body.number, body.first, body.items)
            return
        inside = iter(refs)
        for item in body.items:
            coming.steps.append((item, [next(inside) for _ in item.contained]))
        self._write(key, coming)

    def then(self, key: int, action: Callable[[], None]) -> None:
        """Do that when all that has come is in memory."""
        coming = self._coming.get(key)
        if coming is None or not coming.steps:
            action()
        else:
            coming.after = action

    def over(self, key: int) -> None:
        """The task has ended, or goes elsewhere."""
        coming = self._coming.pop(key, None)
        if coming is None:
            return
        del self._keys[coming.place]
        items = tuple(item for item, _ in coming.steps)
        self._free(*coming.place, coming.flow.taken, items)
        if coming.acks and self._acks.pop(coming.acks[0].key, None) is not None:
            if not self._left:
                self._around.call_later(LOOK_S, self._look)
            self._left[coming.acks[0].key] = coming.acks[0]

    def sealed(self, key: int) -> None:
        """Perhaps an ack: its consumer has taken an item."""
        coming = self._acks.pop(key, None)
        if coming is None:
            return
        while coming.acks and coming.acks[0].is_sealed():
            coming.acks.popleft()
            coming.flow.saw()
        self._watch_acks(coming)
        self._tell(coming)

    def _watch_acks(self, coming: _Coming) -> None:
        while coming.acks and coming.acks[0].key not in self._acks:
            ack = coming.acks[0]
            if self._memory.watch(ack, ack.key):
                self._acks[ack.key] = coming
                return
            coming.acks.popleft()
            coming.flow.saw()

    def _tell(self, coming: _Coming) -> None:
        node, number = coming.place
        if coming.after is None and (news := coming.flow.news()) is not None:
            self._around.links.send(node, rows.StreamSeen(number, *news))

    def _free(self, node: str, number: int, first: int, items: tuple[rows.Result, ...]) -> None:
        """Items that have come for nobody."""
        from_ = rows.ITEMS_FROM + first
        kept = tuple(from_ + i for i, item in enumerate(items) if item.data is None)
        if kept and node in self._pulling.nodes:
            self._around.links.send(node, rows.FreeResults(number, kept))

    # ---- writing
    def _write(self, key: int, coming: _Coming) -> None:
        if coming.is_writing:
            return
        coming.is_writing = True

        def step() -> bool:
            while coming.steps and self._coming.get(key) is coming:
                try:
                    is_written = self._write_item(coming)
                except _native.FullError:  # there is no slot
                    is_written = False
                if not is_written:
                    return False
            coming.is_writing = False
            if self._coming.get(key) is not coming:
                return True
            self._watch_acks(coming)
            self._tell(coming)
            if coming.after is not None:
                coming.after()
            return True

        until_room(self._around, sum(len(item.data or b"") for item, _ in coming.steps), step)

    def _write_item(self, coming: _Coming) -> bool:
        """The next item and its cell; False: there is no room."""
        result, inside = coming.steps[0]
        if coming.item is None:
            coming.item = self._make_item(coming, result, inside)
        if coming.item is None:
            return False
        memory = self._memory
        refs = [coming.item, memory.new_pending(coming.flow.taken + 1)]
        if coming.task.limit:
            refs.append(memory.new_pending())
        data = cell_value(len(refs))
        if not self._has_room(len(data)):
            return False
        memory.seal_pending(coming.cell, _native.FORMAT_PICKLE, data, refs)
        coming.task.advance_stream(refs[1])
        coming.cell = refs[1]
        coming.acks.extend(refs[2:])
        coming.item = None
        coming.steps.popleft()
        coming.flow.took()
        return True

    def _make_item(
        self, coming: _Coming, result: rows.Result, inside: list[ObjectRef[Any]]
    ) -> ObjectRef[Any] | None:
        try:
            if result.data is not None:
                return self._make(result.format, result.in_block, result.data, inside)
            number = coming.flow.taken
            ref = coming.task.item_elsewhere(number, result.format, result.size, inside)
        except ValueError as error:  # it has sent what is no value
            record = records.pack("InternalError", message=f"an item is no value: {error}")
            return self._make(_native.FORMAT_ERROR_RECORD, False, record, ())
        if ref is not None:
            self._pulling.stay(Stays(ref.key, *coming.place, rows.ITEMS_FROM + number))
        return ref

    def _make(
        self, format: int, in_block: bool, data: bytes, inside: Sequence[ObjectRef[Any]]
    ) -> ObjectRef[Any] | None:
        """A value of this node; None: there is no room."""
        memory, key = self._memory, self._memory.new_proxy(0)
        try:
            is_done = memory.seal_image(key, format, in_block, data, inside)
            return memory.ref(key) if is_done else None
        finally:
            memory.release(key)

    def _has_room(self, size: int) -> bool:
        """Whether a cell's value finds room: sealing a cell would wait for it, and nobody but this
        process makes any. A block as large is taken and given back; it is the next to be taken."""
        return self._make(_native.FORMAT_BYTES, False, bytes(size + 16), ()) is not None

    def _look(self) -> None:
        """Acks of streams that have ended: most are sealed by and by, as somebody reads on."""
        for key, ack in list(self._left.items()):
            if not ack.is_sealed():
                if self._memory.handles(key) > 1:
                    continue
                self._memory.seal_pending(ack)  # nobody else can any more
            del self._left[key]
        if self._left:
            self._around.call_later(LOOK_S, self._look)

    def __len__(self) -> int:
        return len(self._coming) + len(self._left)


# ---- there
class _Going:
    """A stream of a visit here, which we read for its home."""

    __slots__ = ("acks", "cell", "end", "flow", "is_ended", "is_wanted", "place", "will_go")

    def __init__(self, place: Place, end: ObjectRef[Any], cell: ObjectRef[Any], given: int) -> None:
        self.place = place
        self.end = end
        """Its task's own result."""
        self.cell = cell
        """The first one that was not sent."""
        self.flow = flows.Outflow(given)
        self.acks: deque[ObjectRef[Any]] = deque()
        self.is_ended = False
        self.is_wanted = True
        self.will_go = False
        """It goes on by itself soon."""


class StreamsThere:
    """Streams of others that are filled here.

    ``result_of`` says what is sent of a value, and keeps it if only its bytes stay.
    """

    def __init__(
        self,
        memory: Memory,
        proxies: Proxies,
        around: Surroundings,
        post: Callable[[bridge.Event], None],
        result_of: Callable[[Place, int, ObjectRef[Any]], rows.Result],
    ) -> None:
        self._memory = memory
        self._proxies = proxies
        self._around = around
        self._post = post
        self._result_of = result_of
        self._going: dict[Place, _Going] = {}
        self._ends: dict[int, _Going] = {}
        """By the key of the task, until it has ended and nothing is left to be sent."""
        self._cells: dict[int, _Going] = {}
        """By the cell that is waited for."""

    def go_on_from(self, former: StreamsThere) -> None:
        """That is of an epoch which is over: what it had ends, and is seen to end here."""
        self._ends, self._cells = former._ends, former._cells

    def begin(self, place: Place, end: ObjectRef[Any], cell: ObjectRef[Any], given: int) -> None:
        """A visit yields into ``cell``."""
        going = _Going(place, end, cell, given)
        self._going[place] = self._ends[end.key] = going
        self._go(going)

    def sealed(self, key: int) -> bool:
        """A cell, or the end of a stream: it is dealt with here, and its end told by and by."""
        if (going := self._cells.pop(key, None)) is not None:
            self._go(going)
            return True
        if (going := self._ends.get(key)) is not None:
            going.is_ended = True
            self._go(going)
            return True
        return False

    def heard(self, node: str, body: rows.StreamSeen) -> None:
        """Home is further."""
        going = self._going.get((node, body.number))
        if going is None:
            return
        more = going.flow.heard(body.taken, body.seen)
        if more < 0:
            self._around.blame(node, f"has seen {body.seen} items of a stream, which cannot be")
            return
        while more and going.acks:
            self._memory.seal_pending(going.acks.popleft())
            more -= 1
        self._go(going)

    def drop(self, place: Place) -> None:
        """Nobody wants it; what it has yielded is passed over until it ends."""
        going = self._going.pop(place, None)
        if going is not None:
            going.is_wanted = False
            self._around.cancel(going.end.key, False, False, False)
            self._go(going)

    def _go(self, going: _Going) -> None:
        if going.will_go:
            return
        self._send(going)
        room = going.flow.room if going.is_wanted else flows.BATCH
        if not going.cell.is_sealed():
            if going.is_ended:
                self._finish(going)
                return
            self._cells[going.cell.key] = going
            if self._memory.watch(going.cell, going.cell.key):
                return
            del self._cells[going.cell.key]
        if room > 0:
            going.will_go = True
            self._around.call_later(0.0, lambda: self._go_on(going))

    def _go_on(self, going: _Going) -> None:
        going.will_go = False
        self._go(going)

    def _send(self, going: _Going) -> None:
        """A row of what is there."""
        flow, size = going.flow, 0
        first, items, kept = flow.sent, [], []
        most = min(flows.BATCH, flow.room) if going.is_wanted else flows.BATCH
        for _ in range(most):
            if size >= flows.BATCH_BYTES or not going.cell.is_sealed():
                break
            keys = self._memory.contained(going.cell.key)
            item, following, *acks = (self._memory.ref(key) for key in keys)
            assert item is not None and following is not None, "the cell holds them"
            if going.is_wanted:
                result = self._result_of(going.place, rows.ITEMS_FROM + flow.sent, item)
                size += len(result.data or b"")
                items.append(result)
                kept.append(item)  # and what is in it, until it is sent
                going.acks.extend(ack for ack in acks if ack is not None)
                flow.sent += 1
            self._cells.pop(going.cell.key, None)
            going.cell = following
        if items:
            body = rows.StreamItems(going.place[1], first, tuple(items))
            self._proxies.send(going.place[0], body, rows.names_in(body))

    def _finish(self, going: _Going) -> None:
        """All is sent: its end may be told."""
        self._cells.pop(going.cell.key, None)
        self._going.pop(going.place, None)
        del self._ends[going.end.key]
        # Its watch would stay for ever; an attempt that died may have written a value there.
        self._memory.seal_pending(going.cell, _native.FORMAT_BYTES, b"")
        self._post(bridge.VisitEnded(going.end.key))

    def __len__(self) -> int:
        return len(self._ends)
