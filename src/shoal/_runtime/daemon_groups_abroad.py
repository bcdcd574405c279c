"""Placement groups across nodes, as one daemon has them: between its machine and the control store.

``_core.shared_groups`` says what a node knows and has of a group, ``_core.members.groups`` decides
at the store where bundles are; ``MemberMachine`` repeats both sides' words until they have arrived.
This file translates:

======================  =====================================================================
``AskStore``            an ask of the store; its answer and all news are ``GroupTold``
``ReserveBundles``      ``BundlesWanted``, answered by ``SayReserved``
``OpenBundles``         ``BundlesOpened``
``FreeBundles``         ``BundlesUnwanted``, answered by ``SayGivenBack``
======================  =====================================================================

1. A group that is made here names this node and its epoch as its root, unless it is detached: the
   store removes it when that is over.
2. What has been reserved or has become free is told to the store soon: somebody may wait for it.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal._core import commands, events
from shoal._core.members import interface as members
from shoal._proto import membership, messages
from shoal._runtime.daemon_cluster import ClusterNode, GroupOrder


class GroupsAbroad:
    """Groups of the cluster, on one node."""

    def __init__(self, cluster: ClusterNode, post: Callable[[events.AnyEvent], None]) -> None:
        self._cluster = cluster
        self._post = post
        cluster.groups_told = self._follow

    def end(self, reason: str) -> None:
        """This node's epoch is over."""
        self._post(events.GroupsOver(reason))

    # ---- what the machine says
    def perform_ask_store(self, command: commands.AskStore) -> None:
        """Ask the store, whenever there is a way."""
        body, ticket = command.body, command.ticket
        ask: membership.AskBody
        if isinstance(body, messages.CreateGroup):
            ask = self._spec_of(body)
        elif isinstance(body, messages.GetGroup):
            ask = membership.FindGroup(body.group_id, body.name, body.namespace)
        elif isinstance(body, messages.ResizeGroup):
            ask = membership.ResizeGroup(
                body.group_id, body.revision, body.resized_by, body.bundles, body.labels
            )
        else:
            ask = membership.RemoveGroup(body.group_id)
        self._cluster.ask(ask, lambda told: self._told(ticket, told))

    def perform_say_reserved(self, command: commands.SayReserved) -> None:
        """They are reserved, or cannot be."""
        answer = members.BundlesDecided(command.order, command.is_accepted, command.why)
        self._cluster.happened(answer)
        self._cluster.ask_room()

    def perform_say_given_back(self, command: commands.SayGivenBack) -> None:
        """They are the node's again."""
        self._cluster.happened(members.BundlesFreed(command.group_id, command.request))
        self._cluster.ask_room()

    def _spec_of(self, body: messages.CreateGroup) -> membership.GroupSpec:
        rows = self._cluster.rows
        return membership.GroupSpec(
            group_id=body.group_id,
            bundles=body.bundles,
            strategy=body.strategy,
            name=body.name,
            namespace=body.namespace,
            detached=body.detached,
            labels=body.labels,
            root="" if body.detached else rows.node_id,
            root_epoch=0 if body.detached else rows.epoch,
        )

    # ---- what the store says
    def _told(self, ticket: int, body: membership.ToldBody) -> None:
        if isinstance(body, membership.GroupFacts):
            self._facts(ticket, body)
        else:
            record = body.record if isinstance(body, messages.Failure) else b""
            self._post(events.GroupTold(ticket, record=record))

    def _facts(self, ticket: int, facts: membership.GroupFacts) -> None:
        if facts.spec is not None:
            spec, nodes = _plain(facts.spec), tuple(facts.places)
            self._post(events.GroupTold(ticket, spec, facts.state, nodes))

    def _follow(self, order: GroupOrder) -> None:
        match order:
            case members.ReserveBundles(number, body):
                spec, indexes = _plain(body.spec), tuple(body.indexes)
                self._post(events.BundlesWanted(number, body.request, indexes, spec))
            case members.OpenBundles(group_id, request):
                self._post(events.BundlesOpened(group_id, request))
            case members.FreeBundles(group_id, request, is_removed):
                self._post(events.BundlesUnwanted(group_id, request, is_removed))
            case members.NewsHeard(membership.GroupFacts() as facts):
                self._facts(0, facts)


_FIELDS = (
    "group_id",
    "bundles",
    "strategy",
    "name",
    "namespace",
    "detached",
    "labels",
    "revision",
    "resized_by",
)


def _plain(spec: membership.GroupSpec) -> messages.CreateGroup:
    """As programs ask for it."""
    return messages.CreateGroup(**{name: getattr(spec, name) for name in _FIELDS})
