"""Sets of nodes that are asked for the next ones in turn, or for one at random, in constant time.

A ``Ring`` is in the order of turns: who has had his goes to the end. A ``Bag`` is a list and where
each stands in it: who leaves is replaced by the last. Each question costs the same for three nodes
and three thousand.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator


class Ring:
    """Nodes that are taken in turn."""

    __slots__ = ("_nodes",)

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    @property
    def nodes(self) -> list[str]:
        """All of them, the one whose turn it is first."""
        return list(self._nodes)

    def add(self, node: str) -> None:
        """Behind the others; nothing happens if it is there."""
        self._nodes[node] = None

    def discard(self, node: str) -> None:
        """Nothing happens if it is not there."""
        self._nodes.pop(node, None)

    def turns(self) -> Iterator[str]:
        """Each once; who has been taken has had his turn, and may be let go meanwhile."""
        for _ in range(len(self._nodes)):
            node = next(iter(self._nodes))
            self._nodes.move_to_end(node)
            yield node


class Bag:
    """Nodes that are taken at random."""

    __slots__ = ("_at", "nodes")

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self._at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    def __contains__(self, node: object) -> bool:
        return node in self._at

    def add(self, node: str) -> None:
        """Nothing happens if it is there."""
        if node not in self._at:
            self._at[node] = len(self.nodes)
            self.nodes.append(node)

    def discard(self, node: str) -> None:
        """Nothing happens if it is not there."""
        at = self._at.pop(node, None)
        if at is None:
            return
        last = self.nodes.pop()
        if last != node:
            self.nodes[at] = last
            self._at[last] = at

    def validate(self) -> None:
        """Assert that both halves say the same."""
        assert {node: at for at, node in enumerate(self.nodes)} == self._at
