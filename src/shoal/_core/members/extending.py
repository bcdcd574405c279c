"""Leases while no store runs (RULES K-1).

Leases are granted by whoever holds the store's lock. That is the store, or, while none runs, its
supervisor on the head machine. The supervisor can only extend: it knows from the journal which
epochs live, answers their renewals, and decides nothing. So the cluster goes on for as long as the
store stays away, and nobody is given up meanwhile.

That is safe because nobody starts anything elsewhere without a store: a store that begins waits
longer than any lease that was granted before it first served, whoever has granted it.

1. It is made from what is on disk after the former store has ended, and thrown away before the next
   one serves: between the two nothing is written.
2. It answers in the name of the last store's life, so nodes tell their whole state only to the
   next.
3. A node that is not a living epoch in the journal gets no answer: the next store will give one.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal._base.config import LeaseTimes
from shoal._core.members.nodes import NODES, NodeTable
from shoal._proto import membership as m


class Extender:
    """Answers renewals instead of the store."""

    def __init__(
        self, store_epoch: int, rows: Iterable[tuple[tuple[str, bytes], bytes]], times: LeaseTimes
    ) -> None:
        self._epoch = store_epoch
        self._nodes = NodeTable(times, store_epoch)
        self._nodes.restore((value for (kind, _), value in rows if kind == NODES), 0.0)

    def answer(self, body: m.ToStore) -> m.ToNode | None:
        """The answer to a renewal of an epoch that lives; None to everything else."""
        if not isinstance(body, m.Renew) or self._nodes.is_over(body.node, body.epoch):
            return None
        return m.Renewed(body.node, body.epoch, body.number, self._epoch)
