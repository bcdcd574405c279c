"""Two ends of a link on a network that cuts, stalls, delays and repeats; nothing is lost or
doubled.

`World` does what the shell does (`_runtime/links/peers.py`), with connections made of two queues.
What happens next is chosen by Hypothesis: something is given, a message arrives, a connection is
cut (what was on its way arrives up to some point, and its end is seen at each side whenever), goes
silent for good, an old frame arrives again, a dial succeeds or fails, time passes, a node begins
another life.

Checked after every step: `validate()` of both ends; what a life of one node has received of a life
of the other is consecutive, begins where that session began, and a former life is not heard again.
In the end everything heals, and both must become quiet with all that was given in the last session
delivered.

The same schedules catch every variant in `BROKEN`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._core import link_events as core
from shoal._core.link import Link
from shoal._core.link_events import LinkLimits

NAMES = ("a", "b")
LIMITS = LinkLimits(waiting_most_bytes=40, ack_frames=3, ack_bytes=60)
PAUSES = (0.0, 0.01, 0.06, 0.6, 3.0, 11.0)
ROUNDS_MOST = 400
HELLO_S = 2.0
"""The shell ends a connection on which no Hello comes."""
END = "end"


class Connection:
    """Two queues; `silent`: nothing arrives any more and nobody is told."""

    def __init__(self, number: int, dialler: str) -> None:
        self.number = number
        self.dialler = dialler
        self.queues: dict[str, deque[Any]] = {name: deque() for name in NAMES}
        self.is_alive = dict.fromkeys(NAMES, True)
        self.is_silent = False
        self.is_cut = False
        self.hello_by: float | None = None
        """Until when the dialler waits for the other side's Hello; None: it has come."""


class End:
    """One node in one of its lives, and what it has seen."""

    def __init__(self, name: str, epoch: int, make: Callable[..., Link]) -> None:
        other = NAMES[name == "a"]
        self.link = make(name, epoch, other, LIMITS)
        self.epoch = epoch
        self.given = 0
        self.session_began = 0
        """How much had been given when the present session began."""
        self.received: list[tuple[int, int]] = []
        """(sender's epoch, count), in the order of arrival."""
        self.is_linked = False


