"""Graphs before anything runs: order, inputs, plans, what is in flight, pictures."""

from __future__ import annotations

import random
import sys
from typing import Any

import cloudpickle
import pytest

from shoal import errors
from shoal._runtime.actor_method import ActorFacts, ActorMethod, MethodRow
from shoal._runtime.remote import remote
from shoal.dag import DAGNode, InputNode, MultiOutputNode, draw
from shoal.dag.inputs import Uses
from shoal.dag.order import in_order
from shoal.dag.pipeline import Pipeline
from shoal.dag.plan import DRIVER, Nested, Place, Plan, plan


class Fake:
    """An actor that never lived: graphs are planned without asking anybody."""

    def __init__(self, name: str) -> None:
        self._facts = ActorFacts(
            name, "session", 0, 0, 0, name, (MethodRow("work"), MethodRow("pair", n_returns=2))
        )

    @property
    def work(self) -> ActorMethod:
        return ActorMethod(self._facts, 0, None)

    @property
    def pair(self) -> ActorMethod:
        return ActorMethod(self._facts, 1, None)


A, B, C = Fake("A"), Fake("B"), Fake("C")


@remote
def task(*args: Any) -> Any:
    return args


def lines_of(made: Plan) -> list[tuple[str, int, list[int]]]:
    return [(line.what, line.writer, line.readers) for line in made.lines]


# ---- order


def test_the_order_is_that_of_the_binds() -> None:
    with InputNode() as inp:
        first = A.work.bind(inp)
        second = A.work.bind(inp)
        third = B.work.bind(second, [first])
    assert in_order(third) == [inp, first, second, third]


def test_arguments_that_were_changed_later_are_seen() -> None:
    later: list[Any] = []
    with InputNode() as inp:
        first = A.work.bind(later)
        second = B.work.bind(inp)
    later.append(second)
    assert in_order(first) == [inp, second, first]


def test_a_cycle_is_named() -> None:
    around: list[Any] = []
    with InputNode() as inp:
        first = A.work.bind(inp, around)
        second = B.work.bind(first)
    around.append(second)
    with pytest.raises(errors.GraphError, match=r"a cycle: A\.work <- B\.work <- A\.work"):
        in_order(second)
    first._bound_args = (first,)
    with pytest.raises(errors.GraphError, match=r"A\.work <- A\.work"):
        second.execute(1)


def test_a_list_that_contains_itself_is_no_graph_without_end() -> None:
    odd: list[Any] = [1]
    odd.append(odd)
    assert in_order(task.bind(odd))[-1].label == "task"


def test_two_inputs_are_too_many() -> None:
    with InputNode() as one, InputNode() as other:
        graph = A.work.bind(one, other)
    for use in (graph.compile, lambda: graph.execute(1)):
        with pytest.raises(errors.GraphError, match="2 inputs"):
            use()


# ---- inputs


def uses(make: Any) -> Uses:
    with InputNode() as inp:
        return Uses(in_order(make(inp)))


@pytest.mark.parametrize(
    ("make", "args", "kwargs", "picked"),
    [
        (A.work.bind, (7,), {}, (7,)),
        (lambda i: A.work.bind(i[0], i[1]), (7, 8), {}, (7, 8)),
        (lambda i: A.work.bind(i[0], i.x), (7,), {"x": 8}, (7, 8)),
        (lambda i: A.work.bind(i["x"]), (), {"x": 8}, (8,)),
        (lambda i: A.work.bind(i[0]), ([7],), {}, ([7],)),
        (lambda i: A.work.bind(i[0], i[1]), ([7, 8],), {}, (7, 8)),
        (lambda i: A.work.bind(i.x), ({"x": 8},), {}, (8,)),
        (lambda i: A.work.bind(i.real), (3,), {}, (3,)),
        (lambda i: A.work.bind(i, i.real), (3,), {}, (3, 3)),
        (lambda i: A.work.bind(A), (), {}, ()),
    ],
)
def test_what_execute_is_given_is_matched(make: Any, args: Any, kwargs: Any, picked: Any) -> None:
    assert uses(make).pick(args, kwargs) == picked


