"""Streams: the results of a generator, one ref after the other, while it still runs.

A streaming task has one return, its *completion*, and a chain of *cells*. A cell is a pending
object (``native/pending.cpp``); the producer gives it a value once an item is there::

    cell 0 -> (item 0, cell 1[, ack 0])      cell 1 -> (item 1, cell 2[, ack 1])     cell 2: pending
    completion -> number of items, or the error that ended the generator

The consumer holds one cell and waits for it or for the completion; having read a cell it holds the
next one, so what it has seen and dropped is freed by the counts. The submitter makes cell 0.

1. Items come in order; after the last one the consumer finds the completion sealed and its cell
   not. An error in the generator is one more ref, the completion itself: ``get`` of it raises.
2. A retry goes on at the first unsealed cell: the generator runs from its beginning, and the items
   that the consumer has already been given are not sent again.
3. With a limit the producer sleeps until the consumer has taken the item that is ``limit`` before
   the last one; taking is sealing its *ack*, a pending object that came with the cell.
4. When no ref to the completion is left (the consumer has dropped the generator, or died), the
   daemon cancels the task; items that nobody has seen are freed with the cells.
5. A generator of refs stays in its process: it cannot be pickled (RULES O-10).
"""

from __future__ import annotations

import collections
import functools
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal import _native, errors
from shoal._base import clock
from shoal._native import ObjectRef
from shoal._runtime import serialize, standing
from shoal._runtime import session as sessions
from shoal._runtime.cells import cell_value
from shoal._runtime.session import NATIVE_ERRORS

if TYPE_CHECKING:
    import asyncio

R = TypeVar("R")

STREAMING = -1
"""``n_returns`` of what returns a stream."""
DYNAMIC = -2
"""``n_returns`` of what returns one ref to the list of its refs."""

_FLAGS = {STREAMING: _native.FLAG_STREAM, DYNAMIC: _native.FLAG_DYNAMIC}
ANY = _native.FLAG_STREAM | _native.FLAG_DYNAMIC | _native.FLAG_ITEMS


def returns_number(num_returns: Any) -> int:
    """How an option ``num_returns`` travels: a count, ``STREAMING`` or ``DYNAMIC``."""
    if num_returns == "streaming":
        return STREAMING
    return DYNAMIC if num_returns == "dynamic" else int(num_returns)


def flags_of(n_returns: int) -> int:
    """Flags of a call that returns so."""
    return _FLAGS.get(n_returns, 0)


def limit_of(given: Mapping[str, Any]) -> int:
    """How many items may be unseen; 0: any number."""
    return max(0, given.get("_generator_backpressure_num_objects") or 0)


def explained(error: errors.GetTimeoutError, refs: list[ObjectRef]) -> errors.GetTimeoutError:
    """``error``, which says why the first of ``refs`` is not there. Who only looked (0 seconds)
    asks only if it is shown."""
    from shoal._runtime import explaining

    error.ask(explaining.for_error(refs, is_patient=bool(error.timeout_s)))
    return error


# ---- the consumer -------------------------------------------------------------------------------


