"""The actor's side of a compiled graph: read, run, write, again and again.

The loop is a call of the actor that goes on in the background (``lowlevel.Background``), so other
calls of the actor are served meanwhile: a plain actor still does one thing at a time, a threaded
one overlaps, methods of an asyncio actor run on its loop.

::

    for each step:   read what it needs ---> call the method ---> keep the value, write it on

A method that raises writes its error instead of its value; what needs that value is not run and
writes the error on. So each execution has one message in every channel, whatever happens, and the
graph stays usable.

The loop ends when its channels are closed: by ``teardown``, by who supervises the graph after a
death, by a cancelled call, or because the process that compiled the graph is gone: that one is
watched through a descriptor, as nobody else would tell a detached actor. Who ends closes all
channels that it knows, so the whole graph ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from shoal import errors, lowlevel
from shoal._native import Channel, ObjectRef
from shoal._runtime import objects
from shoal._runtime.execute import ActorExit, error_of_call
from shoal.dag.plan import Nested, Place, Step
from shoal.dag.structure import replaced


@dataclass
class Program:
    """What travels to one actor."""

    owner: int
    """Pid of the process that has compiled the graph."""
    steps: list[Step]
    places: int
    channels: dict[int, Channel]
    """Those that it reads or writes, by their number in the plan."""
    rooms: dict[int, Any]
    """Where it meets others for operations of several actors (``collective``), likewise."""


class Failed:
    """Stands in a place whose value could not be made.

    Its error has no traceback and no context: both would lead to frames that know this very object,
    and what they know (channels, arrays, refs of results) would stay until the garbage collector
    runs, which it may never do here; or for ever, since who keeps results keeps this.
    """

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        error.__traceback__ = error.__context__ = None
        self.error = error


def begin(instance: Any, program: Program, leader: Channel | None) -> lowlevel.Background:
    """Begin the loop of one actor; called there, in its turn.

    ``leader``: the graph's input, if it says where readers of all channels wait.
    """
    if leader is not None:
        for channel in program.channels.values():
            channel.follow(leader)
    return lowlevel.Background(Loop(program).serve, stop=lambda: _close(program, None))


def _close(program: Program, error: BaseException | None) -> None:
    for channel in program.channels.values():
        channel.close(error)
    for room in program.rooms.values():
        room.close(error)


class Loop:
    """One actor's part of one compiled graph."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._places: list[Any] = [None] * program.places

    def serve(self, inside: lowlevel.Inside) -> None:
        """Run until the channels are closed."""
        program = self._program
        error: BaseException | None = None
        try:
            with _watched(program):
                steps = [self._step(step, inside) for step in program.steps]
                while True:
                    for step in steps:
                        step()
        except errors.ChannelClosedError:
            pass
        except BaseException as failure:  # whatever it is, the others are told
            # Of an actor that leaves, its callers hear better than through us.
            error = None if isinstance(failure, ActorExit) else failure
            raise
        finally:
            _close(program, error)
            self._places.clear()

    def _step(self, step: Step, inside: lowlevel.Inside) -> Callable[[], None]:
        if step.meeting is None:
            return self.bound(step, inside.method(step.method))
        seat = self._program.rooms[step.meeting.number].enter(step.meeting.rank)
        return self.bound(step, seat.take_part, seat.excuse)

    def bound(
        self,
        step: Step,
        method: Callable[..., Any],
        excuse: Callable[[BaseException], object] = lambda error: None,
    ) -> Callable[[], None]:
        """One step, as short as it can be run; ``excuse`` is told if it can not."""
        places = self._places
        reads = [
            (self._program.channels[read.line].read, read.reader, read.place) for read in step.reads
        ]
        needs, last_uses, place = step.needs, step.last_uses, step.place
        call = self._call_of(step, method)
        write = write_error = None
        if step.line is not None:
            channel = self._program.channels[step.line]
            write, write_error = channel.write, channel.write_error

        def run() -> None:
            for read, reader, at in reads:
                try:
                    places[at] = read(reader)
                except errors.TaskError as error:
                    places[at] = Failed(error)
            value: Any = None
            for at in needs:
                if type(places[at]) is Failed:
                    value = places[at]
                    excuse(value.error)
                    break
            else:
                try:
                    value = call()
                except BaseException as error:  # of the user's method: it travels to the output
                    value = Failed(_described(error, step))
            if place is not None:
                places[place] = value
            for at in last_uses:
                places[at] = None
            if write is None or write_error is None:
                return
            if type(value) is not Failed:
                try:
                    write(value)
                    return
                except errors.ChannelClosedError:
                    raise
                except errors.MessageTooLargeError as error:
                    large = too_large(f"what {step.label} returned", error)
                    value = Failed(_described(large, step))
                except errors.ShoalError as error:  # it can not be pickled
                    value = Failed(_described(error, step))
            _send(write_error, value.error)
            value = None

        return run

    def _call_of(self, step: Step, method: Callable[..., Any]) -> Callable[[], Any]:
        """The method with its arguments, which are looked up at each call."""
        places = self._places
        if step.parts > 1:
            method = _of_parts(method, step)
        args = [_resolved(arg) for arg in step.args]
        kwargs = {name: _resolved(arg) for name, arg in step.kwargs.items()}

        def value_of(place: Place) -> Any:
            value = places[place.index]
            return value if place.part is None else value[place.part]

        if len(args) == 1 and not kwargs and type(args[0]) is Place:
            index, part = args[0].index, args[0].part
            if part is None:
                return lambda: method(places[index])
            return lambda: method(places[index][part])

        def fetch(arg: Any) -> Any:
            if type(arg) is Place:
                return value_of(arg)
            return replaced(arg.value, Place, value_of) if type(arg) is Nested else arg

        return lambda: method(
            *[fetch(arg) for arg in args], **{name: fetch(arg) for name, arg in kwargs.items()}
        )


