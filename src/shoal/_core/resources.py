"""Amounts, and the account of one node.

Amounts are whole numbers of 1/10000, so that sums are exact: a thousand holds of 0.1 CPU given back
leave what was there before. The account knows what the node owns, what is free, and for GPUs the
share that is free of each id (RULES S-9: a fraction comes from one id, above one only whole ids).

Invariants, asserted by ``Account.validate``:

1. For every resource: free + held - lent == total. Free may be negative only for CPU, and only
   while more has been resumed than was free (RULES S-7); nothing asking for CPU is granted until it
   is not.
2. For every GPU id: 0 <= free <= UNIT, and free + held shares == UNIT; the sum of the ids is the
   free GPU.
3. A grant is given back exactly once.
4. ``pinned`` is what holders have that no waiting for a task's end gives back: actors, bundles.

A bundle of a placement group is an account of its own, made of a grant of the node's: its GPU ids
may be shares. The account does not know who holds a grant or why; that is the scheduler's.

A ``Room`` is where one request may draw from: the node's account, one bundle, or any bundle of a
group. It has no accounts while its group has no place (and again when it is removed).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shoal._proto.strategies import LabelRule

UNIT = 10_000
CPU = "CPU"
GPU = "GPU"
MEMORY = "memory"

Amounts = tuple[tuple[str, int], ...]
"""Sorted (name, units) pairs without zeros: hashable, so it can be part of a scheduling class."""


class AmountError(ValueError):
    """An amount that cannot be meant."""


def parse(wanted: Mapping[str, float]) -> Amounts:
    """Amounts of ``{"CPU": 0.5, ...}``. Raises AmountError for negative, infinite or too fine
    ones."""
    pairs = []
    for name, value in wanted.items():
        if not name:
            raise AmountError("a resource needs a name")
        if not math.isfinite(value) or value < 0:
            raise AmountError(f"{name}={value!r}: must be a finite number that is not negative")
        units = round(value * UNIT)
        if value > 0 and units == 0:
            raise AmountError(f"{name}={value!r}: the smallest amount is {1 / UNIT}")
        if name == GPU and units > UNIT and units % UNIT:
            raise AmountError(f"GPU={value!r}: above one only whole numbers")
        if units:
            pairs.append((name, units))
    return tuple(sorted(pairs))


def plain(amounts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Amounts as people write them."""
    return {name: units / UNIT for name, units in amounts}


def units_of(amounts: Amounts, name: str) -> int:
    """Units of one resource, 0 if it is not named."""
    for other, units in amounts:
        if other == name:
            return units
    return 0


def sum_of(bundles: Iterable[Amounts]) -> Amounts:
    """All of them together."""
    total: dict[str, int] = {}
    for amounts in bundles:
        for name, units in amounts:
            total[name] = total.get(name, 0) + units
    return tuple(sorted(total.items()))


