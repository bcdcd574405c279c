"""Workers, actors and drivers that die, in a session whose control store is a process (W, A, R, C).

``tests/torture`` and ``tests/scenario`` look at each of these ways to die closely; here the load is
the one of the table of faults, its oracle judges, and each case ends with the audit.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from tests.chaos import audit
from tests.chaos.loads import Appender, Graph, append_line
from tests.chaos.oracle import verdict
from tests.torture import ways
from tests.torture.processes import (
    cpu_s,
    eventually,
    is_running,
    kill,
    session_pids,
    signal_session_process,
)
from tests.torture.started import Started

LONG_S = 120.0
SEED = 11


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with audit.session(tmp_path_factory.mktemp("chaos"), 2) as started:
        yield started


@pytest.fixture
def case(session: Started) -> Iterator[Started]:
    with audit.audited(session):
        yield session


# ---- workers
def kill_workers(started: Started, graph: Graph, kills: int, chance: random.Random) -> int:
    """Kill somebody who serves tasks, each time after some more have run; how many."""
    killed = 0
    for _ in range(kills):
        wanted = graph.begun() + chance.randrange(1, 6)
        if wanted >= graph.size:
            break
        eventually(lambda: graph.begun() >= wanted, LONG_S, "tasks run")  # noqa: B023
        workers = sorted(started.workers())
        if workers:
            kill(chance.choice(workers))
            killed += 1
    return killed


def test_w1_results_are_exact_while_workers_are_killed(case: Started, tmp_path: Path) -> None:
    """Two kills for each graph: the third death of one task would make it poison."""
    chance = random.Random(SEED)
    killed = 0
    for number in range(2):
        graph = Graph(tmp_path, str(number), leaves=32)
        killed += kill_workers(case, graph, 2, chance)
        assert graph.judge(LONG_S) <= killed
    assert killed >= 2


@shoal.remote(max_retries=0)
def go(way: str, path: str) -> Any:
    return ways.end(way, path)


def test_w2_every_way_to_end_has_its_error(case: Started, tmp_path: Path) -> None:
    """29 ways, beside a load that nobody disturbs; the slow one is in ``test_ways_to_die``."""
    graph = Graph(tmp_path, "beside", leaves=8)
    quick = [way for way in ways.WAYS if "CPU time" not in way]
    paths = {way: tmp_path / f"way-{at}" for at, way in enumerate(quick)}
    refs = {way: go.remote(way, str(path)) for way, path in paths.items()}
    for way, ref in refs.items():
        with pytest.raises((errors.TaskError, errors.LostError, errors.SerializationError)) as at:
            shoal.get(ref, timeout=LONG_S)
        if way in ways.RAISES:
            assert not isinstance(at.value, errors.LostError), (way, at.value)
            assert ways.RAISES[way][1] in str(at.value), (way, at.value)
        else:
            assert type(at.value) is errors.WorkerCrashedError, (way, at.value)
            ways.told(at.value, way, paths[way])
    assert graph.judge(LONG_S) == 0


@shoal.remote(max_retries=-1)
def poison(path: str) -> None:
    append_line(path, str(os.getpid()))
    os.abort()


def test_w3_poison_is_quarantined_and_others_go_on(case: Started, tmp_path: Path) -> None:
    path = tmp_path / "victims"
    ref = poison.remote(str(path))
    graph = Graph(tmp_path, "beside", leaves=16)
    with pytest.raises(errors.PoisonTaskError) as caught:
        shoal.get(ref, timeout=LONG_S)
    assert sorted(map(int, path.read_text().split())) == sorted(caught.value.pids)
    assert len(caught.value.pids) == 3
    assert graph.judge(LONG_S) == 0


# ---- actors
CALLS = 150


def calls_under_kills(folder: Path, chance: random.Random, **options: Any) -> dict[str, Any]:
    """L2 of one actor, killed twice at some call; what was asked and told, and what ran."""
    folder.mkdir()
    file = folder / "journal"
    actor = Appender.options(num_cpus=0, max_restarts=-1, **options).remote(str(file))
    pid: int = shoal.get(actor.pid.remote(), timeout=LONG_S)
    kills = sorted(chance.sample(range(10, CALLS - 10), 2))
    refs, killed = [], []
    for number in range(CALLS):
        refs.append(actor.append.remote(str(number)))
        if number in kills:
            wanted = file.read_text().count("\n") + 1 if file.exists() else 1
            eventually(lambda: _lines(file) >= min(wanted, number), LONG_S, "it runs")  # noqa: B023
            kill(pid)
            killed.append(pid)
            pid = _next_pid(actor, killed)
    told, denied = [], []
    for number, ref in enumerate(refs):
        try:
            told.append(shoal.get(ref, timeout=LONG_S))
        except errors.ActorError as error:
            if not error.may_have_run:
                denied.append(str(number))
    done = file.read_text().split()
    return {"told": told, "denied": denied, "done": done, "kills": len(killed)}


def _lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


def _next_pid(actor: Any, killed: list[int]) -> int:
    """The pid of the next incarnation; who asks too early hears that the last one has died."""
    deadline = time.monotonic() + LONG_S
    while True:
        assert time.monotonic() < deadline, "the actor does not come back"
        try:
            pid: int = shoal.get(actor.pid.remote(), timeout=LONG_S)
        except errors.ActorError:
            continue
        if pid not in killed:
            return pid


def test_a1_without_retries_calls_run_at_most_once(case: Started, tmp_path: Path) -> None:
    seen = calls_under_kills(tmp_path / "a1", random.Random(SEED))
    wrong = verdict([str(number) for number in range(CALLS)], seen["told"], seen["done"])
    assert not any(wrong.values()), wrong
    assert not set(seen["denied"]) & set(seen["done"]), "an error denied what ran"


def test_a2_with_retries_nothing_is_lost_and_order_is_kept(case: Started, tmp_path: Path) -> None:
    seen = calls_under_kills(tmp_path / "a2", random.Random(SEED), max_task_retries=-1)
    asked = [str(number) for number in range(CALLS)]
    assert seen["told"] == asked, "no caller hears of a death"
    wrong = verdict(asked, seen["told"], seen["done"])
    doubled = wrong.pop("doubled")
    assert not any(wrong.values()), wrong
    assert len(seen["done"]) - CALLS <= seen["kills"] and len(doubled) <= seen["kills"]


@shoal.remote(num_cpus=0, max_restarts=-1)
class Doomed:
    """Dies while it is made."""

    def __init__(self, path: str) -> None:
        append_line(path, str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)

    def echo(self, x: int) -> int:
        return x


def test_a3_a_crash_loop_is_slow_and_disturbs_nobody(case: Started, tmp_path: Path) -> None:
    """Its pauses double: n lives take longer than the sum of the pauses, whatever the machine."""
    path = tmp_path / "lives"
    facts = case.facts()
    house = {int(str(facts[name])) for name in ("pid", "zygote_pid", "store_pid")}
    begun, before_s = time.monotonic(), cpu_s(house)
    actor = Doomed.remote(str(path))
    call = actor.echo.remote(1)
    graph = Graph(tmp_path, "beside", leaves=8)
    eventually(lambda: _lines(path) >= 4, LONG_S, "it is tried again")
    lives, took_s = _lines(path), time.monotonic() - begun
    assert took_s >= 0.05 * (2 ** (lives - 3) - 1), f"{lives} lives in {took_s} s"
    assert graph.judge(LONG_S) == 0
    assert cpu_s(house) - before_s < max(2.0, took_s), "the house sleeps between the lives"
    shoal.kill(actor)
    with pytest.raises(errors.ActorDiedError):
        shoal.get(call, timeout=LONG_S)


# ---- the whole machine
def stopped(pids: set[int]) -> bool:
    """Whether each of them stands still, or is gone."""
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "TZX":
            return False
    return True


def test_c2_who_was_suspended_goes_on(case: Started, tmp_path: Path) -> None:
    """All processes but ours stand still as in a suspended machine, with calls under way: no death
    is seen that was none, and nothing runs twice."""
    actor = Appender.options(num_cpus=0).remote(str(tmp_path / "journal"))
    first = shoal.get([actor.append.remote("first"), actor.pid.remote()], timeout=LONG_S)
    graph = Graph(tmp_path, "under way", leaves=8)
    everybody = session_pids(case.session)
    try:
        for pid in everybody:
            signal_session_process(pid, case.session, signal.SIGSTOP)
        eventually(lambda: stopped(everybody), LONG_S, "they stand still")
        asked = actor.append.remote("meanwhile")
        assert shoal.wait([asked], timeout=0.5) == ([], [asked])
    finally:
        for pid in everybody:
            signal_session_process(pid, case.session, signal.SIGCONT)
    assert shoal.get([asked, actor.pid.remote()], timeout=LONG_S) == ["meanwhile", first[1]]
    assert (tmp_path / "journal").read_text() == "first\nmeanwhile\n"
    assert graph.judge(LONG_S) == 0


# ---- drivers
DRIVER = """
import os, subprocess, sys, time
import shoal

