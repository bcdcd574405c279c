"""What the measured figures of a case say: ratios, floor and aim reached, CPU against the need.

All ratios are turned so that more is better: a time or an amount of bytes that is half as large
counts twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.case import BEST_PEER, Case, Mark, Share
from benchmarks.limits import rates
from benchmarks.protocol import SHOAL
from benchmarks.sides import AT_ONCE

NO_PEERS = (SHOAL, "need", "neighbours", "serial", AT_ONCE)
POOLS = ("multiprocessing", "executor", "loky", "dask")
CPU_LIMIT = 2.0


@dataclass(frozen=True)
class Run:
    """The results of one suite, with what several rows need."""

    cases: dict[str, Case]
    results: dict[str, Any]

    @property
    def cores(self) -> int:
        """Of the machine that was measured."""
        return int(self.results["machine"]["cores"])

    def limits(self, place: str = "alone") -> dict[str, float]:
        """The machine's limits as rates, alone or with neighbours."""
        found = self.results["limits"].get(place, {})
        return rates({name: (value, unit) for name, (value, unit) in found.items()}, self.cores)

    def rows(self) -> list[Row]:
        """Every measured case that still exists, in the order of measuring."""
        return [
            Row(self, self.cases[measured["id"]], measured)
            for measured in self.results["cases"]
            if measured["id"] in self.cases
        ]

    def row(self, case_id: str) -> Row | None:
        return next((row for row in self.rows() if row.case.id == case_id), None)


@dataclass(frozen=True)
class Row:
    """One case and what was measured for it."""

    run: Run
    case: Case
    measured: dict[str, Any]

    def side(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.measured["sides"].get(name)
        return found

    def median(self, name: str) -> float | None:
        found = self.side(name)
        return None if found is None else float(found["median"])

    def peers(self) -> dict[str, float]:
        """The medians of the others; code without any parallelism is no peer."""
        found = self.measured["sides"]
        return {side: found[side]["median"] for side in found if side not in NO_PEERS}

    def best_peer(self, among: tuple[str, ...] = ()) -> str | None:
        peers = {side: value for side, value in self.peers().items() if side in among or not among}
        if not peers:
            return None
        choose = max if self.case.quantity == "rate" else min
        return choose(peers, key=lambda side: peers[side])

    def better(self, ours: float | None, other: float | None) -> float | None:
        """How many times better ours is."""
        if not ours or not other:
            return None
        return ours / other if self.case.quantity == "rate" else other / ours

    def limit(self, place: str = "alone") -> float | None:
        """The case's limit in its own quantity."""
        if self.case.limit is None:
            return None
        rate = self.run.limits(place).get(self.case.limit) if self.has(place) else None
        return 1.0 / rate if rate and self.case.quantity == "time" else rate

    def has(self, place: str) -> bool:
        """Whether limits were measured there."""
        return bool(self.run.results["limits"].get(place))

    def resolved(self, mark: Mark, place: str) -> float | None:
        """A floor or an aim as a figure; None where what it is a share of was not measured."""
        if not isinstance(mark, Share):
            return mark
        if mark.limit:
            whole = self.run.limits(place).get(mark.limit) if self.has(place) else None
        else:
            side = self.best_peer() if mark.side == BEST_PEER else mark.side
            whole = self.median(side) if place == "alone" and side is not None else None
        if whole is None:
            return None
        return whole * mark.factor

    def aim(self, place: str) -> float | None:
        found = self.resolved(self.case.aim, place)
        pool = self.best_peer(POOLS)
        if found is not None and pool is not None and self.case.aim_of_best:
            found = max(found, self.peers()[pool] * self.case.aim_of_best)
        return found

    def of_floor(self, place: str = "alone") -> float | None:
        """How many times the floor was reached; None where there is no floor or no result."""
        ours = self.median(SHOAL if place == "alone" else place)
        return self.better(ours, self.resolved(self.case.floor, place))

    def reached(self, place: str = "alone") -> str:
        """`aim`, `floor`, `below`, or `–` where nothing is asked."""
        ours = self.median(SHOAL if place == "alone" else place)
        if ours is None or self.case.floor is None:
            return "–"
        of_floor = self.of_floor(place)
        if of_floor is None:
            return "–"
        of_aim = self.better(ours, self.aim(place))
        if of_aim is not None and of_aim >= 1.0:
            return "aim"
        return "floor" if of_floor >= 1.0 else "**below**"

    def need_s(self, place: str = "alone") -> float | None:
        """CPU seconds that one operation needs by itself."""
        need = self.case.need
        if need is None:
            return None
        if need.case:
            other = self.run.row(need.case)
            return None if other is None else other.need_s()
        if need.caller:
            found = self.side(SHOAL if place == "alone" else place)
            return None if found is None else found["caller_s_per_operation"]
        found = self.side(need.side)
        return None if found is None else found["cpu_s_per_operation"]

    def of_need(self, place: str = "alone") -> float | None:
        """CPU seconds that one operation used, as a multiple of its need."""
        found, need_s = self.side(SHOAL if place == "alone" else place), self.need_s(place)
        if found is None or not need_s or found["cpu_s_per_operation"] is None:
            return None
        return float(found["cpu_s_per_operation"]) / need_s