class World:
    def __init__(self, make: Callable[..., Link] = Link) -> None:
        self.make = make
        self.now = 100.0
        self.ends = {name: End(name, 1, make) for name in NAMES}
        self.connections: list[Connection] = []
        self.dials: deque[str] = deque()
        self.frames: list[tuple[str, core.FrameCame]] = []
        for name in NAMES:
            self.step(name, core.AddressesKnown(("there",)))

    # ---- the shell
    def step(self, name: str, event: core.Event) -> None:
        end = self.ends[name]
        commands = end.link.step(self.now, event)
        for command in commands:
            self.perform(name, command)
        end.link.validate()

    def perform(self, name: str, command: core.Command) -> None:
        end, other = self.ends[name], NAMES[name == "a"]
        match command:
            case core.Dial():
                self.dials.append(name)
            case core.Greet():
                hello = ("hello", end.epoch, command.knows, command.received, command.turn)
                self.put(command.connection, other, hello)
            case core.Write():
                frame = ("frame", command.number, command.ack, command.data)
                self.put(command.connection, other, frame)
            case core.Acknowledge():
                self.put(command.connection, other, ("frame", 0, command.ack, b""))
            case core.Close():
                if command.is_over:
                    self.put(command.connection, other, ("over",))
                self.close(self.connections[command.connection], name)
            case core.Deliver():
                self.take(name, command.data)
            case core.SessionEnded():
                self.session_ended(name, command)
            case core.Linked():
                end.is_linked = True

    def put(self, number: int, to: str, message: Any) -> None:
        connection = self.connections[number]
        if not connection.is_cut:
            connection.queues[to].append(message)

    def close(self, connection: Connection, name: str) -> None:
        """One side closes: it hears nothing more, the other side in its time."""
        if connection.is_alive[name]:
            connection.is_alive[name] = False
            connection.queues[name].clear()
            self.put(connection.number, NAMES[name == "a"], END)

    # ---- what must hold
    def take(self, name: str, data: bytes) -> None:
        epoch, count = (int(part) for part in data.decode().split("."))
        received = self.ends[name].received
        assert not received or received[-1][0] <= epoch, "a former life was heard again"
        had = [c for e, c in received if e == epoch]
        if had:
            assert count == had[-1] + 1, f"{name} received {count} after {had[-1]}"
        received.append((epoch, count))
        sender = self.ends[NAMES[name == "a"]]
        if sender.epoch == epoch and not had:
            assert count == sender.session_began + 1, "the session began with something else"

    def session_ended(self, name: str, command: core.SessionEnded) -> None:
        end = self.ends[name]
        end.session_began = end.given

    # ---- what happens
    def give(self, name: str) -> None:
        end = self.ends[name]
        end.given += 1
        self.step(name, core.Given(f"{end.epoch}.{end.given}".encode()))

    def arrive(self, connection: Connection, name: str) -> None:
        """The next message of a connection comes to one side."""
        message = connection.queues[name].popleft()
        if not connection.is_alive[name] or (connection.is_silent and message != END):
            return
        number, is_dialled = connection.number, connection.dialler == name
        match message:
            case "end":
                connection.is_alive[name] = False
                self.put(number, NAMES[name == "a"], END)
                self.step(name, core.Ended(number, "its end was seen"))
            case ("hello", epoch, knows, received, turn):
                if is_dialled:
                    connection.hello_by = None
                self.step(name, core.Greeted(number, is_dialled, epoch, knows, received, turn))
            case ("frame", count, ack, data):
                event = core.FrameCame(number, count, ack, data)
                self.frames.append((name, event))
                self.step(name, event)
            case ("over",):
                self.step(name, core.ToldOver(number, "its epoch is over"))

    def dial(self, is_success: bool) -> None:
        name = self.dials.popleft()
        if not is_success:
            self.step(name, core.DialFailed("nobody listens"))
            return
        connection = Connection(len(self.connections), name)
        connection.hello_by = self.now + HELLO_S
        self.connections.append(connection)
        self.step(name, core.Reached(connection.number))

    def cut(self, connection: Connection, arrives: int) -> None:
        """What is on its way arrives up to a point, then the end is seen."""
        if connection.is_cut:
            return
        connection.is_cut = True
        for name, queue in connection.queues.items():
            kept = [message for message in queue if message != END][: arrives % (len(queue) + 1)]
            queue.clear()
            if connection.is_alive[name]:
                queue.extend([*kept, END])

    def restart(self, name: str) -> None:
        """Another life; what the former one had sent may still arrive."""
        epoch = self.ends[name].epoch + 1
        self.ends[name] = End(name, epoch, self.make)
        self.dials = deque(dialler for dialler in self.dials if dialler != name)
        for connection in self.connections:
            if connection.is_alive[name]:
                connection.is_alive[name] = False
                connection.queues[name].clear()
                self.put(connection.number, NAMES[name == "a"], END)
        self.step(name, core.AddressesKnown(("there",)))

    def begin_anew(self, name: str) -> None:
        """The same daemon goes on as another epoch."""
        link, epoch = self.ends[name].link, self.ends[name].epoch + 1
        self.ends[name] = End(name, epoch, self.make)
        self.ends[name].link = link
        self.step(name, core.BeganAnew(epoch))

    def mute(self) -> list[Connection]:
        """Connections on which the dialler waits for Hello."""
        return [c for c in self.connections if c.hello_by is not None and c.is_alive[c.dialler]]

    def pass_time(self, pause_s: float) -> None:
        self.now += pause_s
        for connection in self.mute():
            assert connection.hello_by is not None
            if connection.hello_by <= self.now:
                self.close(connection, connection.dialler)
                self.step(connection.dialler, core.Ended(connection.number, "it says nothing"))
        for name in NAMES:
            wake_at = self.ends[name].link.wake_at
            if wake_at is not None and wake_at <= self.now:
                self.step(name, core.Ticked())

    def repeat(self, index: int) -> None:
        """An old frame comes again, from the connection of then, even if that is closed."""
        name, event = self.frames[index % len(self.frames)]
        self.step(name, event)

    # ---- schedules
    def act(self, choice: int) -> None:
        kind, detail = choice % 16, choice // 16
        pending = [(c, name) for c in self.connections for name in NAMES if c.queues[name]]
        if kind < 3:
            self.give(NAMES[detail % 2])
        elif kind < 9:
            if pending:
                self.arrive(*pending[detail % len(pending)])
        elif kind < 11:
            if self.dials:
                self.dial(is_success=detail % 4 > 0)
        elif kind == 11:
            self.pass_time(PAUSES[detail % len(PAUSES)])
        elif kind == 12:
            if self.connections:
                self.cut(self.connections[-1 - detail % min(3, len(self.connections))], detail)
        elif kind == 13:
            if self.connections and detail % 3 == 0:
                self.connections[-1].is_silent = True
        elif kind == 14:
            if self.frames:
                self.repeat(detail)
        elif detail % 4 == 0:
            self.restart(NAMES[detail // 4 % 2])
        elif detail % 4 == 1:
            self.begin_anew(NAMES[detail // 4 % 2])

    def heal(self) -> None:
        """No more faults: everything arrives, every dial succeeds, and it must become quiet."""
        self.become_quiet()
        count = len(self.connections)
        self.become_quiet()
        assert len(self.connections) == count, "a sound connection was given up"
        a, b = self.ends["a"], self.ends["b"]
        assert a.link.connection is not None and a.link.connection == b.link.connection
        for one, other in ((a, b), (b, a)):
            assert not one.link.outbox and not one.link.outbox.is_congested
            assert not one.link.suspicion.is_told
            assert one.link.peer_epoch == other.epoch
            counts = [count for epoch, count in other.received if epoch == one.epoch]
            assert counts == list(range(one.session_began + 1, one.given + 1)), "something is lost"

    def become_quiet(self) -> None:
        for name in NAMES:
            self.give(name)
        for _ in range(ROUNDS_MOST):
            for connection in self.connections:
                for name in NAMES:
                    while connection.queues[name]:
                        self.arrive(connection, name)
            while self.dials:
                self.dial(is_success=True)
            if any(c.queues[name] for c in self.connections for name in NAMES):
                continue
            times = [self.ends[name].link.wake_at for name in NAMES]
            times += [connection.hello_by for connection in self.mute()]
            due = [at for at in times if at is not None]
            if not due:
                return
            self.pass_time(max(0.0, min(due) - self.now))
        raise AssertionError("it does not become quiet")


def run(choices: list[int], make: Callable[..., Link] = Link) -> World:
    world = World(make)
    for choice in choices:
        world.act(choice)
    world.heal()
    return world


@settings(max_examples=400, deadline=None)
@given(st.lists(st.integers(0, 1 << 12), max_size=150))
def test_nothing_is_lost_doubled_or_reordered(choices: list[int]) -> None:
    run(choices)


def schedule(seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1 << 12) for _ in range(rng.randrange(20, 250))]


def test_many_seeds() -> None:
    for seed in range(300):
        try:
            run(schedule(seed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


# ---- broken variants
class ReplaysNothing(Link):
    """The next connection goes on with what is given next."""

    def _use(self, event: Any, out: list[Any]) -> None:
        super()._use(event, out)
        out[:] = [command for command in out if not isinstance(command, core.Write)]


class LetsGoWhenWritten(Link):
    """What was written counts as received."""

    def _given(self, now: float, data: bytes, out: list[Any]) -> None:
        super()._given(now, data, out)
        if self.connection is not None:
            self.outbox.take_ack(self.outbox.last)
            out += self.outbox.judge()


class DeliversAgain(Link):
    """A number that was had is not passed over."""

    def _frame_came(self, now: float, event: Any, out: list[Any]) -> None:
        if self._is_current(event.connection) and 0 < event.number <= self.inbox.received:
            out.append(core.Deliver(event.data))
        super()._frame_came(now, event, out)


class AcceptsGaps(Link):
    """A frame counts, whatever is missing before it; with replies that are not repeated."""

    def _frame_came(self, now: float, event: Any, out: list[Any]) -> None:
        if self._is_current(event.connection) and event.number > self.inbox.received:
            self.inbox.received = event.number - 1
        super()._frame_came(now, event, out)

    def _use(self, event: Any, out: list[Any]) -> None:
        super()._use(event, out)
        out[:] = [command for command in out if not isinstance(command, core.Write)]


class ListensToAll(Link):
    """Also connections that were replaced are heard."""

    def _is_current(self, connection: int) -> bool:
        return self.connection is not None

    def _frame_came(self, now: float, event: Any, out: list[Any]) -> None:
        if event.number > self.inbox.received + 1:
            return
        super()._frame_came(now, event, out)


class KeepsNumbers(Link):
    """A new epoch does not begin at 1."""

    def _begin_session(self, epoch: int, out: list[Any]) -> None:
        received = self.inbox.received
        super()._begin_session(epoch, out)
        self.inbox.received = received


class KeepsForTheNext(Link):
    """What was meant for a former life goes to the next one."""

    def _begin_session(self, epoch: int, out: list[Any]) -> None:
        kept = [data for _, data in self.outbox.numbered()]
        super()._begin_session(epoch, out)
        if not self.outbox:
            for data in kept:
                self.outbox.add(data)


class FirstStays(Link):
    """A connection is not replaced by a later one."""

    def _does_win(self, key: tuple[int, bool]) -> bool:
        return False


class OwnDialWins(Link):
    """Each side prefers what it dialled itself."""

    def _key_of(self, event: Any) -> tuple[int, bool]:
        return event.turn, event.is_dialled


class WaitsForEver(Link):
    """Silence is never noticed."""

    def _silent_at(self) -> float | None:
        return None


class NeverAcknowledges(Link):
    """Only what is sent anyway carries acknowledgements."""

    def _acknowledge(self, out: list[Any]) -> None:
        self.inbox.said()


class AcknowledgesAhead(Link):
    """It says to have one more than it has."""

    def _acknowledge(self, out: list[Any]) -> None:
        if self.connection is not None:
            out.append(core.Acknowledge(self.connection, self.inbox.received + 1))
        self.inbox.said()


class ClaimsMore(Link):
    """Its Hello says that it has one more than it has."""

    def _greeting_of(self, connection: int, turn: int) -> core.Greet:
        return core.Greet(connection, self.peer_epoch, self.inbox.received + 1, turn)


class DialsOnce(Link):
    """A dial that failed is not repeated."""

    def _dial_failed(self, now: float, why: str) -> None:
        self._dialling.failed()


class OldLivesCount(Link):
    """An earlier epoch is as good as a later one."""

    def _greeted(self, now: float, event: Any, out: list[Any]) -> None:
        if event.epoch < self.peer_epoch:
            self.peer_epoch = event.epoch
            self.outbox.drop()
            self.outbox.acked = self.inbox.received = 0
        super()._greeted(now, event, out)


BROKEN = (
    ReplaysNothing, LetsGoWhenWritten, DeliversAgain, AcceptsGaps, ListensToAll, KeepsNumbers,
    KeepsForTheNext, FirstStays, OwnDialWins, WaitsForEver, NeverAcknowledges, AcknowledgesAhead,
    ClaimsMore, DialsOnce, OldLivesCount,
)  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.__name__)
def test_broken_variants_are_caught(broken: type[Link]) -> None:
    for seed in range(2000):
        try:
            run(schedule(seed), broken)
        except (AssertionError, IndexError):
            return
    raise AssertionError(f"{broken.__name__} was not caught by 2,000 schedules")
