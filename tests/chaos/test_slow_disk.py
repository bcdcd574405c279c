"""S4: a disk on which every read and write takes 50 ms more delays who needs it only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import shoal
from tests.torture.processes import eventually
from tests.torture.started import start_session

STORE = 32 << 20
LENGTH = (1 << 17) - 100
VALUES = 72


@shoal.remote
def total(values: object) -> int:
    assert isinstance(values, np.ndarray)
    return int(values.sum())


@shoal.remote
def twice(number: int) -> int:
    return 2 * number


@pytest.mark.timeout(300)
def test_values_on_a_slow_disk_come_back_and_nobody_is_taken_for_dead(
    tmp_path: Path, failing_io: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "spilled"
    place.mkdir()
    with monkeypatch.context() as inside:
        inside.setenv("LD_PRELOAD", str(failing_io))
        inside.setenv("FAIL_BELOW", str(place))
        inside.setenv("SLOW_WHILE", str(place))
        options = ("--object-store-memory", str(STORE), "--object-spilling-directory", str(place))
        with start_session(tmp_path, 2, *options) as started:
            before = started.facts()
            refs = [shoal.put(np.full(LENGTH, number)) for number in range(VALUES)]
            others = [twice.remote(number) for number in range(100)]
            sums = [total.remote(ref) for ref in refs]
            assert shoal.get(others) == [2 * number for number in range(100)]
            assert shoal.get(sums) == [number * LENGTH for number in range(VALUES)]
            for number in range(0, VALUES, 4):
                value = shoal.get(refs[number])
                assert value[0] == value[-1] == number
                del value
            after = started.facts()
            assert (before["pid"], before["zygote_pid"]) == (after["pid"], after["zygote_pid"])
            spilling = after["spilling"]
            assert isinstance(spilling, dict) and spilling["lost"] == 0
            assert spilling["restored_bytes"] > VALUES << 19
            failed = [row for row in shoal.state.tasks() if row.state == "FAILED"]
            assert failed == []
            del refs, sums, others
            eventually(lambda: not any(place.iterdir()), 60, "the files are gone")
