"""The driver's side of a compiled graph: ``CompiledDAG``, its refs and futures.

::

    execute(x) --write--> input channel --> loops of the actors --> output channels --read--> get

``execute`` writes one message and returns a ref; ``get`` reads the next messages until it has the
one that it wants. Neither submits anything, and nothing is woken but who waits. If the input has no
free slot, ``execute`` reads results into this process, so that the graph can go on: it never waits
for a ``get`` that stands behind it in the same thread.

Who supervises: the loops are calls of the actors, so their refs are sealed when an actor dies
(``ref.future()``: the one thread of completions). Then all channels are closed with the reason;
whoever waits, here or in an actor, ends with it. ``teardown`` does the same on purpose.

Threads: ``execute`` and ``get`` may be called from any thread; executions have the order in which
``execute`` was entered. ``_writing`` is held by who writes, who reads has the turn (``readers``);
who needs both takes ``_writing`` first. Destructors take none.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import msgspec

from shoal import errors, lowlevel
from shoal._base import clock
from shoal._native import Channel
from shoal._runtime import actor
from shoal._runtime import session as sessions
from shoal._runtime.actor import ActorHandle
from shoal.dag import drawing, loop
from shoal.dag.nodes import DAGNode
from shoal.dag.plan import Part, Plan, plan
from shoal.dag.refs import CompiledDAGFuture, CompiledDAGRef, Turns
from shoal.dag.results import Results, left, released

SLOTS = 2
"""Messages that stand in one channel: one is written while another is read."""

MOST_LOOKING = 16
"""Actors of a graph that may look for messages instead of sleeping, all at once."""

GOODBYE_S = 10.0
"""How long ``teardown`` waits for methods that run."""


class Options(msgspec.Struct, frozen=True):
    """How a graph is compiled."""

    buffer_size_bytes: int = 1 << 20
    max_inflight_executions: int = 10
    enable_asyncio: bool = False
    submit_timeout_s: float | None = None

    @staticmethod
    def checked(
        buffer_size_bytes: Any, max_inflight_executions: Any, enable_asyncio: Any, timeout_s: Any
    ) -> Options:
        """The options that were given; None stands for the default.

        Raises:
            OptionError: one is wrong.
        """
        given: dict[str, Any] = {}
        whole = {
            "buffer_size_bytes": buffer_size_bytes,
            "max_inflight_executions": max_inflight_executions,
        }
        for name, value in whole.items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                text = f"{name} must be an integer above 0, not {value!r}"
                raise errors.OptionError(text, option=name)
            given[name] = value
        if not isinstance(enable_asyncio, bool):
            text = f"enable_asyncio must be True or False, not {enable_asyncio!r}"
            raise errors.OptionError(text, option="enable_asyncio")
        if timeout_s is not None:
            is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
            if not is_number or timeout_s < 0:
                text = f"submit_timeout_s must be a number of seconds, not {timeout_s!r}"
                raise errors.OptionError(text, option="submit_timeout_s")
        return Options(**given, enable_asyncio=enable_asyncio, submit_timeout_s=timeout_s)


def compile(root: DAGNode, options: Options) -> CompiledDAG:
    """Make the channels, begin the loops; see ``DAGNode.compile``."""
    made = plan(root)
    session = sessions.current()
    handles: list[ActorHandle[Any]] = [
        ActorHandle(part.facts, part.actor._lifetime) for part in made.parts
    ]
    for part in made.parts:
        sessions.owner(part.facts.session)
    channels = [
        lowlevel.channel(options.buffer_size_bytes, slots=SLOTS, readers=len(line.readers))
        for line in made.lines
    ]
    rooms = [node.operation.room(len(node.outputs)) for node in made.meetings]
    graph = CompiledDAG(made, options, channels, rooms, handles)
    leader = channels[0] if len(handles) > channels[0].memory.lookers else None
    if leader is not None:
        graph._follow(leader, channels)
    programs = [
        _program(made, number, part, channels, rooms) for number, part in enumerate(made.parts)
    ]
    try:
        refs = [
            handle.__ray_call__.options(max_task_retries=0).remote(loop.begin, program, leader)
            for handle, program in zip(handles, programs)
        ]
        graph._supervise(refs)
        _raise_first(_ends([handle.__ray_ready__.remote() for handle in handles]))
        # A loop that could not begin has ended by now.
        graph._results.raise_if_over()
    except BaseException:
        graph._end()
        raise
    session.on_end(graph)
    return graph


def _ends(refs: list[Any], timeout_s: float | None = None) -> list[Future[Any]]:
    """Wait for calls of actors. They are quick: on an event loop, too, where ``get`` would warn."""
    futures = [ref.future() for ref in refs]
    with lowlevel.waiting():
        wait(futures, timeout_s)
    return futures


def _raise_first(ends: list[Future[Any]]) -> None:
    """Raise the first error, in no frame that has it: it would keep the caller's channels."""
    found = [error for error in (end.exception() for end in ends) if error is not None]
    ends.clear()
    if found:
        raise found.pop(0)


