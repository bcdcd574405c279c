"""A deciding machine, and node memory as a test of explanations wants it to look."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from shoal._base import typed_ids
from shoal._base.config import Limits, NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.node import NodeMachine
from shoal._core.sight_rows import ProcessSight, TaskSight
from shoal._core.store import Joined, Report
from shoal._proto import messages as m
from shoal._proto import reasons as r
from shoal._proto.environments import Environment, Packages
from shoal.errors._why import Why, unpacked

DRIVER = 1
NODE = bytes(range(16))
TASK, OTHER, THIRD = 1 << 32 | 7, 1 << 32 | 8, 1 << 32 | 9


MADE = Environment(key="e1", packages=Packages(digest="d"))


def oid(key: int) -> str:
    return typed_ids.object_id(NODE, key, (key, 0, 1, 1))


def tid(key: int) -> str:
    return typed_ids.task_id(NODE, key, 0, 1)


class Node:
    """A machine, and node memory as a test wants it to look."""

    def __init__(self, cpus: float = 1.0, started: bool = False, **total: float) -> None:
        limits = Limits(prestart_most=0)
        self._begin(
            NodeConfig("s", "/d", NODE, {"CPU": cpus, **total}, 2, limits=limits, started=started)
        )

    @classmethod
    def of_a_driver(cls) -> Node:
        """One that runs nothing, beside another one of its cluster."""
        node = cls.__new__(cls)
        node._begin(NodeConfig("s", "/d", NODE, {}, 2, in_cluster=True, is_driver=True))
        node.tell(seen.NodesChanged(frozenset({"b" * 32})))
        return node

    def _begin(self, config: NodeConfig) -> None:
        started = config.started
        self.machine = NodeMachine(config)
        self.now = 100.0
        self.numbers = itertools.count(10)
        self.tasks: dict[int, TaskSight] = {}
        self.processes: dict[int, ProcessSight] = {}
        self.entries: dict[int, int] = {}
        self.held: tuple[tuple[int, int], ...] = ()
        self.starts: list[int] = []
        self.tell(seen.Began())
        if started:
            (join,) = [c for c in self.tell(seen.StoreConnected()) if isinstance(c, do.WriteStore)]
            self.tell(seen.StoreWritten(join.ticket, Joined(1, 0, state=Report([]))))
        self.tell(seen.DriverJoined(DRIVER, 1, 100, m.JobConfig()))
        self.processes[DRIVER] = ProcessSight(DRIVER, 100)

    def tell(self, event: seen.Event) -> list[do.Command]:
        out = self.machine.step(self.now, event)
        self.starts += [c.start for c in out if isinstance(c, do.StartWorker)]
        return out

    def ask(self, body: m.Message, index: int = DRIVER) -> list[do.Command]:
        return self.tell(seen.Requested(index, next(self.numbers), body))

    def queue(self, amounts: dict[str, float], entries: int = 1, **more: Any) -> int:
        """A class queue with ``entries``."""
        out = self.ask(m.OpenQueue(amounts, **more))
        (ticket,) = [c.ticket for c in out if isinstance(c, do.NewQueue)]
        number = next(self.numbers)
        self.tell(seen.QueueCreated(ticket, number, 1))
        self.tell(seen.Looked((seen.QueueState(number, entries, 0),)))
        self.entries[number] = entries
        return number

    def worker(self) -> int:
        """The process that was asked for first is there."""
        index = next(self.numbers)
        self.tell(seen.WorkerForked(self.starts.pop(0), index, 1000 + index))
        self.tell(seen.WorkerJoined(index, 0, 1000 + index))
        self.ask(m.GetAssignment(), index)
        self.processes[index] = ProcessSight(index, 1000 + index)
        return index

    def runs(self, index: int, *keys: int, queue: int = 0, **more: Any) -> None:
        """Worker ``index`` runs these tasks, outermost first."""
        self.processes[index] = ProcessSight(index, 1000 + index, running=keys, **more)
        for key in keys:
            self.tasks[key] = TaskSight(
                key, task=key, stage="running", worker=index, queue=queue, taken=self.now - 3
            )

    def waits(self, key: int, queue: int, stage: str = "queued", **more: Any) -> None:
        self.tasks[key] = TaskSight(
            key, task=key, stage=stage, queue=queue, job=1, submitted=self.now - 2, **more
        )

    def actor(self, **spec: Any) -> m.ActorInfo:
        """An actor that has been asked for; its call is ``TASK``."""
        key = next(self.numbers)
        methods = msgspec.msgpack.encode([["one"], ["two"]])
        out = self.ask(m.CreateActor(m.ActorSpec(1, key, "Keeper", methods, **spec)))
        infos = [c.body for c in out if isinstance(c, do.Reply)]
        for ticket in [c.ticket for c in out if isinstance(c, do.NewQueue)]:
            out = self.tell(seen.QueueCreated(ticket, next(self.numbers), 1))
            infos += [c.body for c in out if isinstance(c, do.Reply)]
        actor = self.machine.tables.actors.by_key[key]
        about = 1 << 63 | key | 1 << 22
        self.waits(TASK, actor.queue, is_call=True, about=about)
        self.entries[actor.queue] = 2
        return actor.describe()

    def living(self, **spec: Any) -> tuple[m.ActorInfo, int]:
        info = self.actor(**spec)
        index = self.worker()
        self.ask(m.ActorStarted(info.actor_id), index)
        return info, index

    def group(self, cpus: float, group_id: str = "group-1") -> str:
        self.ask(m.CreateGroup(group_id, [{"CPU": cpus}], "PACK"))
        return group_id

    def why(self, about: int | str = TASK, index: int = DRIVER) -> Why:
        """Ask, and answer every look of the machine."""
        self.machine.validate()
        out = self.ask(m.AskWhy(about if isinstance(about, str) else oid(about)), index)
        for _ in range(100):
            answers = [c.body for c in out if isinstance(c, do.Reply)]
            if answers:
                (answer,) = answers
                if isinstance(answer, m.Failure):
                    raise LookupError(answer.record)
                assert isinstance(answer, m.WhyAnswer)
                assert not self.machine.tables.inquiries
                self.machine.validate()
                found = unpacked(answer.reason)
                assert str(found) and unpacked(r.pack(found.reason)) == found
                return found
            (look,) = [c for c in out if isinstance(c, do.Inspect)]
            out = self.tell(self.inspected(look))
        raise AssertionError("no answer")

    def sight(self, key: int) -> TaskSight:
        found = self.tasks.get(key, TaskSight(key, is_gone=True))
        return msgspec.structs.replace(found, ancestry=(key, 0, 1, 1))

    def inspected(self, look: do.Inspect) -> seen.Inspected:
        return seen.Inspected(
            look.ticket,
            tuple(self.sight(key) for key in look.tasks),
            tuple(self.processes[index] for index in look.processes),
            tuple(seen.QueueState(q, self.entries.get(q, 0), 0) for q in look.queues),
            90,
            100,
            self.held if look.has_holders else None,
        )
