"""Which tasks this node has lent to others, and which it runs for them: the machine of one daemon.

::

    home:     TaskLent -> SendTask ... -> TakeResults                   it ended there
                                       -> RunAgain | TakeResults        ... with a crash
                                       -> PutBack                       it was not begun
                                       -> RunAgain | Fail               the node is lost
    abroad:   ForwardTask -> Begin ... VisitBegun ... VisitEnded -> Report
                                   ... VisitRefused -> TaskReturned
              RecallTask -> Withdraw ... Withdrawn -> TaskReturned | TaskRuns

It owns two tables: ``lendings``, by number, what of ours is elsewhere; ``visits``, by (node,
number), what of others is here. Specs, payloads and results pass by the shell; here are names only.

Invariants:

1. A task is in at most one lending. A lending ends with the first ``TaskEnded`` or ``TaskReturned``
   from its own node, or when that node is lost; what comes later, from elsewhere, or of an unknown
   number, is about nothing: only the bytes that were kept for it are let go (RULES L-1).
2. Between a recall and its answer home does nothing with the task (RULES S-11); asking twice is
   asking once.
3. Home decides whether a task is run again: where its retries are left, after a crash, a retryable
   exception, or the loss of the node (RULES L-2). A task that came back unbegun is not charged, nor
   one whose node has been drained.
4. A visit never runs again here and never goes on from here: it is answered exactly once, or not at
   all if its home is lost: then it is cancelled, and its results are nobody's (RULES O-6).
5. Numbers are given once, in the order of the lendings, so calls of one actor that come back
   together are put in order again by them (RULES A-2).
6. Every row that is heard has come from a node that lives; what a lost node has sent before is
   dropped by whoever delivers it (``RemoteRefs``' rule 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

import msgspec

from shoal._proto import bridge as rows
from shoal._proto.bridge import BridgeBody


class BridgeEvent(msgspec.Struct, frozen=True):
    """Base of what happens."""


# ---- at home
class TaskLent(BridgeEvent, frozen=True):
    """The task is the daemon's now (its claim says so) and is to run on ``node``."""

    key: int
    node: str
    retries_left: int
    """-1: any number."""
    is_call: bool = False


class RecallAsked(BridgeEvent, frozen=True):
    """A lent task would be better off elsewhere."""

    key: int


class CancelAsked(BridgeEvent, frozen=True):
    """A lent task is to end: its claim is marked."""

    key: int
    is_recursive: bool = False
    is_forced: bool = False
    is_late: bool = False


# ---- abroad
class VisitBegun(BridgeEvent, frozen=True):
    """It is a task of this node now, ``key``."""

    node: str
    number: int
    key: int


class VisitRefused(BridgeEvent, frozen=True):
    """It can not be run here."""

    node: str
    number: int
    why: str


class VisitEnded(BridgeEvent, frozen=True):
    """The task ``key`` of this node, which is a visit, has its results."""

    key: int


class Withdrawn(BridgeEvent, frozen=True):
    """The answer to ``Withdraw``: whether it had not been begun, and now never will be."""

    node: str
    number: int
    is_taken: bool


# ---- both
class Heard(BridgeEvent, frozen=True):
    """A row has come from ``node``."""

    node: str
    body: BridgeBody


class NodeLost(BridgeEvent, frozen=True):
    """That node is over, for everybody."""

    node: str
    is_drained: bool = False
    """It was to leave: what it had not ended may run again, and that does not count."""


Event = Union[
    TaskLent,
    RecallAsked,
    CancelAsked,
    VisitBegun,
    VisitRefused,
    VisitEnded,
    Withdrawn,
    Heard,
    NodeLost,
]


class BridgeCommand(msgspec.Struct, frozen=True):
    """Base of what is to be done."""


class Send(BridgeCommand, frozen=True):
    """A row without refs, for a peer."""

    node: str
    body: BridgeBody


# ---- at home
class SendTask(BridgeCommand, frozen=True):
    """Send the spec of a lent task as this lending (``ForwardTask``)."""

    node: str
    number: int
    key: int


class TakeResults(BridgeCommand, frozen=True):
    """Write these results and commit the task."""

    key: int
    node: str
    number: int
    results: tuple[rows.Result, ...]


class RunAgain(BridgeCommand, frozen=True):
    """One attempt more, and one retry less. Large results of a crash may lie at ``node``."""

    key: int
    cause: str
    is_call: bool = False
    is_charged: bool = True
    """Else it costs no retry."""


class PutBack(BridgeCommand, frozen=True):
    """Back into its queue, uncharged."""

    key: int
    why: str
    is_call: bool = False


class Fail(BridgeCommand, frozen=True):
    """Its node is lost, and it may not run again."""

    key: int
    node: str
    is_call: bool = False
    is_drained: bool = False


# ---- abroad
class Begin(BridgeCommand, frozen=True):
    """Make a task of this node of it, when its arguments are here: ``VisitBegun`` or
    ``VisitRefused``."""

    node: str
    body: rows.ForwardTask


