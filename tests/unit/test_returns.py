"""The returns of one task are written together: who finds no room lets go of them and begins again
in his turn."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from shoal import _native
from shoal._runtime import returns, turns

FULL = _native.FullError(1, 2, "full")


class Memory:
    """Whose turn it is."""

    def __init__(self) -> None:
        self.served = 0
        self.log: list[str] = []

    def take_turn(self, _: float) -> bool:
        self.log.append("turn")
        return True

    def end_turn(self, is_served: bool) -> None:
        self.log.append("served" if is_served else "not served")


class Task:
    """With room for ``room`` returns until somebody has had the turn."""

    def __init__(self, n: int, room: int, error: _native.FullError = FULL) -> None:
        self.n_returns = n
        self.memory = Memory()
        self.room = room
        self.error = error
        self.log: list[Any] = []
        self.there: dict[int, Any] = {}

    def put(self, index: int, item: Any, patience_s: float) -> None:
        self.log.append((index, patience_s))
        if len(self.there) >= self.room and "turn" not in self.memory.log:
            raise self.error
        if item == "unpicklable":
            raise TypeError(item)
        self.there[index] = item

    def write(self, index: int, *rest: Any) -> None:
        self.put(index, rest[0], rest[-1])

    def write_item(self, _: Task, index: int, item: Any, patience_s: float) -> None:
        self.put(index, item, patience_s)

    def take_back(self, index: int) -> Any:
        return (self.there.pop(index), b"", [], [])

    def discard(self, n: int) -> None:
        for index in range(n):
            self.there.pop(index, None)


def write_list(task: Task, items: list[Any]) -> None:
    returns.write_all(task.memory, task, items, task.write_item)  # type: ignore[arg-type]


def yielded(task: Task) -> returns.Yielded:
    return returns.Yielded(task.memory, task, task.write_item)  # type: ignore[arg-type]


def test_where_there_is_room_nobody_takes_a_turn() -> None:
    task = Task(3, room=3)
    write_list(task, ["a", "b", "c"])
    assert task.there == {0: "a", 1: "b", 2: "c"} and task.memory.log == []


def test_who_finds_no_room_begins_again_in_his_turn() -> None:
    task = Task(3, room=2)
    write_list(task, ["a", "b", "c"])
    assert task.there == {0: "a", 1: "b", 2: "c"}
    first = [(i, turns.HURRIED_S) for i in range(3)]
    assert task.log == first + [(i, turns.PATIENCE_S) for i in range(3)]
    assert task.memory.log == ["turn", "served"]


def test_what_is_larger_than_the_store_fails_at_once() -> None:
    task = Task(3, room=2, error=_native.FullError(9, 2, "larger than the store"))
    with pytest.raises(_native.FullError):
        write_list(task, ["a", "b", "c"])
    assert task.memory.log == [] and task.there == {}


def test_what_a_generator_has_yielded_is_taken_back() -> None:
    task = Task(4, room=2)
    assert yielded(task).write(iter("abcd"))
    assert task.there == dict(enumerate("abcd"))
    assert task.memory.log == ["turn", "served"]


@pytest.mark.parametrize("room", [2, 9])
def test_a_generator_that_yields_too_much_too_little_or_raises(room: int) -> None:
    """The same, whether there was room at once or not."""
    task = Task(3, room=room)
    assert not yielded(task).write(iter("abcd"))
    task = Task(5, room=room)
    writing = yielded(task)
    with pytest.raises(ValueError, match="num_returns=5, but the task yielded 4 values"):
        writing.write(iter("abcd"))
    assert writing.written == 4 and task.there == dict(enumerate("abcd"))

    def failing() -> Iterator[str]:
        yield from "abc"
        raise ArithmeticError

    writing = yielded(task := Task(5, room=room))
    with pytest.raises(ArithmeticError):
        writing.write(failing())
    assert writing.written == 3 and task.there == dict(enumerate("abc"))


@pytest.mark.parametrize("room", [2, 9])
def test_what_cannot_be_written_leaves_what_was_before_it(room: int) -> None:
    writing = yielded(task := Task(4, room=room))
    with pytest.raises(TypeError):
        writing.write(iter(["a", "b", "c", "unpicklable"]))
    assert writing.written == 3 and task.there == dict(enumerate("abc"))


# ---- in node memory


def hooked(memory: Any) -> Any:
    memory.set_hooks(
        loads=pickle.loads,
        error=lambda _format, data, _ref: ValueError(bytes(data)),
        help=None,
        future=lambda ref: ref,
        wait=lambda ref: ref,
        escaped=lambda ref: ref,
    )
    return memory


def test_a_return_is_taken_out_of_memory_and_written_again() -> None:
    daemon = hooked(_native.Memory.create(32 << 20, 2, b"returns", 64))
    daemon.populate(16 << 20, 1 << 40)
    queue, generation = daemon.new_queue(_native.QUEUE_CLASS, 1)
    index = daemon.open_process(2)
    fds = os.dup(daemon.fd), os.dup(daemon.eventfd)
    worker = hooked(_native.Memory.attach(*fds, index))
    template = _native.Template(
        function=0, queue=queue, queue_generation=generation, job=1, n_returns=3
    )
    inner = worker.put_simple("inner")
    refs = worker.submit(template, b"payload", [])
    daemon.assign(index, queue)
    assert worker.take(1.0) == queue, "the assignment comes first"
    task = worker.take(1.0)
    before = daemon.usage()[0]

    bytes_of_array = bytes(range(250)) * 1000
    parts: list[pickle.PickleBuffer] = []
    captured: list[Any] = []
    worker.capture(captured)
    value = [inner, pickle.PickleBuffer(bytes_of_array)]
    data = pickle.dumps(value, 5, buffer_callback=parts.append)
    worker.capture(None)
    del inner, value
    task.write(0, _native.FORMAT_PICKLE, data, [part.raw() for part in parts], captured)
    captured.clear()
    assert task.write_simple(1, 7)
    assert daemon.usage()[0] > before
    assert task.take_back(1) is None, "it needs no room, and stays"
    taken = task.take_back(0)
    assert daemon.usage()[0] == before and task.take_back(0) is None
    assert taken[:3] == (_native.FORMAT_PICKLE, data, [bytes_of_array])
    task.write(0, *taken)
    task.write(2, _native.FORMAT_BYTES, bytes_of_array, (), ())
    full = daemon.usage()[0]
    task.discard(3)
    assert daemon.usage()[0] == before < full
    task.write(0, *taken)
    del taken
    task.write(2, _native.FORMAT_BYTES, b"last", (), ())
    task.commit()
    (inner, array), number, last = worker.get_many(refs, 1)
    assert worker.get(inner, 0) == "inner" and bytes(array) == bytes_of_array
    assert (number, last) == (7, b"last")
    del refs, inner, array
    audit = daemon.audit()
    assert audit["wrong_counts"] == 0 and audit["leaked_blocks"] == 0
