"""The property tests, and a small session, in a build with AddressSanitizer and UBSan."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.sanitized import ROOT, sanitized_environment, sanitizer_reports

SESSION = """
import numpy, shoal
shoal.init(num_cpus=2, object_store_memory=64 << 20)

@shoal.remote
def double(x): return x * 2

@shoal.remote
class Counter:
    def __init__(self): self.n = 0
    def add(self, x): self.n += int(x[0]); return self.n

counter = Counter.remote()
ones = [double.remote(numpy.ones(n)) for n in (1, 100, 100_000, 1_000_000)]
print(shoal.get([counter.add.remote(x) for x in ones])[-1])
shoal.shutdown()
"""


def native_tests(folder: str) -> list[Path]:
    found = sorted((ROOT / "tests" / folder).glob("test_*.py"))
    native = [path for path in found if "_native" in path.read_text()]
    assert len(native) >= 2
    return native


@pytest.mark.timeout(1200)  # the first caller of a run pays for the build
@pytest.mark.parametrize("folder", ["property"])
def test_under_sanitizers(folder: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Those of them that have to do with the native module: the others have nothing to show."""
    environment = sanitized_environment(tmp_path_factory)
    files = [str(path) for path in native_tests(folder)]
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=600", *files]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert not sanitizer_reports(environment)


@pytest.mark.timeout(1200)  # the first caller of a run pays for the build
def test_session_under_sanitizers(tmp_path_factory: pytest.TempPathFactory) -> None:
    environment = sanitized_environment(tmp_path_factory)
    command = [sys.executable, "-c", SESSION]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.stdout == "8\n", done.stdout + done.stderr[-4000:]
    assert not sanitizer_reports(environment)
