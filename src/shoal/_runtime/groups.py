"""Placement groups as their users see them: resources reserved together.

A ``PlacementGroup`` is a name of a group, nothing more: it may be pickled, and the group does not
end with it. What it reserves, who waits for it and what ends with it is decided by the daemon
(``_core.groups``).

``ready()`` is a call of a function that returns the group, put into a queue that the daemon opens
when the group has its place: so the value is made where the ref was made, the daemon never
unpickles or pickles anything (RULES Z-2), and a group that is removed or can never be makes the ref
an error like any other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from shoal import _native, errors
from shoal._proto import messages
from shoal._runtime import cluster, context, options, strategies
from shoal._runtime import session as sessions
from shoal._runtime.client import Coming
from shoal._runtime.functions import Definition
from shoal._runtime.remote import RemoteFunction

_ID_BYTES = 14
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
NODE_LABELS = ("ray.io/node-id", "shoal.io/node-id")
WAIT_S = 30.0
RESIZES_MOST = 1000
"""So often others may be faster."""


class PlacementGroupID(bytes):
    """The id of a placement group: 14 random bytes, and 4 of the job that made it."""

    def binary(self) -> bytes:
        """The bytes."""
        return bytes(self)

    @classmethod
    def from_hex(cls, text: str) -> PlacementGroupID:
        """The id that ``hex()`` gave."""
        return cls(bytes.fromhex(text))

    def is_nil(self) -> bool:
        """Whether it names no group."""
        return not self

    def __repr__(self) -> str:
        return f"PlacementGroupID({self.hex()})"

    __str__ = __repr__


class PlacementGroup:
    """A handle of a placement group; made by ``placement_group``."""

    def __init__(
        self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None
    ) -> None:
        self.id = id
        self._bundles = bundle_cache
        self._revision = 0
        self._ready: RemoteFunction[..., Any] | None = None
        self._coming: Coming | None = None
        """The answer to who made it: that it has its place."""
        self._is_shared = True
        """Somebody may run something in it, or wait for it, elsewhere than through this handle."""

    @staticmethod
    def empty() -> PlacementGroup:
        """A handle of no group: to run in it is to run in none."""
        return PlacementGroup(PlacementGroupID(), [])

    @property
    def is_empty(self) -> bool:
        """Whether it names no group."""
        return self.id.is_nil()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle reserves, by index; nothing if it was removed.

        A handle knows what it was made with, and what has been changed through it.
        """
        if self._bundles is None:
            self._ask()
        assert self._bundles is not None
        return [dict(bundle) for bundle in self._bundles]

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return sum(map(bool, self.bundle_specs))

    def _ask(self) -> messages.GroupFacts:
        body = messages.GetGroup(group_id=self.id.hex())
        facts = sessions.current().request(body, messages.GroupFacts)
        self._bundles = facts.bundles
        return facts

    def ready(self) -> _native.ObjectRef:
        """Return a ref to this group that is ready once everything is reserved.

        The ref fails with ``GroupRemovedError`` if the group is removed before, and with
        ``UnschedulableError`` if no node can ever have it.

        Example:
            >>> shoal.get(group.ready(), timeout=10)
        """
        self._is_shared = True
        if self._ready is None:
            strategy = messages.GroupReady(self.id.hex(), self._revision)
            given = {"num_cpus": 0, "scheduling_strategy": strategy, "max_retries": -1}
            self._ready = RemoteFunction(None, given, _ITSELF)
        ref: _native.ObjectRef = self._ready.remote(self)
        return ref

    def wait(self, timeout_seconds: float | None = WAIT_S) -> bool:
        """Wait until everything is reserved; False if it is not after ``timeout_seconds``.

        Raises:
            GroupRemovedError: it was removed.
            UnschedulableError: no node can ever have it.
        """
        if timeout_seconds is not None and not options.is_amount(timeout_seconds):
            text = f"timeout_seconds must be None or seconds >= 0, not {timeout_seconds!r}"
            raise errors.OptionError(text, option="timeout_seconds")
        session = sessions.current()
        memory = session.memory
        lends = memory.running != 0
        if lends:
            memory.set_blocked(True)
        try:
            return self._wait(session, timeout_seconds)
        finally:
            if lends:
                memory.set_blocked(False)

    def _wait(self, session: sessions.Session, timeout_s: float | None) -> bool:
        coming = self._coming
        if coming is None:
            body = messages.WaitGroup(self.id.hex(), timeout_s)
            return session.request(body, messages.GroupAnswer).is_ready
        if not coming.wait(timeout_s):
            return False
        self._coming = None
        return session.result(coming, messages.GroupAnswer).is_ready

    def add_bundles(
        self,
        bundles: Sequence[Mapping[str, float]],
        bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
    ) -> list[int]:
        """Reserve more bundles, all of them or none; returns at once.

        The strategy of the group goes for the new ones too: with STRICT_PACK they go to its node.
        What runs in the others goes on; ``wait()`` and ``ready()`` wait for the new ones too.

        Args:
            bundles: What each new bundle is to have.
            bundle_label_selector: For each of them what labels its node must have.

        Returns:
            Their indexes. Indexes stay as they are, and are not used again.

        Raises:
            OptionError: something is wrong with them (a ``ValueError``).
            UnschedulableError: this machine can never have them beside the others, and no other
                can join. In a cluster the group waits for nodes.
            GroupRemovedError: the group was removed.

        Example:
            >>> group = shoal.util.placement_group([{"CPU": 1}])
            >>> group.add_bundles([{"CPU": 0.5}])
            [1]
            >>> group.wait(timeout_seconds=10)
            True
        """
        checked = _check_bundles(bundles)
        rules = _label_rules(bundle_label_selector, len(checked), ())

        def change(facts: messages.GroupFacts) -> messages.GroupFacts:
            known = facts.labels or [()] * len(facts.bundles)
            of_all = [r for r in known[0] if r.operator == "exists" and all(r in k for k in known)]
            added = [(*rule, *of_all) for rule in rules or [()] * len(checked)]
            labels = [*known, *added]
            facts = msgspec.structs.replace(facts, bundles=[*facts.bundles, *checked])
            return msgspec.structs.replace(facts, labels=labels if any(labels) else [])

        count = len(self._resize(change).bundles)
        return [*range(count - len(checked), count)]

    def remove_bundles(self, indexes: Sequence[int]) -> None:
        """Give back some of its bundles, and end what runs in them; the others stay as they are.

        Tasks and actors of such a bundle fail with ``GroupRemovedError``. A task that ran in it and
        may run in any bundle (-1) is run again in another one as if its worker had died, and so is
        an actor that may restart.

        Args:
            indexes: Which; the last one cannot be removed, but the group can.

        Raises:
            OptionError: there is no such bundle, or no other (a ``ValueError``).
            GroupRemovedError: the group was removed.

        Example:
            >>> group = shoal.util.placement_group([{"CPU": 0.5}, {"CPU": 0.5}])
            >>> group.remove_bundles([0])
            >>> group.bundle_specs
            [{}, {'CPU': 0.5}]
        """
        if not isinstance(indexes, Sequence) or isinstance(indexes, str) or not indexes:
            text = f"indexes must be a list of indexes that is not empty, not {indexes!r}"
            raise errors.OptionError(text, option="indexes")
        gone = set(indexes)

        def change(facts: messages.GroupFacts) -> messages.GroupFacts:
            self._bundles = facts.bundles
            for index in indexes:
                if index == -1:
                    raise errors.OptionError("-1 means any bundle: name one", option="indexes")
                check_placement_group_index(self, index)
            left = [{} if at in gone else bundle for at, bundle in enumerate(facts.bundles)]
            if not any(left):
                text = "a group keeps a bundle: remove_placement_group removes it with all of them"
                raise errors.OptionError(text, option="indexes")
            return msgspec.structs.replace(facts, bundles=left)

        self._resize(change)

    def _resize(
        self, change: Callable[[messages.GroupFacts], messages.GroupFacts]
    ) -> messages.GroupFacts:
        """Whoever is faster wins; the other one begins anew with what the group is then."""
        session, me = sessions.current(), os.urandom(8).hex()
        self._is_shared = True
        facts = self._ask()
        for _ in range(RESIZES_MOST):
            wanted = change(facts)
            body = messages.ResizeGroup(
                self.id.hex(), facts.revision + 1, me, wanted.bundles, wanted.labels
            )
            facts = session.request(body, messages.GroupFacts)
            self._bundles = facts.bundles
            if (facts.revision, facts.resized_by) == (body.revision, me):
                self._revision, self._ready, self._coming = facts.revision, None, None
                return facts
        text = f"others have resized {self} {RESIZES_MOST} times, and each time they were faster"
        raise errors.ShoalError(text)

    def check_fits(self, index: int, asked: Mapping[str, float], what: str) -> None:
        """Raise ``OptionError`` unless bundle ``index`` (-1: some bundle) could hold ``asked``."""
        self._is_shared = True
        check_placement_group_index(self, index)
        if not self._fits(index, asked):
            self._ask()  # it may have been resized elsewhere
            check_placement_group_index(self, index)
        if self._fits(index, asked):
            return
        tried = self._meant(index)
        which = "no bundle" if index == -1 else f"bundle {index} does not have as much"
        text = f"{what} asks for {dict(asked)}, and {which} of its placement group"
        raise errors.OptionError(
            f"{text}{' has as much' if index == -1 else ''}: {tried}", option="scheduling_strategy"
        )

    def _meant(self, index: int) -> list[dict[str, float]]:
        bundles = self.bundle_specs
        return [bundle for bundle in bundles if bundle] if index == -1 else [bundles[index]]

    def _fits(self, index: int, asked: Mapping[str, float]) -> bool:
        meant = self._meant(index)
        return any(all(u <= bundle.get(n, 0) for n, u in asked.items()) for bundle in meant)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PlacementGroup):
            return NotImplemented
        return self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> Any:
        self._is_shared = True
        return _restore, (bytes(self.id), self._bundles)

    def __repr__(self) -> str:
        return f"<placement group {self.id.hex()}>"


