"""What stands between processes and the kernel is compiled once for all tests of this package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.stores import build_shim


@pytest.fixture(scope="session")
def failing_io(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("failing"), "failing_io")


@pytest.fixture(scope="session")
def moving_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("moving"), "moving_clock")
