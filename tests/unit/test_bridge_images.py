"""Copies of values inside of a node, as the bridge makes them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shoal._runtime.bridge import images
from shoal._runtime.bridge.images import Image, copy_in_parts


class Bytes(bytearray):
    """Bytes that can be seen to go."""


@contextmanager
def uncollected() -> Iterator[None]:
    """As in a daemon: nobody looks for garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("part", [1, 7, 100])
def test_what_was_copied_is_let_go(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "COPY_BYTES", part)
    later: list[Callable[[], None]] = []
    said: list[str] = []
    with uncollected():
        data = Bytes(range(100))
        gone = weakref.ref(data)
        image = Image(0, True, 100, (), data)  # type: ignore[arg-type]
        into = bytearray(100)
        copy_in_parts(image, memoryview(into), lambda _, step: later.append(step), said.append)
        del image, data
        assert not said
        while later:
            assert gone() is not None
            later.pop(0)()
        assert said == [""] and into == bytes(range(100))
        assert gone() is None, "it is in a cycle, and stays in node memory"


def test_what_is_not_there_is_not_copied() -> None:
    later: list[Callable[[], None]] = []
    said: list[str] = []
    for image in (None, Image(0, True, 2, (), b"xy")):
        copy_in_parts(image, memoryview(bytearray(3)), lambda _, s: later.append(s), said.append)
        assert not said
        later.pop()()
        assert said.pop() == "it is not kept here"
