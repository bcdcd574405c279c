"""Which chain of reasons is a stall, when two are the same stall, and which is told of.

1. What runs is no stall, however long it runs; nor is what is being made, or what is over.
2. A chain that comes twice is the same if nothing in it differs but times and numbers that grow
   while nothing goes on.
3. A chain is a stall when it comes twice in a row; that nobody answers is one at once. A program is
   told of each stall once, also if another one comes in between.
"""

from __future__ import annotations

import msgspec

from shoal._proto import reasons

MOVING = frozenset(
    {
        "Ready",
        "Gone",
        "Nothing",
        "Running",
        "OnNode",
        "Arriving",
        "MadeElsewhere",
        "EnvironmentBuilding",
        "EnvironmentFailed",
        "ActorConstructing",
        "ActorEnding",
        "GroupRemoved",
        "JobEnding",
    }
)
"""A chain that ends so needs nobody: it ends by itself, or is over."""
PASSING = ("_s", "ahead", "starting", "_bytes", "amounts", "restarts", "recently", "deaths")
"""Names of facts that change while nothing goes on end so."""


SHOWN_MOST = 64
"""So many stalls are remembered, the last ones."""


class Stalls:
    """What one program was told of, and what the last answer was."""

    def __init__(self) -> None:
        self.last = b""
        """Its mark; b"" if it was no stall."""
        self.shown: dict[bytes, None] = {}
        """Marks of what the program was told of, the last one last."""

    def idle(self) -> None:
        """The program waits for nothing."""
        self.last = b""

    def judge(self, reason: reasons.Reason) -> bool:
        """Whether the program is to be told of this answer."""
        before, self.last = self.last, b"" if is_moving(reason) else mark_of(reason)
        is_sure = isinstance(reason, reasons.NoAnswer) or self.last == before
        if not self.last or not is_sure or self.last in self.shown:
            return False
        self.shown[self.last] = None
        if len(self.shown) > SHOWN_MOST:
            del self.shown[next(iter(self.shown))]
        return True


def is_moving(reason: reasons.Reason) -> bool:
    """Whether its chain ends with something that merely takes its time."""
    root = reasons.chain_of(reason)[-1]
    if isinstance(root, reasons.WaitsForWorker):
        return not root.failures
    return type(root).__name__ in MOVING


def mark_of(reason: reasons.Reason) -> bytes:
    """The same for the same stall at another time: its chain without what passes."""
    if isinstance(reason, reasons.NoAnswer):
        return b"NoAnswer"
    rows: list[object] = []
    for link in reasons.chain_of(reason):
        rows.append(_lasting({**msgspec.to_builtins(link), "cause": None}))
        if isinstance(link, reasons.ActorRestarting):  # what comes after it changes all the time
            break
    return msgspec.msgpack.encode(rows)


def _lasting(value: object) -> object:
    if isinstance(value, dict):
        return {k: _lasting(v) for k, v in value.items() if not str(k).endswith(PASSING)}
    return [_lasting(item) for item in value] if isinstance(value, list) else value
