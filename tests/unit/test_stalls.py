"""Which chains are stalls, which are the same one, and what a driver's watch makes of answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal._core.stalls import is_moving, mark_of
from shoal._proto import messages as m
from shoal._proto import reasons as r
from shoal._runtime import stalls, terminals
from shoal._runtime.stalls import StallWatch

RUNS = r.Running(task="t1", worker=3, since_s=9.0)
HOLDER = r.Holder("actor", "a1", since_s=2.0)


def lacks(since_s: float, holder: r.Holder = HOLDER, cause: Any = None) -> r.WaitsForResources:
    one = {"CPU": 1.0}
    return r.WaitsForResources(
        task="t2", since_s=since_s, asked=one, missing=one, total=one, holders=[holder], cause=cause
    )


@pytest.mark.parametrize(
    "reason",
    [
        RUNS,
        lacks(1.0, cause=RUNS),
        r.Nothing(),
        r.EnvironmentBuilding(task="t2", environment="e"),
        r.WaitsForWorker(task="t2", starting=1),
    ],
    ids=lambda reason: type(reason).__name__,
)
def test_what_takes_its_time_is_no_stall(reason: r.Reason) -> None:
    assert is_moving(reason)


@pytest.mark.parametrize(
    "reason",
    [
        lacks(1.0),
        r.WaitsForWorker(task="t2", starting=0, failures=2),
        r.Running(task="t1", worker=3, cause=r.Stopped(worker=3, pid=7)),
        r.Circular(ids=["t1"]),
        r.Delivering(task="t2"),
        r.NoAnswer(pid=1, waited_s=2.0),
    ],
    ids=lambda reason: type(reason).__name__,
)
def test_what_somebody_must_end_is_one(reason: r.Reason) -> None:
    assert not is_moving(reason) and mark_of(reason)


def test_the_same_stall_is_the_same_later_and_another_one_is_not() -> None:
    later = r.Holder("actor", "a1", since_s=5.0)
    assert mark_of(lacks(1.0)) == mark_of(lacks(4.0, later))
    assert mark_of(lacks(1.0)) != mark_of(lacks(1.0, r.Holder("actor", "a2")))
    goes_on = [r.Delivering(task="t", taken=n) for n in (7, 8)]
    assert mark_of(goes_on[0]) != mark_of(goes_on[1]), "others of its queue begin meanwhile"
    again = [
        r.ActorRestarting(task="t", actor="a", restarts=n, recently=n, again_in_s=wait, cause=cause)
        for n, wait, cause in ((3, 0.1, None), (4, None, r.WaitsForWorker(task="", starting=1)))
    ]
    assert mark_of(again[0]) == mark_of(again[1])
    one, other = (r.ControlStoreAway(task="", actor="", what="kv", change=n) for n in (7, 8))
    assert mark_of(one) == mark_of(one) != mark_of(other), "one change after the other goes on"


class Asked:
    """A session whose answers a test gives."""

    daemon = 77
    index = 1
    is_asking = False
    job = 3
    directory = "/nonexistent"

    def __init__(self) -> None:
        self.memory = self.connection = self
        self.waits_for = 5
        self.answer: r.Reason | None = None

    def process_sight(self, index: int) -> tuple[Any, ...]:
        return (self.waits_for, 0.0, 0, [], [])

    def begin(self, body: m.Message) -> Asked:
        assert body == m.AskWhy("")
        return self

    def wait(self, timeout_s: float) -> bool:
        return self.answer is not None

    def result(self, coming: Asked, expect: object) -> m.WhyAnswer:
        assert coming.answer is not None
        return m.WhyAnswer(r.pack(coming.answer))


def test_a_stall_is_told_once_after_two_equal_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stalls.clock, "now", lambda: now[0])
    shown: list[str] = []
    session = Asked()
    watch = StallWatch(session, 10.0, shown.append)  # type: ignore[arg-type]

    def looks(answer: r.Reason | None) -> int:
        session.answer = answer
        for _ in range(2):
            now[0] += watch.look()
        return len(shown)

    assert looks(RUNS) == looks(RUNS) == 0
    assert looks(lacks(1.0)) == 0
    assert looks(RUNS) == 0 == looks(lacks(1.0)), "it went on in between"
    assert looks(lacks(2.0)) == 1 == looks(lacks(3.0)) == looks(lacks(4.0))
    assert "gone on for 10 s" in shown[0] and "end an actor" in shown[0]
    assert looks(r.Circular(ids=["t"])) == 1 and looks(r.Circular(ids=["t"])) == 2
    session.waits_for = 0
    assert looks(None) == 2, "a program that waits for nothing is not told anything"
    session.waits_for = 5
    assert looks(None) == 2
    assert looks(None) == 3 == looks(None)
    assert "pid 77" in shown[2]


def test_nothing_is_told_while_somebody_is_at_the_prompt_of_a_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [100.0]
    monkeypatch.setattr(stalls.clock, "now", lambda: now[0])
    shown: list[str] = []
    session = Asked()
    session.directory = str(tmp_path)
    watch = StallWatch(session, 10.0, shown.append)  # type: ignore[arg-type]
    stop = terminals.Stop("1", os.getpid(), "f", "", 1, session.job, "f.py", 1, 0.0)
    place = tmp_path / terminals.DIRECTORY / "1.json"
    place.parent.mkdir()

    def looks() -> int:
        session.answer = lacks(1.0)
        for _ in range(4):
            now[0] += watch.look()
        return len(shown)

    place.write_bytes(msgspec.json.encode(stop))
    assert looks() == looks() == 0
    place.write_bytes(msgspec.json.encode(msgspec.structs.replace(stop, job=4)))
    assert looks() == 1, "a task of another program"
    watch = StallWatch(session, 10.0, shown.append)  # type: ignore[arg-type]
    place.write_bytes(msgspec.json.encode(stop))
    assert looks() == 1
    place.unlink()
    assert looks() == 2 == looks(), "it is told when the prompt is gone"
