"""What follows from what happens to placement groups of a cluster; see ``shared_groups``."""

from __future__ import annotations

import msgspec

from shoal._core import causes, elsewhere, placement, reactions_groups, resources
from shoal._core import commands as do
from shoal._core.answers import Commands, refuse
from shoal._core.asks import GroupAsk
from shoal._core.events import (
    BundlesOpened,
    BundlesUnwanted,
    BundlesWanted,
    GroupsOver,
    GroupTold,
    Requested,
)
from shoal._core.groups import Group, GroupWait, facts_of
from shoal._core.policies import spread_groups
from shoal._core.policies.spread_groups import Bundle, Plan
from shoal._core.policies.view import Left
from shoal._core.resources import Account, Grant, parse
from shoal._core.shared_groups import REMOVED, RESERVE_S, Part, SharedGroup, part_name
from shoal._core.store import PutRow
from shoal._core.tables import NodeTables
from shoal._proto import messages as m

WAITS = "the control store looks for its nodes"
LOOK_AGAIN_S = 5.0
"""Whether a group that waits could have a place at all is looked at so often."""
NOT_HERE = "its placement group has no bundle here"


def _row(t: NodeTables, group: SharedGroup) -> Commands:
    return t.write(PutRow("groups", group.group_id, group.row()))


def _ask(t: NodeTables, asked: Requested | None, body: m.Message) -> Commands:
    """Ask the store, for a program or for this node itself."""
    assert isinstance(body, m.CreateGroup | m.GetGroup | m.ResizeGroup | m.RemoveGroup)
    ticket = t.new_ticket()
    t.group_asks[ticket] = asked
    return [do.AskStore(ticket, body)]


# ---- what programs here want
def on_create(t: NodeTables, now: float, event: Requested, body: m.CreateGroup) -> Commands:
    """It is asked for here; the store says whether its name is free, and where it is."""
    job = t.job_of(event.index)
    assert job is not None
    spec = msgspec.structs.replace(body, namespace=body.namespace or job.namespace, waits=False)
    group = SharedGroup(spec, tuple(map(parse, spec.bundles)), job.number, now)
    group.is_watched = True
    t.groups.add(group)
    _stand(t, now, group)
    t.tell(now, group.group_id, f"asked for by process {event.index}")
    if body.waits:
        t.groups.wait(GroupWait(event.index, event.request, group.group_id), None)
    return [*_ask(t, event, spec), *_row(t, group)]


def awaited(t: NodeTables, event: Requested, group_id: str) -> Commands:
    """Who names a group of which the store has not told this node waits until it has; nothing to
    do: it is known."""
    group = t.groups.find(group_id)
    if isinstance(group, SharedGroup) and (group.is_watched or group.record is not None):
        return []
    return _ask(t, event, m.GetGroup(group_id))


def on_get(t: NodeTables, event: Requested, body: m.GetGroup, namespace: str) -> Commands:
    """By name, or of a group that is not known here."""
    return _ask(t, event, msgspec.structs.replace(body, namespace=namespace))


def on_resize(t: NodeTables, event: Requested, body: m.ResizeGroup) -> Commands:
    """The store says whether somebody was faster; its answer is news too."""
    return _ask(t, event, body)


def on_remove(t: NodeTables, now: float, event: Requested, body: m.RemoveGroup) -> Commands:
    """Nothing starts in it here from now on; answered when the store has it on disk."""
    group = t.groups.living.get(body.group_id)
    out = [] if group is None else _end(t, now, group, "")
    return [*out, *_ask(t, event if event.request else None, body)]


def end_with_job(t: NodeTables, now: float, group: Group, reason: str) -> Commands:
    """The job that made it has ended."""
    return [*_end(t, now, group, reason), *_ask(t, None, m.RemoveGroup(group.group_id))]


def _end(t: NodeTables, now: float, group: Group, reason: str) -> Commands:
    record = causes.group_removed(group.group_id, group.name, reason)
    return reactions_groups.end(t, now, group, record, reason)


# ---- what the store says
def on_told(t: NodeTables, now: float, event: GroupTold) -> Commands:
    """News of a group, or the answer to somebody."""
    asked = t.group_asks.pop(event.ticket, None)
    out = [] if event.spec is None else _take_in(t, now, event)
    return out if asked is None else out + _answer(t, now, event, asked)


