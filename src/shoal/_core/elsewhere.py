"""What the other nodes of a cluster could run of what waits here: for notices and explanations.

A queue that this node can never serve is not lost in a cluster: another node may have what its
tasks ask for. So whoever warns, or explains, asks here first::

    able    a node of the cluster could run it, when it is empty  -> it waits, nobody is warned
    lacks   none could                                            -> one notice, which says what
                                                                     the best of them have

Tasks that no other node runs (those that make a list of what a generator has yielded again) wait
for what will not come although another node has it; ``stays_here`` says so.

Where tasks do go is decided by ``forwarding``; nothing here moves anything.

Invariants:

1. What is known of a node is what it told last, without what changes all the time (``KnownNode``);
   so answers are kept until one of them changes.
2. Text has at most ``PARTS_MOST`` resources and ``NAMES_MOST`` nodes, however large the cluster is.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal._core import placement, resources
from shoal._core.events import KnownNode, NodesChanged
from shoal._core.policies import view
from shoal._core.policies.labels import agrees, labels_of
from shoal._core.resources import UNIT, Amounts, Target
from shoal._core.tables import NodeTables
from shoal._proto.views import NodeRow, Wish

NAMES_MOST = 10
PARTS_MOST = 5


class Elsewhere:
    """The other nodes, as they are known here."""

    def __init__(self, nodes: Iterable[KnownNode] = (), python: str = "") -> None:
        self.nodes = tuple(sorted(nodes, key=lambda known: (known.name, known.row.node)))
        self.python = python
        self._names = {known.row.node: known.name for known in self.nodes}
        self._able: dict[Wish, tuple[str, ...]] = {}

    def name(self, node: str) -> str:
        """What people call a node."""
        return self._names.get(node) or node[:8]

    def able(self, wish: Wish) -> tuple[str, ...]:
        """Names of the nodes that could ever run one."""
        if wish not in self._able:
            fitting = (known for known in self.nodes if view.slots_ever(known.row, wish))
            self._able[wish] = tuple(known.name for known in fitting)
        return self._able[wish]


def on_nodes(t: NodeTables, event: NodesChanged) -> None:
    """Others have come, gone, or told something else of themselves."""
    t.elsewhere = Elsewhere(event.known, event.python)


def able(t: NodeTables, amounts: Amounts, target: Target) -> tuple[str, ...]:
    """Names of the other nodes that could ever run it; of a group those that have its bundles."""
    if t.elsewhere is None:
        return ()
    if target.group:
        group, me = t.groups.find(target.group), t.config.node_id.hex()
        found = () if group is None else group.nodes_for(target.room, amounts)
        return tuple(t.elsewhere.name(node) for node in found if node != me)
    return t.elsewhere.able(Wish(amounts, target.labels, t.elsewhere.python, target.spreads))


def nodes(t: NodeTables) -> list[KnownNode]:
    """This node and the others."""
    others = () if t.elsewhere is None else t.elsewhere.nodes
    own = NodeRow(
        node=t.config.node_id.hex(),
        total=dict(t.account.total),
        labels=placement.labels_of(t),
        is_driver=t.config.is_driver,
    )
    return [KnownNode(t.config.node_name, own), *others]


def lacks(t: NodeTables, amounts: Amounts, target: Target) -> str:
    """Why no node of the cluster can ever run it, which is for no group's bundle."""
    fitting = [
        known
        for known in nodes(t)
        if not known.row.is_driver
        and (not target.labels or agrees(labels_of(known.row), target.labels))
    ]
    if not fitting:
        return target.why or "no node of the cluster has the labels that it asks for"
    parts = [_most(name, fitting) for name, _ in amounts[:PARTS_MOST]]
    which = "of those that may run it" if target.labels else "of the cluster"
    return f"no node {which} has that ({'; '.join(parts)})"


def _most(name: str, nodes: list[KnownNode]) -> str:
    best = max(nodes, key=lambda known: known.row.total.get(name, 0))
    units = best.row.total.get(name, 0)
    if not units:
        return f"{name}: none has any"
    return f"{name}: the most is {units / UNIT:,.10g}, on {best.name}"


def stays_here(t: NodeTables, amounts: Amounts, target: Target) -> str:
    """Why a task that no other node runs waits for what only others have."""
    total = resources.plain((name, t.account.total.get(name, 0)) for name, _ in amounts)
    has = ", ".join(f"{name} {amount:,.10g}" for name, amount in total.items())
    what = "what makes a list of a generator's items again runs on the node of its caller"
    text = f"{what}, which has {has or 'other labels'}"
    names = able(t, amounts, target)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{text}; {names[0]}{more} could run it" if names else text
