"""What a scheduling strategy means on this node: where its asks may draw from.

With one node there is little to choose: DEFAULT and SPREAD are the node; an affinity or labels are
the node, or nowhere; a group is one of its rooms. Equal meanings give equal targets, so that tasks
of both share a queue.

Labels of a node: those that it was given, and ``shoal.io/node-id``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shoal._core import causes
from shoal._core.groups import ANY_BUNDLE
from shoal._core.resources import Room, Target
from shoal._core.tables import NodeTables
from shoal._proto import messages as m

NODE_ID_LABEL = "shoal.io/node-id"
_NOWHERE = Room(())


def nowhere(why: str) -> Target:
    """The target of what can run on no node."""
    return Target(_NOWHERE, why=why)


def resolve(t: NodeTables, strategy: m.Strategy) -> Target | bytes:
    """Where it leads to; the record of a refusal if that can not be meant or is gone."""
    node = t.scheduler.node
    match strategy:
        case m.NodeAffinity(node_id, soft):
            if soft or node_id == t.config.node_id.hex():
                return node
            return nowhere(f"there is no node {node_id}")
        case m.NodeLabels(hard):
            why = mismatch(t, hard)
            return nowhere(why) if why else node
        case m.InGroup(group_id, bundle, captures):
            group = t.groups.find(group_id)
            if group is None:
                return causes.group_removed(group_id, "", "nobody knows it")
            if group.record is not None:
                return group.record
            if not ANY_BUNDLE <= bundle < len(group.rooms):
                text = f"the group has no bundle {bundle}; it has {len(group.rooms)}"
                return causes.usage(f"{text}, numbered from 0 (-1: any)")
            group.was_used = True
            return group.target(bundle, captures)
        case m.GroupReady(group_id):
            group = t.groups.find(group_id)
            if group is None:
                return causes.group_removed(group_id, "", "nobody knows it")
            if group.record is not None:
                return group.record
            group.was_used = True
            return group.gated(node.room)
        case _:
            return node


# ---- labels
def labels_of(t: NodeTables) -> dict[str, str]:
    """The labels of this node."""
    return {**t.config.labels, NODE_ID_LABEL: t.config.node_id.hex()}


def mismatch(t: NodeTables, alternatives: Iterable[tuple[m.LabelRule, ...]]) -> str:
    """Why this node agrees with none of ``alternatives``; "" if it does, or there are none."""
    labels = labels_of(t)
    broken = []
    for rules in alternatives:
        wrong = [rule for rule in rules if not _holds(rule, labels)]
        if not wrong:
            return ""
        broken.append(" and ".join(_in_words(rule) for rule in wrong))
    if not broken:
        return ""
    has = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return f"no node has labels with {' or '.join(broken)} (the node here has {has})"


def _holds(rule: m.LabelRule, labels: Mapping[str, str]) -> bool:
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


def _in_words(rule: m.LabelRule) -> str:
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
