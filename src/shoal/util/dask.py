"""A scheduler for Dask: graphs run as tasks, results stay in the store.

::

    from shoal.util.dask import shoal_dask_get

    array.sum().compute(scheduler=shoal_dask_get)

Each node of the graph that has something to do is one task; what it depends on are its arguments,
as refs, so a value goes from task to task through node memory and never through this process. The
whole graph is submitted at once, in the order that Dask recommends. Chains are one task each
(Dask's own fusion), aliases and small constants none.

Options of tasks come from annotations: ``dask.annotate(num_cpus=2)``, ``num_gpus``, ``memory``,
``resources={"disk": 1}``, ``retries=3``, ``remote_args={...}`` for any other.

``persist`` leaves the results in the store: the collection that it returns holds refs, its values
may still be on their way, and any scheduler of Dask can go on with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dask
import dask.base
import dask.local
from dask._task_spec import (
    Alias,
    DataNode,
    DependenciesMapping,
    GraphNode,
    Task,
    convert_legacy_graph,
    fuse_linear_task_spec,
)
from dask.callbacks import local_callbacks, unpack_callbacks
from dask.order import order

import shoal
from shoal.util.dask_callbacks import Hooks, ShoalDaskCallback

LARGE_BYTES = 100_000
"""Constants of at least this size are put into the store once, for all tasks that use them."""

SHUFFLE = "dataframe.shuffle.method"

_NAMED = ("num_cpus", "num_gpus", "memory", "resources", "label_selector", "scheduling_strategy")
"""Annotations that are options of tasks by the same name."""


def _value_of(ref: Any) -> Any:
    """The node of a persisted value: any scheduler can run it, ours needs not."""
    return shoal.get(ref)


def _run_node(node: GraphNode, hooks: Hooks | None, keys: tuple[Any, ...], *values: Any) -> Any:
    """In a task: one node, with the values that it depends on."""
    if hooks is None:
        return node(dict(zip(keys, values)))
    states = hooks.before(node.key, values)
    result = node(dict(zip(keys, values)))
    hooks.after(node.key, result, states)
    return result


_run: Any = shoal.remote(_run_node)


@dask.base.normalize_token.register(shoal.ObjectRef)  # type: ignore[untyped-decorator]
def _token_of(ref: shoal.ObjectRef[Any]) -> tuple[str, str]:
    """Names a ref in Dask's hashes, which would pickle it, and so keep its value, otherwise."""
    return "shoal.ObjectRef", ref.hex()


class _Graph:
    """One graph on its way into tasks."""

    def __init__(self, graph: Any, keys: Any, kwargs: Mapping[str, Any]) -> None:
        self.wanted = set(_flat(keys))
        self._options = _options_of(graph)
        self._usual = dict(kwargs.get("remote_args") or kwargs.get("ray_remote_args") or {})
        self.hooks = Hooks.active(kwargs.get("ray_callbacks"))
        nodes = convert_legacy_graph(
            graph if isinstance(graph, Mapping) else graph.__dask_graph__()
        )
        if not self._options and not self.hooks:
            nodes = _fused(nodes, self.wanted)
        self.nodes: dict[Any, GraphNode] = nodes
        self.refs: dict[Any, Any] = {}
        self._constants: dict[Any, GraphNode] = {}
        """Small values, which travel inside the tasks that use them."""

    def submit(self) -> None:
        """Make all tasks."""
        dependencies = DependenciesMapping(self.nodes)
        missing = {d for node in dependencies.values() for d in node} - self.nodes.keys()
        missing |= self.wanted - self.nodes.keys()
        if missing:
            raise ValueError(f"the graph lacks keys that it needs: {sorted(map(str, missing))[:5]}")
        users: dict[Any, int] = dict.fromkeys(self.nodes, 0)
        for found in dependencies.values():
            for key in found:
                users[key] += 1
        places = order(self.nodes)
        for key in sorted(self.nodes, key=places.__getitem__):
            node = self.nodes[key]
            self._submit(key, node)
            for used in node.dependencies:
                users[used] -= 1
                if users[used] == 0 and used not in self.wanted:
                    self.refs.pop(used, None)

    def _submit(self, key: Any, node: GraphNode) -> None:
        if isinstance(node, Alias):
            target = node.target
            if target in self._constants:
                self._constants[key] = self._constants[target]
            if target in self.refs:
                self.refs[key] = self.refs[target]
            return
        if isinstance(node, DataNode):
            if key in self.wanted or dask.sizeof.sizeof(node.value) >= LARGE_BYTES:
                self.refs[key] = shoal.put(node.value)
            else:
                self._constants[key] = node
            return
        if isinstance(node, Task) and node.func is _value_of:
            self.refs[key] = node.args[0]
            return
        constants: dict[Any, Any] = {
            d: self._constants[d] for d in node.dependencies if d in self._constants
        }
        if constants:
            node = node.substitute(constants)
        needed = tuple(node.dependencies)
        refs = [self.refs[d] for d in needed]
        early = self.hooks.presubmit(node, key, refs) if self.hooks else None
        if early is not None:
            self.refs[key] = shoal.put(early)
            return
        options = {"name": _name(key), **self._usual, **self._options.get(key, {})}
        hooks = self.hooks.in_tasks() if self.hooks else None
        self.refs[key] = _run.options(**options).remote(node, hooks, needed, *refs)
        if self.hooks:
            self.hooks.postsubmit(node, key, refs, self.refs[key])


