"""What else the user guides walk through: names, owners, exceptions, annotations, mixtures."""

import asyncio
import collections
import concurrent.futures
import dataclasses
import enum
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import ray
from telling import caught, tell


class Colour(enum.Enum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Order:
    item: str
    n: int = 1


class Awkward(Exception):
    """Its constructor takes more than what is in ``args``."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class Final(Exception):
    def __init_subclass__(cls, **given):
        raise TypeError("it has no subclasses")


def eventually(condition, seconds=30):
    """Whether ``condition()`` becomes true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# ---- names ------------------------------------------------------------------------------------


def story_namespaces():
    """A name is looked up in one namespace."""

    @ray.remote(num_cpus=0)
    class Actor:
        def where(self):
            return ray.get_runtime_context().namespace

    here = Actor.options(name="one").remote()
    there = Actor.options(name="one", namespace="elsewhere").remote()
    found = ray.get_actor("one", namespace="elsewhere")
    names = ray.util.list_named_actors(all_namespaces=True)
    return (
        ray.get([here.where.remote(), found.where.remote()]),
        ray.get_actor("one") == here,
        found == there,
        sorted(row["namespace"] for row in names if row["name"] == "one"),
        ray.util.list_named_actors().count("one"),
        caught(lambda: ray.get_actor("one", namespace="nowhere"), ValueError),
    )


OTHER_PROGRAM = """
import sys

import ray
ray.init(address=sys.argv[1], namespace="stories", log_to_driver=False)

@ray.remote(num_cpus=0)
class Actor:
    def who(self):
        return "made by another program"

kept = Actor.options(name="kept", lifetime="detached").remote()
gone = Actor.options(name="gone").remote()
print(ray.get([kept.who.remote(), gone.who.remote()]))
print(ray.get(ray.get_actor("counter").add.remote(5)))
"""


def story_two_programs():
    """Another program joins: it finds our actor, and only its detached actor outlives it."""

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self, n):
            self.n += n
            return self.n

    counter = Counter.options(name="counter").remote()
    ray.get(counter.add.remote(1))
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", OTHER_PROGRAM, address]
    said = subprocess.run(command, capture_output=True, text=True, timeout=50)
    ended = eventually(lambda: "gone" not in ray.util.list_named_actors())
    kept = ray.get(ray.get_actor("kept").who.remote())
    ray.kill(ray.get_actor("kept"))
    return said.stdout.splitlines(), ended, kept, ray.get(counter.add.remote(1))


def story_creator_of_an_actor_dies():
    """What an actor has made dies with it, unless it is detached."""

    @ray.remote(num_cpus=0)
    class Child:
        def ping(self):
            return "here"

    @ray.remote(num_cpus=0)
    class Parent:
        def make(self):
            self.child = Child.remote()
            self.kept = Child.options(name="kept child", lifetime="detached").remote()
            return self.child, self.kept, os.getpid()

    parent = Parent.remote()
    child, kept, pid = ray.get(parent.make.remote())
    os.kill(pid, signal.SIGKILL)

    died = ray.exceptions.RayActorError
    eventually(lambda: caught(lambda: ray.get(parent.make.remote()), died))
    dead = eventually(lambda: caught(lambda: ray.get(child.ping.remote()), died), 3)
    said = ray.get(kept.ping.remote())
    ray.kill(kept)
    return dead, said


def story_maker_of_a_value_dies():
    """A value that an actor put, when that actor is gone."""

    @ray.remote(num_cpus=0)
    class Maker:
        def make(self):
            return [ray.put(np.ones(300_000))]

    maker = Maker.remote()
    [ref] = ray.get(maker.make.remote())
    before = float(ray.get(ref).sum())
    ray.kill(maker)
    eventually(lambda: caught(lambda: ray.get(maker.make.remote()), Exception))
    time.sleep(1)
    owner_died = ray.exceptions.OwnerDiedError
    return before, caught(lambda: ray.get(ref, timeout=20), owner_died)


# ---- exceptions -------------------------------------------------------------------------------


def story_exceptions_with_odd_constructors():
    @ray.remote
    def fail():
        raise Awkward(7, "seven")

    try:
        ray.get(fail.remote())
    except Awkward as error:
        return (
            isinstance(error, ray.exceptions.RayTaskError),
            type(error.cause) is Awkward,
            error.cause.code,
            str(error.cause),
        )


def story_exceptions_that_have_no_subclasses():
    @ray.remote
    def fail():
        raise Final("final")

    try:
        ray.get(fail.remote())
    except ray.exceptions.RayTaskError as error:
        return isinstance(error, Final), type(error.cause) is Final, str(error.cause)


def story_exceptions_that_can_not_travel():
    class Locked(Exception):
        def __init__(self):
            super().__init__("locked")
            self.lock = threading.Lock()

    @ray.remote
    def fail():
        raise Locked

    return caught(lambda: ray.get(fail.remote()), ray.exceptions.RayError)


