"""Amounts and the account against a naive model: a dictionary of floats and a list of holders."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal._core.resources import (
    CPU,
    GPU,
    UNIT,
    Account,
    AmountError,
    Grant,
    parse,
    plain,
    threads_of,
)


def test_parse_makes_exact_amounts() -> None:
    assert parse({"CPU": 0.1, "GPU": 2, "none": 0}) == (("CPU", 1000), ("GPU", 20_000))
    assert plain(parse({"CPU": 0.3})) == {"CPU": 0.3}
    assert parse({"CPU": 1, "a": 2}) == parse({"a": 2, "CPU": 1.0})


@pytest.mark.parametrize(
    "wanted",
    [
        {"CPU": -1},
        {"CPU": float("nan")},
        {"CPU": float("inf")},
        {"GPU": 1.5},
        {"CPU": 1e-9},
        {"": 1.0},
    ],
)
def test_parse_refuses(wanted: dict[str, float]) -> None:
    with pytest.raises(AmountError):
        parse(wanted)


def test_threads_follow_whole_cpus() -> None:
    assert [threads_of(parse({"CPU": c})) for c in (0, 0.5, 1, 2.5)] == [1, 1, 1, 2]


def test_a_fraction_comes_from_one_gpu() -> None:
    account = Account({"GPU": 2})
    first = account.take(parse({"GPU": 0.6}))
    second = account.take(parse({"GPU": 0.6}))
    assert first is not None and second is not None
    assert first.gpu_ids != second.gpu_ids
    assert account.take(parse({"GPU": 0.8})) is None, "0.8 is free in sum, but not of one id"
    third = account.take(parse({"GPU": 0.4}))
    assert third is not None and len(third.gpu_ids) == 1
    assert account.take(parse({"GPU": 1})) is None


def test_fractions_leave_whole_gpus_to_others() -> None:
    account = Account({"GPU": 2})
    for _ in range(4):
        assert account.take(parse({"GPU": 0.25})) is not None
    assert account.take(parse({"GPU": 1})) is not None


def test_own_gpu_ids() -> None:
    account = Account({"GPU": 2}, ["3", "5"])
    grant = account.take(parse({"GPU": 2}))
    assert grant is not None and grant.gpu_ids == ("3", "5")
    with pytest.raises(AmountError):
        Account({"GPU": 2}, ["3"])
    with pytest.raises(AmountError):
        Account({"GPU": 0.5})


def test_resuming_may_go_below_zero_and_then_nothing_is_granted() -> None:
    account = Account({"CPU": 1})
    lender = account.take(parse({"CPU": 1}))
    assert lender is not None and account.lend(lender) and not account.lend(lender)
    borrower = account.take(parse({"CPU": 1}))
    assert borrower is not None
    assert account.resume(lender)
    assert account.free[CPU] == -UNIT
    assert account.take(parse({"CPU": 0.0001})) is None
    account.give(lender)
    account.give(borrower)
    account.validate()
    assert account.free == account.total


def test_what_is_kept_for_a_reservation_is_not_free() -> None:
    account = Account({"CPU": 4, "disk": 1})
    kept = dict(parse({"CPU": 3}))
    assert account.fits(parse({"CPU": 1}), kept)
    assert not account.fits(parse({"CPU": 2}), kept)
    assert account.fits(parse({"disk": 1}), kept)


class AccountMachine(RuleBasedStateMachine):
    """Grants, lends, resumes and returns in any order; the model adds up what is held."""

    def __init__(self) -> None:
        super().__init__()
        self.account = Account({"CPU": 4, "GPU": 3, "disk": 2})
        self.open: list[Grant] = []
        self.lent: set[int] = set()

    @rule(
        cpu=st.sampled_from([0, 0.1, 0.5, 1, 2, 5]),
        gpu=st.sampled_from([0, 0.25, 0.5, 0.7, 1, 2, 3]),
        disk=st.sampled_from([0, 1]),
    )
    def take(self, cpu: float, gpu: float, disk: float) -> None:
        amounts = parse({"CPU": cpu, "GPU": gpu, "disk": disk})
        free_cpu = 4 * UNIT - sum(dict(g.amounts).get(CPU, 0) for g in self.open)
        free_cpu += sum(g.lent for g in self.open)
        could = self.account.fits(amounts)
        grant = self.account.take(amounts)
        assert (grant is not None) == could
        if grant is None:
            return
        assert dict(amounts).get(CPU, 0) <= max(free_cpu, 0)
        assert sum(units for _, units in grant.gpus) == dict(amounts).get(GPU, 0)
        if 0 < gpu <= 1:
            assert len(grant.gpus) == 1
        self.open.append(grant)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from(self.open))
        self.open.remove(grant)
        self.account.give(grant)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def lend_or_resume(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from(self.open))
        if grant.lent:
            assert self.account.resume(grant)
        else:
            assert self.account.lend(grant) == bool(dict(grant.amounts).get(CPU, 0))

    @invariant()
    def adds_up(self) -> None:
        self.account.validate()
        for name, total in self.account.total.items():
            held = sum(dict(g.amounts).get(name, 0) for g in self.open)
            lent = sum(g.lent for g in self.open) if name == CPU else 0
            assert self.account.free[name] == total - held + lent
        for gpu in self.account.gpus:
            shares = sum(units for g in self.open for other, units in g.gpus if other == gpu)
            assert shares <= UNIT

    def teardown(self) -> None:
        for grant in self.open:
            self.account.give(grant)
        assert self.account.free == self.account.total


TestAccount = AccountMachine.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.dictionaries(st.sampled_from(["CPU", "a", "b"]), st.floats(0.001, 1000)))
def test_amounts_survive(wanted: dict[str, float]) -> None:
    amounts = parse(wanted)
    assert parse(plain(amounts)) == amounts