def _restore(id: bytes, bundles: list[dict[str, float]] | None) -> PlacementGroup:
    return PlacementGroup(PlacementGroupID(id), bundles)


def _itself(group: PlacementGroup) -> PlacementGroup:
    return group


_ITSELF = Definition(_itself, "placement_group.ready")


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
    topology_strategy: Mapping[str, str] | None = None,
) -> PlacementGroup:
    """Reserve several bundles of resources, all or none; returns at once.

    Args:
        bundles: What each bundle is to have: ``[{"CPU": 2, "GPU": 1}, {"CPU": 2}]``.
        strategy: ``"PACK"`` (as None), ``"SPREAD"``, ``"STRICT_PACK"`` (all on one node) or
            ``"STRICT_SPREAD"`` (each on another node).
        name: How ``get_placement_group`` finds it, within the namespace.
        lifetime: ``"detached"`` for a group that outlives this program.
        bundle_label_selector: For each bundle what labels its node must have.
        topology_strategy: Instead of ``strategy``, one for each level of the cluster, named by the
            label that tells its parts: ``{"ray.io/node-id": "SPREAD"}`` is ``strategy="SPREAD"``,
            and with ``{"rack": "STRICT_PACK"}`` all bundles go to nodes that have one value of
            the label ``rack``. Here that is this node, if it has the label.

    Returns:
        A handle. The group lasts until ``remove_placement_group``, or the end of the program.

    Raises:
        OptionError: something is wrong with it (a ``ValueError``).
        GroupAlreadyExistsError: the name is taken (a ``ValueError``).

    Example:
        >>> group = shoal.util.placement_group([{"CPU": 1}, {"CPU": 1}])
        >>> group.wait(timeout_seconds=10)
        True
    """
    checked = _check_bundles(bundles)
    level_rules: tuple[messages.LabelRule, ...] = ()
    if topology_strategy is not None:
        if strategy is not None:
            text = (
                "give strategy or topology_strategy (its ray.io/node-id is the strategy), not both"
            )
            raise errors.OptionError(text, option="topology_strategy")
        strategy, level_rules = _levels(topology_strategy)
    strategy = "PACK" if strategy is None else strategy
    if strategy not in STRATEGIES:
        text = f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}"
        raise errors.OptionError(text, option="strategy", valid=list(STRATEGIES))
    if lifetime not in (None, "detached"):
        text = f"lifetime must be None or 'detached', not {lifetime!r}"
        raise errors.OptionError(text, option="lifetime")
    if not isinstance(name, str):
        raise errors.OptionError(f"name must be a text, not {name!r}", option="name")
    if _soft_target_node_id is not None and strategy != "STRICT_PACK":
        text = "_soft_target_node_id goes together with strategy='STRICT_PACK' only"
        raise errors.OptionError(text, option="_soft_target_node_id")
    session = sessions.current()
    group_id = PlacementGroupID(os.urandom(_ID_BYTES) + session.job.to_bytes(4, "little"))
    body = messages.CreateGroup(
        group_id.hex(),
        checked,
        strategy,
        name=name,
        namespace=session.namespace,
        detached=lifetime == "detached",
        labels=_label_rules(bundle_label_selector, len(checked), level_rules),
        waits=not name and lifetime is None,
    )
    group = PlacementGroup(group_id, checked)
    if body.waits:
        # Nobody can refuse it, so nobody waits for an answer before it has its place.
        group._coming = session.begin(body)
        group._is_shared = False
    else:
        session.request(body, messages.Done)
    return group