class ObjectRefGenerator(Generic[R]):
    """Refs to what a generator yields, in order, each as soon as it is there.

    Iterate over it with ``for`` or ``async for``. A ref to an item that could not be made (the
    generator raised, its process died) raises when it is asked for, and is the last one. Who drops
    the generator before its end cancels the task.

    Example:
        >>> @shoal.remote
        ... def count(n):
        ...     for i in range(n):
        ...         yield i
        >>> [shoal.get(ref) for ref in count.remote(3)]
        [0, 1, 2]
    """

    def __init__(self, cell: ObjectRef, completion: ObjectRef) -> None:
        self._cell = cell
        self._completion = completion
        self._is_over = False
        self._ended: asyncio.Future[None] | None = None

    # ---- sync
    def __iter__(self) -> Iterator[ObjectRef[R]]:
        return self

    def __next__(self) -> ObjectRef[R]:
        return self._next_sync()

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef:
        """The next ref; a nil ``GetTimeoutError`` when it is not there in time."""
        if self._is_over:
            raise StopIteration
        memory = self._cell.memory
        try:
            if not self._cell.is_sealed():
                pair = [self._cell, self._completion]
                if not memory.wait(pair, 1, timeout_s)[0]:
                    error = errors.GetTimeoutError(timeout_s=timeout_s or 0.0)
                    raise explained(error, [self._completion])
            item = self._take()
        except NATIVE_ERRORS as error:
            raise sessions.translate(error, memory) from None
        if item is None:
            raise StopIteration
        return item

    def _take(self) -> ObjectRef | None:
        """Something is sealed: the next item, the completion if it is an error, None at the end."""
        memory = self._cell.memory
        # The completion is sealed after every cell: who sees it looks at the cell again.
        if self._cell.is_sealed():
            item, self._cell, *acks = memory.get(self._cell)
            for ack in acks:
                memory.seal_pending(ack)
            return item  # type: ignore[no-any-return]
        self._is_over = True
        return None if memory.peek(self._completion) is None else self._completion

    # ---- async
    def __aiter__(self) -> AsyncIterator[ObjectRef[R]]:
        return self

    async def __anext__(self) -> ObjectRef[R]:
        if self._is_over:
            raise StopAsyncIteration
        memory = self._cell.memory
        try:
            if not self._cell.is_sealed() and not self._completion.is_sealed():
                await self._either()
            item = self._take()
        except NATIVE_ERRORS as error:
            raise sessions.translate(error, memory) from None
        if item is None:
            raise StopAsyncIteration
        return item

    async def _either(self) -> None:
        """Sleep until the cell or the completion is sealed."""
        # Whoever runs a coroutine has loaded asyncio.
        asyncio = sys.modules["asyncio"]
        from shoal._runtime import completion

        loop = asyncio.get_running_loop()
        if self._ended is None or self._ended.get_loop() is not loop:
            self._ended = completion.sealed(self._completion)
        await asyncio.wait(
            [completion.sealed(self._cell), self._ended], return_when=asyncio.FIRST_COMPLETED
        )

    # ---- looking
    def completed(self) -> ObjectRef:
        """A ref that is ready when the task has ended; ``get`` of it raises what ended it."""
        return self._completion

    def next_ready(self) -> bool:
        """Whether ``next`` would return at once: an item is there, or the end."""
        return self._is_over or self._cell.is_sealed() or self._completion.is_sealed()

    def is_finished(self) -> bool:
        """Whether every item has been taken and the task has ended."""
        return self._is_over or (self._completion.is_sealed() and not self._cell.is_sealed())

    @property
    def task_completion(self) -> ObjectRef:
        """As ``completed()``."""
        return self._completion

    def __reduce__(self) -> Any:
        raise TypeError(
            "a generator of refs belongs to the process that has called the task: it can not be"
            " passed on. What to do: pass the refs that it yields, or a list of them"
        )

    def __repr__(self) -> str:
        return f"<ObjectRefGenerator of {self._completion.hex()}>"


class DynamicObjectRefGenerator:
    """The refs that a task with ``num_returns="dynamic"`` has made; iterating takes them out."""

    def __init__(self, refs: Sequence[ObjectRef]) -> None:
        self._refs = collections.deque(refs)

    def __iter__(self) -> Iterator[ObjectRef]:
        while self._refs:
            yield self._refs.popleft()

    def __len__(self) -> int:
        return len(self._refs)


def submitter(memory: _native.Memory) -> Callable[..., ObjectRefGenerator]:
    """What takes the place of ``memory.submit`` for streaming calls."""

    def submit(
        template: _native.Template,
        payload: bytes | None,
        dependencies: Sequence[ObjectRef] | None = None,
        contained: Sequence[ObjectRef] | None = None,
    ) -> ObjectRefGenerator:
        cell = memory.new_pending()
        refs = [*(contained or ()), cell, cell]
        completion = memory.submit(template, payload, dependencies, refs)
        assert isinstance(completion, ObjectRef)
        return ObjectRefGenerator(cell, completion)

    return submit


