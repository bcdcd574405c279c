"""Members, a node's side: leases, orders, facts, drains. (Whole clusters: tests/sim.)"""

from __future__ import annotations

from shoal._core.members import interface as on
from shoal._core.members.drain import REST_MOST_S
from shoal._core.members.lease import JOINING, MEMBER, OVER
from shoal._core.members.node_side import Identity, MemberMachine
from shoal._proto import membership as m
from shoal._proto.messages import Done, Failure
from shoal._proto.views import NodeRow

NAMED = m.RegisterActor("x", name="n", hold={"CPU": 1.0}, max_restarts=-1)
PLAIN = m.RegisterActor("y", hold={"CPU": 1.0})
GROUP = m.GroupSpec("g", [{"CPU": 1.0}], "PACK")


class Node:
    """The machine and what it has said."""

    def __init__(self, joins: bool = True) -> None:
        self.now = 500.0
        self.store = 1
        self.machine = MemberMachine(Identity("a"))
        self.said: list[m.ToStore] = []
        self.commands: list[on.NodeCommand] = []
        self.alarm: float | None = None
        self.sent = 0
        self.order = 0
        if joins:
            self.step(on.Began())
            self.hear(m.Admitted("a", 1, 1, 1, 10.0))

    def step(self, event: on.NodeEvent) -> list[on.NodeCommand]:
        commands = self.machine.step(self.now, event)
        self.machine.validate()
        for command in commands:
            if isinstance(command, on.TellStore):
                self.said.append(command.body)
            elif isinstance(command, on.SetAlarm):
                self.alarm = command.at
        self.commands += commands
        return commands

    def hear(self, body: m.ToNode) -> list[on.NodeCommand]:
        return self.step(on.StoreSaid(body))

    def renewals(self) -> list[m.Renew]:
        return [body for body in self.said if isinstance(body, m.Renew)]

    def answer(self) -> None:
        """The last renewal is answered."""
        number = self.renewals()[-1].number
        self.hear(m.Renewed("a", self.machine.epoch, number, self.store))

    def wait(self, until: float) -> None:
        """Time passes, alarm by alarm, and nobody answers."""
        while self.alarm is not None and self.alarm <= until:
            self.now = max(self.now, self.alarm)
            self.alarm = None
            self.step(on.AlarmRang())
        self.now = until

    def orders(self, *bodies: m.OrderBody, heard: int = 0, repeats: bool = False) -> None:
        """The store wants these; with ``repeats`` under the numbers of before."""
        self.sent += 1
        if not repeats:
            self.order += len(bodies)
        first = self.order - len(bodies) + 1
        orders = [m.Order(first + at, body) for at, body in enumerate(bodies)]
        epoch = self.machine.epoch
        self.hear(m.Orders("a", epoch, self.store, self.sent, first, heard, orders))

    def facts(self) -> list[m.Fact]:
        last = [body for body in self.said if isinstance(body, m.Facts)][-1]
        return last.facts

    def had(self, kind: type) -> bool:
        found = any(isinstance(command, kind) for command in self.commands)
        self.commands.clear()
        return found


# ---- joining and leases
def test_it_asks_again_until_it_is_answered() -> None:
    node = Node(joins=False)
    node.step(on.Began())
    node.wait(node.now + 2.5)
    assert [type(body) for body in node.said] == [m.JoinCluster] * 3
    assert {body.request for body in node.said if isinstance(body, m.JoinCluster)} == {1}
    node.hear(m.Admitted("a", 1, 7, 1, 10.0))
    assert node.machine.epoch == 7 and node.had(on.Joined)
    assert node.machine.lease.lease_from == 500.0, "from the first try"


def test_a_refusal_is_said_and_final() -> None:
    node = Node(joins=False)
    node.step(on.Began())
    assert node.hear(m.NotAdmitted("a", 1, "the name is taken"))[0] == on.JoinRefused(
        "the name is taken"
    )
    assert node.machine.lease.phase == OVER and node.alarm is None


def test_a_renewal_goes_out_each_second_with_a_number() -> None:
    node = Node()
    node.wait(503.5)
    assert [body.number for body in node.renewals()] == [1, 2, 3, 4]
    told = [c for c in node.commands if isinstance(c, on.TellStore)]
    assert [c.tries for c in told if isinstance(c.body, m.Renew)] == [1, 2, 3, 4]


