"""Any argument to any native entry point: one child of the fuzz, `python -m ... SEED SECONDS`.

Every function, method and property of `shoal._native` (found by looking into the module; the types
of the arguments come from its stub) is called again and again with arguments that are right, wrong
or extreme: huge and negative numbers, NaN, refs of another session or of a closed one, keys of
freed slots, indexes out of range, buffers that are not contiguous, objects whose methods raise.

What must hold: a call returns, or raises one of `DOCUMENTED`; the process does not crash and no
call outlasts its alarm; and a bystander, who works in the same node memory, finds its values and
its tasks as it left them. In the end, when everybody has let go, the audit must find nothing.

A few calls destroy by design (`repair` of a living process, `fail` of a task that runs): they are
asked only about others than the bystander, see `_is_forbidden`. What is about to be called is
written to a file first, so that the parent can say what killed a child.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import json
import os
import pickle
import random
import select
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal import _native, errors

STUB = Path(_native.__file__).parent / "_native.pyi"
DOCUMENTED = (
    TypeError, ValueError, LookupError, RuntimeError, OverflowError, MemoryError, TimeoutError,
    BufferError, AttributeError, ArithmeticError, _native.SessionLostError, errors.ShoalError,
)  # fmt: skip
ALARM_S = 0.05
BYSTANDER_JOB = 77
# Entry points that end the memory for everybody, or a process: called by the end of the program.
LAST = {"punch"}
# Called in `Fuzz.extremes`: what they make must be closed, and descriptors must be our own.
APART = {"create", "attach"}
OTHERS = (_native.Template, _native.Draft, _native.SharedBlock, _native.Channel)
NUMBERS = (
    -1, 0, 1, 2, 3, 7, 64, 255, 4095, 4096, 9215, 9216, 16384, 2**22 - 1, 2**22, 2**31 - 1, 2**31,
    2**32 - 1, 2**32, 2**32 + 1, 2**33 + 2, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30,
)  # fmt: skip
SECONDS = (0, 0, 0, 0.001, -1.0, float("nan"), float("inf"), -float("inf"), 1e300, None, True)


class Alarm(BaseException):
    """A call lasted too long and was interrupted: fine for one that may wait."""


class Odd:
    """Every question about it raises."""

    def _raise(self, *_: object) -> Any:
        raise ZeroDivisionError("odd")

    __index__ = __len__ = __iter__ = __getitem__ = _raise
    __eq__ = __hash__ = __float__ = __bool__ = _raise  # type: ignore[assignment]


class Failed(Exception):
    """What `get` raises for an error value."""


def set_hooks(memory: Any) -> Any:
    memory.set_hooks(
        loads=pickle.loads, error=lambda _format, data, _ref: Failed(data), help=None,
        future=lambda ref: ref, wait=lambda ref: iter([ref]), escaped=lambda ref: (int, (ref.key,)),
    )  # fmt: skip
    return memory


def attach(daemon: Any) -> Any:
    index = daemon.open_process(1)
    fd, bell = os.dup(daemon.fd), os.dup(daemon.eventfd)
    return set_hooks(_native.Memory.attach(fd, bell, index))


def populate_on_demand(daemon: Any) -> None:
    """The daemon's part of an allocation, as long as this program lives."""

    def answer() -> None:
        while True:
            daemon.populate(64 << 20, 1 << 40)
            select.select([daemon.eventfd], [], [], 1.0)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(daemon.eventfd)

    threading.Thread(target=answer, daemon=True).start()


