"""What a compiled graph consists of: channels, and what each actor does, in order. Pure.

::

    graph                          plan

    inp --> a.f --> b.g --> out    channel 0: driver -> a            (the input)
             |                     channel 1: a -> b                 (what a.f returns)
             +----> a.h --> out    channel 2: b -> driver
                                   channel 3: a -> driver
                                   a: read 0, f, write 1, h, write 3
                                   b: read 1, g, write 2

Rules:

1. A value has one channel, however many actors and outputs need it: each is one reader of it. A
   value that only its own actor needs has none; it stays where it is.
2. An actor runs its methods in the order of the whole graph (``order``) and reads a channel just
   before the first method that needs it. So it never waits for something that waits for it.
3. Per execution each channel has one message. So the n-th message of every channel belongs to the
   n-th execution, and nothing has to be numbered.
4. An actor's first act in each execution is to read. One that would need nothing reads the input
   as a clock: no method runs before ``execute`` asked for it.
5. An operation of several actors is one node in the order of the graph, and a step in each actor
   that takes part, whether somebody needs its result or not.
6. A value stands in a *place* of its actor; arguments are places (``Place``), have some inside
   (``Nested``), or are constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from shoal import errors
from shoal._runtime.actor_method import ActorFacts, ActorMethod
from shoal.dag.inputs import Uses
from shoal.dag.nodes import (
    ClassMethodNode,
    ClassNode,
    CollectiveNode,
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
)
from shoal.dag.order import in_order
from shoal.dag.structure import found_in, replaced

DRIVER = -1
"""The place of an actor's number, for who compiled the graph."""


@dataclass(frozen=True)
class Place:
    """An argument that is a value of this execution, or a part of one."""

    index: int
    part: int | None = None


@dataclass(frozen=True)
class Nested:
    """An argument that has places inside."""

    value: Any


@dataclass
class Line:
    """One channel of the plan."""

    what: str
    """The value in it, for people."""
    writer: int
    readers: list[int] = field(default_factory=list)
    """Actors by number, or ``DRIVER``; the position is the reader's number in the channel."""


@dataclass(frozen=True)
class Read:
    """Read a channel into a place."""

    line: int
    reader: int
    place: int


@dataclass(frozen=True)
class Meeting:
    """A step that several actors make together."""

    number: int
    """Of the operation in the plan."""
    rank: int
    """Which of them this one is."""


@dataclass
class Step:
    """One method of one actor, once per execution."""

    method: str
    label: str
    args: list[Any]
    kwargs: dict[str, Any]
    reads: list[Read] = field(default_factory=list)
    """What is read before it."""
    needs: list[int] = field(default_factory=list)
    """The places that its arguments name."""
    place: int | None = None
    """Where its value stands, if a later method of this actor needs it."""
    line: int | None = None
    """The channel that it writes."""
    parts: int = 1
    """How many values it returns."""
    last_uses: list[int] = field(default_factory=list)
    """Places that nothing needs after it."""
    meeting: Meeting | None = None
    """It is no method, but an actor's part of an operation."""


@dataclass
class Part:
    """What one actor does in each execution."""

    actor: ActorMethod
    """Any of its methods: it holds the actor."""
    steps: list[Step] = field(default_factory=list)
    places: int = 0

    @property
    def facts(self) -> ActorFacts:
        """What is known of the actor."""
        return self.actor._facts


@dataclass
class Plan:
    """A compiled graph."""

    nodes: list[DAGNode]
    uses: Uses
    lines: list[Line]
    parts: list[Part]
    outputs: list[tuple[int, int | None]]
    """(which of the reads, part) of each output."""
    reads: list[tuple[int, int]]
    """(channel, reader's number) of what the driver reads for each execution, in order."""
    is_single: bool
    """One output, not a list of them."""
    meetings: list[CollectiveNode] = field(default_factory=list)
    """The operations of several actors."""


def plan(root: DAGNode) -> Plan:
    """The plan of the graph that ends in ``root``.

    Raises:
        GraphError: it has no input, or an output that no method returns, or no order.
        NotSupportedError: it has tasks or actors that do not live yet.
    """
    nodes = in_order(root)
    uses = Uses(nodes)
    _check(nodes, uses, root)
    return _Planning(nodes, uses, root).plan


def _check(nodes: Sequence[DAGNode], uses: Uses, root: DAGNode) -> None:
    for node in nodes:
        if isinstance(node, FunctionNode):
            raise errors.NotSupportedError(
                f"a compiled graph runs methods of actors only, and {node.label} is a task. What"
                " to do: make it a method, or run the graph with execute() without compiling it"
            )
        if isinstance(node, ClassNode):
            raise errors.NotSupportedError(
                f"a compiled graph needs actors that live, and {node.label} was bound as a class."
                f" What to do: make the actor with {node.label}.remote(...) and bind its methods"
            )
        if isinstance(node, MultiOutputNode) and node is not root:
            raise errors.GraphError("MultiOutputNode can only be the end of a graph")
    outputs = root.needs() if isinstance(root, MultiOutputNode) else [root]
    for output in outputs:
        if not isinstance(output, ClassMethodNode):
            raise errors.GraphError(
                f"an output of a compiled graph is what a method returns, not {output.label}: who"
                " executes the graph has it already"
            )
    if uses.node is None:
        raise errors.GraphError(
            "the graph has no InputNode, so nothing says when it runs. What to do: with"
            " InputNode() as inp: ... method.bind(inp)"
        )


