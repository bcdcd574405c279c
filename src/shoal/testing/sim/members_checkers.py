"""What must be true of members, looked at from outside: processes, the disk, and who was told what.

None of it reads the books of a machine.

* **One life at a time**: an actor has one process; a name has one actor with a process.
  Incarnations grow. There are no more lives than restarts allow; a drain's end does not count.
* **Starts only under a good lease**: what must not run twice starts only on a node that has sent
  its last answered renewal less than 5 s ago, and after it was last stopped.
* **Nothing outlives its epoch**: who asks to join again has no process and no bundle.
* **Acknowledged means on disk**: actors that were registered, epochs that were given, deaths that
  were declared.
* **A group is there when that is said**: each of its bundles is open on a node, or the node was
  struck by something.
* **Healthy nodes are not declared dead.**
* **In the end** (``check_quiet``): whoever lives is a member; what was acknowledged and not ended
  is there, unless there is no room for it; what was ended is nowhere; nothing is held for nobody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from shoal._core.members.actor_table import ACTORS, is_lasting
from shoal._core.members.nodes import NODES, NodeRecord
from shoal._core.resources import parse
from shoal._proto import membership as m
from shoal._proto.messages import InGroup
from shoal.testing.sim.checkers import Violation

if TYPE_CHECKING:
    from shoal.testing.sim.members import MembersWorld
    from shoal.testing.sim.members_node import SimNode

HEALTHY_S = 16.0
"""A node that nothing has disturbed for so long may not be declared dead for its silence."""
START_MARGIN_S = 1.0
"""From the decision to start something until it runs."""
_SILENT = re.compile(r"node (\S+) \(epoch \d+\) is dead: nothing was heard")


class Life(msgspec.Struct, eq=False):
    """One process of an actor."""

    actor_id: str
    incarnation: int
    node: str
    began: float
    ended: float = float("inf")
    how: str = ""

    def end(self, at: float) -> None:
        """It does nothing after that."""
        self.ended = min(self.ended, at)


class Asked(msgspec.Struct):
    """An actor that a program wanted."""

    spec: m.RegisterActor
    is_told: bool = False
    is_kill_asked: bool = False
    is_kill_told: bool = False
    is_final: bool = False
    """Its constructor has raised, or its bundle was given back."""
    is_end_told: bool = False
    offered: int = 0
    """The last incarnation that was offered to any node."""
    lives: list[Life] = []


class AskedGroup(msgspec.Struct):
    """A group that a program wanted."""

    spec: m.GroupSpec
    is_told: bool = False
    is_removal_asked: bool = False
    is_removal_told: bool = False
    was_created: bool = False
    resized: m.GroupSpec | None = None
    """What the store has acknowledged last."""


class Oracle:
    """Everything that was seen, and the rules for it."""

    def __init__(self, world: MembersWorld) -> None:
        self._world = world
        self.actors: dict[str, Asked] = {}
        self.groups: dict[str, AskedGroup] = {}
        self.deaths: list[str] = []
        self._sent: dict[tuple[str, int], dict[int, float]] = {}
        """(node, epoch) -> when each renewal was sent."""
        self._sure: dict[tuple[str, int], float] = {}
        """(node, epoch) -> when the last answered renewal was sent."""
        self._join_sent: dict[tuple[str, int], float] = {}

    # ---- leases
    def joins(self, node: SimNode, body: m.JoinCluster) -> None:
        """It asks to be a member."""
        self._join_sent.setdefault((node.name, body.request), self._world.now)
        if body.former and (node.host.processes or node.host.bundles):
            left = [*node.host.processes, *node.host.bundles]
            raise Violation(f"{node.name} joins again and still has {left} of epoch {body.former}")

    def renewed(self, node: SimNode, body: m.Renew) -> None:
        """It sends a renewal."""
        sent = self._sent.setdefault((node.name, body.epoch), {})
        sent[body.number] = self._world.now

    def heard(self, node: SimNode, body: m.ToNode) -> None:
        """A node reads a message of the store."""
        key = (node.name, getattr(body, "epoch", 0))
        if isinstance(body, m.Admitted):
            sent_at = self._join_sent.get((node.name, body.request), 0.0)
            self._sure.setdefault(key, sent_at)
        elif isinstance(body, m.Renewed):
            sent_at = self._sent.get(key, {}).get(body.number, 0.0)
            self._sure[key] = max(self._sure.get(key, 0.0), sent_at)

    def joined(self, node: SimNode, epoch: int) -> None:
        """It is a member."""
        row = self._world.store.disk.get((NODES, node.name.encode()))
        known = 0 if row is None else msgspec.msgpack.decode(row, type=NodeRecord).epoch
        if known < epoch:
            raise Violation(f"{node.name} is in epoch {epoch}, and the disk has {known}")

    def noticed(self, text: str) -> None:
        """The store says something."""
        self.deaths.append(f"{self._world.now:.3f} {text}")
        if (found := _SILENT.search(text)) is None:
            return
        node = self._world.nodes[found.group(1)]
        healthy_s = self._world.now - node.disturbed_at
        if not node.is_dead and not node.has_left and healthy_s > HEALTHY_S:
            raise Violation(f"{text}; nothing has disturbed it for {healthy_s:.1f} s")

    # ---- lives
    def begins(self, node: SimNode, offer: m.OfferActor) -> Life:
        """A process begins."""
        now, spec = self._world.now, offer.spec
        asked = self.actors[spec.actor_id]
        life = Life(spec.actor_id, offer.incarnation, node.name, now)
        for other in asked.lives:
            if other.ended > now:
                raise Violation(f"{life} begins, and {other} has not ended")
            if other.incarnation >= offer.incarnation:
                raise Violation(f"{life} begins after {other}")
        charged = sum(other.how != "drained" for other in asked.lives)
        if 0 <= spec.max_restarts < charged:
            raise Violation(f"{life} is one too many: it had {asked.lives}")
        if spec.name:
            self._check_name(spec, now)
        if is_lasting(spec):
            self._check_lease(node, life)
        asked.lives.append(life)
        return life

    def _check_name(self, spec: m.RegisterActor, now: float) -> None:
        for other in self.actors.values():
            if other.spec.name == spec.name and other.spec.actor_id != spec.actor_id:
                for life in other.lives:
                    if life.ended > now:
                        raise Violation(f"{spec.actor_id} begins as {spec.name!r} beside {life}")

    def _check_lease(self, node: SimNode, life: Life) -> None:
        sure = self._sure.get((node.name, node.machine.epoch), float("-inf"))
        if life.began - sure > 5.0 + START_MARGIN_S:
            raise Violation(f"{life} begins under a lease that is {life.began - sure:.1f} s old")
        if sure < node.woke_at:
            raise Violation(f"{life} begins on a node that has not renewed since it was stopped")

    def final(self, actor_id: str) -> None:
        """It is not to be restarted."""
        self.actors[actor_id].is_final = True

    # ---- who was told what
    def told(self, node: str, body: m.ToNode) -> None:
        """The store tells a node something."""
        if isinstance(body, m.DeclaredDead):
            row = self._world.store.disk.get((NODES, node.encode()))
            record = None if row is None else msgspec.msgpack.decode(row, type=NodeRecord)
            if record is not None and record.epoch != body.epoch:
                record = None
            if record is not None and record.state not in (m.DEAD, m.DRAINED):
                raise Violation(f"{node} is told that it is dead, and on disk it lives")
        if isinstance(body, m.Orders):
            for order in body.orders:
                if isinstance(order.body, m.OfferActor):
                    offered = self.actors[order.body.spec.actor_id]
                    offered.offered = max(offered.offered, order.body.incarnation)
        if isinstance(body, m.Told) and isinstance(body.body, m.ActorFacts):
            facts = body.body
            asked = self.actors.get(facts.actor_id)
            if asked is None or facts.state == "DEAD" or not is_lasting(asked.spec):
                return
            if (ACTORS, facts.actor_id.encode()) not in self._world.store.ever:
                raise Violation(f"{facts.actor_id} is acknowledged and never was on disk")

    def news(self, node: SimNode, facts: m.ActorFacts | m.GroupFacts) -> None:
        """A node hears of a change."""
        if isinstance(facts, m.ActorFacts):
            if facts.state == "DEAD" and facts.actor_id in self.actors:
                self.actors[facts.actor_id].is_end_told = True
            return
        if facts.group_id in self.groups and facts.state == "CREATED":
            self.groups[facts.group_id].was_created = True

    def resized(self, facts: m.GroupFacts) -> None:
        """The store says that a group is this now: it is never again less than that."""
        asked = self.groups[facts.group_id]
        assert facts.spec is not None
        if asked.resized is None or facts.spec.revision > asked.resized.revision:
            asked.resized = facts.spec

    def spec_of(self, group_id: str) -> m.GroupSpec:
        """What a group is by the store's own word, which has to agree with what was told."""
        asked, machine = self.groups[group_id], self._world.store.machine
        known = None if machine is None else machine.groups.table.groups.get(group_id)
        told = asked.resized or asked.spec
        spec = told if known is None else known.spec
        same = spec.bundles == told.bundles
        if spec.revision < told.revision or (spec.revision == told.revision and not same):
            raise Violation(f"{group_id} is {spec}, and {told} was acknowledged")
        return spec

    def opened(self, node: str, spec: m.GroupSpec) -> None:
        """Bundles of a group may be used: all of them are reserved, unless something was struck."""
        world, group_id = self._world, spec.group_id
        held = [
            index
            for other in world.nodes.values()
            for key, reserved in other.host.bundles.items()
            if key[0] == group_id and not other.is_dead
            for index in reserved.body.indexes
        ]
        now = self.spec_of(group_id)
        wanted = {at for at, size in enumerate(spec.bundles) if size and now.bundles[at]}
        missing = wanted - set(held)
        if missing and world.now - world.struck_at > HEALTHY_S + 10.0:
            raise Violation(f"{group_id} is used on {node} and nobody has bundles {missing}")

    # ---- in the end
    def check_quiet(self) -> None:
        """Nothing has gone wrong for long."""
        world = self._world
        world.store.check()
        for node in world.living():
            if not node.machine.is_member:
                raise Violation(f"{node.name} lives and is no member: {node.machine.lease.phase}")
            if node.answers:
                raise Violation(f"{node.name} has {len(node.answers)} asks without an answer")
            node.host.account.validate()
        for asked in self.actors.values():
            self._check_actor(asked)
        for group in self.groups.values():
            self._check_group(group)

    def _is_rooted(self, root: str, epoch: int) -> bool:
        if not root:
            return True
        node = self._world.nodes[root]
        is_there = not node.is_dead and not node.has_left
        return is_there and node.machine.is_member and node.machine.epoch == epoch

    def _check_actor(self, asked: Asked) -> None:
        world, spec = self._world, asked.spec
        here = [
            node.name
            for node in world.living()
            for actor_id, _ in node.host.processes
            if actor_id == spec.actor_id
        ]
        is_rooted = self._is_rooted(spec.root, spec.root_epoch)
        if (asked.is_kill_told or not is_rooted) and here:
            raise Violation(f"{spec.actor_id} was ended and is on {here}")
        if len(here) > 1:
            raise Violation(f"{spec.actor_id} is on {here}")
        if not asked.is_told or asked.is_kill_asked or not is_rooted or asked.is_final or here:
            return
        # An offer that its node took with it counts as a life: perhaps it was one.
        drained = sum(life.how == "drained" for life in asked.lives)
        if asked.offered - (drained if spec.max_restarts else 0) > spec.max_restarts >= 0:
            return
        if self._has_room(spec) and not self._may_have_lived(asked):
            raise Violation(
                f"{spec.actor_id} is acknowledged and nowhere, though there is room: {asked.lives}"
            )

    def _may_have_lived(self, asked: Asked) -> bool:
        """Whether it was ended although nobody had ever offered it: on a node that was lost before
        a new store had heard of it."""
        return asked.is_end_told and self._world.store.epoch > 1 and bool(self.deaths)

    def _has_room(self, spec: m.RegisterActor) -> bool:
        if isinstance(spec.strategy, InGroup):
            return False
        amounts = parse(spec.hold)
        return any(node.host.account.fits(amounts) for node in self._world.accepting())

    def _check_group(self, asked: AskedGroup) -> None:
        world, spec = self._world, self.spec_of(asked.spec.group_id)
        held = [
            (index, reserved.is_open)
            for node in world.living()
            for key, reserved in node.host.bundles.items()
            if key[0] == spec.group_id
            for index in reserved.grants
        ]
        is_rooted = self._is_rooted(spec.root, spec.root_epoch)
        if asked.is_removal_told or not is_rooted:
            if held:
                raise Violation(f"{spec.group_id} was removed, and nodes hold {held}")
            return
        indexes = sorted(index for index, _ in held)
        if len(indexes) != len(set(indexes)):
            raise Violation(f"bundles of {spec.group_id} are held twice: {held}")
        wanted = [index for index, bundle in enumerate(spec.bundles) if bundle]
        is_whole = indexes == wanted and all(is_open for _, is_open in held)
        if not is_whole and set(indexes) - set(wanted):
            raise Violation(f"removed bundles of {spec.group_id} are held: {held}")
        if is_whole or asked.is_removal_asked:
            return
        if held and not asked.was_created and any(not is_open for _, is_open in held):
            raise Violation(f"a part of {spec.group_id} is held for nobody: {held}")
        if asked.is_told and self._fits(spec, set(indexes)):
            raise Violation(f"{spec.group_id} has no place, though there is room: {held}")

    def _fits(self, spec: m.GroupSpec, held: set[int]) -> bool:
        """Whether what is missing fits on one node alone (so it fits in any order)."""
        if spec.strategy == "STRICT_SPREAD":
            return False
        missing = [parse(b) for index, b in enumerate(spec.bundles) if b and index not in held]
        for node in self._world.accepting():
            if (grants := node.host.account.take_all(missing)) is not None:
                for grant in grants:
                    node.host.account.give(grant)
                return True
        return False

    def check_empty(self) -> None:
        """Everything was ended and removed: nothing of it is left anywhere."""
        world = self._world
        for node in world.living():
            if node.host.processes or node.host.bundles:
                raise Violation(
                    f"{node.name} still has {[*node.host.processes, *node.host.bundles]}"
                )
            if node.host.account.free != node.host.account.total:
                raise Violation(
                    f"{node.name} has {node.host.account.free} of {node.host.account.total}"
                )
        left = [place for place in world.store.disk if place[0] != NODES]
        if left:
            raise Violation(f"the disk still has {left[:5]}")