def test_who_has_a_shorter_lease_renews_it_more_often_and_lets_go_sooner() -> None:
    node = Node(joins=False)
    node.step(on.Began())
    node.hear(m.Admitted("a", 1, 1, 1, 3.0))
    node.wait(500.95)
    assert [body.number for body in node.renewals()] == [1, 2, 3, 4]
    assert node.machine.may_start(500.95, NAMED)
    node.wait(501.45)
    assert node.machine.may_start(501.45, NAMED)
    node.wait(501.55)
    assert not node.machine.may_start(501.55, NAMED)
    assert node.had(on.SetLease) and on.EndLeased() not in node.commands
    node.wait(502.95)
    assert not node.had(on.EndLeased)
    node.wait(503.05)
    assert node.had(on.EndLeased)


def test_who_has_a_longer_lease_renews_it_each_second_all_the_same() -> None:
    node = Node(joins=False)
    node.step(on.Began())
    node.hear(m.Admitted("a", 1, 1, 1, 60.0))
    node.wait(503.5)
    assert [body.number for body in node.renewals()] == [1, 2, 3, 4]
    assert node.machine.may_start(503.5, NAMED)
    node.wait(529.9)
    assert node.machine.may_start(529.9, NAMED)
    node.wait(530.1)
    assert not node.machine.may_start(530.1, NAMED)


def test_the_lease_counts_from_the_sending_of_what_was_answered() -> None:
    node = Node()
    node.wait(503.2)
    node.hear(m.Renewed("a", 1, 2, 1))
    assert node.machine.lease.lease_from == 501.0
    node.hear(m.Renewed("a", 1, 1, 1))
    assert node.machine.lease.lease_from == 501.0, "an older answer changes nothing"
    assert on.SetLease(511.0) in node.commands


def test_what_a_lease_allows_by_its_age() -> None:
    node = Node()
    node.answer()
    assert node.machine.may_start(504.9, NAMED) is False, "the alarm is late: it was stopped"
    node.wait(504.9)
    assert node.machine.may_start(504.9, NAMED)
    node.wait(505.1)
    assert not node.machine.may_start(505.1, NAMED) and node.machine.may_start(505.1, PLAIN)
    node.commands.clear()
    node.wait(509.9)
    assert not node.had(on.EndLeased)
    node.wait(510.1)
    assert node.had(on.EndLeased)
    node.wait(530.0)
    assert not node.had(on.EndLeased), "once"


def test_where_nobody_listens_the_lease_goes_on_but_nothing_starts() -> None:
    node = Node()
    node.answer()
    node.wait(508.0)
    node.step(on.StoreRefused(507.5))
    assert on.SetLease(517.5) in node.commands
    assert not node.machine.may_start(508.0, NAMED), "starts need a store"
    node.step(on.StoreRefused(506.0))
    assert node.machine.lease.ends_at == 517.5, "an older dial says nothing new"
    node.commands.clear()
    node.wait(517.6)
    assert node.had(on.EndLeased)
    node.step(on.StoreRefused(517.55))
    assert node.machine.lease.ends_at == 517.5, "it may have been given up by then"


def test_a_store_that_never_comes_back_ends_everything_also_where_nobody_listens() -> None:
    node = Node()
    node.answer()
    for second in range(501, 1099):
        node.wait(float(second))
        node.step(on.StoreRefused(second - 0.1))
    assert not node.had(on.EndLeased) and not node.had(on.EndEverything)
    node.wait(1100.1)
    assert node.had(on.EndEverything)


def test_a_renewal_that_is_answered_at_last_makes_the_lease_good() -> None:
    node = Node()
    node.wait(515.0)
    node.answer()
    assert not node.machine.lease.is_lapsed
    node.wait(516.0)
    assert node.machine.may_start(516.0, NAMED)


def test_after_a_stop_the_clock_comes_first() -> None:
    """The first thing that a daemon reads after a stop may be an offer."""
    node = Node()
    node.answer()
    node.now = 530.0
    node.commands.clear()
    node.orders(m.OfferActor(NAMED, 1, 0))
    kinds = [type(command) for command in node.commands]
    assert kinds[0] is on.EndLeased and on.ConsiderOffer not in kinds
    assert not node.facts()[0].is_accepted  # type: ignore[union-attr]