def _answer(t: NodeTables, now: float, event: GroupTold, asked: Requested) -> Commands:
    done = do.Reply(asked.index, asked.request, m.Done())
    match asked.body:
        case m.CreateGroup(group_id, waits=waits):
            group, out = t.groups.living.get(group_id), []
            if event.record and group is not None:  # who waits is told by this
                out = reactions_groups.end(t, now, group, event.record, "it was refused")
            if waits:
                return out
            return [*out, *(refuse(asked, event.record) if event.record else [done])]
        case m.RemoveGroup():
            return [done]
        case m.ResizeGroup(group_id) if event.state == REMOVED:
            return refuse(asked, causes.group_removed(group_id, "", ""))
        case m.GetGroup() | m.ResizeGroup() if event.spec is not None:
            return [do.Reply(asked.index, asked.request, facts_of(event.spec))]
        case m.GetGroup() | m.ResizeGroup():
            return refuse(asked, event.record)
        case body if event.record:
            return refuse(asked, causes.group_removed(_named(body), "", "nobody knows it"))
    t.retries.append(asked)
    return []


def _named(body: m.Message) -> str:
    """The group that a request is about."""
    match body:
        case m.OpenQueue(strategy=m.InGroup(group_id) | m.GroupReady(group_id)):
            return group_id
        case m.CreateActor(spec=m.ActorSpec(strategy=m.InGroup(group_id))):
            return group_id
        case m.WaitGroup(group_id):
            return group_id
    return ""


def _take_in(t: NodeTables, now: float, event: GroupTold) -> Commands:
    assert event.spec is not None
    group = t.groups.find(event.spec.group_id)
    if group is None:
        group = SharedGroup(event.spec, tuple(map(parse, event.spec.bundles)), 0, now)
        t.groups.add(group)
    assert isinstance(group, SharedGroup)
    group.is_watched = True
    if group.record is not None:
        return []
    if event.state == REMOVED:
        return _end(t, now, group, "")
    if event.spec.revision < group.spec.revision:
        return []  # it was said before the newer one was
    renewed = _renew(t, now, group, event.spec)
    if (event.state, event.nodes) != (group.told_state, group.nodes):
        t.tell(now, group.group_id, f"{event.state} on {', '.join(event.nodes)}")
    group.told(event.state, event.nodes, t.scheduler.node.room)
    out = renewed + _arrange(t, now, group)
    _stand(t, now, group)
    if group.is_placed:
        answer = m.GroupAnswer(is_ready=True)
        waits = t.groups.answered(group.group_id)
        out += [do.Reply(wait.index, wait.request, answer) for wait in waits]
    return out + _row(t, group)


def _stand(t: NodeTables, now: float, group: SharedGroup) -> None:
    """What a group of ours lacks is said among what waits here, for people and autoscalers."""
    t.scheduler.withdraw(group.group_id)
    if group.job and not group.is_placed:
        target = placement.nowhere(WAITS)
        missing = tuple(group.amounts[index] for index in group.missing)
        ask = GroupAsk(group.group_id, group.job, missing, target)
        t.scheduler.asks.add_group(now, ask)


def _arrange(t: NodeTables, now: float, group: SharedGroup) -> Commands:
    """Its bundles here, or what is known of the others, have changed."""
    parts = [part for part in t.groups.parts.values() if part.spec.group_id == group.group_id]
    removed: list[Account] = []
    for part in parts:
        if part.is_open and not part.is_ending:
            removed += part.trim(group.wanted)
    group.arrange(parts)
    out = reactions_groups.end_in(t, now, removed) if removed else []
    t.refused = {key: why for key, why in t.refused.items() if why != NOT_HERE}
    return out + reactions_groups.look_again(t, now, group)


def _renew(t: NodeTables, now: float, group: SharedGroup, spec: m.CreateGroup) -> Commands:
    """There may be a newer revision of it; what follows for its parts ``_arrange`` finds."""
    if spec.revision <= group.spec.revision:
        return []
    t.tell(now, group.group_id, f"resized: revision {spec.revision}")
    removed = group.resize(spec, tuple(map(parse, spec.bundles)))
    group.arrange(())
    return reactions_groups.end_bundles(t, now, group, removed)


# ---- bundles here
def on_wanted(t: NodeTables, now: float, event: BundlesWanted) -> Commands:
    """They stand in the line like a group of this node."""
    part = Part(event.spec, event.order, event.request, event.indexes)
    sizes = tuple(parse(event.spec.bundles[index]) for index in event.indexes)
    ask = GroupAsk(part.who, 0, sizes, t.scheduler.node)
    t.scheduler.asks.add_group(now, ask)
    if part.who in t.scheduler.asks.impossible:
        t.scheduler.withdraw(part.who)
        return [do.SayReserved(event.order, False, "the node never has that much")]
    t.groups.parts[part.who] = part
    t.groups.part_deadlines.set(part.who, now + RESERVE_S)
    return []


def reserved(t: NodeTables, now: float, ask: GroupAsk, grants: list[Grant]) -> Commands:
    """The line has come to them."""
    part = t.groups.parts[ask.who]
    t.groups.part_deadlines.set(part.who, None)
    part.accounts = [t.scheduler.held.accounts.add_bundle(grant) for grant in grants]
    t.tell(now, part.spec.group_id, f"bundles {part.indexes} are reserved here")
    return [do.SayReserved(part.order, True)]


