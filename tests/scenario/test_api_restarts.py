"""Lives of actors through the public API: kept state, lost state, races for a name, what a class
may be."""

from __future__ import annotations

import abc
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

import shoal
from shoal import errors
from tests.torture.processes import eventually


@pytest.fixture(autouse=True)
def _session() -> None:
    shoal.init(num_cpus=2)


class Account:
    """Keeps its state over the death of its process."""

    def __init__(self) -> None:
        self.amounts: dict[str, int] = {}
        self.saved = 0

    def __shoal_checkpoint__(self) -> dict[str, int]:
        self.saved += 1
        return self.amounts

    def __shoal_restore__(self, state: dict[str, int]) -> None:
        self.amounts = dict(state)

    def add(self, name: str, by: int) -> int:
        self.amounts[name] = self.amounts.get(name, 0) + by
        return self.amounts[name]

    def all(self) -> tuple[dict[str, int], int]:
        return self.amounts, shoal.get_runtime_context().incarnation

    def crash(self) -> None:
        os._exit(1)

    def times(self) -> int:
        return self.saved


class AsyncAccount(Account):
    async def later(self, name: str) -> int:
        return self.add(name, 1)


@pytest.mark.parametrize("cls", [Account, AsyncAccount])
@pytest.mark.parametrize("threads", [None, 4])
def test_state_is_given_back(cls: type, threads: int | None) -> None:
    actor = shoal.remote(cls).options(max_restarts=3, max_concurrency=threads).remote()
    for n in (1, 2, 3):
        assert shoal.get([actor.add.remote(f"n{i}", 1) for i in range(5)]) == [n] * 5
        with pytest.raises(errors.ActorError):
            shoal.get(actor.crash.remote())
        assert shoal.get(actor.all.remote()) == ({f"n{i}": n for i in range(5)}, n + 1)


def test_state_of_coroutine_methods_is_kept() -> None:
    actor = shoal.remote(AsyncAccount).options(max_restarts=1).remote()
    assert shoal.get([actor.later.remote("x") for _ in range(5)])[-1] == 5
    with pytest.raises(errors.ActorError):
        shoal.get(actor.crash.remote())
    assert shoal.get(actor.all.remote()) == ({"x": 5}, 2)


def test_state_is_kept_as_often_as_asked() -> None:
    actor = shoal.remote(Account).options(max_restarts=1, checkpoint_every=4).remote()
    shoal.get([actor.add.remote("x", 1) for _ in range(6)])
    assert shoal.get(actor.times.remote()) == 1
    actor.crash.remote()
    assert shoal.get(actor.all.remote()) == ({"x": 4}, 2)


def test_kept_state_is_freed_with_the_actor() -> None:
    actor = shoal.remote(Account).options(max_restarts=1).remote()
    shoal.get(actor.add.remote("x" * 1_000_000, 1))
    before = sum(row.size_bytes for row in shoal.state.objects())
    assert before > 1_000_000
    for _ in range(3):
        shoal.get(actor.add.remote("x" * 1_000_000, 1))
    # The call's argument, and the state before the last, go a moment after the answer.
    eventually(
        lambda: sum(row.size_bytes for row in shoal.state.objects()) < before + 1_000_000,
        30,
        "former states are freed",
    )
    del actor
    eventually(
        lambda: sum(row.size_bytes for row in shoal.state.objects()) < 1_000_000, 30, "it is freed"
    )


def test_one_hook_needs_the_other() -> None:
    @shoal.remote
    class Half:
        def __shoal_checkpoint__(self) -> None: ...

        def work(self) -> None: ...

    with pytest.raises(errors.ActorDiedError, match="__shoal_checkpoint__"):
        shoal.get(Half.remote().work.remote())


