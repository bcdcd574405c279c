"""In which order the calls of a graph can be made, and what is wrong with graphs that have none.

``bind`` takes what is bound already, so numbers of nodes are such an order, and the one that people
have written down: methods of one actor run as they were bound. Arguments may have been changed
since (a list that was bound and then got one more node). Then whatever can run and has the lowest
number goes first; if nothing can run, there is a cycle, and it is named.

Each actor runs its methods in this one order of the whole graph, and reads what others send only
when a method needs it. So no actor can wait for itself around others: what stands first in the
order and has not run has everything it needs.
"""

from __future__ import annotations

import heapq

from shoal import errors
from shoal.dag.nodes import DAGNode, InputNode


def in_order(root: DAGNode) -> list[DAGNode]:
    """All nodes that ``root`` needs, and it, each once and after what it needs.

    Raises:
        GraphError: there is a cycle, or more than one input.
    """
    needs: dict[DAGNode, list[DAGNode]] = {}
    open_nodes = [root]
    while open_nodes:
        node = open_nodes.pop()
        if node not in needs:
            needs[node] = list(dict.fromkeys(node.needs()))
            open_nodes += needs[node]
    inputs = [node for node in needs if isinstance(node, InputNode)]
    if len(inputs) > 1:
        raise errors.GraphError(
            f"the graph has {len(inputs)} inputs, and a graph has one. What to do: use the same"
            " InputNode everywhere; inp[0], inp[1] and inp.name are its parts"
        )
    return _sorted(needs)


def _sorted(needs: dict[DAGNode, list[DAGNode]]) -> list[DAGNode]:
    users: dict[DAGNode, list[DAGNode]] = {node: [] for node in needs}
    for node, needed in needs.items():
        for other in needed:
            users[other].append(node)
    missing = {node: len(needed) for node, needed in needs.items()}
    by_number = {node.number: node for node in needs}
    free = [node.number for node, count in missing.items() if not count]
    heapq.heapify(free)
    out = []
    while free:
        node = by_number[heapq.heappop(free)]
        out.append(node)
        for user in users[node]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(free, user.number)
    if len(out) < len(needs):
        raise _cycle(needs, {node for node, count in missing.items() if count})
    return out


def _cycle(needs: dict[DAGNode, list[DAGNode]], stuck: set[DAGNode]) -> errors.GraphError:
    """The error for nodes that wait for each other."""
    node = min(stuck, key=lambda node: node.number)
    path = [node]
    while True:
        node = next(other for other in needs[node] if other in stuck)
        if node in path:
            break
        path.append(node)
    circle = [*path[path.index(node) :], node]
    text = " <- ".join(other.label for other in circle)
    return errors.GraphError(
        f"the graph has a cycle: {text} (each needs the next). What to do: do not change arguments"
        " after they were bound; a value that goes around is kept in an actor"
    )
