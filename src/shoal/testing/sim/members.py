"""A simulated cluster of one control store and several nodes: who is a member, what lives where.

The machines of ``_core/members`` are the real ones. Programs on the nodes register actors (named,
detached, restartable and none of it), look them up, end them, make groups and remove them, and
nodes are drained; meanwhile faults of ``FAULTS`` strike. Then they stop, and everything must come
to rest as it should (``members_checkers``); at last all is ended, and nothing may be left.

Everything comes from one seed: ``SimMembers(seed).run()``.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from shoal._proto import membership as m
from shoal._proto.messages import Default, Failure, InGroup, Strategy
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.members_checkers import Asked, AskedGroup, Oracle
from shoal.testing.sim.members_network import STORE, Network
from shoal.testing.sim.members_node import SimNode
from shoal.testing.sim.members_store import SimStore

CPUS = 4.0
NAMES = ("a", "b", "c")
NAMESPACE = "sim"
TROUBLE_S = 60.0
QUIET_S = 45.0
SWEEP_S = 12.0

FAULTS: dict[str, str] = {
    "store killed": "SIGKILL to the store; it starts again",
    "store away": "killed, and none can be started for a while",
    "store stopped": "SIGSTOP to the store, then SIGCONT",
    "daemon killed": "SIGKILL to a daemon; its zygote ends everything; another node begins",
    "machine lost": "a whole machine is gone; another node begins",
    "daemon stopped": "SIGSTOP to a daemon, then SIGCONT",
    "cut": "nothing passes between a node and the store",
    "cut out": "nothing passes from a node to the store",
    "cut in": "nothing passes from the store to a node",
    "lossy": "messages are lost",
    "slow": "messages take seconds",
    "actor killed": "SIGKILL to the process of an actor",
    "suspected": "a connection ends, and is made again later",
    "drained": "a node is drained; another one begins",
}


class MembersReport(msgspec.Struct):
    """What happened in one run."""

    seed: int
    faults: dict[str, int]
    actors: int
    lives: int
    groups: int
    deaths: int
    messages: int


class MembersWorld(Network):
    """The store, the nodes and the network between them."""

    def __init__(self, seed: int, count: int, is_plain: bool = False) -> None:
        super().__init__(seed)
        self.is_plain = is_plain
        self.validates = True
        self.encodes = seed % 8 == 0
        self.struck_at = -1e9
        """When anything was last struck."""
        self.oracle = Oracle(self)
        self.store = SimStore(self)
        self.store.is_silent = seed % 4 == 1
        self.nodes: dict[str, SimNode] = {}
        self.asked = 0
        for _ in range(count):
            self.add_node()
        self.store.start()

    # ---- nodes
    def add_node(self) -> SimNode:
        """Another node begins."""
        name = f"n{len(self.nodes) + 1}"
        node = self.nodes[name] = SimNode(self, name, CPUS)
        return node

    def _replace(self) -> None:
        self.add_node()

    def living(self) -> list[SimNode]:
        """Those whose daemon lives and has not left."""
        return [n for n in self.nodes.values() if not n.is_dead and not n.has_left]

    def accepting(self) -> list[SimNode]:
        """Those that would take something new."""
        return [
            node
            for node in self.living()
            if node.machine.is_member and not node.machine.draining.is_closed
        ]

    def relay_of(self, node: str) -> str:
        """Another node, through which a message may go."""
        others = [other.name for other in self.living() if other.name != node]
        return self.random.choice(others) if others and not self.is_plain else ""

    def wire_to_store(self, body: m.ToStore) -> Callable[[], m.ToStore]:
        """As it is when it arrives."""
        if not self.encodes:
            return lambda: body
        data = m.packed(body)
        return lambda: m.to_store(data)

    def wire_to_node(self, body: m.ToNode) -> Callable[[], m.ToNode]:
        """The same."""
        if not self.encodes:
            return lambda: body
        data = m.packed(body)
        return lambda: m.to_node(data)

    # ---- faults
    def strike_node(self, node: SimNode | None, for_s: float) -> None:
        """A node (None: all of them) is struck for so long."""
        self.struck_at = max(self.struck_at, self.now + for_s)
        for one in self.nodes.values() if node is None else (node,):
            one.disturbed_at = max(one.disturbed_at, self.now + for_s)

    def strike(self, kind: str) -> None:
        """Let a fault happen."""
        chance = self.random
        nodes = self.living()
        node = chance.choice(nodes)
        for_s = chance.choice((chance.uniform(0.5, 4.0), chance.uniform(4.0, 30.0)))
        self.struck_at = max(self.struck_at, self.now)
        match kind:
            case "store killed":
                self.store.kill()
            case "store away":
                self.store.stay_away(for_s)
            case "store stopped":
                self.store.stop(for_s)
            case "daemon killed" | "machine lost":
                self.strike_node(node, 0.0)
                node.kill(has_zygote=kind == "daemon killed")
                self.later(chance.uniform(0.5, 5.0), self._replace)
            case "daemon stopped":
                self.strike_node(node, for_s)
                node.stop(for_s)
            case "cut" | "cut out" | "cut in":
                self.strike_node(node, for_s)
                if kind != "cut in":
                    self.cut[node.name, STORE] = self.now + for_s
                if kind != "cut out":
                    self.cut[STORE, node.name] = self.now + for_s
            case "lossy":
                self.strike_node(None, for_s)
                self.lossy_until = self.now + for_s
            case "slow":
                self.strike_node(None, min(for_s, 10.0) + 6.0)
                self.slow_until = self.now + min(for_s, 10.0)
            case "actor killed":
                node.host.crash_one()
            case "suspected":
                self.store.suspect(node.name, node.machine.epoch)
            case "drained":
                if len(nodes) > 2 and node.machine.is_member:
                    body = m.DrainMember(node.name, chance.uniform(0.2, 5.0))
                    chance.choice(nodes).ask(body, lambda told: None)
                    self.later(chance.uniform(0.5, 5.0), self._replace)

    def heal(self) -> None:
        """Nothing is wrong any more."""
        self.cut.clear()
        self.lossy_until = self.slow_until = 0.0
        self.store.stopped_until = min(self.store.stopped_until, self.now)
        self.store.away_until = min(self.store.away_until, self.now)
        self.store.start()
        self.store.wake()
        for node in self.living():
            node.wake()
            self.strike_node(node, 0.0)


class Programs:
    """What is asked for, by programs on all nodes."""

    def __init__(self, world: MembersWorld) -> None:
        self._world = world
        self._number = 0

    def act(self) -> None:
        """One of them wants something."""
        world = self._world
        chance = world.random
        nodes = [node for node in world.living() if node.machine.is_member]
        if not nodes:
            return
        node = chance.choice(nodes)
        kind = chance.random()
        if kind < 0.5:
            self.register(node)
        elif kind < 0.62:
            self.kill(node)
        elif kind < 0.7:
            node.ask(m.FindActor(name=chance.choice(NAMES), namespace=NAMESPACE), _nothing)
        elif kind < 0.86:
            self.create(node)
        elif kind < 0.92:
            self.resize(node)
        else:
            self.remove(node)

    def _next(self, kind: str) -> str:
        self._number += 1
        return f"{kind}{self._number}"

    def register(self, node: SimNode) -> None:
        """An actor of some kind."""
        world = self._world
        chance, oracle = world.random, world.oracle
        name = chance.choice(NAMES) if chance.random() < 0.5 else ""
        is_detached = chance.random() < 0.3
        strategy: Strategy = Default()
        if oracle.groups and chance.random() < 0.15:
            strategy = InGroup(chance.choice(list(oracle.groups)), chance.choice((-1, 0)))
        spec = m.RegisterActor(
            actor_id=self._next("actor"),
            hold={"CPU": chance.choice((0.0, 0.5, 1.0))},
            strategy=strategy,
            name=name,
            namespace=NAMESPACE if name else "",
            detached=is_detached,
            get_if_exists=bool(name) and chance.random() < 0.5,
            max_restarts=chance.choice((0, 0, 1, 3, -1)),
            root="" if is_detached else node.name,
            root_epoch=0 if is_detached else node.machine.epoch,
        )
        asked = oracle.actors[spec.actor_id] = Asked(spec, lives=[])

        def told(body: m.ToldBody) -> None:
            if isinstance(body, m.ActorFacts) and body.actor_id == spec.actor_id:
                asked.is_told = True

        node.ask(spec, told)

    def kill(self, node: SimNode, actor_id: str = "", no_restart: bool = True) -> None:
        """Any of them."""
        world = self._world
        actors = world.oracle.actors
        if not actors:
            return
        asked = actors[actor_id or world.random.choice(list(actors))]
        if not actor_id and world.random.random() < 0.3:
            incarnation = asked.lives[-1].incarnation if asked.lives else 1
            node.ask(m.KillActor(asked.spec.actor_id, incarnation, no_restart=False), _nothing)
            return
        if not asked.is_told:
            return
        asked.is_kill_asked = True

        def told(body: m.ToldBody) -> None:
            asked.is_kill_told = asked.is_kill_told or not isinstance(body, Failure)

        node.ask(m.KillActor(asked.spec.actor_id), told)

    def create(self, node: SimNode) -> None:
        """A group."""
        world = self._world
        chance = world.random
        is_detached = chance.random() < 0.3
        count = chance.choice((1, 2, 3))
        spec = m.GroupSpec(
            group_id=self._next("group"),
            bundles=[{"CPU": chance.choice((0.5, 1.0, 2.0))} for _ in range(count)],
            strategy=chance.choice(("PACK", "SPREAD", "STRICT_SPREAD")),
            detached=is_detached,
            root="" if is_detached else node.name,
            root_epoch=0 if is_detached else node.machine.epoch,
        )
        asked = world.oracle.groups[spec.group_id] = AskedGroup(spec)

        def told(body: m.ToldBody) -> None:
            asked.is_told = isinstance(body, m.GroupFacts)

        node.ask(spec, told)

    def remove(self, node: SimNode, group_id: str = "") -> None:
        """Any of them."""
        world = self._world
        groups = world.oracle.groups
        if not groups:
            return
        asked = groups[group_id or world.random.choice(list(groups))]
        if not asked.is_told:
            return
        asked.is_removal_asked = True

        def told(body: m.ToldBody) -> None:
            asked.is_removal_told = asked.is_removal_told or not isinstance(body, Failure)

        node.ask(m.RemoveGroup(asked.spec.group_id), told)

    def resize(self, node: SimNode) -> None:
        """Any of them, by one bundle more or less; or somebody was faster."""
        chance, groups = self._world.random, self._world.oracle.groups
        told = [each for each in groups.values() if each.is_told]
        if not told:
            return
        asked = chance.choice(told)
        spec = asked.resized or asked.spec
        bundles = [*spec.bundles]
        wanted = [index for index, bundle in enumerate(bundles) if bundle]
        if len(wanted) > 1 and chance.random() < 0.5:
            bundles[chance.choice(wanted)] = {}
        else:
            bundles.append({"CPU": chance.choice((0.5, 1.0))})
        by = self._next("resize")

        def answered(body: m.ToldBody) -> None:
            if isinstance(body, m.GroupFacts) and body.spec is not None:
                self._world.oracle.resized(body)

        node.ask(m.ResizeGroup(spec.group_id, spec.revision + 1, by, bundles, []), answered)

    def sweep(self) -> None:
        """End and remove everything."""
        world = self._world
        node = next(node for node in world.living() if node.machine.is_member)
        for actor_id, asked in world.oracle.actors.items():
            asked.is_told = True
            self.kill(node, actor_id)
        for group_id, group in world.oracle.groups.items():
            group.is_told = True
            self.remove(node, group_id)


def _nothing(body: m.ToldBody) -> None:
    """Whatever the answer is."""


class SimMembers:
    """One run."""

    def __init__(
        self,
        seed: int,
        faults: Sequence[str] | None = None,
        count: int = 14,
        validates: bool = True,
    ) -> None:
        self.seed = seed
        self.world = MembersWorld(seed, 3 + seed % 3)
        self.world.validates = validates
        self.programs = Programs(self.world)
        self._kinds = tuple(FAULTS) if faults is None else tuple(faults)
        self._count = count
        self.faults: Counter[str] = Counter()

    def run(self) -> MembersReport:
        """Trouble, then quiet, then the end. Raises Violation."""
        world = self.world
        chance = world.random
        for _ in range(70):
            world.later(chance.uniform(1.0, TROUBLE_S), self.programs.act)
        for _ in range(self._count):
            kind = chance.choice(self._kinds)
            self.faults[kind] += 1
            world.later(chance.uniform(2.0, TROUBLE_S), functools.partial(world.strike, kind))
        try:
            world.run(TROUBLE_S)
            world.heal()
            world.run(TROUBLE_S + QUIET_S)
            world.oracle.check_quiet()
            self.programs.sweep()
            world.run(TROUBLE_S + QUIET_S + SWEEP_S)
            world.oracle.check_empty()
        except (Violation, AssertionError) as error:
            text = "\n".join(world.oracle.deaths[-12:])
            raise Violation(
                f"seed {self.seed} at {world.now:.3f} s: {error}\n{dict(self.faults)}\n{text}"
            ) from error
        oracle = world.oracle
        return MembersReport(
            seed=self.seed,
            faults=dict(self.faults),
            actors=len(oracle.actors),
            lives=sum(len(asked.lives) for asked in oracle.actors.values()),
            groups=len(oracle.groups),
            deaths=len(oracle.deaths),
            messages=world.sent,
        )
