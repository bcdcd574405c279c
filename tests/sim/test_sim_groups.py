"""Whole lives of a node with placement groups, and machines that are broken on purpose.

Programs make groups, also impossible ones, run tasks and actors in them and outside, and remove
them at any moment; drivers and workers are killed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shoal._core import reactions_groups
from shoal._core.accounts import Accounts
from shoal._core.groups import Group
from shoal._core.node import NodeMachine
from shoal._core.pool import Pool
from shoal._core.resources import Account, Amounts, Grant
from shoal._core.scheduler import Binding
from shoal._core.tables import NodeTables
from shoal.testing.sim import checkers
from shoal.testing.sim.group_programs import GroupWorld, Watched
from tests.sim.lives import config, live

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_life_of_a_node_with_groups(seed: int) -> None:
    world = live(seed, GroupWorld(seed, config(seed)), Watched)
    checkers.check_given_back(world)


def test_some_seeds_try_everything() -> None:
    """Groups that are ready and used, removed under way, impossible: all of it happens."""
    ready = used = impossible = removed = 0
    for seed in range(12):
        world = live(seed, GroupWorld(seed, config(seed)), Watched)
        ready += sum(group.is_ready for group in world.groups.values())
        impossible += sum(not group.is_possible for group in world.groups.values())
        removed += sum(b"GroupRemovedError" in task.record for task in world.tasks.values())
        queues = {q.queue for q in world.queues.values() if q.group}
        used += len(queues) + sum(
            task.state == "DONE" for task in world.tasks.values() if task.record == b""
        )
    assert ready > 20 and impossible > 3 and removed > 20 and used > 100


# ---- broken on purpose
def bundles_are_not_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Accounts.add_bundle

    def add_bundle(self: Accounts, grant: Grant) -> Account:
        account = original(self, grant)
        for name, units in grant.amounts:
            self.node.free[name] += units
        return account

    monkeypatch.setattr(Accounts, "add_bundle", add_bundle)


def bundles_have_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Account.of_bundle.__func__  # type: ignore[attr-defined]

    def of_bundle(cls: type[Account], grant: Grant) -> Account:
        account: Account = original(cls, grant)
        account.free = {name: units * 4 for name, units in account.free.items()}
        return account

    monkeypatch.setattr(Account, "of_bundle", classmethod(of_bundle))


def bundles_go_back_before_their_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def bury(t: NodeTables) -> list[object]:
        for group in list(t.groups.ending.values()):
            accounts = t.scheduler.held.accounts
            for account in group.accounts.values():
                grant = accounts.bundles.pop(account)
                accounts.node.pin(grant.amounts, -1)
                accounts.give(grant)
            t.groups.bury(group)
        return []

    monkeypatch.setattr(reactions_groups, "bury_due", bury)


def removal_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactions_groups, "_end_processes", lambda t, now, group, record: [])


def removal_forgets_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactions_groups, "_end_queues", lambda t, now, group_id, record: [])


def groups_outlive_their_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactions_groups, "end_job", lambda t, now, job: [])


def who_waits_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "open", lambda self, accounts, node: setattr(self, "accounts", {}))


def half_a_group_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_all(
        self: Account, bundles: tuple[Amounts, ...], kept: dict[str, int] | None = None
    ) -> list[Grant] | None:
        grants = [g for g in (self.take(b) for b in bundles if self.fits(b, kept)) if g]
        return grants + grants[:1] * (len(bundles) - len(grants)) if grants else None

    monkeypatch.setattr(Account, "take_all", take_all)


def worker_of_any_group(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pool.find

    def find(self: Pool, binding: Binding, python: str) -> int | None:
        for worker in self.workers.values():
            known = worker.binding if worker.phase.value == "idle" else None
            if known is not None and known._replace(group=binding.group) == binding:
                return worker.index
        return original(self, binding, python)

    monkeypatch.setattr(Pool, "find", find)


VARIANTS = [
    bundles_are_not_reserved,
    bundles_have_no_limit,
    bundles_go_back_before_their_processes,
    removal_kills_nobody,
    removal_forgets_queues,
    groups_outlive_their_job,
    who_waits_is_not_told,
    half_a_group_is_enough,
    worker_of_any_group,
]


@pytest.mark.parametrize("break_it", VARIANTS, ids=lambda variant: variant.__name__)
def test_broken_machine_is_caught(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    # Only what is seen from outside counts here.
    monkeypatch.setattr(NodeMachine, "validate", lambda self: None)
    for seed in range(40):
        try:
            live(seed, GroupWorld(seed, config(seed)), Watched)
        except AssertionError as caught:
            print(seed, repr(caught)[:150])
            return
    pytest.fail(f"{break_it.__name__} was not noticed in 40 seeds")
