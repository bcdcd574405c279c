"""Policy: labels. Which nodes agree with the rules of a label selector, and which it would rather
have.

*Hard* rules come as alternatives: a node agrees with all rules of one of them. *Soft* rules only
order those that agree. A node always has the label ``shoal.io/node-id``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from shoal._proto.messages import LabelRule

if TYPE_CHECKING:
    from shoal._proto.views import NodeRow

NODE_ID_LABEL = "shoal.io/node-id"
HEAD_LABEL = "shoal.io/head"
"""Of the node through which those can talk that cannot reach each other."""
Alternatives = Iterable[tuple[LabelRule, ...]]


def labels_of(row: NodeRow) -> dict[str, str]:
    """All labels of a node, those that it has by being one too."""
    return {**row.labels, NODE_ID_LABEL: row.node}


def agrees(labels: Mapping[str, str], alternatives: Alternatives) -> bool:
    """Whether a node with ``labels`` agrees with one of ``alternatives``, or there are none."""
    is_any = True
    for rules in alternatives:
        is_any = False
        if all(holds(rule, labels) for rule in rules):
            return True
    return is_any


def mismatch(labels: Mapping[str, str], alternatives: Alternatives) -> str:
    """What a node with ``labels`` would need to agree with one of ``alternatives``; "" if it
    does, or there are none."""
    broken = []
    for rules in alternatives:
        wrong = [rule for rule in rules if not holds(rule, labels)]
        if not wrong:
            return ""
        broken.append(" and ".join(in_words(rule) for rule in wrong))
    return " or ".join(broken)


def preferred(rows: Sequence[NodeRow], soft: tuple[LabelRule, ...]) -> Sequence[NodeRow]:
    """Those where the soft rules hold, if there are any; else all of them."""
    if not soft:
        return rows
    liked = [row for row in rows if agrees(labels_of(row), (soft,))]
    return liked or rows


def holds(rule: LabelRule, labels: Mapping[str, str]) -> bool:
    """Whether one rule holds."""
    value = labels.get(rule.key)
    match rule.operator:
        case "in":
            return value in rule.values
        case "not_in":
            return value not in rule.values
        case "exists":
            return value is not None
        case _:
            return value is None


def in_words(rule: LabelRule) -> str:
    """The rule as an error says it."""
    values = ", ".join(rule.values)
    match rule.operator:
        case "in" if len(rule.values) == 1:
            return f"{rule.key}={values}"
        case "in":
            return f"{rule.key} in ({values})"
        case "not_in":
            return f"{rule.key} not in ({values})"
        case "exists":
            return f"{rule.key} set"
        case _:
            return f"{rule.key} not set"
