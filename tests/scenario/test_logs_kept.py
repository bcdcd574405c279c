"""What workers print is kept with who printed it, and found again: by programs and by people."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import shoal
from shoal import errors, state
from shoal._base import clock
from shoal.cli import app

LONG_S = 100.0
LOG_BYTES = 8 << 20


@pytest.fixture(scope="module", autouse=True)
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_DIR", str(tmp_path_factory.mktemp("s")))  # the only session there
        with shoal.init(num_cpus=2, log_to_driver=False, log_bytes=LOG_BYTES) as context:
            yield context


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """In the place of conftest's: one session for all tests of this module."""


@shoal.remote(max_retries=0)
def speak(text: str) -> int:
    print(text)
    print(text, file=sys.stderr)
    return os.getpid()


@shoal.remote
def warn(text: str) -> None:
    logger = logging.Logger("of a test")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.warning(text)
    print("after", text, file=sys.stderr)


def texts(*about: Any, **fields: Any) -> list[str]:
    return [line.text for line in state.logs(*about, **fields)]


def test_what_was_printed_is_there_with_the_result() -> None:
    before = clock.wall()
    refs = [speak.remote(f"words {number}") for number in range(20)]
    pids = shoal.get(refs, timeout=LONG_S)
    for number, (ref, pid) in enumerate(zip(refs, pids, strict=True)):
        lines = state.logs(ref.hex())
        assert [line.text for line in lines] == [f"words {number}"] * 2
        assert {line.stream for line in lines} == {"stdout", "stderr"}
        for line in lines:
            assert (line.pid, line.name, line.attempt) == (pid, "speak", 1)
            assert line.task == ref.task_id().hex()
            assert line.job == int(shoal.get_runtime_context().get_job_id(), 16)
            assert before - 1.0 <= line.time <= clock.wall() + 1.0
    assert texts(refs[3].task_id().hex(), stream="stderr") == ["words 3"]
    # Tasks of several workers are side by side: the last to print need not be the last asked for.
    later = texts(grep=r"^words 1\d$", stream="stdout")
    assert sorted(later) == [f"words {number}" for number in range(10, 20)]
    assert texts(grep=r"^words 1\d$", stream="stdout", tail=2) == later[-2:]
    assert texts(pid=pids[0], grep="words 0$") == ["words 0"] * 2
    assert texts(since=0.0) == [] and texts("worker 1000") == []
    with pytest.raises(errors.OptionError, match="no field 'color'"):
        state.logs(color="red")


def test_lines_of_logging_have_a_level() -> None:
    ref = warn.remote("beware")
    shoal.get(ref, timeout=LONG_S)
    lines = state.logs(ref.hex())
    assert [(line.text, line.level) for line in lines] == [
        ("beware", "WARNING"), ("after beware", ""),
    ]  # fmt: skip


def test_odd_output_is_kept_as_it_came() -> None:
    odd = 'tab\t"quotes" \\ \x1b[31mred\x1b[0m 10%\r20% \u202e'

    @shoal.remote
    def print_oddly() -> None:
        print(odd)
        os.write(1, b"\xff\x00 bytes\n")
        print("x" * 100_000)
        print("no end", end="")
        sys.stdout.flush()

    @shoal.remote
    def print_next() -> None:
        print("of another")

    first, second = print_oddly.remote(), None
    shoal.get(first, timeout=LONG_S)
    lines = texts(first.hex(), stream="stdout")
    assert lines[:2] == [odd, "\ufffd\x00 bytes"]
    assert "".join(lines[2:]) == "x" * 100_000
    second = print_next.remote()
    shoal.get(second, timeout=LONG_S)
    assert texts(second.hex()) == ["of another"]


@shoal.remote
class Threads:
    """Two calls at a time that print parts of lines in turns."""

    def __init__(self) -> None:
        print("made")
        self.turn = threading.Barrier(2)

    def print_in_turns(self, name: str) -> None:
        for number in range(5):
            self.turn.wait(LONG_S)
            print(name, end=" ")
            self.turn.wait(LONG_S)
            print(number)


@shoal.remote
class Loop:
    async def print_in_turns(self, name: str) -> None:
        for number in range(5):
            print(name, end=" ")
            await asyncio.sleep(0)
            print(number)