def failed(memory: _native.Memory, record: bytes) -> ObjectRefGenerator:
    """The stream of a call that can never run: its first ref raises the reason."""
    completion = memory.put(_native.FORMAT_ERROR_RECORD, record, (), ())
    return ObjectRefGenerator(memory.new_pending(), completion)


def is_generator(value: Any) -> bool:
    """Whether ``value`` is a generator of refs (asked where a ref is expected)."""
    return type(value) is ObjectRefGenerator


def wait_mixed(
    items: list[Any], num_returns: int, timeout: float | None
) -> tuple[list[Any], list[Any]]:
    """``wait`` for refs and generators; a generator is ready when its next ref is."""
    memory = next(i.memory if type(i) is ObjectRef else i._cell.memory for i in items)
    deadline = None if timeout is None else clock.now() + timeout
    while True:
        is_ready = [i.is_sealed() if type(i) is ObjectRef else i.next_ready() for i in items]
        left = None if deadline is None else max(0.0, deadline - clock.now())
        if sum(is_ready) >= num_returns or left == 0.0:
            break
        waited: dict[ObjectRef, None] = {}
        for item, ready in zip(items, is_ready):
            if not ready:
                refs = [item] if type(item) is ObjectRef else [item._cell, item._completion]
                waited.update(dict.fromkeys(refs))
        memory.wait(list(waited), 1, left)
    ready = [i for i, good in zip(items, is_ready) if good][:num_returns]
    chosen = {id(item) for item in ready}
    return ready, [item for item in items if id(item) not in chosen]


# ---- the producer -------------------------------------------------------------------------------


class Producer:
    """The end of a stream that gives: who runs the task has one per attempt."""

    def __init__(self, memory: _native.Memory, task: _native.Task) -> None:
        self._memory = memory
        self._task = task
        self._limit = task.limit
        self._acks: collections.deque[ObjectRef] = collections.deque()
        cell = task.stream()
        assert cell is not None
        while cell.is_sealed():
            cell = memory.get(cell)[1]
        self._cell = cell
        self.given = memory.pending_number(cell)
        """Items that the consumer has, or can have."""
        self.seen = 0
        """Items that this attempt's generator has yielded."""

    def give(self, item: Any) -> None:
        """Seal the next cell with ``item``, unless a former attempt has given it."""
        self.seen += 1
        if self.seen <= self.given:
            return
        memory = self._memory
        following = memory.new_pending(self.given + 1)
        refs = [self._put(item), following]
        if self._limit:
            refs.append(memory.new_pending())
            self._acks.append(refs[2])
        data = cell_value(len(refs))
        memory.seal_pending(self._cell, _native.FORMAT_PICKLE, data, refs)
        self._task.advance_stream(following)
        self._cell = following
        self.given += 1

    def _put(self, item: Any) -> ObjectRef:
        if type(item) is ObjectRef:
            # An item is what the ref that comes out stands for; a ref would be a ref to a ref.
            return self._memory.put(
                _native.FORMAT_PICKLE, *serialize.dumps(self._memory, item, "the yielded value")
            )
        store = functools.partial(self._task.put_item, self.given)
        return serialize.put(self._memory, item, PUT_WAIT_S, store)

    def awaited(self) -> ObjectRef | None:
        """The ack to wait for before the next item is made; None if there is room."""
        acks = self._acks
        while acks and acks[0].is_sealed():
            acks.popleft()
        return acks[0] if self._limit and len(acks) >= self._limit else None


PUT_WAIT_S = 30.0
"""An item that finds no room waits for others to be freed, as a result does."""


class Stopped(BaseException):
    """Somebody has cancelled a stream that no signal can interrupt."""


