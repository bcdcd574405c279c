"""Which policies the control store of a cluster uses: for actors, for groups, for forwarded work.

``_core.members`` decides *that* something is placed and what follows if it is refused; this file
says *where*, by the policies of ``_core.policies``, from the rows that nodes send with their
renewals. Rows are hints, so nothing here is remembered but what was named to whom.

1. The same rows, times and seed give the same choices.
2. Whom to name to a node with more work than room (RULES S-12) costs what is named: the index takes
   in one row per renewal, and looks for nodes that have gone only when there are fewer than before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal._base.config import ForwardingLimits
from shoal._core.policies import actors, spread_groups
from shoal._core.policies.candidates import CandidateIndex
from shoal._core.policies.dice import Dice
from shoal._core.policies.spread_groups import Bundle
from shoal._core.resources import parse
from shoal._proto.membership import GroupSpec, RegisterActor
from shoal._proto.views import Candidates, Demand, NodeRow, Wish

Rows = Mapping[str, NodeRow]


class ClusterChoices:
    """The choices of one life of the store."""

    def __init__(self, seed: int, limits: ForwardingLimits | None = None) -> None:
        self.now = 0.0
        """Set by whoever steps the machine that asks."""
        self._dice = Dice(seed)
        self._index = CandidateIndex(ForwardingLimits() if limits is None else limits)

    def actor(self, asked: RegisterActor, rows: Rows) -> str:
        """The node that an actor is offered to; "" if none has room now."""
        wish = Wish(parse(asked.place))
        hold = parse(asked.hold)
        return actors.offer(list(rows.values()), wish, hold, asked.strategy, self._dice).node

    def group(
        self, spec: GroupSpec, indexes: Sequence[int], places: Mapping[int, str], rows: Rows
    ) -> dict[int, str] | None:
        """Nodes for the bundles ``indexes`` of a group whose others stand in ``places``."""
        bundles = [
            Bundle(parse(spec.bundles[index]), spec.labels[index] if spec.labels else ())
            for index in indexes
        ]
        standing = [node for node in places.values() if node]
        found = spread_groups.plan(spec.strategy, bundles, list(rows.values()), standing)
        return dict(zip(indexes, found.nodes)) if found.nodes else None

    def candidates(self, node: str, demand: Sequence[Demand], rows: Rows) -> list[Candidates]:
        """Where there may be room for what waits on ``node``, whose renewal has just come."""
        index = self._index
        if len(index.rows) > len(rows):
            for gone in [other for other in index.rows if other not in rows]:
                index.lost(gone)
        if node in rows:
            index.heard(rows[node])
        return [index.candidates(self.now, node, each.wish, each.count) for each in demand]