def test_reconstruction_is_known_and_counted() -> None:
    @shoal.remote(max_restarts=1)
    class Knows:
        def lives(self) -> tuple[bool, int]:
            context = shoal.get_runtime_context()
            return context.was_current_actor_reconstructed, context.incarnation

        def crash(self) -> None:
            os._exit(1)

    actor = Knows.remote()
    assert shoal.get(actor.lives.remote()) == (False, 1)
    actor.crash.remote()
    assert shoal.get(actor.lives.remote()) == (True, 2)


LOST = """
import os, shoal

@shoal.remote(max_restarts=-1)
class Counter:
    def __init__(self):
        self.n = 0
    def crash(self):
        os._exit(1)
    def ready(self):
        return True

shoal.init(num_cpus=1)
counter = Counter.remote()
for _ in range(3):
    counter.crash.remote()
    shoal.get(counter.ready.remote())
shoal.shutdown()
"""


def test_lost_state_is_said_once(tmp_path: pathlib.Path) -> None:
    shoal.shutdown()
    program = tmp_path / "lost.py"
    program.write_text(LOST)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr + done.stdout
    assert said.count("what it held in memory is lost") == 1, said


def test_many_race_for_one_name() -> None:
    @shoal.remote
    class Named:
        def pid(self) -> int:
            return os.getpid()

    @shoal.remote
    def race() -> tuple[int, Any]:
        handle = Named.options(name="one", get_if_exists=True).remote()
        return shoal.get(handle.pid.remote()), [handle]

    found = shoal.get([race.remote() for _ in range(8)])
    assert len({pid for pid, _ in found}) == 1


class Shape(abc.ABC):
    sides = 0

    def __init__(self, size: float) -> None:
        self.size = size

    @abc.abstractmethod
    def area(self) -> float: ...

    @property
    def doubled(self) -> float:
        return 2 * self.size

    @staticmethod
    def kind() -> str:
        return "shape"

    @classmethod
    def count(cls) -> int:
        return cls.sides

    def describe(self) -> str:
        return f"{self.kind()} of {self.doubled}"


@shoal.remote
class Square(Shape):
    sides = 4

    def area(self) -> float:
        return self.size**2

    def describe(self) -> str:
        return "square " + super().describe()


def test_what_a_class_may_be() -> None:
    square = Square.remote(3.0)
    assert shoal.get(square.area.remote()) == 9.0
    assert shoal.get(square.kind.remote()) == "shape"
    assert shoal.get(square.count.remote()) == 4
    assert shoal.get(square.describe.remote()) == "square shape of 6.0"
    with pytest.raises(AttributeError, match="doubled"):
        square.doubled.remote()
    here = Square(2.0)
    assert (here.area(), here.doubled, Square.kind(), Square.count()) == (4.0, 4.0, "shape", 4)
    with pytest.raises(TypeError, match="abstract"):
        shoal.remote(Shape).remote(1.0)


@shoal.remote(num_cpus=0, max_restarts=1, max_task_retries=1)
class Leaving:
    def __init__(self) -> None:
        self.is_back = shoal.get_runtime_context().was_current_actor_reconstructed

    def leave(self, code: Any) -> str:
        if self.is_back:
            return "back"
        sys.exit(code)


@shoal.remote(num_cpus=0, max_restarts=1, max_task_retries=1)
class LeavingAsync:
    def __init__(self) -> None:
        self.is_back = shoal.get_runtime_context().was_current_actor_reconstructed

    async def leave(self, code: Any) -> str:
        if self.is_back:
            return "back"
        sys.exit(code)


@pytest.mark.parametrize("cls", [Leaving, Leaving.options(max_concurrency=2), LeavingAsync])
def test_sys_exit_in_an_actor(cls: Any) -> None:
    """0 is an intended end, everything else a crash: the actor may be restarted."""
    assert shoal.get(cls.remote().leave.remote(1)) == "back"
    with pytest.raises(errors.ActorDiedError, match="exit_actor"):
        shoal.get(cls.remote().leave.remote(0))
    with pytest.raises(errors.ActorDiedError, match=r"exit code 3(.|\n)*called sys\.exit\(3\)"):
        shoal.get(cls.options(max_restarts=0).remote().leave.remote(3))
