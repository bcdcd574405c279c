"""The nodes of a graph: what ``bind`` makes, and the input of the whole.

A node is one call that has not been made: a function, class or method, and its arguments, in which
other nodes may stand (also inside lists, tuples and dicts). It is a description and does nothing
by itself; ``execute`` and ``compile`` read it.

::

    fn.bind(x)             FunctionNode        a task
    Cls.bind(x)            ClassNode           an actor that each ``execute`` makes
    node.method.bind(x)    ClassMethodNode     a call of that actor, in the order of the binds
    handle.method.bind(x)  ClassMethodNode     a call of an actor that lives
    InputNode()            InputNode           what ``execute`` is given
    inp[0], inp.name       InputAttributeNode  a part of it
    MultiOutputNode([..])  MultiOutputNode     several results
    allreduce.bind([..])   CollectiveOutputNode  one of each actor, of one CollectiveNode

Invariants:

1. ``number`` grows with each ``bind``. A node is bound after what stands in its arguments, so order
   by number is an order in which everything can run (unless arguments were changed afterwards:
   ``order`` looks).
2. Nodes do not travel: their arguments are taken out of them first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal import errors
from shoal._runtime import streams
from shoal._runtime.actor import ActorClass
from shoal._runtime.actor_method import ActorMethod
from shoal._runtime.remote import RemoteFunction
from shoal.dag.structure import found_in

if TYPE_CHECKING:
    from shoal.dag.compiled import CompiledDAG

_numbers = itertools.count(1)


class DAGNode:
    """One call that has not been made."""

    def __init__(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self._bound_args = tuple(args)
        self._bound_kwargs = dict(kwargs or {})
        self.number = next(_numbers)

    def get_args(self) -> tuple[Any, ...]:
        """The positional arguments that were bound."""
        return self._bound_args

    def get_kwargs(self) -> dict[str, Any]:
        """The named arguments that were bound."""
        return dict(self._bound_kwargs)

    def get_options(self) -> dict[str, Any]:
        """The options of what is called."""
        return {}

    @property
    def label(self) -> str:
        """What people call it, for errors and pictures."""
        return type(self).__name__

    def needs(self) -> Iterator[DAGNode]:
        """The nodes that must have run before this one."""
        yield from found_in(self._bound_args, DAGNode)
        yield from found_in(self._bound_kwargs, DAGNode)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Make all calls of the graph that ends here, as tasks and calls of actors.

        Args:
            args: What ``inp[0]``, ``inp[1]`` ... stand for; one alone is ``inp`` itself.
            kwargs: What ``inp.name`` stands for.

        Returns:
            What the last call returns: a ref, an actor's handle for a class, a list of them for
            ``MultiOutputNode``. Nothing is waited for.

        Raises:
            GraphError: the graph has a cycle or several inputs, or it needs other arguments.

        Example:
            >>> @shoal.remote
            ... def square(x):
            ...     return x * x
            >>> with shoal.dag.InputNode() as inp:
            ...     graph = square.bind(square.bind(inp))
            >>> shoal.get(graph.execute(3))
            81
        """
        from shoal.dag import uncompiled

        return uncompiled.execute(self, args, kwargs)

    def compile(
        self,
        *,
        buffer_size_bytes: int | None = None,
        max_inflight_executions: int | None = None,
        enable_asyncio: bool = False,
        submit_timeout_s: float | None = None,
    ) -> CompiledDAG:
        """Prepare the graph to be run many times: its actors wait for input in a loop each.

        Only methods of living actors may stand in it. Values travel through channels in shared
        memory that are made here, once; no call is submitted any more.

        Args:
            buffer_size_bytes: The largest value that travels (default 1 MiB).
            max_inflight_executions: How many executions may have results that nobody took (default
                10).
            enable_asyncio: ``execute_async`` instead of ``execute``.
            submit_timeout_s: Seconds that ``execute`` waits at most for the first actors to take
                the last input (default: as long as it takes).

        Raises:
            GraphError: the graph can not be compiled; the text says what to do.
            NotSupportedError: it has tasks, or actors that it would have to make.
            ActorDiedError: an actor of it is dead.

        Example:
            >>> @shoal.remote
            ... class Doubler:
            ...     def double(self, x):
            ...         return 2 * x
            >>> first, second = Doubler.remote(), Doubler.remote()
            >>> with shoal.dag.InputNode() as inp:
            ...     graph = second.double.bind(first.double.bind(inp))
            >>> with graph.compile() as compiled:
            ...     shoal.get([compiled.execute(i) for i in range(3)])
            [0, 4, 8]
        """
        from shoal.dag import compiled

        options = compiled.Options.checked(
            buffer_size_bytes, max_inflight_executions, enable_asyncio, submit_timeout_s
        )
        return compiled.compile(self, options)

    def experimental_compile(
        self,
        _submit_timeout: float | None = None,
        _buffer_size_bytes: int | None = None,
        enable_asyncio: bool = False,
        _max_inflight_executions: int | None = None,
        _max_buffered_results: int | None = None,
        _overlap_gpu_communication: bool | None = None,
        _default_communicator: Any = "create",
    ) -> CompiledDAG:
        """``compile`` under the name and with the options that it has in Ray.

        ``_max_buffered_results`` changes nothing: what is in flight is limited already, buffered
        results with it. Nothing travels between GPUs, so the last two change nothing either.
        """
        most = _max_inflight_executions
        timeout_s = None if _submit_timeout is not None and _submit_timeout < 0 else _submit_timeout
        return self.compile(
            buffer_size_bytes=_buffer_size_bytes,
            max_inflight_executions=most,
            enable_asyncio=enable_asyncio,
            submit_timeout_s=timeout_s,
        )

    def visualize(self, format: str = "ascii", filename: str | None = None) -> str:
        """Draw the graph; see ``shoal.dag.draw``."""
        from shoal.dag import drawing

        return drawing.draw(self, format=format, filename=filename)

    def with_tensor_transport(self, transport: str = "auto", **given: Any) -> DAGNode:
        """Say how tensors of this node travel: through shared memory, whatever is asked.

        Raises:
            NotSupportedError: it names a way between GPUs.
        """
        if transport not in ("auto", "shm") or given:
            raise errors.NotSupportedError(
                f"with_tensor_transport({transport!r}): tensors travel through shared memory."
                " What to do: leave it out, or say 'auto'"
            )
        return self

    def __reduce__(self) -> Any:
        raise errors.GraphError(
            f"{self.label} is a node of a graph and can not travel; it may stand in the arguments"
            " of bind, also in lists, tuples and dicts, but in no other object. What to do: bind"
            " the node itself, or call execute() on it and pass the ref"
        )

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self.label} is one value; num_returns=2 gives a method two")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"


