"""Patterns and anti-patterns of Ray's core documentation, each as a small program."""

import asyncio
import time

import numpy as np
import ray
from telling import caught, tell


def story_tree_of_actors():
    """A supervisor actor owns workers and hands out the work."""

    @ray.remote(num_cpus=0.1)
    class Worker:
        def work(self, x):
            return 2 * x

    @ray.remote(num_cpus=0.1)
    class Supervisor:
        def __init__(self, n):
            self.workers = [Worker.remote() for _ in range(n)]

        def work(self, xs):
            pairs = zip(self.workers, xs)
            return ray.get([worker.work.remote(x) for worker, x in pairs])

    return ray.get(Supervisor.remote(3).work.remote([1, 2, 3]))


def story_tasks_that_call_themselves():
    """Divide and conquer: a sort that starts tasks for the halves."""

    @ray.remote(num_cpus=0.5)
    def sort(values):
        if len(values) <= 20:
            return sorted(values)
        middle = values[len(values) // 2]
        low = sort.remote([v for v in values if v < middle])
        high = sort.remote([v for v in values if v > middle])
        same = [v for v in values if v == middle]
        return ray.get(low) + same + ray.get(high)

    values = [(i * 7919) % 200 for i in range(100)]
    return ray.get(sort.remote(values)) == sorted(values)


def story_limit_of_pending_tasks():
    """wait keeps at most so many calls unfinished."""

    @ray.remote
    class Doubler:
        def work(self, x):
            return 2 * x

    doubler = Doubler.remote()
    pending, total, most = [], 0, 0
    for i in range(20):
        if len(pending) >= 4:
            ready, pending = ray.wait(pending, num_returns=1)
            total += sum(ray.get(ready))
        pending.append(doubler.work.remote(i))
        most = max(most, len(pending))
    return total + sum(ray.get(pending)), most


def story_results_as_they_come():
    """A loop over wait takes each result when it is ready."""

    @ray.remote
    def sleep(i):
        time.sleep(0.01 * i)
        return i

    pending, seen = [sleep.remote(i) for i in range(5)], []
    while pending:
        done, pending = ray.wait(pending)
        seen += ray.get(done)
    return sorted(seen)


def story_large_object_once():
    """A large object is put once and used by many."""
    weights = ray.put(np.ones(500_000))

    @ray.remote
    def score(weights, x):
        return float(weights[:10].sum() * x)

    return ray.get([score.remote(weights, x) for x in range(4)])


def story_closure_over_a_ref():
    """A captured ref stays a ref."""
    ref = ray.put(7)

    @ray.remote
    def use():
        return ray.get(ref)

    return ray.get(use.remote())


def story_signal_actor():
    """An asyncio actor lets tasks wait for an event."""

    @ray.remote(num_cpus=0)
    class Signal:
        def __init__(self):
            self.event = asyncio.Event()

        async def send(self):
            self.event.set()

        async def wait(self):
            await self.event.wait()

    @ray.remote(num_cpus=0.5)
    def wait_and_go(signal):
        ray.get(signal.wait.remote())
        return "go"

    signal = Signal.remote()
    refs = [wait_and_go.remote(signal) for _ in range(2)]
    waiting = ray.wait(refs, timeout=0.5)[0]
    ray.get(signal.send.remote())
    return len(waiting), ray.get(refs, timeout=40)


def story_pipeline():
    """Work items from a queue of refs: the next call is made before the last has ended."""

    @ray.remote
    class Queue:
        def __init__(self):
            self.items = list(range(5))

        def next(self):
            return self.items.pop(0) if self.items else None

    @ray.remote
    class Consumer:
        def __init__(self, queue):
            self.queue = queue

        def run(self):
            seen, coming = [], self.queue.next.remote()
            while True:
                item = ray.get(coming)
                if item is None:
                    return seen
                coming = self.queue.next.remote()
                seen.append(item)

    return ray.get(Consumer.remote(Queue.remote()).run.remote())


def story_parameter_server():
    @ray.remote
    class Server:
        def __init__(self):
            self.values = np.zeros(3)

        def add(self, change):
            self.values = self.values + change

        def get(self):
            return self.values

    @ray.remote
    def train(server, steps):
        for _ in range(steps):
            ray.get(server.add.remote(np.ones(3)))

    server = Server.remote()
    ray.get([train.remote(server, 5) for _ in range(3)])
    return ray.get(server.get.remote()).tolist()


def story_replicas_by_options():
    """One class, several actors with options of their own."""

    @ray.remote
    class Replica:
        def __init__(self, i):
            self.i = i

        def who(self):
            return self.i

    replicas = [Replica.options(name=f"replica-{i}", num_cpus=0.1).remote(i) for i in range(3)]
    names = [ray.get(ray.get_actor(f"replica-{i}").who.remote()) for i in range(3)]
    return names, ray.get([replica.who.remote() for replica in replicas])


def story_globals_are_per_process():
    """A global that a task changes is not the driver's."""
    return CHANGED["n"], ray.get(change.remote()), CHANGED["n"]


CHANGED = {"n": 0}


@ray.remote
def change():
    CHANGED["n"] += 1
    return CHANGED["n"]


def story_get_in_a_loop():
    """The slow way works as well: one after the other."""

    @ray.remote
    def f(i):
        return i

    return [ray.get(f.remote(i)) for i in range(5)]


def story_returning_put():
    """A task may return a ref that it put: the value outlives the task."""

    @ray.remote
    def make():
        return ray.put("made")

    return ray.get(ray.get(make.remote()))


def story_redefinition():
    """A function that is defined again is another one."""

    def version(text):
        @ray.remote
        def f():
            return text

        return f

    return ray.get([version("first").remote(), version("second").remote()])


def story_monte_carlo():
    @ray.remote
    class Progress:
        def __init__(self):
            self.done = {}

        def report(self, who, n):
            self.done[who] = n

        def total(self):
            return sum(self.done.values())

    @ray.remote
    def sample(n, who, progress):
        ray.get(progress.report.remote(who, n))
        return sum(1 for i in range(n) if (i * i) % 4 < 2)

    progress = Progress.remote()
    inside = sum(ray.get([sample.remote(100, i, progress) for i in range(3)]))
    return inside, ray.get(progress.total.remote())


def story_fail_fast():
    """The first failure among many is found with wait."""

    @ray.remote
    def f(i):
        if i == 2:
            raise ValueError(i)
        return i

    pending, errors = [f.remote(i) for i in range(4)], 0
    while pending:
        (done,), pending = ray.wait(pending)
        errors += bool(caught(lambda: ray.get(done), ValueError))
    return errors


if __name__ == "__main__":
    tell(globals())
