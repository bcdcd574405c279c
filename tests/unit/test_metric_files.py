"""The files of metrics: what is written is read, sums survive folding, also one that is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoal._runtime import metric_files, session_dir
from shoal._runtime.metric_files import Book, Definition

READS = Definition("counter", "reads", "", ("disk",))
DEPTH = Definition("gauge", "depth", "")
TIMES = Definition("histogram", "times", "", (), (1.0, 2.0))


def rows(directory: Path) -> dict[tuple[str, tuple[str, ...]], list[float]]:
    return {(r.definition.name, r.values): r.cells for r in metric_files.read(str(directory))}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert metric_files.read(str(tmp_path)) == []
    book = Book(str(tmp_path))
    for i in range(1000):  # several segments
        book.cells(READS, (f"disk {i}",))[0] += i
    book.cells(TIMES, ())[-1] += 0.5
    book.cells(DEPTH, ())[0] = -3
    book.cells(READS, ("long" * 10_000,))[0] = 1.5  # a segment of its own
    for i in range(9):  # of every length, and the zeros are its own
        book.cells(READS, ("x" * i + "\0\0",))[0] = i
    found = rows(tmp_path)
    assert len(found) == 1012
    assert [found["reads", ("x" * i + "\0\0",)] for i in range(9)] == [[i] for i in range(9)]
    assert all(found["reads", (f"disk {i}",)] == [i] for i in range(1000))
    assert found["times", ()] == [0, 0, 0, 0.5]
    assert found["reads", ("long" * 10_000,)] == [1.5]
    (gauge,) = [r for r in metric_files.read(str(tmp_path)) if r.definition.kind == "gauge"]
    assert (gauge.cells, gauge.pid) == ([-3.0], os.getpid())


def ended(folder: Path, number: int) -> Path:
    """Our own file, made to look like that of a process that has ended."""
    start = session_dir.process_start_time(os.getpid())
    path = folder / f"{os.getpid()}-{start}.bin"
    return path.rename(folder / f"{os.getpid()}-{number}.bin")


def test_ended_processes_are_folded_and_their_gauges_gone(tmp_path: Path) -> None:
    folder = tmp_path / metric_files.FOLDER
    for number in range(3 * metric_files.MOST_ENDED):
        book = Book(str(tmp_path))
        book.cells(READS, ("a",))[0] += 1
        book.cells(TIMES, ())[1] += 2
        book.cells(DEPTH, ())[0] = 7
        book.close()
        ended(folder, number)
        assert rows(tmp_path) == {
            ("reads", ("a",)): [number + 1],
            ("times", ()): [0, 2.0 * (number + 1), 0, 0],
        }
    assert len(list(folder.glob("*.bin"))) <= metric_files.MOST_ENDED + 2


def test_a_fold_that_is_killed_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / metric_files.FOLDER
    for number in range(metric_files.MOST_ENDED + 1):
        book = Book(str(tmp_path))
        book.cells(READS, ("a",))[0] += 1
        book.close()
        ended(folder, number)
    before = rows(tmp_path)

    class Killed(Exception):
        pass

    def kill(path: str) -> None:
        raise Killed

    for _ in range(2):  # after the sums are written, before any file is gone
        with monkeypatch.context() as patch:
            patch.setattr(metric_files, "_remove", kill)
            with pytest.raises(Killed):
                metric_files.fold(str(folder))
        assert rows(tmp_path) == before
    metric_files.fold(str(folder))
    metric_files.fold(str(folder))
    assert rows(tmp_path) == before


def test_endless_tags_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_files, "MOST_SERIES", 10)
    book = Book()
    for i in range(10):
        book.cells(READS, (str(i),))
    with pytest.raises(ValueError, match="endlessly many"):
        book.cells(READS, ("10",))
    assert book.cells(READS, ("3",))[0] == 0
