"""What workers print, before it is anywhere: cut into lines, told apart, kept within a budget."""

from __future__ import annotations

import errno
import os
import pathlib
from collections.abc import Callable, Iterator

import pytest

from shoal import errors
from shoal._base import clock
from shoal._proto.messages import PROGRESS_MARK, LogLines
from shoal._runtime import log_budget, log_files, log_records, worker_logs
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.log_budget import LogBudget, LogFile
from shoal._runtime.log_records import NOBODY, Label, LogLine, Origin
from shoal._runtime.worker_logs import Stream, WorkerLog
from shoal.cli import logs

_write = os.write


class Clock:
    """Timers that a test lets go off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        monkeypatch.setattr(clock, "now", lambda: self.now)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now + delay_s, callback))

    def advance(self, seconds: float) -> None:
        """So much later, with all timers that were due."""
        end = self.now + seconds
        for _ in range(1000):
            due = [timer for timer in self.timers if timer[0] <= end]
            if not due:
                break
            timer = min(due, key=lambda each: each[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
        self.now = end


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def never(delay_s: float, callback: Callable[[], None]) -> None:
    """Timers that do not go off."""


def texts(stream: Stream, *pieces: bytes) -> list[str]:
    return [line for piece in pieces for _, lines in stream.feed(piece) for line in lines]


# ---- lines
def test_lines_are_cut_wherever_the_bytes_come() -> None:
    stream = Stream("stderr", -1)
    text = "first\nsécond\r\n\nlast"
    lines = texts(stream, *(bytes([byte]) for byte in text.encode()), b"")
    assert lines == ["first", "sécond", "", "last"]
    assert list(stream.last) == lines


def test_a_line_without_end_comes_in_pieces_and_no_character_is_cut() -> None:
    most = worker_logs.LINE_BYTES_MOST
    stream = Stream("stdout", -1)
    lines = texts(stream, b"x" + "é".encode() * most, b"")
    assert "".join(lines) == "x" + "é" * most
    assert all(len(line.encode()) <= most for line in lines)
    whole = texts(Stream("stdout", -1), b"y" * (3 * most) + b"\nz\n")
    assert [len(line) for line in whole] == [most, most, most, 1]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert texts(Stream("stdout", -1), b"\xff\xfe\x00ok\n") == ["\ufffd\ufffd\x00ok"]


def test_only_the_last_lines_are_kept() -> None:
    stream = Stream("stderr", -1)
    stream.feed(b"".join(b"%d\n" % i for i in range(100)))
    assert list(stream.last) == [str(i) for i in range(80, 100)]


def test_who_prints_is_told_by_marks() -> None:
    one, two = Label("one", "a1", 1, ""), Label("two", "b2", 3, "ERROR")
    stream = Stream("stdout", -1)
    said = f"early\n{log_records.mark(one)}x\ny\npart{log_records.mark(two)}z\n"
    groups = stream.feed(said.encode())
    assert groups == [(NOBODY, ["early"]), (one, ["x", "y", "part"]), (two, ["z"])]
    assert stream.feed(b"more\n") == [(two, ["more"])]
    forged = f"{log_records.LABEL_MARK}of a user\n"
    assert stream.feed(forged.encode()) == [(two, [forged[:-1]])]


# ---- records
def test_records_are_read_as_they_were_written(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "worker-1-2-0001.jsonl"
    origin = Origin(1, 2, 3, "ac", "Actor")
    lines = ['a "quoted" \\ text', "", "\x1b[31mred\x00", "é" * 10]
    data = log_records.encode(12.3456789, origin, Label("m", "ta", 2, "INFO"), "stdout", lines)
    data += log_records.encode(13.0, origin, NOBODY, "stderr", ["x"])
    path.write_bytes(b"no record\n" + data + b'{"time": 14')
    found = [line for line, _ in log_records.read(str(path))]
    assert [line.text for line in found] == [*lines, "x"]
    assert found[0] == LogLine(12.345679, lines[0], 3, 1, 2, "ac", "ta", 2, "m", "stdout", "INFO")
    assert (found[-1].name, found[-1].task, found[-1].stream) == ("Actor", "", "stderr")
    assert list(log_records.read(str(tmp_path / "gone"))) == []


# ---- the budget
def test_the_oldest_segments_leave_when_there_are_too_many_bytes(tmp_path: pathlib.Path) -> None:
    budget = LogBudget(200_000, 1e6, never)
    old, new = LogFile(str(tmp_path / "old"), budget), LogFile(str(tmp_path / "new"), budget)
    old.write(b"o" * 1000, 1)
    for _ in range(1000):
        assert new.write(b"n" * 1000, 1)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 200_000
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[-1] == "new-0040.jsonl" and "old-0001.jsonl" not in names
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == budget.total_bytes > 150_000
    assert old.write(b"again", 1), "one whose file has gone begins another"


def test_the_budget_holds_for_many_that_are_open(tmp_path: pathlib.Path) -> None:
    budget = LogBudget(50_000, 1e6, never)
    files = [LogFile(str(tmp_path / f"{i:03d}"), budget) for i in range(100)]
    for file in files:
        assert file.write(b"x" * 1000, 1)
    assert sorted(path.name[:3] for path in tmp_path.iterdir()) == [
        f"{i:03d}" for i in range(50, 100)
    ]


def test_old_lines_leave_and_no_timer_is_left(tmp_path: pathlib.Path, time: Clock) -> None:
    budget = LogBudget(1 << 20, 800.0, time.call_later)
    ended, idle, busy = (LogFile(str(tmp_path / name), budget) for name in ("e", "i", "b"))
    ended.write(b"x", 1)
    ended.close()
    idle.write(b"x", 1)
    for _ in range(30):
        busy.write(b"x", 1)
        time.advance(50.0)
        assert len(time.timers) == 1
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names and all(name.startswith("b-") for name in names)
    assert len(names) <= log_budget.PARTS + 1
    busy.close()
    time.advance(1000.0)
    assert list(tmp_path.iterdir()) == [] and time.timers == []


def test_who_prints_nothing_leaves_no_file(tmp_path: pathlib.Path) -> None:
    LogFile(str(tmp_path / "silent"), LogBudget(1000, 1.0, never)).close()
    assert list(tmp_path.iterdir()) == []


class Disk:
    """A disk that holds so many bytes, under ``os.write``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path) -> None:
        self.room = 0
        self._folder = folder
        monkeypatch.setattr(log_budget.os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        used = sum(path.stat().st_size for path in self._folder.iterdir())
        free = self.room - used
        if free <= 0:
            raise OSError(errno.ENOSPC, "full")
        return _write(fd, data[:free])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Disk:
    return Disk(monkeypatch, tmp_path)


class Pipes:
    """A worker's log and its pipes, without a worker and a daemon."""

    def __init__(self, folder: pathlib.Path, bytes_most: int = 1 << 20) -> None:
        self.loop = Loop()
        self.folder = folder
        self.told: list[LogLines] = []
        reads, self.writes = zip(*(os.pipe() for _ in range(2)), strict=True)
        self.budget = LogBudget(bytes_most, 1e6, never)
        tell = lambda _, lines: self.told.append(lines)  # noqa: E731
        self.log = WorkerLog(self.loop, self.budget, str(folder), (7, 8), reads, tell)
        self.log.assign(1, 5, "", "")

    def say(self, text: str, fd: int = 0) -> None:
        _write(self.writes[fd], text.encode())
        self.log.drain()

    def kept(self) -> list[LogLine]:
        paths = sorted(self.folder.iterdir())
        return [line for path in paths for line, _ in log_records.read(str(path))]


@pytest.fixture
def pipes(tmp_path: pathlib.Path) -> Iterator[Pipes]:
    made = Pipes(tmp_path)
    yield made
    for fd in made.writes:
        os.close(fd)
    made.log.last_stderr()


def test_both_streams_stand_in_one_file_with_who_and_when(pipes: Pipes) -> None:
    before = clock.wall()
    pipes.say(log_records.mark(Label("f", "77", 2)) + "out\n")
    pipes.say("err\n", 1)
    first, second = pipes.kept()
    assert before - 1e-5 <= first.time <= second.time <= clock.wall()
    assert (first.text, first.job, first.worker, first.pid) == ("out", 5, 7, 8)
    assert (first.task, first.attempt, first.name, first.stream) == ("77", 2, "f", "stdout")
    assert (second.text, second.stream, second.task) == ("err", "stderr", "")
    assert [lines.label for lines in pipes.told] == ["f", ""]


def test_progress_bars_are_shown_and_not_kept(pipes: Pipes) -> None:
    pipes.say(f"before\n{PROGRESS_MARK}{{}}\nafter\n")
    assert [line.text for line in pipes.kept()] == ["before", "after"]
    assert len(pipes.told[0].lines) == 3


def test_a_full_disk_loses_lines_says_so_once_and_ends(pipes: Pipes, disk: Disk) -> None:
    for number in range(3):
        pipes.say(f"lost {number}\nand {number}\n")
    assert pipes.kept() == [] and pipes.budget.lost_lines == 6
    notices = [news for news in pipes.told if news.label == worker_logs.SHOAL]
    assert len(notices) == 1 and "no room for logs" in notices[0].lines[0]
    disk.room = 100_000
    pipes.say("kept\n")
    missing, kept = pipes.kept()
    assert (missing.stream, kept.text) == ("shoal", "kept")
    assert missing.text.startswith("6 lines are missing here")


def test_who_ended_on_a_full_disk_says_later_what_is_missing(
    tmp_path: pathlib.Path, disk: Disk
) -> None:
    pipes = Pipes(tmp_path)
    pipes.say("lost\nand lost\n")
    for fd in pipes.writes:
        os.close(fd)
    pipes.log.last_stderr()
    for _ in range(3):
        assert all(not row["size_bytes"] for row in worker_logs.rows(pipes.budget, []))
    assert len(list(tmp_path.iterdir())) <= 1 and pipes.kept() == []
    disk.room = 100_000
    (row,) = worker_logs.rows(pipes.budget, [])
    assert not row["open"]
    (missing,) = pipes.kept()
    assert missing.text.startswith("2 lines are missing here")
    assert (missing.stream, missing.worker, missing.pid, missing.job) == ("shoal", 7, 8, 5)
    assert len(worker_logs.rows(pipes.budget, [])) == 1 and len(pipes.kept()) == 1, "said once"


def test_a_disk_that_is_full_in_the_middle_keeps_whole_records(pipes: Pipes, disk: Disk) -> None:
    disk.room = 1000
    for number in range(100):
        pipes.say(f"line {number}\n")
    kept = [line.text for line in pipes.kept() if line.stream != "shoal"]
    assert kept and set(kept) <= {f"line {number}" for number in range(100)}
    raw = b"".join(path.read_bytes() for path in sorted(pipes.folder.iterdir()))
    assert raw.endswith(b"\n") and len(raw.splitlines()) == len(pipes.kept())
    assert len(kept) + pipes.budget.lost_lines <= 100


def test_a_directory_that_is_gone_stops_nobody() -> None:
    budget = LogBudget(1 << 20, 1.0, never)
    assert not LogFile("/nowhere/at/all", budget).write(b"lost", 1)
    assert budget.lost_lines == 1


# ---- what is asked, and how it is shown
def test_what_an_id_means() -> None:
    assert log_files.meaning("a" * 48) == {"task": "a" * 48}
    assert log_files.meaning("b" * 48 + "0" * 16) == {"task": "b" * 48}
    assert log_files.meaning("c" * 32) == {"actor": "c" * 32}
    assert log_files.meaning("00000011") == {"job": 17}
    assert log_files.meaning("worker 3") == {"worker": 3}
    assert log_files.meaning("4711") == {"pid": 4711}
    with pytest.raises(errors.OptionError, match="no id"):
        log_files.meaning("nobody")


def test_what_can_not_be_asked_is_refused() -> None:
    with pytest.raises(errors.OptionError, match="no field 'colour'"):
        log_files.wanted(colour="red")
    with pytest.raises(errors.OptionError, match="regular expression"):
        log_files.wanted(grep="(")
    with pytest.raises(errors.OptionError, match="pid"):
        log_files.wanted(pid="many")


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("plain é\ttext", "plain é\ttext"),
        ("10 %\r20 %\r30 %", "30 %"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x07\x00\x9b2J", "\\x07\\x00\\x9b2J"),
        ("abc\u202edef", "abc\\u202edef"),
    ],
)
def test_nothing_reaches_the_terminal_that_moves_it(said: str, seen: str) -> None:
    assert logs.shown(said) == seen


def test_long_lines_are_cut() -> None:
    assert logs.shown("x" * 5000) == "x" * logs.SHOWN_MOST + " ... (1,000 more characters)"