def test_after_a_short_stop_it_renews_before_it_starts_anything() -> None:
    node = Node()
    node.answer()
    node.now = 503.5
    node.commands.clear()
    node.orders(m.OfferActor(NAMED, 1, 0))
    assert not node.had(on.ConsiderOffer)
    node.answer()
    node.orders(m.OfferActor(NAMED, 1, 0))
    assert node.had(on.ConsiderOffer)


def test_no_store_for_ten_minutes_ends_everything() -> None:
    node = Node()
    node.wait(1099.0)
    node.commands.clear()
    node.wait(1101.0)
    assert node.had(on.EndEverything)
    node.step(on.EverythingEnded())
    assert node.machine.lease.phase == JOINING


def test_a_node_that_was_declared_dead_ends_everything_before_it_joins() -> None:
    node = Node()
    node.orders(m.OfferActor(PLAIN, 1, 0))
    node.step(on.OfferDecided(1, True))
    node.said.clear()
    node.hear(m.DeclaredDead("a", 1, 1, "nothing was heard of it"))
    assert node.had(on.EndEverything)
    node.wait(node.now + 5.0)
    assert node.said == []
    node.step(on.EverythingEnded())
    (join,) = node.said
    assert isinstance(join, m.JoinCluster) and join.former == 1 and join.request == 2
    node.hear(m.Admitted("a", 1, 9, 1, 10.0))
    assert node.machine.lease.phase == JOINING, "an answer to its former request"
    node.hear(m.Admitted("a", 2, 2, 1, 10.0))
    assert node.machine.lease.phase == MEMBER
    whole = [body for body in node.said if isinstance(body, m.Facts)][-1].whole
    assert whole == m.Whole([], [])


def test_news_of_another_epoch_or_an_older_store_is_not_read() -> None:
    node = Node()
    node.commands.clear()
    node.hear(m.DeclaredDead("a", 3, 1, "?"))
    node.hear(m.Orders("a", 1, 0, 99, 1, 0, [m.Order(1, m.OfferActor(PLAIN, 1, 0))]))
    node.hear(m.Orders("b", 1, 1, 99, 1, 0, [m.Order(1, m.OfferActor(PLAIN, 1, 0))]))
    assert not node.had(on.EndEverything) and not node.had(on.ConsiderOffer)


def test_a_change_of_what_is_free_hurries_the_next_renewal() -> None:
    node = Node()
    before = len(node.renewals())
    node.now = 500.05
    node.step(on.RowChanged(NodeRow("a", free={"CPU": 1}), m.Standing()))
    assert len(node.renewals()) == before
    node.wait(500.11)
    assert len(node.renewals()) == before + 1
    assert node.renewals()[-1].row.free == {"CPU": 1}
    assert node.renewals()[-1].row.number == node.renewals()[-1].number


# ---- orders and facts
def test_an_order_is_followed_once_and_answered_until_it_is_heard() -> None:
    node = Node()
    node.orders(m.OfferActor(PLAIN, 1, 0))
    assert node.had(on.ConsiderOffer)
    node.orders(m.OfferActor(PLAIN, 1, 0), repeats=True)
    assert not node.had(on.ConsiderOffer)
    node.step(on.OfferDecided(1, False, "no room"))
    answer = m.OfferAnswered(1, "y", 1, False, "no room")
    assert node.facts() == [answer]
    node.said.clear()
    node.wait(node.now + 1.5)
    assert node.facts() == [answer], "said again"
    node.orders(heard=2)
    node.said.clear()
    node.wait(node.now + 3.0)
    assert not [body for body in node.said if isinstance(body, m.Facts)]


def test_an_older_message_that_comes_late_is_not_read() -> None:
    node = Node()
    node.orders()
    node.commands.clear()
    late = m.Orders("a", 1, 1, 0, 1, 0, [m.Order(1, m.OfferActor(PLAIN, 1, 0))])
    node.hear(late)
    assert not node.had(on.ConsiderOffer)


