"""Memory that the store has and nobody uses is there for who needs memory."""

from __future__ import annotations

import os

import pytest

import shoal
from shoal._runtime import cluster, daemon_process_memory

MB = 1 << 20
LIMIT = 480 * MB
STORE = 240 * MB
TAKEN = 240 * MB


@shoal.remote(max_retries=0)
def take() -> int:
    return len(b"x" * TAKEN)


def test_a_task_is_not_ended_for_memory_that_is_free_in_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = LIMIT + daemon_process_memory.quick_bytes(os.getpid())
    monkeypatch.setenv("SHOAL_MEMORY_BYTES", str(limit))
    shoal.init(num_cpus=1, object_store_memory=STORE, log_to_driver=False)
    kept = [shoal.put(bytes(8 * MB)) for _ in range(25)]
    del kept
    (session,) = cluster.table("session")
    assert session["memory_used_bytes"] < 8 * MB
    for _ in range(5):
        assert shoal.get(take.remote()) == TAKEN
