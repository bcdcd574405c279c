"""The ``shoal`` command, as people type it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from shoal._base import records
from shoal._runtime import session_dir
from shoal.cli import app

Done = subprocess.CompletedProcess


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> dict[str, str]:
    """Sessions of this test only."""
    return {**os.environ, "SHOAL_DIR": str(tmp_path / "sessions")}


def shoal(environment: dict[str, str], *words: str) -> Done[str]:
    command = [sys.executable, "-m", "shoal", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_start_status_list_stop(environment: dict[str, str]) -> None:
    start = shoal(environment, "start", "--num-cpus", "2", "--resources", '{"licence": 3}')
    try:
        assert start.returncode == 0, start.stderr
        assert "has started" in start.stdout
        assert "3 licence" in start.stdout

        again = shoal(environment, "start")
        assert again.returncode == 1
        assert "is running" in again.stderr

        status = shoal(environment, "status")
        assert "0 of 2 in use" in status.stdout
        assert "1 node" in status.stdout
        assert "nothing listens on the network" in status.stdout

        rows = shoal(environment, "list", "nodes", "--json")
        assert len(json.loads(rows.stdout)) == 1
        assert shoal(environment, "list", "jobs").returncode == 0
    finally:
        stop = shoal(environment, "stop")
    assert stop.returncode == 0
    assert "has ended" in stop.stdout
    assert "No session" in shoal(environment, "stop").stdout
    assert "No session" in shoal(environment, "status").stdout
    root = pathlib.Path(environment["SHOAL_DIR"])
    assert [path for path in root.rglob("*") if path.name != "sessions"] == []


def test_what_a_killed_program_has_left_is_removed(environment: dict[str, str]) -> None:
    root = pathlib.Path(environment["SHOAL_DIR"])
    for name, age_s in (("killed", 3600), ("beginning", 0)):
        directory = session_dir.create(str(root), name)
        os.close(session_dir.listen(directory, session_dir.SOCKET_NAME))
        begun = time.time() - age_s
        os.utime(directory, (begun, begun))
    status = shoal(environment, "status")
    assert "session-killed" not in status.stdout
    assert "session-beginning/node.sock does not answer" in status.stdout
    listed = shoal(environment, "list", "jobs")
    assert listed.returncode == 1 and listed.stderr.startswith("shoal: a node daemon does not")
    assert [path.name for path in root.iterdir()] == ["session-beginning"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["start", "--num-cpus", "-1"], "must not be negative"),
        (["start", "--resources", "[1]"], "must be JSON like"),
        (["start", "--labels", "zone"], "must be like zone=a"),
        (["start", "--object-store-memory", "lots"], "a size like 2GB"),
        (["list", "planets"], "there are nodes, jobs"),
        (["run"], "which program?"),
        (["run", "no such file.py"], "there is no file"),
        (["run", "--speed", "9", "x.py"], "unknown option"),
    ],
)
def test_misuse_gets_one_exact_sentence(
    environment: dict[str, str], words: list[str], text: str
) -> None:
    done = shoal(environment, *words)
    assert done.returncode in (1, 2)
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_run_is_python_itself(environment: dict[str, str], tmp_path: pathlib.Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(__name__, sys.argv[1:], sys.path[0])\nsys.exit(7)\n")
    done = shoal(environment, "run", str(script), "--flag", "a b")
    assert done.stdout.strip() == f"__main__ ['--flag', 'a b'] {tmp_path}"
    assert done.returncode == 7


def test_run_starts_a_session_at_the_first_use(
    environment: dict[str, str], tmp_path: pathlib.Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import shoal\n"
        "@shoal.remote\n"
        "def square(x):\n"
        "    return x * x\n"
        "print(shoal.get([square.remote(i) for i in range(4)]))\n"
    )
    done = shoal(environment, "run", str(script))
    assert done.stdout.strip() == "[0, 1, 4, 9]", done.stderr
    assert done.returncode == 0


def test_a_table_says_what_a_record_says() -> None:
    record = records.pack("ActorDiedError", reason="killed", class_name="Keeper", actor_id="ab")
    assert "Keeper (ab) is dead: it was killed" in app._readable({"cause": record})["cause"]
    assert app._readable({"cause": b""}) == {"cause": ""} and app._readable({"a": 1}) == {"a": 1}