class Withdraw(BridgeCommand, frozen=True):
    """Take the visit back if it has not been begun: ``Withdrawn``. ``key`` 0: it is no task yet,
    so nothing has to be tried."""

    node: str
    number: int
    key: int


class CancelHere(BridgeCommand, frozen=True):
    """End a task of this node; ``key`` 0: of a visit that is no task yet."""

    node: str
    number: int
    key: int
    is_recursive: bool = False
    is_forced: bool = False
    is_late: bool = False


class Report(BridgeCommand, frozen=True):
    """Send its results home (``TaskEnded``), and keep the bytes of large ones."""

    node: str
    number: int
    key: int


class DropVisit(BridgeCommand, frozen=True):
    """Nobody waits for it any more: let go of all that was kept for it."""

    node: str
    number: int
    key: int


Command = Union[
    Send,
    SendTask,
    TakeResults,
    RunAgain,
    PutBack,
    Fail,
    Begin,
    Withdraw,
    CancelHere,
    Report,
    DropVisit,
]


@dataclass(slots=True)
class Lending:
    """One task of ours on another node."""

    key: int
    node: str
    retries_left: int
    is_call: bool
    is_recalled: bool = False
    """An answer is waited for."""
    since: float = 0.0
    """For people."""
    runs: bool = False
    """It has said so."""


@dataclass(slots=True)
class Visit:
    """One task of another node here."""

    key: int = 0
    """0 until its arguments are here."""
    is_recalled: bool = False


