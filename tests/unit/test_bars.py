"""Progress bars: what a worker says of them and how often, and what the driver makes of it."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from shoal._proto.messages import PROGRESS_MARK, LogLines
from shoal._runtime import bars, bars_board, logs
from shoal._runtime.worker_logs import Stream
from shoal.util import progress


def wait_until(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline, f"not seen: {what}"
        time.sleep(0.01)


def a_mark(number: int = 1, pid: int = 1, **facts: Any) -> str:
    bar = bars.Bar(facts.pop("desc", "work"), facts.pop("total", 10), "it")
    seen = bars.shown(bar, bar.started_at)
    seen.number, seen.pid = number, pid
    return msgspec.json.encode(msgspec.structs.replace(seen, **facts)).decode()


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[bars.Shown]]]:
    """This process counts as a worker; gives what it has said."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    monkeypatch.setattr(bars, "_places", {os.getpid(): bars.Reporter(write)})
    said: list[bars.Shown] = []

    def heard() -> list[bars.Shown]:
        try:
            lines = os.read(read, 1 << 16).decode().split("\n")[:-1]
        except BlockingIOError:
            return said
        said.extend(
            msgspec.json.decode(line.removeprefix(PROGRESS_MARK), type=bars.Shown) for line in lines
        )
        return said

    yield heard
    os.close(read)
    os.close(write)


Heard = Callable[[], list[bars.Shown]]


def test_a_worker_does_not_say_each_update(reporter: Heard) -> None:
    bar: progress.tqdm[int] = progress.tqdm(total=100_000, desc="rows")
    for _ in range(100_000):
        bar.update()
    bar.close()
    bar.close()
    said = reporter()
    assert [said[-1].n, said[-1].is_closed, said[-1].desc] == [100_000, True, "rows"]
    assert len(said) < 100, "ten times a second is enough"


def test_what_comes_last_is_said_though_nothing_follows(reporter: Heard) -> None:
    bar: progress.tqdm[int] = progress.tqdm(10)
    wait_until(reporter, "the beginning")
    bar.update(3)
    bar.set_postfix(loss=0.5, flag=True)
    wait_until(lambda: reporter()[-1].n == 3, "the update")
    wait_until(lambda: reporter()[-1].note == "loss=0.5, flag=True", "the note")
    bar.total = 20
    wait_until(lambda: reporter()[-1].total == 20, "the new total")
    bar.close()


def test_a_bar_that_is_dropped_ends(reporter: Heard) -> None:
    for item in progress.trange(5):
        if item == 2:
            break
    gc.collect()
    wait_until(lambda: reporter() and reporter()[-1].is_closed, "its end")
    assert reporter()[-1].n == 2


def test_long_texts_stay_one_write(reporter: Heard) -> None:
    progress.tqdm(total=1, desc="\x1e" * 100_000).close()
    wait_until(lambda: reporter() and reporter()[-1].is_closed, "its end")
    assert len(msgspec.json.encode(reporter()[-1])) < 4096


def test_misuse_is_told() -> None:
    with pytest.raises(TypeError, match="an iterable or a number"):
        progress.tqdm(1.5, disable=True)  # type: ignore[arg-type]
    bar: progress.tqdm[int] = progress.tqdm(disable=True)
    with pytest.raises(TypeError, match="nothing to iterate over"):
        list(bar)
    with pytest.raises(TypeError, match="give a total"):
        len(bar)
    with pytest.raises(TypeError, match="belongs to its process"):
        pickle.dumps(bar)


def test_figures() -> None:
    seen = msgspec.json.decode(a_mark(n=400, total=1000, unit="row"), type=bars.Shown)
    assert bars_board.figures(seen, 8.0) == "400 of 1,000 row, 8.0 s, 50/s, 12.0 s left"
    seen.n, seen.total, seen.note = 2, None, "loss=1"
    assert bars_board.figures(seen, 125.0) == "2 row, 02:05, 62.5 s each, loss=1"
    assert bars_board.seconds(3723) == "1:02:03"


def test_without_a_terminal_each_bar_ends_in_a_line(capsys: Any) -> None:
    board = bars_board.Board()
    board.take(a_mark(n=4, pid=os.getpid()), "train")
    board.take(a_mark(n=10, pid=os.getpid(), is_closed=True, elapsed_s=2.0), "train")
    board.take(a_mark(2, pid=os.getpid(), is_closed=True, leaves=False), "train")
    board.take("nonsense", "train")
    board.flush()
    told = f"(train pid={os.getpid()}) work 100 %: 10 of 10 it, 2.0 s, 5/s\n"
    assert capsys.readouterr().err == told


def test_a_bar_of_a_process_that_died_ends(capsys: Any) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    board = bars_board.Board()
    board.take(a_mark(n=4, pid=child.pid), "train")
    child.kill()
    child.wait()
    wait_until(lambda: not board._rows and not board._processes, "its end")
    wait_until(lambda: board._thread is None, "the end of the thread")
    assert "(its process ended)" in capsys.readouterr().err


def test_a_bar_of_another_node_ends_when_its_daemon_says_so(capsys: Any) -> None:
    printer = logs.LogPrinter()
    pid = os.getpid()  # there is a process of this number here, and it is not that one
    mark = f"{PROGRESS_MARK}{a_mark(n=4, pid=pid)}"
    printer.show(LogLines(pid, "train", "stdout", [mark], "node-2"))
    board = bars_board.board()
    assert [who for who, _ in board._rows] == [("node-2", pid)]
    printer.show(LogLines(pid, "", "stdout", [], "node-3"))
    printer.show(LogLines(pid, "", "stdout", [], "node-2"))
    wait_until(lambda: not board._rows and not board._processes, "its end")
    wait_until(lambda: board._thread is None, "the end of the thread")
    said = capsys.readouterr().err
    assert f"(train pid={pid}, node-2) work" in said and "(its process ended)" in said


def test_marks_are_no_lines(capsys: Any) -> None:
    stream = Stream("stdout", -1)
    text = f"before\n{PROGRESS_MARK}{a_mark(pid=os.getpid(), is_closed=True)}\nafter\n"
    ((_, lines),) = stream.feed(text.encode())
    printer = logs.LogPrinter()
    printer.show(LogLines(7, "f", "stdout", ["no end" + lines[1], lines[2]]))
    printer.flush()
    assert capsys.readouterr().out == "(f pid=7) no end\n(f pid=7) after\n"
