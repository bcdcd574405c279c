"""The policies as the control store asks for them: nodes for actors, for groups, for askers.

``Choices`` keeps what those policies need between two questions: dice, and the index of candidates.
Rows come with each question, as the members' tables have them just then (with what has been
ordered and not answered taken off), so a choice is only as old as the rows. It decides nothing
else: names, orders and refusals are the members' own.

One question costs what its policy costs, but ``candidates`` looks at each row once, whether it is
the one that it knows: that is 50 ns a row. With thousands of nodes whoever has the rows tells
``heard`` and ``lost`` of changes and passes no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal._base.config import ForwardingLimits
from shoal._core.policies import actors, spread_groups
from shoal._core.policies.actors import Offer
from shoal._core.policies.candidates import CandidateIndex
from shoal._core.policies.dice import Dice
from shoal._core.policies.spread_groups import Bundle, Plan
from shoal._core.resources import parse
from shoal._proto.membership import GroupSpec, RegisterActor
from shoal._proto.views import Candidates, Demand, NodeRow, Wish


class Choices:
    """Which nodes."""

    def __init__(self, seed: int, limits: ForwardingLimits) -> None:
        self._dice = Dice(seed)
        self._index = CandidateIndex(limits)
        self._asks = 0

    # ---- actors
    def actor(self, spec: RegisterActor, rows: Mapping[str, NodeRow]) -> str:
        """The node to offer it to; "" if there is none now."""
        return self.offer(spec, rows).node

    def offer(self, spec: RegisterActor, rows: Mapping[str, NodeRow]) -> Offer:
        """The same with the reason, if there is none."""
        wish, hold = Wish(parse(spec.place)), parse(spec.hold)
        return actors.offer(list(rows.values()), wish, hold, spec.strategy, self._dice)

    # ---- groups
    def group(
        self,
        spec: GroupSpec,
        missing: Sequence[int],
        fixed: Mapping[int, str],
        rows: Mapping[str, NodeRow],
    ) -> dict[int, str] | None:
        """Nodes for the bundles in ``missing``, when the others are ``fixed``; None: not now."""
        nodes = self.plan(spec, missing, fixed, rows).nodes
        return dict(zip(missing, nodes)) if nodes else None

    def plan(
        self,
        spec: GroupSpec,
        missing: Sequence[int],
        fixed: Mapping[int, str],
        rows: Mapping[str, NodeRow],
    ) -> Plan:
        """The same with the reason, if there are none."""
        bundles = [
            Bundle(parse(spec.bundles[at]), spec.labels[at] if spec.labels else ())
            for at in missing
        ]
        return spread_groups.plan(spec.strategy, bundles, list(rows.values()), [*fixed.values()])

    # ---- candidates
    def heard(self, row: NodeRow) -> None:
        """A node has told how it is."""
        self._index.heard(row)

    def lost(self, node: str) -> None:
        """It is not there any more."""
        self._index.lost(node)

    def candidates(
        self, node: str, demand: Sequence[Demand], rows: Mapping[str, NodeRow]
    ) -> list[Candidates]:
        """What to tell ``node`` of others, for each wish of its demand (RULES S-12)."""
        index = self._index
        if rows:
            for name in [name for name in index.rows if name not in rows]:
                index.lost(name)
            for name, row in rows.items():
                if index.rows.get(name) is not row:
                    index.heard(row)
        self._asks += 1
        # Time here is only for which wish was asked for longest ago: questions count as well.
        return [index.candidates(float(self._asks), node, d.wish, d.count) for d in demand]

    def validate(self) -> None:
        """Assert what must hold of the index."""
        self._index.validate()
