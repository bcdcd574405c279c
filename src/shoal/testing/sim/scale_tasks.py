"""What the nodes of a scale simulation are given to do: nodes, tasks, and the times they cannot
beat.

A load says which nodes there are and who submits what when. ``floor_s`` is how long it takes if
every decision is perfect and costs nothing: the most of

* the work of a resource, divided by all that there is of it;
* the longest task;
* what the submitter's daemon must do for each task that runs elsewhere (one process writes them
  all, and reads all their results).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shoal._core.resources import UNIT, Amounts, parse
from shoal._proto.messages import Default, Spread, Strategy
from shoal._proto.views import Wish

MB = 1_000_000


@dataclass(frozen=True)
class Costs:
    """What the simulated world takes, in seconds."""

    one_way_s: float = 0.000_2
    message_s: float = 0.000_020
    """Of a daemon, for each message that it writes or reads."""
    task_s: float = 0.000_005
    """Of a daemon, for each task in it."""
    store_s: float = 0.000_025
    """Of the control store, for a row and its answers."""
    gather_s: float = 0.000_5
    """So long results wait for others to the same node."""
    look_s: float = 0.001
    bytes_per_s: float = 1e9


class Task:
    """One task and what became of it."""

    __slots__ = (
        "arrives_at",
        "backs",
        "bytes_at",
        "ended_at",
        "home",
        "key",
        "length_s",
        "lent_to",
        "outings",
        "queue",
        "ran_on",
        "runs",
        "strategy",
        "waits_since",
    )

    def __init__(self, key: int, home: int, queue: int, length_s: float) -> None:
        self.key = key
        self.home = home
        self.queue = queue
        self.length_s = length_s
        self.strategy: Strategy = Default()
        self.bytes_at: dict[str, int] = {}
        self.arrives_at = 0.0
        self.ended_at: float | None = None
        self.lent_to: str | None = None
        self.ran_on: str | None = None
        self.runs = 0
        self.outings = 0
        self.backs = 0
        self.waits_since = 0.0
        """Since when it has been in the queue of its home, or held there."""

    @property
    def is_single(self) -> bool:
        """Whether the daemon places it by itself."""
        return bool(self.bytes_at) or not isinstance(self.strategy, Default)


@dataclass
class Load:
    """Nodes and tasks."""

    name: str
    totals: list[Amounts]
    """Of each node."""
    wishes: list[Wish]
    tasks: list[Task] = field(default_factory=list)

    def add(self, home: int, queue: int, length_s: float, at: float = 0.0) -> Task:
        """One more task."""
        task = Task(len(self.tasks) + 1, home, queue, length_s)
        task.arrives_at = at
        self.tasks.append(task)
        return task

    def floor_s(self, costs: Costs) -> float:
        """The time that nobody can beat."""
        work: dict[str, float] = {}
        total: dict[str, int] = {}
        for task in self.tasks:
            for name, units in self.wishes[task.queue].amounts:
                work[name] = work.get(name, 0.0) + units * task.length_s
        for amounts in self.totals:
            for name, units in amounts:
                total[name] = total.get(name, 0) + units
        bounds = [seconds / total[name] for name, seconds in work.items()]
        bounds.append(max(task.length_s for task in self.tasks))
        submitted: dict[int, int] = {}
        for task in self.tasks:
            submitted[task.home] = submitted.get(task.home, 0) + 1
        # Even shares: who submits runs as much of it as the others do.
        away = max(submitted.values()) - len(self.tasks) / len(self.totals)
        bounds.append(2 * costs.task_s * max(0.0, away))
        return max(bounds)


def _nodes(count: int, **amounts: float) -> list[Amounts]:
    return [parse(amounts)] * count


def one(nodes: int, tasks: int, seed: int) -> Load:
    """One node submits all of it at once: 10 ms each, one CPU, four of them on each node."""
    load = Load("one", _nodes(nodes, CPU=4), [Wish(parse({"CPU": 1}))])
    for _ in range(tasks):
        load.add(0, 0, 0.01)
    return load


def everybody(nodes: int, tasks: int, seed: int) -> Load:
    """All submit, some ten times as much as others, tasks of 20 ms on average (exponential)."""
    chance = random.Random(seed)
    load = Load("all", _nodes(nodes, CPU=4), [Wish(parse({"CPU": 1}))])
    weights = [chance.choice((1, 1, 1, 2, 10)) for _ in range(nodes)]
    for home in chance.choices(range(nodes), weights, k=tasks):
        load.add(home, 0, chance.expovariate(50), at=chance.uniform(0, 0.05))
    return load


def mixed(nodes: int, tasks: int, seed: int) -> Load:
    """Small, large and GPU nodes; a tenth of them submit tasks of one CPU, two CPUs or a GPU."""
    chance = random.Random(seed)
    kinds = [{"CPU": 4.0}, {"CPU": 16.0}, {"CPU": 8.0, "GPU": 4.0, "fast": 1.0}]
    totals = [parse(kinds[0]), parse(kinds[2])]
    totals += [parse(k) for k in chance.choices(kinds, (7, 2, 1), k=max(0, nodes - 2))]
    wishes = [Wish(parse(a)) for a in ({"CPU": 1}, {"CPU": 2}, {"CPU": 1, "GPU": 1})]
    load = Load("mixed", totals[:nodes] if nodes > 1 else [totals[1]], wishes)
    homes = list(range(0, nodes, 10))
    for queue in chance.choices(range(3), (70, 20, 10), k=tasks):
        load.add(chance.choice(homes), queue, chance.uniform(0.005, 0.035))
    return load


def spread(nodes: int, tasks: int, seed: int) -> Load:
    """One node submits SPREAD tasks of 10 ms."""
    load = Load("spread", _nodes(nodes, CPU=4), [Wish(parse({"CPU": 1}), spreads=True)])
    for _ in range(tasks):
        load.add(0, 0, 0.01).strategy = Spread()
    return load


def data(nodes: int, tasks: int, seed: int) -> Load:
    """A tenth of the nodes submit tasks of 20 ms, each on 20 MB that lie on one of all nodes."""
    chance = random.Random(seed)
    load = Load("data", _nodes(nodes, CPU=4), [Wish(parse({"CPU": 1}))])
    homes = list(range(0, nodes, 10))
    for _ in range(tasks):
        task = load.add(chance.choice(homes), 0, 0.02)
        task.bytes_at = {name_of(chance.randrange(nodes)): 20 * MB}
    return load


LOADS: dict[str, Callable[[int, int, int], Load]] = {
    "one": one,
    "all": everybody,
    "mixed": mixed,
    "spread": spread,
    "data": data,
}


def name_of(index: int) -> str:
    """The id of a simulated node."""
    return f"{index:04x}"


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 if all are equal, 1/n if one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def cpu_slots(totals: Sequence[Amounts]) -> int:
    """Whole CPUs of all nodes."""
    return sum(units for row in totals for name, units in row if name == "CPU") // UNIT