def _check_bundles(bundles: Any) -> list[dict[str, float]]:
    if not isinstance(bundles, Sequence) or isinstance(bundles, str) or not bundles:
        text = f"bundles must be a list of dicts that is not empty, not {bundles!r}"
        raise errors.OptionError(text, option="bundles")
    checked = []
    for bundle in bundles:
        good = isinstance(bundle, Mapping) and all(
            isinstance(name, str) and name and options.is_amount(amount)
            for name, amount in bundle.items()
        )
        if not good or not any(bundle.values()):
            text = f"a bundle must name resources and how much of each (> 0 of one), not {bundle!r}"
            raise errors.OptionError(text, option="bundles")
        checked.append(options.rounded(bundle))
    return checked


def _levels(topology: Any) -> tuple[str, tuple[messages.LabelRule, ...]]:
    """Strategy for nodes, and what each node must have, of a ``topology_strategy``."""
    option = "topology_strategy"
    if not isinstance(topology, Mapping) or not all(isinstance(k, str) and k for k in topology):
        text = f"topology_strategy must be a dict of strategies by label, not {topology!r}"
        raise errors.OptionError(text, option=option)
    others = {label: how for label, how in topology.items() if label not in NODE_LABELS}
    if len(topology) - len(others) > 1 or len(others) > 1:
        text = f"topology_strategy has room for ray.io/node-id and one more label, not {topology!r}"
        raise errors.OptionError(text, option=option)
    for label, how in topology.items():
        valid = ["STRICT_PACK"] if label in others else list(STRATEGIES)
        if how not in valid:
            text = f"topology_strategy[{label!r}] must be one of {', '.join(valid)}, not {how!r}"
            raise errors.OptionError(text, option=option, valid=valid)
    nodes = next((how for label, how in topology.items() if label in NODE_LABELS), "PACK")
    return nodes, tuple(strategies.has_label(label) for label in others)


