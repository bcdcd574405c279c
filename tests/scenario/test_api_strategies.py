"""Where work may run, and how several programs share a node, through the public API."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from shoal.util.placement_group import get_placement_group, placement_group
from shoal.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)
from tests.torture.processes import eventually


@shoal.remote
def pid() -> int:
    return os.getpid()


@shoal.remote
class Member:
    def pid(self) -> int:
        return os.getpid()


def here() -> str:
    return str(shoal.nodes()[0]["NodeID"])


def test_strategies_that_this_node_satisfies() -> None:
    shoal.init(num_cpus=2, labels={"zone": "a", "rank": "3"})
    assert shoal.nodes()[0]["Labels"] == {"zone": "a", "rank": "3", "shoal.io/node-id": here()}
    options: list[dict[str, Any]] = [
        {"scheduling_strategy": "DEFAULT"},
        {"scheduling_strategy": "SPREAD"},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy(here(), soft=False)},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy("ab" * 16, soft=True)},
        {"scheduling_strategy": NodeLabelSchedulingStrategy({"zone": In("a", "b")})},
        {"scheduling_strategy": NodeLabelSchedulingStrategy({"rank": Exists()})},
        {"scheduling_strategy": NodeLabelSchedulingStrategy({"gone": DoesNotExist()})},
        {"scheduling_strategy": NodeLabelSchedulingStrategy({}, soft={"zone": In("z")})},
        {"label_selector": {"zone": "a", "rank": "in(2, 3)"}},
        {"label_selector": {"zone": "!b", "rank": "!in(1, 2)", "gone": "!x"}},
        {"label_selector": {"ray.io/node-id": here()}},
        {"label_selector": {"zone": "b"}, "fallback_strategy": [{"label_selector": {"zone": "a"}}]},
    ]
    refs = [pid.options(**given).remote() for given in options]
    assert all(shoal.get(refs, timeout=20))
    member = Member.options(label_selector={"zone": "a"}).remote()
    assert shoal.get(member.pid.remote(), timeout=30)


def test_strategies_that_no_node_satisfies_fail_with_the_reason() -> None:
    shoal.init(num_cpus=2, labels={"zone": "a"})
    strategy = NodeLabelSchedulingStrategy({"zone": NotIn("a"), "rank": Exists()})
    options: list[tuple[dict[str, Any], str]] = [
        ({"scheduling_strategy": NodeAffinitySchedulingStrategy("ab", soft=False)}, "no node ab"),
        ({"scheduling_strategy": strategy}, r"zone not in \(a\) and rank set"),
        ({"label_selector": {"zone": "b"}}, "zone=b"),
        (
            {
                "label_selector": {"zone": "b"},
                "fallback_strategy": [{"label_selector": {"q": "1"}}],
            },
            "zone=b or q=1",
        ),
    ]
    refs = [(pid.options(**given).remote(), why) for given, why in options]
    members = [(Member.options(**given).remote(), why) for given, why in options]
    for ref, why in refs:
        with pytest.raises(errors.UnschedulableError, match=why):
            shoal.get(ref, timeout=30)
    for member, why in members:
        with pytest.raises(errors.UnschedulableError, match=why):
            shoal.get(member.pid.remote(), timeout=30)


def test_mistakes_in_strategies() -> None:
    shoal.init(num_cpus=1)
    for given in (
        {"scheduling_strategy": "NEAR"},
        {"label_selector": {"a b": "c"}},
        {"label_selector": {"a": ""}},
        {"fallback_strategy": {"label_selector": {}}},
    ):
        with pytest.raises(errors.OptionError):
            pid.options(**given)
    with pytest.raises(errors.OptionError):
        NodeAffinitySchedulingStrategy("here", soft=False)
    with pytest.raises(errors.OptionError):
        NodeLabelSchedulingStrategy({"zone": "a"})  # type: ignore[dict-item]
    with pytest.raises(errors.OptionError):
        In(1)  # type: ignore[arg-type]
    affinity = NodeAffinitySchedulingStrategy(here(), soft=False)
    with pytest.raises(errors.OptionError, match="label_selector"):
        pid.options(scheduling_strategy=affinity, label_selector={"a": "b"}).remote()
    shoal.shutdown()
    with pytest.raises(errors.OptionError, match="labels"):
        shoal.init(labels={"zone": 1})  # type: ignore[dict-item]


def test_memory_and_fractions_are_reserved() -> None:
    shoal.init(num_cpus=4, resources={"memory_of_mine": 1})
    total = shoal.cluster_resources()["memory"]
    member = Member.options(memory=int(total * 0.7), num_cpus=0.5).remote()
    assert shoal.get(member.pid.remote(), timeout=30)
    free = shoal.available_resources()
    assert free["memory"] == pytest.approx(total - int(total * 0.7)) and free["CPU"] == 3.5
    waiting = pid.options(memory=int(total * 0.6)).remote()
    assert shoal.wait([waiting], timeout=0.3) == ([], [waiting])
    shoal.kill(member)
    assert shoal.get(waiting, timeout=30)
    with pytest.raises(errors.UnschedulableError, match="memory"):
        shoal.get(pid.options(memory=total * 2).remote(), timeout=30)


# ---- several programs
def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``shoal <words>``."""
    return subprocess.run(
        [sys.executable, "-m", "shoal", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def begin(code: str) -> subprocess.Popen[str]:
    """Start another driver."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(program: subprocess.Popen[str], question: str = "") -> str:
    """The next line of the program, after a line of ours."""
    assert program.stdin is not None and program.stdout is not None
    if question:
        program.stdin.write(question + "\n")
        program.stdin.flush()
    return program.stdout.readline().strip()


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SHOAL_DIR", str(tmp_path))
    done = command("start", "--num-cpus", "2", "--labels", "zone=a, disk=fast")
    assert done.returncode == 0, done.stdout + done.stderr
    yield
    shoal.shutdown()
    command("stop")


def test_groups_end_with_their_program_unless_they_are_detached(started: None) -> None:
    first = begin("""
        import shoal
        from shoal.util.placement_group import placement_group
        shoal.init(namespace="n")
        assert placement_group([{"CPU": 1}], name="short").wait(30)
        assert placement_group([{"CPU": 1}], name="long", lifetime="detached").wait(30)
        print("made", flush=True)
        input()
        """)
    assert told(first) == "made"
    shoal.init(namespace="n")
    short, long = get_placement_group("short"), get_placement_group("long")
    strategy = PlacementGroupSchedulingStrategy(short)
    ref = pid.options(scheduling_strategy=strategy).remote()
    assert shoal.get(ref, timeout=30)
    member = Member.options(num_cpus=1, scheduling_strategy=strategy).remote()
    assert shoal.get(member.pid.remote(), timeout=30)
    first.kill()
    first.wait()
    eventually(lambda: shoal.state.groups(state="REMOVED"), 30, "the group's end")
    with pytest.raises(errors.ActorGroupRemovedError):
        shoal.get(member.pid.remote(), timeout=30)
    with pytest.raises(errors.GroupRemovedError, match="program that made it"):
        shoal.get(pid.options(scheduling_strategy=strategy).remote(), timeout=30)
    strategy = PlacementGroupSchedulingStrategy(long)
    assert shoal.get(pid.options(scheduling_strategy=strategy).remote(), timeout=30)
    eventually(lambda: shoal.available_resources().get("CPU") == 1, 30, "the CPU is given back")
    with pytest.raises(errors.GroupNotFoundError):
        get_placement_group("short")


def test_labels_of_a_started_session(started: None) -> None:
    shoal.init()
    assert shoal.get(pid.options(label_selector={"disk": "fast", "zone": "a"}).remote(), timeout=20)
    ref = pid.options(label_selector={"disk": "slow"}).remote()
    assert shoal.wait([ref], timeout=1.3) == ([], [ref]), "where nodes may join it waits"


def test_an_infeasible_group_waits_where_nodes_may_join(started: None) -> None:
    shoal.init()
    group = placement_group([{"CPU": 3}])
    assert not group.wait(1.5)
    (row,) = shoal.state.groups()
    assert (row.state, row.reason) == ("PENDING", "no node has that much")


WORK = """
    import time, shoal
    shoal.init()
    @shoal.remote
    def work():
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
    refs = [work.remote() for _ in range(5000)]
    shoal.get(refs[50])
    print("under way", flush=True)
    while input() == "count":
        print(len(shoal.wait(refs, num_returns=len(refs), timeout=0)[0]), flush=True)
    """


@pytest.mark.timeout(240)
def test_a_short_job_beside_a_long_one_gets_its_half(started: None) -> None:
    """By counts, not by times: while 100 tasks of the later job are done, the earlier one gets on
    about as far, not further."""
    first = begin(WORK)
    assert told(first) == "under way"
    shoal.init()

    @shoal.remote
    def work() -> None:
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass

    refs = [work.remote() for _ in range(120)]
    shoal.get(refs[20], timeout=90)
    before = int(told(first, "count"))
    missing = shoal.wait(refs, num_returns=len(refs), timeout=90)[1]
    assert not missing, (shoal.state.workers(), told(first, "count"), missing)
    during = int(told(first, "count")) - before
    first.kill()
    first.wait()
    assert during <= 200


def test_a_large_task_beside_a_stream_of_small_ones_is_not_starved(started: None) -> None:
    first = begin(WORK)
    assert told(first) == "under way"
    shoal.init()
    assert shoal.get(pid.options(num_cpus=2).remote(), timeout=20)
    done = int(told(first, "count"))
    first.kill()
    first.wait()
    assert done < 4000
