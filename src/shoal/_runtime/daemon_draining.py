"""How the daemon of a node that is being drained gets rid of what it has (RULES A-15).

::

    begin      the machine is told: nothing begins here that another node could do
    look       again and again, until nothing is left or the time is up:
                 tasks of other nodes that have not begun go back to them
                 calls of actors that are to move go back, the last ones first; an actor of which no
                 call is here moves
                 actors whose home is this node get another one (``daemon_homes``)
                 what is left is counted (``Left``), for people and for the store
    nothing    twice in a row: the node has handed everything over, and leaves

Values are fetched by those who need them (``bridge.leaving``). What is left when the time is up
ends with the node: tasks that may run again do so elsewhere, uncharged, as their homes hear that
this node was drained.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal._core import events
from shoal._core.actors import GONE
from shoal._core.node import NodeMachine
from shoal._core.reactions_draining import moving
from shoal._native import Memory
from shoal._proto.membership import Left
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_loop import Loop

LOOK_S = 0.25
TASKS_MOST = 100_000
"""More are not counted."""


class Drainer:
    """The drain of this node."""

    def __init__(
        self,
        loop: Loop,
        memory: Memory,
        machine: NodeMachine,
        cluster: ClusterNode,
        post: Callable[[events.AnyEvent], None],
    ) -> None:
        self._loop = loop
        self._memory = memory
        self._machine = machine
        self._cluster = cluster
        self._post = post
        self.bridging: Bridging | None = None
        self.look_at_homes: Callable[[], None] = lambda: None
        """Goes on with actors whose home is this node (``daemon_homes``)."""
        self._was_nothing = False
        cluster.drain = self.begin

    def begin(self) -> None:
        """This node is to leave."""
        self._post(events.DrainBegun())
        self._look()

    def _look(self) -> None:
        if self.bridging is None:  # the time was up: everything ends
            return
        self.bridging.visiting.give_back()
        for actor in moving(self._machine.tables):
            assert actor.home is not None
            if not self.bridging.visiting.give_back_calls(*actor.home):
                self._post(events.ActorMoves(actor.actor_id))
        self.look_at_homes()
        left = self._left(self.bridging)
        is_news = left != self._cluster.rows.left
        self._cluster.rows.left = left
        if is_news:
            self._cluster.row_changed(is_urgent=left.is_nothing)
        if left.is_nothing and self._was_nothing:
            self._cluster.handed_over()
            return
        self._was_nothing = left.is_nothing
        self._loop.call_later(LOOK_S, self._look)

    def _left(self, bridging: Bridging) -> Left:
        tables = self._machine.tables
        values, size_bytes = bridging.left_behind()
        return Left(
            programs=len(tables.jobs.by_driver),
            tasks=len(self._memory.list_tasks(TASKS_MOST)),
            actors=sum(actor.moves != GONE for actor in tables.actors.living.values()),
            # Bundles for groups of others find another node when this one has left.
            groups=sum(not g.is_shared or g.job > 0 for g in tables.groups.living.values()),
            values=values,
            size_bytes=size_bytes,
        )
