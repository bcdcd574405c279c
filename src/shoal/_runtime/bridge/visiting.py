"""Tasks of other nodes that run here: tasks of the daemon's own, whose results go home.

::

    Begin      function and arguments of a plain task come here first; then it is submitted,
               without retries
    sealed     its results go home: small ones at once, of large ones the bytes stay until home has
               them or lets them go (there is a place in them for the recipe that home has)
    Withdraw   what still stands in its queue is taken out of it

A function that came from another node is kept (it will be needed again) until that node's job has
ended or the node is lost.

Invariants:

1. ``_visits`` has each visit from ``Begin`` until it is reported, given back or dropped.
2. ``_kept`` are results that home has been told to come for; nothing else of an ended visit is.
3. A visit is submitted with ``max_retries`` 0: nothing on this node runs it again (RULES L-1).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shoal import _native
from shoal._base import records
from shoal._core import bridge
from shoal._native import Memory, ObjectRef, Template
from shoal._proto import bridge as rows
from shoal._proto.holds import Name
from shoal._runtime.bridge.around import RETRY_S, SMALL_BYTES, Place, Surroundings, lost_value
from shoal._runtime.bridge.images import Image, open_image
from shoal._runtime.bridge.proxies import Proxies
from shoal._runtime.bridge.pulling import Pulling
from shoal._runtime.bridge.streaming import StreamsThere

CRASHES = frozenset({"WorkerCrashedError", "OutOfMemoryError"})
"""Records that this node's daemon seals when the process of a task has died."""
ACTOR_CRASHES = frozenset({"crashed", "restarting", "out_of_memory"})
"""Reasons of those that it seals when an actor's has."""
_ERRORS = (_native.FORMAT_ERROR_PICKLE, _native.FORMAT_ERROR_RECORD)
_WITHDRAWN = records.pack("TaskCancelledError", stage="queued", reason="its node took it back")


@dataclass(slots=True)
class _Visit:
    body: rows.ForwardTask
    refs: list[ObjectRef[Any]]
    """To all that the row names, in that order."""
    missing: int = 0
    """Arguments whose bytes are on their way here."""
    results: list[ObjectRef[Any]] = field(default_factory=list)
    may_run_again: bool = False
    """The worker has said so, of the exception with which it ended."""


