"""Actors through the public API: state, order, life and death, names, handles in structures."""

from __future__ import annotations

import abc
import atexit
import dataclasses
import os
import pathlib
import pickle
import tempfile
import threading
import time
from typing import Any

import pytest

import shoal
from shoal import errors
from tests.torture.processes import eventually


@shoal.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    def add(self, by: int = 1) -> int:
        self.n += by
        return self.n

    def pid(self) -> int:
        return os.getpid()

    def crash(self) -> None:
        os._exit(7)

    def fail(self) -> None:
        raise ValueError("counted wrong")

    def leave(self) -> None:
        shoal.exit_actor()

    def _private(self) -> None:
        pass

    @shoal.method(num_returns=2)
    def both(self) -> Any:
        return self.n, -self.n


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):  # the latter: while it is being read
        return True


def test_ten_increments() -> None:
    counter = Counter.remote()
    assert shoal.get([counter.add.remote() for _ in range(10)]) == list(range(1, 11))


def test_several_actors_are_apart() -> None:
    counters = [Counter.remote(i) for i in range(3)]
    assert shoal.get([c.add.remote(10) for c in counters]) == [10, 11, 12]
    assert len(set(shoal.get([c.pid.remote() for c in counters]))) == 3


def test_the_decorated_class_is_still_a_class() -> None:
    assert Counter(5).add() == 6

    class Twice(Counter):  # type: ignore[misc, valid-type]
        def add(self, by: int = 1) -> int:
            return super().add(2 * by)

    assert Twice().add() == 2
    assert shoal.get(shoal.remote(Twice).remote().add.remote()) == 2


def test_arguments_of_the_constructor() -> None:
    @shoal.remote
    class Keeps:
        def __init__(self, a: Any, inside: Any, *, b: Any = None) -> None:
            self.values = a, shoal.get(inside[0]), b

        def look(self) -> Any:
            return self.values

    ref = shoal.put("a value")
    assert shoal.get(Keeps.remote(ref, [ref], b=ref).look.remote()) == ("a value",) * 3


def test_several_returns_and_options_of_methods() -> None:
    counter = Counter.remote(3)
    a, b = counter.both.remote()
    assert shoal.get([a, b]) == [3, -3]
    assert shoal.get(counter.both.options(num_returns=1).remote()) == (3, -3)
    assert counter.add.options(num_returns=0).remote() is None
    assert shoal.get(counter.add.remote()) == 5


def test_an_error_does_not_end_the_actor() -> None:
    counter = Counter.remote()
    with pytest.raises(ValueError, match="counted wrong") as caught:
        shoal.get(counter.fail.remote())
    assert "Counter.fail" in str(caught.value.__notes__)
    assert shoal.get(counter.add.remote()) == 1


def test_unknown_and_private_methods() -> None:
    counter = Counter.remote()
    with pytest.raises(AttributeError, match="its methods: add, both, crash"):
        _ = counter.subtract
    with pytest.raises(AttributeError, match="private"):
        _ = counter.__nothing__
    assert shoal.get(counter._private.remote()) is None
    with pytest.raises(TypeError, match=r"handle.add.remote"):
        counter.add()


@dataclasses.dataclass
class Shelf:
    items: list[int]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> int:
        return self.items[i]

    def __del__(self) -> None:
        self.items.clear()


def test_special_methods_that_a_class_has_written() -> None:
    shelf = shoal.remote(Shelf).remote([5, 6])
    handle = shoal.get(shoal.put(shelf))
    calls = [shelf.__len__.remote(), handle.__getitem__.remote(1)]
    assert shoal.get(calls) == [2, 6]
    assert shelf == handle and repr(shelf).startswith("<actor Shelf")
    for name in ("__del__", "__iter__", "__setstate__"):
        with pytest.raises(AttributeError, match="is private"):
            getattr(shelf, name)


def test_handles_travel_in_structures() -> None:
    @shoal.remote
    def use(table: dict[str, Any]) -> int:
        result: int = shoal.get(table["counter"].add.remote(5))
        return result

    counter = Counter.remote()
    assert shoal.get(use.remote({"counter": counter})) == 5
    ref = shoal.put([counter])
    assert shoal.get(shoal.get(ref)[0].add.remote()) == 6
    assert shoal.get(ref)[0] == counter and hash(shoal.get(ref)[0]) == hash(counter)


