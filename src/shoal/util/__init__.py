"""What people know as utilities: placement groups, scheduling strategies, pools of actors,
queues, serializers of one's own, what keeps a value from travelling, names of actors.

As in Ray, ``shoal.util.placement_group`` is the function, and
``from shoal.util.placement_group import ...`` reads the module of that name.
"""

from shoal._runtime.cluster import list_named_actors
from shoal._runtime.custom_pickles import (
    deregister_serializer,
    inspect_serializability,
    register_serializer,
)
from shoal.util.actor_pool import ActorPool
from shoal.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "ActorPool",
    "deregister_serializer",
    "get_current_placement_group",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]
