"""Two users of one host, each with a cluster: neither sees, joins or ends the other's.

The second user is another uid, with an interpreter that this uid may run.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.operated import Machine, listening_at

OTHER = 65534
AS_OTHER: dict[str, Any] = {"user": OTHER, "group": OTHER, "extra_groups": [], "cwd": "/"}


class Theirs(Machine):
    """Of the other user."""

    def __init__(self, directory: pathlib.Path, python: str) -> None:
        super().__init__(directory)
        self.python, self.as_user = python, AS_OTHER
        self.variables |= _paths()


def _paths() -> dict[str, str]:
    """What we import, for an interpreter that knows of no environment."""
    return {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}


def _interpreter() -> str:
    """One of this version that the other user can run, with what is installed here; "": none."""
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        test = f"import sys, shoal._native; assert sys.version_info[:2] == {sys.version_info[:2]}"
        try:
            command = [python, "-c", test]
            variables = {**os.environ, **_paths()}
            done = subprocess.run(command, env=variables, capture_output=True, **AS_OTHER)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return ""


@pytest.fixture
def users() -> Iterator[tuple[Machine, Machine]]:
    if os.geteuid() != 0:
        pytest.skip("only root can start something as another user")
    if not (python := _interpreter()):
        pytest.skip("no interpreter of this version that another user may run and import with")
    folders = [pathlib.Path(tempfile.mkdtemp(prefix="shoal-users-")) for _ in range(2)]
    os.chown(folders[1], OTHER, OTHER)
    ours, theirs = Machine(folders[0]), Theirs(folders[1], python)
    try:
        yield ours, theirs
    finally:
        for machine in (ours, theirs):
            machine.stop()
            shutil.rmtree(machine.directory)


def test_two_clusters_of_two_users_do_not_see_each_other(users: tuple[Machine, Machine]) -> None:
    ours, theirs = users
    token = ours.directory / "token"
    head = ("--head", "--listen", "127.0.0.1:0")
    address = listening_at(ours.start(*head, "--node-name", "ours", "--token-file", str(token)))
    their_line = theirs.start(*head, "--node-name", "theirs")
    join = ("--address", address, "--token-file", str(token))
    done = theirs.shoal("start", *join)
    assert done.returncode != 0 and "Permission denied" in done.stderr, "the secret is ours alone"
    assert listening_at(their_line) != address
    for mine, other, name in ((ours, theirs, "ours"), (theirs, ours, "theirs")):
        assert mine.alive() == {name}
        stranger = Machine(other.directory)
        stranger.python, stranger.as_user, stranger.variables = (
            mine.python, mine.as_user, {**mine.variables, "SHOAL_DIR": str(other.directory)},
        )  # fmt: skip
        for words in (("status",), ("list", "nodes"), ("stop",)):
            done = stranger.shoal(*words)
            assert done.returncode == 1 and "that belongs to you" in done.stderr, done
    assert ours.alive() == {"ours"} and theirs.alive() == {"theirs"}
    ours.stop()
    assert theirs.alive() == {"theirs"}, "stop ends one's own only"