def test_an_actor_ends_with_its_last_handle_after_its_calls() -> None:
    counter = Counter.remote()
    pid = shoal.get(counter.pid.remote())
    refs = [counter.add.remote() for _ in range(100)]
    del counter
    assert shoal.get(refs)[-1] == 100
    eventually(lambda: is_gone(pid), 30, "the actor lives on without a handle")


def test_an_actor_lives_while_a_value_holds_its_handle() -> None:
    @shoal.remote
    def make() -> Any:
        return [Counter.remote(40)]

    ref = make.remote()
    pid = shoal.get(shoal.get(ref)[0].pid.remote())
    assert shoal.get(shoal.get(ref)[0].add.remote(2)) == 42
    del ref
    eventually(lambda: is_gone(pid), 30, "the actor lives on without a handle")


def test_a_named_actor() -> None:
    keep = Counter.options(name="tally").remote()
    shoal.get(keep.add.remote())
    assert shoal.get(shoal.get_actor("tally").add.remote()) == 2
    with pytest.raises(ValueError, match="'nobody'"):
        shoal.get_actor("nobody")
    with pytest.raises(errors.ActorAlreadyExistsError, match="'tally'"):
        Counter.options(name="tally").remote()
    with pytest.raises(errors.ActorNotFoundError):
        shoal.get_actor("tally", namespace="elsewhere")
    same = Counter.options(name="tally", get_if_exists=True).remote(100)
    assert shoal.get(same.add.remote()) == 3
    other = Counter.options(name="tally", namespace="elsewhere").remote()
    assert shoal.get(shoal.get_actor("tally", namespace="elsewhere").add.remote()) == 1
    del other


def test_kill() -> None:
    counter = Counter.options(name="victim").remote()
    pid = shoal.get(counter.pid.remote())
    shoal.kill(counter)
    with pytest.raises(ValueError):
        shoal.get_actor("victim")
    with pytest.raises(errors.ActorDiedError, match=r"kill\(\)") as caught:
        shoal.get(counter.add.remote())
    assert caught.value.class_name == "Counter"
    eventually(lambda: is_gone(pid), 30, "a killed actor lives")
    with pytest.raises(TypeError, match="handle"):
        shoal.kill("victim")  # type: ignore[arg-type]


def test_exit_actor() -> None:
    counter = Counter.remote()
    pid = shoal.get(counter.pid.remote())
    with pytest.raises(errors.ActorDiedError, match="exit_actor"):
        shoal.get(counter.leave.remote())
    with pytest.raises(errors.ActorDiedError, match="exit_actor"):
        shoal.get(counter.add.remote())
    eventually(lambda: is_gone(pid), 30, "an actor that has left lives")
    with pytest.raises(errors.UsageError):
        shoal.exit_actor()


def test_a_crash_without_restarts() -> None:
    counter = Counter.remote()
    first = counter.crash.remote()
    second = counter.add.remote()
    with pytest.raises(errors.ActorDiedError) as caught:
        shoal.get(first)
    assert caught.value.exit_code == 7
    with pytest.raises(errors.ActorDiedError):
        shoal.get(second)
    with pytest.raises(errors.ActorDiedError):
        shoal.get(counter.add.remote())


def test_a_crash_with_restarts() -> None:
    counter = Counter.options(max_restarts=1).remote(5)
    pid = shoal.get(counter.pid.remote())
    assert shoal.get(counter.add.remote()) == 6
    with pytest.raises(errors.ActorUnavailableError, match="may have taken effect"):
        shoal.get(counter.crash.remote())
    assert shoal.get(counter.add.remote()) == 6
    assert shoal.get(counter.pid.remote()) != pid


def test_calls_that_ran_at_a_crash_are_repeated(tmp_path: Any) -> None:
    mark = str(tmp_path / "mark")

    @shoal.remote(max_restarts=1, max_task_retries=1)
    class Fragile:
        def work(self) -> Any:
            if not os.path.exists(mark):
                open(mark, "w").close()
                os._exit(1)
            here = shoal.get_runtime_context()
            return here.attempt, here.incarnation, here.was_current_actor_reconstructed

    assert shoal.get(Fragile.remote().work.remote()) == (2, 2, True)


def test_a_constructor_that_raises() -> None:
    @shoal.remote
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no database")

        def work(self) -> None:
            pass

    broken = Broken.remote()
    for _ in range(2):
        with pytest.raises(errors.ActorDiedError, match="no database") as caught:
            shoal.get(broken.work.remote())
        assert isinstance(caught.value.cause, RuntimeError)
        assert "constructor" in str(caught.value)


