"""Actors: state, handles, names, lifetimes."""

import abc
import os
import time

import ray
from telling import caught, tell


@ray.remote
class Counter:
    """Counts."""

    def __init__(self, start=0):
        self.n = start

    def add(self, by=1):
        self.n += by
        return self.n

    def get(self):
        return self.n

    def pid(self):
        return os.getpid()

    def fail(self):
        raise ZeroDivisionError("counted too far")

    def crash(self):
        os._exit(1)


def story_state():
    """Calls of one caller run one after the other, in order."""
    counter = Counter.remote(10)
    refs = [counter.add.remote(i) for i in range(5)]
    return ray.get(refs), ray.get(counter.get.remote())


def story_handles_travel():
    """A handle goes to tasks and to other actors, also inside structures."""

    @ray.remote
    def add_twice(handles):
        for handle in handles["list"]:
            ray.get([handle.add.remote(), handle.add.remote()])

    @ray.remote
    class Holder:
        def __init__(self, handle):
            self.handle = handle

        def add(self):
            return ray.get(self.handle.add.remote())

    counter = Counter.remote()
    ray.get(add_twice.remote({"list": [counter]}))
    return ray.get(Holder.remote(counter).add.remote())


def story_error_leaves_it_alive():
    counter = Counter.remote()
    ref = counter.fail.remote()
    raised = caught(lambda: ray.get(ref), ZeroDivisionError, ray.exceptions.RayTaskError)
    return raised, ray.get(counter.add.remote())


def story_constructor_raises():
    """Calls of an actor whose constructor failed raise RayActorError."""

    @ray.remote
    class Broken:
        def __init__(self):
            raise ValueError("no start")

        def ping(self):
            return 1

    broken = Broken.remote()
    try:
        ray.get(broken.ping.remote())
    except ray.exceptions.RayActorError as error:
        return isinstance(error, ray.exceptions.ActorDiedError), "no start" in str(error)
    return None


def story_crash():
    """After a crash calls raise; without max_restarts it stays dead."""
    counter = Counter.remote()
    names = (ray.exceptions.RayActorError, ray.exceptions.ActorDiedError)
    first = caught(lambda: ray.get(counter.crash.remote()), *names)
    return first, caught(lambda: ray.get(counter.add.remote()), *names)


def story_kill():
    counter = Counter.remote()
    ray.get(counter.add.remote())
    ray.kill(counter)
    return caught(lambda: ray.get(counter.add.remote()), ray.exceptions.RayActorError)


def story_kill_of_something_else():
    return caught(lambda: ray.kill(1), ValueError)


def story_exit_actor():
    """exit_actor ends the process on purpose; that is no failure to be restarted."""

    @ray.remote(max_restarts=3)
    class Leaving:
        def leave(self):
            ray.actor.exit_actor()

        def ping(self):
            return 1

    leaving = Leaving.remote()
    first = caught(lambda: ray.get(leaving.leave.remote()), ray.exceptions.RayActorError)
    return first, caught(lambda: ray.get(leaving.ping.remote()), ray.exceptions.RayActorError)


def story_terminate():
    """``__ray_terminate__`` lets queued calls finish and then ends it."""
    counter = Counter.remote()
    refs = [counter.add.remote() for _ in range(3)]
    counter.__ray_terminate__.remote()
    return ray.get(refs), caught(
        lambda: ray.get(counter.add.remote(), timeout=20), ray.exceptions.RayActorError
    )


def story_ready():
    counter = Counter.remote()
    return ray.get(counter.__ray_ready__.remote())


def story_call_with_the_actor():
    """``__ray_call__`` runs a function on the actor."""
    counter = Counter.remote(5)
    return ray.get(counter.__ray_call__.remote(lambda actor, x: actor.n + x, 2))


def story_named_actor():
    """get_actor finds it by name, in the namespace of the program or in another."""
    one = Counter.options(name="one").remote(1)
    other = Counter.options(name="one", namespace="elsewhere").remote(2)
    found = [
        ray.get(ray.get_actor("one").get.remote()),
        ray.get(ray.get_actor("one", namespace="elsewhere").get.remote()),
    ]
    ray.kill(one)
    ray.kill(other)
    return found


def story_name_taken():
    kept = Counter.options(name="taken").remote()
    ray.get(kept.get.remote())
    return caught(lambda: Counter.options(name="taken").remote(), ValueError)


def story_unknown_name():
    return caught(lambda: ray.get_actor("nobody"), ValueError)


