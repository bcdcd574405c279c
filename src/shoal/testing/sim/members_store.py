"""The store's process of simulated members: the real machine, its disk, and its deaths.

What a step keeps is on disk with one sync, which takes a while; what is told leaves after that, and
what later steps tell leaves after that too. A kill before the sync leaves it on disk or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from shoal._core.members import interface as on
from shoal._core.members.store_side import MembersMachine
from shoal._core.resources import parse
from shoal._core.store import Effect, Erase, Keep
from shoal._proto import membership as m
from shoal._proto.views import NodeRow
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.members_network import STORE

if TYPE_CHECKING:
    from shoal.testing.sim.members import MembersWorld

SYNC_S = 0.001
START_S = 0.1

Place = tuple[str, bytes]


def fits(amounts: Mapping[str, float], row: NodeRow) -> bool:
    """Whether that seems to be free there."""
    return all(row.free.get(name, 0) >= units for name, units in parse(amounts))


class SimStore:
    """One store process at a time, or none."""

    def __init__(self, world: MembersWorld) -> None:
        self._world = world
        self.machine: MembersMachine | None = None
        self.disk: dict[Place, bytes] = {}
        self.ever: set[Place] = set()
        """All that has ever been on disk."""
        self.epoch = 0
        self.deaths = 0
        self.away_until = 0.0
        self.stopped_until = 0.0
        self._life = 0
        self.is_silent = False
        """When it is away, so is its machine: nobody says that nobody listens."""
        self._alarm = 0
        self._batch: list[on.StoreCommand] = []
        self._is_writing = False
        self._unsynced: list[Effect] = []
        self._unread: deque[tuple[int, on.StoreEvent]] = deque()
        """(0, or the number of the alarm that rings, event)"""

    # ---- life
    def start(self) -> None:
        """Read the disk, serve."""
        world = self._world
        if self.machine is not None:
            return
        if world.now < self.away_until:
            world.later(self.away_until - world.now, self.start)
            return
        self.epoch += 1
        self.machine = MembersMachine(self.epoch, self._choose_actor, self._choose_group)
        self.machine.restore(self.disk.items())
        self._step(on.Served())

    @property
    def is_refusing(self) -> bool:
        """Nobody listens where it was."""
        return self.machine is None and not self.is_silent

    def kill(self) -> None:
        """SIGKILL; another one starts."""
        if self.machine is None:
            return
        self.deaths += 1
        self._life += 1
        self.machine = None
        if self._unsynced and self._world.random.random() < 0.5:
            self._apply(self._unsynced)
        self._batch, self._unsynced, self._is_writing = [], [], False
        self._unread.clear()
        self.stopped_until = 0.0
        self._world.later(START_S, self.start)

    def stay_away(self, for_s: float) -> None:
        """It is killed, and none can be started for so long."""
        self.away_until = max(self.away_until, self._world.now + for_s)
        self.kill()

    def stop(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT so much later."""
        if self.machine is None:
            return
        self.stopped_until = max(self.stopped_until, self._world.now + for_s)
        self._later(for_s, self._read)

    def wake(self) -> None:
        """SIGCONT, if it is stopped."""
        self.stopped_until = min(self.stopped_until, self._world.now)
        self._read()

    def _later(self, delay_s: float, action: object) -> None:
        life = self._life
        self._world.later(
            delay_s,
            lambda: action() if life == self._life else None,  # type: ignore[operator]
        )

    # ---- steps
    def hear(self, body: m.ToStore) -> None:
        """A message has arrived."""
        if self.machine is not None:
            self._post(on.Heard(body))

    def suspect(self, node: str, epoch: int) -> None:
        """The connection to a node has ended."""
        if self.machine is not None:
            self._post(on.Suspected(node, epoch, "end of the connection"))

    def _post(self, event: on.StoreEvent) -> None:
        self._unread.append((0, event))
        self._read()

    def _ring(self, number: int) -> None:
        # After a stop the alarm is read before or after what has come, as the kernel likes.
        if self._world.random.random() < 0.5:
            self._unread.appendleft((number, on.AlarmRang()))
        else:
            self._unread.append((number, on.AlarmRang()))
        self._read()

    def _read(self) -> None:
        if self._world.now < self.stopped_until:
            return
        while self._unread and self.machine is not None:
            number, event = self._unread.popleft()
            if number in (0, self._alarm):
                self._step(event)

    def _step(self, event: on.StoreEvent) -> None:
        machine = self.machine
        assert machine is not None
        commands = machine.step(self._world.now, event)
        if self._world.validates:
            machine.validate()
        for command in commands:
            if isinstance(command, on.SetAlarm):
                self._set_alarm(command.at)
            else:
                self._batch.append(command)
        if not self._is_writing:
            self._write()

    def _set_alarm(self, at: float | None) -> None:
        self._alarm += 1
        number = self._alarm
        if at is not None:
            self._later(max(0.0, at - self._world.now), lambda: self._ring(number))

    # ---- the disk
    def _write(self) -> None:
        """Everything up to now with one sync; what is told follows it."""
        batch, self._batch = self._batch, []
        self._unsynced = [c for c in batch if isinstance(c, Keep | Erase)]
        if not self._unsynced:
            self._told(batch)
            return
        self._is_writing = True
        took_s = SYNC_S if self._world.is_plain else self._world.delay(SYNC_S)
        self._later(took_s, lambda: self._synced(batch))

    def _synced(self, batch: Sequence[on.StoreCommand]) -> None:
        self._is_writing = False
        self._apply(self._unsynced)
        self._unsynced = []
        self._told(batch)
        if self._batch and self.machine is not None:
            self._write()

    def _apply(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Keep):
                self.disk[effect.kind, effect.key] = effect.value
                self.ever.add((effect.kind, effect.key))
            else:
                self.disk.pop((effect.kind, effect.key), None)

    def _told(self, batch: Sequence[on.StoreCommand]) -> None:
        for command in batch:
            if isinstance(command, on.Tell):
                self._world.oracle.told(command.node, command.body)
                self._tell(command.node, command.body)
            elif isinstance(command, on.Notice):
                self._world.oracle.noticed(command.text)

    def _tell(self, node: str, body: m.ToNode) -> None:
        world = self._world
        found = world.nodes.get(node)
        if found is None:
            return
        wire = world.wire_to_node(body)
        way: tuple[str, ...] = (STORE, node)
        # An answer goes back the way that its renewal came: some have come through another node.
        is_relayed = isinstance(body, m.Renewed) and world.random.random() < 0.3
        relay = world.relay_of(node) if is_relayed else ""
        if relay:
            way = (STORE, relay, node)
        world.send(way, lambda: found.hear(wire()))

    # ---- policies: any choice among those that seem to have room
    def _choose_actor(self, spec: m.RegisterActor, rows: Mapping[str, NodeRow]) -> str:
        able = [node for node, row in rows.items() if fits(spec.hold, row)]
        if spec.strategy.__class__.__name__ == "InGroup":
            able = list(rows)
        return self._world.random.choice(able) if able else ""

    def _choose_group(
        self,
        spec: m.GroupSpec,
        missing: Sequence[int],
        fixed: Mapping[int, str],
        rows: Mapping[str, NodeRow],
    ) -> dict[int, str] | None:
        free = {node: dict(row.free) for node, row in rows.items()}
        places: dict[int, str] = {}
        used = set(fixed.values()) if spec.strategy == "STRICT_SPREAD" else set()
        for index in missing:
            amounts = parse(spec.bundles[index])
            able = [
                node
                for node, have in free.items()
                if node not in used and all(have.get(name, 0) >= u for name, u in amounts)
            ]
            if not able:
                return None
            node = able[0] if self._world.is_plain else self._world.random.choice(able)
            places[index] = node
            if spec.strategy == "STRICT_SPREAD":
                used.add(node)
            for name, u in amounts:
                free[node][name] -= u
        return places

    def check(self) -> None:
        """In a quiet moment the disk has what the machine has."""
        if self.machine is None:
            raise Violation("there is no store, long after the last fault")
        if self._is_writing or self._batch:
            return
        if dict(self.machine.contents()) != self.disk:
            here = dict(self.machine.contents())
            different = [p for p in {**here, **self.disk} if here.get(p) != self.disk.get(p)]
            raise Violation(f"the store and its disk differ in {different[:5]}")