def story_groups_of_exceptions():
    @ray.remote
    def fail():
        raise ExceptionGroup("several", [ValueError(1), KeyError(2)])

    seen = []
    try:
        ray.get(fail.remote())
    except* ValueError as group:
        seen.append(len(group.exceptions))
    except* KeyError as group:
        seen.append(len(group.exceptions))
    return seen


def story_leaving_a_task():
    """sys.exit in a task."""

    @ray.remote(max_retries=0)
    def leave(code):
        sys.exit(code)

    return [
        caught(lambda code=code: ray.get(leave.remote(code)), ray.exceptions.RayError)
        for code in (0, 3)
    ]


def story_leaving_an_actor():
    """sys.exit in a method ends the actor, whatever the code."""

    @ray.remote(num_cpus=0)
    class Actor:
        def leave(self, code):
            sys.exit(code)

    def leave(code):
        return caught(lambda: ray.get(Actor.remote().leave.remote(code)), died)

    died = ray.exceptions.RayActorError
    return [leave(code) for code in (0, 1, None, "reason")]


def story_leaving_for_good():
    """sys.exit(0) is an intended end: no restart, however many there may be."""

    @ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    class Actor:
        def leave(self):
            sys.exit(0)

        def ping(self):
            return "here"

    actor = Actor.remote()
    died = ray.exceptions.RayActorError
    first = caught(lambda: ray.get(actor.leave.remote(), timeout=30), died)
    return first, caught(lambda: ray.get(actor.ping.remote(), timeout=30), died)


def story_leaving_and_coming_back():
    """sys.exit(1) is a crash: the actor is restarted, and the call tried again."""

    @ray.remote(num_cpus=0, max_restarts=1, max_task_retries=1)
    class Actor:
        def __init__(self):
            self.restarted = ray.get_runtime_context().was_current_actor_reconstructed

        def work(self):
            if not self.restarted:
                sys.exit(1)
            return "restarted"

    return ray.get(Actor.remote().work.remote(), timeout=40)


# ---- functions and classes --------------------------------------------------------------------


def story_inheriting_from_an_actor_class():
    @ray.remote
    class Base:
        def who(self):
            return "base"

    def inherit():
        class Derived(Base):
            pass

        return Derived

    return caught(inherit, ray.actor.ActorClassInheritanceException)


def story_classes_of_the_program():
    """Objects of the program's own classes are of the same classes when they come back."""

    @ray.remote
    def change(colour, point, order):
        assert colour is Colour.RED and isinstance(point, Point)
        return colour, point._replace(x=5), dataclasses.replace(order, n=order.n + 1)

    colour, point, order = ray.get(change.remote(Colour.RED, Point(1, 2), Order("tea")))
    return colour is Colour.RED, type(point) is Point, point, order == Order("tea", 2)


def story_annotations():
    """The classes that stand in annotations can be given arguments there."""

    @ray.remote
    class Actor:
        pass

    def use(a: ray.ObjectRef[int], b: ray.actor.ActorHandle[int], c: ray.actor.ActorProxy[int]):
        return a, b, c

    kinds = [ray.remote_function.RemoteFunction, ray.actor.ActorClass]
    return len(use.__annotations__), [isinstance(Actor, kind) for kind in kinds]


def story_special_methods():
    """Methods with two underscores, and private ones, are called as others are."""

    @ray.remote(num_cpus=0)
    class Box:
        def __init__(self, *items, scale=1):
            self.items = [item * scale for item in items]

        def __call__(self, x):
            return [x, *self.items]

        def __len__(self):
            return len(self.items)

        def _hidden(self):
            return "hidden"

        @staticmethod
        def plain(x):
            return x

        @classmethod
        def name(cls):
            return cls.__name__

    box = Box.remote(1, 2, scale=10)
    return ray.get(
        [
            box.__call__.remote(0),
            box.__len__.remote(),
            box._hidden.remote(),
            box.plain.remote(7),
            box.name.remote(),
        ]
    )


def story_large_closure():
    """A captured array travels with the function, once."""
    table = np.arange(300_000)

    @ray.remote
    def look(i):
        return int(table[i])

    return ray.get([look.remote(i) for i in (0, 5, 299_999)])


def story_generator_with_several_returns():
    """Each yield is one of the declared returns: the task never has them all at once."""

    @ray.remote(num_returns=3)
    def blocks():
        for i in range(3):
            yield np.full(1_000, i)

    return [int(ray.get(ref).sum()) for ref in blocks.remote()]


def story_accelerators_by_type():
    from ray.util.accelerators import NVIDIA_A100, NVIDIA_TESLA_V100

    @ray.remote(accelerator_type=NVIDIA_A100)
    def run():
        return "ran"

    return NVIDIA_TESLA_V100, ray.get(run.remote())