WAYS = [
    "setsid sleep 600 & echo $!",
    "setsid env -i sleep 600 > /dev/null 2>&1 < /dev/null & echo $!",
]

@shoal.remote(num_cpus=0)
class Actor:
    def pid(self):
        return os.getpid()
    def children(self):
        # They leave their session, their parent, and one of them all that it could be told by.
        lines = [subprocess.Popen(["sh", "-c", way], stdout=subprocess.PIPE).stdout for way in WAYS]
        return [subprocess.Popen(["sleep", "600"], start_new_session=True).pid, fork_away(),
                *(int(line.readline()) for line in lines)]

def fork_away():
    reads, writes = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (child := os.fork()) != 0:
            os.write(writes, b"%d" % child)
            os._exit(0)
        os.setsid()
        os.closerange(0, 100)
        time.sleep(600)
        os._exit(0)
    return int(os.read(reads, 20))

@shoal.remote
def sleep_long(path):
    open(path, "w").close()
    time.sleep(1000)

shoal.init(address=sys.argv[1], namespace="of-the-killed-driver", log_to_driver=False)
mine = Actor.remote()
kept = Actor.options(name="kept", lifetime="detached").remote()
value = shoal.put(bytes(8 << 20))
sleeping = [sleep_long.remote(f"{sys.argv[2]}-{number}") for number in range(2)]
for each in (mine, kept):
    print(shoal.get(each.pid.remote()), *shoal.get(each.children.remote()), flush=True)
time.sleep(1000)
"""


def test_r1_a_killed_driver_leaves_only_what_is_detached(case: Started, tmp_path: Path) -> None:
    """No child escapes, whatever it did to get away; those of a detached actor live as it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, case.session, str(tmp_path / "begun")],
        env=case.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        mine = [int(word) for word in process.stdout.readline().split()]
        kept = [int(word) for word in process.stdout.readline().split()]
        eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 2, LONG_S, "its tasks run")
        assert len(mine) == len(kept) == 5 and all(map(is_running, [*mine, *kept]))
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not any(map(is_running, mine)), LONG_S, "what the killed driver had ends")
    graph = Graph(tmp_path, "beside", leaves=8)
    assert graph.judge(LONG_S) == 0, "the CPUs of the killed driver's tasks are free again"
    found = shoal.get_actor("kept", namespace="of-the-killed-driver")
    assert shoal.get(found.pid.remote(), timeout=LONG_S) == kept[0]
    gone = [place for place, pid in enumerate(kept) if not is_running(pid)]
    assert not gone, f"an actor that is detached keeps what it has started: {gone}"
    shoal.kill(found)
    eventually(lambda: not any(map(is_running, kept)), LONG_S, "they end by kill")
