"""Policy: node affinity. Which node is meant, and what if it is not there.

* ``hard``: that node or none. While it is not known the task waits, since it may be about to join;
  how long is the caller's to say (RULES S-13). The node may be full: its queue is where to wait.
* ``soft``: that node if it is known and could ever run the task, else as if nothing had been said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from shoal._proto.messages import NodeAffinity


class Meant(NamedTuple):
    """What an affinity leads to."""

    node: str | None = None
    """Only there."""
    is_free: bool = False
    """Anywhere, like DEFAULT. If neither: nowhere yet, because of ``why``."""
    why: str = ""


def resolve(
    strategy: NodeAffinity, is_known: Callable[[str], bool], can_run: Callable[[str], bool]
) -> Meant:
    """What ``strategy`` means with the nodes that there are.

    Args:
        strategy: The affinity.
        is_known: Whether there is such a node.
        can_run: Whether that node could ever run the task.
    """
    node = strategy.node_id
    if is_known(node) and can_run(node):
        return Meant(node)
    if strategy.soft:
        return Meant(is_free=True)
    if is_known(node):
        return Meant(why=f"node {node} can never run what was asked for")
    return Meant(why=f"there is no node {node}")
