"""What a scheduling strategy means on this node: where its asks may draw from.

With one node there is little to choose: DEFAULT and SPREAD are the node; an affinity or labels are
the node, or nowhere; a group is one of its rooms. Equal meanings give equal targets, so that tasks
of both share a queue. In a cluster a target also says what other nodes may run it instead
(``guests.wish_of``): an affinity is a rule about ``shoal.io/node-id``.

Labels of a node: those that it was given, and ``shoal.io/node-id``. Their rules, like all that
chooses between nodes, stand in ``policies``.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal._core import causes
from shoal._core.groups import ANY_BUNDLE
from shoal._core.policies import labels as rules
from shoal._core.policies.labels import NODE_ID_LABEL
from shoal._core.resources import Room, Target
from shoal._core.tables import NodeTables
from shoal._proto import messages as m

_NOWHERE = Room(())
_OF_A_DRIVER = (
    "node {} is that of this program, which joined the cluster from outside: it runs nothing. What"
    " to do: leave the affinity out, make it soft, or name one of shoal.nodes()"
)


def nowhere(why: str) -> Target:
    """The target of what can run on no node."""
    return Target(_NOWHERE, why=why)


def resolve(t: NodeTables, strategy: m.Strategy) -> Target | bytes:
    """Where it leads to; the record of a refusal if that can not be meant or is gone."""
    node = t.scheduler.node
    match strategy:
        case m.NodeAffinity(node_id, soft):
            return _near(t, node_id, soft)
        case m.NodeLabels(hard):
            why = mismatch(t, hard)
            elsewhere = hard if t.config.in_cluster else ()
            return (nowhere(why) if why else node)._replace(labels=elsewhere)
        case m.Spread():
            return node._replace(spreads=t.config.in_cluster)
        case m.InGroup(group_id, bundle, captures):
            group = t.groups.find(group_id)
            if group is None:
                return causes.group_removed(group_id, "", "nobody knows it")
            if group.record is not None:
                return group.record
            if not ANY_BUNDLE <= bundle < len(group.rooms):
                text = f"the group has no bundle {bundle}; it has {len(group.rooms)}"
                return causes.usage(f"{text}, numbered from 0 (-1: any)")
            if bundle != ANY_BUNDLE and not group.amounts[bundle]:
                return causes.bundle_removed(group_id, group.name, bundle)
            group.was_used = True
            return group.target(bundle, captures)
        case m.GroupReady(group_id, revision):
            group = t.groups.find(group_id)
            if group is None:
                return causes.group_removed(group_id, "", "nobody knows it")
            if group.record is not None:
                return group.record
            group.was_used = True
            return group.gated(node.room, revision)
        case _:
            return node


def group_of(strategy: m.Strategy) -> str:
    """The placement group that it names; "" for none."""
    return strategy.group_id if isinstance(strategy, m.InGroup | m.GroupReady) else ""


def _near(t: NodeTables, node_id: str, is_soft: bool) -> Target | bytes:
    """On the node of this id; a soft affinity to one that is not there is none."""
    node, is_here = t.scheduler.node, node_id == t.config.node_id.hex()
    if not t.config.in_cluster:
        return node if is_soft or is_here else nowhere(f"there is no node {node_id}")
    if is_here and t.config.is_driver:
        return node if is_soft else causes.usage(_OF_A_DRIVER.format(node_id))
    is_known = node_id in t.others
    labels = ((m.LabelRule(NODE_ID_LABEL, "in", (node_id,)),),)
    if is_here:
        return node._replace(labels=labels, is_soft=is_soft)
    if is_soft and not is_known:
        return node
    why = f"only node {node_id} may run it" + ("" if is_known else ", which is not there")
    return nowhere(why)._replace(labels=labels, is_soft=is_soft)


def gone(t: NodeTables, target: Target) -> str:
    """Why what only one node may run never runs: that has been drained. "" else: one that is lost
    may come again (RULES S-13)."""
    if not t.drained or not target.labels or target.is_soft:
        return ""
    for every in target.labels:
        named = [rule for rule in every if rule.key == NODE_ID_LABEL and rule.operator == "in"]
        if not any(t.drained.issuperset(rule.values) for rule in named):
            return ""
    return "the node that alone may run it has been drained"


# ---- labels
def labels_of(t: NodeTables) -> dict[str, str]:
    """The labels of this node."""
    return {**t.config.labels, NODE_ID_LABEL: t.config.node_id.hex()}


def mismatch(t: NodeTables, alternatives: Iterable[tuple[m.LabelRule, ...]]) -> str:
    """Why this node agrees with none of ``alternatives``; "" if it does, or there are none."""
    labels = labels_of(t)
    wanted = rules.mismatch(labels, alternatives)
    if not wanted:
        return ""
    has = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return f"no node has labels with {wanted} (the node here has {has})"
