"""A detached actor begins again with what its creator gave it, from the files, after that has gone.

Its arguments are one large value itself and refs to others; nobody else has any of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shoal
from shoal import errors
from tests.torture.drivers import ROOT
from tests.torture.processes import eventually
from tests.torture.started import Started, start_session

STORE = 32 << 20
LENGTH = (1 << 17) - 100
SUM = 7 * LENGTH + sum(range(6)) * LENGTH

CREATOR = """
import sys
import numpy as np, shoal
from tests.scenario.test_spilling_detached import LENGTH, Keeper

shoal.init(address=sys.argv[1], namespace="common", log_to_driver=False)
refs = [shoal.put(np.full(LENGTH, number)) for number in range(6)]
given = {"max_restarts": 3, "num_cpus": 0}
keeper = Keeper.options(name="keeper", lifetime="detached", **given).remote(
    np.full(LENGTH, 7), refs
)
print(shoal.get(keeper.total.remote()))
"""


@shoal.remote(max_task_retries=3)
class Keeper:
    """It keeps nothing of what it was given but the sum."""

    def __init__(self, values: np.ndarray, refs: list[shoal.ObjectRef[np.ndarray]]) -> None:
        self.sum = int(values.sum()) + sum(int(shoal.get(ref).sum()) for ref in refs)

    def total(self) -> int:
        return self.sum

    def pid(self) -> int:
        return os.getpid()


def create(session: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CREATOR, session],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0 and done.stdout == f"{SUM}\n", done.stderr


def spilled_bytes(started: Started) -> int:
    row = started.facts()["spilling"]
    assert isinstance(row, dict)
    return int(row["bytes"])


def test_a_detached_actor_begins_again_from_spilled_arguments(tmp_path: Path) -> None:
    place = tmp_path / "spilled"
    place.mkdir()
    options = ("--object-store-memory", str(STORE), "--object-spilling-directory", str(place))
    with start_session(tmp_path, 2, *options) as started:
        shoal.shutdown()
        create(started.session)
        shoal.init(address=started.session, namespace="common", log_to_driver=False)
        keeper = shoal.get_actor("keeper")
        for number in (1, 2):
            kept = [shoal.put(np.full(LENGTH, i)) for i in range(60)]
            assert spilled_bytes(started) > 30 << 20, "what nobody has looked at has left"
            before = shoal.get(keeper.pid.remote())
            os.kill(before, 9)
            assert shoal.get(keeper.total.remote()) == SUM, f"restart {number}"
            assert shoal.get(keeper.pid.remote()) != before
            assert [int(shoal.get(ref)[0]) for ref in kept[::7]] == list(range(0, 60, 7))
            del kept
        shoal.kill(keeper)
        with pytest.raises(errors.ActorNotFoundError):
            shoal.get_actor("keeper")
        del keeper
        eventually(lambda: not any(place.iterdir()), 60, "its arguments have gone with it")
