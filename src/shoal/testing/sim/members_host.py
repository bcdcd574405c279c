"""What runs on a simulated node: processes of actors, reserved bundles, and the room they take.

The node's daemon commands it (``members_node``); here it takes its time, refuses now and then what
it could take, and says what has happened. Nothing is decided while the daemon is stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from shoal._core.members import interface as on
from shoal._core.members.actor_table import is_lasting
from shoal._core.resources import Account, Grant, parse
from shoal._proto import membership as m
from shoal._proto.messages import InGroup
from shoal._proto.views import NodeRow

if TYPE_CHECKING:
    from shoal.testing.sim.members import MembersWorld
    from shoal.testing.sim.members_checkers import Life

ActorKey = tuple[str, int]
BundleKey = tuple[str, int]


class Process(msgspec.Struct):
    """One incarnation that runs."""

    offer: m.OfferActor
    grant: Grant
    life: Life
    bundle: BundleKey | None = None
    is_leased: bool = False


class Reserved(msgspec.Struct):
    """Bundles of one request."""

    body: m.PrepareBundles
    grants: dict[int, Grant]
    accounts: dict[int, Account]
    is_open: bool = False


class Around(msgspec.Struct, frozen=True):
    """What a host needs of the daemon beside it."""

    post: Callable[[on.NodeEvent], None]
    after: Callable[[float, Callable[[], None]], None]
    epoch: Callable[[], int]
    may_start: Callable[[m.RegisterActor], bool]
    stopped_s: Callable[[], float]
    """How long the daemon does not run yet."""
    begins: Callable[[m.OfferActor], Life]


class Host:
    """Processes and bundles of one node."""

    def __init__(self, world: MembersWorld, name: str, cpus: float, around: Around) -> None:
        self._world = world
        self._around = around
        self._cpus = cpus
        self.name = name
        self.account = Account({"CPU": cpus})
        self.processes: dict[ActorKey, Process] = {}
        self.bundles: dict[BundleKey, Reserved] = {}
        self.is_stopping = False
        """Everything is being ended."""
        self.specs: dict[str, m.GroupSpec] = {}
        """The last revision that was heard of each group."""

    def row(self) -> None:
        """Tell the machine what is free now."""
        free = {"CPU": self.account.free["CPU"]}
        row = NodeRow(self.name, total={"CPU": self.account.total["CPU"]}, free=free)
        standing = m.Standing(is_busy=bool(self.processes))
        self._around.post(on.RowChanged(row, standing))

    # ---- actors
    def consider(self, command: on.ConsiderOffer) -> None:
        """An actor is offered."""
        chance = self._world.random
        if self._world.is_plain or chance.random() < 0.7:
            self._decide(command)
        else:
            epoch = self._around.epoch()
            delay_s = max(self._world.delay(0.05), self._around.stopped_s())
            self._around.after(delay_s, lambda: self._decide(command, epoch))

    def _decide(self, command: on.ConsiderOffer, epoch: int = 0) -> None:
        if self.is_stopping or epoch not in (0, self._around.epoch()):
            return
        if self._around.stopped_s() > 0:
            self.consider(command)
            return
        offer = command.offer
        spec = offer.spec
        account: Account | None = self.account
        key: BundleKey | None = None
        if isinstance(spec.strategy, InGroup):
            account, key = self._bundle_account(spec.strategy)
        is_unwilling = not self._world.is_plain and self._world.random.random() < 0.1
        if not self._around.may_start(spec):
            is_unwilling = True
        grant = None if account is None or is_unwilling else account.take(parse(spec.hold))
        if grant is None:
            self._around.post(on.OfferDecided(command.order, False, "no room"))
            return
        life = self._around.begins(offer)
        process = Process(offer, grant, life, key, is_lasting(spec))
        self.processes[spec.actor_id, offer.incarnation] = process
        self._around.post(on.OfferDecided(command.order, True))
        self._around.after(self._world.delay(0.02), lambda: self._constructed(process))
        self.row()

    def _bundle_account(self, strategy: InGroup) -> tuple[Account | None, BundleKey | None]:
        for key, reserved in self.bundles.items():
            if key[0] == strategy.group_id and reserved.is_open:
                for index, account in reserved.accounts.items():
                    if strategy.bundle in (-1, index):
                        return account, key
        return None, None

    def _constructed(self, process: Process) -> None:
        key = (process.offer.spec.actor_id, process.offer.incarnation)
        if self.processes.get(key) is not process:
            return
        if not self._world.is_plain and self._world.random.random() < 0.03:
            self._world.oracle.final(process.offer.spec.actor_id)
            self.reap(key, "final")
        else:
            self._around.post(on.ActorUp(*key))

    def reap(self, key: ActorKey, how: str) -> None:
        """Its process has ended."""
        process = self.processes.pop(key, None)
        if process is None:
            return
        process.life.end(self._world.now)
        process.life.how = process.life.how or how
        if not process.grant.is_over:
            process.grant.account.give(process.grant)
        self._around.post(on.ActorDown(*key, how))
        self.row()

    def crash_one(self) -> None:
        """SIGKILL to one of its actors."""
        if self.processes:
            self.reap(self._world.random.choice(list(self.processes)), "crashed")

    def stop_actor(self, command: on.StopActor) -> None:
        """Its process is to end."""
        key = (command.actor_id, command.incarnation)
        if command.how == "drained" and key in self.processes:
            self.processes[key].life.how = "drained"
        self._around.after(self._world.delay(0.03), lambda: self.reap(key, command.how))

    def end_leased(self) -> None:
        """Named and restartable actors end now."""
        for key in [key for key, process in self.processes.items() if process.is_leased]:
            self.reap(key, "lease")

    # ---- bundles
    def reserve(self, command: on.ReserveBundles) -> None:
        """Bundles are to be reserved."""
        if self._world.is_plain or self._world.random.random() < 0.7:
            self._decide_bundles(command)
        else:
            epoch = self._around.epoch()
            delay_s = max(self._world.delay(0.05), self._around.stopped_s())
            self._around.after(delay_s, lambda: self._decide_bundles(command, epoch))

    def _decide_bundles(self, command: on.ReserveBundles, epoch: int = 0) -> None:
        if self.is_stopping or epoch not in (0, self._around.epoch()):
            return
        body = command.body
        sizes = [parse(body.spec.bundles[index]) for index in body.indexes]
        is_unwilling = not self._world.is_plain and self._world.random.random() < 0.1
        grants = None if is_unwilling else self.account.take_all(sizes)
        if grants is None:
            self._around.post(on.BundlesDecided(command.order, False, "no room"))
            return
        by_index = dict(zip(body.indexes, grants))
        accounts = {index: Account.of_bundle(grant) for index, grant in by_index.items()}
        key = (body.spec.group_id, body.request)
        self.bundles[key] = Reserved(body, by_index, accounts)
        self._around.post(on.BundlesDecided(command.order, True))
        self.row()

    def open(self, command: on.OpenBundles) -> None:
        """What waits for these bundles may run."""
        key = (command.group_id, command.request)
        reserved = self.bundles[key]
        reserved.is_open = True
        self._world.oracle.opened(self.name, reserved.body.spec)
        self.heard(reserved.body.spec)

    def news(self, command: on.NewsHeard) -> None:
        """Of an actor or a group."""
        if isinstance(command.body, m.GroupFacts) and command.body.spec is not None:
            self.heard(command.body.spec)

    def heard(self, spec: m.GroupSpec) -> None:
        """A group may have been resized: open bundles that were removed are given back."""
        known = self.specs.get(spec.group_id, spec)
        spec = self.specs[spec.group_id] = max(known, spec, key=lambda each: each.revision)
        for key, reserved in self.bundles.items():
            if key[0] != spec.group_id or not reserved.is_open:
                continue
            for index in [at for at in reserved.grants if not spec.bundles[at]]:
                account = reserved.accounts.pop(index)
                for actor, process in list(self.processes.items()):
                    if process.grant.account is account:
                        self.reap(actor, "final")
                self.account.give(reserved.grants.pop(index))
        self.row()

    def free(self, command: on.FreeBundles) -> None:
        """These bundles are to be given back."""
        key = (command.group_id, command.request)
        self._around.after(self._world.delay(0.03), lambda: self._freed(key))

    def _freed(self, key: BundleKey) -> None:
        reserved = self.bundles.get(key)
        if reserved is None:
            return
        for actor in [k for k, process in self.processes.items() if process.bundle == key]:
            self.reap(actor, "final")
        del self.bundles[key]
        for grant in reserved.grants.values():
            self.account.give(grant)
        self._around.post(on.BundlesFreed(*key))
        self.row()

    # ---- ends
    def end_everything(self) -> None:
        """Every process ends, and then that is said."""
        self.is_stopping = True
        self._around.after(self._world.delay(0.1), self._all_ended)

    def _all_ended(self) -> None:
        now = self._world.now
        for process in self.processes.values():
            process.life.end(now)
        self.processes.clear()
        self.bundles.clear()
        self.account = Account({"CPU": self._cpus})
        self.is_stopping = False
        self.row()
        self._around.post(on.EverythingEnded())

    def end_rest(self) -> None:
        """The time of a drain is up."""
        for key in list(self.processes):
            self._around.after(
                self._world.delay(0.05), functools.partial(self.reap, key, "drained")
            )
