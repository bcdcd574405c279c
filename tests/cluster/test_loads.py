"""Programs with a known result on two nodes, one after the other."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.testing import Cluster
from tests.cluster import loads, two_nodes
from tests.cluster.conftest import looked_around


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """The look around comes after the last test: the cluster lives that long."""
    with looked_around():
        yield


@pytest.fixture(scope="module")
def cluster(_nothing_is_left: None) -> Iterator[Cluster]:
    with two_nodes.made() as made:
        yield made


@pytest.mark.parametrize("kind", loads.KINDS)
def test_loads_are_exact(cluster: Cluster, tmp_path: Path, kind: str) -> None:
    """The results are those of the serial run."""
    with two_nodes.driven(cluster.head, cluster.nodes):
        loads.KINDS[kind](tmp_path, random.Random(11), loads.SMALL)
