"""What a node tells of itself: its row, whether it could be given back, and what waits on it.

Read from the tables at any time between two steps; nothing here changes anything. Amounts are units
of 1/10000, as in the accounts. What idle workers hold counts as free (RULES S-2).

``kept`` says of how many tasks of each queue the daemon itself looks for a node: they stand in no
queue, and wait as those that do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from shoal._core import guests, placement
from shoal._core.answers import never_runs
from shoal._core.asks import ActorAsk, Asked, GroupAsk
from shoal._core.reactions_jobs import may_run_elsewhere
from shoal._core.resources import Amounts
from shoal._core.tables import NodeTables
from shoal._proto.messages import LabelRule
from shoal._proto.views import Demand, NodeRow, Wish

Row = dict[str, object]
Kept = Mapping[int, int]
NONE_KEPT: Kept = {}
FOR_OTHERS = "this node can never run it, and those that can have no room now"
SHAPES_MOST = 200
"""Different demands that a row may carry; the most numerous ones."""


def row_of(
    t: NodeTables,
    epoch: int,
    number: int,
    python: str = "",
    is_draining: bool = False,
    kept: Kept = NONE_KEPT,
) -> NodeRow:
    """The node as it is now; ``python`` is the minor version of its interpreter."""
    config = t.config
    return NodeRow(
        node=config.node_id.hex(),
        epoch=epoch,
        number=number,
        total=dict(t.account.total),
        free=t.scheduler.held.available(),
        gpus=tuple(max(0, free) for free in t.account.gpus.values()),
        demand=demand_of(t, python, kept),
        labels=placement.labels_of(t),
        python=python,
        is_driver=config.is_driver,
        is_draining=is_draining,
        cores=config.cores,
    )


def is_busy(t: NodeTables) -> bool:
    """Whether anything runs, lives, is reserved or waits here, or a program is attached."""
    has_groups = t.groups.parts or any(not g.is_shared or g.job for g in t.groups.living.values())
    if t.jobs.by_driver or t.actors.living or has_groups or len(t.scheduler.asks):
        return True
    return any(
        queue.entries or any(not each.is_idle for each in queue.attachments.values())
        for queue in t.scheduler.held.queues.values()
        if queue.dead_record is None
    )


def demand_of(t: NodeTables, python: str = "", kept: Kept = NONE_KEPT) -> tuple[Demand, ...]:
    """What waits for room here, equal wishes together, the most numerous first."""
    counts: dict[Wish, int] = {}
    for wish, count in _waiting(t, python, kept):
        counts[wish] = counts.get(wish, 0) + count
    rows = [Demand(wish, count) for wish, count in counts.items()]
    rows.sort(key=lambda row: -row.count)
    return tuple(rows[:SHAPES_MOST])


def _waiting(t: NodeTables, python: str, kept: Kept) -> Iterator[tuple[Wish, int]]:
    for queue in t.scheduler.held.queues.values():
        if queue.target.group:
            continue  # what it waits for is asked for by its group
        count = queue.entries + kept.get(queue.queue, 0)
        if count and (wish := guests.wish_of(t, queue, python)) is not None:
            yield wish, count
    for ask in t.scheduler.asks.values():
        if isinstance(ask, GroupAsk) and ask.who in t.groups.living:
            yield from ((Wish(bundle), 1) for bundle in ask.bundles)
        elif isinstance(ask, ActorAsk) and not ask.target.group:
            yield Wish(ask.amounts, ask.target.labels, python), 1


def waiting_rows(t: NodeTables, kept: Kept = NONE_KEPT) -> list[Row]:
    """What waits, for people and for the autoscaler: with the reason why it is not met here."""
    rows: list[Row] = []
    for queue in t.scheduler.held.queues.values():
        count = queue.entries + kept.get(queue.queue, 0)
        if queue.dead_record is None and count:
            why = queue.target.why or _why_short(t, queue.amounts, queue.is_feasible)
            if may_run_elsewhere(t, queue):
                why = FOR_OTHERS
            rows.append(_row("task", queue.job, queue.amounts, count, why))
            rows[-1]["labels"] = _plain(queue.target.labels)
    asks: dict[tuple[object, ...], tuple[Asked, int]] = {}
    for ask in t.scheduler.asks.values():
        if isinstance(ask, GroupAsk) and ask.who not in t.groups.living:
            continue  # the node of whoever made the group says that it waits
        bundles = ask.bundles if isinstance(ask, GroupAsk) else None
        key = (ask.job, ask.amounts, bundles, ask.target, _bundle_labels(t, ask))
        asks[key] = (ask, asks.get(key, (ask, 0))[1] + 1)
    for ask, count in asks.values():
        is_possible = ask.who not in t.scheduler.asks.impossible
        why = ask.target.why or _why_short(t, ask.amounts, is_possible)
        is_for_others = isinstance(ask, ActorAsk) and not is_possible and t.elsewhere is not None
        if is_for_others and never_runs(t, ask.amounts, ask.target) is None:
            why = FOR_OTHERS
        kind = "actor" if isinstance(ask, ActorAsk) else "group"
        row = _row(kind, ask.job, ask.amounts, count, why)
        row["labels"] = _plain(ask.target.labels)
        if isinstance(ask, GroupAsk):
            row["bundles"] = [dict(bundle) for bundle in ask.bundles]
            group = t.groups.living.get(ask.who)
            row["strategy"] = "PACK" if group is None else group.spec.strategy
            row["bundle_labels"] = [_plain((rules,)) for rules in _bundle_labels(t, ask)]
        rows.append(row)
    return rows


def _bundle_labels(t: NodeTables, ask: Asked) -> tuple[tuple[LabelRule, ...], ...]:
    """For each bundle of a group what its node must be like; empty: anything."""
    group = t.groups.living.get(ask.who)
    if group is None or not group.spec.labels:
        return ()
    return tuple(tuple(group.spec.labels[index]) for index in group.missing)


def _plain(alternatives: Iterable[tuple[LabelRule, ...]]) -> list[object]:
    """Rules as tables carry them."""
    return [
        [[rule.key, rule.operator, list(rule.values)] for rule in rules] for rules in alternatives
    ]


def _row(kind: str, job: int, amounts: Amounts, count: int, why: str) -> Row:
    return {
        "kind": kind,
        "job": job,
        "units": dict(amounts),
        "count": count,
        "labels": [],
        "why": why,
    }


def _why_short(t: NodeTables, amounts: Amounts, is_possible: bool) -> str:
    """Why it cannot have that now."""
    if not is_possible:
        short = [name for name, units in amounts if units > t.account.total.get(name, 0)]
        what = ", ".join(short)
        return f"no node has so much {what}" if what else "no node can ever have that"
    missing = t.account.missing(amounts)
    if missing:
        return f"all {', '.join(sorted(missing))} is in use"
    return "a worker is being started, or its environment is being made"
