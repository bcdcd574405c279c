"""What every case ends with: nothing is left of it, wherever one can look.

``session`` is one session of ``shoal start`` and what must be true after it; ``audited`` is one
case in it. After a case the driver leaves and joins again, so that its job ends, and then within
``SETTLE_S``:

* the audit of node memory, which recounts everything and trusts no counter, finds no byte, slot,
  spec or leaked block in use;
* free resources are all resources; no job but ours goes on, no actor lives, no group is there;
* the daemon has no descriptor more, besides those of its workers, and this process none at all;
* the session's directory has the files that it had (but for ``PER_PROCESS``).

After a session nothing of it runs, whatever called ``setsid``, and no file is left.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import shoal
from shoal._runtime import cluster
from tests.torture.kills import calm_descriptors, spare_descriptors
from tests.torture.processes import descriptors, eventually, session_pids
from tests.torture.started import Started, start_session

T = TypeVar("T")

SETTLE_S = 30.0
"""Most of it is patience with a busy machine; the promise is 5 s."""
PER_PROCESS = {"logs", "metrics", "store"}
"""Folders whose files outlive who wrote them; ``test_store`` counts those of the journal."""


@contextmanager
def session(folder: Path, cpus: int, *options: str) -> Iterator[Started]:
    """One session; nothing of it is left afterwards."""
    with start_session(folder, cpus, *options) as started:
        yield started
    eventually(lambda: not session_pids(started.session), SETTLE_S, "nothing of the session runs")
    left = list((folder / "sessions-of-test").glob("session-*"))
    assert not left, f"files are left: {left}"


@contextmanager
def audited(started: Started) -> Iterator[None]:
    """One case in ``started``, which this process has joined, or joins."""
    rejoin(started)
    before = _possessions(started, calm_descriptors(started))
    yield
    rejoin(started)
    _settles(lambda: shoal.lowlevel.memory().audit(), lambda found: not any(found.values()))
    _settles(_unfree, lambda found: not found)
    _settles(_going_on, lambda found: not found)
    _settles(
        lambda: _more(before, _possessions(started, spare_descriptors(started))),
        lambda found: not found,
    )


def rejoin(started: Started) -> None:
    """End this process's job, and begin another one."""
    shoal.shutdown()
    gc.collect()
    shoal.init(address=started.session, log_to_driver=False)


def _settles(look: Callable[[], T], is_right: Callable[[T], bool]) -> None:
    found: list[T] = []

    def right_now() -> bool:
        found[:] = [look()]
        return is_right(found[0])

    try:
        eventually(right_now, SETTLE_S, "nothing is left of the case")
    except AssertionError:
        raise AssertionError(f"left after the case: {found[0]}") from None


def _unfree() -> dict[str, tuple[float, float]]:
    """What is not free: (free, all)."""
    free, total = shoal.available_resources(), shoal.cluster_resources()
    return {
        name: (free.get(name, 0.0), all) for name, all in total.items() if free.get(name) != all
    }


def _going_on() -> list[object]:
    jobs = [row for row in cluster.table("jobs") if row["state"] == "RUNNING"]
    mine = [row for row in jobs if row["pid"] == os.getpid()]
    actors = [row for row in cluster.table("actors") if row["state"] != "DEAD"]
    groups = [row for row in cluster.table("groups") if row["state"] != "REMOVED"]
    others = [row for row in jobs if row["pid"] != os.getpid()]
    return [*mine[1:], *others, *actors, *groups]


def _possessions(started: Started, spare: int) -> dict[str, int]:
    directory = Path(str(started.facts()["directory"]))
    found = (path for path in directory.rglob("*") if not path.is_dir())
    files = [path for path in found if not PER_PROCESS & set(path.parts)]
    spilling = started.facts().get("spilling")
    # The first value that leaves for a file begins a thread, which tells by a descriptor.
    has_spilled = isinstance(spilling, dict) and spilling.get("spilled_bytes", 0) > 0
    return {
        "descriptors of the daemon": spare - has_spilled,
        "descriptors of this process": descriptors(os.getpid()),
        **{f"file {path.relative_to(directory)}": 1 for path in files},
    }


def _more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] for name in after if after[name] > before.get(name, 0)}
