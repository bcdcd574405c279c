"""Orders and facts over a stream that loses, doubles and delays: each counts once.

Against a naive model: a list of what was ordered and a list of what has happened. Messages stay in
a bag; any of them may be delivered, again and again, or never. At the end the last ones arrive.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from shoal._core.members import exchange
from shoal._core.members.exchange import FactLog, Inbox, Outbox
from shoal._proto import membership as m


class Exchange(RuleBasedStateMachine):
    """One store and one node."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox, self.inbox, self.log = Outbox(3), Inbox(), FactLog(3)
        self.log.begin(m.Whole([], []))
        self.is_reported = False
        self.orders = 0
        self.withdrawn: dict[int, int] = {}
        """Order -> how many messages had been made when it was taken back."""
        self.followed: list[int] = []
        self.read: list[int] = []
        """Numbers of messages that the node has read."""
        self.happened: list[int] = []
        self.taken: list[int] = []
        self.to_node: list[m.Orders] = []
        self.to_store: list[m.Facts] = []

    @rule()
    def order(self) -> None:
        self.orders += 1
        self.outbox.add(self.orders, m.DrainNode(0.0))

    @rule(choice=st.randoms(use_true_random=False))
    def withdraw(self, choice: object) -> None:
        if self.outbox.orders:
            number = choice.choice(list(self.outbox.orders))  # type: ignore[attr-defined]
            self.outbox.settle(number)
            self.withdrawn[number] = len(self.to_node)

    @rule()
    def send_orders(self) -> None:
        if self.is_reported:
            self.to_node.append(self.outbox.message(0.0, "a", 1, 1, self.orders + 1))

    @rule()
    def send_facts(self) -> None:
        self.to_store.append(self.log.message(0.0, "a", 1, 1))

    @rule(at=st.integers(0, 100))
    def deliver_orders(self, at: int) -> None:
        if self.to_node:
            self.read_orders(self.to_node[at % len(self.to_node)])

    def read_orders(self, message: m.Orders) -> None:
        fresh = self.inbox.fresh(message)
        if fresh is None:
            return
        self.read.append(message.number)
        stale = {n for n, count in self.withdrawn.items() if message.number > count}
        assert stale.isdisjoint(order.number for order in fresh), "it was taken back before"
        self.log.heard(message.heard)
        for order in fresh:
            assert order.number not in self.followed, "followed twice"
            self.followed.append(order.number)
            self.happened.append(order.number)
            self.log.add(m.Took(order.number))

    @rule(at=st.integers(0, 100))
    def deliver_facts(self, at: int) -> None:
        if self.to_store:
            self.read_facts(self.to_store[at % len(self.to_store)])

    def read_facts(self, message: m.Facts) -> None:
        if not self.is_reported:
            if message.whole is None:
                return
            self.is_reported = True
            self.outbox.heard = message.first - 1
        for fact in self.outbox.fresh(message):
            assert isinstance(fact, m.Took)
            self.taken.append(fact.order)
            self.outbox.settle(fact.order)

    @invariant()
    def in_order_and_once(self) -> None:
        assert self.taken == self.happened[: len(self.taken)]
        assert self.read == sorted(set(self.read))

    def teardown(self) -> None:
        for _ in range(self.orders + 3):
            self.read_facts(self.log.message(0.0, "a", 1, 1))
            if self.is_reported:
                self.read_orders(self.outbox.message(0.0, "a", 1, 1, self.orders + 1))
            else:
                self.to_node.clear()
        wanted = set(range(1, self.orders + 1)) - set(self.withdrawn)
        assert wanted <= set(self.followed), "never followed"
        assert self.taken == self.happened, "never heard"
        assert not self.outbox.orders and self.log.is_empty


SEARCH = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""For what is broken: it is enough that it is found."""
TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def messages_have_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Inbox.fresh

    def fresh(self: Inbox, orders: m.Orders) -> object:
        self._last = 0
        return original(self, orders)

    monkeypatch.setattr(Inbox, "fresh", fresh)


def facts_are_taken_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outbox, "fresh", lambda self, facts: facts.facts)


def facts_are_dropped_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    original = FactLog.message

    def message(self: FactLog, *rest: object) -> object:
        found = original(self, *rest)  # type: ignore[arg-type]
        self.heard(self._sent_to)
        return found

    monkeypatch.setattr(exchange.FactLog, "message", message)


def orders_are_forgotten_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Inbox.fresh

    def fresh(self: Inbox, orders: m.Orders) -> object:
        self._followed.clear()
        return original(self, orders)

    monkeypatch.setattr(Inbox, "fresh", fresh)


@pytest.mark.parametrize(
    "broken",
    [
        messages_have_no_order,
        facts_are_taken_in_again,
        facts_are_dropped_unheard,
        orders_are_forgotten_too_soon,
    ],
)
def test_a_broken_exchange_is_caught(broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)  # type: ignore[operator]
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Exchange, settings=SEARCH)
