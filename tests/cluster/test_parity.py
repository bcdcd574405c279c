"""Stories of users that were told of one machine, on three nodes: the same outcomes.

All files of them take minutes: ``python -m tests.parity.on_nodes`` plays those.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.testing import Cluster
from tests.cluster.conftest import looked_around
from tests.parity import on_nodes


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with looked_around():
        yield


@pytest.fixture(scope="module")
def three(_nothing_is_left: None) -> Iterator[Cluster]:
    with on_nodes.three_nodes() as made:
        yield made


@pytest.mark.parametrize("file", ["actors", "generators", "objects", "tasks"])
def test_the_stories_of_one_machine_on_three(three: Cluster, file: str, tmp_path: Path) -> None:
    assert on_nodes.differences(three, file, tmp_path) == {}
