"""``shoal.debug``: a failed task runs again here, with what it was called with."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal._base import clock
from shoal._proto.environments import Conda, Environment, Packages, Tree
from shoal._runtime.environments import replaying

LONG_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2, log_to_driver=False, object_store_memory=64 << 20):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """In the place of conftest's: one session for all tests of this module."""


@shoal.remote
def table() -> dict[str, int]:
    return {"a": 1}


@shoal.remote(max_retries=0)
def look_up(rows: dict[str, int], numbers: Any, refs: list[Any], *, key: str) -> int:
    if key == "die":
        os._exit(3)
    rows["changed"] = sum(rows.values()) + int(numbers[0]) + shoal.get(refs[0])
    raise KeyError(f"{key} of {sorted(rows.items())}")


@shoal.remote
def pass_on(value: int) -> int:
    return value


@shoal.remote
def ask_for(refs: list[Any]) -> int:
    return shoal.get(refs[0])


@shoal.remote
class Divider:
    def __init__(self, number: int) -> None:
        self.number = number
        1 / number

    def divide(self, by: int) -> float:
        return self.number / by


def failed(numbers: int = 10, key: str = "none") -> Any:
    refs = [shoal.put(5)]
    return look_up.remote(table.remote(), np.arange(numbers), refs, key=key)


@pytest.mark.parametrize("numbers", [10, 100_000], ids=["small", "stored"])
def test_it_fails_again_with_the_same_arguments(numbers: int) -> None:
    ref = failed(numbers)
    with pytest.raises(KeyError) as caught:
        shoal.get(ref, timeout=LONG_S)
    for _ in range(2):  # what a run changes is its own
        error = shoal.debug(ref, post_mortem=False)
        assert type(error) is KeyError
        assert error.args == caught.value.args == ("none of [('a', 1), ('changed', 6)]",)
    again = shoal.debug(ref.hex(), post_mortem=False)
    assert type(again) is KeyError, "by id"


@pytest.mark.parametrize("way", ["argument", "get", "two"])
def test_the_task_that_failed_first_is_run(way: str) -> None:
    ref = failed()
    if way == "argument":
        last = pass_on.remote(ref)
    elif way == "get":
        last = ask_for.remote([ref])
    else:
        last = pass_on.remote(ask_for.remote([pass_on.remote(ref)]))
    with pytest.raises(errors.TaskError):
        shoal.get(last, timeout=LONG_S)
    del ref  # its inputs stay with the error that was passed on
    error = shoal.debug(last, post_mortem=False)
    assert type(error) is KeyError
    assert "('changed', 6)" in str(error)


