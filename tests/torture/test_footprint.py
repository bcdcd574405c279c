"""What Shoal costs while it does nothing, and what it opens: nothing that others could reach."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import shoal
from shoal._runtime import cluster
from tests.torture.processes import cpu_s, eventually, session_pids, tcp_listeners
from tests.torture.started import start_session

IMPORT_S = 0.100
IDLE_SHARE = 0.005
IDLE_S = 6.0


def start_s(program: str) -> float:
    """Seconds that a fresh interpreter needs for `program`: the median of seven."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def test_import_is_quick() -> None:
    """`import shoal` adds less than 100 ms to a bare start of the same interpreter, in this run."""
    bare = start_s("pass")
    added = start_s("import shoal") - bare
    # On a machine so busy that a bare start is slow, the same holds in proportion.
    allowed = IMPORT_S * max(1.0, bare / 0.05)
    assert added < allowed, f"import shoal takes {added * 1e3:.0f} ms"


def test_import_loads_no_library_that_nobody_asked_for() -> None:
    program = (
        "import sys, shoal\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'torch', 'asyncio', 'rich', 'cyclopts', 'psutil'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.split() == []


@shoal.remote
def nothing() -> None:
    return None


def test_idle_session_is_small_quiet_and_closed() -> None:
    shoal.init(num_cpus=2)
    shoal.get([nothing.remote() for _ in range(100)])
    (facts,) = cluster.table("session")
    session = str(facts["session"])
    control = {int(str(facts["pid"])), int(str(facts["zygote_pid"]))}

    def unexplained() -> set[int]:
        workers = {int(str(row["pid"])) for row in cluster.table("workers")}
        return session_pids(session) - workers - control

    # A worker that is being forked is a process before it is a row.
    eventually(lambda: not unexplained(), 5, "besides workers there is one daemon and the zygote")
    pids = session_pids(session)
    assert control <= pids
    assert tcp_listeners(pids) == []
    # Idle work such as warming memory ends by itself; then nothing polls.
    end = time.monotonic() + 30
    while True:
        before = cpu_s(pids)
        time.sleep(IDLE_S)
        share = (cpu_s(pids) - before) / IDLE_S
        if share < IDLE_SHARE:
            break
        assert time.monotonic() < end, f"an idle session uses {share:.2%} of a core"


def test_started_session_listens_on_no_network(tmp_path: Path) -> None:
    with start_session(tmp_path, num_cpus=2) as started:
        shoal.get(nothing.remote())
        assert tcp_listeners(session_pids(started.session)) == []


def test_daemon_and_store_load_no_pickle() -> None:
    """Asked of the live daemon, after work, errors and actors."""
    shoal.init(num_cpus=2)

    @shoal.remote(max_retries=0)
    def fail() -> None:
        raise ValueError("on purpose")

    ready, _ = shoal.wait([fail.remote(), nothing.remote()], num_returns=2)
    assert len(ready) == 2
    (facts,) = cluster.table("session")
    modules = facts["modules"]
    assert isinstance(modules, list)
    loaded = {"pickle", "_pickle", "cloudpickle", "dill"} & set(modules)
    assert not loaded, f"the daemon could unpickle: {loaded}"
