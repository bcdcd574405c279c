"""All cases, by suite: `core` (the engine's operations) and `classic` (three whole programs).

Each module under `core/` and `classic/` asks one question and offers `CASES`.
"""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.case import Case

SUITES = ("core", "classic")


def suite(name: str) -> list[Case]:
    """The cases of one suite, in the order of their modules' names."""
    package = importlib.import_module(f"benchmarks.{name}")
    found: list[Case] = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        found += importlib.import_module(f"benchmarks.{name}.{module.name}").CASES
    return found


def find(case_id: str) -> Case:
    """The case of that id; a case's module may import nothing beyond its sides' environments."""
    for name in SUITES:
        for case in suite(name):
            if case.id == case_id:
                return case
    raise LookupError(f"no case {case_id!r}")
