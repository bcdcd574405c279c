"""The bridge of one daemon: what comes from other daemons, what is seen in node memory, and what
is lent, put together.

The daemon calls ``receive`` for each row of ``BridgeBody`` and ``HoldsBody`` that a link brings,
``look`` with the rows of the inbox whenever its bell was rung, and ``node_joined`` and
``node_lost`` in the order in which the control store says so. What a node has sent before we have
heard of it waits (somebody else has heard, and gave it a ref of ours). After ``node_lost`` nothing
of that epoch may come: the daemon has its links forget the node first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from shoal._base import clock
from shoal._core import bridge
from shoal._core.remote_ref_events import PeerJoined, PeerLost
from shoal._native import Memory, ObjectRef, Task
from shoal._proto import bridge as rows
from shoal._proto import holds
from shoal._runtime.bridge.actors import RemoteActors
from shoal._runtime.bridge.around import SMALL_BYTES, Surroundings
from shoal._runtime.bridge.lending import Lending
from shoal._runtime.bridge.proxies import Proxies
from shoal._runtime.bridge.pulling import Pulling
from shoal._runtime.bridge.visiting import Visiting

_NOBODY: ContextVar[Task | None] = ContextVar("shoal-lent")
"""What the daemon submits for others has no parent here; nothing is ever set."""
_SIZE = 16
"""Of ``Memory.sight``."""
EARLY_ROWS_MOST = 100_000
"""So much a node may have to say before we have heard of it; more is not believed."""
RAN_MOST = 4096
"""As many tasks as a process remembers events."""
_TASK_ROWS = (
    rows.ForwardTask,
    rows.RecallTask,
    rows.CancelTask,
    rows.TaskRuns,
    rows.TaskReturned,
    rows.TaskEnded,
    rows.StreamItems,
    rows.StreamSeen,
    rows.FreeResults,
    rows.JobEnded,
    rows.LockAsk,
    rows.LockTold,
    rows.NameAsk,
    rows.NameAnswer,
    rows.ActorAsk,
    rows.ActorAnswer,
    rows.HostActor,
    rows.ActorState,
    rows.EndActor,
    rows.GiveActor,
    rows.ActorTaken,
    rows.HomeMoves,
)
_REF_ROWS = (
    holds.HoldRefs,
    holds.RefsHeld,
    holds.DropRefs,
    holds.ConfirmRefs,
    holds.SettleLost,
    holds.LostSettled,
    holds.SealedAtHome,
)


class Bridging:
    """Tasks, calls and objects across nodes, as one daemon has them.

    Args:
        memory: Node memory, of which this process is the daemon.
        node: Its id, in hex.
        epoch: Which life of it.
        around: The daemon and its links.
    """

    def __init__(self, memory: Memory, node: str, epoch: int, around: Surroundings) -> None:
        self._memory = memory
        self._around = around
        memory.run_side_by_side(_NOBODY)  # what is lent ends in any order
        self.machine = bridge.Bridge()
        self.proxies = Proxies(memory, (node, epoch), around)
        self.pulling = Pulling(memory, self.proxies, around)
        parts = (memory, self.proxies, self.pulling, around, self._post)
        self.lending = Lending(*parts)
        self.visiting = Visiting(*parts)
        self.actors = RemoteActors(memory, self.lending)
        self._epochs: dict[str, int] = {}
        self._early: dict[str, list[rows.BridgeBody | holds.HoldsBody]] = {}
        """Rows of nodes that others have heard of before us."""
        self._events: list[bridge.Event] = []
        self._is_stepping = False
        self._carried: list[ObjectRef[Any]] = []
        """Refs to what the row names that is being dealt with."""
        self._said: tuple[float, int | None] = (0.0, None)
        """How long a task ran, and how many more its node takes, as it has just said."""
        self.ran_on: dict[int, str] = {}
        """Who has run the last of our tasks that others have, for people."""
        self._jobs: dict[int, set[str]] = {}
        """Nodes that have had tasks of a job of ours."""
        self._overflows = 0

    # ---- links and nodes
    def receive(self, node: str, body: rows.BridgeBody | holds.HoldsBody) -> None:
        """A row has come."""
        epoch = self._epochs.get(node)
        if epoch is None:
            early = self._early.setdefault(node, [])
            if len(early) < EARLY_ROWS_MOST:
                early.append(body)
            return
        if isinstance(body, _TASK_ROWS):
            self._task_row(node, body)
        elif isinstance(body, _REF_ROWS):
            self.proxies.heard(node, body)
        elif not isinstance(body, rows.PrintedLines):  # which its daemon reads itself
            self.pulling.heard(node, epoch, body)

    def _task_row(self, node: str, body: rows.BridgeBody) -> None:
        match body:
            case rows.FreeResults():
                self.visiting.free_results(node, body)
                return
            case rows.StreamItems():
                refs = self.proxies.arrived(node, rows.names_in(body))
                self.lending.streams.came(node, body, refs)
                return
            case rows.StreamSeen():
                self.visiting.streams.heard(node, body)
                return
            case rows.JobEnded(job, reason):
                self._around.watch.job_ended(node, job, reason)
                self.visiting.job_ended(node, job)
                return
            case rows.ActorState():
                refs = self.proxies.arrived(node, rows.names_in(body))
                self._around.watch.actor_told(node, body, refs)
                return
            case rows.EndActor():
                self._around.watch.actor_ends(node, body)
                return
            case rows.LockAsk() | rows.LockTold():
                self._around.watch.lock_row(node, body)
                return
            case rows.NameAsk() | rows.NameAnswer() | rows.ActorAsk() | rows.ActorAnswer():
                refs = self.proxies.arrived(node, rows.names_in(body))
                self._around.watch.name_row(node, body, refs)
                return
            case rows.HostActor():
                refs = self.proxies.arrived(node, rows.names_in(body))
                self._around.watch.actor_came(node, body, refs)
                return
            case rows.GiveActor() | rows.ActorTaken() | rows.HomeMoves():
                refs = self.proxies.arrived(node, rows.names_in(body))
                self._around.watch.home_row(node, body, refs)
                return
            case rows.TaskRuns(number):
                lending = self.machine.lendings.get(number)
                if lending is not None and lending.node == node:
                    self._around.watch.runs(lending.key)
            case rows.TaskEnded():
                self._said = body.ran_s, body.window
            case rows.TaskReturned():
                self._said = 0.0, body.window
        self._carried = self.proxies.arrived(node, rows.names_in(body))
        self._post(bridge.Heard(node, body))
        self._carried = []
        self._said = 0.0, None

    def open_source(
        self, node: str, name: bytes
    ) -> tuple[memoryview, Callable[[], None]] | str | None:
        """What ``node`` pulls from here by that name, and what to call when it is done."""
        return self.pulling.sources.open(node, name)

    def node_joined(self, node: str, epoch: int, *, is_driver: bool = False) -> None:
        """That life of a node is a member of the cluster now."""
        self._epochs[node] = epoch
        self.proxies.post(PeerJoined(node, epoch))
        self.pulling.node_joined(node, is_driver)
        for body in self._early.pop(node, ()):
            self.receive(node, body)

    def node_leaves(self, node: str) -> None:
        """It is being drained."""
        if node in self._epochs:
            stays = [each.key for each in self.pulling.stays.values() if each.node == node]
            self.pulling.leaving.begin(node, stays)

    def left_behind(self) -> tuple[int, int]:
        """How many values others need of this node that they have not got yet, and their bytes."""
        count, size_bytes = self.visiting.kept_bytes()
        owned = self.proxies.refs.owned
        for key in owned.held():
            sight = self._memory.sight(key)
            if sight is None:
                continue
            is_pending, size = not sight[1], sight[16]
            if not is_pending and size <= SMALL_BYTES and not self._memory.contained(key):
                continue  # they were told it
            places = self.pulling.sources.places(key)
            if is_pending or any(node not in places for node in owned.holders(key)):
                count, size_bytes = count + 1, size_bytes + size
        return count, size_bytes

    def node_lost(self, node: str, *, is_drained: bool = False) -> None:
        """It is declared dead, or has been drained."""
        epoch = self._epochs.pop(node, None)
        self._early.pop(node, None)
        if epoch is None:
            return
        self.actors.lost(node)
        self.proxies.post(PeerLost(node, epoch))
        self.pulling.node_lost(node)
        self.visiting.node_lost(node)
        self._post(bridge.NodeLost(node, is_drained))

    def has_joined(self, node: str) -> bool:
        """Whether it is a member, as far as we have heard."""
        return node in self._epochs

    # ---- node memory
    def look(self, inbox: Iterable[int]) -> None:
        """The bell was rung: rows of the inbox, and whatever was watched."""
        for key in self._memory.completions(0.0):
            self.proxies.sealed(key)
            self.pulling.settled(key)
            self.lending.streams.sealed(key)
            if not self.visiting.streams.sealed(key) and self.machine.is_visit(key):
                self._post(bridge.VisitEnded(key))
        for key in inbox:
            self.proxies.look(key)
            self.pulling.look(key)
        if self._overflows != self._memory.inbox_overflows:
            self._overflows = self._memory.inbox_overflows
            self.proxies.sweep()
            self.pulling.sweep()
        self.actors.look()

    # ---- what the daemon asks for
    def lend(self, key: int, node: str, *, is_final: bool = False) -> bool:
        """Have another node run a queued task; False: it is not there any more, or may not go."""
        if not self.has_joined(node) or not self.lending.claim(key):
            return False
        self.lending.send_off(key, node, is_final=is_final)
        return True

    def keep(self, key: int) -> dict[str, int] | None:
        """Take a queued task out, to be lent or put back: how many bytes of its arguments are where
        (here: the empty node); None: it is not there any more, or may not go."""
        if not self.lending.claim(key):
            return None
        found: dict[str, int] = {}
        for argument in self._memory.contained(key):
            sight = self._memory.sight(argument)
            if sight is not None and sight[_SIZE]:
                node = self.pulling.place_of(argument)
                found[node] = found.get(node, 0) + sight[_SIZE]
        return found

    def lend_kept(self, key: int, node: str, *, is_final: bool) -> None:
        """Have another node run what was kept, or has come back."""
        self.lending.send_off(key, node, is_final=is_final)

    def end_kept(self, key: int) -> None:
        """It goes into its queue here; what was cancelled meanwhile ends."""
        self.lending.put_back(key)

    def end_job(self, job: int, reason: str) -> None:
        """A job of this node has ended: what other nodes do for it is for nobody."""
        for node in sorted(self._jobs.pop(job, ())):
            if node in self._epochs:
                self._around.links.send(node, rows.JobEnded(job, reason))

    def send(self, node: str, body: rows.BridgeBody) -> None:
        """A row without refs, for a peer."""
        if node in self._epochs:
            self._around.links.send(node, body)

    def recall(self, key: int) -> None:
        """Have a lent task back, if it has not been begun."""
        self._post(bridge.RecallAsked(key))

    def cancel(self, key: int, *, recursive: bool, forced: bool, late: bool) -> bool:
        """End a task whose claim is marked; False: it is not lent."""
        if not self.machine.is_lent(key):
            return False
        self._post(bridge.CancelAsked(key, recursive, forced, late))
        return True

    # ---- decisions
    def _post(self, event: bridge.Event) -> None:
        if isinstance(event, bridge.TaskLent) and not self.has_joined(event.node):
            # Its loss is told of one task after the other: whoever hears of the first ones may send
            # the next ones there, and nobody would ever answer.
            self._perform_again(bridge.PutBack(event.key, "its node is lost", event.is_call))
            return
        self._events.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._events:
                for order in self.machine.step(clock.now(), self._events.pop(0)):
                    self._perform(order)
        finally:
            self._is_stepping = False

    def _perform(self, order: bridge.Command) -> None:
        match order:
            case bridge.Send():
                self._around.links.send(order.node, order.body)
            case bridge.SendTask():
                self.lending.perform_send_task(order)
                self._jobs.setdefault(self.lending.job_of(order.key), set()).add(order.node)
            case bridge.TakeResults():
                self.actors.ended(order.key)
                self._note_place(order.key, order.node)
                self._around.watch.over(order.key, *self._said)
                self.lending.perform_take_results(order, self._carried)
            case bridge.RunAgain() | bridge.PutBack():
                self._perform_again(order)
            case bridge.Fail():
                self.actors.ended(order.key)
                self._note_place(order.key, order.node)
                self._around.watch.over(order.key, *self._said)
                self.lending.perform_fail(order)
            case bridge.Begin():
                self.visiting.perform_begin(order, self._carried)
            case bridge.Withdraw():
                self.visiting.perform_withdraw(order)
            case bridge.CancelHere():
                self.visiting.perform_cancel(order)
            case bridge.Report():
                self.visiting.perform_report(order)
            case bridge.DropVisit():
                self.visiting.perform_drop(order)

    def _note_place(self, key: int, node: str) -> None:
        self.ran_on[key] = node
        if len(self.ran_on) > RAN_MOST:
            del self.ran_on[next(iter(self.ran_on))]

    def _perform_again(self, order: bridge.RunAgain | bridge.PutBack) -> None:
        is_begun = isinstance(order, bridge.RunAgain)
        is_charged = isinstance(order, bridge.RunAgain) and order.is_charged
        if order.is_call:
            self.actors.again(order.key, is_charged=is_charged)
        elif is_begun:
            self._around.watch.over(order.key, *self._said)
            again = self.lending.run_again if is_charged else self.lending.put_back
            again(order.key)
        elif not self._around.watch.came_back(order.key, self._said[1]):
            self.lending.put_back(order.key)

    # ---- for tests and people
    def validate(self) -> None:
        """Assert what must always hold."""
        self.machine.validate()
        self.proxies.refs.validate()
