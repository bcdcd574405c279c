"""Records, ids, limits and the two readers: environment and clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal._base
from shoal._base import clock, environment, ids, records

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(min_size=1), PLAIN, max_size=4))
def test_records_survive(name: str, fields: dict[str, object]) -> None:
    assert records.unpack(records.pack(name, **fields)) == (name, fields)


def test_a_field_may_be_called_name() -> None:
    assert records.unpack(records.pack("E", name="x")) == ("E", {"name": "x"})


@pytest.mark.parametrize("broken", [b"", b"\xc0", b"\x92\x01\x02", b"\x91\xa1x"])
def test_broken_record(broken: bytes) -> None:
    with pytest.raises(ValueError, match="not an error record"):
        records.unpack(broken)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1))
def test_keys(slot: int, generation: int) -> None:
    key = ids.make_key(slot, generation)
    assert (ids.slot_of(key), ids.generation_of(key)) == (slot, generation)


def test_ids_differ() -> None:
    assert ids.new_session_id() != ids.new_session_id()


def test_environment() -> None:
    seen = environment.read({"SHOAL_ADDRESS": "auto", "SHOAL_SESSION": "s"})
    assert seen.address == "auto" and seen.session == "s" and not seen.as_ray
    assert seen.root.startswith("/tmp/shoal-")
    assert environment.read({"SHOAL_DIR": "/x"}).root == "/x"


def test_clock_goes_forward() -> None:
    first = clock.now()
    assert clock.now() >= first and abs(clock.now_ns() / 1e9 - first) < 5


def _imports(folder: str) -> set[str]:
    found: set[str] = set()
    for path in (Path(shoal._base.__file__).parent.parent / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return found


def test_core_is_pure() -> None:
    """DESIGN.md section 10, rule 7."""
    forbidden = {"asyncio", "time", "random", "secrets", "socket", "os", "logging", "threading"}
    imported = _imports("_core")
    assert not imported & forbidden
    ours = {name for name in imported if name.startswith("shoal")}
    assert all(name.startswith(("shoal._core", "shoal._base", "shoal._proto")) for name in ours)
    assert not any(name.startswith("shoal._base.clock") for name in ours)