def _of_parts(method: Callable[..., Any], step: Step) -> Callable[..., Any]:
    """``method``, whose value must have as many parts as the graph takes of it."""

    def checked(*args: Any, **kwargs: Any) -> Any:
        value = method(*args, **kwargs)
        if not isinstance(value, tuple | list) or len(value) != step.parts:
            found = f"{len(value)} values" if isinstance(value, tuple | list) else "one value"
            raise ValueError(f"num_returns={step.parts}, but {step.label} returned {found}")
        return value

    return checked


def _resolved(arg: Any) -> Any:
    """A constant; the value of a ref that was bound as an argument, as in any other call."""
    return objects.get(arg) if type(arg) is ObjectRef else arg


def _described(error: BaseException, step: Step) -> BaseException:
    """What is written for an error of the user's method."""
    if isinstance(error, ActorExit | errors.ChannelClosedError):
        raise error
    described = error_of_call(error, step.label)
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause.__traceback__ = None
        cause = cause.__context__
    return described


def too_large(what: str, error: errors.MessageTooLargeError) -> errors.GraphError:
    """The error for a value that does not fit into a channel of the graph."""
    return errors.GraphError(
        f"{what} has {error.size_bytes:,} bytes, and the channels of the graph carry"
        f" {error.capacity_bytes:,}. What to do: compile the graph with buffer_size_bytes="
        f"{error.size_bytes} or more, or pass shoal.put(value)"
    )


def _send(write_error: Callable[[BaseException], Any], error: BaseException) -> None:
    try:
        write_error(error)
    except ValueError:  # larger than the channel: what happened is more than nothing
        text = str(error)[:200]
        write_error(errors.TaskError(f"{text} ... (the rest is larger than the channel)", None))


@contextlib.contextmanager
def _watched(program: Program) -> Iterator[None]:
    """Close the channels as soon as the process that owns the graph is gone."""
    try:
        owner = os.pidfd_open(program.owner)
    except ProcessLookupError:
        raise errors.ChannelClosedError from None
    done = os.eventfd(0)

    def watch() -> None:
        poll = select.poll()
        poll.register(owner, select.POLLIN)
        poll.register(done, select.POLLIN)
        if any(fd == owner for fd, _ in poll.poll()):
            _close(program, errors.GraphEndedError("the process that owns this graph has ended"))

    thread = threading.Thread(target=watch, name="shoal-graph-owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(done, 1)
        thread.join()
        os.close(owner)
        os.close(done)
