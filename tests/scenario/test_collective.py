"""`shoal.util.collective`: results are NumPy's, and what goes wrong on one rank is told to all."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal.util import collective
from shoal.util.collective import ReduceOp, group

MOST = 5
UFUNCS = {
    ReduceOp.SUM: np.add,
    ReduceOp.PRODUCT: np.multiply,
    ReduceOp.MIN: np.minimum,
    ReduceOp.MAX: np.maximum,
    ReduceOp.AVERAGE: np.add,
}
DTYPES = ["?", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "c8", ">f4", "g"]
SHAPES = [(), (0,), (1,), (7,), (3, 5), (2, 0, 3), (8193,), (25, 611), (40_003,)]
OPERATIONS = ["allreduce", "reduce", "broadcast", "allgather", "reducescatter", "barrier", "pair"]


@shoal.remote(num_cpus=0)
class Rank:
    def join(self, ranks: int, rank: int, name: str, **options: Any) -> int:
        collective.init_collective_group(ranks, rank, group_name=name, **options)
        return os.getpid()

    def hurry(self, name: str, timeout_s: float) -> None:
        """All have come; from now on this rank waits less long."""
        collective.get_group_handle(name).timeout_s = timeout_s

    def pid(self) -> int:
        return os.getpid()

    def leave(self, name: str) -> bool:
        collective.destroy_collective_group(name)
        return collective.is_group_initialized(name)

    def join_with_small_regions(self, ranks: int, rank: int, name: str) -> None:
        """So that arrays of moderate size need many chunks."""
        before, group.REGION_BYTES = group.REGION_BYTES, 24 << 10
        try:
            collective.init_collective_group(ranks, rank, group_name=name)
            # The regions are made at the first use.
            collective.get_group_handle(name).regions(np.dtype("u1"))
        finally:
            group.REGION_BYTES = before

    def cases(self, seeds: list[int], name: str) -> list[Any]:
        mine = collective.get_group_handle(name)
        return [run(Case(seed, mine.ranks), mine.rank, name) for seed in seeds]

    def do(self, name: str, operation: str, *arguments: Any, **options: Any) -> Any:
        """Any operation on private copies of the arguments; their values afterwards."""
        mine = [np.array(a) if isinstance(a, np.ndarray) else a for a in arguments]
        getattr(collective, operation)(*mine, group_name=name, **options)
        return mine

    def stall(self, name: str) -> None:
        """Comes into an operation, and never out of it."""
        array = np.zeros(200_000)
        while True:
            collective.allreduce(array, name)

    def interrupted(self, name: str) -> None:
        """A signal's handler raises while it waits."""

        def handle(number: int, frame: Any) -> None:
            raise ValueError("interrupted")

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        collective.barrier(name)

    def tensors(self, name: str) -> list[Any]:
        import torch

        rank = collective.get_rank(name)
        plain = torch.full((3, 4), rank + 1.0, requires_grad=True)
        half = torch.arange(6, dtype=torch.bfloat16)
        strided = torch.zeros(4, 10)[:, ::2]
        strided += rank
        collective.allreduce(plain, name)
        collective.allreduce(half, name, ReduceOp.AVERAGE)
        collective.allreduce(half, name, ReduceOp.MAX)
        collective.broadcast(strided, 1, name)
        assert strided.stride() == (10, 2)
        return [plain.detach(), half, strided]

    def torch_sum(self, ranks: int, rank: int) -> list[float]:
        import torch

        dist = collective.init_torch_group(ranks, rank)
        tensor = torch.full((3,), rank + 1.0)
        dist.all_reduce(tensor)
        collective.destroy_torch_group()
        found: list[float] = tensor.tolist()
        return found


@pytest.fixture(scope="module")
def ranks() -> Iterator[list[Any]]:
    with shoal.init(num_cpus=2):
        yield [Rank.remote() for _ in range(MOST)]
        assert shoal.lowlevel.kv_keys(namespace="collective") == [], "every group is forgotten"


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """The tests of this file share one session."""


