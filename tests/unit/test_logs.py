"""Lines of workers in the driver's terminal."""

from __future__ import annotations

from typing import Any

import pytest

from shoal._proto.messages import LogLines
from shoal._runtime import logs


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [100.0]
    monkeypatch.setattr(logs.clock, "now", lambda: at[0])
    monkeypatch.setattr(logs.LogPrinter, "_start_timer", lambda self: None)
    return at


def lines(pid: int, *texts: str, stream: str = "stdout") -> LogLines:
    return LogLines(pid, "f", stream, list(texts))


def test_prefix_and_streams(now: list[float], capsys: Any) -> None:
    printer = logs.LogPrinter()
    printer.show(lines(1, "a", "b"))
    printer.show(lines(1, "c", stream="stderr"))
    out = capsys.readouterr()
    assert out.out == "(f pid=1) a\n(f pid=1) b\n" and out.err == "(f pid=1) c\n"


def test_lines_of_another_node_say_which(now: list[float], capsys: Any) -> None:
    printer = logs.LogPrinter()
    printer.show(lines(1, "same"))
    printer.show(LogLines(1, "f", "stdout", ["same", "more"], "node-2"))
    assert capsys.readouterr().out == "(f pid=1) same\n(f pid=1, node-2) more\n"
    printer.flush()  # the pid is the same, the process is not
    assert capsys.readouterr().out == "(f) same [1 more process]\n"


def test_the_same_line_of_others_is_counted(now: list[float], capsys: Any) -> None:
    printer = logs.LogPrinter()
    for pid in (1, 2, 3, 2):
        printer.show(lines(pid, "same"))
    assert capsys.readouterr().out == "(f pid=1) same\n"
    printer.flush()
    assert capsys.readouterr().out == "(f) same [2 more processes]\n"
    printer.flush()
    assert capsys.readouterr().out == ""


def test_one_process_is_always_shown(now: list[float], capsys: Any) -> None:
    printer = logs.LogPrinter()
    for _ in range(3):
        printer.show(lines(1, "loop"))
    assert capsys.readouterr().out == "(f pid=1) loop\n" * 3


def test_a_later_line_is_shown_again(now: list[float], capsys: Any) -> None:
    printer = logs.LogPrinter()
    printer.show(lines(1, "same"))
    printer.show(lines(2, "same"))
    now[0] += logs.WINDOW_S
    printer.show(lines(3, "same"))
    assert capsys.readouterr().out == (
        "(f pid=1) same\n(f) same [1 more process]\n(f pid=3) same\n"
    )


def test_what_is_kept_is_bounded(now: list[float], capsys: Any) -> None:
    printer = logs.LogPrinter()
    for i in range(3 * logs.MOST_KEPT):
        now[0] += 0.1
        printer.show(lines(1, f"line {i}"))
    assert len(printer._said) <= logs.MOST_KEPT + 1
    assert capsys.readouterr().out.count("\n") == 3 * logs.MOST_KEPT
