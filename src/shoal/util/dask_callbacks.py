"""Callbacks around the tasks of Dask graphs: in this process as they are submitted, and in tasks.

Dask's own callbacks (``dask.callbacks.Callback``, its progress bar) work too; these see refs
instead of values, and those in tasks see the values where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ClassVar

import msgspec

NAMES = ("presubmit", "postsubmit", "pretask", "posttask", "postsubmit_all", "finish")


class Hooks(msgspec.Struct):
    """The functions of all active callbacks, by name."""

    functions: dict[str, list[Callable[..., Any]]]

    @classmethod
    def active(cls, given: Iterable[Any] | None) -> Hooks | None:
        """Those of ``given``, or else of what was registered; None if there are none."""
        chosen = ShoalDaskCallback.active if given is None else given
        functions = {
            name: [f for callback in chosen if (f := callback.function(name)) is not None]
            for name in NAMES
        }
        return cls(functions) if any(functions.values()) else None

    def presubmit(self, task: Any, key: Any, refs: list[Any]) -> Any:
        """A value that makes the task unnecessary, or None."""
        for function in self.functions["presubmit"]:
            value = function(task, key, refs)
            if value is not None:
                return value
        return None

    def postsubmit(self, task: Any, key: Any, refs: list[Any], ref: Any) -> None:
        """A task was submitted."""
        for function in self.functions["postsubmit"]:
            function(task, key, refs, ref)

    def postsubmit_all(self, refs: list[Any], graph: Any) -> None:
        """All tasks were submitted."""
        for function in self.functions["postsubmit_all"]:
            function(refs, graph)

    def finish(self, results: Any) -> None:
        """All results are there."""
        for function in self.functions["finish"]:
            function(results)

    def in_tasks(self) -> Hooks | None:
        """Those that run in tasks."""
        kept = {name: self.functions[name] for name in ("pretask", "posttask")}
        return Hooks(kept) if any(kept.values()) else None

    def before(self, key: Any, values: tuple[Any, ...]) -> list[Any]:
        """In a task, before its node."""
        return [function(key, values) for function in self.functions["pretask"]]

    def after(self, key: Any, result: Any, states: list[Any]) -> None:
        """In a task, after its node."""
        for i, function in enumerate(self.functions["posttask"]):
            function(key, result, states[i] if i < len(states) else None)

    def __reduce__(self) -> Any:
        return Hooks, (self.functions,)


class ShoalDaskCallback:
    """Functions that are called around the tasks of graphs: ``with callback: x.compute(...)``.

    Give them by name, or derive a class with methods ``_presubmit`` and so on.

    Args:
        presubmit: ``f(task, key, refs)`` before a task is submitted; a value other than None is
            taken as its result, and nothing is run.
        postsubmit: ``f(task, key, refs, ref)`` after it.
        pretask: ``f(key, values)`` in the task; what it returns is given to ``posttask``.
        posttask: ``f(key, result, state)`` in the task, after it.
        postsubmit_all: ``f(refs, graph)`` after all were submitted.
        finish: ``f(results)`` at the end.

    Raises:
        TypeError: a name is unknown.

    Example:
        >>> import dask.array
        >>> from shoal.util.dask import ShoalDaskCallback, shoal_dask_get
        >>> keys = []
        >>> with ShoalDaskCallback(postsubmit=lambda task, key, refs, ref: keys.append(key)):
        ...     float(dask.array.ones(4, chunks=2).sum().compute(scheduler=shoal_dask_get))
        4.0
        >>> len(keys) > 2
        True
    """

    prefix: ClassVar[str] = ""
    """What stands before the names."""
    active: ClassVar[list[ShoalDaskCallback]] = []

    def __init__(self, **functions: Callable[..., Any]) -> None:
        valid = [self.prefix + name for name in NAMES]
        for name, function in functions.items():
            if name not in valid:
                raise TypeError(f"{name!r} is no callback; there are {', '.join(valid)}")
            setattr(self, f"_{name}", function)

    def function(self, name: str) -> Callable[..., Any] | None:
        """The function called ``name``, if there is one."""
        found: Callable[..., Any] | None = getattr(self, f"_{self.prefix}{name}", None)
        return found

    def register(self) -> None:
        """Have it called for all graphs."""
        ShoalDaskCallback.active.append(self)

    def unregister(self) -> None:
        """No more."""
        ShoalDaskCallback.active.remove(self)

    def __enter__(self) -> ShoalDaskCallback:
        self.register()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unregister()