class Bystander:
    """Somebody who minds his own business in the same memory."""

    def __init__(self, daemon: Any) -> None:
        self.daemon = daemon
        self.memory = attach(daemon)
        self.queue = daemon.new_queue(_native.QUEUE_CLASS, BYSTANDER_JOB)
        put = self.memory.put
        self.inner = self.memory.put_simple("inner")
        self.values = [bytes([n % 251]) * size for n, size in enumerate((1, 65, 4000, 300_000) * 8)]
        self.refs = [put(_native.FORMAT_BYTES, value, [], []) for value in self.values]
        captured: list[Any] = []
        self.memory.capture(captured)
        data = pickle.dumps(["outer", self.inner], 5)
        self.memory.capture(None)
        self.outer = put(_native.FORMAT_PICKLE, data, [], captured)
        template = _native.Template(
            function=9, queue=self.queue[0], queue_generation=self.queue[1], job=BYSTANDER_JOB
        )
        self.first = self.memory.submit(template, b"first")
        self.second = self.memory.submit(template, b"second", [self.first])
        refs = [*self.refs, self.inner, self.outer, self.first, self.second]
        self.slots = {ref.key & 0xFFFFFFFF for ref in refs}

    def check(self) -> None:
        for ref, value in zip(self.refs, self.values, strict=True):
            assert self.memory.get(ref, 0) == value, "a value changed"
        word, inner = self.memory.get(self.outer, 0)
        assert word == "outer" and self.memory.get(inner, 0) == "inner"
        assert not self.first.is_sealed() and not self.second.is_sealed()

    def end(self) -> None:
        """Its tasks run in order, and everything is let go."""
        self.check()
        self.daemon.set_lease(0.0)  # it is everybody's: over, nobody would begin anything
        self.daemon.assign(self.memory.index, self.queue[0])
        for payload in (b"first", b"second"):
            task = self.memory.take(0)
            while isinstance(task, int):
                task = self.memory.take(0)
            assert bytes(task.payload()) == payload
            assert task.seal(payload)
        assert self.memory.get_many([self.first, self.second], 1) == [b"first", b"second"]
        self.refs = self.inner = self.outer = self.first = self.second = None
        self.memory.close()
        self.daemon.repair(self.memory.index)
        self.daemon.close_process(self.memory.index)


def signatures() -> dict[str, list[tuple[str, str, bool]]]:
    """`Class.method` -> (argument, annotation, is keyword-only), from the stub."""
    found = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    args = [(a, False) for a in item.args.args if a.arg not in ("self", "cls")]
                    args += [(a, True) for a in item.args.kwonlyargs]
                    found[f"{node.name}.{item.name}"] = [
                        (a.arg, ast.unparse(a.annotation) if a.annotation else "Any", only)
                        for a, only in args
                    ]
    return found