def produce(
    memory: _native.Memory,
    task: _native.Task,
    items: Generator[Any, Any, Any],
    help: Callable[[_native.Task], None],
    stop: ObjectRef | None = None,
) -> int:
    """Give everything that ``items`` yields; the number of items. Runs on any thread.

    While it waits for its consumer, ``help`` runs what ``standing`` brings.

    Raises:
        Stopped: ``stop`` was sealed meanwhile; ``items`` is closed.
    """
    producer = Producer(memory, task)
    ends = [] if stop is None else [stop]
    stander: standing.Stander | None = None
    for item in items:
        producer.give(item)
        del item
        while (ack := producer.awaited()) is not None and not (stop and stop.is_sealed()):
            # Waiting stands here and in no function of its own: ``cancelling`` knows this place.
            if stander is None:
                if memory.wait([ack, *ends], 1, standing.PATIENCE_S)[0]:
                    continue
                stander = standing.Stander(memory)
            memory.wait([ack, stander.bell, *ends], 1, None)
            for key in stander.take():
                if (rebuild := memory.claim(key)) is not None:
                    help(rebuild)
                    del rebuild
        if stop is not None and stop.is_sealed():
            items.close()
            raise Stopped
    return producer.seen


async def produce_async(
    memory: _native.Memory, task: _native.Task, items: AsyncIterator[Any]
) -> int:
    """The same for an asynchronous generator; waits for room without stopping the loop."""
    producer = Producer(memory, task)
    async for item in items:
        producer.give(item)
        del item
        while (ack := producer.awaited()) is not None:
            await ack
    return producer.seen


def collect(
    memory: _native.Memory,
    task: _native.Task,
    items: Iterator[Any],
    fail: Callable[[Exception], ObjectRef],
) -> DynamicObjectRefGenerator:
    """Run a generator to its end (``num_returns="dynamic"``); an error is one more ref."""
    refs: list[ObjectRef] = []
    try:
        for item in items:
            store = functools.partial(task.put_item, len(refs))
            refs.append(serialize.put(memory, item, PUT_WAIT_S, store))
    except Exception as error:  # whatever user code raises is the last item
        refs.append(fail(error))
    return DynamicObjectRefGenerator(refs)


# ---- items that are lost ------------------------------------------------------------------------


class Refill:
    """Has a generator run again for those of its items that lineage wants.

    Return ``i`` of such a task is the item whose number stands at place ``i`` of ``task.items()``,
    counted from 0 in the order in which they are yielded. The generator is closed behind the last.
    """

    def __init__(self, task: _native.Task, write: Callable[[_native.Task, int, Any], None]) -> None:
        self._task = task
        self._write = write
        self._seen = 0
        self._left = collections.deque(enumerate(task.items()))

    @property
    def left(self) -> list[int]:
        """Returns for which no item has come yet."""
        return [index for index, _ in self._left]

    def run(self, items: Generator[Any, Any, Any]) -> None:
        """Write what is wanted of ``items``."""
        for item in items:
            if not self._take(item):
                items.close()
        self._end()

    async def run_async(self, items: AsyncGenerator[Any, Any]) -> None:
        """The same for an asynchronous generator."""
        async for item in items:
            if not self._take(item):
                await items.aclose()
        self._end()

    def _take(self, item: Any) -> bool:
        """Whether more is wanted."""
        if self._left[0][1] == self._seen:
            self._write(self._task, self._left.popleft()[0], item)
        self._seen += 1
        return bool(self._left) and self._task.ending is None

    def _end(self) -> None:
        """It has yielded less than in its first life."""
        if self._task.ending is not None:
            return
        for index, number in self._left:
            reason = (
                f"its generator yielded {self._seen} item(s) when it ran again for it, and it was"
                f" number {number + 1}"
            )
            record = errors.to_record(errors.ReplayDiffersError(reason=reason))
            self._task.write(index, _native.FORMAT_ERROR_RECORD, record, (), ())
