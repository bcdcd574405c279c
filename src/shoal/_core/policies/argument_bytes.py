"""Policy: argument bytes. A task goes to where its arguments are (RULES S-11).

A node that has more than 1 MB more of them than this one is preferred to it, full or not: bytes
come first. But nobody waits for a node longer than the bytes would take to move: then the next best
one is asked, at last the one with the shortest wait of all. Without that, ten thousand tasks on one
popular value would all run where it was made, one after the other, while a tree of copies would
have had it everywhere in a second.

Bytes are of values that are sealed; whose size is not known counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

MUCH_BYTES = 1_000_000


def is_drawn(bytes_at: Mapping[str, int], here: str) -> bool:
    """Whether some node has so much more of the arguments than ``here`` that bytes decide."""
    if not bytes_at:
        return False
    return max(bytes_at.values()) - bytes_at.get(here, 0) > MUCH_BYTES


def choose(
    bytes_at: Mapping[str, int],
    others: Iterable[str],
    wait_of: Callable[[str], float | None],
    bytes_per_s: float,
) -> str | None:
    """The node to run a task on, of those that have some of its arguments and of ``others``.

    Args:
        bytes_at: Bytes of the arguments by node.
        others: Nodes that may be better although they have none.
        wait_of: Seconds until the task would start there; None: it can not run there.
        bytes_per_s: How fast bytes move between nodes.

    Returns:
        The node where the task starts first, absent bytes counted at ``bytes_per_s``; of those
        within 1 MB of each other the shorter wait. None if it can run on none of them.
    """
    wanted = max(bytes_at.values(), default=0)
    best: tuple[float, int] | None = None
    found = None
    for node in dict.fromkeys((*bytes_at, *others)):
        wait = wait_of(node)
        if wait is None:
            continue
        present = bytes_at.get(node, 0)
        absent = wanted - present
        cost = wait + (absent / bytes_per_s if absent > MUCH_BYTES else 0.0)
        if best is None or (cost, -present) < best:
            best, found = (cost, -present), node
    return found