def story_resources_limit_concurrency():
    """A resource that each task holds says how many of them run at once."""

    @ray.remote(num_cpus=0)
    class Watch:
        def __init__(self):
            self.now = self.most = 0

        def change(self, by):
            self.now += by
            self.most = max(self.most, self.now)
            return self.most

    watch = Watch.remote()

    @ray.remote(num_cpus=0.1, resources={"licence": 1})
    def work():
        ray.get(watch.change.remote(1))
        time.sleep(0.05)
        ray.get(watch.change.remote(-1))

    ray.get([work.remote() for _ in range(8)])
    return ray.get(watch.change.remote(0)) <= 2


# ---- waiting, asyncio and threads -------------------------------------------------------------


def story_generators_and_refs_waited_for_together():
    @ray.remote
    def stream():
        for i in range(3):
            yield i

    @ray.remote
    def plain():
        return "plain"

    unfinished, seen = [stream.remote(), plain.remote()], []
    while unfinished:
        [ready], unfinished = ray.wait(unfinished)
        if not isinstance(ready, ray.ObjectRefGenerator):
            seen.append(ray.get(ready))
            continue
        try:
            seen.append(ray.get(next(ready)))
        except StopIteration:
            continue
        unfinished.append(ready)
    return sorted(map(str, seen))


def story_asyncio_in_the_driver():
    @ray.remote
    def double(x):
        return 2 * x

    @ray.remote
    def stream(n):
        for i in range(n):
            yield i

    async def items(n):
        return [await ref async for ref in stream.remote(n)]

    async def main():
        gathered = await asyncio.gather(*[double.remote(i) for i in range(4)])
        one = await asyncio.wait_for(double.remote(10), timeout=40)
        futures = [asyncio.ensure_future(double.remote(i)) for i in range(3)]
        done, pending = await asyncio.wait(futures, timeout=40)
        first = [await each for each in asyncio.as_completed([double.remote(5)])]
        wrapped = await asyncio.wrap_future(double.remote(6).future())
        both = await asyncio.gather(items(2), items(3))
        return gathered, one, len(done), len(pending), first, wrapped, both

    return asyncio.run(main())


def story_get_in_an_asyncio_actor():
    """It blocks the loop, and works."""

    @ray.remote
    def value():
        return 3

    @ray.remote(num_cpus=0)
    class Actor:
        async def run(self):
            ready, _ = ray.wait([value.remote()])
            return ray.get(ready), ray.get(value.remote())

    return ray.get(Actor.remote().run.remote())


def story_threads_of_the_driver():
    @ray.remote
    def double(x):
        return 2 * x

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda x: ray.get(double.remote(x)), range(8)))
    called = []
    future = double.remote(4).future()
    future.add_done_callback(lambda done: called.append(done.result()))
    return got, eventually(lambda: called == [8])


def story_processes_of_a_task():
    @ray.remote
    def run():
        command = [sys.executable, "-c", "print(6 * 7)"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    return ray.get(run.remote())


def story_web_server_in_an_actor():
    """What talks over the network may live in an actor, beside its calls."""

    @ray.remote(num_cpus=0)
    class Server:
        def __init__(self):
            hits = self.hits = []

            class Answers(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    hits.append(self.path)
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(json.dumps(len(hits)).encode())

                def log_message(self, *args):
                    pass

            self.server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
            threading.Thread(target=self.server.serve_forever, daemon=True).start()

        def port(self):
            return self.server.server_address[1]

        def seen(self):
            return sorted(self.hits)

    server = Server.remote()
    port = ray.get(server.port.remote())

    @ray.remote(num_cpus=0.5)
    def ask(i):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{i}", timeout=30) as answer:
            return answer.status

    return ray.get([ask.remote(i) for i in range(3)]), ray.get(server.seen.remote())


# ---- names that are half public ---------------------------------------------------------------


def story_object_locations():
    import ray.experimental

    small, large = ray.put(1), ray.put(np.ones(300_000))
    told = ray.experimental.get_object_locations([small, large])
    me = ray.get_runtime_context().get_node_id()
    return (
        sorted(told[large]),
        told[large]["node_ids"] == [me],
        told[large]["object_size"] >= 2_400_000,
        len(told),
    )


def story_objects_of_tests():
    """An event and a semaphore that Ray's own tests, and those of others, are made with."""
    from ray._common.test_utils import Semaphore, SignalActor, wait_for_condition

    signal_actor, semaphore = SignalActor.remote(), Semaphore.remote(value=1)

    @ray.remote(num_cpus=0.5)
    def work():
        ray.get(signal_actor.wait.remote())
        ray.get(semaphore.acquire.remote())
        return "worked"

    refs = [work.remote() for _ in range(2)]
    wait_for_condition(lambda: ray.get(signal_actor.cur_num_waiters.remote()) == 2)
    ray.get(signal_actor.send.remote())
    ready, waiting = ray.wait(refs)
    locked = ray.get(semaphore.locked.remote())
    ray.get(semaphore.release.remote())
    return locked, len(waiting), ray.get(ready + waiting)


if __name__ == "__main__":
    tell(globals(), resources={"accelerator_type:A100": 1, "licence": 2})
