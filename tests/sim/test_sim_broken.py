"""The checkers are checked: machines that are broken on purpose must be caught.

Each variant breaks one rule in one place. It must be caught within a few seeds; if it is not, the
simulator does not look where it should.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shoal._core import commands as do
from shoal._core.actors import ActorTable
from shoal._core.environments import Environments
from shoal._core.holdings import Holdings
from shoal._core.pool import Pool
from shoal._core.queues import ClassQueue
from shoal._core.resources import UNIT, Account
from shoal._core.scheduler import Binding, Scheduler
from shoal._core.tables import NodeTables
from shoal._core.tasks import Crashes
from tests.sim.lives import live


def anything_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "fits", lambda self, amounts, kept=None: True)
    monkeypatch.setattr(Account, "validate", lambda self: None)
    monkeypatch.setattr(Account, "_choose_gpus", lambda self, units: ())


def always_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(self: Account, units: int) -> tuple[tuple[str, int], ...]:
        return tuple((gpu, units) for gpu in list(self.gpus)[:1] if units)

    monkeypatch.setattr(Account, "_choose_gpus", choose)
    monkeypatch.setattr(Account, "validate", lambda self: None)


def gpu_given_back_before_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Account.give

    def give_twice_as_much(self: Account, grant: object) -> None:
        original(self, grant)  # type: ignore[arg-type]
        for gpu in self.gpus:
            self.gpus[gpu] = UNIT

    monkeypatch.setattr(Account, "give", give_twice_as_much)
    monkeypatch.setattr(Account, "validate", lambda self: None)


def worker_of_any_job(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pool.find

    def find(self: Pool, binding: object, python: str) -> int | None:
        for worker in self.workers.values():
            if worker.phase.value == "idle":
                return worker.index
        return original(self, binding, python)  # type: ignore[arg-type]

    monkeypatch.setattr(Pool, "find", find)
    monkeypatch.setattr(NodeTables, "_validate_workers", lambda self: None)


def hungry_is_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original = ClassQueue.look

    def look(self: ClassQueue, now: float, state: object) -> bool:
        original(self, now, state)  # type: ignore[arg-type]
        return False

    monkeypatch.setattr(ClassQueue, "look", look)


def nobody_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_revoke", lambda self, *asked, idle: [])


def blocked_tasks_keep_their_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "lend", lambda self, grant: False)


def actors_keep_what_they_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holdings, "release_actor", lambda self, now, actor_id: None)


def restarts_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActorTable, "can_restart", lambda self, actor: not actor.is_dead)


def running_tasks_of_the_dead_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crashes, "decide", lambda self, death: [])


def worker_of_any_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pool.find

    def find(self: Pool, binding: Binding, python: str) -> int | None:
        for worker in self.workers.values():
            known = worker.binding if worker.phase.value == "idle" else None
            if known is not None and known._replace(env=binding.env) == binding:
                return worker.index
        return original(self, binding, python)

    monkeypatch.setattr(Pool, "find", find)


def nobody_waits_for_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Environments, "is_ready", lambda self, key: True)


def environments_are_dropped_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Environments.end_job

    def end_job(self: Environments, job: int) -> list[do.Command]:
        out = original(self, job)
        return out or [do.DropEnvironment(key) for key in self.entries]

    monkeypatch.setattr(Environments, "end_job", end_job)


VARIANTS = [
    worker_of_any_environment,
    nobody_waits_for_environments,
    environments_are_dropped_too_early,
    anything_fits,
    always_the_first_gpu,
    gpu_given_back_before_the_process_ends,
    worker_of_any_job,
    hungry_is_set_once,
    nobody_makes_room,
    blocked_tasks_keep_their_cpu,
    actors_keep_what_they_held,
    restarts_without_end,
    running_tasks_of_the_dead_are_forgotten,
]


SHOWN = (42, 52)
"""They show what is rarely seen; ``test_sim_node`` lives them as well, with nothing broken."""


@pytest.mark.parametrize("break_it", VARIANTS, ids=lambda variant: variant.__name__)
def test_broken_machine_is_caught(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    for seed in (*SHOWN, *range(60)):
        try:
            live(seed)
        except AssertionError as caught:
            print(seed, repr(caught)[:150])
            return
    pytest.fail(f"{break_it.__name__} was not noticed in 60 seeds")
