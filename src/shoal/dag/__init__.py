"""Graphs: calls that are described first and made later, once or a million times.

::

    with InputNode() as inp:
        graph = second.work.bind(first.work.bind(inp))      # describes, does nothing

    ref = graph.execute(x)              # makes the calls: tasks and calls of actors
    compiled = graph.compile()          # actors wait for input in a loop each
    ref = compiled.execute(x)           # one message into shared memory

In reading order:

===============  ===================================================================================
``nodes``        what ``bind`` makes, and the input
``order``        in which order calls can be made; cycles                                   (pure)
``inputs``       what ``execute`` is given, matched with what the graph uses                (pure)
``uncompiled``   ``execute``: the calls are made in that order
``plan``         which channels a compiled graph has, who reads and writes them, and what
                 each actor does in which order                                             (pure)
``loop``         the actor's side of a compiled graph
``compiled``     the driver's side: ``CompiledDAG``
``pipeline``     what is in flight: which results were read, taken, dropped                   (pure)
``readers``      threads take turns in reading, and are told what has come
``results``      results are read, and the graph ends with a reason
``refs``         ``CompiledDAGRef`` for ``get``, ``CompiledDAGFuture`` for ``await``
``collective``   operations of several actors in a graph: ``allreduce`` and the like (needs NumPy)
``drawing``      graphs as text, SVG and DOT
===============  ===================================================================================

Everything is built on the public API and ``shoal.lowlevel`` (channels, background calls).
"""

from shoal.dag.compiled import CompiledDAG
from shoal.dag.drawing import draw
from shoal.dag.nodes import (
    ClassMethodNode,
    ClassNode,
    CollectiveOutputNode,
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
)
from shoal.dag.refs import CompiledDAGFuture, CompiledDAGRef

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "CollectiveOutputNode",
    "CompiledDAG",
    "CompiledDAGFuture",
    "CompiledDAGRef",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
    "draw",
]
