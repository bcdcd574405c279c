"""Actors whose calls run at the same time: asyncio, threads, concurrency groups."""

import asyncio
import threading
import time

import ray
from telling import caught, tell


@ray.remote
class Meeting:
    """Whoever comes waits until so many have come: it needs them to run at the same time."""

    def __init__(self):
        self.here = 0
        self.full = asyncio.Event()

    async def come(self, n):
        self.here += 1
        if self.here >= n:
            self.full.set()
        await self.full.wait()
        return self.here


def story_calls_run_at_the_same_time():
    meeting = Meeting.remote()
    return ray.get([meeting.come.remote(20) for _ in range(20)], timeout=40)


def story_max_concurrency_of_asyncio():
    @ray.remote(max_concurrency=2)
    class Busy:
        def __init__(self):
            self.now = self.most = 0

        async def work(self):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.05)
            self.now -= 1

        async def seen(self):
            return self.most

    busy = Busy.remote()
    ray.get([busy.work.remote() for _ in range(6)])
    return ray.get(busy.seen.remote())


def story_await_refs_inside():
    @ray.remote
    def square(x):
        return x * x

    @ray.remote
    class Summing:
        async def total(self, n):
            return sum(await asyncio.gather(*[square.remote(i) for i in range(n)]))

        async def first(self, refs):
            return await refs[0]

    summing = Summing.remote()
    return ray.get([summing.total.remote(4), summing.first.remote([ray.put("x")])])


def story_sync_methods_on_the_loop():
    """Methods that are not async run on the loop of an asyncio actor, one at a time."""

    @ray.remote
    class Mixed:
        def __init__(self):
            self.thread = threading.current_thread().name

        async def on_loop(self):
            return threading.current_thread() is threading.main_thread(), threading.get_ident()

        def plain(self):
            return threading.get_ident()

    mixed = Mixed.remote()
    (_, loop), plain = ray.get([mixed.on_loop.remote(), mixed.plain.remote()])
    return loop == plain


def story_error_in_a_coroutine():
    @ray.remote
    class Failing:
        async def fail(self):
            await asyncio.sleep(0)
            raise LookupError("async")

        async def fine(self):
            return 1

    failing = Failing.remote()
    ref = failing.fail.remote()
    return caught(lambda: ray.get(ref), LookupError), ray.get(failing.fine.remote())


def story_threads():
    """max_concurrency above 1 of plain methods: threads."""

    @ray.remote(max_concurrency=4)
    class Threads:
        def __init__(self):
            self.barrier = threading.Barrier(4)

        def meet(self):
            self.barrier.wait(timeout=40)
            return 1

    threads = Threads.remote()
    return ray.get([threads.meet.remote() for _ in range(4)], timeout=50)


def story_one_at_a_time():
    @ray.remote
    class Serial:
        def __init__(self):
            self.now = self.most = 0

        def work(self):
            self.now += 1
            self.most = max(self.most, self.now)
            time.sleep(0.01)
            self.now -= 1
            return self.most

    serial = Serial.remote()
    return max(ray.get([serial.work.remote() for _ in range(5)]))


def story_concurrency_groups():
    """A blocked group does not hold up the others."""

    @ray.remote(concurrency_groups={"io": 1, "compute": 2})
    class Grouped:
        def __init__(self):
            self.event = threading.Event()

        @ray.method(concurrency_group="io")
        def block(self):
            return self.event.wait(40)

        @ray.method(concurrency_group="compute")
        def release(self):
            self.event.set()
            return "released"

        def plain(self):
            return "plain"

    grouped = Grouped.remote()
    blocked = grouped.block.remote()
    return (
        ray.get(grouped.plain.remote(), timeout=30),
        ray.get(grouped.plain.options(concurrency_group="compute").remote(), timeout=30),
        ray.get(grouped.release.remote(), timeout=30),
        ray.get(blocked, timeout=30),
    )


def story_unknown_concurrency_group():
    @ray.remote(concurrency_groups={"io": 1})
    class Grouped:
        def f(self):
            return 1

    grouped = Grouped.remote()
    return caught(lambda: ray.get(grouped.f.options(concurrency_group="none").remote()), Exception)


def story_concurrency_groups_of_asyncio():
    """Each group runs as many coroutines at a time as it says."""

    @ray.remote(concurrency_groups={"io": 2})
    class Grouped:
        def __init__(self):
            self.now = self.most = 0

        @ray.method(concurrency_group="io")
        async def work(self):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.05)
            self.now -= 1

        async def seen(self):
            return self.most

    grouped = Grouped.remote()
    ray.get([grouped.work.remote() for _ in range(6)], timeout=30)
    return ray.get(grouped.seen.remote(), timeout=30)


def story_exit_actor_in_a_coroutine():
    @ray.remote
    class Leaving:
        async def leave(self):
            ray.actor.exit_actor()

        async def ping(self):
            return 1

    leaving = Leaving.remote()
    ray.get(leaving.ping.remote())
    first = caught(lambda: ray.get(leaving.leave.remote()), ray.exceptions.RayActorError)
    return first, caught(lambda: ray.get(leaving.ping.remote()), ray.exceptions.RayActorError)


def story_async_tasks():
    """An async function is no task in Ray: wrap it."""

    async def double(x):
        return 2 * x

    return caught(lambda: ray.get(ray.remote(double).remote(1)), ValueError)


def story_max_pending_calls():
    @ray.remote(max_pending_calls=2)
    class Slow:
        def work(self):
            time.sleep(30)

    slow = Slow.remote()

    def many():
        for _ in range(10):
            slow.work.remote()

    raised = caught(many, ray.exceptions.PendingCallsLimitExceeded)
    ray.kill(slow)
    return raised


def story_out_of_order():
    """allow_out_of_order_execution: a call whose argument is late holds nobody up."""

    @ray.remote
    def late():
        time.sleep(60)
        return 1

    @ray.remote(allow_out_of_order_execution=True)
    class Any:
        def take(self, x):
            return x

    actor = Any.remote()
    slow = late.remote()
    actor.take.remote(slow)
    second = ray.get(actor.take.remote(2), timeout=30)
    ray.cancel(slow, force=True)
    return second


def story_context_in_coroutines():
    """Each coroutine knows its own task."""

    @ray.remote
    class Knowing:
        async def mine(self):
            before = ray.get_runtime_context().get_task_id()
            await asyncio.sleep(0.05)
            return before, ray.get_runtime_context().get_task_id()

    knowing = Knowing.remote()
    pairs = ray.get([knowing.mine.remote() for _ in range(3)])
    return all(a == b for a, b in pairs), len({a for a, _ in pairs})


if __name__ == "__main__":
    tell(globals())