def _label_rules(
    selectors: Any, count: int, of_all: tuple[messages.LabelRule, ...]
) -> list[tuple[messages.LabelRule, ...]]:
    if not selectors:
        return [of_all] * count if of_all else []
    if len(selectors) not in (1, count) or not all(map(strategies.is_selector, selectors)):
        text = f"bundle_label_selector must be a dict of labels for each of the {count} bundles"
        raise errors.OptionError(f"{text}, not {selectors!r}", option="bundle_label_selector")
    rules = [strategies.selector_rules(selector) for selector in selectors]
    rules = rules * count if len(rules) == 1 else rules
    return [(*rule, *of_all) for rule in rules]


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give back what the group reserves, and end what runs in it; may be repeated.

    When it returns, nothing starts in the group any more. Tasks and actors in it fail with
    ``GroupRemovedError``.

    Example:
        >>> group = shoal.util.placement_group([{"CPU": 1}])
        >>> shoal.util.remove_placement_group(group)
    """
    _check_group(placement_group)
    placement_group._coming = None
    session = sessions.current()
    body = messages.RemoveGroup(placement_group.id.hex())
    if placement_group._is_shared:
        session.request(body, messages.Done)
    else:
        session.tell(body)


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Return the group of that name in this program's namespace.

    Raises:
        GroupNotFoundError: there is none (a ``ValueError``).

    Example:
        >>> group = shoal.util.placement_group([{"CPU": 1}], name="pair")
        >>> shoal.util.get_placement_group("pair").id == group.id
        True
    """
    if not isinstance(placement_group_name, str) or not placement_group_name:
        text = f"the name of a placement group is a text, not {placement_group_name!r}"
        raise errors.OptionError(text)
    session = sessions.current()
    body = messages.GetGroup(name=placement_group_name, namespace=session.namespace)
    facts = session.request(body, messages.GroupFacts)
    return PlacementGroup(PlacementGroupID.from_hex(facts.group_id), facts.bundles)


