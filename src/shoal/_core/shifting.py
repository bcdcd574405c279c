"""What targets mean now: soft affinities, and a node that is being drained.

``placement`` says what a strategy means when it is asked for; tasks may wait for longer than that
is true. So who waits in a cluster has two targets, what was *meant* and what holds *now*::

    meant: softly on node X      X is there and could ever run it:   nowhere here, labels of X
                                 X is lost, drained, or too small:   as if nothing had been said
    meant: this node             it is being drained, others could:  nowhere here, the same labels

Whoever is told of nodes (``NodesChanged``), or that this one is drained (``DrainBegun``), has all
that waits looked at again (``shift``).

1. The class by which a queue is found has what was meant, and never changes; so tasks that are
   submitted later find the queue of those before them.
2. What no other node could run stays here, also on a node that is being drained: it may still end
   before the time is up. Guests' queues and rooms of groups are never shifted.
3. A node of which nothing is known yet is believed to be able.
"""

from __future__ import annotations

from shoal._core import commands as do
from shoal._core import elsewhere, placement, reactions_actors, reactions_workers
from shoal._core.answers import Commands
from shoal._core.asks import ActorAsk
from shoal._core.queues import ClassQueue
from shoal._core.resources import Amounts, Target
from shoal._core.tables import NodeTables

DRAINED = "this node is being drained"


def now_of(t: NodeTables, amounts: Amounts, meant: Target) -> Target:
    """What ``meant`` leads to as the nodes are."""
    if meant.hosts or meant.group:
        return meant
    target = meant
    if meant.is_soft and not _is_able(t, amounts, meant):
        target = t.scheduler.node
    if t.is_draining and target.room.accounts and elsewhere.able(t, amounts, target):
        away = placement.nowhere(DRAINED)
        return away._replace(labels=target.labels, spreads=target.spreads)
    return target


def _is_able(t: NodeTables, amounts: Amounts, meant: Target) -> bool:
    """Whether the node that a soft affinity names could ever run it."""
    (node,) = meant.labels[0][0].values
    if node == t.config.node_id.hex():
        return t.scheduler.node.room.can_ever(amounts) and not t.is_draining
    if node not in t.others:
        return False
    known = () if t.elsewhere is None else t.elsewhere.nodes
    is_known = any(each.row.node == node for each in known)
    return not is_known or bool(elsewhere.able(t, amounts, meant))


def settle(t: NodeTables, queue: ClassQueue) -> None:
    """A queue that comes to be."""
    queue.target = now_of(t, queue.amounts, queue.meant)


def shift(t: NodeTables, now: float) -> Commands:
    """Nodes have changed: all that waits, and means something else by now."""
    out: Commands = []
    for queue in list(t.scheduler.held.queues.values()):
        if queue.dead_record is None:
            out += _shift_queue(t, now, queue)
        if queue.is_warned and placement.gone(t, queue.target):
            queue.is_warned = False  # it does not wait any more: it fails
    for ask in list(t.scheduler.asks.values()):
        if placement.gone(t, ask.target):
            ask.since = min(ask.since, now)
        if not isinstance(ask, ActorAsk):
            continue
        actor = t.actors.living[ask.actor_id]
        meant = placement.resolve(t, actor.spec.strategy)
        if isinstance(meant, Target) and now_of(t, ask.amounts, meant) != ask.target:
            t.scheduler.withdraw(ask.who)
            out += reactions_actors.ask_worker(t, now, actor, is_settled=not meant.spreads)
    return out


def _shift_queue(t: NodeTables, now: float, queue: ClassQueue) -> Commands:
    target = now_of(t, queue.amounts, queue.meant)
    if target == queue.target:
        return []
    what = target.why or "it may run here"
    t.tell(now, f"queue {queue.queue}", f"is looked at anew: {what}")
    out: Commands = []
    for worker in t.scheduler.retarget(now, queue, target):
        out += reactions_workers.revoke(t, now, worker)
    return [*out, do.Look(queues=(queue.queue,))]
