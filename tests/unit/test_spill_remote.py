"""What is written through a network: it answers in time, or is told from a place that does not."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shoal._runtime import spill_places
from shoal._runtime.spill_files import SpillError, SpillFiles
from shoal._runtime.spill_places import Remote


class Odd:
    """A file system that does not answer, or refuses."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.calls = 0
        self.over = threading.Event()

    def _answer(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        self.over.wait()

    def open(self, path: str, mode: str, block_size: int) -> None:
        self._answer()

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self._answer()
        return b""

    def rm_file(self, path: str) -> None:
        self._answer()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Odd]:
    monkeypatch.setattr(spill_places, "ANSWER_S", 0.05)
    system = Odd(None)
    yield system
    system.over.set()


def remote_on(system: Any) -> Remote:
    remote = Remote("memory://shoal-test/values")
    remote._system = system
    return remote


def test_a_place_that_does_not_answer_is_given_up_and_left_alone_for_a_while(silent: Odd) -> None:
    files = SpillFiles([remote_on(silent)], "s")
    for _ in range(3):
        with pytest.raises(SpillError, match="memory://shoal-test/values: there is no answer"):
            files.write([memoryview(b"x")])
    assert silent.calls == 1
    assert files.records == {} and files.bytes_live == 0


def test_another_place_takes_what_a_broken_one_does_not() -> None:
    broken = remote_on(Odd(PermissionError(errno.EACCES, "Access Denied")))
    with pytest.raises(OSError, match=r"PermissionError.*Access Denied"):
        broken.append(spill_places.SpillFile(broken, "f"), [b"x"])
    files = SpillFiles([broken, Remote("memory://shoal-test/others")], "s")
    (number,) = files.write([memoryview(b"abc")])
    assert files.file_of(number).startswith("memory://shoal-test/others/")
    files.close()


def test_a_value_whose_place_is_gone_silent_is_an_error_in_time(silent: Odd) -> None:
    remote = Remote("memory://shoal-test/values")
    files = SpillFiles([remote], "s")
    (number,) = files.write([memoryview(b"abc")])
    buffer = bytearray(3)
    files.read_into(number, memoryview(buffer))
    assert buffer == b"abc"
    whole, remote._system = remote._system, silent
    with pytest.raises(SpillError, match="cannot be read: there is no answer"):
        files.read_into(number, memoryview(buffer))
    refusing = remote._system = Odd(PermissionError(errno.EACCES, "Access Denied"))
    with pytest.raises(SpillError, match=r"PermissionError: .*Access Denied"):
        files.read_into(number, memoryview(buffer))
    assert refusing.calls == 1
    remote._system = whole
    files.close()


def test_a_place_that_is_none_is_said_at_once() -> None:
    with pytest.raises(OSError, match="nowhere"):
        spill_places.choose(["nowhere://x"], "")


def test_who_reads_waits_through_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_places, "PAUSE_LEAST_S", 0.001)
    remote = Remote("memory://shoal-test/values")
    files = SpillFiles([remote], "s")
    (number,) = files.write([memoryview(b"abc")])
    whole = remote._system

    class Away(Odd):
        def _answer(self) -> None:
            if self.calls == 4:
                remote._system = whole
            super()._answer()

    away = remote._system = Away(ConnectionError("refused"))
    buffer = bytearray(3)
    files.read_into(number, memoryview(buffer))
    assert buffer == b"abc" and away.calls == 5
    monkeypatch.setattr(spill_places, "ANSWER_S", 0.0)
    remote._system = Odd(ConnectionError("refused"))
    with pytest.raises(SpillError, match=r"s-1\.spill cannot be read: ConnectionError: refused"):
        files.read_into(number, memoryview(buffer))
    monkeypatch.undo()
    remote._system = whole
    files.close()
