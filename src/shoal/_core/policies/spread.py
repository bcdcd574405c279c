"""Policy: SPREAD. A task goes to the next node in turn, of all that may run it.

Turns, not chance: of n tasks over k nodes each gets n/k or one more, where two random choices would
leave a node with log log k more than its share. The turn passes over nodes without room now, unless
none has any: what is to be everywhere should not wait for one that is full. The order is that in
which nodes were heard of, and each submitter begins somewhere else, so that many who submit one
task each do not all begin with the same node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

TRIES_MOST = 16
"""So many nodes without room are passed over before one of them is taken."""


def choose(
    nodes: Sequence[str], turn: int, has_room: Callable[[str], bool], here: str = ""
) -> tuple[str | None, int]:
    """Whose turn it is.

    Args:
        nodes: The others that may run the task, in a fixed order.
        turn: What the last call returned, at first any number.
        has_room: Whether the node could take one more now.
        here: This node, if it may run the task: its turn is behind all others.

    Returns:
        The node with room that is next, None if none of the next ones has any; and the next turn.
    """
    count = len(nodes) + bool(here)
    for passed in range(min(count, TRIES_MOST)):
        at = (turn + passed) % count
        node = nodes[at] if at < len(nodes) else here
        if has_room(node):
            return node, turn + passed + 1
    return None, turn + min(count, TRIES_MOST)


def parts(count: int, nodes: int, turn: int) -> tuple[list[int], int]:
    """``count`` tasks shared out among so many nodes: how many each gets, and the next turn.

    What cannot be shared out goes to those whose turn it is, so that single tasks spread too.
    """
    rest = count % nodes
    extra = {(turn + index) % nodes for index in range(rest)}
    return [count // nodes + (node in extra) for node in range(nodes)], turn + rest
