"""The autoscaler: which nodes are asked for, and which are given back.

It sees what waits in the cluster and what nodes there are, and says what the provider of nodes is
to do (``shoal.cluster.provider`` is the interface). It owns no node: people may start others beside
it, which count as room and are never touched::

                     Launch(request)           joins               nothing needs it for
                                                                   ``idle_timeout_s``
    demand unmet  -------------> requested ----------> alive --------------------------> Drain
    for patience_s                  | |                  | ^                               |
                       LaunchFailed | | joins too late   | +------ DrainRefused (busy) ----+
                                    v v                  |                                 |
                             back-off of its type        | is lost                row says | drained
                                    |                    v                                 v
                                    +-------------> Terminate(instance) <------------------+

1. A node that has joined is given back only when its row says *drained*, that it runs nothing and
   holds no primary copy. A drained node never takes anything again, so rows may be as old as they
   like. Whether a node may be drained is that node's own decision (``DrainRefused``).
2. A request's id is chosen here, and repeated until the provider shows an instance for it:
   repeating is harmless, because a provider makes at most one node for an id. Ids begin with the
   life of this machine, so that another life never means an old one.
3. Never more than ``max_count`` nodes of a type, nor ``nodes_most`` altogether: all that the
   provider shows count until they are gone, and all that was requested.
4. Hysteresis: demand is answered when it has been unmet at every look for ``patience_s``, a node
   goes when at every look for ``idle_timeout_s`` nothing ran there and nothing that waits would
   have been put there, and the node itself says that nothing has run. Looks that are more than
   ``gap_s`` apart begin both anew: a stopped program, or a view that was away, must not make a
   node look idle that nobody looked at.
5. Not more than ``speed`` times the nodes that live (at least ``launches_least``) are on their way
   at once. Below ``min_count`` there is no speed, and patience only for the first look of a life:
   what the provider shows may be a little older than what a former life has asked for.
6. A launch that fails, or has not joined after ``join_timeout_s``, holds back its type, twice as
   long each time; one that joins makes it good again.

What is known survives nothing: another life of this machine takes over what the provider shows,
and what is on its way has ``join_timeout_s`` from then. An instance that is given back because it
did not join may be joining in that very moment; its work is retried like that of any lost node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from shoal._core.autoscaler_fitting import (
    Bin,
    Demand,
    GroupDemand,
    NodeType,
    Outcome,
    Unmet,
    fit,
)
from shoal._core.resources import Amounts

STARTING, RUNNING, ENDING, ENDED = "starting", "running", "ending", "ended"
ALIVE, DRAINING, DRAINED, DEAD = "alive", "draining", "drained", "dead"


class Settings(msgspec.Struct, frozen=True):
    """Times in seconds."""

    types: tuple[NodeType, ...]
    nodes_most: int = 1000
    """Of those that this machine has asked for."""
    idle_timeout_s: float = 300.0
    patience_s: float = 1.0
    gap_s: float = 30.0
    speed: float = 1.0
    launches_least: int = 5
    join_timeout_s: float = 300.0
    repeat_s: float = 10.0
    """After this a request, drain or termination that shows no effect is said again."""
    backoff_s: float = 5.0
    backoff_most_s: float = 300.0
    lost_s: float = 60.0
    """An instance whose node has been lost for so long is given back."""


# ---- what is seen
class NodeRow(msgspec.Struct, frozen=True):
    """One node of the cluster, as the control store shows it."""

    node: str
    total: Amounts
    free: Amounts
    state: str = ALIVE
    request: str = ""
    """Of the launch that made it; empty: somebody else started it."""
    node_type: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    is_busy: bool = False
    """A task runs or an actor lives there, or a bundle is reserved."""
    primaries: int = 0
    """Values whose primary copy is there."""
    idle_s: float = float("inf")
    """Since something ran there, as the node itself says: rows do not show what is short."""


class InstanceRow(msgspec.Struct, frozen=True):
    """One instance, as the provider shows it."""

    instance: str
    request: str
    node_type: str
    state: str
    why: str = ""
    """Why it has ended."""


class Looked(msgspec.Struct, frozen=True):
    """Event: this is how things stand."""

    nodes: tuple[NodeRow, ...]
    instances: tuple[InstanceRow, ...]
    wanted: tuple[Demand | GroupDemand, ...] = ()


class LaunchFailed(msgspec.Struct, frozen=True):
    """Event: the provider cannot do it."""

    request: str
    why: str


class DrainRefused(msgspec.Struct, frozen=True):
    """Event: the node has something to do after all."""

    node: str
    why: str = ""


# ---- what is to be done
class Launch(msgspec.Struct, frozen=True):
    """Command: ask for one node; the same request may come again."""

    request: str
    node_type: str


class Drain(msgspec.Struct, frozen=True):
    """Command: have the node take nothing any more, unless it is busy."""

    node: str
    why: str


class Terminate(msgspec.Struct, frozen=True):
    """Command: give an instance back; the same may come again."""

    instance: str
    why: str


Event = Looked | LaunchFailed | DrainRefused
Command = Launch | Drain | Terminate


class _Request(msgspec.Struct):
    """A node that was asked for and has not joined."""

    node_type: str
    asked_at: float
    said_at: float
    """When it was last said to the provider."""


class _BackOff(msgspec.Struct):
    """A type whose launches fail."""

    failures: int = 0
    until: float = 0.0
    why: str = ""


class AutoscalerMachine:
    """Decides over the nodes of one provider."""

    def __init__(self, settings: Settings, life: str) -> None:
        """``life`` is different at each start of the program."""
        self._settings = settings
        self._life = life
        self._types = {each.name: each for each in settings.types}
        self._number = 0
        self._requests: dict[str, _Request] = {}
        self._joined: set[str] = set()
        """Requests whose node has been seen alive."""
        self._lost_at: dict[str, float] = {}
        """Request -> since when its node, which had joined, has not been alive."""
        self._ended: set[str] = set()
        """Requests that are over: of instances that have ended, or are being given back."""
        self._terminated: dict[str, tuple[float, str]] = {}
        """Instance -> when the provider was last told to take it back, and why."""
        self._idle_since: dict[str, float] = {}
        self._drained_at: dict[str, float] = {}
        """Node -> when it was last told to drain."""
        self._backoffs: dict[str, _BackOff] = {}
        self._looked_at: float | None = None
        self._begun_at: float | None = None
        self._unmet_since: float | None = None
        self.unmet: list[Unmet] = []
        """What waits, as of the last look, and why nothing is done about it."""

    def step(self, now: float, event: Event) -> list[Command]:
        """What is to be done because of ``event``."""
        match event:
            case LaunchFailed(request, why):
                return self._failed(now, request, why)
            case DrainRefused(node):
                self._idle_since.pop(node, None)
                self._drained_at.pop(node, None)
                return []
        return self._look(now, event)

    def on_its_way(self) -> dict[str, int]:
        """How many nodes of each type have been asked for and have not joined."""
        return dict(Counter(request.node_type for request in self._requests.values()))

    def held_back(self, now: float) -> dict[str, tuple[float, str]]:
        """Types of which none is asked for at present: for how long, and why."""
        return {
            name: (each.until - now, each.why)
            for name, each in self._backoffs.items()
            if each.until > now
        }

    # ---- a look
    def _look(self, now: float, seen: Looked) -> list[Command]:
        s = self._settings
        if self._looked_at is not None and not 0 <= now - self._looked_at <= s.gap_s:
            self._idle_since.clear()
            self._drained_at.clear()
            self._unmet_since = None
        if self._begun_at is None:
            self._begun_at = now
        self._looked_at = now
        out = self._take_in(now, seen)
        by_request = {row.request: row for row in seen.nodes if row.request and row.state != DEAD}
        out += self._repeat(now, seen.instances)
        count = self._count(seen)
        room = {name: each.max_count - count[name] for name, each in self._types.items()}
        most = s.nodes_most - sum(count.values())
        for name in self.held_back(now):
            room[name] = 0
        least: list[str] = []
        is_new = now - self._begun_at < s.patience_s
        for name, each in self._types.items() if not is_new else ():
            missing = min(each.min_count - self._staying(name, seen), room[name], most)
            least += [name] * max(0, missing)
            room[name] -= max(0, missing)
            most -= max(0, missing)
        bins = self._bins(seen, least)
        outcome = fit(bins, seen.wanted, s.types, room, most)
        launches = [*least, *self._allowed(now, outcome, seen)]
        for node_type in launches:
            out.append(self._launch(now, node_type))
        self.unmet = [self._explained(now, each) for each in outcome.unmet]
        out += self._shrink(now, seen, by_request, outcome)
        return out

    def _take_in(self, now: float, seen: Looked) -> list[Command]:
        """Who has joined, who is late, who is lost, what has ended."""
        out: list[Command] = []
        alive = {row.request for row in seen.nodes if row.request and row.state != DEAD}
        for request in alive & self._requests.keys():
            self._backoffs.pop(self._requests.pop(request).node_type, None)
        self._joined |= alive
        shown = set()
        for instance in seen.instances:
            request = instance.request
            if instance.state == ENDED:
                if request in self._requests:
                    out += self._failed(now, request, instance.why or "it ended before it joined")
                self._ended.add(request)
                continue
            shown.add(request)
            if request in alive:
                self._lost_at.pop(request, None)
            elif instance.state == ENDING or instance.instance in self._terminated:
                continue
            elif request in self._ended:
                out += self._give_back(now, instance, "its launch had been given up")
            elif request in self._joined:
                since = self._lost_at.setdefault(request, now)
                if now - since >= self._settings.lost_s:
                    out += self._give_back(now, instance, "its node has been lost")
            else:
                asked = self._requests.setdefault(request, _Request(instance.node_type, now, now))
                if now - asked.asked_at >= self._settings.join_timeout_s:
                    why = f"it did not join within {self._settings.join_timeout_s:g} s"
                    out += self._failed(now, request, why)
                    out += self._give_back(now, instance, why)
        self._forget(shown, alive)
        return out

    def _forget(self, shown: set[str], alive: set[str]) -> None:
        """What nobody shows any more is over."""
        known = shown | alive
        self._joined &= known
        self._ended &= shown | self._requests.keys()
        self._lost_at = {each: at for each, at in self._lost_at.items() if each in shown}

    def _repeat(self, now: float, instances: Sequence[InstanceRow]) -> list[Command]:
        """Say again what had no effect."""
        out: list[Command] = []
        repeat_s = self._settings.repeat_s
        shown = {each.request for each in instances}
        for request, asked in list(self._requests.items()):
            if request in shown:
                continue
            if now - asked.asked_at >= self._settings.join_timeout_s:
                out += self._failed(now, request, "the provider shows nothing for it")
            elif now - asked.said_at >= repeat_s:
                asked.said_at = now
                out.append(Launch(request, asked.node_type))
        running = {each.instance for each in instances if each.state in (STARTING, RUNNING)}
        for instance, (said_at, why) in list(self._terminated.items()):
            if instance not in running:
                del self._terminated[instance]
            elif now - said_at >= repeat_s:
                self._terminated[instance] = (now, why)
                out.append(Terminate(instance, why))
        return out

    def _count(self, seen: Looked) -> Counter[str]:
        """Nodes of each type that there are or will be (rule 3), whoever shows them first."""
        found = {each.request: each.node_type for each in seen.instances}
        over = {each.request for each in seen.instances if each.state == ENDED}
        for row in seen.nodes:
            if row.request and row.state != DEAD:
                found.setdefault(row.request, row.node_type)
        for request, asked in self._requests.items():
            found.setdefault(request, asked.node_type)
        return Counter(name for request, name in found.items() if request not in over)

    def _staying(self, node_type: str, seen: Looked) -> int:
        """Nodes of a type that are there or on their way, and not on their way out."""
        alive = {row.request for row in seen.nodes if row.state == ALIVE and row.request}
        going = {each.request for each in seen.instances if each.instance in self._terminated}
        living = sum(
            each.node_type == node_type and each.state in (STARTING, RUNNING)
            for each in seen.instances
            if each.request in alive - going
        )
        return living + self.on_its_way().get(node_type, 0)

    def _bins(self, seen: Looked, least: Sequence[str]) -> list[Bin]:
        """Where what waits could go: what lives, what is on its way, what is asked for anyway."""
        bins = [
            Bin(row.node, row.node_type, row.total, row.free, dict(row.labels))
            for row in seen.nodes
            if row.state == ALIVE
        ]
        coming = [(request, asked.node_type) for request, asked in self._requests.items()]
        coming += [(f"{self._life} least {number}", name) for number, name in enumerate(least)]
        for name, node_type in coming:
            if (kind := self._types.get(node_type)) is not None:
                bins.append(Bin(name, node_type, kind.total, labels=dict(kind.labels)))
        return bins

    # ---- growing
    def _allowed(self, now: float, outcome: Outcome, seen: Looked) -> list[str]:
        """What of the missing nodes is asked for now (rules 4 and 5)."""
        if not outcome.new:
            self._unmet_since = None
            return []
        if self._unmet_since is None:
            self._unmet_since = now
        if now - self._unmet_since < self._settings.patience_s:
            return []
        living = sum(row.state == ALIVE for row in seen.nodes)
        most = max(self._settings.launches_least, int(self._settings.speed * living))
        return outcome.new[: max(0, most - len(self._requests))]

    def _launch(self, now: float, node_type: str) -> Launch:
        self._number += 1
        request = f"{self._life}-{self._number}"
        self._requests[request] = _Request(node_type, now, now)
        return Launch(request, node_type)

    def _failed(self, now: float, request: str, why: str) -> list[Command]:
        asked = self._requests.pop(request, None)
        if asked is None:
            return []
        self._ended.add(request)
        backoff = self._backoffs.setdefault(asked.node_type, _BackOff())
        if backoff.until <= now:  # else it is one of several that were under way together
            backoff.failures += 1
            pause_s = self._settings.backoff_s * 2.0 ** min(backoff.failures - 1, 30)
            backoff.until = now + min(pause_s, self._settings.backoff_most_s)
        backoff.why = why
        return []

    def _explained(self, now: float, unmet: Unmet) -> Unmet:
        """Why nothing is done about it, if a node type could serve it."""
        if unmet.why:
            return unmet
        held = self.held_back(now)
        full = ", ".join(f"{each.max_count} {each.name}" for each in self._settings.types)
        why = f"no more nodes may be asked for (at most {full})"
        if held:
            name, (wait_s, reason) = next(iter(held.items()))
            why = f"node type {name} is held back for {wait_s:.0f} s: {reason}"
        return msgspec.structs.replace(unmet, why=why)

    # ---- shrinking
    def _shrink(
        self, now: float, seen: Looked, by_request: Mapping[str, NodeRow], outcome: Outcome
    ) -> list[Command]:
        out: list[Command] = []
        staying = {name: self._staying(name, seen) for name in self._types}
        rows = {row.node for row in seen.nodes if row.state == ALIVE}
        self._idle_since = {node: at for node, at in self._idle_since.items() if node in rows}
        self._drained_at = {node: at for node, at in self._drained_at.items() if node in rows}
        for instance in sorted(seen.instances, key=lambda each: each.instance):
            row = by_request.get(instance.request)
            if row is None or instance.state not in (STARTING, RUNNING):
                continue
            is_empty = not row.is_busy and not row.primaries
            if row.state == DRAINED and is_empty and instance.instance not in self._terminated:
                out += self._give_back(now, instance, "it is drained")
            elif row.state == ALIVE:
                if not is_empty or row.node in outcome.used:
                    self._idle_since.pop(row.node, None)
                    self._drained_at.pop(row.node, None)
                    continue
                node_type = self._types.get(instance.node_type)
                least = node_type.min_count if node_type is not None else 0
                since = self._idle_since.setdefault(row.node, now)
                if (
                    min(now - since, row.idle_s) >= self._settings.idle_timeout_s
                    and staying.get(instance.node_type, 1) > least
                ):
                    if instance.node_type in staying:
                        staying[instance.node_type] -= 1
                    out += self._drain(now, row.node, now - since)
        return out

    def _drain(self, now: float, node: str, idle_s: float) -> list[Command]:
        said_at = self._drained_at.get(node)
        if said_at is not None and now - said_at < self._settings.repeat_s:
            return []
        self._drained_at[node] = now
        return [Drain(node, f"nothing has needed it for {idle_s:.0f} s")]

    def _give_back(self, now: float, instance: InstanceRow, why: str) -> list[Command]:
        self._ended.add(instance.request)
        if instance.instance in self._terminated:
            return []
        self._terminated[instance.instance] = (now, why)
        return [Terminate(instance.instance, why)]

    # ---- looking at it
    def validate(self) -> None:
        """Assert what holds between steps."""
        assert not self._requests.keys() & self._joined
        assert not self._requests.keys() & self._ended
        assert self._drained_at.keys() <= self._idle_since.keys()
        for request, asked in self._requests.items():
            assert asked.said_at >= asked.asked_at, request
        for backoff in self._backoffs.values():
            assert backoff.failures > 0
