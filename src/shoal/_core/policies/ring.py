"""A set of nodes that is asked for one at random, or for the next ones in turn, in constant time.

A list and where each stands in it: who leaves is replaced by the last. So the order is that of
coming, as long as nobody leaves, and each question costs the same for three nodes and three
thousand.
"""

from __future__ import annotations

from collections.abc import Iterator


class Ring:
    """Nodes by their ids."""

    __slots__ = ("_at", "_turn", "nodes")

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self._at: dict[str, int] = {}
        self._turn = 0

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

    def turns(self) -> Iterator[str]:
        """Each once, beginning behind the one that was last taken; who takes one may let it go."""
        for _ in range(len(self.nodes)):
            if not self.nodes:
                return
            self._turn %= len(self.nodes)
            node = self.nodes[self._turn]
            self._turn += 1
            yield node
            if node not in self._at:
                # The last one stands in its place now, and has not had its turn.
                self._turn -= 1

    def validate(self) -> None:
        """Assert that both halves say the same."""
        assert {node: at for at, node in enumerate(self.nodes)} == self._at
