"""Who may wait for room beside what it looks at: one process at a time, and not for ever."""

from __future__ import annotations

import os
from typing import Any

import pytest

from shoal import _native
from shoal._base import clock
from shoal._runtime import turns

LONG_S = 50.0
DRIVER = 1


class Node:
    """A daemon and two processes beside it, whose turns are looked at."""

    def __init__(self) -> None:
        self.daemon = _native.Memory.create(8 * _native.EXTENT_BYTES, 2, b"turns!", 64)
        self.indexes = [self.daemon.open_process(DRIVER) for _ in range(2)]
        self.first, self.second = (
            _native.Memory.attach(os.dup(self.daemon.fd), os.dup(self.daemon.eventfd), index)
            for index in self.indexes
        )


@pytest.fixture
def node() -> Node:
    return Node()


def test_one_at_a_time_has_the_turn(node: Node) -> None:
    assert node.first.take_turn(0.0) and not node.second.take_turn(0.0)
    node.second.end_turn()  # it is not its own
    assert not node.second.take_turn(0.0)
    node.first.end_turn()
    assert node.second.take_turn(0.0)


def test_the_turn_of_who_has_died_is_free(node: Node) -> None:
    assert node.first.take_turn(0.0)
    node.daemon.close_process(node.indexes[0])
    assert node.second.take_turn(0.0)


def test_who_lets_go_is_given_the_turn_and_gives_it_back(node: Node) -> None:
    patience: list[float] = []

    def load(patience_s: float) -> list[Any]:
        patience.append(patience_s)
        if len(patience) < 3:
            raise _native.FullError(1, 2, "full")
        return ["all"]

    assert turns.together(node.first, load) == ["all"]
    assert patience == [turns.IN_TURN_S] * 3
    assert node.second.take_turn(0.0)


def test_a_wait_for_the_turn_ends_with_the_time_of_the_call(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LOOK_S", LONG_S)
    assert node.second.take_turn(0.0)
    begun = clock.now()

    def load(patience_s: float) -> list[Any]:
        assert patience_s == turns.HURRIED_S
        raise TimeoutError

    with pytest.raises(TimeoutError):
        turns.together(node.first, load, begun + 0.05)
    assert clock.now() - begun < LONG_S / 2
