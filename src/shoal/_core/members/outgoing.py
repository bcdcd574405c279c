"""What one step of the store's side leads to: what is kept, and who is told what.

A part changes its own tables and says here what follows; the machine turns it into commands when
the step is over, so that each node gets one message however many orders a step has for it.

1. What is kept comes before anything that is told.
2. An order has a number that no other has, in no life of the store.
3. Of several changes of one thing a node that watches it is told the last.
"""

from __future__ import annotations

from shoal._core.members.nodes import Node, NodeTable
from shoal._core.store import Effect, Erase, Keep
from shoal._proto import membership as m


class Outgoing:
    """Effects, tells and orders, until they are taken."""

    def __init__(self, store: int, nodes: NodeTable) -> None:
        self.store = store
        self._nodes = nodes
        self.effects: list[Effect] = []
        self.tells: list[tuple[str, m.ToNode]] = []
        self.notices: list[str] = []
        self.again: list[m.Ask] = []
        """Asks that could not be answered, and perhaps can be now."""
        self._dirty: dict[str, None] = {}
        self._number = store << 32
        self._news: dict[tuple[str, str], int] = {}
        """(node, thing) -> the order that tells of it."""

    # ---- what is kept
    def keep(self, kind: str, key: str, value: bytes) -> None:
        """This must be on disk."""
        self.effects.append(Keep(kind, key.encode(), value))

    def erase(self, kind: str, key: str) -> None:
        """This must not be on disk any more."""
        self.effects.append(Erase(kind, key.encode()))

    # ---- orders
    def order(self, node: str, body: m.OrderBody, asks: dict[str, int] | None = None) -> int:
        """Want this of a node that lives; ``asks`` is what it will take there."""
        self._number += 1
        found = self._nodes.nodes[node]
        assert found.is_living
        found.outbox.add(self._number, body)
        if asks:
            found.promised[self._number] = asks
        self._dirty[node] = None
        return self._number

    def settle(self, node: str, order: int) -> None:
        """It is answered, or not wanted any more."""
        found = self._nodes.nodes.get(node)
        if not order or found is None:
            return
        body = found.outbox.settle(order)
        if body is None:
            return
        if order in found.promised:
            found.settled.add(order)
        if isinstance(body, m.ActorNews | m.GroupNews):
            self._forget_news(node, order, body)

    def _forget_news(self, node: str, order: int, body: m.ActorNews | m.GroupNews) -> None:
        facts = body.facts
        thing = facts.actor_id if isinstance(facts, m.ActorFacts) else facts.group_id
        if self._news.get((node, thing)) == order:
            del self._news[node, thing]

    def news(self, node: str, facts: m.ActorFacts | m.GroupFacts) -> None:
        """Tell a node that watches."""
        is_actor = isinstance(facts, m.ActorFacts)
        thing = facts.actor_id if isinstance(facts, m.ActorFacts) else facts.group_id
        if (former := self._news.get((node, thing))) is not None:
            self.settle(node, former)
        body = m.ActorNews(facts) if is_actor else m.GroupNews(facts)  # type: ignore[arg-type]
        self._news[node, thing] = self.order(node, body)

    def lost(self, node: str) -> None:
        """The node is over: nothing is wanted of it any more."""
        for place in [place for place in self._news if place[0] == node]:
            del self._news[place]

    def touch(self, node: str) -> None:
        """Send it what is wanted of it, also if that is nothing new."""
        self._dirty[node] = None

    def due(self, now: float) -> list[tuple[str, m.Orders]]:
        """The messages that carry orders."""
        dirty, self._dirty = self._dirty, {}
        found: list[Node] = [self._nodes.nodes[name] for name in dirty if name in self._nodes.nodes]
        return [
            (
                node.record.node,
                node.outbox.message(
                    now, node.record.node, node.record.epoch, self.store, self._number + 1
                ),
            )
            for node in found
            if node.is_living and node.is_reported
        ]
