"""Spilling as the daemon does it: what the machine of ``_core.spilling`` decides, done to memory
and files.

Two threads: the daemon's own, which looks, decides and changes node memory, and one that only
writes and reads (``_work``), on bytes that the daemon holds for it meanwhile; its results come back
through a descriptor that the loop watches. So a slow disk delays whoever waits for room or for a
value, and nobody else. The thread begins with the first value that leaves, and costs nothing until
then.

::

    make_room(): somebody asks for more than there is     -> RoomAsked
    bell: an inbox row is a spilled slot that is pinned   -> Wanted
          or one that is not alive any more               -> Gone
    a file is gone or damaged: ValueLost to the node's machine, whose LoseValue comes back here

Invariants: the thread never touches node memory but for the bytes that it was given, and lets go of
nothing (`Moving` objects are dropped where they were made); whatever goes wrong in it becomes an
event.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from shoal._base import clock
from shoal._core import commands, events, spilling
from shoal._core.node import NodeMachine
from shoal._native import EXTENT_BYTES, Memory
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.launch import NodeSettings
from shoal._runtime.machine_facts import Headroom

if TYPE_CHECKING:
    import queue
    import threading

    from shoal._runtime.spill_files import SpillFiles


STILL_S = 5.0
"""Between two times that those who wait for values are told that something goes on."""
CLOSE_S = 5.0
"""The end of the session waits so long for places that are being opened; each place says for how
long once it is."""


def _text(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) else None
    return said or str(error) or type(error).__name__


def _look_around(memory: Memory, headroom: Headroom) -> tuple[int, tuple[spilling.Unit, ...]]:
    """The extents that are missing, and what could leave. Where too few whole ones could, what is
    free between values that stay is given back first."""
    missing = memory.shortage(headroom.bytes_for_values())
    if not missing:
        return 0, ()
    units = tuple(spilling.Unit(p, n, tuple(k), m) for p, n, k, m in memory.spillable())
    whole = int(sum(unit.n_extents for unit in units if unit.n_extents >= 1))
    if whole < missing:
        memory.hollow_out(missing - whole)
        missing = memory.shortage(headroom.bytes_for_values())
    return missing, units


class UnderWay:
    """Whether values are being written or read: those who wait for one would take a silence for a
    lack of room, so on a slow disk they are told now and then."""

    def __init__(self, loop: Loop, memory: Memory) -> None:
        self._loop = loop
        self._memory = memory
        self._count = 0
        self._is_telling = False

    def begin(self) -> None:
        """One batch more."""
        self._count += 1
        if not self._is_telling:
            self._is_telling = True
            self._loop.call_later(STILL_S, self._tell)

    def end(self) -> None:
        """One batch less."""
        self._count -= 1

    def _tell(self) -> None:
        self._is_telling = self._count > 0
        if self._is_telling:
            self._memory.tell_restored()
            self._loop.call_later(STILL_S, self._tell)


class Spiller:
    """Makes room in node memory, and brings values back.

    Args:
        loop: The daemon's.
        memory: Node memory.
        machine: The node's, for the names of who holds what.
        settings: Say where values may go.
        post: Takes events for the node's machine.

    ``wake`` is called when memory may be had, or asked for: what warms memory looks again.
    ``lost`` is told of a value that is gone from its file, and what has happened; ``lost_beside``
    before that, with those that are gone as well: it takes some of them as lost too. ``evict``
    frees extents by giving up values that can be made again, and says how many; ``given_up`` are
    those. ``make_stub`` has memory for what stays of a value.
    """

    def __init__(
        self,
        loop: Loop,
        memory: Memory,
        machine: NodeMachine,
        settings: NodeSettings,
        post: Callable[[events.AnyEvent], None],
    ) -> None:
        self._loop = loop
        self._memory = memory
        self._node = machine
        self._settings = settings
        memory.spills = int(settings.spill != ())
        self.wake: Callable[[], None] = lambda: None
        self.lost: Callable[[int, str], None] = lambda key, problem: post(
            events.ValueLost(key, problem, memory.ancestry(key))
        )
        self.lost_beside: Callable[[int, list[int], str], list[int]] = lambda *_: []
        self._gone_with: dict[int, list[int]] = {}
        """By value that could not be read: records that are gone too."""
        self.evict: Callable[[int], float] = lambda n_extents: 0
        self.given_up: Callable[[], Collection[int]] = tuple
        self.make_stub: Callable[[], object] = lambda: None
        self.came_back: Callable[[int], None] = lambda key: None
        """Told of each value that was read from its file, or will not be."""
        self.headroom = Headroom()
        self._machine = spilling.Spilling(
            memory.capacity_bytes // EXTENT_BYTES, EXTENT_BYTES, can_write=settings.spill != ()
        )
        self.files: SpillFiles | None = None
        self._moving: dict[int, Any] = {}
        """What is on its way, by key: bytes that the daemon holds."""
        self._jobs: queue.SimpleQueue[Callable[[], spilling.AnyEvent | None] | None]
        """Made with the thread."""
        self._done: deque[spilling.AnyEvent] = deque()
        self._bell = -1
        self._thread: threading.Thread | None = None
        self._under_way = UnderWay(loop, memory)
        self._is_stepping = False
        self._overflows = 0
        self._is_closing = False
        self._last_problem = ""
        self._events: deque[spilling.AnyEvent] = deque()
        self.counts = {"spilled_bytes": 0, "restored_bytes": 0, "lost": 0}
        self.problem = ""
        """Why the last value that was to leave could not be written; empty: it could."""

    # ---- what is seen
    def make_room(self) -> bool:
        """Whether room is being made for those who ask for it; False: they can be answered."""
        is_on = self._memory.spills and not self._is_closing
        missing, units = _look_around(self._memory, self.headroom) if is_on else (0, ())
        if not missing:
            self._memory.answer_room(True)
            if self._machine.is_asked:
                self._post(spilling.RoomFound())
            return False
        self._post(spilling.RoomAsked(missing, units))
        return self._machine.is_asked

    def look(self, keys: Iterable[int]) -> None:
        """Slots out of the inbox: somebody wants a value back, or nobody has it any more."""
        for seen in keys:
            key = self._machine.key_in(seen & spilling.SLOT)
            if key is None:
                continue
            found = self._memory.spilled(key)
            if found is not None and found[2]:
                self._post(spilling.Wanted(key, found[0]))
            elif found is None and not self._memory.is_live(key):
                self._post(spilling.Gone((key,)))
        if self._overflows != self._memory.inbox_overflows:
            self._overflows = self._memory.inbox_overflows
            self.sweep()

    def bring_back(self, key: int) -> None:
        """Read this value from its file, if it is in one."""
        found = self._memory.spilled(key)
        if found is not None and self._machine.key_in(key & spilling.SLOT) == key:
            self._post(spilling.Wanted(key, found[0]))

    def sweep(self) -> None:
        """Whoever freed a spilled value may have died before it told, or found the inbox full."""
        gone = tuple(key for key in self._machine.known() if not self._memory.is_live(key))
        if gone:
            self._post(spilling.Gone(gone))

    # ---- decisions
    def _post(self, event: spilling.AnyEvent) -> None:
        self._events.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        while self._events:
            self._loop.guard(self._step, self._events.popleft())
        self._is_stepping = False

    def _step(self, event: spilling.AnyEvent) -> None:
        for command in self._machine.step(clock.now(), event):
            self._perform(command)
        # Whether who frees a large value has to tell: from the first one on that is on its way, as
        # it may be freed as soon as it is written.
        has_records = self._machine.known() or self._moving or self._events or self.given_up()
        self._memory.spills = 2 if has_records else 1

    def _perform(self, command: spilling.AnyCommand) -> None:
        match command:
            case spilling.WriteOut():
                self._write_out(command.keys)
            case spilling.LetGo():
                self._let_go(command.key, command.number)
            case spilling.ReadBack():
                self._read_back(command.key, command.number)
            case spilling.DropRecord():
                self._give(lambda: self._drop(command.number))
            case spilling.Lose():
                self._lose(command)
            case spilling.Answer():
                self._answer(command)
            case spilling.RetryAt():
                self._loop.call_at(command.at, lambda: self._post(spilling.TimeToRetry()))
            case spilling.LookAgainAt():
                self._loop.call_at(command.at, self.wake)

    def _write_out(self, keys: tuple[int, ...]) -> None:
        moving = {key: self._memory.begin_spill(key) for key in keys}
        held = {key: value for key, value in moving.items() if value is not None}
        for key in keys:
            if key not in held:  # looked at, or gone, since it was chosen
                self._events.append(spilling.Left(key, 0, False))
        if held:
            self._moving.update(held)
            views = [memoryview(value) for value in held.values()]
            here = tuple(held)
            self._under_way.begin()
            self._give(lambda: self._write(here, views))

    def _let_go(self, key: int, number: int) -> None:
        self.make_stub()
        moving = self._moving.pop(key, None) or self._memory.begin_spill(key)
        freed = self._memory.end_spill(moving, number) if moving is not None else 0
        self.counts["spilled_bytes"] += freed
        self._events.append(spilling.Left(key, number, freed > 0))

    def _read_back(self, key: int, number: int) -> None:
        found = self._memory.spilled(key)
        if found is not None and not found[2]:
            self._events.append(spilling.Unwanted(key))
            return
        moving = self._memory.begin_restore(key)
        if moving is None:
            self._events.append(spilling.Gone((key,)))
        elif isinstance(moving, bool):
            self._events.append(spilling.NoRoomFor(key, number))
            self._loop.call_later(0.0, self.wake)
        else:
            self._moving[key] = moving
            view = memoryview(moving)
            self._under_way.begin()
            self._give(lambda: self._read(key, number, view))

    def _lose(self, command: spilling.Lose) -> None:
        print(f"a value that was in a file is lost: {command.problem}", file=sys.stderr, flush=True)
        self.counts["lost"] += 1
        if numbers := set(self._gone_with.pop(command.key, ())):
            out = self._machine.out
            gone = [k for k, n in out.items() if n in numbers and k not in self._moving]
            others = self.lost_beside(command.key, gone, command.problem)
            if others:
                self._events.append(spilling.Gone(tuple(others)))
        self.lost(command.key, command.problem)

    def perform_lose_value(self, command: commands.LoseValue) -> None:
        """Nothing brings it back: its readers get the record."""
        self._memory.lose(command.key, command.record)
        self.came_back(command.key)

    def _answer(self, command: spilling.Answer) -> None:
        self.problem = command.problem
        if command.problem and command.problem != self._last_problem:
            self._last_problem = command.problem
            text = f"values cannot be written to files: {command.problem}"
            print(text, file=sys.stderr, flush=True)
        missing = 0
        if not command.is_given:
            missing = self._memory.shortage(self.headroom.bytes_for_values())
        if missing and self.evict(missing) < missing:
            self._memory.answer_room(False)
        self.wake()

    def holders(self, _: str) -> list[dict[str, object]]:
        """Rows for the error of a full store: who holds the most of what is in memory."""
        from shoal._runtime import daemon_told

        out = {*self._machine.out, *self.given_up()}
        directory = self._settings.directory
        return daemon_told.holders(
            self._memory, self._node, out, self.problem, directory, clock.now()
        )

    def row(self) -> dict[str, object]:
        """For people and tests: how much went where."""
        files = self.files
        return {
            "on": self._settings.spill != (),
            "values": len(self._machine.out),
            "bytes": files.bytes_live if files is not None else 0,
            "places": [str(place) for place in files.places] if files is not None else [],
            "problem": self.problem,
            **self.counts,
        }

    # ---- the thread
    def _give(self, job: Callable[[], spilling.AnyEvent | None]) -> None:
        if self._thread is None:
            import queue
            import threading

            self._jobs = queue.SimpleQueue()
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._loop.watch(self._bell, self._bell_rang)
            self._thread = threading.Thread(target=self._work, name="shoal-spill", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            event = job()
            del job  # with what it held: only the daemon's own thread lets go of values
            if event is not None:
                self._done.append(event)
                os.eventfd_write(self._bell, 1)

    def _bell_rang(self, _: int) -> None:
        os.eventfd_read(self._bell)
        while self._done:
            event = self._done.popleft()
            self._under_way.end()
            if isinstance(event, spilling.WrittenOut) and event.problem:
                for key in event.keys:
                    self._moving.pop(key)
            elif isinstance(event, spilling.WasRead):
                self._came_back(event)
            self._post(event)

    def _came_back(self, event: spilling.WasRead) -> None:
        moving = self._moving.pop(event.key)
        if not event.problem:
            self.counts["restored_bytes"] += memoryview(moving).nbytes
            self._memory.end_restore(moving)
            self.came_back(event.key)

    def _open_files(self) -> SpillFiles:
        from shoal._runtime import spill_places
        from shoal._runtime.spill_files import SpillFiles

        places = spill_places.choose(self._settings.spill, self._settings.directory)
        return SpillFiles(places, self._settings.session)

    def _write(self, keys: tuple[int, ...], views: list[memoryview]) -> spilling.AnyEvent:
        try:
            if self.files is None:
                self.files = self._open_files()
            return spilling.WrittenOut(keys, tuple(self.files.write(views)))
        except Exception as error:
            return spilling.WrittenOut(keys, (), _text(error))
        finally:
            for view in views:
                view.release()

    def _read(self, key: int, number: int, view: memoryview) -> spilling.AnyEvent:
        assert self.files is not None, "only what was written is read"
        try:
            self.files.read_into(number, view)
        except Exception as error:
            self._gone_with[key] = self.files.gone_with(number)
            return spilling.WasRead(key, number, _text(error))
        finally:
            view.release()
        return spilling.WasRead(key, number)

    def _drop(self, number: int) -> None:
        if self.files is not None:
            self.files.drop(number)

    def close(self) -> None:
        """End the thread and remove the files. Before memory is closed. A disk that does not answer
        is not waited for."""
        self._is_closing = True
        if self._thread is None:
            return

        def close_files() -> None:
            if self.files is not None:
                self.files.close()

        self._jobs.put(close_files)
        self._jobs.put(None)
        self._thread.join(self.files.close_s if self.files is not None else CLOSE_S)
        self._loop.unwatch(self._bell)
        if not self._thread.is_alive():
            os.close(self._bell)
        self._moving.clear()
