"""The results of a compiled graph: read in order, kept for who asks later, ended with a reason.

This is the part of the driver's side that outlives a dropped ``CompiledDAG`` for a moment: the
thread of an asyncio graph and the callbacks of the supervision hold it, and never the graph, so
that a graph which nobody has any more is torn down by its destructor.

Who reads has the turn (``readers``). One that needs the lock for writing too takes that one first.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

from shoal import errors, lowlevel
from shoal._base import clock
from shoal._native import Channel
from shoal.dag.loop import Failed
from shoal.dag.pipeline import Pipeline
from shoal.dag.plan import Plan
from shoal.dag.readers import Readers

REASON_S = 2.0
"""How long to wait for the reason after channels were found closed without one: whoever closed
them (an actor that leaves) is about to be known to have ended."""


class Results(Readers):
    """What comes out of one compiled graph."""

    def __init__(
        self, made: Plan, channels: Sequence[Channel], rooms: Sequence[Any], most: int
    ) -> None:
        super().__init__()
        self._closed_at_end = [*channels, *rooms]
        self._reads: list[tuple[Callable[..., Any], int]]
        self._reads = [(channels[line].read, reader) for line, reader in made.reads]
        self._read, self._reader = self._reads[0]
        self._outputs = made.outputs
        self.is_direct = made.is_single and made.outputs[0][1] is None
        """A result is what one channel brings, as it is."""
        self.pipeline = Pipeline(len(made.outputs), most)
        self._half: list[Any] = []
        """What was read of the next execution when somebody ran out of time."""
        self._has_reason = threading.Event()
        self.reason: BaseException | None = None
        """Why the graph has ended; None as long as it lives."""
        self._is_released = False
        self.loops: list[Any] = []
        """Refs to the calls that the actors of the graph go round in."""
        self.at_end: Callable[[], object] = lambda: None
        """Called after it has ended."""

    # ---- the end
    def end(self, reason: BaseException) -> None:
        """Close all channels; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            self._has_reason.set()
        for place in self._closed_at_end:
            place.close(reason)
        self.at_end()
        self.tell()

    def is_settled(self, number: int) -> bool:
        """Whether nothing has to be waited for to know about an execution."""
        return self.reason is not None or self.pipeline.is_read(number)

    def release(self) -> None:
        """After its end: let go of the channels and of what nobody took, whoever has the graph."""
        self._is_released = True
        self._closed_at_end = []
        self.loops = []
        self._reads = [(released, reader) for _, reader in self._reads]
        self._read = released
        self.pipeline.forget()

    @property
    def is_torn_down(self) -> bool:
        """Whether somebody ended it on purpose."""
        return isinstance(self.reason, errors.GraphEndedError)

    def raise_if_over(self) -> None:
        """Raise the reason if the graph has ended."""
        if self.reason is not None:
            raise again(self.reason)

    def why_closed(self, error: errors.ChannelClosedError) -> BaseException:
        """The reason, for who found a channel closed."""
        if self.reason is None and error.cause is None:
            self._has_reason.wait(REASON_S)
        reason = self.reason or error.cause
        return error if reason is None else again(reason)

    # ---- reading
    def take(self, number: int, output: int, timeout_s: float | None) -> Any:
        """The value of one output of one execution; raises what it raised."""
        pipeline = self.pipeline
        if self.reason is not None and (self._is_released or self.is_torn_down):
            self.raise_if_over()
        if number < pipeline.next_read:  # nobody is waited for who waits for a later one
            return self._taken(number, output)
        deadline = None if timeout_s is None or timeout_s < 0 else clock.now() + timeout_s
        is_direct = False
        try:
            while number >= pipeline.next_read:
                if not self.take_turn(number, deadline):
                    self.raise_if_unread(number)
                    continue
                try:
                    is_direct = self.is_direct and number == pipeline.next_read
                    if is_direct:
                        value = self._read_one(deadline)
                        pipeline.has_passed(number)
                    elif number >= pipeline.next_read:
                        self._read_next(deadline)
                finally:
                    self.give_turn_back()
                    if self.n_waiting or self.watchers:
                        self.tell()
        except errors.ChannelTimeoutError:
            raise self.late(timeout_s) from None
        if not is_direct:
            return self._taken(number, output)
        return given(value, None) if type(value) is Failed else value

    def wait(self, number: int, timeout_s: float) -> None:
        """Wait until an execution was read."""
        deadline = clock.now() + timeout_s
        try:
            while not self.pipeline.is_read(number):
                if self._read_in_turn(number, deadline):
                    continue
                self.raise_if_unread(number)
        except errors.ChannelTimeoutError:
            raise self.late(timeout_s) from None

    def late(self, timeout_s: float | None) -> errors.ChannelTimeoutError:
        """The error for a result that is not there in time; it can still be taken."""
        error = errors.ChannelTimeoutError(
            what="a result of the compiled graph", timeout_s=float(timeout_s or 0)
        )
        return lowlevel.explained(error, list(self.loops), is_patient=bool(timeout_s))

    def raise_if_unread(self, number: int) -> None:
        """Raise why an execution will never be read."""
        if not self.pipeline.is_read(number):
            self.raise_if_over()

    def _read_in_turn(self, number: int, deadline: float | None) -> bool:
        """Read the next execution, unless ``number`` is settled before it is our turn.

        Raises:
            ChannelTimeoutError: it did not come in time.
        """
        if not self.take_turn(number, deadline):
            return False
        try:
            if self.pipeline.is_read(number):
                return False
            self._read_next(deadline)
        finally:
            self.give_turn_back()
            self.tell()
        return True

    def _taken(self, number: int, output: int) -> Any:
        at, part = self._outputs[output]
        return given(self.pipeline.take(number, 1 << output)[at], part)

    def read_unwanted(self) -> bool:
        """Read the next execution if nobody wants it; whether there was such a one."""
        if not self.pipeline.is_next_unwanted():
            return False
        self._read_in_turn(self.pipeline.next_read, None)
        return True

    def read_any(self, deadline: float | None) -> bool:
        """Have the next execution read into this process; False if every one was read.

        Raises:
            ChannelTimeoutError: it did not come in time.
        """
        number = self.pipeline.next_read
        if number == self.pipeline.begun:
            return False
        if not self._read_in_turn(number, deadline):
            self.raise_if_unread(number)
        return True

    def _read_one(self, deadline: float | None) -> Any:
        try:
            if deadline is None:
                return self._read(self._reader)
            return self._read(self._reader, left(deadline))
        except errors.TaskError as error:
            return Failed(error)
        except errors.ChannelClosedError as error:
            raise self.why_closed(error) from None

    def _read_next(self, deadline: float | None) -> None:
        half = self._half
        for read, reader in self._reads[len(half) :]:
            try:
                half.append(read(reader, left(deadline)))
            except errors.TaskError as error:
                half.append(Failed(error))
            except errors.ChannelClosedError as error:
                raise self.why_closed(error) from None
        self._half = []
        self.pipeline.has_read(half)


def released(*_: Any) -> Any:
    """Stands for the reads and writes of a graph that was torn down."""
    raise errors.ChannelClosedError


def given(value: Any, part: int | None) -> Any:
    """Part of a value; raises what stands in its place."""
    if type(value) is Failed:
        raise again(value.error)  # several outputs may have this one error
    return value if part is None else value[part]


def left(deadline: float | None) -> float | None:
    """Seconds until then."""
    return None if deadline is None else max(0.0, deadline - clock.now())


def again(error: BaseException) -> BaseException:
    """The same error, for one more who is to be told."""
    told = copy.copy(error)
    if isinstance(error, errors.ActorError):
        told.add_note("The compiled graph has ended with it: compile it again with living actors.")
    return told