def expire(t: NodeTables, now: float) -> Commands:
    """They have stood in the line for too long."""
    out: Commands = []
    for key in t.groups.part_deadlines.due(now):
        part = t.groups.parts.pop(key)
        t.scheduler.withdraw(part.who)
        out.append(do.SayReserved(part.order, False, "what it asks for is in use"))
    return out


def on_opened(t: NodeTables, now: float, event: BundlesOpened) -> Commands:
    """What waits in them may run."""
    part = t.groups.parts.get(part_name(event.group_id, event.request))
    if part is None or part.is_ending:
        return []
    part.is_open = True
    group, out = t.groups.find(event.group_id), []
    if group is None:
        group = SharedGroup(part.spec, tuple(map(parse, part.spec.bundles)), 0, now)
        t.groups.add(group)
        out = _ask(t, None, m.GetGroup(event.group_id))
    assert isinstance(group, SharedGroup)
    if group.record is not None:
        return out
    out += _renew(t, now, group, part.spec)
    out += _arrange(t, now, group)
    _stand(t, now, group)
    return out


def on_unwanted(t: NodeTables, now: float, event: BundlesUnwanted) -> Commands:
    """What runs in them ends; they are the node's when that is gone."""
    part = t.groups.parts.get(part_name(event.group_id, event.request))
    group = t.groups.living.get(event.group_id)
    out = [] if group is None or not event.is_removed else _end(t, now, group, "")
    if part is None:
        return [*out, do.SayGivenBack(event.group_id, event.request)]
    out += _begin_end(t, now, part)
    if isinstance(group, SharedGroup) and group.record is None:
        out += _arrange(t, now, group)
    return out


def _begin_end(t: NodeTables, now: float, part: Part) -> Commands:
    t.scheduler.withdraw(part.who)
    t.groups.part_deadlines.set(part.who, None)
    part.is_ending = True
    t.groups.part_ends.add(part.who)
    return reactions_groups.kill_in(t, now, part.accounts)


def give_back_due(t: NodeTables) -> Commands:
    """Parts of whose accounts nobody has anything any more."""
    out: Commands = []
    for key in sorted(t.groups.part_ends):
        part = t.groups.parts[key]
        if part.is_held:
            continue
        for account in part.accounts:
            t.scheduler.held.accounts.drop_bundle(account)
        del t.groups.parts[key]
        t.groups.part_ends.discard(key)
        out.append(do.SayGivenBack(part.spec.group_id, part.request))
    return out


def on_over(t: NodeTables, now: float, event: GroupsOver) -> Commands:
    """Every process of this node's epoch is being killed. Groups of its programs are gone with it;
    the others go on elsewhere, and may come back to its next epoch."""
    out: Commands = []
    for group in [each for each in t.groups.living.values() if isinstance(each, SharedGroup)]:
        group.is_forgotten = not group.job or group.spec.detached
        out += _end(t, now, group, event.reason)
    for part in list(t.groups.parts.values()):
        if not part.is_ending:
            out += _begin_end(t, now, part)
    return out


# ---- what no cluster of this shape can have
def chance(t: NodeTables, group: SharedGroup) -> Plan:
    """Whether the nodes that there are could ever have it, and if not, why."""
    labels = group.spec.labels
    bundles = [Bundle(group.amounts[i], labels[i] if labels else ()) for i in group.wanted]
    rows = [known.row for known in elsewhere.nodes(t)]
    return spread_groups.plan(group.spec.strategy, bundles, rows)


def nodes_with_room(t: NodeTables, group: SharedGroup) -> tuple[str, ...]:
    """Names of the nodes that could have one of its bundles."""
    names = []
    for known in elsewhere.nodes(t):
        left = Left.ever(known.row)
        if not known.row.is_driver and any(left.fits(group.amounts[at]) for at in group.wanted):
            names.append(known.name)
    return tuple(names)


def warn(t: NodeTables, now: float, group: SharedGroup, ask: GroupAsk) -> Commands:
    """Its program is told now and then what the cluster lacks."""
    plan = chance(t, group)
    if plan.nodes or plan.is_possible:
        group.why, ask.since = "", now + LOOK_AGAIN_S
        return []
    group.why, ask.since = plan.why, now + reactions_groups.WARN_AGAIN_S
    job = t.jobs.running.get(group.job)
    text = f"placement group {group.name or group.group_id} waits: {group.why}"
    if job is None or job.driver < 0:
        return _row(t, group)
    asked = resources.plain(ask.amounts)
    return [*_row(t, group), do.Notify(job.driver, m.Notice(f"{text} (it asks for {asked})"))]
