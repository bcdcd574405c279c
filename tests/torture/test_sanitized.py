"""A few seconds of kills with the native module under AddressSanitizer and UBSan."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.native.sanitized import sanitized_environment, sanitizer_reports
from tests.torture.drivers import ROOT
from tests.torture.test_torture import LONGER, SEED

SECONDS = 14.0


@pytest.mark.timeout(1500)  # the first caller of a run pays for the build
def test_kills_under_the_sanitizers(tmp_path_factory: pytest.TempPathFactory) -> None:
    environment = sanitized_environment(tmp_path_factory)
    program = [sys.executable, "-m", "tests.torture", "--only", "kills", "--seed", str(SEED)]
    for times in LONGER:
        done = subprocess.run(
            [*program, "--seconds", str(times * SECONDS)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        reports = sanitizer_reports(environment)
        assert not reports, reports[-4000:]
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        found = json.loads(done.stdout.splitlines()[-1])["kills"]
        if found["kills_total"] > 20:
            break
    assert found["kills_total"] > 20, found