def test_an_end_that_is_ordered_while_it_is_considered_follows_at_once() -> None:
    node = Node()
    node.orders(m.OfferActor(PLAIN, 1, 0))
    node.orders(m.EndActor("y", 1, "killed", b"why"))
    assert not node.had(on.StopActor)
    node.step(on.OfferDecided(1, True))
    assert on.StopActor("y", 1, "killed", b"why") in node.commands
    node.step(on.ActorDown("y", 1, "crashed"))
    assert node.facts()[-1] == m.ActorGone("y", 1, "killed", b"why")


def test_what_was_never_here_is_answered_as_ended_and_given_back() -> None:
    node = Node()
    node.orders(m.EndActor("z", 4, "killed"), m.ReleaseBundles("g", 7))
    assert node.facts() == [m.ActorGone("z", 4, "unknown"), m.BundlesReleased(2, "g", 7)]


def test_bundles_are_reserved_opened_and_given_back() -> None:
    node = Node()
    node.orders(m.PrepareBundles(GROUP, 5, [0]))
    assert node.had(on.ReserveBundles)
    node.step(on.BundlesDecided(1, True))
    assert node.facts()[-1] == m.BundlesPrepared(1, "g", 5, True)
    node.orders(m.CommitBundles("g", 5))
    assert on.OpenBundles("g", 5) in node.commands
    node.orders(m.ReleaseBundles("g", 5, is_removed=True))
    assert on.FreeBundles("g", 5, True) in node.commands
    assert not isinstance(node.facts()[-1], m.BundlesReleased)
    node.step(on.BundlesFreed("g", 5))
    assert node.facts()[-1] == m.BundlesReleased(3, "g", 5)


def test_a_store_in_a_new_life_hears_everything_first() -> None:
    node = Node()
    node.orders(m.OfferActor(PLAIN, 1, 0), m.PrepareBundles(GROUP, 5, [0]))
    node.step(on.OfferDecided(1, True))
    node.step(on.BundlesDecided(2, True))
    node.orders(m.OfferActor(NAMED, 1, 0))
    node.step(on.OfferDecided(3, True))
    node.step(on.ActorDown("x", 1, "crashed"))
    node.said.clear()
    node.store, node.sent = 2, 0
    node.wait(node.now + 1.0)
    node.answer()
    (facts,) = [body for body in node.said if isinstance(body, m.Facts) and body.store == 2]
    assert facts.whole == m.Whole(
        [m.ActorHere(PLAIN, 1, 0, False)],
        [m.BundlesHere(GROUP, 5, [0], False)],
        gone=[m.ActorGone("x", 1, "crashed")],
    )
    node.step(on.ActorUp("y", 1))
    last = [body for body in node.said if isinstance(body, m.Facts)][-1]
    assert last.whole == facts.whole and last.facts == [m.ActorAlive("y", 1)]


def test_what_is_considered_for_a_former_store_is_told_and_may_be_refused() -> None:
    node = Node()
    node.orders(m.OfferActor(PLAIN, 1, 0), m.PrepareBundles(GROUP, 5, [0]))
    node.store, node.sent = 2, 0
    node.wait(node.now + 1.0)
    node.answer()
    whole = [body for body in node.said if isinstance(body, m.Facts)][-1].whole
    assert whole is not None and [actor.incarnation for actor in whole.actors] == [1]
    assert whole.bundles == []
    node.step(on.OfferDecided(1, False))
    assert node.facts() == [m.ActorGone("y", 1, "refused")]
    node.step(on.BundlesDecided(2, True))
    assert on.FreeBundles("g", 5, False) in node.commands
    node.step(on.BundlesFreed("g", 5))
    assert node.facts() == [m.ActorGone("y", 1, "refused")], "nobody has asked for that"


# ---- what programs want
def test_an_ask_is_repeated_until_it_is_told() -> None:
    node = Node()
    node.step(on.Asked(11, PLAIN))
    node.wait(node.now + 2.2)
    asks = [body for body in node.said if isinstance(body, m.Ask)]
    assert len(asks) == 3 and {ask.number for ask in asks} == {1}
    told = m.ActorFacts("y", "PENDING")
    node.hear(m.Told("a", 1, 1, 1, told))
    assert on.AskAnswered(11, told) in node.commands
    node.hear(m.Told("a", 1, 1, 1, told))
    assert node.commands.count(on.AskAnswered(11, told)) == 1