class Bridge:
    """Tasks that run on another node than their home's."""

    def __init__(self) -> None:
        self.lendings: dict[int, Lending] = {}
        self.visits: dict[tuple[str, int], Visit] = {}
        self._number_of: dict[int, int] = {}
        """Of a lent task, its lending."""
        self._visit_of: dict[int, tuple[str, int]] = {}
        """Of a task of this node that is a visit."""
        self._numbers = 0
        self._now = 0.0

    # ---- questions
    def is_lent(self, key: int) -> bool:
        """Whether a task of ours is on another node."""
        return key in self._number_of

    def is_visit(self, key: int) -> bool:
        """Whether a task of this node is another's."""
        return key in self._visit_of

    def lending_of(self, key: int) -> Lending | None:
        """What is known of a task of ours that another node has."""
        return self.lendings.get(self._number_of.get(key, 0))

    # ---- deciding
    def step(self, now: float, event: Event) -> list[Command]:
        """What is to be done after ``event``; time decides nothing, and is told to people."""
        self._now = now
        match event:
            case TaskLent():
                return self._on_lent(event)
            case RecallAsked():
                return self._on_recall_asked(event.key)
            case CancelAsked():
                return self._on_cancel_asked(event)
            case VisitBegun():
                return self._on_visit_begun(event)
            case VisitRefused():
                return self._on_visit_refused(event)
            case VisitEnded():
                return self._on_visit_ended(event.key)
            case Withdrawn():
                return self._on_withdrawn(event)
            case Heard():
                return self._on_heard(event.node, event.body)
            case NodeLost():
                return self._on_node_lost(event.node, event.is_drained)

    # ---- at home
    def _on_lent(self, event: TaskLent) -> list[Command]:
        assert event.key not in self._number_of, "a task is in one place"
        self._numbers += 1
        number = self._numbers
        lending = Lending(event.key, event.node, event.retries_left, event.is_call)
        lending.since = self._now
        self.lendings[number] = lending
        self._number_of[event.key] = number
        return [SendTask(event.node, number, event.key)]

    def _on_recall_asked(self, key: int) -> list[Command]:
        number = self._number_of.get(key)
        if number is None or self.lendings[number].is_recalled:
            return []
        lending = self.lendings[number]
        lending.is_recalled = True
        return [Send(lending.node, rows.RecallTask(number))]

    def _on_cancel_asked(self, event: CancelAsked) -> list[Command]:
        number = self._number_of.get(event.key)
        if number is None:
            return []
        body = rows.CancelTask(number, event.is_recursive, event.is_forced, event.is_late)
        return [Send(self.lendings[number].node, body)]

    def _lending(self, node: str, number: int) -> Lending | None:
        """The lending of this number, if ``node`` may speak of it."""
        lending = self.lendings.get(number)
        return lending if lending is not None and lending.node == node else None

    def _end_lending(self, number: int) -> Lending:
        lending = self.lendings.pop(number)
        del self._number_of[lending.key]
        return lending

    def _on_ended(self, node: str, body: rows.TaskEnded) -> list[Command]:
        if self._lending(node, body.number) is None:
            return self._free_all(node, body)
        lending = self._end_lending(body.number)
        if body.how != rows.ENDED and lending.retries_left != 0:
            cause = "its process died" if body.how == rows.CRASHED else "it raised an exception"
            again = RunAgain(lending.key, f"{cause} on node {node}", lending.is_call)
            return [*self._free_all(node, body), again]
        return [TakeResults(lending.key, node, body.number, body.results)]

    @staticmethod
    def _free_all(node: str, body: rows.TaskEnded) -> list[Command]:
        kept = tuple(i for i, result in enumerate(body.results) if result.data is None)
        return [Send(node, rows.FreeResults(body.number, kept))] if kept else []

    def _on_returned(self, node: str, body: rows.TaskReturned) -> list[Command]:
        if self._lending(node, body.number) is None:
            return []
        lending = self._end_lending(body.number)
        return [PutBack(lending.key, body.why, lending.is_call)]

    # ---- abroad
    def _on_forwarded(self, node: str, body: rows.ForwardTask) -> list[Command]:
        if (node, body.number) in self.visits:
            return []
        self.visits[node, body.number] = Visit()
        return [Begin(node, body)]

    def _on_visit_begun(self, event: VisitBegun) -> list[Command]:
        visit = self.visits.get((event.node, event.number))
        if visit is None:  # its home was lost, or has cancelled it, meanwhile
            return [DropVisit(event.node, event.number, event.key)]
        assert visit.key == 0, "a visit is one task"
        visit.key = event.key
        self._visit_of[event.key] = (event.node, event.number)
        return []

    def _on_visit_refused(self, event: VisitRefused) -> list[Command]:
        if (event.node, event.number) not in self.visits:
            return []
        self._end_visit(event.node, event.number)
        return [Send(event.node, rows.TaskReturned(event.number, event.why))]

    def _on_visit_ended(self, key: int) -> list[Command]:
        place = self._visit_of.get(key)
        if place is None:
            return []
        self._end_visit(*place)
        return [Report(*place, key)]

    def _end_visit(self, node: str, number: int) -> Visit:
        visit = self.visits.pop((node, number))
        self._visit_of.pop(visit.key, None)
        return visit

    def _on_recalled(self, node: str, number: int) -> list[Command]:
        visit = self.visits.get((node, number))
        if visit is None or visit.is_recalled:  # what has ended it is on its way home
            return []
        visit.is_recalled = True
        return [Withdraw(node, number, visit.key)]

    def _on_withdrawn(self, event: Withdrawn) -> list[Command]:
        visit = self.visits.get((event.node, event.number))
        if visit is None:
            return []
        if not event.is_taken:
            visit.is_recalled = False
            return [Send(event.node, rows.TaskRuns(event.number))]
        self._end_visit(event.node, event.number)
        return [
            DropVisit(event.node, event.number, visit.key),
            Send(event.node, rows.TaskReturned(event.number)),
        ]

    def _on_cancelled(self, node: str, body: rows.CancelTask) -> list[Command]:
        visit = self.visits.get((node, body.number))
        if visit is None:
            return []
        how = (body.is_recursive, body.is_forced, body.is_late)
        return [CancelHere(node, body.number, visit.key, *how)]

    # ---- both
    def _on_heard(self, node: str, body: BridgeBody) -> list[Command]:
        match body:
            case rows.ForwardTask():
                return self._on_forwarded(node, body)
            case rows.RecallTask():
                return self._on_recalled(node, body.number)
            case rows.CancelTask():
                return self._on_cancelled(node, body)
            case rows.TaskRuns():
                lending = self._lending(node, body.number)
                if lending is not None:
                    lending.is_recalled, lending.runs = False, True
                return []
            case rows.TaskReturned():
                return self._on_returned(node, body)
            case rows.TaskEnded():
                return self._on_ended(node, body)
            case _:  # of bytes, guests and actors others take care
                return []

    def _on_node_lost(self, node: str, is_drained: bool) -> list[Command]:
        out: list[Command] = []
        for number in sorted(n for n, lent in self.lendings.items() if lent.node == node):
            lending = self._end_lending(number)
            if lending.retries_left != 0:
                why = f"node {node} {'has been drained' if is_drained else 'is lost'}"
                out.append(RunAgain(lending.key, why, lending.is_call, not is_drained))
            else:
                out.append(Fail(lending.key, node, lending.is_call, is_drained))
        for number in sorted(n for its, n in self.visits if its == node):
            visit = self._end_visit(node, number)
            if visit.key:
                out.append(CancelHere(node, number, visit.key, is_recursive=True))
            out.append(DropVisit(node, number, visit.key))
        return out

    # ---- for tests and people
    def validate(self) -> None:
        """Assert what must always hold."""
        assert {lent.key: n for n, lent in self.lendings.items()} == self._number_of
        assert all(0 < n <= self._numbers for n in self.lendings)
        tasks = {visit.key: place for place, visit in self.visits.items() if visit.key}
        assert tasks == self._visit_of

    def story(self) -> dict[str, list[tuple[str, int, int]]]:
        """Rows (node, number, key) of what is elsewhere and what is here for others."""
        return {
            "lent": [(lent.node, n, lent.key) for n, lent in sorted(self.lendings.items())],
            "visits": [(*place, visit.key) for place, visit in sorted(self.visits.items())],
        }
