"""Stories and memory, in a program and from another terminal; the command line of explanations."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

import shoal
from shoal import errors, state
from shoal.testing.polling import wait_until


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Where the session of this module stands: the command line looks there."""
    path = tmp_path_factory.mktemp("root", numbered=False)
    path.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_DIR", str(path))
        shoal.init(num_cpus=1, object_store_memory=64 << 20, log_to_driver=False)
        yield path
        shoal.shutdown()


@pytest.fixture(autouse=True)
def _end_session(root: pathlib.Path) -> Iterator[None]:
    """One session for all tests here: the one of tests/conftest.py would end it."""
    yield


def command(root: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "SHOAL_DIR": str(root)}
    return subprocess.run(
        [sys.executable, "-m", "shoal", *words],
        capture_output=True, text=True, timeout=60, env=variables, check=False,
    )  # fmt: skip


@shoal.remote
def half(value: int) -> int:
    if value % 2:
        raise ArithmeticError(value)
    return value // 2


@shoal.remote
class Counter:
    def count(self) -> int:
        return 1


def texts(about: object) -> list[str]:
    return [line.text for line in state.story(about)]


@pytest.mark.parametrize("about", ["0" * 32, "foo"])
def test_there_is_no_story_of_nothing(about: str) -> None:
    with pytest.raises(errors.UsageError, match=about):
        state.story(about)


def test_the_story_of_a_task() -> None:
    ref = half.options(name="two").remote(4)
    assert shoal.get(ref) == 2
    assert texts(ref)[:3] == ["submitted", "is called two", "half begins, attempt 1"]
    assert texts(ref.hex())[3] == "ended: its value is there"
    failed = half.remote(3)
    with pytest.raises(ArithmeticError):
        shoal.get(failed)
    assert {"fails with ArithmeticError", "ended with an error"} <= set(texts(failed))
    put = shoal.put("value")
    assert texts(put) == ["put"]


def told_of(ids: set[str]) -> list[state.Event]:
    return [event for event in state.events(limit=20_000) if event.id in ids]


def is_freed(ids: set[str]) -> bool:
    return {event.id for event in told_of(ids) if event.kind == "freed"} == ids


def test_each_value_of_many_is_told_freed_after_all_else() -> None:
    """Those freed in a row share records; none is missed, and none goes before it was made."""
    for count in (1, 2, 3, 14, 15, 200):
        refs = [half.remote(0), *(shoal.put(number) for number in range(count - 1))]
        shoal.wait(refs, num_returns=count, timeout=30)
        wanted = {ref.hex() for ref in refs}
        key, memory = refs[0].key, refs[0].memory
        while refs:
            refs.pop()
        # Who has made the result lets go of it a moment after it is there.
        assert wait_until(partial(is_freed, wanted), 20.0)
        told = told_of(wanted)
        assert sorted(e.id for e in told if e.kind == "freed") == sorted(wanted)
        assert len(told) == 2 * len(wanted) - 1  # of the result all else has its task's id
        kinds = [e[2] for e in memory.list_events(20_000) if e[3] == key]
        assert kinds == [1, 2, 3, 5]


def test_what_shares_a_look_at_the_clock_is_told_in_its_order() -> None:
    refs = [half.remote(0) for _ in range(300)]
    shoal.get(refs)
    keys, memory = {ref.key for ref in refs}, refs[0].memory
    told: dict[int, list[int]] = {key: [] for key in keys}
    for _, _, kind, key, *_ in memory.list_events(20_000):
        if key in keys:
            told[key].append(kind)
    assert set(map(tuple, told.values())) == {(1, 2, 3)}


def test_the_story_of_an_actor_and_its_worker() -> None:
    counter = Counter.remote()
    ref = counter.count.remote()
    assert shoal.get(ref) == 1
    lines = texts(counter)
    assert lines[0].startswith("created by process") and "alive" in lines
    assert f"Counter.count begins, attempt 1 ({ref.task_id().hex()})" in lines
    (worker,) = state.workers(actor_id=counter._actor_id.hex())
    assert f"forked, pid {worker.pid}" in texts(f"worker {worker.worker}")
    shoal.kill(counter)
    assert "ends" in texts(counter._actor_id.hex())


def test_who_holds_what() -> None:
    value = shoal.put(bytes(1_000_000))
    outer = shoal.put([value])
    (held,) = state.memory(object_id=value.hex())
    assert held.size_bytes >= 1_000_000 and held.state == "VALUE" and held.made_by == "put"
    assert held.age_s is not None and held.age_s < 60
    kinds = {holder.kind: holder for holder in held.holders}
    assert kinds["process"].pid == os.getpid() and kinds["process"].name == "the program"
    assert kinds["value"].id == outer.hex()
    assert state.memory()[0].object_id == value.hex(), "the largest is the first"
    with pytest.raises(errors.OptionError, match="no field"):
        state.memory(colour="red")


