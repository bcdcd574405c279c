"""Orders one way and facts the other, over a stream that may lose, double and delay them.

::

    store, for each node                       node
      Outbox  orders not yet settled  --Orders-->  Inbox    orders already followed
              last fact heard         <--Facts---  FactLog  facts not yet heard

1. The store sends the oldest orders that are not settled, again and again; each message has a
   number, and the node reads none with a lower number than it has read. So an order that was taken
   back is not followed any more once the node has read anything later.
2. The node follows an order once: it remembers those that the store may still send.
3. The node keeps a fact until the store has acknowledged it, and the store does so only when what
   it means is on disk. A fact is taken in once, in order.
4. For a store in a new life, or for a new epoch, everything begins anew with the whole state, which
   is a fact like others: it is made once, and sent until it is acknowledged, with what came after.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from shoal._proto import membership as m


class Outbox:
    """What the store wants of one epoch of a node."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.orders: dict[int, m.OrderBody] = {}
        """In the order of their numbers."""
        self.heard = 0
        """The last fact that was taken in."""
        self.sent_at = float("-inf")
        self._number = 0

    def add(self, number: int, body: m.OrderBody) -> None:
        """Want this until it is settled."""
        assert not self.orders or number > next(reversed(self.orders))
        self.orders[number] = body

    def settle(self, number: int) -> m.OrderBody | None:
        """It is answered, or not wanted any more."""
        return self.orders.pop(number, None)

    def message(self, now: float, node: str, epoch: int, store: int, upcoming: int) -> m.Orders:
        """What is to be sent now; ``upcoming`` is the number that the next order will have."""
        self._number += 1
        self.sent_at = now
        oldest = list(self.orders.items())[: self._most] if self.orders else []
        settled_below = oldest[0][0] if oldest else upcoming
        orders = [m.Order(number, body) for number, body in oldest]
        return m.Orders(node, epoch, store, self._number, settled_below, self.heard, orders)

    def fresh(self, facts: m.Facts) -> list[m.Fact]:
        """Those that have not been taken in; they count as taken in now."""
        if facts.first > self.heard + 1:
            return []
        found = facts.facts[self.heard + 1 - facts.first :]
        self.heard += len(found)
        return found


class Inbox:
    """What a node has followed of what the store wants, in one life of the store."""

    def __init__(self) -> None:
        self._last = 0
        self._followed: set[int] = set()

    def fresh(self, orders: m.Orders) -> list[m.Order] | None:
        """Orders that are to be followed now; None if the message is an old one."""
        if orders.number <= self._last:
            return None
        self._last = orders.number
        self._followed = {number for number in self._followed if number >= orders.settled_below}
        found = [order for order in orders.orders if order.number not in self._followed]
        self._followed.update(order.number for order in found)
        return found


class FactLog:
    """What has happened on a node and may be unknown to the store."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._first = 1
        """Number of the oldest of ``_facts``."""
        self._facts: deque[m.Fact] = deque()
        self._whole: tuple[int, m.Whole] | None = None
        """With its number, until it is acknowledged."""
        self._sent_to = 0
        """The last fact that has been sent at least once."""
        self.sent_at = float("-inf")

    @property
    def has_news(self) -> bool:
        """Whether something can be sent that never was."""
        last = self._first + min(self._most, len(self._facts)) - 1
        return last > self._sent_to

    @property
    def is_empty(self) -> bool:
        """Whether the store has heard everything."""
        return not self._facts and self._whole is None

    def add(self, fact: m.Fact) -> None:
        """This has happened."""
        self._facts.append(fact)

    def begin(self, whole: m.Whole) -> None:
        """A store in a new life: ``whole`` instead of everything before."""
        number = self._first + len(self._facts)
        self._facts.clear()
        self._whole = (number, whole)
        self._first = number + 1

    def unheard_ends(self) -> list[m.ActorGone]:
        """Ends of actors that no store has acknowledged."""
        old = self._whole[1].gone if self._whole is not None else []
        return [*old, *(fact for fact in self._facts if isinstance(fact, m.ActorGone))]

    def heard(self, number: int) -> None:
        """Everything up to fact ``number`` is acknowledged."""
        if self._whole is not None and number >= self._whole[0]:
            self._whole = None
        while self._facts and self._first <= number:
            self._facts.popleft()
            self._first += 1

    def message(self, now: float, node: str, epoch: int, store: int) -> m.Facts:
        """What is to be sent now."""
        self.sent_at = now
        facts = list(islice(self._facts, self._most))
        self._sent_to = max(self._sent_to, self._first + len(facts) - 1)
        whole = self._whole[1] if self._whole is not None else None
        return m.Facts(node, epoch, store, self._first, facts, whole)