class _Planning:
    """Makes one plan."""

    def __init__(self, nodes: list[DAGNode], uses: Uses, root: DAGNode) -> None:
        self._uses = uses
        self._parts: dict[str, int] = {}
        """By the actor's id."""
        self._lines: dict[DAGNode, int] = {}
        """By the node whose value is in it."""
        self._places: dict[tuple[int, DAGNode], int] = {}
        outputs = list(root._bound_args) if isinstance(root, MultiOutputNode) else [root]
        self.plan = Plan(nodes, uses, [], [], [], [], not isinstance(root, MultiOutputNode))
        assert uses.node is not None
        self._line_of(uses.node)
        self._steps: dict[DAGNode, tuple[int, Step]] = {}
        self._last: dict[tuple[int, int], Step] = {}
        """By actor and place: the last method that needs it."""
        for node in nodes:
            if isinstance(node, CollectiveNode):
                self._add_meeting(node)
            elif self._is_call(node):
                self._add_step(node)
        for output in outputs:
            assert isinstance(output, ClassMethodNode)  # _check has looked
            self._add_output(output)
        for (number, place), step in self._last.items():
            step.last_uses.append(place)
            assert 0 <= place < self.plan.parts[number].places

    def _line_of(self, node: DAGNode) -> int:
        """The channel of a node's value."""
        found = self._lines.get(node)
        if found is None:
            found = self._lines[node] = len(self.plan.lines)
            writer = DRIVER
            if not isinstance(node, InputNode):
                writer, step = self._steps[node]
                step.line = found
            self.plan.lines.append(Line(node.label, writer))
        return found

    def _part_of(self, method: ActorMethod) -> int:
        known = self._parts.setdefault(method._facts.actor_id, len(self.plan.parts))
        if known == len(self.plan.parts):
            self.plan.parts.append(Part(method))
        return known

    def _is_call(self, node: DAGNode) -> TypeGuard[ClassMethodNode]:
        """Whether it is a call of a method, and not an actor's part of an operation."""
        is_call = isinstance(node, ClassMethodNode) and node.is_class_method_call
        return is_call and node not in self._steps

    def _add_meeting(self, node: CollectiveNode) -> None:
        number = len(self.plan.meetings)
        self.plan.meetings.append(node)
        for output in node.outputs:
            self._add_step(output)
            self._steps[output][1].meeting = Meeting(number, output.rank)

    def _add_step(self, node: ClassMethodNode) -> None:
        assert isinstance(node.owner, ActorMethod)
        number = self._part_of(node.owner)
        part = self.plan.parts[number]
        step = Step(node.name, node.label, [], {}, parts=node.parts)
        self._steps[node] = number, step

        def place(needed: DAGNode) -> Place:
            return self._place(number, step, needed)

        if not part.steps and not any(self._travels(number, n) for n in _args_in(node)):
            self._read(number, step, self._clock)

        def argument(bound: Any) -> Any:
            here = replaced(bound, DAGNode, place)
            return here if here is bound or type(here) is Place else Nested(here)

        step.args = [argument(bound) for bound in node._bound_args]
        step.kwargs = {name: argument(bound) for name, bound in node._bound_kwargs.items()}
        part.steps.append(step)

    @property
    def _clock(self) -> DAGNode:
        assert self._uses.node is not None
        return self._uses.node

    def _source(self, needed: DAGNode) -> DAGNode:
        """Whose value it is, or is a part of."""
        if isinstance(needed, InputAttributeNode):
            return needed.whole
        return needed.call if isinstance(needed, ClassMethodNode) else needed

    def _travels(self, number: int, needed: DAGNode) -> bool:
        source = self._source(needed)
        return isinstance(source, InputNode) or self._steps[source][0] != number

    def _place(self, number: int, step: Step, needed: DAGNode) -> Place:
        """Where the actor has a value that one of its methods needs."""
        source = self._source(needed)
        if self._travels(number, needed):
            at = self._read(number, step, source)
        else:
            producer = self._steps[source][1]
            if producer.place is None:
                producer.place = self._new_place(number)
            at = producer.place
        if at not in step.needs:
            step.needs.append(at)
        self._last[number, at] = step
        return Place(at, self._index_in(needed))

    def _index_in(self, needed: DAGNode) -> int | None:
        """Which part of its source a node is."""
        if isinstance(needed, ClassMethodNode):
            return needed.part
        uses = self._uses
        if uses.is_plain:
            return None
        if isinstance(needed, InputAttributeNode):
            return uses.keys.index(needed.key) + (1 if uses.is_whole else 0)
        return 0

    def _read(self, number: int, step: Step, source: DAGNode) -> int:
        """The place of a value that comes through a channel; read before its first use."""
        found = self._places.get((number, source))
        if found is None:
            found = self._places[number, source] = self._new_place(number)
            index = self._line_of(source)
            line = self.plan.lines[index]
            step.reads.append(Read(index, len(line.readers), found))
            line.readers.append(number)
            self._last[number, found] = step
        return found

    def _new_place(self, number: int) -> int:
        part = self.plan.parts[number]
        part.places += 1
        return part.places - 1

    def _add_output(self, output: ClassMethodNode) -> None:
        index = self._line_of(output.call)
        line = self.plan.lines[index]
        if DRIVER not in line.readers:
            line.readers.append(DRIVER)
        read = (index, line.readers.index(DRIVER))
        if read not in self.plan.reads:
            self.plan.reads.append(read)
        self.plan.outputs.append((self.plan.reads.index(read), output.part))


def _args_in(node: DAGNode) -> list[DAGNode]:
    return [*found_in(node._bound_args, DAGNode), *found_in(node._bound_kwargs, DAGNode)]