@pytest.mark.parametrize(
    ("make", "args", "kwargs", "text"),
    [
        (A.work.bind, (), {}, "exactly one object"),
        (A.work.bind, (1, 2), {}, "exactly one object"),
        (A.work.bind, (), {"x": 1}, "exactly one object"),
        (lambda i: A.work.bind(i[0], i.x), (1,), {}, r"call execute\(<0>, x=\)"),
        (lambda i: A.work.bind(i[0], i.x), (1, 2), {"x": 2}, r"call execute\(<0>, x=\)"),
        (lambda i: A.work.bind(i.x), (), {}, "x is missing"),
        (lambda i: A.work.bind(i.x), (), {"x": 1, "y": 2}, "not y"),
        (lambda i: A.work.bind(i.x), ({"y": 1},), {}, "no such part"),
        (lambda i: A.work.bind(i[0], i[1]), (5,), {}, "of type int"),
        (lambda i: A.work.bind(1), (5,), {}, "takes no arguments"),
    ],
)
def test_wrong_arguments_of_execute_say_what_is_right(
    make: Any, args: Any, kwargs: Any, text: str
) -> None:
    with pytest.raises(errors.GraphError, match=text):
        uses(make).pick(args, kwargs)


@pytest.mark.parametrize("key", [-1, 1.5, True, None])
def test_parts_of_the_input_are_positions_and_names(key: Any) -> None:
    with pytest.raises(errors.GraphError, match="parts of the input"), InputNode() as inp:
        inp[key]


# ---- plans


def test_a_value_has_one_channel_with_all_its_readers() -> None:
    with InputNode() as inp:
        first = A.work.bind(inp)
        made = plan(MultiOutputNode([B.work.bind(first), C.work.bind(first, inp), first]))
    assert lines_of(made) == [
        ("input", DRIVER, [0, 2]),
        ("A.work", 0, [1, 2, DRIVER]),
        ("B.work", 1, [DRIVER]),
        ("C.work", 2, [DRIVER]),
    ]
    assert made.reads == [(2, 0), (3, 0), (1, 2)]
    assert made.outputs == [(0, None), (1, None), (2, None)]


def test_what_stays_in_its_actor_has_no_channel() -> None:
    with InputNode() as inp:
        made = plan(A.work.bind(A.work.bind(A.work.bind(inp)), inp))
    assert lines_of(made) == [("input", DRIVER, [0]), ("A.work", 0, [DRIVER])]
    (part,) = made.parts
    assert [(step.args, step.place, step.line) for step in part.steps] == [
        ([Place(0)], 1, None),
        ([Place(1)], 2, None),
        ([Place(2), Place(0)], None, 1),
    ]
    assert [step.last_uses for step in part.steps] == [[], [1], [0, 2]]


def test_an_actor_that_needs_nothing_reads_the_input_as_a_clock() -> None:
    with InputNode() as inp:
        made = plan(A.work.bind(B.work.bind(1), A.work.bind(2), inp))
    assert lines_of(made)[0] == ("input", DRIVER, [0, 1])
    for part in made.parts:
        assert part.steps[0].reads and part.steps[0].reads[0].line == 0


def test_parts_of_the_input_travel_together() -> None:
    with InputNode() as inp:
        made = plan(A.work.bind([inp[1], {"x": inp.y}], inp[0], b=inp.y))
    step = made.parts[0].steps[0]
    assert made.uses.keys == (1, "y", 0) or set(made.uses.keys) == {0, 1, "y"}
    where = {key: Place(0, index) for index, key in enumerate(made.uses.keys)}
    assert step.args == [Nested([where[1], {"x": where["y"]}]), where[0]]
    assert step.kwargs == {"b": where["y"]}