def threads_of(amounts: Amounts) -> int:
    """Threads a library may use in a worker that holds ``amounts``: its whole CPUs, at least
    one."""
    return max(1, units_of(amounts, CPU) // UNIT)


class Grant:
    """What one attachment or actor holds."""

    __slots__ = ("account", "amounts", "gpus", "is_over", "lent")

    def __init__(
        self, account: Account, amounts: Amounts, gpus: tuple[tuple[str, int], ...]
    ) -> None:
        self.account = account
        """Of which it is a part."""
        self.amounts = amounts
        self.gpus = gpus
        """(id, units) shares."""
        self.lent = 0
        """CPU units given to others while the holder is blocked."""
        self.is_over = False

    @property
    def gpu_ids(self) -> tuple[str, ...]:
        """The ids without their shares."""
        return tuple(gpu for gpu, _ in self.gpus)


class Account:
    """Totals and what is free of them."""

    def __init__(self, total: Mapping[str, float], gpu_ids: Sequence[str] = ()) -> None:
        self.total = dict(parse(total))
        self.free = dict(self.total)
        count = self.total.get(GPU, 0) // UNIT
        ids = tuple(gpu_ids) or tuple(str(i) for i in range(count))
        if len(ids) != count or len(set(ids)) != count or self.total.get(GPU, 0) % UNIT:
            raise AmountError(f"GPU={self.total.get(GPU, 0) / UNIT} does not match ids {ids}")
        self.gpus = dict.fromkeys(ids, UNIT)
        """Free units of each id."""
        self.gpu_shares = dict(self.gpus)
        """How much of each id this account has: a bundle may have half of one."""
        self.grants: set[Grant] = set()
        self.lenders = 0
        """Grants whose CPUs are lent."""
        self.pinned: dict[str, int] = {}

    @classmethod
    def of_bundle(cls, grant: Grant) -> Account:
        """The account of a bundle, which has what ``grant`` gives."""
        account = cls({})
        account.total = dict(grant.amounts)
        account.free = dict(grant.amounts)
        account.gpus = dict(grant.gpus)
        account.gpu_shares = dict(grant.gpus)
        return account

    # ---- questions
    def can_ever(self, amounts: Amounts) -> bool:
        """Whether an empty node could grant ``amounts``."""
        return all(units <= self.total.get(name, 0) for name, units in amounts)

    def fits(self, amounts: Amounts, kept: Mapping[str, int] | None = None) -> bool:
        """Whether ``amounts`` could be granted now and leave ``kept`` free."""
        for name, units in amounts:
            free = self.free.get(name, 0)
            if kept is not None:
                free -= kept.get(name, 0)
            if free < units:
                return False
        return self._choose_gpus(units_of(amounts, GPU)) is not None

    def could_serve(self, amounts: Amounts) -> bool:
        """Whether ``amounts`` would fit if every task ended."""
        total, pinned = self.total, self.pinned
        return all(units <= total.get(name, 0) - pinned.get(name, 0) for name, units in amounts)

    def missing(self, amounts: Amounts) -> dict[str, int]:
        """By how much each resource falls short of ``amounts``."""
        return {
            name: units - self.free.get(name, 0)
            for name, units in amounts
            if self.free.get(name, 0) < units
        }

    # ---- changes
    def take(self, amounts: Amounts) -> Grant | None:
        """A grant of ``amounts``, or None if they do not fit."""
        if not self.fits(amounts):
            return None
        gpus = self._choose_gpus(units_of(amounts, GPU))
        assert gpus is not None
        for name, units in amounts:
            self.free[name] -= units
        for gpu, units in gpus:
            self.gpus[gpu] -= units
        grant = Grant(self, amounts, gpus)
        self.grants.add(grant)
        return grant

    def take_all(
        self, bundles: Iterable[Amounts], kept: Mapping[str, int] | None = None
    ) -> list[Grant] | None:
        """A grant for each of ``bundles``, or None and no change if they do not fit together."""
        grants: list[Grant] = []
        for amounts in bundles:
            grant = self.take(amounts) if self.fits(amounts, kept) else None
            if grant is None:
                for taken in grants:
                    self.give(taken)
                return None
            grants.append(grant)
        return grants

    def pin(self, amounts: Amounts, sign: int = 1) -> None:
        """Count what stays until its holder ends; ``sign`` -1: it has ended."""
        for name, units in amounts:
            self.pinned[name] = self.pinned.get(name, 0) + sign * units

    def give(self, grant: Grant) -> None:
        """Take ``grant`` back."""
        assert not grant.is_over
        self.resume(grant)
        for name, units in grant.amounts:
            self.free[name] += units
        for gpu, units in grant.gpus:
            self.gpus[gpu] += units
        grant.is_over = True
        self.grants.remove(grant)

    def lend(self, grant: Grant) -> bool:
        """Let others use the CPUs of a blocked holder; False if there are none or it was done."""
        units = units_of(grant.amounts, CPU)
        if grant.is_over or grant.lent or not units:
            return False
        grant.lent = units
        self.lenders += 1
        self.free[CPU] += units
        return True

    def resume(self, grant: Grant) -> bool:
        """The holder goes on: its CPUs are its own again at once, free or not (RULES S-7)."""
        if not grant.lent:
            return False
        self.free[CPU] -= grant.lent
        grant.lent = 0
        self.lenders -= 1
        return True

    def _choose_gpus(self, units: int) -> tuple[tuple[str, int], ...] | None:
        if not units:
            return ()
        if units <= UNIT:
            # The fullest id that still has room: leaves whole ones for who needs them.
            fitting = [gpu for gpu, free in self.gpus.items() if free >= units]
            if not fitting:
                return None
            return ((min(fitting, key=self.gpus.__getitem__), units),)
        whole = [gpu for gpu, free in self.gpus.items() if free == UNIT]
        count = units // UNIT
        if len(whole) < count:
            return None
        return tuple((gpu, UNIT) for gpu in whole[:count])

    def validate(self) -> None:
        """Assert the invariants at the top of this module."""
        assert self.lenders == sum(bool(grant.lent) for grant in self.grants)
        held: dict[str, int] = {}
        shares: dict[str, int] = {}
        for grant in self.grants:
            assert not grant.is_over
            assert grant.lent in (0, units_of(grant.amounts, CPU))
            for name, units in grant.amounts:
                held[name] = held.get(name, 0) + units
            held[CPU] = held.get(CPU, 0) - grant.lent
            for gpu, units in grant.gpus:
                shares[gpu] = shares.get(gpu, 0) + units
            assert sum(units for _, units in grant.gpus) == units_of(grant.amounts, GPU)
        for name, units in self.total.items():
            assert self.free[name] + held.get(name, 0) == units, name
            assert self.free[name] >= 0 or name == CPU, name
        for gpu, free in self.gpus.items():
            share = self.gpu_shares[gpu]
            assert 0 <= free <= share <= UNIT and free + shares.get(gpu, 0) == share, gpu
        assert sum(self.gpus.values()) == self.free.get(GPU, 0)


class Room:
    """Where a request may draw from."""

    __slots__ = ("accounts", "sizes")

    def __init__(self, sizes: Sequence[Amounts], accounts: Sequence[Account] = ()) -> None:
        self.sizes = tuple(sizes)
        """What each of its accounts has or will have."""
        self.accounts = list(accounts)

    @classmethod
    def of_node(cls, account: Account) -> Room:
        """The room of whatever has no place of its own."""
        return cls([tuple(sorted(account.total.items()))], [account])

    def can_ever(self, amounts: Amounts) -> bool:
        """Whether one of its accounts could grant ``amounts`` if it were empty."""
        sizes = [dict(size) for size in self.sizes]
        return any(all(u <= size.get(name, 0) for name, u in amounts) for size in sizes)

    def could_serve(self, amounts: Amounts) -> bool:
        """Whether ``amounts`` would fit somewhere if every task ended."""
        return any(account.could_serve(amounts) for account in self.accounts)

    def nearest(self, amounts: Amounts) -> Account | None:
        """The account that could serve ``amounts`` and falls least short of it."""
        able = [account for account in self.accounts if account.could_serve(amounts)]
        return min(able, key=lambda a: sum(a.missing(amounts).values()), default=None)


class Target(NamedTuple):
    """Where an ask is to run: what its strategy means on this node."""

    room: Room
    group: str = ""
    """Id of the placement group."""
    captures: bool = False
    """What it submits goes into the group too."""
    binds: bool = True
    """Its process belongs to the group for life, and ends with it."""
    why: str = ""
    """Why it can run nowhere on this node."""
    labels: tuple[tuple[LabelRule, ...], ...] = ()
    """In a cluster: what the labels of another node must be that runs it instead."""
    spreads: bool = False
    """In a cluster: nodes take turns."""
    hosts: bool = False
    """It is for tasks that other nodes have sent, and for no others."""
    is_soft: bool = False
    """In a cluster: the labels name a node, and hold while that could run it (``shifting``)."""
