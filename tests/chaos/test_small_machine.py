"""The limits that containers have unless somebody thinks of them: nothing is lost within them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos import small_machine
from tests.torture.group import Group, make_group

LIMIT_BYTES = 192 << 20


@pytest.fixture
def group() -> Iterator[Group]:
    if why := small_machine.why_not():
        pytest.skip(why)
    made = make_group(LIMIT_BYTES)
    if isinstance(made, str):
        pytest.skip(made)
    yield made
    made.remove()


@pytest.mark.timeout(small_machine.LATE_S + 20)
def test_ten_times_the_default_store_in_a_small_container(group: Group) -> None:
    """192 MB of memory with everything in it, and a ``/dev/shm`` of 64 MB that is full."""
    found = small_machine.run_in(group)
    assert found["shm_bytes"] == small_machine.SHM_MB << 20
    assert found["bytes"] > 9.9 * found["capacity"] and found["lost"] == 0
    assert found["spilled"] > 8 * found["capacity"]
    assert found["same"] and group.kills() == 0, "nobody was ended"