class Case:
    """One operation with its arrays, the same on every rank and in the driver."""

    def __init__(self, seed: int, ranks: int) -> None:
        random = np.random.default_rng(seed)
        self.operation = str(random.choice(OPERATIONS))
        self.op = list(ReduceOp)[random.integers(5)]
        dtype = np.dtype(str(random.choice(DTYPES)))
        if self.op is ReduceOp.AVERAGE and dtype.kind not in "fc":
            dtype = np.dtype("f8")
        shape = SHAPES[random.integers(len(SHAPES))]
        self.other = int(random.integers(ranks))
        self.target = int((self.other + 1 + random.integers(ranks - 1)) % ranks)
        # Of each rank one array per rank, some of them not contiguous.
        count = (ranks, ranks, *shape)
        self.arrays = random.integers(0, 5, count).astype(dtype)
        if len(shape) == 2 and random.integers(2):
            self.arrays = np.asfortranarray(self.arrays)


def run(case: Case, rank: int, name: str) -> Any:
    """This rank's side; what it has afterwards."""
    mine = case.arrays.copy(order="K")[rank]
    one = mine[0, ...]  # also of a 0-dimensional one an array, not a number
    if case.operation == "allreduce":
        collective.allreduce(one, name, case.op)
    elif case.operation == "reduce":
        collective.reduce(one, case.target, name, case.op)
    elif case.operation == "broadcast":
        collective.broadcast(one, case.target, name)
    elif case.operation == "allgather":
        collective.allgather(
            [mine[i, ...] for i in range(len(mine))], case.arrays[rank, -1, ...].copy(), name
        )
        return mine
    elif case.operation == "reducescatter":
        collective.reducescatter(one, [mine[i, ...] for i in range(len(mine))], name, case.op)
    elif case.operation == "pair":
        if rank == case.other:
            collective.send(one, case.target, name)
        elif rank == case.target:
            collective.recv(one, case.other, name)
    else:
        collective.barrier(name)
    return one


def expected(case: Case, ranks: int) -> list[Any]:
    """What NumPy says that each rank has."""

    def combined(i: int) -> Any:
        with np.errstate(all="ignore"):
            total = reduce(UFUNCS[case.op], [case.arrays[r][i] for r in range(ranks)])
            if case.op is ReduceOp.AVERAGE:
                total = np.divide(total, ranks, dtype=case.arrays.dtype)
        return total

    before = [case.arrays[r][0] for r in range(ranks)]
    if case.operation == "allreduce":
        return [combined(0)] * ranks
    if case.operation == "reduce":
        return [combined(0) if r == case.target else before[r] for r in range(ranks)]
    if case.operation == "broadcast":
        return [before[case.target]] * ranks
    if case.operation == "allgather":
        return [np.stack([case.arrays[r][-1] for r in range(ranks)])] * ranks
    if case.operation == "reducescatter":
        return [combined(r) for r in range(ranks)]
    if case.operation == "pair":
        return [before[case.other] if r == case.target else before[r] for r in range(ranks)]
    return before


@pytest.mark.parametrize("world", [2, 3, 5])
def test_results_are_those_of_numpy(ranks: list[Any], world: int) -> None:
    members = ranks[:world]
    name = f"cases-{world}"
    joining = [m.join_with_small_regions.remote(world, r, name) for r, m in enumerate(members)]
    shoal.get(joining)
    seeds = list(range(1000 * world, 1000 * world + 80))
    results = shoal.get([m.cases.remote(seeds, name) for m in members])
    for i, seed in enumerate(seeds):
        case = Case(seed, world)
        for rank, wanted in enumerate(expected(case, world)):
            got = results[rank][i]
            where = f"seed {seed}: {case.operation} {case.op} of {wanted.dtype}, rank {rank}"
            # NumPy's pickle of what is not contiguous does not keep the order of bytes.
            assert got.dtype.newbyteorder("=") == wanted.dtype.newbyteorder("="), where
            np.testing.assert_array_equal(got, wanted, where)
    assert shoal.get([m.leave.remote(name) for m in members]) == [False] * world


@pytest.fixture
def pair(ranks: list[Any]) -> Iterator[list[Any]]:
    """Two ranks of a group "pair", which a test may leave in any state."""
    members = ranks[:2]
    shoal.get([m.join.remote(2, r, "pair", timeout_s=20) for r, m in enumerate(members)])
    yield members
    shoal.get([m.leave.remote("pair") for m in members])


def told(refs: list[Any], kind: type[Exception], text: str) -> None:
    """Each of the calls fails with that."""
    for ref in refs:
        with pytest.raises(kind, match=text):
            shoal.get(ref, timeout=25)


def works(members: list[Any], name: str = "pair") -> None:
    ones = np.ones(3)
    results = shoal.get([m.do.remote(name, "allreduce", ones) for m in members])
    assert all((array == len(members)).all() for (array,) in results)


