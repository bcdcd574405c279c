"""What a node does when it has not heard from the control store for as long as its lease lasts.

Real daemons: one is stopped while its workers, which are not, go on calling each other; one is cut
off with all that it has. Whatever runs writes who it is into a file each 20 ms, so that it is seen
from outside who was alive when.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal._base import clock
from shoal.testing import Cluster, NetCluster, Node
from shoal.testing.polling import wait_until
from tests.cluster.conftest import LEASE_S, need_namespaces

USUAL_S = 10.0
LONG_S = 60.0
FAR: dict[str, Any] = {"num_cpus": 0, "resources": {"far": 0.1}}


@shoal.remote
class Ticker:
    """Says in a file that it is there, for as long as it is."""

    def __init__(self, file: str) -> None:
        self.file = file
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while True:
            write_line(self.file)
            time.sleep(0.02)

    def who(self) -> tuple[int, str]:
        return os.getpid(), str(shoal.get_runtime_context().get_node_id())


@shoal.remote(max_retries=0)
def step(file: str) -> None:
    """One step of a long chain, each of which may run once."""
    write_line(file)


@shoal.remote(max_retries=0)
def walk(file: str) -> None:
    """On the node that is struck: go on and on with what may run once."""
    while True:
        shoal.get(step.options(**FAR).remote(file))
        time.sleep(0.02)


def write_line(file: str) -> None:
    with open(file, "a", buffering=1) as out:
        out.write(f"{os.getpid()} {clock.now()}\n")


def lines(file: Path) -> list[tuple[int, float]]:
    """(pid, when) of what was written so far; the line that is being written is left out."""
    if not file.exists():
        return []
    rows = [row.split() for row in file.read_text().split("\n")[:-1]]
    return [(int(pid), float(at)) for pid, at in rows]


def last_of(file: Path, pid: int) -> float:
    return max(at for other, at in lines(file) if other == pid)


def get(ref: Any) -> Any:
    return shoal.get(ref, timeout=LONG_S)


def who_lives(file: Path, but: int) -> int:
    """The pid of another one that is there; 0: nobody."""
    return next((pid for pid, _ in lines(file) if pid != but), 0)


class Scene:
    """A driver on the first node; on the second actors that others could begin again, and a task
    that goes on and on; a third that could have all of it."""

    def __init__(self, folder: Path) -> None:
        self.files = {name: folder / name for name in ("restartable", "named", "steps")}
        file = {name: str(path) for name, path in self.files.items()}
        self.actors = {
            "restartable": Ticker.options(max_restarts=3, **FAR).remote(file["restartable"]),
            "named": Ticker.options(name="named", **FAR).remote(file["named"]),
        }
        self.before = {name: get(actor.who.remote()) for name, actor in self.actors.items()}
        self.walking = walk.options(**FAR).remote(file["steps"])
        assert wait_until(lambda: len(lines(self.files["steps"])) > 3, LONG_S)

    def check(self, struck_at: float, lease_s: float) -> None:
        """Everything of it has ended with the lease; what may lives elsewhere, later."""
        pids = {name: pid for name, (pid, _) in self.before.items()}
        restartable = self.files["restartable"]
        assert wait_until(lambda: who_lives(restartable, pids["restartable"]), LONG_S)
        second = who_lives(restartable, pids["restartable"])
        first_of_second = min(at for pid, at in lines(restartable) if pid == second)
        for name, pid in pids.items():
            ended_at = last_of(self.files[name], pid)
            assert ended_at < struck_at + lease_s + 1.0, f"{name} lived on"
            assert ended_at < first_of_second, "two of it at the same time"
        assert wait_until(lambda: clock.now() > struck_at + lease_s + 3.0, LONG_S)
        steps = [at for _, at in lines(self.files["steps"])]
        assert struck_at + 0.6 * lease_s < max(steps) < struck_at + lease_s + 1.0
        assert get(self.actors["restartable"].who.remote())[1] != self.before["restartable"][1]


def test_a_stopped_daemon_has_nobody_that_lives_twice(tmp_path: Path) -> None:
    """With the usual lease."""
    with Cluster() as cluster:
        cluster.add_node(num_cpus=1)
        struck = cluster.add_node("struck", num_cpus=2, resources={"far": 1})
        cluster.connect()
        scene = Scene(tmp_path)
        cluster.add_node("other", num_cpus=2, resources={"far": 1})
        struck.signal_daemon(signal.SIGSTOP)
        try:
            scene.check(clock.now(), USUAL_S)
            quiet = lines(scene.files["steps"])
        finally:
            struck.signal_daemon(signal.SIGCONT)
        pids = {pid for pid, _ in scene.before.values()}
        assert wait_until(lambda: not pids & set(struck.processes()), LONG_S)
        cluster.wait_for_nodes(LONG_S)
        assert lines(scene.files["steps"]) == quiet, "nothing of it began when it was awake again"
        with pytest.raises(shoal.errors.ActorDiedError):
            get(scene.actors["named"].who.remote())
        again = Ticker.options(name="named", **FAR).remote(str(scene.files["named"]))
        assert get(again.who.remote())


@pytest.fixture
def net() -> Iterator[tuple[NetCluster, Node]]:
    need_namespaces()
    with NetCluster(1, lease_s=LEASE_S) as made:
        yield made, made.add_node("struck", num_cpus=2, resources={"far": 1})


def test_who_is_cut_off_ends_what_may_be_begun_elsewhere(
    net: tuple[NetCluster, Node], tmp_path: Path
) -> None:
    cluster, struck = net
    cluster.connect()
    scene = Scene(tmp_path)
    cluster.add_node("other", num_cpus=2, resources={"far": 1})
    cluster.isolate(struck)
    scene.check(clock.now(), LEASE_S)
    cluster.heal()
    cluster.wait_for_nodes(LONG_S)
    with pytest.raises(shoal.errors.ActorDiedError):
        get(scene.actors["named"].who.remote())