# ---- the input ----------------------------------------------------------------------------------


class InputNode(DAGNode):
    """What ``execute`` is given.

    Example:
        >>> @shoal.remote
        ... def add(a, b):
        ...     return a + b
        >>> with shoal.dag.InputNode() as inp:
        ...     graph = add.bind(inp[0], inp.more)
        >>> shoal.get(graph.execute(1, more=2))
        3
    """

    def __init__(self, *, input_type: Any = None) -> None:
        super().__init__()
        self._input_type = input_type
        self._parts: dict[int | str, InputAttributeNode] = {}

    @property
    def label(self) -> str:
        """What people call it."""
        return "input"

    def __enter__(self) -> InputNode:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        is_right = isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool))
        if not is_right or (isinstance(key, int) and key < 0):
            raise errors.GraphError(
                f"inp[{key!r}]: parts of the input are inp[0], inp[1] ... for positional and"
                " inp.name or inp['name'] for named arguments of execute"
            )
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = InputAttributeNode(self, key)
        return part

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]


class InputAttributeNode(DAGNode):
    """One part of the input: ``inp[0]``, ``inp.name`` or ``inp["name"]``."""

    def __init__(self, whole: InputNode, key: int | str) -> None:
        super().__init__()
        self.whole = whole
        self.key = key

    @property
    def label(self) -> str:
        """What people call it."""
        return f"input[{self.key}]" if isinstance(self.key, int) else f"input.{self.key}"

    def needs(self) -> Iterator[DAGNode]:
        """The input."""
        yield self.whole


