"""Several nodes in one process: a node memory, a bridge and workers for each, and links between
them that are queues in memory.

Nothing moves by itself but workers, who take tasks and wait for values in threads of their own:
`Nodes.until` lets messages, bytes and alarms happen until something is true. Every row is packed
and read again on its way, as by a real link. A link can be cut (rows wait) and a node can die (rows
of it are gone).
"""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Union

import msgspec

from shoal import _native
from shoal._base import records
from shoal._core import events
from shoal._proto.bridge import BridgeBody
from shoal._proto.holds import HoldsBody, Name
from shoal._runtime import streams
from shoal._runtime.bridge.around import Surroundings, lost_value
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.daemon_lineage import LostValues
from shoal._runtime.daemon_loop import Loop

JOB = 5
WAIT_S = 20.0
SETTLE_S = 20.0
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Union[BridgeBody, HoldsBody])


class Failed(Exception):
    """What `get` raises for an error: the record's class and fields, or the worker's text."""


def _error(format: int, data: bytes, _: Any) -> Failed:
    if format == _native.FORMAT_ERROR_RECORD:
        return Failed(*records.unpack(bytes(data)))
    return Failed(pickle.loads(data))


def hooked(memory: Any) -> Any:
    memory.set_hooks(
        loads=pickle.loads, error=_error, help=None, future=lambda ref: ref,
        wait=lambda ref: ref, escaped=lambda ref: (int, (ref.key,)),
    )  # fmt: skip
    return memory


class Pack:
    """A value as a process writes it: pickle, buffers, refs."""

    def __init__(self, memory: Any, value: Any) -> None:
        self.refs: list[Any] = []
        self.buffers: list[Any] = []
        memory.capture(self.refs)
        self.data = pickle.dumps(value, 5, buffer_callback=self.buffers.append)
        memory.capture(None)

    def parts(self) -> tuple[int, bytes, list[Any], list[Any]]:
        return _native.FORMAT_PICKLE, self.data, [b.raw() for b in self.buffers], self.refs


class Process:
    """A worker or driver of a node."""

    def __init__(self, daemon: Any, kind: int) -> None:
        self.index = daemon.open_process(kind)
        fds = os.dup(daemon.fd), os.dup(daemon.eventfd)
        self.memory = hooked(_native.Memory.attach(*fds, self.index))
        self.memory.job = JOB

    def put(self, value: Any) -> Any:
        return self.memory.put(*Pack(self.memory, value).parts())


class Worker(Process):
    """Takes tasks of one queue and runs them, in a thread."""

    def __init__(self, node: Node, queue: int) -> None:
        super().__init__(node.memory, 2)
        self.where = node.name
        self.ran: list[int] = []
        self.problems: list[BaseException] = []
        self._is_stopped = False
        node.memory.assign(self.index, queue)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._is_stopped:
                task = self.memory.take(0.02)
                if isinstance(task, _native.Task):
                    self.ran.append(task.key)
                    self._run(task)
        except BaseException as error:
            self.problems.append(error)

    def _run(self, task: Any) -> None:
        try:
            arguments = self._arguments(task)
            name = self.memory.load_key(task.function) if task.function else "method"
            value = FUNCTIONS[name](self, *arguments)
            if task.flags & _native.FLAG_STREAM:
                value = self._produce(task, value)
        except Exception as error:
            if task.ending is None:
                for index in range(max(1, task.n_returns)):
                    data = pickle.dumps(repr(error))
                    task.write(index, _native.FORMAT_ERROR_PICKLE, data, (), ())
                task.commit()
                return
        if task.ending is not None:
            task.write(0, _native.FORMAT_ERROR_RECORD, task.ending, (), ())
            task.commit()
            return
        values = value if task.n_returns > 1 else [value]
        for index, one in enumerate(values):
            if not task.write_simple(index, one):
                task.write(index, *Pack(self.memory, one).parts())
        task.commit()

    def _produce(self, task: Any, items: Iterator[Any]) -> int:
        producer = streams.Producer(self.memory, task)
        for item in items:
            producer.give(item)
            while (ack := producer.awaited()) is not None and task.ending is None:
                self.memory.wait([ack], 1, 0.02)
            if task.ending is not None or self._is_stopped:
                break
        return producer.seen

    def _arguments(self, task: Any) -> list[Any]:
        payload = task.payload()
        values = task.dependencies(0, task.n_dependencies)
        if payload is None:
            return values
        task.loading()
        try:
            return [*values, *pickle.loads(payload)]
        finally:
            task.loaded()

    def stop(self) -> None:
        self._is_stopped = True
        self._thread.join(5)
        assert not self.problems, self.problems


