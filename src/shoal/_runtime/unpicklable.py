"""Find the culprit in a value that can not be pickled, and name the path to it.

pickle says ``cannot pickle '_thread.lock' object``, and not where in a job of 40 classes the lock
is. This walks down from the value: a part that fails is looked into, a part that pickles is left
alone, and the deepest failing part is the culprit. Only runs after a failure; bounded by
``MOST_TRIES`` attempts.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

from shoal import errors

MOST_TRIES = 2000
MOST_DEPTH = 30

ARGUMENTS = "arguments"
"""The name of a value that is a tuple of arguments, or a list of that and the named ones."""


def explain(value: Any, what: str, error: BaseException) -> errors.SerializationError:
    """Return the error for ``value``, which is called ``what`` and failed with ``error``."""
    search = _Search()
    path, culprit, reason = search.deepest(value, what, str(error))
    kind = type(culprit).__name__
    where = "it" if path == what else f"{what}: {path}"
    message = (
        f"cannot send {where} (a {kind}) to another process: {reason}\n"
        "What to do: make it where it is used (inside the task, or in the actor's constructor), or"
        " give its class __reduce__ or __getstate__."
    )
    return errors.SerializationError(message, path=path, culprit=kind)


def culprit(value: Any, what: str) -> tuple[str, Any, str] | None:
    """(path, part, why) of what in ``value`` can not be pickled; None if all of it can."""
    search = _Search()
    failure = search.failure(value)
    return None if failure is None else search.deepest(value, what, failure)


class _Search:
    def __init__(self) -> None:
        self._tries = 0
        self._seen: set[int] = set()

    def deepest(self, value: Any, path: str, reason: str) -> tuple[str, Any, str]:
        """(path, part, why) of the innermost part that fails; ``value`` is known to fail."""
        for _ in range(MOST_DEPTH):
            self._seen.add(id(value))
            for part_path, part in _parts(value, path):
                if id(part) in self._seen:
                    continue
                failure = self.failure(part)
                if failure is not None:
                    path, value, reason = part_path, part, failure
                    break
            else:
                break
        return path, value, reason

    def failure(self, value: Any) -> str | None:
        """Why ``value`` can not be pickled; None if it can."""
        import cloudpickle

        if self._tries >= MOST_TRIES:
            return None
        self._tries += 1
        try:
            cloudpickle.dumps(value, 5, buffer_callback=lambda buffer: None)
        except Exception as error:  # whatever a reducer raises
            return f"{error}"
        return None


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Named parts of ``value``."""
    if path == ARGUMENTS:
        args, kwargs = (value, {}) if type(value) is tuple else value[:2]
        yield from ((f"args[{i}]", part) for i, part in enumerate(args))
        yield from kwargs.items()
    elif isinstance(value, dict):
        yield from ((f"{path}[{key!r}]", part) for key, part in value.items())
        yield from ((f"key {key!r} of {path}", key) for key in value)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{path}[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, types.FunctionType):
        yield from _function_parts(value, path)
    elif isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
        yield from _parts(value.__func__, path)
    elif isinstance(value, functools.partial):
        yield f"{path}.func", value.func
        yield from _parts(value.args, f"{path}.args")
        yield from _parts(value.keywords, f"{path}.keywords")
    elif isinstance(value, type):
        for name, part in vars(value).items():
            if not name.startswith("__") or isinstance(part, types.FunctionType):
                yield f"{path}.{name}", part
    else:
        yield from _attributes(value, path)


def _function_parts(function: types.FunctionType, path: str) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            yield f"{path}: closure variable {name}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in _global_names(code):
        if name in function.__globals__:
            yield f"{path}: global variable {name}", function.__globals__[name]
    yield from _parts(function.__defaults__ or (), f"{path}.__defaults__")
    yield from _parts(function.__kwdefaults__ or {}, f"{path}.__kwdefaults__")


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _attributes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    state: Any = getattr(value, "__dict__", None)
    if isinstance(state, dict):
        yield from ((f"{path}.{name}", part) for name, part in state.items())
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__"):
                try:
                    yield f"{path}.{name}", getattr(value, name)
                except AttributeError:
                    continue
