"""Placement groups: resources that are reserved together.

::

    group = placement_group([{"CPU": 2}, {"CPU": 2}], strategy="PACK")
    shoal.get(group.ready())
    strategy = PlacementGroupSchedulingStrategy(group)
    ref = train.options(num_cpus=2, scheduling_strategy=strategy).remote()
    remove_placement_group(group)
"""

from __future__ import annotations

from shoal._runtime.groups import (
    STRATEGIES as VALID_PLACEMENT_GROUP_STRATEGIES,
)
from shoal._runtime.groups import (
    PlacementGroup,
    PlacementGroupID,
    check_placement_group_index,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "VALID_PLACEMENT_GROUP_STRATEGIES",
    "PlacementGroup",
    "PlacementGroupID",
    "check_placement_group_index",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]