def test_what_does_not_survive_the_store_is_told_to_the_next() -> None:
    node = Node()
    for ticket, body in enumerate((PLAIN, GROUP, NAMED)):
        node.step(on.Asked(ticket, body))
    node.hear(m.Told("a", 1, 1, 1, m.ActorFacts("y", "PENDING")))
    node.hear(m.Told("a", 1, 1, 2, m.GroupFacts("g", "PENDING", [""])))
    node.hear(m.Told("a", 1, 1, 3, m.ActorFacts("x", "PENDING")))
    wishes = node.machine.wishes
    assert wishes.created() == [PLAIN, GROUP] and wishes.watched() == ["y", "g", "x"]
    node.orders(m.ActorNews(m.ActorFacts("y", "ALIVE", 1)))
    assert wishes.created() == [GROUP], "the node that has it speaks for it now"
    node.orders(m.GroupNews(m.GroupFacts("g", "REMOVED", [""])))
    assert wishes.created() == [] and wishes.watched() == ["y", "x"]


def test_news_answer_who_has_not_been_told() -> None:
    node = Node()
    node.step(on.Asked(5, NAMED))
    dead = m.ActorFacts("x", "DEAD", 1, cause=b"c")
    node.orders(m.ActorNews(dead))
    assert on.AskAnswered(5, dead) in node.commands
    assert node.machine.wishes.watched() == []


def test_what_is_asked_when_the_epoch_ends_is_answered() -> None:
    node = Node()
    node.step(on.Asked(5, NAMED))
    node.hear(m.DeclaredDead("a", 1, 1, "?"))
    node.step(on.EverythingEnded())
    (answer,) = [c for c in node.commands if isinstance(c, on.AskAnswered)]
    assert answer.ticket == 5 and isinstance(answer.body, Failure)


# ---- leaving
def test_a_drain_hands_over_ends_the_rest_and_leaves() -> None:
    node = Node()
    node.orders(m.OfferActor(NAMED, 1, 0), m.OfferActor(PLAIN, 1, 0))
    node.step(on.OfferDecided(1, True))
    node.step(on.OfferDecided(2, True))
    node.orders(m.DrainNode(30.0), heard=9)
    assert on.Drain(30.0) in node.commands
    assert on.StopActor("x", 1, "drained", b"") in node.commands
    assert not any(c == on.StopActor("y", 1, "drained", b"") for c in node.commands)
    node.orders(m.OfferActor(m.RegisterActor("z"), 1, 0))
    assert not node.facts()[-1].is_accepted  # type: ignore[union-attr]
    node.step(on.ActorDown("x", 1, "crashed"))
    assert node.facts()[-1] == m.ActorGone("x", 1, "drained")
    node.step(on.HandedOver())
    assert on.EndRest() in node.commands
    node.step(on.ActorDown("y", 1, "drained"))
    assert not node.had(on.EndEverything), "the store has to hear of it first"
    node.orders(heard=99)
    assert node.had(on.EndEverything)
    node.step(on.EverythingEnded())
    assert node.said[-1] == m.Obituary("a", 1, is_drained=True)
    node.said.clear()
    node.wait(node.now + 2.5)
    assert len(node.said) == 2, "until it is heard"
    node.hear(m.DeclaredDead("a", 1, 1, "it was drained"))
    assert node.alarm is None and node.machine.lease.phase == OVER


def test_a_drain_ends_when_its_time_is_up_whatever_still_runs() -> None:
    node = Node()
    node.orders(m.OfferActor(PLAIN, 1, 0))
    node.step(on.OfferDecided(1, True))
    node.orders(m.DrainNode(2.0))
    began = node.now
    while node.now < began + 2.5:
        node.answer()
        node.wait(node.now + 0.5)
    assert node.had(on.EndRest)
    while node.now < began + 2.5 + REST_MOST_S:
        node.answer()
        node.wait(node.now + 0.5)
    assert node.had(on.EndEverything)


def test_done_is_an_answer_too() -> None:
    node = Node()
    node.step(on.Asked(1, m.KillActor("x")))
    node.hear(m.Told("a", 1, 1, 1, Done()))
    assert on.AskAnswered(1, Done()) in node.commands
