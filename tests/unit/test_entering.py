"""Addresses and keys of a node before its daemon runs, and how people name nodes."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from shoal._runtime import entering, machine_facts
from shoal._runtime.links import keys
from shoal.cli.operating import find_node
from shoal.cli.values import CommandError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:7000", "10.0.0.1:7000"),
        ("10.0.0.1", "10.0.0.1:6380"),
        ("10.0.0.1:0", "10.0.0.1:0"),
        ("10.0.0.1:6380", "10.0.0.1:6380"),
        ("[fd00::1]:7000", "[fd00::1]:7000"),
        ("[fd00::1]", "[fd00::1]:6380"),
        ("head.example", "head.example:6380"),
    ],
)
def test_where_to_listen(text: str, address: str) -> None:
    assert entering.listening(text) == address


@pytest.mark.parametrize("text", ["", ":7000", "host:port", "host:70000", "fd00::1:7000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(keys.CredentialsError, match="is not an address"):
        entering.listening(text)


def test_what_others_are_told() -> None:
    assert entering.announced("10.0.0.1:7000", 7000) == "10.0.0.1:7000"
    assert entering.announced("10.0.0.1:0", 4242) == "10.0.0.1:4242"
    assert entering.announced("0.0.0.0:0", 4242) == f"{machine_facts.address()}:4242"


def test_keys_are_made_once_and_are_ours(tmp_path: pathlib.Path) -> None:
    place = str(tmp_path / "session")
    first = entering.found(place, "127.0.0.1:0", "one", {})
    again = entering.found(place, "127.0.0.1:0", "two", {})
    assert first.keys == again.keys and (first.node_name, again.node_name) == ("one", "two")
    line = entering.join_line(first.keys, "127.0.0.1:4242")
    joined = entering.enter(str(tmp_path / "node"), line, "", "", {"shoal.io/request": "r-1"})
    assert joined.addresses == ("127.0.0.1:4242",) and not joined.is_head and not joined.listen
    assert joined.node_name == f"{os.uname().nodename}-r-1"
    for directory in (first.keys, joined.keys):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        for name in os.listdir(directory):
            assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600
    assert line.secret.text().partition(".")[2] not in repr(line) + repr(first) + repr(joined)
    with pytest.raises(FileExistsError):
        entering.enter(str(tmp_path / "node"), line, "", "", {})


ROWS = [
    {"node_id": "aaaa11112222", "name": "first", "state": "ALIVE"},
    {"node_id": "aaaa11113333", "name": "second", "state": "ALIVE"},
    {"node_id": "bbbb11112222", "name": "old", "state": "DEAD", "why": "its lease is over"},
]


def test_people_name_nodes() -> None:
    assert find_node(ROWS, "first") is ROWS[0]
    assert find_node(ROWS, "aaaa11113") is ROWS[1]
    for about, said in (
        ("aaaa1111", "several nodes are called"),
        ("aaaa", "there is no node aaaa"),
        ("old", "node old is dead: its lease is over; the nodes are: first"),
    ):
        with pytest.raises(CommandError, match=said):
            find_node(ROWS, about)
