"""Where a task or actor may run, as users say it, and as it travels (``messages.Strategy``).

Users give ``scheduling_strategy``: a text or one of the classes here, or ``label_selector``. What
they give is checked where it is given and becomes plain data at the first call (``resolve``),
because a daemon must be able to read it (RULES Z-3).

Who gives neither, and runs in a placement group that captures, stays in that group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from shoal import errors
from shoal._proto import messages
from shoal._runtime.context import process

if TYPE_CHECKING:
    from shoal._runtime.groups import PlacementGroup

# Compiled when they are used: few programs choose nodes.
_LABEL_KEY = r"[\w./-]+"
_SEVERAL = r"in\((.*)\)"


class PlacementGroupSchedulingStrategy:
    """Run in a placement group.

    Args:
        placement_group: The group; None: in no group, also where children are captured.
        placement_group_bundle_index: Which bundle; -1: any that has room.
        placement_group_capture_child_tasks: Whether what it submits runs in the group too.

    Example:
        >>> strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        >>> square.options(scheduling_strategy=strategy).remote(2)
    """

    def __init__(
        self,
        placement_group: PlacementGroup | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class NodeAffinitySchedulingStrategy:
    """Run on one node.

    Args:
        node_id: Its id in hexadecimal, as in ``nodes()[0]["NodeID"]``.
        soft: Whether it may run elsewhere if that node is not there.
    """

    def __init__(self, node_id: str, soft: bool) -> None:
        if not isinstance(node_id, str) or not re.fullmatch("[0-9a-fA-F]+", node_id):
            text = f"node_id must be the id of a node in hexadecimal, not {node_id!r}"
            raise errors.OptionError(text, option="node_id")
        self.node_id = node_id.lower()
        self.soft = bool(soft)


class _Operator:
    """What a label must be."""

    operator = ""

    def __init__(self, *values: str) -> None:
        if not all(isinstance(value, str) for value in values):
            raise errors.OptionError(f"values of labels are texts, not {values!r}")
        self.values = tuple(values)


class In(_Operator):
    """The label has one of these values."""

    operator = "in"


class NotIn(_Operator):
    """The label has none of these values; a node without it agrees."""

    operator = "not_in"


class Exists(_Operator):
    """The node has the label."""

    operator = "exists"

    def __init__(self) -> None:
        super().__init__()


class DoesNotExist(_Operator):
    """The node does not have the label."""

    operator = "does_not_exist"

    def __init__(self) -> None:
        super().__init__()


class NodeLabelSchedulingStrategy:
    """Run on a node whose labels agree.

    Args:
        hard: What they must be, by key: ``{"zone": In("a", "b")}``.
        soft: What they should be, if there is such a node.
    """

    def __init__(
        self, hard: Mapping[str, _Operator], *, soft: Mapping[str, _Operator] | None = None
    ) -> None:
        self.hard = dict(hard)
        self.soft = dict(soft or {})
        for key, rule in (*self.hard.items(), *self.soft.items()):
            if not isinstance(key, str) or not isinstance(rule, _Operator):
                text = f"labels go to In, NotIn, Exists or DoesNotExist by their key, not {rule!r}"
                raise errors.OptionError(text, option="scheduling_strategy")


_CLASSES = (
    PlacementGroupSchedulingStrategy,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
)
EXPECTED = "'DEFAULT', 'SPREAD' or one of the classes of shoal.util.scheduling_strategies"


def is_strategy(value: Any) -> bool:
    """Whether ``value`` may be given as ``scheduling_strategy``."""
    return value in ("DEFAULT", "SPREAD") or isinstance(value, (*_CLASSES, msgspec.Struct))


def is_group(value: Any) -> bool:
    """Whether ``value`` may be given as ``placement_group``."""
    return value == "default" or hasattr(value, "check_fits")


def is_selector(value: Any) -> bool:
    """Whether ``value`` may be given as ``label_selector``."""
    if not isinstance(value, Mapping):
        return False
    return all(
        isinstance(k, str) and re.fullmatch(_LABEL_KEY, k) and isinstance(v, str) and v
        for k, v in value.items()
    )


def is_fallback(value: Any) -> bool:
    """Whether ``value`` may be given as ``fallback_strategy``."""
    return isinstance(value, list | tuple) and all(
        isinstance(row, Mapping)
        and set(row) == {"label_selector"}
        and is_selector(row["label_selector"])
        for row in value
    )


def selector_rules(selector: Mapping[str, str]) -> tuple[messages.LabelRule, ...]:
    """The rules of ``{"key": "value"}``; a value may be ``!x``, ``in(x, y)`` or ``!in(x, y)``."""
    rules = []
    for key, text in selector.items():
        negated = text.startswith("!")
        plain = text.removeprefix("!").strip()
        several = re.fullmatch(_SEVERAL, plain)
        values = several.group(1).split(",") if several else [plain]
        operator = "not_in" if negated else "in"
        stripped = tuple(value.strip() for value in values)
        rules.append(messages.LabelRule(_own_key(key), operator, stripped))
    return tuple(rules)


def has_label(key: str) -> messages.LabelRule:
    """The rule that a node has this label, whatever its value."""
    return messages.LabelRule(_own_key(key), "exists")


def _rules(labels: Mapping[str, _Operator]) -> tuple[messages.LabelRule, ...]:
    return tuple(
        messages.LabelRule(_own_key(key), rule.operator, rule.values)
        for key, rule in labels.items()
    )


def _own_key(key: str) -> str:
    """Labels that every node has stand under our name; people know them by another one too."""
    return "shoal.io/" + key.removeprefix("ray.io/") if key.startswith("ray.io/") else key


def resolve(given: Mapping[str, Any], asked: Mapping[str, float], what: str) -> messages.Strategy:
    """The strategy of the options ``given``, for something that asks for ``asked``.

    Raises:
        OptionError: two options contradict each other, or no bundle of the group is large enough.
    """
    chosen = given.get("scheduling_strategy")
    selector = given.get("label_selector")
    if given.get("placement_group") is not None:
        if chosen is not None:
            text = "give placement_group or scheduling_strategy, not both"
            raise errors.OptionError(text, option="placement_group")
        chosen = PlacementGroupSchedulingStrategy(
            given["placement_group"] if given["placement_group"] != "default" else None,
            given.get("placement_group_bundle_index", -1),
            given.get("placement_group_capture_child_tasks"),
        )
        if given["placement_group"] == "default":
            chosen = None
    if selector:
        return _selected(chosen, selector, given.get("fallback_strategy") or ())
    if chosen is None:
        return _captured(asked, what)
    if isinstance(chosen, PlacementGroupSchedulingStrategy):
        return _in_group(chosen, asked, what)
    if isinstance(chosen, NodeAffinitySchedulingStrategy):
        return messages.NodeAffinity(chosen.node_id, chosen.soft)
    if isinstance(chosen, NodeLabelSchedulingStrategy):
        return messages.NodeLabels((_rules(chosen.hard),), _rules(chosen.soft))
    if isinstance(chosen, msgspec.Struct):
        strategy: messages.Strategy = chosen  # type: ignore[assignment]
        return strategy
    return messages.Spread() if chosen == "SPREAD" else messages.Default()


def _selected(chosen: Any, selector: Mapping[str, str], fallback: Any) -> messages.NodeLabels:
    if chosen not in (None, "DEFAULT", "SPREAD"):
        text = f"label_selector does not go together with {type(chosen).__name__}"
        raise errors.OptionError(text, option="label_selector")
    hard = [selector_rules(selector)]
    hard += [selector_rules(row["label_selector"]) for row in fallback]
    return messages.NodeLabels(tuple(hard))


def _captured(asked: Mapping[str, float], what: str) -> messages.Strategy:
    group = process.group
    if group is None or not process.captures:
        return messages.Default()
    group.check_fits(-1, asked, what)
    return messages.InGroup(group.id.hex(), -1, True)


def _in_group(
    chosen: PlacementGroupSchedulingStrategy, asked: Mapping[str, float], what: str
) -> messages.Strategy:
    group = chosen.placement_group
    if group is None or group.is_empty:
        return messages.Default()
    captures = chosen.placement_group_capture_child_tasks
    if captures is None:
        captures = process.captures
    group.check_fits(chosen.placement_group_bundle_index, asked, what)
    index = int(chosen.placement_group_bundle_index)
    return messages.InGroup(group.id.hex(), index, bool(captures))
