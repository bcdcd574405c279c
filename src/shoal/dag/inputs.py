"""What ``execute`` is given, matched with what the graph uses of it. Pure.

=====================  ==========================================================================
the graph uses         ``execute`` takes
=====================  ==========================================================================
``inp``                one object
``inp[0]``, ``inp.a``  as many positional arguments as the highest index says, and those names; or
                       one object, whose items or attributes these are
both                   one object, whose items or attributes the parts are
nothing                nothing
=====================  ==========================================================================

What is missing or too much is found before anything is submitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal import errors
from shoal.dag.nodes import DAGNode, InputAttributeNode, InputNode


class Uses:
    """What one graph uses of its input."""

    def __init__(self, nodes: Sequence[DAGNode]) -> None:
        self.node = next((node for node in nodes if isinstance(node, InputNode)), None)
        parts = [node for node in nodes if isinstance(node, InputAttributeNode)]
        self.keys: tuple[int | str, ...] = tuple(part.key for part in parts)
        others = (node for node in nodes if not isinstance(node, InputAttributeNode))
        needed = [other for node in others for other in node.needs()]
        self.is_whole = self.node is not None and self.node in [*needed, nodes[-1]]
        self.positions = max((key + 1 for key in self.keys if isinstance(key, int)), default=0)
        self.names = tuple(key for key in self.keys if isinstance(key, str))

    @property
    def is_plain(self) -> bool:
        """Whether only the whole object is used."""
        return self.is_whole and not self.keys

    def pick(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The whole object, if it is used, then the parts in the order of ``keys``.

        Raises:
            GraphError: something is missing or too much.
        """
        is_one = len(args) == 1 and not kwargs
        if self.is_whole:
            if not is_one:
                raise self._wrong(args, kwargs)
            return (args[0], *(self._opened(args[0], key) for key in self.keys))
        if len(args) == self.positions and set(kwargs) == set(self.names):
            return tuple(args[key] if isinstance(key, int) else kwargs[key] for key in self.keys)
        if is_one and (self.names or self.positions > 1):
            return tuple(self._opened(args[0], key) for key in self.keys)
        raise self._wrong(args, kwargs)

    def _opened(self, whole: Any, key: int | str) -> Any:
        """The part ``key`` of the one object that was given."""
        try:
            if isinstance(key, str) and not isinstance(whole, Mapping):
                return getattr(whole, key)
            return whole[key]
        except (TypeError, IndexError, KeyError, AttributeError):
            hint = "" if self.is_whole else f"call {self.described()}, or "
            raise errors.GraphError(
                f"the graph uses {_written(key)}, and the one object that execute was given (of"
                f" type {type(whole).__name__}) has no such part. What to do: {hint}give it an"
                " object that has it"
            ) from None

    def values(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[DAGNode, Any]:
        """The same, by node."""
        picked = self.pick(args, kwargs)
        if self.node is None:
            return {}
        parts: list[DAGNode] = [self.node[key] for key in self.keys]
        return dict(zip([self.node, *parts] if self.is_whole else parts, picked))

    def described(self) -> str:
        """How ``execute`` is to be called."""
        if self.is_whole:
            return "execute(one object)"
        positional = [f"<{i}>" for i in range(self.positions)]
        return f"execute({', '.join([*positional, *(f'{name}=' for name in self.names)])})"

    def _wrong(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> errors.GraphError:
        given = f"{len(args)} positional argument{'s' if len(args) != 1 else ''}"
        if kwargs:
            given += f" and {', '.join(kwargs)} by name"
        if self.node is None:
            text = "the graph has no InputNode, so execute takes no arguments"
        elif self.is_whole:
            text = "the graph uses its input as a whole, so execute takes exactly one object"
        else:
            parts = ", ".join(_written(key) for key in sorted(self.keys, key=str))
            text = f"the graph uses {parts}"
            missing = [name for name in self.names if name not in kwargs]
            extra = [name for name in kwargs if name not in self.names]
            if missing and len(args) == self.positions:
                text += f", and {', '.join(missing)} is missing"
            elif extra:
                text += f", and not {', '.join(extra)}"
        hint = f"call {self.described()}" if self.node is not None else "leave them out"
        return errors.GraphError(f"{text}; it was given {given}. What to do: {hint}")


def _written(key: int | str) -> str:
    return f"inp[{key}]" if isinstance(key, int) else f"inp.{key}"