class Visiting:
    """What of others is here."""

    def __init__(
        self,
        memory: Memory,
        proxies: Proxies,
        pulling: Pulling,
        around: Surroundings,
        post: Callable[[bridge.Event], None],
    ) -> None:
        self._memory = memory
        self._proxies = proxies
        self._pulling = pulling
        self._around = around
        self._post = post
        self._visits: dict[tuple[str, int], _Visit] = {}
        self._kept: dict[tuple[str, int], dict[int, ObjectRef[Any]]] = {}
        self._functions: dict[tuple[str, int, Name], ObjectRef[Any]] = {}
        """What keeps them, by who has sent tasks of them, its job, and their name: they may be of
        a third node, or of this one."""
        pulling.sources.kept = self._key_of_kept
        self.streams = StreamsThere(memory, proxies, around, post, self._result)

    # ---- beginning
    def perform_begin(self, order: bridge.Begin, refs: list[ObjectRef[Any]]) -> None:
        """It has come, with ``refs`` to all that it names."""
        place, body = (order.node, order.body.number), order.body
        visit = _Visit(body, refs)
        if body.actor is not None:  # calls go in their order, whatever they are given
            self._visits[place] = visit
            self._submit(*place)
            return
        if why := self._around.watch.admit(order.node, body):
            self._post(bridge.VisitRefused(*place, why))
            return
        self._visits[place] = visit
        if body.function is not None:
            self._functions[order.node, body.job, body.function] = refs[0]
        # The function too: who is given the task has all that it needs.
        arguments = refs[: len(refs) - len(body.contained)]
        visit.missing = len(arguments) + 1
        for ref in arguments:
            self._pulling.fetch(ref, lambda: self._is_here(*place))
        self._is_here(*place)

    def _is_here(self, node: str, number: int) -> None:
        visit = self._visits.get((node, number))
        if visit is None:
            return
        visit.missing -= 1
        if visit.missing == 0:
            self._submit(node, number)

    def _submit(self, node: str, number: int) -> None:
        visit = self._visits.get((node, number))
        if visit is None:
            return
        body = visit.body
        queue: Place | str | None
        if body.actor is not None:
            queue = self._around.find_actor(body.actor, body.place)
        else:
            queue = self._around.find_queue(node, body.job, body.place)
        if queue is None:
            self._around.call_later(RETRY_S, lambda: self._submit(node, number))
            return
        if isinstance(queue, str):
            self._forget(node, number)
            self._post(bridge.VisitRefused(node, number, queue))
            return
        try:
            visit.results = self._make_task((node, number), visit, queue)
        except _native.PendingError:
            self._forget(node, number)
            self._post(bridge.VisitRefused(node, number, "the queue is full there"))
            return
        except _native.FullError:
            self._around.make_room(len(body.payload))
            self._around.call_later(RETRY_S, lambda: self._submit(node, number))
            return
        visit.refs = []
        key = visit.results[0].key
        self._post(bridge.VisitBegun(node, number, key))
        # The last one is sealed last (`publish`), so then all of them are.
        if not self._memory.watch(visit.results[-1], key) and not self.streams.sealed(key):
            self._post(bridge.VisitEnded(key))

    def _forget(self, node: str, number: int) -> tuple[_Visit | None, float, int | None]:
        """It is no visit any more: how long it ran, and how many of its kind may come now."""
        visit = self._visits.pop((node, number), None)
        self.streams.drop((node, number))
        if visit is None or visit.body.actor is not None:
            return visit, 0.0, None
        return visit, *self._around.watch.visit_over(node, number)

    def _make_task(
        self, place: tuple[str, int], visit: _Visit, queue: Place
    ) -> list[ObjectRef[Any]]:
        body, refs = visit.body, visit.refs
        first = len(refs) - len(body.dependencies) - len(body.contained)
        last = first + len(body.dependencies)
        template = Template(
            function=refs[0].key if body.function is not None else 0,
            actor=refs[0].key if body.actor is not None else 0,
            queue=queue[0],
            queue_generation=queue[1],
            job=queue[2],
            method=body.method,
            n_returns=body.n_returns,
            flags=body.flags | _native.FLAG_PLACE,
            limit=body.limit,
            timeout_s=max(body.left_s, 1e-9) if body.left_s >= 0 else 0.0,
        )
        # It holds its function too, behind all that its payload numbers: its home may be lost, and
        # with it what keeps the function here, when a worker has just taken it.
        inside = [*refs[last:], *refs[:first]]
        if body.flags & _native.FLAG_ITEMS:
            inside += [self._numbers(body.items)] * 2  # the last one is where home has the recipe
        if body.flags & _native.FLAG_STREAM:
            cell = self._memory.new_pending(body.given)
            end = self._memory.submit(
                template, body.payload, refs[first:last], [*inside, cell, cell]
            )
            assert isinstance(end, ObjectRef), "a stream has one return"
            self.streams.begin(place, end, cell, body.given)
            return [end]
        made = self._memory.submit(template, body.payload, refs[first:last], inside)
        if isinstance(made, ObjectRef):
            return [made]
        assert made, "a task that is forwarded has a return, if only its completion"
        return made

    def _numbers(self, items: tuple[int, ...]) -> ObjectRef[Any]:
        """Which items a generator is to make again, as its task reads it."""
        key = self._memory.new_proxy(0)
        data = struct.pack(f"={len(items)}I", *items)
        is_done = self._memory.seal_image(key, _native.FORMAT_BYTES, False, data)
        ref = self._memory.ref(key) if is_done else None
        self._memory.release(key)
        if ref is None:
            raise _native.FullError(len(data), self._memory.capacity_bytes, "full")
        return ref

    # ---- ending
    def note_may_run_again(self, key: int) -> None:
        """The worker that runs this visit says that its exception may be retried."""
        for visit in self._visits.values():
            if visit.results and visit.results[0].key == key:
                visit.may_run_again = True

    def perform_report(self, order: bridge.Report) -> None:
        """Tell home."""
        place = order.node, order.number
        visit, ran_s, window = self._forget(*place)
        assert visit is not None, "what is reported is a visit"
        results, how = [], rows.RAISED if visit.may_run_again else rows.ENDED
        for index, ref in enumerate(visit.results):
            result = self._result(place, index, ref)
            if result.format == _native.FORMAT_ERROR_RECORD and result.data is not None:
                how = rows.CRASHED if _is_crash(result.data) else how
            results.append(result)
        body = rows.TaskEnded(order.number, how, tuple(results), ran_s, window)
        self._proxies.send(order.node, body, rows.names_in(body))

    def _result(self, place: tuple[str, int], index: int, ref: ObjectRef[Any]) -> rows.Result:
        if (left := self._memory.peek(ref)) is not None:
            return rows.Result(left[0], len(left[1]), False, left[1])
        try:
            found = open_image(self._memory, ref.key)
        except ValueError as error:
            record = records.pack("NotSupportedError", message=str(error))
            return rows.Result(_native.FORMAT_ERROR_RECORD, len(record), False, record)
        keys = (
            found.contained if isinstance(found, Image) else self._pulling.sources.inside(ref.key)
        )
        names = tuple(self._proxies.name_of(key) for key in keys)
        if isinstance(found, Image) and (found.size <= SMALL_BYTES or found.format in _ERRORS):
            return rows.Result(found.format, found.size, found.in_block, found.whole(), names)
        sight = self._memory.sight(ref.key)
        if found is None or sight is None:
            record = lost_value(f"node {self._proxies.me[0]} does not have it any more")
            return rows.Result(_native.FORMAT_ERROR_RECORD, len(record), False, record)
        self._kept.setdefault(place, {})[index] = ref
        return rows.Result(sight[1], sight[16], True, None, names)

    def _key_of_kept(self, node: str, number: int, index: int) -> int:
        ref = self._kept.get((node, number), {}).get(index)
        return 0 if ref is None else ref.key

    def free_results(self, node: str, body: rows.FreeResults) -> None:
        """Home has them, or needs them no more."""
        kept = self._kept.get((node, body.number), {})
        for index in body.indexes:
            kept.pop(index, None)
        if not kept:
            self._kept.pop((node, body.number), None)

    # ---- ending before the end
    def perform_withdraw(self, order: bridge.Withdraw) -> None:
        """Take it out of its queue, if it is still there."""
        is_taken = order.key == 0
        if not is_taken and (task := self._memory.claim(order.key)) is not None:
            self._memory.fail(order.key, _WITHDRAWN)
            task.forget()
            is_taken = True
        if is_taken:
            self._forget(order.node, order.number)
        self._post(bridge.Withdrawn(order.node, order.number, is_taken))

    def give_back(self) -> None:
        """Let go home what has not been begun of plain tasks: this node is being drained."""
        for place, visit in list(self._visits.items()):
            if visit.body.actor is None:
                self._take_out(place, visit)

    def give_back_calls(self, node: str, key: int) -> int:
        """Let calls of that actor go home that have not been begun; how many stay. The last ones
        first: what stays was before all that goes, so their order stays too (RULES A-1)."""
        lines: dict[bytes, list[tuple[str, int]]] = {}
        for place, visit in self._visits.items():
            actor = visit.body.actor
            if actor is not None and (actor.node, actor.key) == (node, key):
                lines.setdefault(visit.body.place, []).append(place)
        stays = 0
        for line in lines.values():
            line.sort()
            last = len(line)
            while last and self._is_taken(self._visits[line[last - 1]]):
                last -= 1
            for place in line[last:]:
                self._gone_home(place)
            stays += last
        return stays

    def _take_out(self, place: tuple[str, int], visit: _Visit) -> None:
        if self._is_taken(visit):
            self._gone_home(place)

    def _gone_home(self, place: tuple[str, int]) -> None:
        self._forget(*place)
        self._post(bridge.Withdrawn(*place, True))

    def _is_taken(self, visit: _Visit) -> bool:
        """Whether it had not been begun, and now never will be."""
        if not visit.results:  # it is no task yet
            return True
        key = visit.results[0].key
        task = self._memory.claim(key)
        if task is None:
            return False
        self._memory.fail(key, _WITHDRAWN)
        task.forget()
        return True

    def of_others(self) -> tuple[dict[int, tuple[str, int]], set[int]]:
        """Of each visit that is a task here its home and its key there; and the keys of results
        that are another node's."""
        begun = [(at[0], visit) for at, visit in self._visits.items() if visit.results]
        homes = {visit.results[0].key: (node, visit.body.key) for node, visit in begun}
        kept = [ref for each in self._kept.values() for ref in each.values()]
        return homes, {r.key for _, visit in begun for r in visit.results} | {r.key for r in kept}

    def kept_bytes(self) -> tuple[int, int]:
        """How many results are kept for their homes, and how large they are."""
        refs = [ref for each in self._kept.values() for ref in each.values()]
        return len(refs), sum((self._memory.sight(ref.key) or (0,) * 17)[16] for ref in refs)

    def perform_cancel(self, order: bridge.CancelHere) -> None:
        """End it here; what has not been begun goes home as it came, and ends there."""
        if order.key == 0:
            self._forget(order.node, order.number)
            self._post(bridge.Withdrawn(order.node, order.number, True))
            return
        self._around.cancel(order.key, order.is_recursive, order.is_forced, order.is_late)

    def perform_drop(self, order: bridge.DropVisit) -> None:
        """Nobody waits for it."""
        self._forget(order.node, order.number)

    def job_ended(self, node: str, job: int) -> None:
        """Its functions are not needed any more."""
        for its in [its for its in self._functions if its[:2] == (node, job)]:
            del self._functions[its]

    def node_lost(self, node: str) -> None:
        """Its functions, and the results that it will not come for, are not needed any more."""
        for its in [its for its in self._functions if its[0] == node]:
            del self._functions[its]
        for place in [place for place in self._kept if place[0] == node]:
            del self._kept[place]

    def __len__(self) -> int:
        return len(self._visits) + len(self._kept)


def _is_crash(record: bytes) -> bool:
    try:
        name, fields = records.unpack(record)
        return name in CRASHES or fields.get("reason") in ACTOR_CRASHES
    except ValueError:
        return False
