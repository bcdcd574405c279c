"""Values that have to be in memory together, where there is not room for those of everybody.

A task looks at all its arguments at once, a ``get`` at all values of its list, and the returns of
one task stay in memory until the last of them is written (``returns``). Who waits for room for the
next beside those that are there already keeps others from theirs; several could so fill the store
with what each has, and wait for each other for ever. Therefore:

1. Who finds no room for the next value, while nothing of anybody comes back, lets go of all it has
   (``HURRIED_S``).
2. One process at a time has the *turn*: it waits for longer (``IN_TURN_S``) beside what it has.
   Others try again now and then without it, for its owner may wait for one of them. Who writes and
   has found no room for a while takes the turn too: those who load leave the room to him.
3. Whoever has not found room for ``PATIENCE_S``, in which nobody who had the turn has either, says
   so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from shoal._base import clock
from shoal._native import FullError, Memory

HURRIED_S = 0.5
IN_TURN_S = 2.0
LOOK_S = 4.0
"""Between two attempts without the turn."""
PATIENCE_S = 30.0

T = TypeVar("T")


def together(
    memory: Memory,
    attempt: Callable[[float], T],
    until: float | None = None,
    in_turn_s: float = IN_TURN_S,
) -> T:
    """Call ``attempt`` with its patience in seconds until it finds room, one process at a time.

    After ``until`` nobody waits for the turn any more: ``attempt`` says that its time is up.

    Raises:
        FullError: there was no room for ``PATIENCE_S``, or cannot be any.
    """
    last = clock.now() + PATIENCE_S
    served = memory.served
    while True:
        look_s = LOOK_S if until is None else max(0.0, min(LOOK_S, until - clock.now()))
        has_turn = memory.take_turn(look_s)
        is_served = False
        try:
            found = attempt(in_turn_s if has_turn else HURRIED_S)
            is_served = True
            return found
        except FullError as error:
            if served != memory.served:  # others find room, one after the other
                served = memory.served
                last = clock.now() + PATIENCE_S
            if not is_for_lack_of_room(error) or clock.now() >= last:
                raise
        finally:
            if has_turn:
                memory.end_turn(is_served)


def is_for_lack_of_room(error: FullError) -> bool:
    """Whether it may be another time: not for a value that is larger than the store."""
    return error.args[2:] == ("full",)
