"""Errors in two layers, exceptions with odd constructors, tensors."""

from __future__ import annotations

import pickle
import sys
import types
from typing import Any

import numpy as np
import pytest

from shoal import _native, errors
from shoal._runtime import serialize
from shoal._runtime.daemon_sights import first_text


class NoMemory:
    """Stands for node memory where only refs would need it."""

    def capture(self, into: Any) -> Any:
        return None


def through(cause: BaseException | None, message: str = "m") -> errors.TaskError:
    error = errors.TaskError(message, cause, task="f", remote_traceback="in f")
    memory: Any = NoMemory()
    return serialize.unpack_error(serialize.pack_error(memory, error).data)


class Odd(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("never")


class Unloadable(Exception):
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ImportError("not here")


def test_an_ordinary_exception() -> None:
    error = through(ValueError("x"))
    assert isinstance(error, ValueError) and error.task == "f" and str(error) == "m"
    assert error.__notes__ == ["in f"]


def test_an_exception_whose_constructor_does_not_fit() -> None:
    error: Any = through(Odd(5, "text"))
    assert isinstance(error, Odd) and error.code == 5 and error.args == ("text",)


def test_an_exception_that_can_not_be_made_again_by_itself() -> None:
    error = through(Unloadable("u"))
    assert isinstance(error, Unloadable) and error.args == ("u",)


def test_an_exception_that_can_not_travel() -> None:
    error = through(Unpicklable("u"))
    assert type(error) is errors.TaskError and error.cause is None
    assert str(error).startswith("Unpicklable: m (its") and error.task == "f"


def test_an_exception_that_only_the_reader_can_not_load() -> None:
    packed = pickle.dumps(("E: m", "m", {"task": "f"}, b"no pickle"))
    error = serialize.unpack_error(packed)
    assert error.cause is None and "could not be loaded here" in str(error)


@pytest.mark.parametrize(
    ("message", "headline"),
    [
        ("no row\nof any table", "KeyError: no row"),
        ("", "KeyError"),
        ("\u00e9" * 300, "KeyError: " + "\u00e9" * 190),
    ],
    ids=["lines", "empty", "long"],
)
def test_who_unpickles_nothing_reads_class_and_first_line(message: str, headline: str) -> None:
    memory: Any = NoMemory()
    error = errors.TaskError(message, KeyError("k"), task="f")
    assert first_text(serialize.pack_error(memory, error).data) == headline
    for other in (b"", b"\x80", pickle.dumps(3), pickle.dumps((1, "two")), b"\x80\x05\x95(\x8c"):
        assert first_text(other) == ""


def test_records_of_actors_carry_the_constructors_exception() -> None:
    memory: Any = NoMemory()
    inner = errors.TaskError("bad", KeyError("bad"), task="A.__init__")
    packed = serialize.pack_error(memory, inner).data
    record = errors.to_record(errors.ActorDiedError(reason="constructor", error=packed, text="t"))
    ref: Any = None
    error = serialize.load_error(_native.FORMAT_ERROR_RECORD, memoryview(record), ref)
    assert isinstance(error, errors.ActorDiedError) and isinstance(error.cause, KeyError)
    assert isinstance(error.__cause__, errors.TaskError)


def test_buffers_travel_out_of_band() -> None:
    memory: Any = NoMemory()
    value = {"a": np.arange(1000), "b": [np.ones((3, 3), order="F")]}
    pickled = serialize.dumps(memory, value)
    assert len(pickled.buffers) == 2 and pickled.size_bytes > 8000 > len(pickled.data)
    again = serialize.loads(pickled.data, buffers=serialize.raw(pickled.buffers))
    assert np.array_equal(again["a"], value["a"]) and np.array_equal(again["b"][0], np.ones((3, 3)))


class Tensor:
    """Enough of a torch tensor."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.device = types.SimpleNamespace(type="cpu")
        self.requires_grad = False
        self.is_sparse = False

    def numpy(self) -> Any:
        return self._array


def test_tensors_are_private_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = types.ModuleType("torch")
    torch.Tensor, torch.from_numpy = Tensor, Tensor
    monkeypatch.setitem(sys.modules, "torch", torch)
    memory: Any = NoMemory()
    pickled = serialize.dumps(memory, [Tensor(np.arange(5))])
    assert len(pickled.buffers) == 1
    shared = bytes(serialize.raw(pickled.buffers)[0])
    (tensor,) = serialize.loads(pickled.data, buffers=[shared])
    tensor.numpy()[0] = 7
    assert tensor.numpy()[0] == 7 and shared[0] == 0
