"""The stall detector: a program that waits in vain is told so once, one whose tasks run is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, threading, shoal

shoal.init(num_cpus=2, object_store_memory=64 << 20)

@shoal.remote(num_cpus=0, max_concurrency=2)
class Gate:
    def __init__(self):
        self.event = threading.Event()
    def wait(self):
        self.event.wait()
    def open(self):
        self.event.set()

@shoal.remote(num_cpus=2)
class Holder:
    def ping(self):
        return 1

gate, holder = Gate.remote(), Holder.remote()
shoal.get(holder.ping.remote())
runs = gate.wait.remote()
shoal.wait([runs], timeout=1.5)  # it runs: no stall, however long
print("RAN", file=sys.stderr, flush=True)

def let_go():
    sys.stdin.readline()
    shoal.kill(holder)

threading.Thread(target=let_go, daemon=True).start()
stuck = shoal.remote(len).remote("four")
print(shoal.get(stuck), flush=True)
shoal.get([gate.open.remote(), runs])
"""


def test_a_stall_is_told_once_and_what_runs_is_none(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "SHOAL_DIR": str(root), "SHOAL_STALL_S": "0.4"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stderr is not None
        before = _read_until(program, "RAN")
        told = _read_until(program, "What to do")
        try:
            program.wait(1.5)  # it goes on waiting, and is not told again
        except subprocess.TimeoutExpired:
            pass
        out, after = program.communicate("go\n", timeout=60)
    assert "gone on" not in before
    assert told.count("nothing that this program waits for has gone on for 0.4 s") == 1
    assert "len (" in told and "actor Holder" in told and "end an actor" in told
    assert out == "4\n" and "gone on" not in after and program.returncode == 0


def _read_until(program: subprocess.Popen[str], word: str) -> str:
    assert program.stderr is not None
    found = ""
    for line in program.stderr:
        found += line
        if word in line:
            return found
    raise AssertionError(f"it ended without {word!r}:\n{found}")


SHORT = """
import shoal, sys, time
from shoal._runtime import cluster
shoal.init(num_cpus=1)
shoal.get(shoal.remote(time.sleep).remote(0.2))
(row,) = cluster.table("session")
print([name for name in [*sys.modules, *row["modules"]] if name.endswith((".reasons", ".why"))])
"""


def test_a_short_program_never_asks(tmp_path: Path) -> None:
    """What explains takes longer to import than such a program to run."""
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    environment = {**os.environ, "SHOAL_DIR": str(root), "SHOAL_STALL_S": "600"}
    command = [sys.executable, "-c", SHORT]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert out.stdout == "[]\n", out
