"""A copy of the package whose native module is built with AddressSanitizer and UBSan.

`sanitized_environment(tmp_path_factory)` builds it once per test run, under the run's temporary
directory (where several runs of one suite go side by side, once for all of them, under the
directory that SHOAL_TEST_BUILDS names), and answers the environment in which a child process uses
it:

    environment = sanitized_environment(tmp_path_factory)
    subprocess.run([sys.executable, "program.py"], env=environment, ...)
    assert not sanitizer_reports(environment)

Python itself is not instrumented: the sanitizer's runtime comes in first through LD_PRELOAD, Python
allocates by malloc (so that overruns of its objects are seen too), and leaks are not looked for,
since the interpreter leaves some on purpose. Every process of a session inherits the environment;
what a sanitizer has to say is written to one file per process, because the processes of a session
do not share our stderr, and each report ends its process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX", "g++")
# An environment that we made for this test run, by the folder it was built in.
_built: dict[Path, dict[str, str]] = {}


def _runtime(library: str) -> str:
    """Where the compiler keeps one of its own libraries."""
    command = [COMPILER, f"-print-file-name={library}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _build(folder: Path) -> Path:
    """Build the module into a copy of the package; its import folder."""
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": tools}
    configure = [
        "cmake", "-G", "Ninja", "-S", str(ROOT / "native"), "-B", str(folder / "build"),
        "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -g1", "-DSHOAL_SANITIZE=address",
        # Eight sources at a time: most of the time goes to headers that all of them include.
        "-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=8",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", str(folder / "build")]):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    site = folder / "site"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "src" / "shoal", site / "shoal", ignore=ignored)
    (module,) = (folder / "build").glob("_native*.so")
    shutil.copy(module, site / "shoal")
    return site


def _built_once(folder: Path) -> Path:
    """The import folder, built by whoever of several runs comes first."""
    shared = os.environ.get("SHOAL_TEST_BUILDS")
    if not shared:
        return _build(folder)
    folder = Path(shared) / "sanitized"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            _build(folder)
            (folder / "done").touch()
    return folder / "site"


def sanitized_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a child that runs with the sanitized package; built on the first call."""
    folder = tmp_path_factory.getbasetemp() / "sanitized"
    if folder not in _built:
        (folder / "reports").mkdir(parents=True)
        reports = folder / "reports" / "report"
        _built[folder] = {
            "LD_PRELOAD": f"{_runtime('libasan.so')}:{_runtime('libstdc++.so')}",
            "PYTHONPATH": str(_built_once(folder)),
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": f"detect_leaks=0:log_path={reports}",
            "UBSAN_OPTIONS": f"halt_on_error=1:print_stacktrace=1:log_path={reports}",
        }
    return os.environ | _built[folder]


def sanitized_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The core of that build, for programs that have no Python; built on the first call."""
    site = Path(sanitized_environment(tmp_path_factory)["PYTHONPATH"])
    return site.parent / "build" / "libshoal_core.a"


def sanitizer_reports(environment: dict[str, str]) -> str:
    """Everything the sanitizers said since the build, in any process; empty when all is well."""
    pattern = environment["ASAN_OPTIONS"].split("log_path=")[1]
    paths = sorted(Path(pattern).parent.glob(Path(pattern).name + "*"))
    return "\n".join(path.read_text(errors="replace")[:8000] for path in paths)
