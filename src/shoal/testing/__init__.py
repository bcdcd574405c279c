"""The public test kit: what proves Shoal, for those who build on it or want to look.

``SimCluster`` runs the deciding parts of Shoal on a virtual clock, with everything that can go
wrong going wrong, and checks after every step that the rules hold. See ``docs/simulation.md``.
"""

from __future__ import annotations

from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.cluster import Plan, Report, SimCluster, SimulationError, Visit, run, shrink
from shoal.testing.sim.faults import FAULTS, Fault

__all__ = [
    "FAULTS",
    "Fault",
    "Plan",
    "Report",
    "SimCluster",
    "SimulationError",
    "Violation",
    "Visit",
    "run",
    "shrink",
]
