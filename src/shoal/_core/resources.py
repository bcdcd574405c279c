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

The account does not know who holds a grant or why; that is the scheduler's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

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


def threads_of(amounts: Amounts) -> int:
    """Threads a library may use in a worker that holds ``amounts``: its whole CPUs, at least
    one."""
    return max(1, units_of(amounts, CPU) // UNIT)


def help_class(amounts: Amounts) -> int:
    """For node memory: a waiting worker of class a may run a task of class b if 0 < b <= a (RULES
    S-6).

    Only classes that ask for nothing but CPU take part; 0 for all others.
    """
    if any(name != CPU for name, _ in amounts):
        return 0
    return units_of(amounts, CPU) + 1


class Grant:
    """What one attachment or actor holds."""

    __slots__ = ("amounts", "gpus", "is_over", "lent")

    def __init__(self, amounts: Amounts, gpus: tuple[tuple[str, int], ...]) -> None:
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
        self.grants: set[Grant] = set()
        self.lenders = 0
        """Grants whose CPUs are lent."""

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
        grant = Grant(amounts, gpus)
        self.grants.add(grant)
        return grant

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
            assert 0 <= free <= UNIT and free + shares.get(gpu, 0) == UNIT, gpu
        assert sum(self.gpus.values()) == self.free.get(GPU, 0)