def test_an_actor_knows_itself() -> None:
    @shoal.remote
    class Self:
        def look(self) -> Any:
            here = shoal.get_runtime_context()
            return here.get_actor_id(), here.current_actor, here.get_actor_name()

    actor = Self.options(name="me").remote()
    actor_id, handle, name = shoal.get(actor.look.remote())
    assert actor_id == actor._actor_id.hex() and handle == actor and name == "me"


def test_ready_and_terminate() -> None:
    counter = Counter.remote()
    assert shoal.get(counter.__ray_ready__.remote()) is True
    assert shoal.get(counter.__ray_call__.remote(lambda self, x: self.n + x, 4)) == 4
    with pytest.raises(errors.ActorDiedError):
        shoal.get(counter.__ray_terminate__.remote())


def test_actors_take_turns_with_tasks_on_few_cpus() -> None:
    shoal.init(num_cpus=1)
    counters = [Counter.remote() for _ in range(4)]

    @shoal.remote
    def total(handles: list[Any]) -> int:
        return sum(shoal.get([h.add.remote() for h in handles]))

    assert shoal.get(total.remote(counters)) == 4


def test_coroutine_methods() -> None:
    @shoal.remote
    class Async:
        async def add(self, a: int, b: int) -> int:
            return a + b

    assert shoal.get(Async.remote().add.remote(1, 2)) == 3


def test_errors_pickle() -> None:
    error = errors.ActorDiedError(actor_id="a1", class_name="C", reason="killed")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.ActorDiedError and str(again) == str(error)


@shoal.remote
class Careful:
    """Has something to do at its end, in each of the three places where Python lets it."""

    def __init__(self, path: str) -> None:
        self.path = path
        atexit.register(self.note, "atexit")
        threading.Thread(target=self.work).start()

    def note(self, what: str) -> None:
        with open(self.path, "a") as file:
            file.write(what + "\n")

    def work(self) -> None:
        while threading.main_thread().is_alive():
            time.sleep(0.01)
        self.note("thread")

    def __del__(self) -> None:
        self.note("del")


def test_an_actor_ends_like_an_interpreter(tmp_path: pathlib.Path) -> None:
    """Though its worker does not take the interpreter apart: that costs 4 ms of copied pages."""
    path = tmp_path / "notes"
    careful = Careful.remote(str(path))
    shoal.get(careful.__ray_ready__.remote())
    del careful
    wanted = ["thread", "atexit", "del"]
    eventually(lambda: path.exists() and path.read_text().split() == wanted, 30, "its notes")


def test_a_constructor_that_does_not_fit_is_told_at_once() -> None:
    class Account:
        def __init__(self, owner: str, *, balance: int = 0) -> None:
            self.balance = balance

        def read(self) -> int:
            return self.balance

    class Abstract(abc.ABC):
        @abc.abstractmethod
        def area(self) -> float: ...

    account = shoal.remote(Account)
    with pytest.raises(TypeError, match=r"missing .* 'owner'. It takes \(owner"):
        account.remote()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'debt'"):
        account.options(num_cpus=0).remote("me", debt=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Abstract is abstract: it has no area"):
        shoal.remote(Abstract).remote()
    assert shoal.get(account.remote("me", balance=3).read.remote()) == 3


def test_the_last_call_that_had_to_wait_keeps_its_value_no_longer_than_its_refs() -> None:
    @shoal.remote
    class Maker:
        def make(self, _: Any) -> bytes:
            return bytes(5_000_000)

    @shoal.remote
    def after(path: pathlib.Path) -> None:
        eventually(path.exists, 60, "the test goes on")

    with tempfile.TemporaryDirectory() as folder:
        maker, go = Maker.remote(), pathlib.Path(folder) / "go"
        before = after.remote(go)
        made = maker.make.remote(before)  # no other call comes behind it
        go.touch()
        assert len(shoal.get(made)) == 5_000_000
        del before, made
        eventually(lambda: used_by_large() == 0, 30, "its value goes")
    assert shoal.get(maker.make.remote(0)) == bytes(5_000_000)


def used_by_large() -> int:
    return sum(row.size_bytes for row in shoal.state.objects() if row.size_bytes > 1_000_000)