def test_values_of_one_call_are_parts_of_one_channel() -> None:
    with InputNode() as inp:
        one, two = A.pair.bind(inp)
        made = plan(MultiOutputNode([two, B.work.bind(one), one]))
    assert lines_of(made)[1] == ("A.pair", 0, [1, DRIVER])
    assert made.outputs == [(0, 1), (1, None), (0, 0)]
    assert made.parts[1].steps[0].args == [Place(0, 0)]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (task.bind, NotImplementedError, "task is a task"),
        (remote(dict).bind().get.bind, NotImplementedError, "with dict.remote"),
        (lambda i: remote(dict).bind(i), NotImplementedError, "dict was bound as a class"),
        (lambda i: A.work.bind(1), ValueError, "no InputNode"),
        (lambda i: i, ValueError, "not input"),
        (lambda i: i[0], ValueError, r"not input\[0\]"),
        (lambda i: MultiOutputNode([A.work.bind(i), i]), ValueError, "not input"),
        (lambda i: A.work.bind(MultiOutputNode([A.work.bind(i)])), ValueError, "end of a graph"),
    ],
)
def test_what_can_not_be_compiled(make: Any, error: type[Exception], text: str) -> None:
    with InputNode() as inp:
        graph = make(inp)
    with pytest.raises(error, match=text) as raised:
        graph.compile()
    assert isinstance(raised.value, errors.UsageError)


def test_any_plan_can_run() -> None:
    """Random graphs: actors that follow their plans in any order end every execution."""
    rng = random.Random(5)
    for _ in range(60):
        actors = [Fake(f"actor{n}") for n in range(rng.randint(1, 4))]
        with InputNode() as inp:
            nodes: list[DAGNode] = [inp]
            for _ in range(rng.randint(1, 12)):
                needed = rng.sample(nodes, rng.randint(0, min(3, len(nodes))))
                nodes.append(rng.choice(actors).work.bind(*needed))
            last = A.work.bind(*nodes[1:], inp)
        assert run_by_hand(plan(last), slots=1, executions=3, rng=rng) == 3


def run_by_hand(made: Plan, slots: int, executions: int, rng: random.Random) -> int:
    """Play actors and driver, one act at a time, in random order; executions that came out."""
    sent = [0] * len(made.lines)
    seen = [[0] * len(line.readers) for line in made.lines]

    def write(line: int) -> bool:
        if sent[line] - min(seen[line]) >= slots:
            return False
        sent[line] += 1
        return True

    def read(line: int, reader: int) -> bool:
        if seen[line][reader] >= sent[line]:
            return False
        seen[line][reader] += 1
        return True

    programs = [[(write, (0,))], [(read, at) for at in made.reads]]
    for part in made.parts:
        acts: list[Any] = []
        for step in part.steps:
            acts += [(read, (r.line, r.reader)) for r in step.reads]
            acts += [(write, (step.line,))] if step.line is not None else []
        programs.append(acts)
    done = [0] * len(programs)
    while done[1] < executions * len(programs[1]):
        ready = list(range(len(programs)))
        rng.shuffle(ready)
        for who in ready:
            if done[who] >= executions * len(programs[who]):
                continue
            act, given = programs[who][done[who] % len(programs[who])]
            if act(*given):
                done[who] += 1
                break
        else:
            raise AssertionError("nobody can go on")
    return done[1] // len(programs[1])


# ---- binding


def test_bind_says_what_it_made() -> None:
    cls = remote(dict)
    node = cls.options(name="d").bind(a=1)
    call = node.get.options(name="x").bind("a")
    function = task.options(num_cpus=2).bind(1, b=2)
    assert node.get_kwargs() == {"a": 1} and node.get_options() == {"name": "d"}
    assert (call.get_method_name(), call.get_args(), call.label) == ("get", ("a",), "dict.get")
    assert function.get_options()["num_cpus"] == 2 and function.get_kwargs() == {"b": 2}
    assert call.is_class_method_call and not call.is_class_method_output
    part = A.pair.bind(1)[1]
    assert (part.num_returns, part.output_idx, part.label) == (2, 1, "A.pair[1]")
    assert repr(function) == "<FunctionNode task>"
    with pytest.raises(AttributeError, match="its methods: clear, copy"):
        node.missing.bind()
    with pytest.raises(AttributeError):
        function.bind(1)


@pytest.mark.parametrize("wrong", [[], [1], [task]])
def test_outputs_are_nodes(wrong: Any) -> None:
    with pytest.raises(errors.GraphError, match="MultiOutputNode"):
        MultiOutputNode(wrong)


