"""The pickle of a stream's cell is what pickle itself makes of such a tuple."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from typing import Any

import pytest

from shoal._runtime.cells import cell_value


class Unpickler(pickle.Unpickler):
    """Restores refs as their places in the table."""

    def find_class(self, module: str, name: str) -> Any:
        assert (module, name) == ("shoal._native", "_restore_ref")
        return lambda place: ("ref", place)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_it_names_the_refs_by_their_places(count: int) -> None:
    loaded = Unpickler(io.BytesIO(cell_value(count))).load()
    assert loaded == tuple(("ref", place) for place in range(count))


def test_who_bridges_nodes_loads_no_pickle() -> None:
    code = "import sys, shoal._runtime.daemon_abroad; print('pickle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
