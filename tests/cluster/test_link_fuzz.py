"""A short run of the fuzz; `make fuzz` runs it for as long as one likes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 4.0


@pytest.mark.parametrize("seed", [1, 2])
def test_nonsense_does_no_harm(seed: int) -> None:
    command = [sys.executable, "-m", "tests.cluster.fuzz_links", str(seed), str(SECONDS)]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, env=dict(os.environ)
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    counts = json.loads(found.stdout)
    assert counts["strangers"] > 5 and counts["peers"] > 5 and counts["decoded"] > 1000
    assert counts["honest"] > 50