def test_nodes_do_not_travel_and_are_no_lists() -> None:
    with pytest.raises(errors.GraphError, match="can not travel"):
        cloudpickle.dumps({"node": task.bind(1)})
    with pytest.raises(TypeError, match="one value"):
        list(task.bind(1))
    with pytest.raises(errors.GraphError, match="no fixed number"):
        ActorMethod(A._facts, 0, None, {"num_returns": "streaming"}).bind(1)
    assert task.bind(1).with_tensor_transport("shm").label == "task"
    with pytest.raises(errors.NotSupportedError, match="nccl"):
        task.bind(1).with_tensor_transport("nccl")


@pytest.mark.parametrize(
    "given",
    [
        {"buffer_size_bytes": 0},
        {"buffer_size_bytes": "1"},
        {"max_inflight_executions": -1},
        {"max_inflight_executions": True},
        {"enable_asyncio": 1},
        {"submit_timeout_s": -1},
        {"submit_timeout_s": "x"},
    ],
)
def test_options_of_compile_are_checked(given: dict[str, Any]) -> None:
    with InputNode() as inp:
        graph = A.work.bind(inp)
    with pytest.raises(errors.OptionError, match=next(iter(given))):
        graph.compile(**given)


# ---- what is in flight


def test_in_flight_is_what_nobody_took() -> None:
    line = Pipeline(2, most=2)
    first, second = line.begin(), line.begin()
    assert not line.has_room()
    line.drop((first, 1))
    assert not line.has_room() and not line.is_next_unwanted()
    line.drop((first, 2))
    assert not line.has_room() and line.is_next_unwanted()
    line.has_read(["a", "b"])
    assert line.has_room() and line.in_flight == 1
    line.has_read(["c", "d"])
    assert line.take(second, 1) == ["c", "d"]
    with pytest.raises(errors.GraphError, match="taken already"):
        line.take(second, 1)
    line.drop((second, 2))
    assert line.has_room() and line.in_flight == 0
    line.validate()


def test_in_flight_agrees_with_a_naive_account() -> None:
    rng = random.Random(11)
    for n_outputs in (1, 2, 3):
        line = Pipeline(n_outputs, most=4)
        left: dict[int, set[int]] = {}
        for _ in range(600):
            what = rng.choice(["begin", "read", "take", "drop"])
            unread = range(line.next_read, line.begun)
            open_ones = [number for number, bits in left.items() if bits]
            if what == "begin" and line.has_room():
                left[line.begin()] = set(range(n_outputs))
            elif what == "read" and unread:
                line.has_read([line.next_read])
            elif what in ("take", "drop") and open_ones:
                number = rng.choice(open_ones)
                output = rng.choice(sorted(left[number]))
                if what == "drop":
                    line.drop((number, 1 << output))
                elif not line.is_read(number):
                    continue
                else:
                    assert line.take(number, 1 << output) == [number]
                left[number].discard(output)
            line.has_room()
            line._sweep()
            expected = {n for n, bits in left.items() if bits or n >= line.next_read}
            assert line.in_flight == len(expected)
            line.validate()


# ---- pictures


def test_a_graph_is_drawn_as_text_svg_and_dot() -> None:
    with InputNode() as inp:
        graph = MultiOutputNode([B.work.bind(A.work.bind(inp[0])), task.bind("<&>", inp.name)])
    text = draw(graph)
    assert text.splitlines()[1].split() == [
        "[2]",
        "A.work",
        "actor",
        "A",
        "<-",
        "[1]",
        "input",
        "[0]",
    ]
    svg = draw(graph, format="svg")
    assert svg.startswith("<svg") and svg.count("<rect") == 6 and ">.name</text>" in svg
    dot = draw(graph, format="dot")
    assert dot.startswith("digraph") and dot.count("->") == 5
    with pytest.raises(errors.OptionError, match="format"):
        draw(graph, format="../x")


def test_graphviz_is_said_to_be_missing_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(ImportError, match="format='svg'"):
        draw(task.bind(1), format="png")
