"""What fits where: demand, packed into the nodes that there are and those that could be asked for.

A calculation, not a simulation of the scheduler: it answers "would everything that waits find a
place, and if not, which nodes are missing". The autoscaler asks it at each look::

    bins (nodes, and what is on its way)  +  groups, demands  ->  new types, bins of use, unmet

1. Nothing is put where it does not fit: what is taken from a bin never exceeds what is free there,
   and labels agree (the rules of the scheduler's own strategies).
2. A group has all of its bundles placed or none of them.
3. No more new nodes of a type than ``room`` says, and not more than ``most`` altogether.
4. The same rows give the same outcome: no chance, no order of a set.

How it is packed. Groups come first, those with the largest bundle first: they are the hardest.
Then rows of equal demands, largest first (first-fit decreasing: at most 11/9 of the best possible
number of bins, where one resource counts). Bins in use stand before idle ones, so that an idle node
stays idle if it can, and goes; bins that exist stand before new ones. For what is left a type is
chosen again and again: the one that leaves no accelerator unused, then the one that is filled best.
A row of a million equal tasks costs what one task costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shoal._core.policies.labels import agrees
from shoal._core.resources import UNIT, Amounts, sum_of
from shoal._proto.messages import LabelRule

ORDINARY = ("CPU", "memory", "object_store_memory")
"""What every node has: to leave it unused is no waste."""

_BYTES = ("memory", "object_store_memory")

Rules = tuple[tuple[LabelRule, ...], ...]


class NodeType(msgspec.Struct, frozen=True):
    """A kind of node that can be asked for, and how many of it there may be."""

    name: str
    total: Amounts
    labels: tuple[tuple[str, str], ...] = ()
    min_count: int = 0
    max_count: int = 0


class Demand(msgspec.Struct, frozen=True):
    """``count`` tasks or actors, each of which wants this of one node."""

    amounts: Amounts
    count: int = 1
    rules: Rules = ()
    """Labels: a node must agree with one of the alternatives; none: any node does."""


class GroupDemand(msgspec.Struct, frozen=True):
    """Bundles that want a place together."""

    bundles: tuple[Amounts, ...]
    strategy: str = "PACK"
    rules: tuple[Rules, ...] = ()
    """For each bundle, as of a ``Demand``; empty: any node does."""

    @property
    def parts(self) -> list[tuple[Amounts, tuple[Rules, ...]]]:
        """What one node must have together, and all that it must agree with; each part is for a
        node of its own, or may be."""
        rules = self.rules or ((),) * len(self.bundles)
        if self.strategy == "STRICT_PACK":
            return [(sum_of(self.bundles), rules)]
        return [(amounts, (each,)) for amounts, each in zip(self.bundles, rules)]


class Unmet(msgspec.Struct, frozen=True):
    """What finds no place, and why."""

    what: Demand | GroupDemand
    count: int
    why: str


class Bin:
    """A node, or one that is on its way or could be."""

    __slots__ = ("free", "is_used", "labels", "name", "node_type", "total")

    def __init__(
        self,
        name: str,
        node_type: str,
        total: Amounts,
        free: Amounts | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        """Of the node; empty: it would have to be asked for."""
        self.node_type = node_type
        self.total = dict(total)
        self.free = dict(total if free is None else free)
        self.labels = dict(labels or {})
        self.is_used = False
        """Something was put here."""

    def holds(self, amounts: Amounts, *rules: Rules) -> int:
        """How many of ``amounts`` fit here now, where each of ``rules`` is kept; those that want
        nothing always do."""
        if not all(agrees(self.labels, each) for each in rules):
            return 0
        wanted = [(name, units) for name, units in amounts if units]
        if not wanted:
            return 1 << 40
        return max(0, min(self.free.get(name, 0) // units for name, units in wanted))

    def put(self, amounts: Amounts, count: int = 1) -> None:
        """Take the room of ``count`` times ``amounts``; a negative one gives it back."""
        for name, units in amounts:
            self.free[name] = self.free.get(name, 0) - units * count
        self.is_used = True


class Outcome(msgspec.Struct):
    """What it would take."""

    new: list[str] = []
    """Types of the nodes that are missing, in the order in which they help."""
    used: set[str] = set()
    """Names of bins that something was put into."""
    unmet: list[Unmet] = []
    """What would wait even if all of ``new`` came."""


class _Fit:
    """One calculation."""

    def __init__(
        self, bins: Iterable[Bin], types: Sequence[NodeType], room: Mapping[str, int], most: int
    ) -> None:
        # In use before idle, then nearly full before empty: an idle node stays idle if it can.
        self.bins = sorted(bins, key=lambda bin: (bin.free == bin.total, _filled(bin), bin.name))
        self.types = types
        self.room = dict(room)
        self.most = most
        self.new: list[str] = []

    def begin(self, node_type: NodeType) -> Bin:
        """One more node of that type."""
        self.room[node_type.name] -= 1
        self.most -= 1
        self.new.append(node_type.name)
        bin = _empty(node_type)
        self.bins.append(bin)
        return bin

    def available(self) -> list[NodeType]:
        """Types of which there may be another one."""
        if self.most <= 0:
            return []
        return [each for each in self.types if self.room.get(each.name, 0) > 0]

    # ---- groups
    def place_group(self, group: GroupDemand) -> bool:
        """All of its bundles, or none."""
        if group.strategy == "PACK" and self._put_whole(sum_of(group.bundles), group.rules):
            return True
        before = (len(self.bins), len(self.new), dict(self.room), self.most)
        taken: list[tuple[Bin, Amounts, bool]] = []
        is_apart = group.strategy == "STRICT_SPREAD"
        for amounts, rules in sorted(group.parts, key=lambda part: _size(part[0]), reverse=True):
            bin = self._bin_for(amounts, rules, [bin for bin, _, _ in taken] if is_apart else [])
            if bin is None:
                for other, amount, was_used in reversed(taken):
                    other.put(amount, -1)
                    other.is_used = was_used
                del self.bins[before[0] :], self.new[before[1] :]
                self.room, self.most = before[2], before[3]
                return False
            taken.append((bin, amounts, bin.is_used))
            bin.put(amounts)
        return True

    def _put_whole(self, amounts: Amounts, rules: Sequence[Rules]) -> bool:
        """Pack them into one bin that there is."""
        for bin in self.bins:
            if bin.holds(amounts, *rules):
                bin.put(amounts)
                return True
        return False

    def _bin_for(
        self, amounts: Amounts, rules: Sequence[Rules], not_in: Sequence[Bin]
    ) -> Bin | None:
        """A bin with room for one bundle, new if need be: of the type that it fills best."""
        for bin in self.bins:
            if bin not in not_in and bin.holds(amounts, *rules):
                return bin
        able = [each for each in self.available() if _empty(each).holds(amounts, *rules)]
        if not able:
            return None
        return self.begin(max(able, key=lambda each: _worth(each, [Demand(amounts)]) or _NOTHING))

    # ---- demands
    def place(self, left: list[Demand]) -> list[Demand]:
        """Put them where there is room, then into new nodes; what finds none comes back."""
        for bin in self.bins:
            left = _fill(bin, left)
        while left and (types := self.available()):
            able = [(worth, each) for each in types if (worth := _worth(each, left)) is not None]
            if not able:
                break
            _, node_type = max(able, key=lambda pair: pair[0])
            left = _fill(self.begin(node_type), left)
        return left


def fit(
    bins: Iterable[Bin],
    wanted: Sequence[Demand | GroupDemand],
    types: Sequence[NodeType],
    room: Mapping[str, int],
    most: int,
) -> Outcome:
    """Pack everything; ``room`` says how many more of each type there may be."""
    calculation = _Fit(bins, types, room, most)
    unmet: list[Demand | GroupDemand] = []
    groups = [each for each in wanted if isinstance(each, GroupDemand)]
    groups.sort(key=lambda group: max(map(_size, group.bundles), default=(0, ())), reverse=True)
    unmet += [group for group in groups if not calculation.place_group(group)]
    demands = [each for each in wanted if isinstance(each, Demand) and each.count > 0]
    demands.sort(key=lambda demand: _size(demand.amounts), reverse=True)
    unmet += calculation.place(demands)
    return Outcome(
        new=calculation.new,
        used={bin.name for bin in calculation.bins if bin.is_used and bin.name},
        unmet=[
            Unmet(each, each.count if isinstance(each, Demand) else 1, why_not(each, types))
            for each in unmet
        ],
    )


def why_not(what: Demand | GroupDemand, types: Sequence[NodeType]) -> str:
    """Why no node type can ever serve it; empty: one could, if there were more nodes of it."""
    if isinstance(what, GroupDemand):
        return next((why for part in what.parts if (why := _why_not(*part, types))), "")
    return _why_not(what.amounts, (what.rules,), types)


def _why_not(amounts: Amounts, rules: Sequence[Rules], types: Sequence[NodeType]) -> str:
    if any(_empty(each).holds(amounts, *rules) for each in types):
        return ""
    if not types:
        return "there are no node types that could be asked for"
    able = [each for each in types if _empty(each).holds(amounts)]
    if able:
        return f"no node type with these resources ({_names(able)}) has the labels"
    wanted = ", ".join(f"{units / UNIT:g} {name}" for name, units in amounts)
    return f"no node type has {wanted} ({_names(types)})"


def _names(types: Iterable[NodeType]) -> str:
    return ", ".join(each.name for each in types)


def _empty(node_type: NodeType) -> Bin:
    return Bin("", node_type.name, node_type.total, labels=dict(node_type.labels))


def _fill(bin: Bin, left: list[Demand]) -> list[Demand]:
    """Put as much as fits into ``bin``; what is left, in the same order."""
    rest = []
    for demand in left:
        count = min(demand.count, bin.holds(demand.amounts, demand.rules))
        if count:
            bin.put(demand.amounts, count)
        if count < demand.count:
            rest.append(msgspec.structs.replace(demand, count=demand.count - count))
    return rest


Worth = tuple[int, float, int]
_NOTHING: Worth = (0, 0.0, 0)


def _worth(node_type: NodeType, left: list[Demand]) -> Worth | None:
    """How well one more node of that type would be used: accelerators that nobody asked for count
    against it, then the mean share of its resources that is taken, then how much that is. None: not
    at all."""
    bin = _empty(node_type)
    _fill(bin, left)
    if not bin.is_used:
        return None
    unused = [name for name, units in bin.total.items() if units and bin.free[name] == units]
    wasted = sum(name not in ORDINARY for name in unused)
    taken = sum(bin.total[name] - bin.free[name] for name in bin.total if name not in _BYTES)
    return -wasted, _filled(bin), taken


def _filled(bin: Bin) -> float:
    """The mean share of what it has that is taken."""
    shares = [1 - bin.free.get(name, 0) / units for name, units in bin.total.items() if units]
    return sum(shares) / len(shares) if shares else 0.0


def _size(amounts: Amounts) -> tuple[int, Amounts]:
    """Larger is harder to place: what is not ordinary before what is, then by units."""
    special = sum(units for name, units in amounts if name not in ORDINARY)
    return special * (1 << 20) + dict(amounts).get("CPU", 0), amounts