def test_tensors_are_changed_in_place(pair: list[Any]) -> None:
    for plain, half, strided in shoal.get([m.tensors.remote("pair") for m in pair]):
        assert plain.tolist() == [[3.0] * 4] * 3
        assert half.tolist() == [0, 1, 2, 3, 4, 5] and str(half.dtype) == "torch.bfloat16"
        assert strided.tolist() == [[1.0] * 5] * 4


def test_torch_distributed_itself(ranks: list[Any]) -> None:
    for _ in range(2):
        results = shoal.get([m.torch_sum.remote(2, r) for r, m in enumerate(ranks[:2])])
        assert results == [[3.0] * 3] * 2


def test_one_process_in_several_groups(ranks: list[Any], pair: list[Any]) -> None:
    reverse = [ranks[1], ranks[0], ranks[2]]
    shoal.get([m.join.remote(3, r, "three") for r, m in enumerate(reverse)])
    values = [np.array([float(i)]) for i in range(3)]
    for _ in range(3):
        works(pair)
        refs = [m.do.remote("three", "broadcast", v, 0) for m, v in zip(reverse, values)]
        assert [array[0] for array, _ in shoal.get(refs)] == [0, 0, 0]
    shoal.get([m.leave.remote("three") for m in reverse])


def test_long_messages_cross(pair: list[Any]) -> None:
    """Longer than what goes ahead, both ways at once: each rank sends and receives in threads."""

    @shoal.remote
    def cross(rank: int) -> bool:
        collective.init_collective_group(2, rank, group_name="cross")
        sent, got = np.full(500_000, rank + 1.0), np.zeros(500_000)
        thread = threading.Thread(target=collective.send, args=(sent, 1 - rank, "cross"))
        thread.start()
        collective.recv(got, 1 - rank, "cross")
        thread.join()
        collective.destroy_collective_group("cross")
        return bool((got == 2 - rank).all())

    assert shoal.get([cross.remote(r) for r in range(2)]) == [True, True]


def test_more_tasks_than_cpus(ranks: list[Any]) -> None:
    """Who waits in a group lends its CPU: the last rank can start."""

    @shoal.remote
    def total(rank: int) -> float:
        collective.init_collective_group(4, rank, group_name="tasks")
        array = np.array([float(rank)])
        collective.allreduce(array, "tasks")
        collective.destroy_collective_group("tasks")
        return float(array[0])

    assert shoal.get([total.remote(r) for r in range(4)]) == [6.0] * 4


DIFFERENT = [
    ("barrier", ()),
    ("allreduce", (np.ones(4),)),
    ("allreduce", (np.ones(3, "f4"),)),
    ("allreduce", (np.ones((3, 1)),)),
    ("reduce", (np.ones(3), 0)),
]


@pytest.mark.parametrize(("operation", "arguments"), DIFFERENT, ids=lambda v: str(v)[:20])
def test_different_calls_are_told_to_all(
    pair: list[Any], operation: str, arguments: tuple[Any, ...]
) -> None:
    refs = [
        pair[0].do.remote("pair", "allreduce", np.ones(3)),
        pair[1].do.remote("pair", operation, *arguments),
    ]
    told(refs, errors.CollectiveError, r"rank 0 calls allreduce SUM float64 \(3,\) and rank 1 call")
    told([m.do.remote("pair", "barrier") for m in pair], errors.CollectiveError, "different things")


def test_different_operators_and_messages(pair: list[Any]) -> None:
    ones = np.ones(3)
    refs = [
        pair[0].do.remote("pair", "allreduce", ones),
        pair[1].do.remote("pair", "allreduce", ones, op=ReduceOp.MAX),
    ]
    told(refs, errors.CollectiveError, "allreduce SUM .* and rank 1 calls allreduce MAX")
    # Destroyed and joined again, the group works; and breaks again for another reason.
    assert shoal.get([m.leave.remote("pair") for m in pair]) == [False, False]
    shoal.get([m.join.remote(2, r, "pair") for r, m in enumerate(pair)])
    works(pair)
    shoal.get(pair[0].do.remote("pair", "send", ones, 1))
    told([pair[1].do.remote("pair", "recv", np.ones(2), 0)], errors.CollectiveError, "rank 0 sends")
    told([pair[0].do.remote("pair", "barrier")], errors.CollectiveError, "rank 1 receives")


