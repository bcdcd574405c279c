"""A waiting worker runs the very task it waits for, unless a rule of RULES S-6 or A-9 forbids it.

Who ran a task is known by its pid: a task that was helped ran in the process that waited for it.
One CPU makes that certain, for no other worker can have it before the waiting one lends its own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal.util.placement_group import placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy


@shoal.remote
def pid() -> int:
    return os.getpid()


@shoal.remote
def pid_after(value: Any) -> int:
    return os.getpid()


def by_get(ref: shoal.ObjectRef) -> Any:
    return shoal.get(ref)


def by_get_of_a_list(ref: shoal.ObjectRef) -> Any:
    return shoal.get([ref])[0]


def by_get_with_timeout(ref: shoal.ObjectRef) -> Any:
    return shoal.get(ref, timeout=30)


def by_wait(ref: shoal.ObjectRef) -> Any:
    shoal.wait([ref])
    return shoal.get(ref)


def by_as_completed(ref: shoal.ObjectRef) -> Any:
    return shoal.get(next(iter(shoal.as_completed([ref]))))


def by_future(ref: shoal.ObjectRef) -> Any:
    return ref.future().result(30)


def by_await(ref: shoal.ObjectRef) -> Any:
    async def main() -> Any:
        return await ref

    return asyncio.run(main())


def by_get_on_a_loop(ref: shoal.ObjectRef) -> Any:
    async def main() -> Any:
        return shoal.get(ref)

    return asyncio.run(main())


def by_get_of_a_list_on_a_loop(ref: shoal.ObjectRef) -> Any:
    async def main() -> Any:
        return shoal.get([ref])[0]

    return asyncio.run(main())


def by_get_in_a_thread(ref: shoal.ObjectRef) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(shoal.get(ref)))
    thread.start()
    thread.join()
    return found[0]


Way = Callable[[shoal.ObjectRef], Any]


@shoal.remote
def ask(way: Way, what: Any) -> bool:
    """Whether the task that this one waits for ran in this process."""
    return bool(way(what.remote()) == os.getpid())


@shoal.remote
class Asker:
    def ask(self, way: Way, what: Any) -> bool:
        return bool(way(what.remote()) == os.getpid())


@pytest.mark.parametrize("way", [by_get, by_get_of_a_list], ids=lambda way: way.__name__)
def test_a_waiting_worker_helps(way: Way) -> None:
    shoal.init(num_cpus=1)
    assert shoal.get(ask.remote(way, pid)) is True


def test_a_waiting_worker_helps_what_its_task_waits_for() -> None:
    shoal.init(num_cpus=1)

    @shoal.remote
    def chain() -> bool:
        return bool(shoal.get(pid_after.remote(pid.remote())) == os.getpid())

    assert shoal.get(chain.remote()) is True


FORBIDDEN: dict[str, tuple[Any, Way, Any]] = {
    "timeout": (ask, by_get_with_timeout, pid),
    "wait": (ask, by_wait, pid),
    "as_completed": (ask, by_as_completed, pid),
    "future": (ask, by_future, pid),
    "await": (ask, by_await, pid),
    "running_loop": (ask, by_get_on_a_loop, pid),
    "running_loop_list": (ask, by_get_of_a_list_on_a_loop, pid),
    "another_thread": (ask, by_get_in_a_thread, pid),
    "another_class": (ask, by_get, pid.options(num_cpus=0.5)),
    "more_than_held": (ask.options(num_cpus=0.5), by_get, pid),
    "memory": (ask.options(memory=1 << 20), by_get, pid.options(memory=1 << 20)),
    "custom": (ask.options(resources={"disk": 1}), by_get, pid.options(resources={"disk": 1})),
    "gpu": (ask.options(num_gpus=1), by_get, pid.options(num_gpus=1)),
    "gpu_of_the_task": (ask, by_get, pid.options(num_gpus=1)),
    "not_retryable": (ask.options(max_retries=0), by_get, pid),
    "opted_out": (ask, by_get, pid.options(help=False)),
    "waiting_opted_out": (ask.options(help=False), by_get, pid),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_nobody_helps(case: str) -> None:
    shoal.init(num_cpus=1, num_gpus=2, resources={"disk": 2})
    asking, way, what = FORBIDDEN[case]
    assert shoal.get(asking.remote(way, what), timeout=30) is False


def test_an_actor_never_helps() -> None:
    shoal.init(num_cpus=1)
    assert shoal.get(Asker.remote().ask.remote(by_get, pid), timeout=30) is False


def test_a_driver_never_helps() -> None:
    shoal.init(num_cpus=1)
    assert shoal.get([pid.remote() for _ in range(20)]) != [os.getpid()] * 20
    assert shoal.get(pid.remote()) != os.getpid()


@shoal.remote
def nested(depth: int) -> list[int]:
    below = shoal.get(nested.remote(depth - 1)) if depth else []
    return [os.getpid(), *below]


def test_helping_is_at_most_16_deep() -> None:
    shoal.init(num_cpus=1)
    pids = shoal.get(nested.remote(40), timeout=60)
    assert len(pids) == 41
    most = max(pids.count(one) for one in set(pids))
    assert 1 < most <= 17, "one that was taken and 16 that were helped"


def test_get_and_wait_on_a_running_loop_warn_once() -> None:
    program = """
        import asyncio, time, warnings, shoal
        from shoal import errors
        shoal.init(num_cpus=1)

        @shoal.remote
        def slow(x):
            time.sleep(0.05)
            return x

        async def main():
            assert await slow.remote(1) == 1
            assert shoal.get(shoal.put(2)) == 2
            shoal.wait([slow.remote(2)], timeout=0)
            assert caught == [], "nothing has stopped the loop so far"
            assert shoal.get(slow.remote(3)) == 3
            assert shoal.get([slow.remote(4), slow.remote(5)]) == [4, 5]
            assert len(shoal.wait([slow.remote(6)])[0]) == 1
            try:
                shoal.get(slow.remote(7), timeout=0.001)
            except errors.GetTimeoutError:
                print("timed out")

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            asyncio.run(main())
        print(len(caught), caught[0].category.__name__, caught[0].lineno, caught[0].message)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    timed_out, warned = done.stdout.splitlines()
    assert timed_out == "timed out"
    assert warned.startswith("1 RuntimeWarning 16 shoal.get stops the event loop"), done.stderr
    assert "await" in warned


@shoal.remote
def pid_and_group() -> tuple[int, str | None]:
    return os.getpid(), shoal.get_runtime_context().get_placement_group_id()


@shoal.remote
def ask_in_group() -> tuple[bool, str | None, str | None]:
    pid, group = shoal.get(pid_and_group.remote())
    return pid == os.getpid(), group, shoal.get_runtime_context().get_placement_group_id()


@pytest.mark.parametrize("captures", [True, False])
def test_in_a_placement_group_only_what_belongs_to_it_is_helped(captures: bool) -> None:
    shoal.init(num_cpus=2)
    group = placement_group([{"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group, 0, captures)
    task = ask_in_group.options(scheduling_strategy=strategy)
    helped, childs, mine = shoal.get(task.remote())
    assert mine == group.id.hex()
    assert (helped, childs) == ((True, mine) if captures else (False, None))
