"""Looking for the children of the dead: what a look reads, and when values are let go."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from shoal import _native
from shoal._runtime import lookers
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.lookers import Lookers, Marks

INDEX = 3


class Watcher:
    """Lookers of a node memory whose process ``INDEX`` has forked; /proc is what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = _native.Memory.create(16 << 20, 1, b"12345678")
        self.mark = self.memory.fork_mark(INDEX)
        self.marked: set[int] = set()
        self.reads = 0
        self.failures = 0
        self.closed: list[int] = []
        self.loop = Loop()
        monkeypatch.setattr(Marks, "of", lambda _, pid: self._marks_of(pid))
        monkeypatch.setattr(lookers, "AGAIN_S", 0.02)
        watcher = self

        class Told:
            fd = self.memory.fd

            def has_forked(self, index: int) -> bool:
                return index == INDEX

            def fork_mark(self, index: int) -> int:
                return watcher.memory.fork_mark(index)

            def release_pins(self, index: int) -> None:
                watcher.closed.append(-index)

            def close_process(self, index: int) -> None:
                watcher.closed.append(index)

        self.lookers = Lookers(self.loop, Told(), frozenset)  # type: ignore[arg-type]

    def _marks_of(self, pid: int) -> set[int]:
        self.reads += 1
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "no descriptor is left")
        return {self.mark} if pid in self.marked else {self.memory.fork_mark(INDEX + 1)}

    def run(self, until: Callable[[], bool]) -> None:
        """Let the loop go on until it is so."""
        deadline = time.monotonic() + 30
        while not until():
            assert time.monotonic() < deadline
            self.loop.call_later(0.005, lambda: None)
            self.loop._run_once()


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Watcher:
    return Watcher(monkeypatch)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that live until somebody ends them."""
    code = "import sys; sys.stdin.read()"
    started = [
        subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    yield started
    for child in started:
        child.kill()
        child.communicate()


def test_a_process_that_has_not_forked_is_closed_at_once(watcher: Watcher) -> None:
    watcher.lookers.close_process(INDEX + 1)
    assert watcher.closed == [INDEX + 1]
    assert watcher.reads == 0


def test_one_without_children_is_closed_after_one_look(watcher: Watcher) -> None:
    watcher.lookers.close_process(INDEX)
    assert watcher.closed == []
    watcher.run(lambda: watcher.closed == [-INDEX, INDEX])


def test_values_go_with_the_last_child(
    watcher: Watcher, children: list[subprocess.Popen[bytes]]
) -> None:
    first, second = children
    watcher.marked = {first.pid, second.pid}
    watcher.lookers.close_process(INDEX)
    watcher.run(lambda: watcher.lookers._pidfds.keys() == watcher.marked)
    first.kill()
    first.wait()
    assert watcher.lookers.is_anybody_left([])
    assert watcher.closed == []
    second.kill()
    second.wait()
    watcher.run(lambda: watcher.closed == [-INDEX, INDEX])


def test_a_grandchild_is_found_when_the_child_ends(
    watcher: Watcher, children: list[subprocess.Popen[bytes]]
) -> None:
    child, grandchild = children
    watcher.marked = {child.pid}
    watcher.lookers.close_process(INDEX)
    watcher.run(lambda: child.pid in watcher.lookers._pidfds)
    watcher.marked = {grandchild.pid}
    child.kill()
    child.wait()
    watcher.run(lambda: grandchild.pid in watcher.lookers._pidfds)
    assert watcher.closed == []
    grandchild.kill()
    grandchild.wait()
    watcher.run(lambda: watcher.closed == [-INDEX, INDEX])


def test_exec_ends_what_a_child_sees(
    watcher: Watcher, children: list[subprocess.Popen[bytes]]
) -> None:
    watcher.marked = {children[0].pid}
    watcher.lookers.close_process(INDEX)
    watcher.run(lambda: children[0].pid in watcher.lookers._pidfds)
    watcher.marked = set()
    watcher.run(lambda: watcher.closed == [-INDEX, INDEX])


def test_a_look_that_cannot_read_lets_nothing_go(
    watcher: Watcher, children: list[subprocess.Popen[bytes]]
) -> None:
    watcher.marked = {children[0].pid}
    watcher.failures = 3
    watcher.lookers.close_process(INDEX)
    watcher.run(lambda: children[0].pid in watcher.lookers._pidfds)
    assert watcher.failures == 0
    assert watcher.closed == []


def test_a_look_reads_who_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = _native.Memory.create(16 << 20, 1, b"12345678")
    marks = Marks(memory)
    lists = iter([["1", "2", "self"], ["2", "5"], ["2", "5"]])
    monkeypatch.setattr(os, "listdir", lambda _: next(lists))
    monkeypatch.setattr(Marks, "of", lambda _, pid: {pid})
    assert [pid for pid, _ in marks.look(frozenset({1}))] == [2, 5]