class ShoalScheduler:
    """What ``dask.compute(scheduler=...)`` takes: ``shoal_dask_get`` is the one there is.

    Example:
        >>> import dask.array
        >>> from shoal.util.dask import shoal_dask_get
        >>> float(dask.array.ones(1000, chunks=100).sum().compute(scheduler=shoal_dask_get))
        1000.0
    """

    def __call__(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        """Compute ``keys`` of a graph.

        Args:
            dsk: A graph: a mapping, or what has ``__dask_graph__``.
            keys: A key, or lists of keys, nested as deep as wanted.
            **kwargs: ``remote_args``: options of every task. Others of Dask's mean nothing here.

        Raises:
            ValueError: a key is missing.
            Exception: what a node raised, as Dask's own schedulers raise it.
        """
        graph = _Graph(dsk, keys, kwargs)
        with local_callbacks(kwargs.get("callbacks")) as callbacks:
            if callbacks:
                _submit_watched(graph, callbacks)
            else:
                graph.submit()
        if graph.hooks:
            graph.hooks.postsubmit_all(list(graph.refs.values()), dsk)
        if kwargs.get("ray_persist"):
            return _nested(keys, graph.refs)
        names = list(graph.wanted)
        try:
            values = shoal.get([graph.refs[key] for key in names])
        except shoal.errors.TaskError as error:
            if error.cause is None:
                raise
            raise error.cause from error
        results = _nested(keys, dict(zip(names, values)))
        if graph.hooks:
            graph.hooks.finish(results)
        return results

    def persist(
        self, collections: Sequence[Any], optimize_graph: bool = True, **kwargs: Any
    ) -> Any:
        """What ``dask.persist`` calls: the same collections, with values that are in the store."""
        keep = functools.partial(_keep, **kwargs)
        return dask.base.persist(*collections, scheduler=keep, optimize_graph=optimize_graph)

    def __reduce__(self) -> str:
        return "shoal_dask_get"

    def __repr__(self) -> str:
        return "<shoal_dask_get>"


shoal_dask_get = ShoalScheduler()
"""The scheduler: ``dask.compute(x, scheduler=shoal_dask_get)``."""


def _keep(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """As the scheduler, with nodes that hold refs in the place of values."""
    graph = _Graph(dsk, keys, kwargs)
    graph.submit()
    return _nested(keys, {key: Task(key, _value_of, graph.refs[key]) for key in graph.wanted})


def shoal_dask_get_sync(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Compute ``keys`` of a graph here, one node after the other: for debuggers.

    Example:
        >>> from shoal.util.dask import shoal_dask_get_sync
        >>> shoal_dask_get_sync({"x": 1, "y": (abs, -2)}, ["x", "y"])
        (1, 2)
    """
    return dask.local.get_sync(dsk, keys, **kwargs)


def enable_dask_on_shoal(shuffle: str | None = "tasks") -> Any:
    """Make ``shoal_dask_get`` what Dask uses where nothing else is said.

    Args:
        shuffle: How data frames are shuffled. ``"tasks"`` keeps everything in the store; the usual
            way of one machine goes through files.

    Returns:
        A context: at its end, what was before counts again. Without ``with`` it stays.

    Example:
        >>> import dask.array
        >>> from shoal.util.dask import enable_dask_on_shoal
        >>> with enable_dask_on_shoal():
        ...     float(dask.array.ones(10, chunks=5).sum().compute())
        10.0
    """
    return dask.config.set({"scheduler": shoal_dask_get, SHUFFLE: shuffle})


def disable_dask_on_shoal() -> Any:
    """Have Dask choose its scheduler again; a context, as ``enable_dask_on_shoal`` is.

    Example:
        >>> from shoal.util.dask import disable_dask_on_shoal
        >>> context = disable_dask_on_shoal()
    """
    return dask.config.set({"scheduler": None, SHUFFLE: None})


# ---- details ------------------------------------------------------------------------------------


def _flat(keys: Any) -> Iterable[Any]:
    if isinstance(keys, list):
        for key in keys:
            yield from _flat(key)
    else:
        yield keys


def _fused(nodes: dict[Any, GraphNode], wanted: set[Any]) -> dict[Any, GraphNode]:
    """Chains as one node each."""
    try:
        return dict(fuse_linear_task_spec(nodes, wanted))
    except KeyError:  # it takes for granted that chains have an end
        order(nodes)  # a cycle is a RuntimeError, which names it
        raise


def _nested(keys: Any, values: Mapping[Any, Any]) -> Any:
    if isinstance(keys, list):
        return [_nested(key, values) for key in keys]
    return values[keys]


def _name(key: Any) -> str:
    return str(key[0] if isinstance(key, tuple) else key) or "dask"


def _options_of(graph: Any) -> dict[Any, dict[str, Any]]:
    """Options of tasks by key, from the annotations of the graph's layers."""
    ask: Callable[[], Any] = getattr(graph, "__dask_annotations__", dict)
    found: dict[Any, dict[str, Any]] = {}
    for kind, by_key in ask().items():
        for key, value in by_key.items():
            options = found.setdefault(key, {})
            if kind in _NAMED:
                options[kind] = value
            elif kind == "retries":
                options.update(max_retries=int(value), retry_exceptions=True)
            elif kind in ("remote_args", "ray_remote_args"):
                options.update(value)
    return {key: options for key, options in found.items() if options}


def _submit_watched(graph: _Graph, callbacks: Any) -> None:
    """Submit, and tell Dask's own callbacks (progress bars, profilers) as tasks end."""
    _, _, before, after, _ = unpack_callbacks(callbacks)
    # What Dask's own schedulers keep: all is submitted at once, nothing is released before the end.
    names = ("dependencies", "dependents", "waiting", "waiting_data", "cache")
    state: dict[str, Any] = {name: {} for name in names}
    state.update(ready=[], running=set(), finished=set(), released=set())
    begun = []
    is_done = False
    try:
        for start, start_state, *_ in callbacks:
            if start:
                start(graph.nodes)
            begun.append(True)
            if start_state:
                start_state(graph.nodes, state)
        everything = set(graph.nodes)
        graph.wanted, wanted = everything, graph.wanted
        graph.submit()
        graph.wanted = wanted
        state["running"] = set(graph.refs)
        for key in graph.refs:
            for tell in before:
                tell(key, graph.nodes, state)
        keys = {ref: key for key, ref in graph.refs.items()}
        for ref in shoal.as_completed(list(keys)):
            key = keys[ref]
            state["running"].discard(key)
            state["finished"].add(key)
            if after:
                value = shoal.get(ref)
                for tell in after:
                    tell(key, value, graph.nodes, state, "shoal")
        is_done = True
    finally:
        for _, (*_, finish) in zip(begun, callbacks):
            if finish:
                finish(graph.nodes, state, not is_done)


__all__ = [
    "ShoalDaskCallback",
    "ShoalScheduler",
    "disable_dask_on_shoal",
    "enable_dask_on_shoal",
    "shoal_dask_get",
    "shoal_dask_get_sync",
]