def _method(worker: Worker, *arguments: Any) -> Any:
    """What actors do: note what comes, in order."""
    CALLS.append(arguments)
    return len(CALLS)


def _wait(worker: Worker, *_: Any) -> str:
    BEGUN.set()
    assert GO.wait(20), "nobody let it go on"
    return "waited"


def _raise(worker: Worker, *arguments: Any) -> None:
    raise ValueError(*arguments)


CALLS: list[Any] = []
GO, BEGUN = threading.Event(), threading.Event()
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda _, *numbers: sum(numbers),
    "where": lambda worker, *_: worker.memory.fd,
    "nothing": lambda _, *__: None,
    "three": lambda _, x: [x, [x], "x" * 50],
    "pieces": lambda _, n: [bytes([at]) * 100_000 for at in range(n)],
    "large": lambda _, n: bytes(range(250)) * n,
    "size": lambda _, value: len(value),
    "crate": lambda worker, value, n: [worker.put(value), b"c" * n],
    "boxed": lambda worker, value: [worker.put(value)],
    "bytes": lambda _, value: bytes(value),
    "same": lambda _, value: value,
    "box": lambda _, box: box,
    "open": lambda worker, box: worker.memory.get(box[0], 20),
    "text": lambda _, n: "é" * n,
    "array": lambda _, n: pickle.PickleBuffer(bytearray(b"7" * n)),
    "raise": _raise,
    "wait": _wait,
    "method": _method,
}


class Links:
    """The links of one node."""

    def __init__(self, nodes: Nodes, name: str) -> None:
        self._nodes = nodes
        self._name = name

    def send(self, node: str, body: Any) -> None:
        self._nodes.post(self._name, node, _encoder.encode(body))

    def pull(self, node: str, name: bytes, into: memoryview, done: Callable[[str], None]) -> None:
        self._nodes.pulls.append((self._name, node, name, into, done))