def test_who_is_missing(ranks: list[Any]) -> None:
    with pytest.raises(errors.CollectiveTimeoutError, match="rank 1 of 2 did not join"):
        collective.init_collective_group(2, 0, group_name="late", timeout_s=0.1)
    refs = [m.join.remote(4, r, "late", timeout_s=0.3) for r, m in enumerate(ranks[:2])]
    told(refs, errors.CollectiveTimeoutError, r"ranks ([01], )?2, 3 of 4 did not join")
    shoal.get([m.join.remote(2, r, "late") for r, m in enumerate(ranks[:2])])
    shoal.get(ranks[0].hurry.remote("late", 0.3))
    refs = [ranks[0].do.remote("late", "allreduce", np.ones(3))]
    told(refs, TimeoutError, r"call 1 of group 'late' \(allreduce SUM .*not there: rank 1")
    told(
        [ranks[1].do.remote("late", "barrier")], errors.CollectiveTimeoutError, "not there: rank 1"
    )
    shoal.get([m.leave.remote("late") for m in ranks[:2]])


def test_wrong_joining_is_told_to_all(ranks: list[Any]) -> None:
    refs = [ranks[0].join.remote(3, 0, "wrong"), ranks[1].join.remote(2, 1, "wrong")]
    told(refs, errors.CollectiveError, "world_size [23], but it was begun with [23]")
    refs = [ranks[2].join.remote(2, 0, "twice"), ranks[3].join.remote(2, 0, "twice")]
    told(refs, errors.CollectiveError, "rank 0 of group 'twice' is taken by process")
    # To a whole group a wrong call does nothing: it would be the first of the next one.
    shoal.get([m.join.remote(2, r, "whole") for r, m in enumerate(ranks[:2])])
    pids = ", ".join(str(pid) for pid in shoal.get([m.pid.remote() for m in ranks[:2]]))
    text = rf"rank 0 of 2 did not join .*older group of this name .*\(processes {pids}\)"
    told([ranks[2].join.remote(2, 1, "whole", timeout_s=0.2)], errors.CollectiveTimeoutError, text)
    told([ranks[2].join.remote(3, 2, "whole", timeout_s=0.2)], TimeoutError, "ranks 0, 1 of 3")
    told([ranks[0].join.remote(2, 0, "whole")], errors.CollectiveError, "already: destroy it")
    works(ranks[:2], "whole")
    shoal.get([m.leave.remote("whole") for m in ranks[:2]])


def test_one_name_for_two_groups_that_form_one_after_the_other(ranks: list[Any]) -> None:
    """As two trainers of one program have, which both say "default"."""
    sets = [ranks[:2], ranks[2:5]]
    for members in sets:
        shoal.get([m.join.remote(len(members), r, "same") for r, m in enumerate(members)])
    for _ in range(3):
        for members in sets:
            works(members, "same")
    shoal.get([m.leave.remote("same") for m in sets[0]])
    works(sets[1], "same")
    shoal.get([m.join.remote(2, r, "same") for r, m in enumerate(sets[0])])
    for members in sets:
        works(members, "same")
        shoal.get([m.leave.remote("same") for m in members])


def test_a_rank_that_leaves(ranks: list[Any]) -> None:
    shoal.get([m.join.remote(2, r, "left") for r, m in enumerate(ranks[:2])])
    waiting = ranks[0].do.remote("left", "allreduce", np.ones(100_000))
    shoal.get(ranks[1].leave.remote("left"))
    told([waiting], errors.CollectiveError, "rank 1 has left group 'left'")
    shoal.get(ranks[0].leave.remote("left"))


def test_a_rank_that_is_killed(ranks: list[Any]) -> None:
    """In the middle of an operation, again and again; the name can be used again at once."""
    before = {row.object_id for row in shoal.state.objects()}
    for attempt in range(3):
        members = [*ranks[:2], Rank.remote()]
        pids = shoal.get([m.join.remote(3, r, "killed") for r, m in enumerate(members)])
        stalled = [m.stall.remote("killed") for m in members]
        ready, _ = shoal.wait(stalled, timeout=0.02 * attempt)
        assert not ready
        os.kill(pids[2], signal.SIGKILL)
        told(stalled[:2], errors.CollectiveError, "rank 2 .*has died")
        told(stalled[2:], errors.ActorError, "SIGKILL")
        shoal.get([m.leave.remote("killed") for m in members[:2]])
        del members, stalled
    shoal.get([m.join.remote(2, r, "killed") for r, m in enumerate(ranks[:2])])
    works(ranks[:2], "killed")
    shoal.get([m.leave.remote("killed") for m in ranks[:2]])
    left = [row for row in shoal.state.objects() if row.object_id not in before]
    assert [row for row in left if row.size_bytes > 30_000] == [], "blocks are freed"