def test_a_task_that_killed_its_process_is_stepped_into(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = failed(key="die")
    with pytest.raises(errors.WorkerCrashedError) as caught:
        shoal.get(ref, timeout=LONG_S)
    assert caught.value.task == "look_up"
    assert caught.value.task_id == ref.task_id().hex()
    calls: list[Any] = []

    def runcall(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        calls.append((function.__name__, args[0], len(args[1]), kwargs))

    assert shoal.debug(ref, runcall=runcall) is None
    assert calls == [("look_up", {"a": 1}, 10, {"key": "die"})]
    typed, said = io.StringIO("n\np key\nq\n"), io.StringIO()
    monkeypatch.setattr(sys, "stdin", typed)
    monkeypatch.setattr(sys, "stdout", said)
    shoal.debug(ref)
    assert "'die'" in said.getvalue() and "os._exit(3)" in said.getvalue()


def test_the_debugger_opens_at_the_failing_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = failed()
    typed, said = io.StringIO("p rows\nu\nd\nq\n"), io.StringIO()
    monkeypatch.setattr(sys, "stdin", typed)
    monkeypatch.setattr(sys, "stdout", said)
    assert type(shoal.debug(ref)) is KeyError
    assert "'changed': 6" in said.getvalue()
    assert "raise KeyError" in said.getvalue()
    assert "shoal/_runtime" not in said.getvalue()


def test_where_nobody_can_type_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = io.StringIO()
    closed.close()
    for stdin in (None, closed, io.StringIO()):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert type(shoal.debug(failed())) is KeyError
        assert shoal.debug(failed(key="die")) is None, "it was not run any further"
    said = capsys.readouterr().err
    assert said.count("nobody can type") == 4  # an end of file is an answer
    assert said.count("look_up was left before its end") == 3
    assert "has not failed" not in said


def test_inputs_that_were_spilled_come_back() -> None:
    ref = failed(1_000_000)
    with pytest.raises(KeyError) as caught:
        shoal.get(ref, timeout=LONG_S)
    capacity = shoal.cluster_resources()["object_store_memory"]
    fill = [shoal.put(np.zeros(4 << 20, np.uint8)) for _ in range(2 * int(capacity) >> 22)]
    for _ in range(2):
        error = shoal.debug(ref, post_mortem=False)
        assert type(error) is KeyError and error.args == caught.value.args
    del fill


def test_generators_and_coroutines_run_to_their_end() -> None:
    @shoal.remote
    def count(n: int) -> Iterator[int]:
        yield from range(n)
        raise OSError("after them")

    @shoal.remote
    async def late(n: int) -> None:
        raise OSError(f"later, {n}")

    stream = count.remote(2)
    refs = list(stream)
    with pytest.raises(OSError):
        shoal.get(refs[-1], timeout=LONG_S)
    assert str(shoal.debug(refs[-1], post_mortem=False)) == "after them"
    assert str(shoal.debug(late.remote(3), post_mortem=False)) == "later, 3"


def test_a_method_needs_an_instance_and_a_constructor_none() -> None:
    divider = Divider.remote(6)
    ref = divider.divide.remote(0)
    with pytest.raises(errors.NotReplayableError, match=r"Divider\.divide.*instance="):
        shoal.debug(ref, post_mortem=False)

    class Alike:
        number = 6

        def divide(self, by: int) -> float:
            return self.number / by

    assert type(shoal.debug(ref, post_mortem=False, instance=Alike())) is ZeroDivisionError
    broken = Divider.remote(0)
    call = broken.divide.remote(1)
    assert type(shoal.debug(call, post_mortem=False)) is ZeroDivisionError


def test_what_can_not_be_run_again_says_why() -> None:
    with pytest.raises(errors.UsageError, match="has a value"):
        shoal.debug(shoal.put(1))
    with pytest.raises(errors.NotARefError):
        shoal.debug(5)  # type: ignore[arg-type]
    with pytest.raises(errors.UsageError, match="no id"):
        shoal.debug("nothing")
    waits = pass_on.options(resources={"none": 1}).remote(1)
    shoal.cancel(waits)
    with pytest.raises(errors.NotReplayableError, match="nothing was recorded"):
        shoal.debug(waits)


def test_inputs_over_the_budget_are_not_kept() -> None:
    env = {"env_vars": {"SHOAL_DEBUG_BYTES": "100000"}}
    ref = look_up.options(runtime_env=env).remote({}, np.arange(100_000), [], key="none")
    with pytest.raises(errors.NotReplayableError, match="SHOAL_DEBUG_BYTES"):
        shoal.debug(ref, post_mortem=False)


@shoal.remote(max_retries=0)
def reads_what_is_around_it(is_to_die: bool) -> str:
    import named_in_no_other_place as module  # type: ignore[import-not-found]

    with open("note.txt") as file:
        found = f"{os.environ['AROUND']} {file.read()} {module.NUMBER}"
    if is_to_die:
        os._exit(3)
    raise KeyError(found)


@pytest.mark.parametrize("is_to_die", [False, True], ids=["raises", "dies"])
def test_variables_files_and_modules_of_its_environment_are_there(
    is_to_die: bool, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("a note")
    (tmp_path / "named_in_no_other_place.py").write_text("NUMBER = 7\n")
    env = {"env_vars": {"AROUND": "set"}, "working_dir": str(tmp_path)}
    ref = reads_what_is_around_it.options(runtime_env=env).remote(is_to_die)
    shoal.wait([ref], timeout=LONG_S)
    before = dict(os.environ), list(sys.path), os.getcwd()
    runs = lambda call, is_to_die: call(False)  # noqa: E731
    error = shoal.debug(ref, post_mortem=False, runcall=runs)
    assert type(error) is KeyError and error.args == ("set a note 7",)
    assert (dict(os.environ), list(sys.path), os.getcwd()) == before
    sys.modules.pop("named_in_no_other_place")


def test_what_of_an_environment_is_not_set_up_is_named() -> None:
    wheel = Tree("d", wheel="one-1-py3-none-any.whl")
    found = Environment("k", py_modules=[wheel], packages=Packages("d", ["numpy==1"], field="pip"))
    assert replaying.left_out(found) == "py_modules one-1-py3-none-any.whl; pip (numpy==1)"
    assert "conda own" in replaying.left_out(Environment("k", conda=Conda("d", "own")))
    assert not replaying.left_out(Environment("k", env_vars={"A": "1"}))


def test_inputs_go_with_the_last_ref() -> None:
    before = {row.object_id for row in shoal.state.objects()}
    ref = failed(100_000)
    with pytest.raises(KeyError):
        shoal.get(ref, timeout=LONG_S)
    kept = {row.object_id for row in shoal.state.objects()} - before
    assert len(kept) >= 4  # the error, the record, the array, the table, the number
    del ref
    deadline = clock.now() + LONG_S  # the worker lets go when it takes its next task, or waits
    while {row.object_id for row in shoal.state.objects()} & kept:
        assert clock.now() < deadline
        shoal.get(table.remote(), timeout=LONG_S)