class Node:
    """One node: its memory, its bridge, a driver, and workers as tests want them."""

    def __init__(self, nodes: Nodes, name: str) -> None:
        self.name = name
        self.memory = hooked(_native.Memory.create(64 << 20, 2, name.encode() * 8, 128))
        self.memory.populate(16 << 20, 1 << 40)
        self.queue = self.memory.new_queue(_native.QUEUE_CLASS, JOB)
        self.actor_queues: dict[int, tuple[int, int]] = {}
        self.has_room = True
        self.cancelled: list[int] = []
        self.is_growing = False
        """Workers that wait are joined by others."""
        around = Surroundings(
            links=Links(nodes, name),
            call_later=lambda delay, call: nodes.alarms.append((time.monotonic() + delay, call)),
            describe_queue=lambda queue: b"one cpu",
            find_queue=lambda node, job, place: (
                (*self.queue, job) if self.has_room else "there is no cpu"
            ),
            find_actor=self.find_actor,
            make_room=lambda size: self.memory.populate(64 << 20, 1 << 40),
            cancel=self.cancel,
        )
        self.around = around
        self.lost: LostValues | None = None
        self.bridging = Bridging(self.memory, name, 1, around)
        self.driver = Process(self.memory, 1)
        self.workers: list[Worker] = []
        self.functions: dict[str, Any] = {}
        self.templates: dict[Any, Any] = {}

    def find_actor(self, name: Name, place: bytes) -> tuple[int, int, int] | str:
        key = self.bridging.proxies.key_of(name) or 0
        if key not in self.actor_queues:
            return "the actor is not here"
        return (*self.actor_queues[key], JOB)

    def keep_lineage(self) -> LostValues:
        """From now on results that are lost are made again, as the daemon does it."""
        self.lost = LostValues(Loop(), self.memory, 1 << 24, self._told)
        self.around.lost, self.around.bring_back = self.lost.gone, self.lost.want
        self.lost.made_again = self._made_again
        return self.lost

    def _made_again(self, key: int, by: int) -> None:
        self.bridging.pulling.stays_as(by, key)
        self.bridging.pulling.sources.came_back(key)

    def _told(self, event: Any) -> None:
        if isinstance(event, events.ValueLost):
            self.memory.lose(event.key, lost_value(event.reason))
            self.bridging.pulling.sources.came_back(event.key)

    def cancel(self, key: int, *how: bool) -> None:
        self.cancelled.append(key)
        record = records.pack("TaskCancelledError", stage="queued")
        self.memory.cancel(key, how[0], record, record)

    def add_worker(self, queue: int | None = None) -> Worker:
        worker = Worker(self, self.queue[0] if queue is None else queue)
        self.workers.append(worker)
        return worker

    def submit(
        self, function: str, *arguments: Any, args: Any = (), n: int = 1, retries: int = 0
    ) -> Any:
        """Like a driver: `args` are refs passed as they are, `arguments` what is pickled."""
        memory = self.driver.memory
        if function not in self.functions:
            self.functions[function] = memory.put_simple(function)
        template = _native.Template(
            function=self.functions[function].key, queue=self.queue[0],
            queue_generation=self.queue[1], job=JOB, n_returns=n, max_retries=retries,
        )  # fmt: skip
        pack = Pack(memory, arguments)
        return memory.submit(template, pack.data, list(args), pack.refs)

    def stream(self, function: str, *arguments: Any, limit: int = 0, retries: int = 0) -> Any:
        """Like a driver: refs to what a generator yields."""
        memory = self.driver.memory
        self.functions.setdefault(function, memory.put_simple(function))
        template = _native.Template(
            function=self.functions[function].key, queue=self.queue[0],
            queue_generation=self.queue[1], job=JOB, n_returns=1, max_retries=retries,
            flags=_native.FLAG_STREAM, limit=limit,
        )  # fmt: skip
        pack = Pack(memory, arguments)
        return streams.submitter(memory)(template, pack.data, [], pack.refs)

    def call(self, actor: Any, queue: tuple[int, int], *arguments: Any, retries: int = 0) -> Any:
        memory = self.driver.memory
        template = _native.Template(
            function=0, actor=actor.key, queue=queue[0], queue_generation=queue[1], job=JOB,
            flags=_native.FLAG_ACTOR, max_retries=retries,
        )  # fmt: skip
        pack = Pack(memory, arguments)
        return memory.submit(template, pack.data, [], pack.refs)

    def lend(self, ref: Any, node: str) -> None:
        key = ref.key if isinstance(ref, _native.ObjectRef) else ref
        assert self.bridging.lend(key, node)

    def turn(self) -> bool:
        """What the daemon does when its bell was rung."""
        self.memory.populate(16 << 20, 1 << 40)
        all_wait = all(self.memory.process_state(w.index)[3] for w in self.workers)
        if self.is_growing and all_wait and self.memory.queued(self.queue[0], 1):
            self.add_worker()
        rows = self.memory.inbox()
        if self.lost is not None:
            self.lost.look(rows)
        self.bridging.look(rows)
        self.bridging.validate()
        return bool(rows)


def _is_over(bridging: Bridging) -> bool:
    """Nothing crosses, and nobody holds what is elsewhere."""
    machine = bridging.machine
    ways = (machine.lendings, machine.visits, len(bridging.lending), len(bridging.visiting))
    flows = (len(bridging.lending.streams), len(bridging.visiting.streams))
    return (
        not any(ways)
        and not any(flows)
        and bridging.proxies.refs.is_empty
        and bridging.pulling.is_empty
    )


