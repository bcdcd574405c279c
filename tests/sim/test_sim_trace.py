"""The same seed is the same run, to the last event, whatever the process hashes strings with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib
from shoal.testing.sim import cluster
from shoal.testing.sim.store_programs import ClusterWorld

kept = []


class Kept(ClusterWorld):
    def __init__(self, *given, **more):
        kept.append(self)
        super().__init__(*given, **more)


cluster.ClusterWorld = Kept
text = hashlib.sha256()
for seed in (5, 11):
    report = cluster.SimCluster(seed).run()
    text.update(repr((report, list(kept.pop().log))).encode())
print(text.hexdigest())
"""


def trace(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    )
    return done.stdout


@pytest.mark.timeout(600)  # on a machine that does other things too
def test_the_same_seed_is_the_same_trace_whatever_hashes_are() -> None:
    first = trace("0")
    assert len(first.strip()) == 64
    assert trace("1") == first
