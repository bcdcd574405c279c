"""What must be true of the control store, looked at from outside.

* **Acknowledged means on disk**: when an answer leaves, the disk has the state it is about.
* **Nothing acknowledged is lost, nothing is done twice** (``KeyHistory``): what programs were
  answered fits one order of what they asked, each of it done once; and the final read fits too.
* **It converges**: in the end the node, the store and the disk have the same, nothing waits.
* **An acknowledged detached actor is there** until somebody ends it, once, under its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shoal._core.store import ANSWERS, CALLERS, StoreMachine
from shoal._proto import messages as m
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.disk import FakeDisk, Place

if TYPE_CHECKING:
    from shoal.testing.sim.world import World


def check_acknowledged(machine: StoreMachine, disk: FakeDisk) -> None:
    """Answers leave now."""
    different = _difference(dict(machine.contents()), disk.newest.rows)
    if different:
        raise Violation(f"the store answers, and its disk does not have it: {different}")


def _difference(left: Mapping[Place, bytes], right: Mapping[Place, bytes]) -> list[Place]:
    return [place for place in {**left, **right} if left.get(place) != right.get(place)][:5]


def check_converged(world: World) -> None:
    """Nothing has gone wrong for long: everybody has the same."""
    mirror, store = world.machine.tables.mirror, world.store
    if not mirror.is_joined or store.machine is None:
        raise Violation("the node has no store, long after the last fault")
    if mirror.unanswered:
        raise Violation(f"{mirror.unanswered} writes are never answered")
    here = dict(mirror.tables.contents())
    there = _facts(dict(store.machine.contents()))
    if different := _difference(here, there):
        raise Violation(f"node and store differ for ever in {different}")
    if different := _difference(there, _facts(store.disk.newest.rows)):
        raise Violation(f"store and disk differ for ever in {different}")
    missing = [
        (table, key)
        for table, rows in mirror.tables.rows.items()
        for key, row in rows.items()
        if store.machine.rows[table].get(key) != row
    ]
    if missing:
        raise Violation(f"the store has never heard of {missing[:5]}")


def _facts(rows: Mapping[Place, bytes]) -> dict[Place, bytes]:
    return {place: row for place, row in rows.items() if place[0] not in (CALLERS, ANSWERS)}


class KeyHistory:
    """One key of the key-value table, asked for by one program at a time.

    ``possible`` is what it may have, by all that was asked and answered. An answer that fits none
    of it is a violation: a write was lost, or done twice.
    """

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.possible: set[bytes | None] = {None}
        self.asked = 0
        self.answered = 0
        self._open: m.Message | None = None

    @property
    def is_asked(self) -> bool:
        """Whether an answer is on its way."""
        return self._open is not None

    def ask(self, body: m.Message) -> None:
        """Somebody asks."""
        assert self._open is None
        self._open = body
        self.asked += 1

    def answer(self, body: m.Message) -> None:
        """And is answered."""
        assert self._open is not None and isinstance(body, m.KvAnswer), body
        asked, self._open = self._open, None
        self.answered += 1
        fits = {
            after
            for before in self.possible
            for existed, value, after in [_outcome(asked, before)]
            if existed == body.existed and value == body.value
        }
        if not fits:
            had = sorted(map(repr, self.possible))
            raise Violation(f"{asked} is answered by {body}, and the key may have {had}")
        self.possible = fits

    def give_up(self) -> None:
        """Nobody will hear the answer: it was done, or it will be, or not."""
        if self._open is not None:
            self.possible |= {_outcome(self._open, before)[2] for before in self.possible}
            self._open = None

    def check(self, value: bytes | None) -> None:
        """The final read."""
        self.give_up()
        if value not in self.possible:
            had = sorted(map(repr, self.possible))
            raise Violation(f"key {self.key!r} has {value!r} in the end, and may have {had}")


def _outcome(asked: m.Message, before: bytes | None) -> tuple[bool, bytes | None, bytes | None]:
    """(existed, value, what it has afterwards), as the answer must say."""
    existed = before is not None
    match asked:
        case m.KvPut(_, value, _, overwrite):
            return existed, None, value if overwrite or not existed else before
        case m.KvDelete():
            return existed, None, None
        case _:
            return existed, before, before