class Nodes:
    """Nodes a, b, ... and what is on its way between them."""

    def __init__(self, *names: str) -> None:
        self.links: dict[tuple[str, str], deque[bytes]] = {}
        self.cut: set[str] = set()
        self.pulls: deque[Any] = deque()
        self.pulled: list[tuple[str, str, int]] = []
        self.alarms: list[tuple[float, Callable[[], None]]] = []
        self.all = {name: Node(self, name) for name in names}
        self.dead: set[str] = set()
        self.rows: list[Any] = []
        for node in self.all.values():
            for other in names:
                if other != node.name:
                    node.bridging.node_joined(other, 1)

    def __getitem__(self, name: str) -> Node:
        return self.all[name]

    def post(self, frm: str, to: str, data: bytes) -> None:
        if to not in self.dead and frm not in self.dead:
            self.links.setdefault((frm, to), deque()).append(data)

    def kill(self, name: str) -> None:
        """The node is gone at once, and declared dead."""
        self.dead.add(name)
        for worker in self.all[name].workers:
            worker._is_stopped = True
        for pair in [pair for pair in self.links if name in pair]:
            del self.links[pair]
        lost, kept = [], deque[Any]()
        for pull in self.pulls:
            (lost if name in pull[:2] else kept).append(pull)
        self.pulls = kept
        for other in self.living():
            other.bridging.node_lost(name)
        for frm, _, _, _, done in lost:
            if frm not in self.dead:
                done("the node is lost")

    def living(self) -> list[Node]:
        return [node for node in self.all.values() if node.name not in self.dead]

    # ---- what happens by itself
    def turn(self) -> bool:
        """A little of everything; whether anything was there to happen."""
        busy = False
        for pair, link in list(self.links.items()):
            while link and not self.cut & set(pair):
                busy = True
                body = _decoder.decode(link.popleft())
                self.rows.append((*pair, body))
                self.all[pair[1]].bridging.receive(pair[0], body)
        for _ in range(len(self.pulls)):
            pull = self.pulls.popleft()
            if self.cut & set(pull[:2]):
                self.pulls.append(pull)
            else:
                busy = True
                self._transfer(*pull)
        now = time.monotonic()
        due = [call for at, call in self.alarms if at <= now]
        self.alarms = [alarm for alarm in self.alarms if alarm[0] > now]
        for call in due:
            call()
        for node in self.living():
            busy = node.turn() or busy
        return busy or bool(due)

    def _transfer(
        self, to: str, frm: str, name: bytes, into: memoryview, done: Callable[[str], None]
    ) -> None:
        found = self.all[frm].bridging.open_source(to, name)
        if found is None:
            done("there is nothing of that name")
            return
        view, release = found
        assert len(view) == len(into)
        into[:] = view
        del view
        release()
        self.pulled.append((frm, to, len(into)))
        done("")

    def until(self, is_true: Callable[[], Any], seconds: float = 20.0) -> None:
        """Let things happen until something is true."""
        end = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < end, "it does not come true"
            if not self.turn():
                time.sleep(0.0005)

    def get(self, node: str, ref: Any) -> Any:
        """What a driver of that node gets, while everything else goes on."""
        out: list[Any] = []

        def wait() -> None:
            try:
                out.append((True, self.all[node].driver.memory.get(ref, WAIT_S)))
            except Exception as error:
                out.append((False, error))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        self.until(lambda: out)
        thread.join(5)
        is_value, value = out[0]
        if is_value:
            return value
        raise value

    def quiet(self) -> None:
        """Until nothing has happened for a while."""
        still = time.monotonic()
        while time.monotonic() < still + 0.05:
            if self.turn():
                still = time.monotonic()
            time.sleep(0.001)

    def finish(self) -> None:
        """All refs of the test are gone: nothing may be left anywhere."""
        for node in self.living():
            node.functions.clear()
            for home in self.all:
                node.bridging.visiting.job_ended(home, JOB)
            for worker in node.workers:
                worker.stop()
        gc.collect()
        # What is on its way may take its time; what stays is named below.
        end = time.monotonic() + SETTLE_S
        while not all(_is_over(node.bridging) for node in self.living()):
            if time.monotonic() > end:
                break
            if not self.turn():
                time.sleep(0.0005)
        self.quiet()
        for node in self.living():
            bridging = node.bridging
            assert not bridging.machine.lendings and not bridging.machine.visits
            assert len(bridging.lending) == 0 and len(bridging.visiting) == 0
            assert bridging.proxies.refs.is_empty, node.name
            assert bridging.pulling.is_empty, node.name
            audit = node.memory.audit()
            left = {kind: n for kind, n in audit.items() if n}
            assert not left, (node.name, left, node.memory.list_objects(20))
