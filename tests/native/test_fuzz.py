"""Every native entry point with any argument, in children: no crash, no hang, no damage.

The children are `tests/native/fuzz_entries.py`, one per seed; SHOAL_FUZZ_SEEDS=N runs more of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType
from typing import Any

import pytest

from shoal import _native
from tests.native.sanitized import ROOT, sanitized_environment, sanitizer_reports

SEEDS = int(os.environ.get("SHOAL_FUZZ_SEEDS", "4"))
STEPS = 4000
SANITIZED_STEPS = 800
"""Fixed: after as many calls a seed has done the same on any machine, but for its alarms."""
# Python's own: they are made by the interpreter and know nothing of our arguments.
NOT_OURS = {"__new__", "__doc__", "__module__", "__init__", "__qualname__", "__name__"}
EXCEPTED = {
    "Memory.close": "called at the change of each subject",
}


def run_child(seed: int, steps: int, environment: dict[str, str] | None) -> dict[str, Any]:
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "tests.native.fuzz_entries", str(seed), str(steps)]
        try:
            done = subprocess.run(
                [*command, str(log.fileno())], cwd=ROOT, env=environment, pass_fds=[log.fileno()],
                capture_output=True, text=True, timeout=400, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            done = None
        last = os.pread(log.fileno(), 2000, 0).decode(errors="replace").strip()
    assert done is not None, f"seed {seed} hangs in {last}"
    assert done.returncode == 0, f"seed {seed}: {done.returncode} in {last}\n{done.stderr[-3000:]}"
    counts: dict[str, Any] = json.loads(done.stdout)
    return counts


def entry_points() -> set[str]:
    found = set()
    for name in (
        "ObjectRef", "Template", "Task", "Draft", "SharedBlock", "Channel", "Memory",
    ):  # fmt: skip
        for attribute, value in vars(getattr(_native, name)).items():
            is_python = isinstance(getattr(value, "__func__", value), FunctionType)
            if attribute not in NOT_OURS and not is_python:
                found.add(f"{name}.{attribute}")
    return found


@pytest.mark.timeout(1200)
def test_any_argument_to_any_entry_point() -> None:
    calls: Counter[str] = Counter()
    wanted = entry_points() - set(EXCEPTED)
    # An alarm changes all that a seed does from then on: by chance it may leave a rare one out.
    for first in range(0, 4 * SEEDS, SEEDS):
        with ThreadPoolExecutor(2) as pool:
            seeds = range(first, first + SEEDS)
            for counts in pool.map(lambda seed: run_child(seed, STEPS, None), seeds):
                calls.update(counts["calls"])
        if wanted <= set(calls):
            break
    print(f"{sum(calls.values())} calls of {len(calls)} entry points")
    assert wanted <= set(calls), wanted - set(calls)


@pytest.mark.timeout(1200)  # the first caller of a run pays for the build
def test_any_argument_under_sanitizers(tmp_path_factory: pytest.TempPathFactory) -> None:
    environment = sanitized_environment(tmp_path_factory)
    with ThreadPoolExecutor(2) as pool:
        seeds = range(100, 100 + SEEDS)
        list(pool.map(lambda seed: run_child(seed, SANITIZED_STEPS, environment), seeds))
    assert not sanitizer_reports(environment)
