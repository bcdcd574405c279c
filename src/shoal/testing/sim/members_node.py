"""One simulated node: its daemon with the real member machine, its zygote, and its clock.

What runs on it is ``members_host``. The zygote is a process of its own: it reads the end of the
lease, and ends named and restartable actors also while the daemon is stopped; it ends everything
when the daemon has died, and may say so.

The node has a clock of its own, which began somewhere else and goes a little faster or slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from shoal._core.members import interface as on
from shoal._core.members.lease import OVER
from shoal._core.members.node_side import Identity, MemberMachine
from shoal._proto import membership as m
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.members_host import Around, Host
from shoal.testing.sim.members_network import STORE, TRANSIT_S

if TYPE_CHECKING:
    from shoal.testing.sim.members import MembersWorld

WATCH_S = 0.8
"""The zygote looks at the lease at least so often, and ends processes at once."""
NOTICED_S = 2.2
"""A longer stop makes an alarm late by more than a second: there is one each second."""


class SimNode:
    """A node, from the start of its daemon until that dies."""

    def __init__(self, world: MembersWorld, name: str, cpus: float) -> None:
        self._world = world
        self.name = name
        chance = world.random
        self._offset = 0.0 if world.is_plain else chance.uniform(0.0, 1e6)
        self._rate = 1.0 if world.is_plain else 1 + chance.uniform(-1e-3, 1e-3)
        self.machine = MemberMachine(Identity(name, name=name))
        self.is_dead = False
        self.stopped_until = 0.0
        self.disturbed_at = -1e9
        """When anything was last wrong with it, or with its ways."""
        self.woke_at = -1e9
        """When it last went on after a stop that it must notice."""
        self._stopped_at = 0.0
        self.answers: dict[int, Callable[[m.ToldBody], None]] = {}
        self._tickets = 0
        self._lease_until = 0.0
        self._alarm = 0
        self._unread: deque[tuple[int, on.NodeEvent]] = deque()
        self.host = host = Host(
            world,
            name,
            cpus,
            Around(
                post=self.post,
                after=self._later,
                epoch=lambda: self.machine.epoch,
                may_start=lambda spec: self.machine.may_start(self.clock, spec),
                stopped_s=lambda: self.stopped_until - world.now,
                begins=lambda offer: world.oracle.begins(self, offer),
            ),
        )
        self._commands: dict[type, Callable] = {
            on.TellStore: self._tell_store,
            on.SetLease: self._set_lease,
            on.EndLeased: lambda command: host.end_leased(),
            on.EndEverything: lambda command: host.end_everything(),
            on.ConsiderOffer: host.consider,
            on.StopActor: host.stop_actor,
            on.ReserveBundles: host.reserve,
            on.OpenBundles: host.open,
            on.FreeBundles: host.free,
            on.AskAnswered: self._answered,
            on.NewsHeard: self._news_heard,
            on.Joined: lambda command: world.oracle.joined(self, command.epoch),
            on.SetAlarm: lambda command: self._set_alarm(command.at),
            on.Drain: self._drain,
            on.JoinRefused: self._refused,
            on.EndRest: lambda command: host.end_rest(),
        }
        world.later(0.0, host.row)
        world.later(0.0, lambda: self.post(on.Began()))
        if not world.is_plain:
            self._dial()

    # ---- time
    @property
    def has_left(self) -> bool:
        """It was drained and does not come back."""
        return self.machine.lease.phase == OVER

    @property
    def clock(self) -> float:
        """What its own clock says."""
        return self._offset + self._rate * self._world.now

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """What its processes will do, whether its daemon is stopped or not."""
        self._world.later(delay_s, lambda: None if self.is_dead else action())

    def _set_alarm(self, at: float | None) -> None:
        self._alarm += 1
        number = self._alarm
        if at is None:
            return
        late_s = 0.0 if self._world.is_plain else self._world.delay(0.002)
        delay_s = max(0.0, (at - self.clock) / self._rate) + late_s
        self._later(delay_s, lambda: self._ring(number))

    def _ring(self, number: int) -> None:
        if self._world.random.random() < 0.5:
            self._unread.appendleft((number, on.AlarmRang()))
        else:
            self._unread.append((number, on.AlarmRang()))
        self._read()

    def _news_heard(self, command: on.NewsHeard) -> None:
        self._world.oracle.news(self, command.body)
        self.host.news(command)

    # ---- its daemon
    def hear(self, body: m.ToNode) -> None:
        """A message of the store has arrived."""
        self.post(on.StoreSaid(body))

    def post(self, event: on.NodeEvent) -> None:
        """Something has happened here."""
        if not self.is_dead:
            self._unread.append((0, event))
            self._read()

    def _read(self) -> None:
        if self._world.now < self.stopped_until:
            return
        while self._unread and not self.is_dead:
            number, event = self._unread.popleft()
            if number not in (0, self._alarm):
                continue
            if isinstance(event, on.StoreSaid):
                self._world.oracle.heard(self, event.body)
            commands = self.machine.step(self.clock, event)
            if self._world.validates:
                self.machine.validate()
            for command in commands:
                perform = self._commands.get(type(command))
                if perform is not None:
                    perform(command)

    def stop(self, for_s: float) -> None:
        """SIGSTOP to the daemon, and SIGCONT so much later."""
        self.stopped_until = max(self.stopped_until, self._world.now + for_s)
        self._stopped_at = self._world.now
        if for_s > NOTICED_S:
            self.woke_at = self.stopped_until
        self._later(self.stopped_until - self._world.now, self._read)

    def wake(self) -> None:
        """SIGCONT, if it is stopped."""
        if self._world.now < self.stopped_until:
            if self.woke_at == self.stopped_until:
                is_noticed = self._world.now - self._stopped_at > NOTICED_S
                self.woke_at = self._world.now if is_noticed else -1e9
            self.stopped_until = self._world.now
            self._read()

    def kill(self, has_zygote: bool) -> None:
        """The daemon dies; its zygote ends everything, unless the machine died as a whole."""
        if self.is_dead:
            return
        world, epoch = self._world, self.machine.epoch
        self.is_dead = True
        chance = world.random
        for process in self.host.processes.values():
            process.life.end(world.now + (chance.uniform(0.0, 0.3) if has_zygote else 0.0))
        if has_zygote and epoch and chance.random() < 0.7:
            world.later(0.4, lambda: self._say(m.Obituary(self.name, epoch)))
        world.store.suspect(self.name, epoch)

    def _dial(self) -> None:
        """Now and then its daemon looks whether anybody listens where the store was."""
        world = self._world
        is_open = world.is_open(self.name, STORE) and world.is_open(STORE, self.name)
        if is_open and world.now >= self.stopped_until and world.store.is_refusing:
            event = on.StoreRefused(self.clock)
            self._later(world.delay(TRANSIT_S), lambda: self.post(event))
        self._later(world.delay(1.0), self._dial)

    def _tell_store(self, command: on.TellStore) -> None:
        if isinstance(command.body, m.Renew):
            self._world.oracle.renewed(self, command.body)
        if isinstance(command.body, m.JoinCluster):
            self._world.oracle.joins(self, command.body)
        self._say(command.body, command.tries)

    def _say(self, body: m.ToStore, tries: int = 1) -> None:
        world = self._world
        way: tuple[str, ...] = (self.name, STORE)
        relay = world.relay_of(self.name) if tries > 2 and tries % 2 else ""
        if relay:
            way = (self.name, relay, STORE)
        wire = world.wire_to_store(body)
        world.send(way, lambda: world.store.hear(wire()))

    def _set_lease(self, command: on.SetLease) -> None:
        self._lease_until = command.until
        self._watch_lease(command.until)

    def _watch_lease(self, until: float) -> None:
        """The zygote, which reads the word in node memory."""
        wait_s = max(0.0, (until - self.clock) / self._rate)
        late_s = 0.0 if self._world.is_plain else self._world.random.uniform(0.0, WATCH_S)
        self._later(wait_s + late_s, lambda: self._lease_seen(until))

    def _lease_seen(self, until: float) -> None:
        if self._lease_until == until and self.clock >= until:
            self.host.end_leased()

    # ---- ends
    def _drain(self, command: on.Drain) -> None:
        self._later(self._world.delay(0.5), lambda: self.post(on.HandedOver()))

    def _refused(self, command: on.JoinRefused) -> None:
        raise Violation(f"{self.name} may not join: {command.why}")

    # ---- programs
    def ask(self, body: m.AskBody, answer: Callable[[m.ToldBody], None]) -> None:
        """A program of this node wants something of the store."""
        self._tickets += 1
        self.answers[self._tickets] = answer
        self.post(on.Asked(self._tickets, body))

    def _answered(self, command: on.AskAnswered) -> None:
        self.answers.pop(command.ticket)(command.body)