# ---- calls --------------------------------------------------------------------------------------


class FunctionNode(DAGNode):
    """A call of a remote function."""

    def __init__(
        self, function: RemoteFunction[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__(args, kwargs)
        self.function = function

    @property
    def label(self) -> str:
        """Name of the function."""
        name: str = getattr(self.function, "__name__", "task")
        return name

    def get_options(self) -> dict[str, Any]:
        """The options of the function."""
        return dict(self.function._given)


class ClassNode(DAGNode):
    """An actor that each ``execute`` makes; its methods are bound to this node."""

    def __init__(
        self, cls: ActorClass[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__(args, kwargs)
        self.cls = cls
        self._last: ClassMethodNode | None = None
        """The method that was bound last: the next one runs after it."""

    @property
    def label(self) -> str:
        """Name of the class."""
        name: str = self.cls.__name__
        return name

    def get_options(self) -> dict[str, Any]:
        """The options of the class."""
        return dict(self.cls._given)

    def __getattr__(self, name: str) -> BindableMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        names = [row.name for row in self.cls._rows]
        if name not in names:
            known = ", ".join(row for row in names if not row.startswith("_"))
            raise AttributeError(
                f"method {name!r} of {self.label} does not exist; its methods: {known}"
            )
        return BindableMethod(self, name, {})


class BindableMethod:
    """A method of a class that is bound: ``node.method.bind(...)``."""

    def __init__(self, node: ClassNode, name: str, given: Mapping[str, Any]) -> None:
        self._node = node
        self._name = name
        self._given = dict(given)

    def options(self, **given: Any) -> BindableMethod:
        """The same method with other options."""
        return BindableMethod(self._node, self._name, self._given | given)

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """A call of it; as many nodes as it has returns."""
        rows = {row.name: row for row in self._node.cls._rows}
        returns = self._given.get("num_returns", rows[self._name].n_returns)
        node = ClassMethodNode(self._node, self._name, args, kwargs, self._given)
        node.previous = self._node._last
        self._node._last = node
        return parts_of(node, streams.returns_number(returns))


class ClassMethodNode(DAGNode):
    """A call of an actor's method, or one of several values that such a call returns."""

    previous: ClassMethodNode | None = None
    """The call of the same bound class that runs before this one."""
    part: int | None = None
    """Which of the values; None for a call."""
    parts = 1

    def __init__(
        self,
        owner: ClassNode | ActorMethod | ClassMethodNode,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(args, kwargs)
        self.owner = owner
        self.name = name
        self.given = dict(given or {})

    @property
    def label(self) -> str:
        """Class and method."""
        if isinstance(self.owner, ClassMethodNode):
            return f"{self.owner.label}[{self.part}]"
        if isinstance(self.owner, ClassNode):
            return f"{self.owner.label}.{self.name}"
        return f"{self.owner._facts.class_name}.{self.name}"

    def get_options(self) -> dict[str, Any]:
        """The options of the call."""
        return dict(self.given)

    def get_method_name(self) -> str:
        """Name of the method."""
        return self.name

    @property
    def call(self) -> ClassMethodNode:
        """The call that this is, or that this is a value of."""
        return self.owner if isinstance(self.owner, ClassMethodNode) else self

    @property
    def is_class_method_call(self) -> bool:
        """Whether it is a call."""
        return self.part is None

    @property
    def is_class_method_output(self) -> bool:
        """Whether it is one of several values of a call."""
        return self.part is not None

    @property
    def num_returns(self) -> int:
        """How many values the call has."""
        return self.parts

    @property
    def output_idx(self) -> int | None:
        """Which of them this is."""
        return self.part

    def needs(self) -> Iterator[DAGNode]:
        """Its arguments, and the actor with its calls before this one."""
        yield from super().needs()
        if isinstance(self.owner, DAGNode):
            yield self.owner
        if self.previous is not None:
            yield self.previous


def parts_of(node: ClassMethodNode, n_returns: int) -> Any:
    """The node of a call, or the nodes of its values."""
    if n_returns == 1:
        return node
    if n_returns < 1:
        raise errors.GraphError(
            f"{node.label} has no fixed number of values (a generator, or num_returns=0), so it"
            " can not stand in a graph. What to do: return a value"
        )
    node.parts = n_returns
    out = []
    for index in range(n_returns):
        part = ClassMethodNode(node, node.name)
        part.part = index
        part.parts = n_returns
        out.append(part)
    return tuple(out)


# ---- calls of several actors at once ------------------------------------------------------------


class CollectiveNode(DAGNode):
    """One operation of several actors on arrays of theirs; ``collective`` makes it.

    It is one node in the order of the graph, so all actors come to their operations in one order,
    and none waits for another that waits for it.
    """

    def __init__(self, operation: Any, inputs: Sequence[Sequence[ClassMethodNode]]) -> None:
        super().__init__([list(row) for row in inputs])
        self.operation = operation
        """What runs in the actors; this module need not know."""
        self.outputs = [CollectiveOutputNode(self, rank, row) for rank, row in enumerate(inputs)]

    @property
    def label(self) -> str:
        """Name of the operation."""
        name: str = self.operation.name
        return name

    def needs(self) -> Iterator[DAGNode]:
        """What all ranks bring, and actors that the graph makes."""
        yield from super().needs()
        for output in self.outputs:
            if isinstance(output.owner, DAGNode):
                yield output.owner


class CollectiveOutputNode(ClassMethodNode):
    """What one actor has of an operation of several: a step of its own, of no method."""

    def __init__(self, whole: CollectiveNode, rank: int, inputs: Sequence[ClassMethodNode]) -> None:
        super().__init__(inputs[0].call.owner, whole.label, inputs)
        self.whole = whole
        self.rank = rank

    def needs(self) -> Iterator[DAGNode]:
        """The operation."""
        yield self.whole


class MultiOutputNode(DAGNode):
    """Several results of one graph.

    Args:
        args: The nodes.

    Example:
        >>> @shoal.remote
        ... def square(x):
        ...     return x * x
        >>> with shoal.dag.InputNode() as inp:
        ...     first = square.bind(inp)
        ...     graph = shoal.dag.MultiOutputNode([first, square.bind(first)])
        >>> shoal.get(graph.execute(5))
        [25, 625]
    """

    def __init__(self, args: DAGNode | Sequence[DAGNode]) -> None:
        listed = [args] if isinstance(args, DAGNode) else list(args)
        for item in listed:
            if not isinstance(item, DAGNode):
                raise errors.GraphError(
                    f"MultiOutputNode takes nodes, and there is a {type(item).__name__}: {item!r}"
                )
        if not listed:
            raise errors.GraphError("MultiOutputNode needs at least one node")
        super().__init__(listed)

    @property
    def label(self) -> str:
        """What people call it."""
        return "outputs"


def bind(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``target.bind(...)`` of remote functions, actor classes and methods of actors."""
    if isinstance(target, RemoteFunction):
        return FunctionNode(target, args, kwargs)
    if isinstance(target, ActorClass):
        return ClassNode(target, args, kwargs)
    assert isinstance(target, ActorMethod)
    name = target._facts.method_name(target._index)
    node = ClassMethodNode(target, name, args, kwargs, target._given)
    return parts_of(node, target._n_returns())
