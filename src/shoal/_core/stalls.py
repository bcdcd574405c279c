"""Which chain of reasons is a stall, and when two are the same stall.

1. What runs is no stall, however long it runs; nor is what is being made, or what is over.
2. A chain that comes twice is the same if nothing in it differs but times and numbers that grow
   while nothing goes on.
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