def _program(
    made: Plan, number: int, part: Part, channels: list[Channel], rooms: list[Any]
) -> loop.Program:
    lines = {
        index: channels[index]
        for index, line in enumerate(made.lines)
        if line.writer == number or number in line.readers
    }
    met = [step.meeting.number for step in part.steps if step.meeting is not None]
    return loop.Program(os.getpid(), part.steps, part.places, lines, {i: rooms[i] for i in met})


class CompiledDAG:
    """A graph whose actors wait for input; made by ``compile``."""

    def __init__(
        self,
        made: Plan,
        options: Options,
        channels: list[Channel],
        rooms: list[Any],
        handles: list[ActorHandle[Any]],
    ) -> None:
        self.plan = made
        self.options = options
        self._handles = handles
        self._loops: list[Any] = []
        self._uses = made.uses
        self._is_plain = made.uses.is_plain
        self._write: Callable[..., None] = channels[0].write
        self._lead: Callable[[bool, bool], None] | None = None
        self._is_small = len(handles) <= MOST_LOOKING
        self._results = Results(made, channels, rooms, options.max_inflight_executions)
        self._is_direct = self._results.is_direct
        self._pipeline = self._results.pipeline
        self._writing = threading.Lock()
        self._turns: Turns | None = Turns(self._results) if options.enable_asyncio else None

    # ---- running it
    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph once more; returns at once.

        Args:
            args: What ``inp[0]``, ``inp[1]`` ... stand for; one alone is ``inp`` itself.
            kwargs: What ``inp.name`` stands for.

        Returns:
            A ``CompiledDAGRef`` for ``shoal.get``, or a list of them for ``MultiOutputNode``.

        Raises:
            GraphError: other arguments are needed, the input is larger than ``buffer_size_bytes``,
                or the graph was compiled for asyncio.
            GraphCapacityError: too many results wait to be taken.
            ActorDiedError: an actor of the graph died.
            GraphEndedError: the graph was torn down.
        """
        if self._turns is not None:
            raise errors.GraphError(
                "the graph was compiled with enable_asyncio=True. What to do: await"
                " execute_async(...), or compile it without"
            )
        if self._is_plain and len(args) == 1 and not kwargs:
            value = args[0]
        else:
            value = self._message(args, kwargs)
        with self._writing:
            number = self._submit(value)
        if self._is_direct:
            return CompiledDAGRef(self._results, number, 0, self)
        refs = [CompiledDAGRef(self._results, number, i, self) for i in self._outputs]
        return refs[0] if self.plan.is_single else refs

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """``execute`` of a graph that was compiled with ``enable_asyncio=True``.

        Returns:
            A ``CompiledDAGFuture`` to await, or a list of them for ``MultiOutputNode``.
        """
        if self._turns is None:
            raise errors.GraphError(
                "execute_async needs a graph that was compiled with enable_asyncio=True. What to"
                " do: compile it so, or use execute(...)"
            )
        value = self._message(args, kwargs)
        async with self._turns.writing():
            number = await self._submit_async(value, self._turns)
        futures = [CompiledDAGFuture(self._turns, number, i, self) for i in self._outputs]
        return futures[0] if self.plan.is_single else futures

    @property
    def _outputs(self) -> range:
        return range(len(self.plan.outputs))

    def _message(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The one message that an execution writes."""
        picked = self._uses.pick(args, kwargs)
        return picked[0] if self._is_plain else picked

    def _submit(self, value: Any) -> int:
        """Write the input of one more execution; its number."""
        pipeline = self._pipeline
        results = self._results
        if results.reason is not None:
            results.raise_if_over()
        while not pipeline.has_room():
            if not results.read_unwanted():
                raise errors.GraphCapacityError(limit=self.options.max_inflight_executions)
        lead = self._lead
        if lead is not None:
            # Only where nothing else is in flight: what can be done at once needs more cores.
            lead(pipeline.begun == pipeline.next_read, self._is_small)
        if not self._has_written(value, 0):
            self._write_patiently(value)
        return pipeline.begin()

    def _has_written(self, value: Any, timeout_s: float | None) -> bool:
        """Write a message; False if there was no room for it in time."""
        try:
            self._write(value, timeout_s)
        except errors.ChannelTimeoutError:
            return False
        except errors.ChannelClosedError as error:
            raise self._results.why_closed(error) from None
        except errors.MessageTooLargeError as error:
            raise loop.too_large("the input of the graph", error) from None
        return True

    def _write_patiently(self, value: Any) -> None:
        """Write when there is room, and make some by reading results into this process."""
        timeout_s = self.options.submit_timeout_s
        deadline = None if timeout_s is None else clock.now() + timeout_s
        try:
            while self._results.read_any(deadline):
                if self._has_written(value, 0):
                    return
        except errors.ChannelTimeoutError:
            raise _no_room(timeout_s, self._loops) from None
        # Every result was read: nothing stands between us and a free slot but actors that work.
        if not self._has_written(value, left(deadline)):
            raise _no_room(timeout_s, self._loops)

    async def _submit_async(self, value: Any, turns: Turns) -> int:
        self._results.raise_if_over()
        while not self._pipeline.has_room():
            if not self._pipeline.is_next_unwanted():
                raise errors.GraphCapacityError(limit=self.options.max_inflight_executions)
            await turns.wait_read(self._pipeline.next_read)
        if not self._has_written(value, 0):
            timeout_s = self.options.submit_timeout_s
            if not await turns.in_thread(self._has_written, value, timeout_s):
                raise _no_room(timeout_s, self._loops)
        number = self._pipeline.begin()
        turns.begin()
        return number

    # ---- its end
    def teardown(self, kill_actors: bool = False) -> None:
        """End the graph: its actors leave their loops, its channels are freed.

        Methods that run are waited for, 10 s at most; results that nobody took are lost. The
        second time does nothing. A graph that nobody has any more is torn down by itself.

        Args:
            kill_actors: End the actors, too.
        """
        self._end()
        if self._loops:
            with contextlib.suppress(*sessions.NATIVE_ERRORS, errors.ShoalError):
                _ends(self._loops, GOODBYE_S)
            self._loops = []
        self._results.release()
        self._write = released
        self._lead = None
        if kill_actors:
            for handle in self._handles:
                actor.kill(handle)
        self._handles = []

    def _end(self) -> None:
        with contextlib.suppress(*sessions.NATIVE_ERRORS, errors.ShoalError):
            self._results.end(errors.GraphEndedError())

    def reset(self) -> None:
        """The session ends."""
        self._end()

    def __del__(self) -> None:
        if "_results" in self.__dict__:
            self._end()

    def __enter__(self) -> CompiledDAG:
        return self

    def __exit__(self, *exception: object) -> None:
        self.teardown()

    @property
    def is_teardown(self) -> bool:
        """Whether the graph was torn down."""
        return self._results.is_torn_down

    def visualize(
        self,
        filename: str = "compiled_graph",
        format: str = "png",
        view: bool = False,
        channel_details: bool = False,
    ) -> str:
        """Draw the graph with its actors and channels; see ``shoal.dag.draw``.

        Args:
            filename: Without its ending; the file is not written for ``"ascii"``.
            format: ``"ascii"``, ``"svg"`` and ``"dot"`` need nothing; all others graphviz.
            view: Open the file, or print the text.
            channel_details: Say what each channel is and carries.

        Returns:
            The text, or the source of the drawing.
        """
        return drawing.draw_plan(
            self.plan,
            format=format,
            filename=filename,
            view=view,
            buffer_size_bytes=self.options.buffer_size_bytes if channel_details else None,
        )

    def _follow(self, leader: Channel, channels: list[Channel]) -> None:
        """Have a round of messages stay on this core while nothing else is in flight.

        That is for graphs whose actors are more than can look for messages at once: what sleeps on
        another core takes longer to wake than a message takes here (native/berth.hpp).
        """
        for channel in channels:
            channel.follow(leader)
        self._lead = leader.lead

    def _supervise(self, refs: list[Any]) -> None:
        """Hear of the ends of the loops."""
        self._loops = self._results.loops = refs
        for ref in refs:
            ref.future().add_done_callback(partial(_loop_ended, self._results))

    def __reduce__(self) -> Any:
        raise errors.GraphError(
            "a compiled graph can not travel: the process that compiled it executes it. What to"
            " do: compile it where it is used"
        )

    def __repr__(self) -> str:
        state = "ended" if self._results.reason is not None else "compiled"
        return f"<{state} graph of {len(self.plan.parts)} actors>"


def _loop_ended(results: Results, ended: Future[Any]) -> None:
    """A loop has ended: by itself because its channels are closed, or with its actor."""
    error = ended.exception()
    if error is None or results.reason is not None:
        return
    if isinstance(error, errors.ActorError):
        # The loop was running, of course: that says nothing about any call of the user's.
        facts = {name: fact for name, fact in error.facts.items() if name != "may_have_run"}
        error = type(error)("", **facts)
    with contextlib.suppress(*sessions.NATIVE_ERRORS, errors.ShoalError):
        results.end(error)


def _no_room(timeout_s: float | None, loops: list[Any]) -> errors.ChannelTimeoutError:
    error = errors.ChannelTimeoutError(
        what="room for the input of the compiled graph", timeout_s=float(timeout_s or 0)
    )
    return lowlevel.explained(error, loops, is_patient=bool(timeout_s))