def test_the_command_line(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    gate = tmp_path / "go"

    @shoal.remote
    def waits_at(gate: pathlib.Path) -> int:
        deadline = time.monotonic() + 60
        while not gate.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return 1

    running = waits_at.remote(gate)
    waiting = half.remote(running)
    value = shoal.put(bytes(2_000_000))
    told = command(root, "why", waiting.hex())
    assert told.returncode == 0, told.stderr
    assert running.hex() in told.stdout.splitlines()[0]
    assert command(root, "why").stdout.startswith("the program")
    gate.touch()
    with pytest.raises(ArithmeticError):
        shoal.get(waiting)
    story = command(root, "story", running.hex())
    assert "waits_at begins, attempt 1" in story.stdout and story.returncode == 0
    unknown = command(root, "story", "nothing")
    assert unknown.returncode == 1 and "knows anything" in unknown.stderr
    assert "no id" in command(root, "why", "nothing").stderr
    table = command(root, "memory")
    assert value.hex() in table.stdout and "the program" in table.stdout, table.stderr
    by_process = command(root, "memory", "--by", "process")
    assert str(os.getpid()) in by_process.stdout
    rows = json.loads(command(root, "memory", "--json", "--limit", "1").stdout)
    assert [row["object_id"] for row in rows] == [value.hex()]


def test_why_by_name(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    gate = tmp_path / "go"

    @shoal.remote
    def stands_at(gate: pathlib.Path, number: int) -> int:
        deadline = time.monotonic() + 60
        while not gate.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return number

    counter = Counter.options(name="the counter", num_cpus=0).remote()
    assert shoal.get(counter.count.remote()) == 1
    refs = [stands_at.remote(gate, i) for i in range(2)]
    named = stands_at.options(name="the last").remote(gate, 2)
    for name in ("the counter", "Counter"):
        assert counter._actor_id.hex() in command(root, "why", name).stdout
    assert named.task_id().hex() in command(root, "why", "the last").stdout
    table = command(root, "why", "stands_at").stdout
    assert all(ref.task_id().hex() in table for ref in (*refs, named)), table
    rows = json.loads(command(root, "why", "stands_at", "--json").stdout)
    assert [row["kind"] for row in rows] == ["task"] * 3 and all(row["why"] for row in rows)
    gate.touch()
    assert shoal.get([*refs, named], timeout=60) == [0, 1, 2]
    assert "no id" in command(root, "why", "stands_at").stderr


SITES = """
import shoal, sys
shoal.init(num_cpus=1, object_store_memory=64 << 20)
ref = shoal.put(bytes(3_000_000))
made = shoal.remote(len).remote("four")
shoal.get(made)
print("ready", flush=True)
sys.stdin.readline()
"""


def test_lines_of_code_from_another_terminal(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    script = tmp_path / "program.py"
    script.write_text(SITES)
    variables = {**os.environ, "SHOAL_DIR": str(root), "SHOAL_RECORD_CALL_SITES": "1"}
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdout is not None and program.stdout.readline() == "ready\n"
        told = command(root, "memory", "--by", "site").stdout
        program.communicate("\n", timeout=60)
    assert "program.py:4 in <module>" in told and "program.py:5 in <module>" in told


@shoal.remote
def nothing(gate: pathlib.Path | None = None) -> None:
    deadline = time.monotonic() + 60
    while gate and not gate.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def test_tasks_in_a_row_are_told_with_both_ends(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A worker leaves one record of a short task, and looks at the clock once for it."""
    gate = tmp_path / "go"
    refs = [nothing.remote(gate), *(nothing.remote() for _ in range(20))]
    gate.touch()
    shoal.get(refs)
    stories = [state.story(ref) for ref in refs]
    for lines in stories:
        told = [line.text for line in lines if not line.text.startswith("(")]
        assert told == ["submitted", "nothing begins, attempt 1", "ended: its value is there"]
    times = [[line.time_s for line in lines if line.time_s] for lines in stories]
    assert all(own == sorted(own) for own in times), "each after the other"
    pairs = list(itertools.pairwise(times))
    assert all(before[2] <= after[1] for before, after in pairs), "one at a time"
    assert any(before[2] == after[1] for before, after in pairs), "it went straight on"
