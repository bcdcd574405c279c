"""The error tree: facts, messages, records and pickles, and the dual class of a task's error."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from shoal import _native, errors
from shoal._runtime import session as sessions

EXAMPLES: list[errors.ShoalError] = [
    errors.WorkerCrashedError(task="f", pid=3, signal=9, stderr=["a", "b"], attempt=2),
    errors.WorkerCrashedError(exit_code=5),
    errors.WorkerCrashedError(signal=1000),
    errors.PoisonTaskError(pid=3, signal=11, pids=[1, 2, 3]),
    errors.OutOfMemoryError(task="f", pid=3, kind="limit", limit_bytes=1, peak_bytes=2),
    errors.OutOfMemoryError(pid=3, kind="node", others=[{"name": "g", "pid": 4, "bytes": 5}]),
    errors.ActorDiedError(actor_id="a", class_name="C", name="n", reason="killed"),
    errors.ActorDiedError(actor_id="a", class_name="C", reason="crashed", exit_code=3, pid=4),
    errors.ActorDiedError(reason="constructor", text="ValueError: x"),
    errors.ActorUnavailableError(reason="restarting", may_have_run=True, signal=9, pid=7),
    errors.ObjectLostError(object_id="o", reason="its node is gone"),
    errors.ObjectNotRebuiltError(object_id="o", reason="its actor has ended"),
    errors.RebuildsUsedUpError(object_id="o", reason="its task has run 4 times"),
    errors.LineageDroppedError(object_id="o", reason="there was no room for it"),
    errors.ReplayDiffersError(reason="its generator yielded 3 items this time"),
    errors.ObjectStoreFullError(asked_bytes=10, capacity_bytes=5),
    errors.ObjectStoreFullError(asked_bytes=4, capacity_bytes=5),
    errors.GetTimeoutError(timeout_s=1.5, pending=2),
    errors.ChannelTimeoutError(what="the next message", timeout_s=1.0),
    errors.ChannelClosedError(),
    errors.MessageTooLargeError(size_bytes=2000, capacity_bytes=1000),
    errors.CollectiveError("rank 1 has died", group="g", rank=0),
    errors.CollectiveTimeoutError("rank 1 did not join", group="g", rank=0),
    errors.JobEndedError(job=3, reason="its driver ended"),
    errors.GroupRemovedError(group_id="g", name="n", what="task f"),
    errors.RuntimeEnvSetupError(step="pip", output=["no such package"]),
    errors.TaskCancelledError(task="f", stage="queued"),
    errors.DeadlineExceededError(task="f", timeout_s=2.0, stages_s={"queued": 1.5, "running": 0.5}),
    errors.PendingCallsLimitError(limit=3, class_name="C"),
    errors.UnschedulableError(asked={"CPU": 9.0}, total={"CPU": 2.0}, what="task"),
    errors.SessionLostError(session="s"),
    errors.UsageError(text="a request that makes no sense"),
    errors.OptionError("bad", option="x", valid=["y"]),
    errors.NotARefError("no ref"),
    errors.NotInActorError("current_actor: this code does not run in an actor"),
    errors.NotReplayableError("nothing was recorded"),
    errors.SerializationError("no", path="args[0]", culprit="lock"),
    errors.ActorAlreadyExistsError(name="n", namespace="s"),
    errors.ActorNotFoundError(name="n", namespace="s"),
    errors.ActorNotFoundError(actor_id="a"),
    errors.ActorGroupRemovedError(actor_id="a", class_name="C", reason="group_removed"),
    errors.ActorOutOfMemoryError(actor_id="a", class_name="C", reason="out_of_memory"),
    errors.GroupAlreadyExistsError(name="n", namespace="s"),
    errors.GroupNotFoundError(name="n", namespace="s"),
    errors.GroupNotFoundError(group_id="abcd"),
    errors.SessionEndedError(session="s", now="t"),
    errors.SessionExistsError(session="s"),
    errors.ForkedProcessError(),
    errors.NotSupportedError("not yet"),
    errors.PendingTasksLimitError(),
    errors.GraphError("a graph with a cycle"),
    errors.GraphCapacityError(limit=3),
    errors.GraphEndedError(),
    errors.InternalError("a bug"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_error_travels_as_record_and_as_pickle(error: errors.ShoalError) -> None:
    for made in (again(error), pickle.loads(pickle.dumps(error))):
        assert type(made) is type(error)
        assert str(made) == str(error) and made.facts == error.facts
        assert str(made)


def test_the_examples_cover_the_tree() -> None:
    covered = {type(error) for error in EXAMPLES}

    def leaves(cls: type[errors.ShoalError]) -> list[type[errors.ShoalError]]:
        return [cls, *(leaf for sub in cls.__subclasses__() for leaf in leaves(sub))]

    families = {errors.ShoalError, errors.TaskError, errors.LostError, errors.ActorError}
    families |= {errors.ChannelError}
    own = {cls for cls in leaves(errors.ShoalError) if cls.__module__ == "shoal.errors"}
    own = {cls for cls in own if cls.__name__.isidentifier()}
    assert own - covered <= families


def test_builtin_classes_by_which_people_catch() -> None:
    for cls, builtin in (
        (errors.GetTimeoutError, TimeoutError),
        (errors.ObjectStoreFullError, MemoryError),
        (errors.SessionLostError, ConnectionError),
        (errors.OptionError, ValueError),
        (errors.ActorNotFoundError, ValueError),
        (errors.ActorAlreadyExistsError, ValueError),
        (errors.NotARefError, TypeError),
        (errors.SerializationError, TypeError),
        (errors.SessionEndedError, RuntimeError),
        (errors.SessionExistsError, RuntimeError),
        (errors.ForkedProcessError, RuntimeError),
        (errors.PendingTasksLimitError, RuntimeError),
        (errors.PendingCallsLimitError, RuntimeError),
        (errors.DeadlineExceededError, TimeoutError),
        (errors.NotSupportedError, NotImplementedError),
    ):
        assert issubclass(cls, builtin)


def again(error: errors.ShoalError) -> errors.ShoalError:
    return errors.from_record(errors.to_record(error))


def test_what_ends_work_says_why() -> None:
    removed = again(errors.GroupRemovedError(group_id="0a", name="n", what="task f"))
    assert isinstance(removed, errors.GroupRemovedError) and isinstance(removed, errors.LostError)
    assert "placement group 'n' (0a) of task f was removed" in str(removed)
    setup = again(errors.RuntimeEnvSetupError(step="pip", output=["no such package"]))
    assert isinstance(setup, errors.RuntimeEnvSetupError) and "\n    no such package" in str(setup)
    full = again(errors.PendingCallsLimitError(limit=3, class_name="C"))
    assert isinstance(full, errors.PendingCallsLimitError) and "has 3 waiting calls" in str(full)
    late = again(errors.DeadlineExceededError(task="f", timeout_s=2, stages_s={"queued": 1.5}))
    assert isinstance(late, errors.DeadlineExceededError)
    assert "f was not done within 2 s (1.5 s in the queue)" in str(late)
    cancelled = again(errors.TaskCancelledError(task="f", stage="held"))
    assert isinstance(cancelled, errors.TaskCancelledError)
    assert "f was cancelled while it waited for its arguments" in str(cancelled)
    away = again(errors.ActorUnavailableError(reason="restarting", signal=9, may_have_run=True))
    assert isinstance(away, errors.ActorUnavailableError)
    assert not isinstance(away, errors.ActorDiedError)
    assert "SIGKILL" in str(away) and "may have taken effect" in str(away)


def test_names_of_ray() -> None:
    table = errors.of_ray()
    assert table["RayError"] is errors.ShoalError and table["RayTaskError"] is errors.TaskError
    assert issubclass(table["ActorDiedError"], table["RayActorError"])
    assert table["ObjectFreedError"] is table["ObjectLostError"]
    not_rebuilt = table["ObjectReconstructionFailedError"]
    assert issubclass(not_rebuilt, table["ObjectLostError"])
    for name in ("MaxAttemptsExceeded", "LineageEvicted"):
        found = table[f"ObjectReconstructionFailed{name}Error"]
        assert issubclass(found, not_rebuilt) and found is not not_rebuilt
    assert all(cls.__module__ == "shoal.errors" for cls in table.values())


def test_messages_say_what_happened_and_what_to_do() -> None:
    text = str(EXAMPLES[0])
    assert "f (attempt 2) was killed by signal 9 (SIGKILL) (pid 3)" in text
    assert "    a\n    b" in text and "What to do: " in text
    assert "larger than the whole" in str(errors.ObjectStoreFullError(asked_bytes=2))
    assert "kill()" in str(errors.ActorDiedError(reason="killed"))


def test_records_of_another_version() -> None:
    import msgspec

    unknown = errors.from_record(msgspec.msgpack.encode(["NewError", {"a": 1}]))
    assert type(unknown) is errors.InternalError and "NewError" in str(unknown)
    more = errors.from_record(msgspec.msgpack.encode(["JobEndedError", {"job": 1, "new": 2}]))
    assert isinstance(more, errors.JobEndedError) and more.facts["new"] == 2
    assert isinstance(errors.from_record(b"\xff nonsense"), errors.InternalError)


class OwnError(Exception):
    __slots__ = ("extra",)

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.extra = "slot"


class FinalError(Exception):
    def __init_subclass__(cls, **given: Any) -> None:
        raise TypeError("no subclasses")


@pytest.mark.parametrize(
    "cause",
    [
        ValueError("v"),
        KeyError("k"),
        OSError(2, "no such file", "f.txt"),
        UnicodeDecodeError("utf8", b"x", 0, 1, "bad"),
        StopIteration(3),
        OwnError(42, "t"),
        errors.WorkerCrashedError(pid=3),
        ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    ],
    ids=lambda e: type(e).__name__,
)
def test_the_dual_class(cause: Exception) -> None:
    error: Any = errors.task_error(str(cause), cause, {"task": "f", "attempt": 2})
    assert isinstance(error, errors.TaskError) and isinstance(error, type(cause))
    assert error.cause is cause and error.attempt == 2 and str(error) == str(cause)
    assert error.args == cause.args
    if isinstance(cause, OSError):
        assert error.errno == 2 and error.filename == "f.txt"
    if isinstance(cause, OwnError):
        assert error.code == 42 and error.extra == "slot"
    else:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and again.attempt == 2


class ResponseError(Exception):
    def __init__(self, response: Any) -> None:
        super().__init__(response.text)
        self.response = str(response)


class NamedError(ValueError):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Response:
    text = "no such page"


@pytest.mark.parametrize("cause", [ResponseError(Response), NamedError(code=4)])
def test_errors_of_classes_with_constructors_of_their_own_can_be_copied(cause: Exception) -> None:
    error = errors.task_error(str(cause), cause, {"task": "f", "remote_traceback": "in f"})
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error) and str(again) == str(error)
        assert type(again.cause) is type(cause) and vars(again.cause) == vars(cause)
        assert again.facts == error.facts and again.__notes__ == ["in f"]


def test_what_can_have_no_dual_class() -> None:
    for cause in (SystemExit(3), KeyboardInterrupt(), FinalError("x")):
        error = errors.task_error("m", cause, {})
        assert type(error) is errors.TaskError and error.cause is cause
    assert type(errors.task_error("m", None, {})) is errors.TaskError


def test_the_remote_traceback_is_a_note() -> None:
    error = errors.task_error("m", ValueError("m"), {"remote_traceback": "in f:\n  File"})
    assert error.__notes__ == ["in f:\n  File"]


def test_native_errors_become_public_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_former", [])  # other tests' sessions would be named
    with pytest.raises(errors.PendingTasksLimitError):
        raise sessions.translate(_native.PendingError())
    with pytest.raises(errors.ForkedProcessError):
        raise sessions.translate(_native.ForkedError())
    with pytest.raises(errors.ObjectStoreFullError, match="10 bytes"):
        raise sessions.translate(_native.FullError(10, 5, "full"))
    with pytest.raises(errors.ObjectLostError):
        raise sessions.translate(_native.FullError(0, 5, "hold"))
    with pytest.raises(errors.SessionLostError):
        raise sessions.translate(_native.SessionLostError())
