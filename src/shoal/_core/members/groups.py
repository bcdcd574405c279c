"""Placement groups over nodes: prepared everywhere, then committed everywhere, or not at all.

::

                 1 a place is found              2 all prepared            3 all committed
    PENDING ---------------------> PREPARING ------------------> COMMITTING ----------> CREATED
      ^ ^                             |                             |  ^                   |
      | +---- 5 all given back ---- GIVING BACK <--- 4 one refused, |  |                   |
      |                                               or its node   |  | 7 found again     |
      |                                               is lost       |  |                   |
      |                                                             v  |  6 a node is lost |
      +------------- restart of the store: UNSETTLED           RESCHEDULING <--------------+

    8 it is removed (from any of these): REMOVING --- 9 all given back ---> (tombstone)
   10 it is resized (in any but REMOVING and UNSETTLED): more is missing, or less

A *part* is what one node has of a group under one request: ASKED, PREPARED, COMMITTING, COMMITTED
or RELEASING. What a group is, its parts say (RULES K-7):

1. A request has a number that is given once. Places go out as ``PrepareBundles``, all at once.
2. The point of no return: nobody who has prepared gives it back any more. So a restarted store, to
   which the nodes tell their parts, comes to the same: any COMMITTED part, or all of them PREPARED
   under one request, means that the group has its place; anything else is released.
3. Only now the creator hears that it is there.
6. Its other bundles stay; for the lost ones another request goes the same way, and does not wait
   for new ones (10) that have no place.
8. On disk, until the last part is gone and the creator has heard of it: a group that was removed
   must not come back with a report.
10. What it is to be is one more revision of its spec, on disk before anybody is told; who resized
    an older one is told what there is, and tries again. What is not committed goes the way of 5
    and is asked for again as the group is now. New bundles are placed like lost ones (6). Of a
    removed one nothing is ordered: whoever has it hears the new spec (each node with a part is
    told of changes) and gives it back, and its part goes on without it.

Invariants:

* A bundle that is COMMITTED is in no other part, but one that is RELEASING.
* Before 2 nothing runs in any bundle; from 2 on no bundle is given back while its node lives and
  the group is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from shoal._base.config import LeaseTimes, Limits
from shoal._core import causes
from shoal._core.groups import is_resize
from shoal._core.members.group_table import (
    ASKED,
    COMMITTED,
    COMMITTING,
    HOLDING,
    PREPARED,
    RELEASING,
    GroupTable,
    Part,
    PlacedGroup,
    decode_record,
)
from shoal._core.members.nodes import NOBODY, Creator, units
from shoal._core.members.placing_actors import Scene
from shoal._core.resources import sum_of
from shoal._proto import membership as m
from shoal._proto.messages import Done, Failure
from shoal._proto.views import NodeRow

ChooseGroup = Callable[
    [m.GroupSpec, Sequence[int], Mapping[int, str], Mapping[str, NodeRow]], dict[int, str] | None
]
"""(group, bundles that need a node, nodes of the others, rows) -> nodes; None: no place now."""


class GroupPlaces:
    """Decides about the groups of a cluster."""

    def __init__(
        self, times: LeaseTimes, limits: Limits, choose: ChooseGroup, store_epoch: int
    ) -> None:
        self._times = times
        self._choose = choose
        self.table = GroupTable(limits)
        self._request = store_epoch << 32

    # ---- asks
    def create(self, creator: Creator, spec: m.GroupSpec, scene: Scene) -> m.ToldBody:
        """It is asked for."""
        node = creator[0]
        known = self.table.groups.get(spec.group_id)
        if known is not None:
            if known.creator == NOBODY:
                known.creator = creator
            self.table.watch(known, node, scene.nodes)
            return known.facts()
        if (buried := self.table.tombstones.get(spec.group_id)) is not None:
            scene.out.news(node, buried)
            return buried
        if spec.root and scene.nodes.is_over(spec.root, spec.root_epoch):
            return Failure(causes.job_ended(0, "the node of its driver is gone"))
        if spec.name and (spec.namespace, spec.name) in self.table.by_name:
            return Failure(causes.group_name_taken(spec.name, spec.namespace))
        group = self.table.add(spec, creator, scene.is_settled)
        self.table.watch(group, node, scene.nodes)
        self.table.keep(group, scene.out)
        return group.facts()

    def look_up(self, ask: m.Ask, body: m.FindGroup, scene: Scene) -> m.ToldBody | None:
        """Somebody on another node wants to use it."""
        group_id = body.group_id or self.table.by_name.get((body.namespace, body.name), "")
        group = self.table.groups.get(group_id)
        if group is not None:
            self.table.watch(group, ask.node, scene.nodes)
            return group.facts()
        if group_id in self.table.tombstones:
            return self.table.tombstones[group_id]
        if not scene.is_settled:
            scene.out.again.append(ask)
            return None
        return Failure(causes.group_not_found(body.name, body.namespace, body.group_id))

    def remove(self, ask: m.Ask, body: m.RemoveGroup, scene: Scene) -> m.ToldBody | None:
        """Edge 8."""
        group = self.table.groups.get(body.group_id)
        if group is not None:
            if not group.is_removed:
                self._remove(group, scene)
            return Done()
        if not scene.is_settled and body.group_id not in self.table.tombstones:
            scene.out.again.append(ask)
            return None
        return Done()

    def resize(self, ask: m.Ask, body: m.ResizeGroup, scene: Scene) -> m.ToldBody | None:
        """Edge 10; to repeat it is harmless."""
        group = self.table.groups.get(body.group_id)
        if not scene.is_settled or (group is not None and not group.is_settled):
            scene.out.again.append(ask)
            return None
        if group is None or group.is_removed:
            buried = self.table.tombstones.get(body.group_id)
            facts = group.facts() if group is not None else buried
            return facts or Failure(causes.group_not_found("", "", body.group_id))
        self.table.watch(group, ask.node, scene.nodes)
        is_next = body.revision == group.spec.revision + 1
        if not is_next or not is_resize(group.spec.bundles, body.bundles):
            return group.facts()
        fields = ("revision", "resized_by", "bundles", "labels")
        news = {name: getattr(body, name) for name in fields}
        group.spec = msgspec.structs.replace(group.spec, **news)
        self.table.keep(group, scene.out)
        for part in list(group.parts.values()):
            self.table.watch(group, part.node, scene.nodes)
            if part.state in (ASKED, PREPARED) or part.loses_all(group.wanted):
                self._release(group, part, scene)
        group.tries = 0
        is_releasing = any(part.state == RELEASING for part in group.parts.values())
        if group.missing and not is_releasing:  # else edge 5 asks for it
            self.table.pauses.set(group.spec.group_id, None)
            self.table.waiting[group.spec.group_id] = None
        self._tell(group, scene)
        return group.facts()

    # ---- facts
    def prepared(self, node: str, fact: m.BundlesPrepared, scene: Scene) -> None:
        """A node has reserved its bundles, or cannot."""
        group, part = self.table.at(node, fact.group_id, fact.request)
        if group is None or part is None or part.order != fact.order:
            return
        part.order = 0
        if fact.is_accepted:
            part.state = PREPARED
            self._advance(group, scene)
            return
        self.table.drop(group, part)
        self._back_out(group, scene)

    def committed(self, node: str, fact: m.BundlesCommitted, scene: Scene) -> None:
        """A node knows that the group has its place."""
        group, part = self.table.at(node, fact.group_id, fact.request)
        if group is not None and part is not None and part.state == COMMITTING:
            part.order, part.state = 0, COMMITTED
            group.had.update(part.indexes)
            group.was_there = group.was_there or group.state == "CREATED"
            self._tell(group, scene)

    def released(self, node: str, fact: m.BundlesReleased, scene: Scene) -> None:
        """A node has its bundles back."""
        group, part = self.table.at(node, fact.group_id, fact.request)
        if group is not None and part is not None and part.state == RELEASING:
            self.table.drop(group, part)
            self._given_back(group, scene)

    def took(self, node: str, facts: m.GroupFacts, scene: Scene) -> None:
        """A node has heard this news."""
        if facts.state != "REMOVED":
            return
        group = self.table.groups.get(facts.group_id)
        if group is not None and group.creator[0] == node:
            group.is_known = True
        elif facts.group_id in self.table.graves_of(node):
            self.table.level(facts.group_id, scene.out)

    # ---- nodes
    def node_lost(self, node: str, epoch: int, scene: Scene) -> None:
        """Its parts are gone with it (edges 4 and 6), and so are groups of its programs."""
        for group in self.table.groups.values():
            group.watchers.pop(node, None)
        for group_id in list(self.table.on_node.pop(node, ())):
            group = self.table.groups[group_id]
            lost = [part for part in group.parts.values() if part.node == node]
            for part in lost:
                del group.parts[part.node, part.request]
            self._after_loss(group, lost, scene)
        for group_id in self.table.graves_of(node):
            self.table.level(group_id, scene.out)
        for group in list(self.table.groups.values()):
            spec = group.spec
            if (spec.root, spec.root_epoch) == (node, epoch) and not group.is_removed:
                self._remove(group, scene)

    def _after_loss(self, group: PlacedGroup, lost: list[Part], scene: Scene) -> None:
        if group.is_removed or not group.is_settled:
            self._given_back(group, scene)
        elif any(part.state in (ASKED, PREPARED) for part in lost):
            self._back_out(group, scene)
        elif any(part.state in (COMMITTING, COMMITTED) for part in lost):
            self.table.waiting[group.spec.group_id] = None
            self._tell(group, scene)
        else:
            self._given_back(group, scene)

    def reported(self, node: str, whole: m.Whole, scene: Scene) -> None:
        """What a node has, told to this life of the store for the first time."""
        for found in whole.bundles:
            spec = found.spec
            group = self.table.groups.get(spec.group_id)
            if group is None and not spec.detached and spec.group_id not in self.table.tombstones:
                group = self.table.add(spec, NOBODY, is_settled=False)
                self.table.keep(group, scene.out)
            if group is None:
                # Removed, or detached and unknown to the disk: nobody wants it any more.
                body = m.ReleaseBundles(spec.group_id, found.request, is_removed=True)
                scene.out.order(node, body)
                continue
            if spec.revision > group.spec.revision:  # this disk has not kept what it was told
                group.spec = spec
                self.table.keep(group, scene.out)
            state = COMMITTED if found.is_committed else PREPARED
            part = self.table.put(group, Part(node, found.request, list(found.indexes), state))
            if found.is_committed:
                group.had.update(part.indexes)
            if group.is_removed:
                self._release(group, part, scene)
            elif spec.revision < group.spec.revision:
                self.table.watch(group, node, scene.nodes)
                scene.out.news(node, group.facts())
        claimed = set(whole.watched)
        for group_id in whole.watched:
            if (watched := self.table.groups.get(group_id)) is not None:
                self.table.watch(watched, node, scene.nodes)
                scene.out.news(node, watched.facts())
            elif group_id in self.table.tombstones:
                scene.out.news(node, self.table.tombstones[group_id])
        for group_id in self.table.graves_of(node):
            if group_id not in claimed:
                self.table.level(group_id, scene.out)
        for group in self.table.groups.values():
            if group.creator[0] == node and group.spec.group_id not in claimed:
                group.is_known = True

    def settled(self, scene: Scene) -> None:
        """Every node that could have a part has spoken, or is over (RULES K-7)."""
        for group in list(self.table.groups.values()):
            if group.is_settled:
                continue
            group.is_settled = True
            spec = group.spec
            if group.is_removed:
                self._given_back(group, scene)
            elif spec.root and scene.nodes.is_over(spec.root, spec.root_epoch):
                self._remove(group, scene)
            else:
                self._settle(group, scene)

    def _settle(self, group: PlacedGroup, scene: Scene) -> None:
        for part in list(group.parts.values()):
            if part.loses_all(group.wanted):
                self._release(group, part, scene)
        # A bundle that two parts have was being placed again: one that is committed is right, else
        # the newer one; the order to release the other had not arrived.
        having = [part for part in group.parts.values() if part.state != RELEASING]
        parts = sorted(having, key=lambda p: (p.state == COMMITTED, p.request), reverse=True)
        taken: set[int] = set()
        for part in parts:
            if taken.isdisjoint(part.indexes):
                taken.update(part.indexes)
            else:
                self._release(group, part, scene)
        requests = {part.request for part in group.parts.values() if part.state == PREPARED}
        is_whole = len(group.held((PREPARED,))) == len(group.wanted) and len(requests) == 1
        group.was_there = bool(group.held((COMMITTED,)))
        group.was_created = is_whole or group.was_there
        if is_whole:
            self._commit(group, scene)
        elif group.was_created:
            # Those that are prepared take the place of what was lost.
            self._commit(group, scene)
            if group.missing:
                self.table.waiting[group.spec.group_id] = None
        else:
            self._back_out(group, scene)
        self._tell(group, scene)

    # ---- placing
    def place(self, scene: Scene) -> None:
        """Look for places of those that have none, or have lost a part."""
        for group_id in self.table.pauses.due(scene.now):
            self.table.waiting[group_id] = None
        if not self.table.waiting:
            return
        rooms = scene.nodes.rooms()
        for group_id in list(self.table.waiting):
            group = self.table.groups[group_id]
            if not group.missing:
                del self.table.waiting[group_id]
                continue
            if any(part.state in (ASKED, PREPARED) for part in group.parts.values()):
                continue
            fixed = group.held(HOLDING)
            places = self._choose(group.spec, group.missing, fixed, rooms)
            if places is not None:
                del self.table.waiting[group_id]
            elif group.was_created:
                # What it wants more may never come: what it has lost does not wait for that.
                lost = [index for index in group.missing if index in group.had]
                places = self._choose(group.spec, lost, fixed, rooms) if lost else None
            if places is None:
                continue
            self._prepare(group, places, scene)
            rooms = scene.nodes.rooms()

    def _prepare(self, group: PlacedGroup, places: Mapping[int, str], scene: Scene) -> None:
        """Edge 1."""
        assert set(places) <= set(group.missing)
        self._request += 1
        by_node: dict[str, list[int]] = {}
        for index, node in sorted(places.items()):
            by_node.setdefault(node, []).append(index)
        for node, indexes in by_node.items():
            part = self.table.put(group, Part(node, self._request, indexes, ASKED))
            sizes = [tuple(units(group.spec.bundles[index]).items()) for index in indexes]
            body = m.PrepareBundles(group.spec, self._request, indexes)
            part.order = scene.out.order(node, body, dict(sum_of(sizes)))

    def _advance(self, group: PlacedGroup, scene: Scene) -> None:
        """Edge 2, if all have prepared; of a group that has its place, those who have."""
        if any(part.state == ASKED for part in group.parts.values()):
            return
        assert group.was_created or not group.missing
        group.was_created = True
        group.tries = 0
        self._commit(group, scene)

    def _commit(self, group: PlacedGroup, scene: Scene) -> None:
        for part in group.parts.values():
            if part.state == PREPARED:
                part.state = COMMITTING
                body = m.CommitBundles(group.spec.group_id, part.request)
                part.order = scene.out.order(part.node, body)

    def _back_out(self, group: PlacedGroup, scene: Scene) -> None:
        """Edge 4: give back whatever is not committed; then another try."""
        for part in list(group.parts.values()):
            if part.state in (ASKED, PREPARED):
                self._release(group, part, scene)
        self._given_back(group, scene)

    def _given_back(self, group: PlacedGroup, scene: Scene) -> None:
        """Edges 5 and 9, if nothing is left to be given back."""
        if any(part.state == RELEASING for part in group.parts.values()):
            return
        if group.is_removed:
            if group.is_settled and not group.parts:
                self.table.bury(group, scene.nodes, scene.out)
        elif group.is_settled and group.missing:
            pause_s = self._times.place_retry_s * 2 ** min(group.tries, 10)
            group.tries += 1
            at = scene.now + min(pause_s, self._times.place_retry_most_s)
            self.table.pauses.set(group.spec.group_id, at)

    def _release(self, group: PlacedGroup, part: Part, scene: Scene) -> None:
        """Also of one that has only been asked: it may have prepared since."""
        scene.out.settle(part.node, part.order)
        part.state = RELEASING
        body = m.ReleaseBundles(group.spec.group_id, part.request, group.is_removed)
        part.order = scene.out.order(part.node, body)

    # ---- ends
    def _remove(self, group: PlacedGroup, scene: Scene) -> None:
        """Edge 8."""
        self.table.remove(group)
        for part in list(group.parts.values()):
            self._release(group, part, scene)
        self.table.keep(group, scene.out)
        self._tell(group, scene)
        self._given_back(group, scene)

    def _tell(self, group: PlacedGroup, scene: Scene) -> None:
        facts = group.facts()
        if facts != group.told:
            group.told = facts
            for node in group.watchers:
                scene.out.news(node, facts)

    # ---- the disk
    def restore(self, rows: Iterable[bytes]) -> None:
        """Become what was on disk; where they are the nodes will tell."""
        for data in rows:
            self.table.restore(decode_record(data))

    def validate(self) -> None:
        """Assert the invariants."""
        self.table.validate()