def test_a_call_that_is_interrupted(pair: list[Any]) -> None:
    told([pair[0].interrupted.remote("pair")], ValueError, "interrupted")
    told([pair[1].do.remote("pair", "barrier")], errors.CollectiveError, "rank 0 left a call")


def test_declared_by_the_driver(ranks: list[Any]) -> None:
    members = ranks[:2]
    collective.create_collective_group(members, 2, [1, 0], group_name="declared")
    with pytest.raises(errors.CollectiveError, match="declared already"):
        collective.create_collective_group(members, 2, [0, 1], group_name="declared")
    values = [np.array([10.0]), np.array([20.0])]
    refs = [m.do.remote("declared", "broadcast", v, 0) for m, v in zip(members, values)]
    assert [array[0] for array, _ in shoal.get(refs)] == [20, 20]
    shoal.get([m.leave.remote("declared") for m in members])
    told([members[0].do.remote("declared", "barrier")], errors.CollectiveError, "in no group")
    collective.create_collective_group(members, 2, [0, 1], group_name="declared")
    collective.destroy_collective_group("declared")
    with pytest.raises(errors.CollectiveError, match="no group 'declared'"):
        collective.destroy_collective_group("declared")
    with pytest.raises(errors.OptionError, match="2 actors and 1 ranks"):
        collective.create_collective_group(members, 2, [0])
    with pytest.raises(errors.OptionError, match="stands twice"):
        collective.create_collective_group(members, 2, [0, 0])


def test_misuse(ranks: list[Any]) -> None:
    """In the driver, which may be a rank as well."""
    with pytest.warns(UserWarning, match="through shared memory"):
        collective.init_collective_group(1, 0, backend="gloo", group_name="driver")
    allreduce, ones = collective.allreduce, np.ones(3)
    with pytest.raises(ValueError, match="read-only"):
        allreduce(shoal.get(shoal.put(np.ones(30_000))), "driver")
    for wrong, text in [([1.0], "NumPy array or a Torch"), (np.array([{}]), "plain data")]:
        with pytest.raises(TypeError, match=text):
            allreduce(wrong, "driver")
    with pytest.raises(TypeError, match="only numbers"):
        allreduce(np.zeros(2, "M8[s]"), "driver")
    with pytest.raises(TypeError, match="average of int64"):
        allreduce(np.ones(3, int), "driver", ReduceOp.AVERAGE)
    with pytest.raises(TypeError, match="must be a ReduceOp"):
        allreduce(ones, "driver", "sum")  # type: ignore[arg-type]
    with pytest.raises(errors.OptionError, match="one array for each of the 1 ranks"):
        collective.allgather([ones, ones], ones, "driver")
    with pytest.raises(errors.OptionError, match=r"tensor_list\[0\] is float32"):
        collective.allgather([np.ones(3, "f4")], ones, "driver")
    with pytest.raises(errors.OptionError, match="is this rank itself"):
        collective.send(ones, 0, "driver")
    with pytest.raises(errors.OptionError, match="rank must be 0 to 0"):
        collective.broadcast(ones, 1, "driver")
    collective.barrier("driver")
    collective.destroy_collective_group("driver")
    with pytest.raises(errors.NotSupportedError, match="arrays of GPUs"):
        collective.init_collective_group(1, 0, backend="nccl")
    with pytest.raises(errors.NotSupportedError, match="use allreduce"):
        collective.allreduce_multigpu([ones])
    for arguments in [(0, 0), (2, 2), (2, -1), ("2", 0), (2, True)]:
        with pytest.raises(errors.OptionError):
            collective.init_collective_group(*arguments)
    for options in [{"backend": "mpi"}, {"group_name": ""}, {"timeout_s": 0}, {"gloo_timeout": -1}]:
        with pytest.raises(errors.OptionError):
            collective.init_collective_group(1, 0, **options)


def test_names_of_backends() -> None:
    assert collective.Backend("gloo") == collective.Backend.GLOO
    with pytest.raises(ValueError, match="there is no backend 'pigeon'"):
        collective.Backend("pigeon")
