"""The lock table against a naive one: a list per name."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal._core.locks import LockTable, Waiter

NAMES = st.sampled_from(["a", "b"])
INDEXES = st.integers(1, 4)
TOKENS = st.sampled_from(["x", "y"])


def test_first_come_first_served() -> None:
    table = LockTable()
    assert table.acquire("a", Waiter(1, "t", 10, None), is_try=False) is True
    assert table.acquire("a", Waiter(2, "t", 11, None), is_try=False) is None
    assert table.acquire("a", Waiter(3, "t", 12, None), is_try=True) is False
    following = table.release("a", 1, "t")
    assert following is not None and (following.index, following.request) == (2, 11)
    with pytest.raises(ValueError, match="not held"):
        table.release("a", 1, "t")


def test_a_dead_holder_gives_way() -> None:
    table = LockTable()
    table.acquire("a", Waiter(1, "t", 1, None), is_try=False)
    table.acquire("a", Waiter(1, "u", 2, None), is_try=False)
    table.acquire("a", Waiter(2, "t", 3, 5.0), is_try=False)
    promoted = table.end_process(1)
    assert [w.request for w in promoted] == [3]
    assert table.next_deadline() is None, "who holds a lock is in no hurry"
    assert table.end_process(2) == [] and not table.is_locked("a")


def test_waiting_ends_at_the_deadline() -> None:
    table = LockTable()
    table.acquire("a", Waiter(1, "t", 1, 3.0), is_try=False)
    table.acquire("a", Waiter(2, "t", 2, 4.0), is_try=False)
    assert table.next_deadline() == 4.0
    assert table.expire(3.9) == []
    assert [w.request for w in table.expire(4.0)] == [2]
    assert table.is_locked("a")


class LockMachine(RuleBasedStateMachine):
    """Acquire, release, time and death in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LockTable()
        self.model: dict[str, list[tuple[int, str, int, float | None]]] = {"a": [], "b": []}
        self.now = 0.0
        self.requests = 0

    @rule(
        name=NAMES,
        index=INDEXES,
        token=TOKENS,
        wait=st.none() | st.floats(0.1, 5),
        is_try=st.booleans(),
    )
    def acquire(self, name: str, index: int, token: str, wait: float | None, is_try: bool) -> None:
        self.requests += 1
        line = self.model[name]
        deadline = None if wait is None else self.now + wait
        waiter = Waiter(index, token, self.requests, deadline)
        if any(entry[:2] == (index, token) for entry in line):
            with pytest.raises(ValueError, match="held or waited for"):
                self.table.acquire(name, waiter, is_try)
            return
        held = self.table.acquire(name, waiter, is_try)
        assert held == (True if not line else False if is_try else None)
        if held is not False:
            line.append((index, token, self.requests, deadline))

    @rule(name=NAMES, index=INDEXES, token=TOKENS)
    def release(self, name: str, index: int, token: str) -> None:
        line = self.model[name]
        if not line or line[0][:2] != (index, token):
            with pytest.raises(ValueError, match="not held"):
                self.table.release(name, index, token)
            return
        line.pop(0)
        following = self.table.release(name, index, token)
        assert (following.request if following else None) == (line[0][2] if line else None)

    @rule(index=INDEXES)
    def die(self, index: int) -> None:
        expected = []
        for name, line in self.model.items():
            left = [entry for entry in line if entry[0] != index]
            if line and left and line[0][0] == index:
                expected.append(left[0][2])
            self.model[name] = left
        assert sorted(w.request for w in self.table.end_process(index)) == sorted(expected)

    @rule(seconds=st.floats(0, 3))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        late = []
        for name, line in self.model.items():
            stays = line[:1]
            for entry in line[1:]:
                if entry[3] is not None and entry[3] <= self.now:
                    late.append(entry[2])
                else:
                    stays.append(entry)
            self.model[name] = stays
        assert sorted(w.request for w in self.table.expire(self.now)) == sorted(late)

    @invariant()
    def same(self) -> None:
        self.table.validate()
        for name, line in self.model.items():
            assert self.table.is_locked(name) == bool(line)


TestLocks = LockMachine.TestCase
TestLocks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
