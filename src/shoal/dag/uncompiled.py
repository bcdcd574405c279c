"""``execute`` of a graph that was not compiled: every call is made once, in order, nothing waits.

A node's result is a ref, an actor's handle, or a list of refs; it takes the node's place in the
arguments of what needs it. So a task gets values of refs that stand alone and refs that stand in
lists and dicts, as with calls that people write by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shoal._runtime.actor import ActorHandle
from shoal.dag.inputs import Uses
from shoal.dag.nodes import (
    ClassMethodNode,
    ClassNode,
    CollectiveNode,
    CollectiveOutputNode,
    DAGNode,
    FunctionNode,
    MultiOutputNode,
)
from shoal.dag.order import in_order
from shoal.dag.structure import replaced


def execute(root: DAGNode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Make the calls of the graph that ends in ``root``; the result of ``root``."""
    nodes = in_order(root)
    results = Uses(nodes).values(args, kwargs)
    for node in nodes:
        if node not in results and not _is_input(node):
            results[node] = _made(node, results)
    return results[root]


def _is_input(node: DAGNode) -> bool:
    """Whether it is a part of the input that only parts are taken of."""
    calls = FunctionNode | ClassNode | ClassMethodNode | MultiOutputNode | CollectiveNode
    return not isinstance(node, calls)


def _made(node: DAGNode, results: Mapping[DAGNode, Any]) -> Any:
    take = results.__getitem__
    args = [replaced(arg, DAGNode, take) for arg in node._bound_args]
    kwargs = {name: replaced(arg, DAGNode, take) for name, arg in node._bound_kwargs.items()}
    if isinstance(node, MultiOutputNode):
        return args
    if isinstance(node, ClassMethodNode) and node.part is not None:
        return results[node.call][node.part]
    if isinstance(node, CollectiveNode):
        return node.operation.begin([_actor_of(out, results) for out in node.outputs], args)
    if isinstance(node, CollectiveOutputNode):
        return results[node.whole][node.rank]
    return _call_of(node, results)(*args, **kwargs)


def _actor_of(node: ClassMethodNode, results: Mapping[DAGNode, Any]) -> Any:
    """The handle of the actor whose call it is."""
    if isinstance(node.owner, ClassNode):
        return results[node.owner]
    assert not isinstance(node.owner, ClassMethodNode)
    return ActorHandle(node.owner._facts, node.owner._lifetime)


def _call_of(node: DAGNode, results: Mapping[DAGNode, Any]) -> Callable[..., Any]:
    if isinstance(node, FunctionNode):
        return node.function.remote
    if isinstance(node, ClassNode):
        return node.cls.remote
    assert isinstance(node, ClassMethodNode)
    if not isinstance(node.owner, ClassNode):
        assert not isinstance(node.owner, ClassMethodNode)
        return node.owner.remote
    method = getattr(results[node.owner], node.name)
    call: Callable[..., Any] = method.options(**node.given).remote if node.given else method.remote
    return call
