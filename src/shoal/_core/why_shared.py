"""Reasons that placement groups of a cluster have.

The control store looks for their nodes; whether there could be any is seen here too, from what the
nodes have told of themselves. (What is free just now is not: that changes all the time.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal._core import resources
from shoal._core.answers import shared_groups
from shoal._core.groups import Group
from shoal._proto import reasons as r

if TYPE_CHECKING:
    from shoal._core.why import Explainer

NODES_MOST = 10


def of_waiting(e: Explainer, group: Group) -> Any:
    """What a group waits for that has no place, or has lost a part of it."""
    reactions = shared_groups()
    plan = reactions.chance(e.t, group)
    asked = resources.plain(resources.sum_of(group.amounts))
    facts: dict[str, Any] = {"task": "", "name": group.group_id, "since_s": e.ago(group.created_at)}
    if plan.nodes or plan.is_possible:
        names = reactions.nodes_with_room(e.t, group)
        nodes = list(names[:NODES_MOST])
        return r.WaitsForNode(**facts, asked=asked, nodes=nodes, nodes_count=len(names))
    total = {name: e.t.config.total.get(name, 0.0) for name in asked}
    return r.Infeasible(**facts, asked=asked, total=total, text=plan.why, fails_in_s=None)