def story_get_if_exists():
    first = Counter.options(name="shared", get_if_exists=True).remote(5)
    second = Counter.options(name="shared", get_if_exists=True).remote(50)
    return ray.get(second.add.remote()), first == second


def story_name_is_free_after_death():
    first = Counter.options(name="again").remote(1)
    ray.get(first.get.remote())
    ray.kill(first)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            ray.get_actor("again")
        except ValueError:
            break
        time.sleep(0.05)
    return ray.get(Counter.options(name="again").remote(2).get.remote())


def story_out_of_scope():
    """An actor without a name ends with the last handle."""
    counter = Counter.remote()
    pid = ray.get(counter.pid.remote())
    del counter
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "ended"
        time.sleep(0.05)
    return "lives"


def story_detached():
    """lifetime='detached': it lives on without handles; kill ends it."""
    Counter.options(name="free", lifetime="detached").remote(3)
    handle = ray.get_actor("free")
    value = ray.get(handle.get.remote())
    ray.kill(handle)
    return value


def story_several_returns():
    @ray.remote
    class Pair:
        @ray.method(num_returns=2)
        def both(self):
            return 1, 2

        def one(self):
            return 1, 2

    pair = Pair.remote()
    a, b = pair.both.remote()
    c, d = pair.one.options(num_returns=2).remote()
    return ray.get([a, b, c, d])


def story_inheritance():
    """Remote classes come from plain ones, with super(), class and static methods, properties."""

    class Base(abc.ABC):
        kind = "base"

        def __init__(self, x):
            self.x = x

        @abc.abstractmethod
        def name(self): ...

        @property
        def doubled(self):
            return 2 * self.x

        @classmethod
        def of_class(cls):
            return cls.kind

        @staticmethod
        def static(x):
            return x + 1

        def total(self):
            return self.doubled + 1

    @ray.remote
    class Derived(Base):
        kind = "derived"

        def __init__(self, x):
            super().__init__(x + 1)

        def name(self):
            return type(self).__name__

    derived = Derived.remote(1)
    return ray.get(
        [
            derived.name.remote(),
            derived.total.remote(),
            derived.of_class.remote(),
            derived.static.remote(1),
        ]
    )


def story_calling_the_class_directly():
    return caught(lambda: Counter(), TypeError)


def story_calling_a_method_directly():
    counter = Counter.remote()
    return caught(lambda: counter.add(), TypeError)


def story_unknown_method():
    counter = Counter.remote()
    return caught(lambda: counter.nonsense, AttributeError)


def story_wrong_arguments():
    counter = Counter.remote()
    return (
        caught(lambda: Counter.remote(1, 2, 3), TypeError),
        caught(lambda: counter.add.remote(1, 2, 3), TypeError),
    )


def story_wrong_options():
    return (
        caught(lambda: Counter.options(nonsense=1).remote(), ValueError),
        caught(lambda: Counter.options(max_restarts=-2).remote(), ValueError),
        caught(lambda: Counter.options(lifetime="for ever").remote(), ValueError),
        caught(lambda: Counter.options(get_if_exists=True).remote(), ValueError),
        caught(lambda: Counter.options(name="").remote(), ValueError),
        caught(lambda: Counter.options(concurrency_groups={"io": 1}).remote(), ValueError),
    )


def story_equality():
    """Handles of one actor are equal, and keys of dicts."""
    counter = Counter.options(name="equal").remote()
    found = ray.get_actor("equal")
    return found == counter, found != Counter.remote(), len({counter, found})


def story_actors_make_actors():
    @ray.remote
    class Parent:
        def __init__(self):
            self.children = [Counter.remote(i) for i in range(2)]

        def total(self):
            return sum(ray.get([child.get.remote() for child in self.children]))

    return ray.get(Parent.remote().total.remote())


def story_current_actor():
    @ray.remote
    class Knowing:
        def myself(self):
            return ray.get_runtime_context().current_actor

        def value(self):
            return 42

    knowing = Knowing.remote()
    return ray.get(ray.get(knowing.myself.remote()).value.remote())


def story_call_order_of_waiting_arguments():
    """A call whose argument is late holds up the calls behind it."""

    @ray.remote
    def late():
        time.sleep(0.5)
        return 100

    counter = Counter.remote()
    first = counter.add.remote(late.remote())
    second = counter.add.remote(1)
    return ray.get([first, second])


def story_methods_have_names():
    counter = Counter.remote()
    return "add" in dir(counter)


if __name__ == "__main__":
    tell(globals())
