"""No event is an error: late, doubled, unknown and nonsensical ones leave a valid machine.

A shell sees processes that lie, die and come late. Whatever they say, ``step`` answers, and every
invariant holds afterwards. A failure names its seed.
"""

from __future__ import annotations

import random

import pytest

from shoal._base.config import Limits, NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.node import NodeMachine
from shoal._core.store import Answered, Joined, StoreAsked, StoreMachine, StoreReply
from shoal._proto import messages as m

AMOUNTS: tuple[dict[str, float], ...] = (
    {"CPU": 1.0},
    {"CPU": 0.5},
    {},
    {"GPU": 0.5},
    {"GPU": 1.0},
    {"CPU": 9.0},
    {"CPU": -1.0},
)


class Chance:
    """Draws events; small numbers, so that they are often about something that exists."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def small(self) -> int:
        return self.random.randrange(7)

    def key(self) -> int:
        return self.random.randrange(100, 106)

    def actor_id(self) -> str:
        return f"6e6e6e6e{1:08x}{self.random.randrange(1, 8):08x}"

    def group(self) -> str:
        return f"group-{self.random.randrange(4)}"

    def strategy(self) -> m.Strategy:
        choose = self.random.choice
        kinds = (
            lambda: m.InGroup(self.group(), choose((-1, 0, 1, 7)), self.flip()),
            lambda: m.InGroup(self.group(), choose((-1, 0, 1, 7)), self.flip()),
            lambda: m.GroupReady(self.group()),
            lambda: m.NodeAffinity("6e" * 16, self.flip()),
            lambda: m.NodeAffinity("ff", self.flip()),
            lambda: m.NodeLabels(((m.LabelRule("a", choose(("in", "exists")), ("b",)),),)),
            m.Spread,
            m.Default,
        )
        return choose(kinds)()

    def flip(self) -> bool:
        return self.random.random() < 0.5

    def spec(self) -> m.ActorSpec:
        choose = self.random.choice
        return m.ActorSpec(
            function=self.small(),
            arguments=self.key(),
            class_name="C",
            methods=b"",
            name=choose((None, None, "a", "b")),
            detached=self.random.random() < 0.2,
            get_if_exists=self.flip(),
            place=choose(AMOUNTS),
            hold=choose(AMOUNTS),
            max_restarts=choose((0, 1, -1)),
            strategy=choose((m.Default(), m.Default(), self.strategy())),
        )

    def body(self) -> m.Message:
        choose = self.random.choice
        kinds = (
            m.GetAssignment,
            lambda: m.OpenQueue(choose(AMOUNTS)),
            lambda: m.OpenQueue(choose(AMOUNTS)),
            lambda: m.OpenQueue(choose(AMOUNTS), self.strategy()),
            lambda: m.OpenQueue(choose(AMOUNTS), self.strategy()),
            lambda: m.CreateGroup(self.group(), [choose(AMOUNTS), choose(AMOUNTS)], "PACK"),
            lambda: m.CreateGroup(
                self.group(), [{"CPU": 1.0}], choose(("SPREAD", "?")), "g", waits=self.flip()
            ),
            lambda: m.WaitGroup(self.group(), choose((None, 0.0, 0.4))),
            lambda: m.GetGroup(choose(("", self.group())), "g"),
            lambda: m.RemoveGroup(self.group()),
            lambda: m.ExportFunction(choose((b"x", b"y")), "f", self.small(), 1),
            lambda: m.RetryTask(self.small(), 1),
            lambda: m.CreateActor(self.spec()),
            lambda: m.CreateActor(self.spec()),
            lambda: m.GetActor("a", ""),
            lambda: m.ActorStarted(self.actor_id()),
            lambda: m.ActorStarted(self.actor_id()),
            lambda: m.ActorFailed(self.actor_id(), b"e", "text"),
            lambda: m.ActorExits(self.actor_id()),
            lambda: m.KillActor(self.actor_id(), self.flip()),
            lambda: m.DescribeActor(self.actor_id()),
            lambda: m.AcquireLock("l", "t", choose((None, 0.0, 0.5))),
            lambda: m.ReleaseLock("l", "t"),
            lambda: m.IsLocked("l"),
            lambda: m.KvPut(b"k", b"v"),
            lambda: m.KvDelete(b"k"),
            m.GetResources,
            lambda: m.GetTable(choose(("workers", "actors", "queues", "groups", "?"))),
            lambda: m.LeaveJob() if self.random.random() < 0.1 else m.Done(),
        )
        return choose(kinds)()

    def running(self) -> tuple[seen.RunningTask, ...]:
        return tuple(
            seen.RunningTask(
                self.small(), 1, self.random.randrange(-1, 3), self.small(), 0, self.small()
            )
            for _ in range(self.random.randrange(3))
        )

    def event(self) -> seen.Event:
        number = self.random.randrange
        kinds = (
            lambda: seen.Requested(self.small(), number(1, 99), self.body()),
            lambda: seen.Requested(self.small(), number(1, 99), self.body()),
            lambda: seen.Requested(self.small(), number(1, 99), self.body()),
            lambda: seen.Looked((seen.QueueState(self.small(), number(4), number(9)),)),
            lambda: seen.Looked((), self.workers()),
            lambda: seen.BellRang((self.key(),), (self.small(),)),
            lambda: seen.WorkerStartFailed(self.small(), "why not"),
            lambda: seen.ProcessDied(self.small(), number(2), None, (), self.running()),
            lambda: seen.QueueFreed(number(900, 903), self.flip()),
            lambda: seen.Requeued(self.small(), self.flip()),
            lambda: seen.AdoptFailed(self.key()),
            lambda: seen.StoreWritten(number(30), m.Done()),
            lambda: seen.StoreWritten(number(30), Answered(number(9), m.KvAnswer())),
            lambda: seen.StoreWritten(number(30), Joined(number(9), number(9), self.flip())),
            lambda: seen.ValuesRead(number(30), (b"v", None)),
            lambda: seen.ValuesPut(number(30), (number(9), number(9))),
            seen.StoreConnected,
        )
        return self.random.choice(kinds)()

    def workers(self) -> tuple[seen.WorkerState, ...]:
        return tuple(
            seen.WorkerState(index, self.small(), self.small(), self.small() % 3, self.flip())
            for index in range(1, 7)
        )


class Shell:
    """Keeps to the few promises that a shell makes: indexes, queues and answers are real."""

    def __init__(self, started: bool) -> None:
        config = NodeConfig(
            session="s",
            directory="/d",
            node_id=b"n" * 16,
            total={"CPU": 2.0, "GPU": 1.0},
            cores=2,
            started=started,
            limits=Limits(
                tombstones_most=2, group_tombstones_most=2, jobs_ended_most=2, starting_most=3
            ),
        )
        self.machine = NodeMachine(config)
        self.now = 0.0
        self.alive: set[int] = set()
        self.starts: list[int] = []
        self.forked: dict[int, int] = {}
        self.tickets: list[int] = []
        self.queues = 0
        self.alarm: float | None = None
        self.store = StoreMachine()
        if started:
            self.tell(seen.StoreConnected())

    def tell(self, event: seen.Event) -> None:
        for command in self.machine.step(self.now, event):
            if isinstance(command, do.StartWorker):
                self.starts.append(command.start)
            elif isinstance(command, do.NewQueue):
                self.tickets.append(command.ticket)
            elif isinstance(command, do.SetAlarm):
                self.alarm = command.at
            elif isinstance(command, do.ReadValues):
                values = tuple(b"v" if key % 2 else None for key in command.keys)
                self.tell(seen.ValuesRead(command.ticket, values))
            elif isinstance(command, do.WriteStore) and command.ticket % 7:
                # One in seven is never answered: the store was away.
                asked = StoreAsked(1, command.ticket, command.write)
                for done in self.store.step(self.now, asked):
                    if isinstance(done, StoreReply):
                        self.tell(seen.StoreWritten(done.ticket, done.body))
            elif isinstance(command, do.Reply | do.Assign):
                assert command.index >= 0
        self.machine.validate()

    def act(self, what: str) -> None:
        """Something that only a shell can do."""
        free = [index for index in range(1, 7) if index not in self.alive]
        if what == "fork" and self.starts and free:
            start = self.starts.pop(0)
            self.alive.add(free[0])
            self.forked[free[0]] = start
            self.tell(seen.WorkerForked(start, free[0], 50 + free[0]))
        elif what == "join" and self.forked:
            index, _ = self.forked.popitem()
            self.tell(seen.WorkerJoined(index, 1, 50 + index))
            self.tell(seen.Requested(index, 2, m.GetAssignment()))
        elif what == "driver" and free:
            self.alive.add(free[0])
            self.tell(seen.DriverJoined(free[0], 1, 50 + free[0], m.JobConfig()))
        elif what == "queue" and self.tickets:
            self.queues += 1
            self.tell(seen.QueueCreated(self.tickets.pop(0), self.queues, 1))
        elif what == "alarm" and self.alarm is not None:
            self.now = max(self.now, self.alarm)
            self.alarm = None
            self.tell(seen.AlarmRang())

    def feed(self, event: seen.Event) -> None:
        """An event as it may come; deaths and requests only of processes that exist."""
        if isinstance(event, seen.ProcessDied | seen.Requested):
            if event.index not in self.alive or event.index in self.forked:
                return
            if isinstance(event, seen.ProcessDied):
                self.alive.remove(event.index)
        self.tell(event)


@pytest.mark.parametrize("block", range(10))
def test_no_event_is_an_error(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        chance = Chance(seed)
        shell = Shell(started=seed % 4 != 0)
        shell.tell(seen.Began())
        for what in ("driver", "fork", "join"):
            shell.act(what)
        try:
            for _ in range(250):
                shell.now += chance.random.choice((0.0, 0.001, 0.3))
                if chance.random.random() < 0.45:
                    kinds = ("fork", "join", "driver", "alarm", "alarm", "queue", "queue")
                    shell.act(chance.random.choice(kinds))
                else:
                    shell.feed(chance.event())
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