def get_current_placement_group() -> PlacementGroup | None:
    """Return the group that this task or actor runs in, None elsewhere.

    Example:
        >>> shoal.util.get_current_placement_group() is None
        True
    """
    return context.process.group


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """Return what is known of all groups by their ids, or of one: state, bundles, strategy.

    Example:
        >>> group = shoal.util.placement_group([{"CPU": 1}])
        >>> group.wait(timeout_seconds=10)
        True
        >>> shoal.util.placement_group_table(group)["state"]
        'CREATED'
    """
    if placement_group is not None:
        _check_group(placement_group)
    if placement_group is None:
        return _shown_rows(cluster.everywhere("groups"))
    rows = _shown_rows(cluster.table("groups"))
    group_id = placement_group.id.hex()
    if group_id not in rows and _is_known(group_id):
        rows = _shown_rows(cluster.table("groups"))
    found: dict[str, Any] = rows.get(group_id, {})
    return found


def _is_known(group_id: str) -> bool:
    """Whether there is such a group in the cluster: then this node knows it from now on."""
    try:
        sessions.current().request(messages.GetGroup(group_id=group_id), messages.GroupFacts)
    except errors.GroupNotFoundError:
        return False
    return True


def _shown_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    node = sessions.current().node_id.hex()
    return {row["group_id"]: _shown(row, node) for row in rows}


def _shown(row: Mapping[str, Any], node: str) -> dict[str, Any]:
    is_placed = row["state"] == "CREATED"
    bundles = {index: bundle for index, bundle in enumerate(row["bundles"]) if bundle}
    nodes = row.get("nodes") or [node if is_placed else ""] * len(row["bundles"])
    return {
        "placement_group_id": row["group_id"],
        "name": row["name"],
        "bundles": bundles,
        "bundles_to_node_id": {index: nodes[index] for index in bundles},
        "strategy": row["strategy"],
        "state": row["state"],
        "is_detached": row["detached"],
        "stats": {"scheduling_state": "FINISHED" if is_placed else row["reason"] or row["state"]},
    }


def check_placement_group_index(placement_group: PlacementGroup, bundle_index: int) -> None:
    """Raise ``OptionError`` (a ``ValueError``) if the group has no bundle of that index."""
    count = len(placement_group.bundle_specs)
    is_integer = isinstance(bundle_index, int) and not isinstance(bundle_index, bool)
    if is_integer and bundle_index >= count:
        placement_group._ask()  # it may have been resized elsewhere
        count = len(placement_group.bundle_specs)
    if not is_integer or not -1 <= bundle_index < count:
        text = f"the placement group has no bundle {bundle_index!r}: it has {count}"
        raise errors.OptionError(f"{text}, numbered from 0 (-1: any)")
    if bundle_index >= 0 and not placement_group.bundle_specs[bundle_index]:
        raise errors.OptionError(f"bundle {bundle_index} of the placement group was removed")


def _check_group(group: Any) -> None:
    if not isinstance(group, PlacementGroup):
        raise TypeError(f"this needs a PlacementGroup, not a {type(group).__name__}")
