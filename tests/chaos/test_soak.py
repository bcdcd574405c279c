"""A short look at what ``make chaos`` does for minutes."""

from __future__ import annotations

from pathlib import Path

from tests.chaos import audit, recovery, soak

SEED = 20261122


def test_real_programs_are_exact_under_faults(tmp_path: Path) -> None:
    """Wrong results, hangs and leftovers end it; what was lost by name is counted."""
    found = soak.run(tmp_path, SEED, 2.0, print, share=0.2)
    assert found["audit"] == "zero"
    assert all(row["rounds"] + sum(row["named"].values()) > 0 for row in found["work"].values())


def test_work_goes_on_after_each_death(tmp_path: Path) -> None:
    with audit.session(tmp_path, 2) as started, audit.audited(started):
        probes = recovery.Probes(started, tmp_path)
        names = ("task", "actor", "store", "stall")
        times = recovery.measure({name: getattr(probes, name) for name in names}, lambda: True)
        del probes
    assert all(0 < took_s < recovery.LONG_S for (took_s,) in times.values()), times
