"""The daemon is killed while actors, groups, streams and channels are in use.

Whoever waits, in whatever way, hears `SessionLostError` within 3 s; then no process, socket or
directory of the session is left, and the program has nothing of its memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.torture.drivers import ROOT
from tests.torture.processes import eventually, kill, session_pids

GONE_S = 3.0


def test_everybody_hears_that_the_session_is_lost(tmp_path: Path) -> None:
    environment = {**os.environ, "SHOAL_DIR": str(tmp_path / "sessions-of-test")}
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.waiters"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    session = ""
    try:
        assert program.stdout is not None
        facts = json.loads(program.stdout.readline())
        session, directory = facts["session"], Path(facts["directory"])
        assert len(session_pids(session)) > 5
        killed_at = time.monotonic()
        kill(facts["pid"])
        eventually(lambda: not session_pids(session), GONE_S, "no process of the session")
        eventually(lambda: not directory.exists(), GONE_S, "no socket and no directory of it")
        answer = json.loads(program.stdout.readline())
        wrong = {
            name: (what, at - killed_at)
            for name, (what, at) in answer["heard"].items()
            if what != "lost" or at - killed_at > GONE_S
        }
        assert not wrong and len(answer["heard"]) == 16, answer["heard"].keys()
        assert answer["left"] == 0, "the program still has node memory"
        assert answer["another"] == "goes on"
    finally:
        program.kill()
        program.wait()
        for pid in session_pids(session) if session else ():
            kill(pid)
