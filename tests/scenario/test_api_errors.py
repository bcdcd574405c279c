"""Errors as their readers see them: classes, chains, tracebacks, what can not travel."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import traceback
from typing import Any

import pytest

import shoal
from shoal import errors

HERE = os.path.basename(__file__)


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@shoal.remote
def inner(key: str) -> None:
    raise KeyError(key)


@shoal.remote
def outer(key: str) -> None:
    shoal.get(inner.remote(key))


def failure(ref: Any) -> Any:
    """What ``get`` raises."""
    with pytest.raises(errors.TaskError) as caught:
        shoal.get(ref)
    return caught.value


class ResponseError(Exception):
    def __init__(self, response: Any) -> None:
        super().__init__(response.reason)
        self.code = 404


def test_an_exception_that_can_not_be_made_from_its_args_arrives_as_what_it_was() -> None:
    @shoal.remote
    def asks() -> None:
        raise ResponseError(UnicodeDecodeError("utf8", b"x", 0, 1, "no such page"))

    with pytest.raises(ResponseError, match="no such page") as caught:
        shoal.get(asks.remote())
    assert caught.value.code == 404


def test_a_task_error_is_an_instance_of_its_causes_class() -> None:
    error = failure(inner.remote("deep"))
    assert isinstance(error, KeyError) and isinstance(error.cause, KeyError)
    assert error.args == ("deep",) and str(error) == "'deep'"
    assert error.task == "inner" and error.attempt == 1 and error.pid != os.getpid()
    assert error.node and len(error.task_id) == 48


def test_two_levels_are_at_most_eight_lines_of_user_code() -> None:
    error = failure(outer.remote("deep"))
    assert type(error.cause) is KeyError and error.task == "outer"
    lines = error.remote_traceback.splitlines()
    assert len(lines) <= 8, error.remote_traceback
    heads = [line for line in lines if not line.startswith(" ")]
    assert [head.split(" (")[0] for head in heads] == ["in outer", "in inner"]
    assert all("attempt 1, pid " in head and "node " in head for head in heads)
    files = [line for line in lines if line.startswith("  File ")]
    assert len(files) == 2 and all(HERE in line for line in files)
    assert error.remote_traceback in printed(error)


def test_three_levels() -> None:
    @shoal.remote
    def outermost() -> None:
        shoal.get(outer.remote("deep"))

    lines = failure(outermost.remote()).remote_traceback.splitlines()
    assert len(lines) <= 12
    assert [line for line in lines if line.startswith("in ")][-1].startswith("in inner")


def test_what_was_raised_from_what() -> None:
    @shoal.remote
    def wrap() -> None:
        try:
            int("three")
        except ValueError as error:
            raise RuntimeError("no number") from error

    @shoal.remote
    def while_handling() -> None:
        try:
            shoal.get(inner.remote("deep"))
        except KeyError:
            raise RuntimeError("and then") from None

    @shoal.remote
    def handled() -> None:
        try:
            shoal.get(inner.remote("deep"))
        except KeyError:
            print({}["missing"])

    text = failure(wrap.remote()).remote_traceback
    assert "caused by ValueError: invalid literal" in text and 'int("three")' in text
    text = failure(while_handling.remote()).remote_traceback
    assert "and then" in text and "deep" not in text
    text = failure(handled.remote()).remote_traceback
    assert "while handling KeyError: 'deep'" in text and "in inner (attempt 1" in text


def test_notes_of_user_code_arrive() -> None:
    @shoal.remote
    def noted() -> None:
        error = ValueError("v")
        error.add_note("row 17 of the table")
        raise error

    assert "\n  row 17 of the table" in failure(noted.remote()).remote_traceback


async def fails_below() -> None:
    await asyncio.sleep(0)
    raise ValueError("from a coroutine")


@shoal.remote
class Service:
    async def call(self) -> None:
        await fails_below()

    async def together(self) -> None:
        await asyncio.gather(fails_below(), asyncio.sleep(0.01))

    def plain(self) -> None:
        raise LookupError("nothing there")


def test_tracebacks_of_coroutines() -> None:
    @shoal.remote
    async def task() -> None:
        await fails_below()

    service: Any = Service.remote()  # type: ignore[attr-defined]
    for ref in (task.remote(), service.call.remote(), service.together.remote()):
        error = failure(ref)
        assert isinstance(error, ValueError)
        files = [line for line in error.remote_traceback.splitlines() if "  File " in line]
        assert files and all(HERE in line for line in files), error.remote_traceback
        assert "in fails_below" in files[-1]
    assert failure(service.plain.remote()).task == "Service.plain"


def test_tracebacks_of_generators() -> None:
    @shoal.remote
    def counts() -> Any:
        yield 1
        raise ValueError("in the middle")

    refs: Any = iter(counts.remote())
    assert shoal.get(next(refs)) == 1
    error = failure(next(refs))
    assert isinstance(error, ValueError) and "in counts" in error.remote_traceback
    assert all(HERE in line for line in error.remote_traceback.splitlines() if "  File " in line)
    with pytest.raises(StopIteration):
        next(refs)


def test_errors_go_on_through_processes_and_pickles() -> None:
    @shoal.remote
    def read(error: Any) -> tuple[str, bool, str]:
        return str(error), isinstance(error, KeyError), error.remote_traceback

    error = failure(outer.remote("deep"))
    assert shoal.get(read.remote(error)) == ("'deep'", True, error.remote_traceback)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and again.facts == error.facts
    assert again.__notes__ == error.__notes__


class NeedsTwo(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Holds(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Final(Exception):
    def __init_subclass__(cls, **given: Any) -> None:
        raise TypeError("no subclasses")


class Refuses(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


@shoal.remote
def raise_(kind: str) -> None:
    if kind == "NeedsTwo":
        raise NeedsTwo(42, "no good")
    if kind == "exit":
        raise SystemExit(3)
    raise {"Holds": Holds, "Final": Final, "Refuses": Refuses}[kind]("no good")


def test_causes_that_are_hard_to_send() -> None:
    error = failure(raise_.remote("NeedsTwo"))
    assert isinstance(error, NeedsTwo) and error.code == 42 and str(error) == "42: no good"
    error = failure(raise_.remote("Final"))
    assert type(error) is errors.TaskError and type(error.cause) is Final
    for kind in ("Holds", "Refuses"):
        error = failure(raise_.remote(kind))
        assert type(error) is errors.TaskError and error.cause is None
        assert f"{kind}: no good" in str(error) and "could not be pickled" in str(error)
        assert "in raise_" in error.remote_traceback
    error = failure(raise_.remote("exit"))
    assert type(error) is errors.TaskError and "sys.exit(3)" in str(error)
    assert not isinstance(error, SystemExit) and isinstance(error.cause, SystemExit)


def test_an_error_group() -> None:
    @shoal.remote
    def several() -> None:
        raise ExceptionGroup("several", [ValueError(1), KeyError(2)])

    try:
        shoal.get(several.remote())
    except* ValueError as group:
        assert [str(error) for error in group.exceptions] == ["1"]
    except* KeyError as group:
        assert len(group.exceptions) == 1
    else:
        raise AssertionError("nothing was raised")


def test_errors_of_calls_to_an_actor_that_is_away_or_gone() -> None:
    @shoal.remote(max_restarts=1)
    class Fragile:
        def crash(self) -> None:
            os._exit(7)

        def fine(self) -> int:
            return shoal.get_runtime_context().incarnation

    fragile: Any = Fragile.remote()  # type: ignore[attr-defined]
    with pytest.raises(errors.ActorUnavailableError) as away:
        shoal.get(fragile.crash.remote())
    assert away.value.may_have_run and away.value.exit_code == 7
    assert shoal.get(fragile.fine.remote()) == 2
    with pytest.raises(errors.ActorDiedError) as gone:
        shoal.get(fragile.crash.remote())
    assert gone.value.exit_code == 7 and "Fragile" in str(gone.value)