class Fuzz:
    def __init__(self, seed: int, log: int) -> None:
        self.random = random.Random(seed)
        self.log = log
        self.is_armed = False
        self.daemon = set_hooks(_native.Memory.create(48 << 20, 2, b"fuzz", 64))
        populate_on_demand(self.daemon)
        spare = [self.daemon.new_queue(_native.QUEUE_CLASS, 1)[0] for _ in range(40)]
        self.bystander = Bystander(self.daemon)  # its queue is one that nobody guesses
        for queue in spare:
            self.daemon.free_queue(queue)
        self.elsewhere = set_hooks(_native.Memory.create(8 << 20, 1, b"other", 16))
        populate_on_demand(self.elsewhere)
        gone = attach(self.daemon)
        self.gone_ref = gone.put_simple(1)
        gone.close()
        self.daemon.repair(gone.index)
        self.daemon.close_process(gone.index)
        self.gone = gone
        self.queues = [self.daemon.new_queue(kind, 1) for kind in (1, 1, 2)]
        self.calls: Counter[str] = Counter()
        self.returned: Counter[str] = Counter()
        self.raised: Counter[str] = Counter()
        self.keys: list[int] = []
        self.adopted: list[int] = []
        self.proxies: list[int] = []
        self.cells: list[int] = []
        self.pool: list[Any] = []
        self.signatures = signatures()
        self.begin()

    # ---- who is asked
    def begin(self) -> None:
        """A new subject: a process of its own, with an assigned queue."""
        self.subject = attach(self.daemon)
        self.running: set[int] = set()  # slots of tasks that it has taken
        self.forbidden = {0, self.bystander.memory.index, self.subject.index}
        self.daemon.assign(self.subject.index, self.queues[self.random.randrange(3)][0])

    def end_subject(self) -> None:
        self.subject.close()
        for key, *_ in self.daemon.repair(self.subject.index):
            assert self.daemon.fail(key, b"\x92\xa5Error\x80")
        self.daemon.close_process(self.subject.index)

    def targets(self) -> dict[str, list[Any]]:
        kinds = ("Task", "Template", "Draft", "SharedBlock", "Channel")
        of: dict[str, list[Any]] = {"ObjectRef": [self.gone_ref], **{kind: [] for kind in kinds}}
        for thing in self.pool:
            of.get(type(thing).__name__, []).append(thing)
        memories = [self.subject] * 8 + [self.daemon] * 4 + [self.gone, self.elsewhere]
        return of | {"Memory": memories}

    # ---- with what
    def number(self) -> Any:
        pick = self.random.random()
        if pick < 0.3:
            return self.random.choice(NUMBERS)
        if pick < 0.6:
            return self.random.randrange(0, 12)
        if pick < 0.75:
            return self.random.choice(self.queues)[self.random.randrange(2)]
        if pick < 0.95 and self.keys:
            key = self.random.choice(self.keys)
            return key + self.random.choice((0, 0, 0, 1, 1 << 32, -(1 << 32)))
        return self.random.getrandbits(64)

    def data(self) -> Any:
        raw = pickle.dumps(self.random.random(), 5)
        view = memoryview(bytearray(64))
        cut = self.random.randrange(1 + len(raw))
        make: list[Callable[[], Any]] = [
            lambda: raw, lambda: raw[:cut], lambda: b"", lambda: bytearray(300), lambda: view,
            lambda: view[::2], lambda: b"x" * self.random.choice((64, 65, 5000, 1 << 20, 5 << 20)),
            lambda: self.random.randbytes(200), lambda: pickle.PickleBuffer(b"buffer" * 20),
        ]  # fmt: skip
        return self.random.choice(make)()

    def junk(self) -> Any:
        choices = (
            None, True, 1.5, float("nan"), "text", "\udc80", b"bytes", (), [], [None], {}, Odd(),
            object(), Odd, len, [Odd()], range(3), self.gone_ref, self.gone, self.subject,
        )  # fmt: skip
        return self.random.choice(choices) if self.random.random() < 0.6 else self.number()

    def refs(self) -> Any:
        known = [x for x in self.pool if isinstance(x, _native.ObjectRef)] or [self.gone_ref]
        out = [self.random.choice(known) for _ in range(self.random.randrange(4))]
        if self.random.random() < 0.1:
            out.append(self.random.choice([self.gone_ref, None, 3, Odd(), *self.bystander.refs]))
        return out

    def argument(self, annotation: str) -> Any:
        if self.random.random() < 0.1:
            return self.junk()
        if "ObjectRef]" in annotation:
            return self.refs() if self.random.random() < 0.9 else self.junk()
        if "Callable" in annotation:
            return pickle.loads
        if "float" in annotation:
            return self.random.choice(SECONDS)
        if "ObjectRef" in annotation or "Template" in annotation or "Task" in annotation:
            kind = annotation.split(" ", maxsplit=1)[0]
            return self.random.choice(self.targets().get(kind) or [None])
        if "bytes" in annotation or annotation == "Any":
            return self.data() if self.random.random() < 0.7 else self.junk()
        if "Sequence[Any]" in annotation:
            return [self.data() for _ in range(self.random.randrange(3))]
        if "Sequence[int]" in annotation:
            return [self.number() for _ in range(self.random.randrange(4))]
        if annotation == "bool":
            return self.random.random() < 0.5
        return self.number()

    # ---- the call
    def _is_forbidden(self, name: str, args: list[Any], target: Any) -> bool:
        """Would this call, by what it is for, take from the bystander or from a running task?"""
        first = args[0] if args and isinstance(args[0], int) else None
        if name in ("repair", "release_pins", "close_process"):
            return first in self.forbidden
        if name in ("kill_queue", "free_queue"):
            return self._names_bystander(first)
        if name == "end_job":
            return first == BYSTANDER_JOB
        if name in ("set_lost", "evict", "fill", "rebuild"):  # values, and tasks, of anybody
            return target is not self.elsewhere
        if name in ("fail", "requeue", "cancel", "release", "adopt") and first is not None:
            slot = first & 0xFFFFFFFF
            is_task = name in ("fail", "requeue", "cancel")
            if name == "release" and first in self.proxies:
                return True
            return slot in self.bystander.slots or (is_task and slot in self.running)
        if name == "submit":  # the daemon submits nothing: its lanes would outlive this program
            return target is self.daemon
        return name == "assign" and (
            first in (0, self.bystander.memory.index) or any(map(self._names_bystander, args[1:2]))
        )

    def _names_bystander(self, queue: object) -> bool:
        return isinstance(queue, int) and queue == self.bystander.queue[0]

    def keep(self, name: str, result: Any, args: list[Any], target: Any) -> None:
        if name == "new_proxy":
            self.keys.append(result)
            if target is self.daemon:
                self.proxies.append(result)
        if name == "adopt" and result is True and target is not self.elsewhere:
            self.adopted.append(args[0])
        if name == "new_pending":
            self.cells.append(result.key)
        for thing in result if isinstance(result, list | tuple) else [result]:
            if isinstance(thing, _native.Task):
                self.running.add(thing.key & 0xFFFFFFFF)
            if isinstance(thing, _native.ObjectRef | _native.Task):
                self.keys.append(thing.key)
                self.pool.append(thing)
            elif isinstance(thing, OTHERS):
                self.pool.append(thing)
        while len(self.pool) > 60:
            self.pool.pop(self.random.randrange(len(self.pool)))
        del self.keys[:-200]

    def call(self, where: str, function: Callable[..., Any], args: list[Any], named: Any) -> None:
        self.calls[where] += 1
        text = f"{where} {[repr(a)[:60] for a in args]} {sorted(named)}"
        os.pwrite(self.log, text.encode(errors="replace").ljust(2000)[:2000], 0)
        try:
            self.watched(where, function, args, named)
        except Alarm:  # it came when the call had ended, and was being written down
            self.raised["Alarm"] += 1
        finally:
            self.is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def watched(
        self, where: str, function: Callable[..., Any], args: list[Any], named: Any
    ) -> None:
        try:
            self.is_armed = True  # the alarm comes again and again: a destructor may swallow one
            signal.setitimer(signal.ITIMER_REAL, ALARM_S, ALARM_S)
            result = function(*args, **named)
            self.is_armed = False
            self.returned[where] += 1
            name = where.rsplit(".", maxsplit=1)[-1]
            self.keep(name, result, args, getattr(function, "__self__", None))
        except (*DOCUMENTED, Alarm, Failed, pickle.UnpicklingError, EOFError) as error:
            self.is_armed = False  # first: a late alarm would end the program in here
            self.raised[type(error).__name__] += 1

    def interrupt(self, _signal: int, _frame: object) -> None:
        if self.is_armed:
            raise Alarm

    def step(self) -> None:
        if self.random.random() < 0.06:
            self.random.choice((*[self.work] * 5, self.share, self.bridge))()
            return
        targets = self.targets()
        kinds = [*["Memory"] * 3, "ObjectRef", "Task", "Template", "Draft", "module"]
        kinds += ["SharedBlock", "Channel"]
        kind = self.random.choice(kinds)
        if kind == "module":
            opens = [_native._open_block, _native._open_channel]
            function = self.random.choice([_native._restore_ref, _native.Template, *opens])
            if function is _native.Template:
                self.make_template()
            else:
                argument = self.random.choice([self.junk(), *self.refs()])
                self.call(function.__name__, function, [argument], {})
            return
        if not targets[kind]:
            return
        target = self.random.choice(targets[kind])
        names = [n for n in dir(target) if n in vars(type(target)) and n not in LAST | APART]
        name = self.random.choice(names)
        where = f"{kind}.{name}"
        if name == "close" and target is self.subject:
            self.calls[where] += 1
            self.end_subject()
            self.begin()
            return
        if name in ("close", "set_hooks") and target in (self.daemon, self.elsewhere):
            return
        attribute = vars(type(target)).get(name)
        if not callable(attribute):
            self.call(where, lambda: getattr(target, name), [], {})
            return
        wanted = self.signatures.get(where)
        if wanted is None or self.random.random() < 0.05:
            args, named = [self.junk() for _ in range(self.random.randrange(3))], {}
        else:
            args = [self.argument(a) for _, a, only in wanted if not only]
            named = {n: self.argument(a) for n, a, only in wanted if only}
        if name == "__init__" or self._is_forbidden(name, args, target):
            return
        self.call(where, getattr(target, name), args, named)
        if name == "set_hooks":
            set_hooks(target)
        elif name == "capture":
            target.capture(None)
        elif name == "loading":
            target.loaded()

    def work(self) -> None:
        """A call that is right, so that there are tasks to ask."""
        place = self.random.randrange(3)
        queue, generation = self.queues[place]
        if self.daemon.is_queue_dead(queue, generation):
            self.queues[place] = queue, generation = self.daemon.new_queue(1 + place // 2, 1)
        template = _native.Template(
            function=1, queue=queue, queue_generation=generation, job=1, max_retries=3,
            n_returns=self.random.choice((0, 1, 1, 2, 3)), flags=2 if place == 2 else 1,
        )  # fmt: skip
        refs = [x for x in self.refs() if getattr(x, "memory", None) is self.subject]
        self.call("Memory.submit", self.subject.submit, [template, b"payload", refs, refs], {})
        self.daemon.assign(self.subject.index, queue)
        for _ in range(self.random.randrange(4)):
            self.call("Memory.take", self.subject.take, [0], {})

    def share(self) -> None:
        """Blocks and channels that are right, opened twice, and what is sent through them."""
        capacity, slots = self.random.choice((0, 100, 5000, 100_000)), self.random.randrange(1, 5)
        if sum(isinstance(x, _native.Channel) for x in self.pool) < 6:
            self.call("Memory.channel", self.subject.channel, [capacity, slots, slots], {})
            self.call("Memory.shared_block", self.subject.shared_block, [capacity], {})
        for thing in self.targets()["SharedBlock"][:2]:
            with contextlib.suppress(*DOCUMENTED), memoryview(thing) as view:
                view[: len(view) // 2] = bytes(len(view) // 2)
            self.call("_open_block", _native._open_block, [thing.ref], {})
        for channel in self.targets()["Channel"][-3:]:
            if channel.memory is not self.subject:
                continue
            self.call("_open_channel", _native._open_channel, [channel.ref], {})
            values = (1, "text", self.data(), [self.subject.put_simple(7)], bytearray(200))
            large = pickle.PickleBuffer(bytes(60_000))
            for value in (*values, [large], RuntimeError("sent")):
                self.call("Channel.write", channel.write, [value, 0], {})
            for reader in range(channel.readers):
                self.call("Channel.read", channel.read, [reader, 0], {})

    def bridge(self) -> None:
        """Proxies that are right, what is said of them, and who looks at them."""
        self.call("Memory.new_proxy", self.daemon.new_proxy, [1, self.random.randbytes(32)], {})
        key = self.random.choice(self.proxies or [0])
        image = bytearray(self.random.randbytes(self.random.randrange(24, 200)))
        image[:24] = (
            b"\0" * 8 + (24).to_bytes(8, "little") + (len(image) - 24).to_bytes(8, "little")
        )
        if self.random.random() < 0.5:
            image[self.random.randrange(24)] = self.random.randrange(256)
        in_block = self.random.random() < 0.5
        say = self.random.choice((
            ("seal_image", [key, _native.FORMAT_BYTES, in_block, bytes(image), []]),
            ("seal_elsewhere", [key, _native.FORMAT_BYTES, self.random.choice((24, 100, 1 << 20))]),
        ))  # fmt: skip
        self.call(f"Memory.{say[0]}", getattr(self.daemon, say[0]), say[1], {})
        self.call("Memory.ref", self.subject.ref, [key], {})
        self.call("Memory.open_image", self.daemon.open_image, [self.random.choice(self.keys)], {})
        if isinstance(moving := self.daemon.begin_restore(key), _native.Moving):
            with memoryview(moving) as view:
                view[: min(len(view), len(image))] = image[: len(view)]
            self.call("Memory.end_pull", self.daemon.end_pull, [moving, []], {})

    def make_template(self) -> None:
        named = {n: self.argument(a) for n, a, _ in self.signatures["Template.__init__"]}
        if self.random.random() < 0.8:  # mostly one that works
            queue, generation = self.random.choice(self.queues)
            named |= {"queue": queue, "queue_generation": generation, "job": 1, "actor": 0}
            named |= {"n_returns": self.random.choice((0, 1, 1, 2, 3, 300)), "function": 1}
            named |= {"flags": self.random.choice((0, 1, 2, 4, 7)), "method": 0, "max_retries": 3}
        if not self._names_bystander(named["queue"]):
            self.call("Template.__init__", _native.Template, [], named)

    def extremes(self) -> None:
        """Memory of odd sizes, and memory whose header is damaged: an error, never a crash."""
        for capacity in (0, 1, 1 << 20, 1 << 40, 1 << 46, 1 << 63, (1 << 64) - 1, -1):
            for cores, extents in ((0, 0), (2**32 - 1, 1), (1, 2**32 - 1), (1, 1000)):
                with contextlib.suppress(*DOCUMENTED):
                    made = _native.Memory.create(capacity, cores, b"", extents)
                    made.audit()
                    made.close()
                    os.close(made.fd)
                    os.close(made.eventfd)
        self.calls["Memory.create"] += 1
        size = os.fstat(self.daemon.fd).st_size
        header = os.pread(self.daemon.fd, 4096, 0)
        for _ in range(200):
            damaged = bytearray(header)
            for _ in range(self.random.choice((0, 1, 1, 2, 50))):
                damaged[self.random.randrange(40 + 16 * 8)] ^= 1 << self.random.randrange(8)
            file = os.memfd_create("damaged")
            os.ftruncate(file, self.random.choice((0, 100, 4096, size, size - 1, size)))
            os.pwrite(file, damaged[: self.random.choice((0, 100, 4096, 4096, 4096))], 0)
            bell = os.dup(self.daemon.eventfd)
            try:
                memory = _native.Memory.attach(file, bell, self.random.choice((1, 4095, 4096)))
                set_hooks(memory).audit()
                memory.close()
            except DOCUMENTED:
                os.close(file)
                os.close(bell)
        self.calls["Memory.attach"] += 1

    def end(self) -> None:
        """Everybody lets go: nothing may be left."""
        self.pool.clear()
        self.end_subject()
        gc.collect()
        for key in self.proxies:  # what waits for one that is let go unsealed waits for ever
            self.daemon.seal_image(key, _native.FORMAT_BYTES, False, b"")
        for key in self.adopted + self.proxies:
            self.daemon.release(key)
        for key in self.cells:  # what waits for one that nobody seals waits for ever
            cell = self.daemon.ref(key)
            if cell is not None:
                self.daemon.seal_pending(cell)
        cell = None
        for queue, _ in self.queues:
            self.daemon.kill_queue(queue, b"\x92\xa5Error\x80")
        for job in {1, *range(12), *(n for n in NUMBERS if 0 <= n < 2**32)} - {BYSTANDER_JOB}:
            self.daemon.end_job(job, b"\x92\xa5Error\x80")
        self.bystander.end()
        gc.collect()
        audit = self.daemon.audit()
        left = self.daemon.list_objects(9), self.daemon.list_tasks(9)
        assert not any(audit.values()), (audit, left)


def main() -> None:
    seed, total, log = (int(word) for word in sys.argv[1:4])

    fuzz = Fuzz(seed, log)
    signal.signal(signal.SIGALRM, fuzz.interrupt)
    for step in range(total):
        fuzz.step()
        if step % 500 == 499:
            fuzz.bystander.check()
    fuzz.extremes()
    fuzz.end()
    fuzz.daemon.punch()
    fuzz.calls["Memory.punch"] += 1
    counts = {"steps": total, "calls": fuzz.calls, "returned": fuzz.returned, "raised": fuzz.raised}
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
