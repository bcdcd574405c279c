"""Groups in two phases, with a kill after each single message.

The network is plain here: every message takes the same time, and none is lost, so that one run has
a known number of messages. A scenario is run once to count them, and then once for each message and
each victim (the store, which starts again, or a node, which does not): the victim is killed as soon
as that message has been read. After a while everything must be as the rules say.

Scenarios: ``create`` a group over three nodes; ``remove`` it when it is there; ``lose`` a node of
it, with a fourth that can take its place; ``grow`` it from two nodes to three, ``shrink`` it from
three to two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from shoal._proto import membership as m
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.members import MembersWorld, Programs
from shoal.testing.sim.members_checkers import AskedGroup
from shoal.testing.sim.members_network import STORE

SCENARIOS = ("create", "remove", "lose", "grow", "shrink")
BEGIN_S = 1.5
REST_S = 30.0
GROUP = "group"


class Kill(msgspec.Struct, frozen=True):
    """One run: who dies after which message of the scenario."""

    scenario: str
    victim: str
    message: int
    is_detached: bool


class TwoPhases:
    """One scenario in a plain world."""

    def __init__(self, scenario: str, is_detached: bool, kill: Kill | None = None) -> None:
        self.world = world = MembersWorld(1, 4, is_plain=True)
        self._scenario = scenario
        self._kill = kill
        self._from = -1
        """How many messages had been read when the scenario began."""
        root = "" if is_detached else "n4"
        self.spec = m.GroupSpec(
            GROUP,
            [{"CPU": 3.0}] * (2 if scenario == "grow" else 3),
            "STRICT_SPREAD",
            detached=is_detached,
            root=root,
            root_epoch=0 if is_detached else 1,
        )
        world.on_delivered = self._delivered

    @property
    def messages(self) -> int:
        """How many the scenario has had."""
        return self.world.delivered - self._from

    def _delivered(self) -> None:
        kill = self._kill
        if kill is None or self._from < 0 or self.messages != kill.message:
            return
        if kill.victim == STORE:
            self.world.store.kill()
        else:
            self.world.strike_node(self.world.nodes[kill.victim], 0.0)
            self.world.nodes[kill.victim].kill(has_zygote=False)

    def count(self) -> int:
        """Messages until the scenario is over, and some more."""
        self._begin()
        self.world.run(self.world.now + (1.3 if self._scenario == "lose" else 0.1))
        return self.messages

    def run(self) -> None:
        """Until everything is at rest, with the kill. Raises Violation."""
        self._begin()
        world = self.world
        world.run(world.now + REST_S)
        world.oracle.check_quiet()
        self._check_whole()
        Programs(world).sweep()
        world.run(world.now + 5.0)
        world.oracle.check_empty()

    def _begin(self) -> None:
        world = self.world
        world.run(BEGIN_S)
        group = world.oracle.groups[GROUP] = AskedGroup(self.spec)

        def created(body: m.ToldBody) -> None:
            group.is_told = isinstance(body, m.GroupFacts)

        def removed(body: m.ToldBody) -> None:
            group.is_removal_told = True

        creator = world.nodes["n4"]
        ask: Callable[[], None] = lambda: creator.ask(self.spec, created)  # noqa: E731
        if self._scenario != "create":
            ask()
            world.run(world.now + 1.0)
            if not group.was_created:
                raise Violation("the group was never created")
        self._from = world.delivered
        if self._scenario == "create":
            ask()
        elif self._scenario == "remove":
            group.is_removal_asked = True
            creator.ask(m.RemoveGroup(GROUP), removed)
        elif self._scenario in ("grow", "shrink"):
            size = {"CPU": 3.0}
            bundles = [size, size, size] if self._scenario == "grow" else [size, {}, size]
            creator.ask(m.ResizeGroup(GROUP, 1, "me", bundles, []), self._resized)
        else:
            world.strike_node(world.nodes["n1"], 0.0)
            world.nodes["n1"].kill(has_zygote=False)
            world.run(world.now + 10.0)
            self._from = world.delivered

    def _resized(self, body: m.ToldBody) -> None:
        assert isinstance(body, m.GroupFacts), body
        self.world.oracle.resized(body)

    def _check_whole(self) -> None:
        """If three nodes are left and it is wanted, it is there."""
        world, group = self.world, self.world.oracle.groups[GROUP]
        is_rooted = self.spec.detached or not world.nodes["n4"].is_dead
        held = sum(
            len(reserved.grants)
            for node in world.living()
            for reserved in node.host.bundles.values()
        )
        wanted = sum(map(bool, world.oracle.spec_of(GROUP).bundles))
        is_wanted = group.is_told and not group.is_removal_asked and is_rooted
        if is_wanted and len(world.living()) >= 3 and held != wanted:
            raise Violation(f"{held} of {wanted} bundles are held")
        if group.is_removal_asked and held:
            raise Violation(f"{held} bundles of a removed group are held")


def kills(scenario: str, is_detached: bool) -> Iterator[Kill]:
    """All of them."""
    count = TwoPhases(scenario, is_detached).count()
    victims = [STORE, "n1", "n2", "n3", "n4"]
    if scenario == "lose":
        victims.remove("n1")
    for victim in victims:
        for message in range(1, count + 1):
            yield Kill(scenario, victim, message, is_detached)


def explore(scenario: str, is_detached: bool) -> int:
    """Run them all; how many there are. Raises Violation with the kill that breaks a rule."""
    runs = 0
    for kill in kills(scenario, is_detached):
        runs += 1
        try:
            TwoPhases(scenario, is_detached, kill).run()
        except (Violation, AssertionError) as error:
            raise Violation(f"{kill}: {error}") from error
    return runs
