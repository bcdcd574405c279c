"""Events read as tasks: names in pieces, failures, what is left when a ring has been lapped."""

from __future__ import annotations

from shoal import _native
from shoal._runtime import history
from shoal._runtime.history import ERROR, NAME, SEALED, SUBMITTED, TAKEN, Row, Told, ended, read

TASK, OTHER, PARENT, FUNCTION = 7, 8, 5, 99
DRIVER, WORKER, JOB = 1, 2, 6
VALUE, FAILURE = 1, _native.FORMAT_ERROR_PICKLE


def text(ns: int, kind: int, key: int, written: str) -> list[Row]:
    """The events of one text, eight bytes each."""
    data = written.encode()
    return [
        (ns, DRIVER, kind, key, int.from_bytes(data[i : i + 8], "little"), i // 8, JOB, False)
        for i in range(0, len(data), 8)
    ]


def test_a_task_from_its_call_to_its_end() -> None:
    rows = [
        (1, DRIVER, SUBMITTED, TASK, PARENT, 0, JOB, False),
        *text(2, NAME, TASK, "a name of its own"),
        (3, WORKER, TAKEN, TASK, FUNCTION, 1, JOB, False),
        (4, WORKER, SEALED, TASK, 0, VALUE, JOB, False),
    ]
    task = Told(TASK, FUNCTION, WORKER, 1, PARENT, 1, 3, 4, "a name of its own", job=JOB, actor=0)
    task.by = DRIVER
    assert read(rows) == {TASK: task}
    assert ended(read(rows)) == [task]


def test_a_failure_says_what_it_was() -> None:
    rows = [
        (3, WORKER, TAKEN, TASK, FUNCTION, 2, JOB, False),
        *text(4, ERROR, TASK, "ZeroDivisionError"),
        (5, WORKER, SEALED, TASK, 0, FAILURE, JOB, False),
    ]
    (task,) = ended(read(rows))
    assert (task.is_failed, task.error, task.attempt) == (True, "ZeroDivisionError", 2)


def test_what_was_failed_without_being_run_says_what_it_would_have_run() -> None:
    rows = [
        (1, DRIVER, SUBMITTED, TASK, 0, 0, JOB, False),
        (2, 0, SEALED, TASK, FUNCTION, FAILURE, JOB, False),
    ]
    (task,) = ended(read(rows))
    assert (task.about, task.is_failed, task.worker) == (FUNCTION, True, -1)


def test_the_last_to_end_comes_first_and_what_runs_is_left_out() -> None:
    rows: list[Row] = [
        (ns, WORKER, TAKEN, key, FUNCTION, 1, JOB, False) for ns, key in ((1, 3), (2, 4), (3, 5))
    ]
    rows += [
        (5, WORKER, SEALED, 4, 0, VALUE, JOB, False),
        (6, WORKER, SEALED, 3, 0, VALUE, JOB, False),
    ]
    assert [task.key for task in ended(read(rows))] == [3, 4]


def test_an_end_without_a_beginning_is_not_told() -> None:
    assert ended(read([(5, WORKER, SEALED, OTHER, 0, VALUE, JOB, False)])) == []
    assert ended(read([(5, WORKER, 4, OTHER, 0, 0, JOB, False)])) == [], "a value that was put"


def test_a_name_that_was_lapped_in_the_middle_of_a_letter() -> None:
    pieces = text(2, NAME, TASK, "sevenby\u00e9 and more")
    rows = [(1, DRIVER, SUBMITTED, TASK, 0, 0, JOB, False), *pieces[1:]]
    assert history.read(rows)[TASK].name == " and more"
