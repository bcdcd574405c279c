"""Values that have to be in memory together, where there is not room for those of everybody.

A task looks at all its arguments at once, a ``get`` at all values of its list. Each that is in a
file comes back beside those that are there already; several such loaders could so fill the store
with what each has, and wait for each other for ever. Therefore:

1. Who finds no room for the next value, while nothing of anybody comes back, lets go of all it has
   (``HURRIED_S``).
2. One process at a time has the *turn*: it waits for longer (``IN_TURN_S``) beside what it has.
   Others try again now and then without it, for its owner may wait for one of them. Who writes and
   has found no room for a while takes the turn too: those who load leave the room to him.
3. Whoever has not found room for ``PATIENCE_S`` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal._base import clock
from shoal._native import FullError, Memory

HURRIED_S = 0.5
IN_TURN_S = 2.0
LOOK_S = 4.0
"""Between two attempts without the turn."""
PATIENCE_S = 30.0


def load_together(
    memory: Memory, load: Callable[[float], list[Any]], until: float | None = None
) -> list[Any]:
    """Call ``load`` with its patience in seconds until it finds room, one process at a time.

    After ``until`` nobody waits for the turn any more: ``load`` says that its time is up.

    Raises:
        FullError: there was no room for ``PATIENCE_S``.
    """
    last = clock.now() + PATIENCE_S
    while True:
        look_s = LOOK_S if until is None else max(0.0, min(LOOK_S, until - clock.now()))
        has_turn = memory.take_turn(look_s)
        try:
            return load(IN_TURN_S if has_turn else HURRIED_S)
        except FullError:
            if clock.now() >= last:
                raise
        finally:
            if has_turn:
                memory.end_turn()
