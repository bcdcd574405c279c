"""What people know as utilities: placement groups, scheduling strategies.

As in Ray, ``shoal.util.placement_group`` is the function, and
``from shoal.util.placement_group import ...`` reads the module of that name.
"""

from shoal.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]