@pytest.mark.parametrize("kind", [Threads, Loop])
def test_calls_side_by_side_have_their_own_lines(kind: Any) -> None:
    actor = kind.options(num_cpus=0, max_concurrency=2).remote()
    calls = {name: actor.print_in_turns.remote(name) for name in ("one", "two")}
    shoal.get(list(calls.values()), timeout=LONG_S)
    for name, call in calls.items():
        assert texts(call.hex()) == [f"{name} {number}" for number in range(5)]
    lines = state.logs(actor=actor._actor_id.hex())
    assert len([line for line in lines if line.task]) == 10
    assert {line.name for line in lines if line.task} == {f"{kind.__name__}.print_in_turns"}
    made = ["made"] if kind is Threads else []
    assert [line.text for line in lines if not line.task] == made


def test_a_task_that_prints_without_end_pushes_out_what_is_old(session: Any) -> None:
    folder = Path(session["session_dir"], "logs")
    sizes = []

    @shoal.remote
    def flood() -> str:
        for number in range(25_000):
            print(number, "x" * 4000)
        return "done"

    ref = flood.remote()
    while not shoal.wait([ref], timeout=0.05)[0]:
        sizes.append(sum(each.size_bytes for each in state.log_files()))
    assert shoal.get(ref, timeout=LONG_S) == "done"
    kept = texts(ref.hex())
    assert kept[-1].startswith("24999 ") and 100 < len(kept) < 25_000
    sizes.append(sum(path.stat().st_size for path in folder.glob("*.jsonl")))
    assert max(sizes) <= LOG_BYTES
    files = state.log_files()
    assert {each.file for each in files} == {path.name for path in folder.glob("*.jsonl")}
    assert sorted(each.written for each in files) == [each.written for each in files]


def test_a_person_reads_them_in_another_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*words: str) -> str:
        app.run(["logs", *words])
        return "".join(capsys.readouterr())

    keeper = Keeper.options(name="keeper", num_cpus=0).remote()
    shoal.get(keeper.speak.remote("\x1b[31mhidden\x07"), timeout=LONG_S)
    (line,) = shown("--actor", "keeper").splitlines()
    assert line.endswith(r"\x1b[31mhidden\x07") and "(Keeper.speak pid=" in line
    (raw,) = shown("--actor", "keeper", "--json").splitlines()
    assert msgspec.json.decode(raw, type=state.LogLine).text == "\x1b[31mhidden\x07"
    refs = [speak.remote(f"person {number}") for number in range(3)]
    shoal.get(refs, timeout=LONG_S)
    assert shown(refs[1].hex(), "--stream", "stdout").endswith(") person 1\n")
    last = shown("--grep", "person", "--stream", "stderr", "--tail", "1", "--since", "10m")
    assert " stderr) person " in last and last.count("\n") == 1
    assert shown("--job", "1", "--grep", "person 2").count("\n") == 2
    for words in (("nobody",), ("--since", "soon"), ("--grep", "("), ("--job", "x")):
        assert shown(*words).startswith("shoal: ")


@shoal.remote
class Keeper:
    def speak(self, text: str) -> None:
        print(text)


def test_what_comes_is_followed_until_the_session_ends(tmp_path: Path) -> None:
    program = (
        "import sys, shoal\n"
        "shoal.init(num_cpus=1, log_to_driver=False)\n"
        "say = shoal.remote(lambda text: print('heard', text))\n"
        "for line in sys.stdin:\n"
        "    shoal.get(say.remote(line.strip()))\n"
        "    print('said', flush=True)\n"
    )
    where = {**os.environ, "SHOAL_DIR": str(tmp_path / "s")}
    pipes: Any = {"text": True, "stdout": subprocess.PIPE, "env": where}
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, **pipes) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write("first\n")
        other.stdin.flush()
        assert other.stdout.readline() == "said\n"
        with subprocess.Popen(
            [sys.executable, "-m", "shoal", "logs", "--follow"], **pipes
        ) as person:
            assert person.stdout is not None
            assert person.stdout.readline().endswith("heard first\n")
            other.stdin.write("second\n")
            other.stdin.flush()
            assert person.stdout.readline().endswith("heard second\n")
            other.communicate(timeout=LONG_S)
            assert person.communicate(timeout=LONG_S)[0] == ""
            assert person.returncode == 0
