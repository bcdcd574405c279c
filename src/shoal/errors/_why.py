"""The sentences of explanations: the one place where a typed reason becomes text.

A reason is a record of ``shoal._proto.reasons``; ``Why`` is a chain of them as people get it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal._proto import reasons as r


class Why:
    """Why something is not there yet: typed reasons, the first one first; ``str`` tells them.

    Example:
        >>> ref = shoal.put(1)
        >>> why = shoal.state.why(ref)
        >>> type(why.reason).__name__
        'Ready'
    """

    def __init__(self, reason: r.Reason) -> None:
        self.reason = reason
        """The first of the chain; its ``cause`` is the next."""

    @property
    def chain(self) -> list[r.Reason]:
        """All reasons, the first one first."""
        return r.chain_of(self.reason)

    @property
    def root(self) -> r.Reason:
        """The last of the chain: what everything before it waits for."""
        return self.chain[-1]

    def lines(self) -> list[str]:
        """One sentence per reason, and at the end what can be done, if there is something."""
        lines = [sentence(reason) for reason in self.chain]
        what_to_do = advice(self.root)
        return [*lines, f"What to do: {what_to_do}"] if what_to_do else lines

    def __str__(self) -> str:
        first, *rest = self.lines()
        return "\n".join([first, *("  " + line for line in rest)])

    def __repr__(self) -> str:
        return f"Why({self.reason!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Why) and self.reason == other.reason

    def __hash__(self) -> int:
        return hash(r.pack(self.reason))

    def __reduce__(self) -> Any:
        return unpacked, (r.pack(self.reason),)


def unpacked(data: bytes) -> Why:
    """The explanation that travels as ``data``."""
    return Why(r.unpack(data))


def sentence(reason: r.Reason) -> str:
    """What one reason says."""
    text = _SENTENCES[type(reason)](reason)
    left = reason.ends_in_s if isinstance(reason, r.OfTask) else None
    if left is None:
        return text
    return text + (f"; its deadline is in {_seconds(left)}" if left > 0 else "; its time is over")


def advice(reason: r.Reason) -> str:
    """What a user can do where the chain ends so; "" for what ends by itself."""
    return _ADVICE.get(type(reason), "")


# ---- parts of sentences
def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def _since(reason: r.OfTask) -> str:
    return f" for {_seconds(reason.since_s)}" if reason.since_s is not None else ""


def _subject(reason: r.OfTask) -> str:
    if not reason.task:
        return reason.name or "it"
    attempt = f", attempt {reason.attempt}" if reason.attempt > 1 else ""
    return f"{reason.name or 'task'} ({reason.task}{attempt})"


def _of_task(text: str) -> Callable[[Any], str]:
    """A sentence that begins with the task."""

    def tell(reason: r.OfTask) -> str:
        fields = {name: getattr(reason, name) for name in reason.__struct_fields__}
        return f"{_subject(reason)} {text.format(**fields, since=_since(reason))}"

    return tell


def _amounts(amounts: dict[str, float]) -> str:
    return ", ".join(f"{name} {amount:,.10g}" for name, amount in sorted(amounts.items())) or "0"


def _who(holder: r.Holder | None) -> str:
    if holder is None:
        return "a process that has gone"
    if not holder.id:
        return f"a {holder.kind} {holder.name}"
    name = f"{holder.name} " if holder.name else ""
    where = f" on worker {holder.worker}" if holder.worker >= 0 and holder.kind == "task" else ""
    pid = f", pid {holder.pid}" if holder.pid else ""
    return f"{holder.kind} {name}({holder.id}{where}{pid})"


def _waits_for_resources(reason: r.WaitsForResources) -> str:
    where = f"the group {reason.group}" if reason.group else "the node"
    text = (
        f"{_subject(reason)} has waited{_since(reason)} for {_amounts(reason.asked)}:"
        f" {_amounts(reason.missing)} of it is missing, {where} has {_amounts(reason.total)}"
    )
    held = [
        f"{_who(holder)} has had {_amounts(holder.amounts)} for {_seconds(holder.since_s)}"
        for holder in reason.holders[:3]
    ]
    more = reason.holders_count - len(held)
    return text + "".join("; " + line for line in held) + (f"; {more} more" if more > 0 else "")


def _running(reason: r.Running) -> str:
    actor = f" of actor {reason.actor}" if reason.actor else ""
    where = f"on worker {reason.worker} (pid {reason.pid}){actor}"
    what = "waits while it runs" if reason.waits else "runs"
    return _of_task(f"{what}{{since}} {where}")(reason)


def _on_node(reason: r.OnNode) -> str:
    if reason.runs:
        return f"{_subject(reason)} runs on node {reason.node}, which has had it{_since(reason)}"
    return (
        f"{_subject(reason)} has been on node {reason.node}{_since(reason)}: it runs there, or"
        " waits for its turn"
    )


def _waits_for_node(reason: r.WaitsForNode) -> str:
    more = reason.nodes_count - len(reason.nodes)
    names = ", ".join(reason.nodes) + (f" and {more} more" if more > 0 else "")
    return (
        f"{_subject(reason)} has waited{_since(reason)} for room on another node: it asks for"
        f" {_amounts(reason.asked)}" + (f", which {names} can give" if names else "")
    )


def _infeasible(reason: r.Infeasible) -> str:
    missing = reason.text or f"the node has {_amounts(reason.total)}"
    then = ""
    if reason.fails_in_s is not None:
        then = f"; it fails in {_seconds(reason.fails_in_s)}"
    return f"{_subject(reason)} asks for {_amounts(reason.asked)}, but {missing}{then}"


def _call(reason: r.OfCall) -> str:
    name = f"actor {reason.class_name} ({reason.actor})"
    return f"{_subject(reason)} waits{_since(reason)}: {name}" if reason.task else name


def _of_actor(text: str) -> Callable[[Any], str]:
    def tell(reason: r.OfCall) -> str:
        fields = {name: getattr(reason, name) for name in reason.__struct_fields__}
        return f"{_call(reason)} {text.format(**fields)}"

    return tell


def _restarting(reason: r.ActorRestarting) -> str:
    times = "" if reason.recently < 2 else f", for the {_nth(reason.recently)} time in a minute"
    text = f"{_call(reason)} is being started again after its process died{times}"
    if reason.again_in_s is not None:
        text += f"; the next try is in {_seconds(reason.again_in_s)}"
    return text


def _nth(number: int) -> str:
    known = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}
    return known.get(number, f"{number}th")


def _actor_on_node(reason: r.ActorOnNode) -> str:
    if reason.state == "ALIVE":
        pid = f" (pid {reason.pid})" if reason.pid else ""
        return f"{_call(reason)} lives on node {reason.node}{pid}"
    again = " again" if reason.state == "RESTARTING" else ""
    return f"{_call(reason)} is being started{again} on node {reason.node}"


def _concurrency(reason: r.ConcurrencyFull) -> str:
    group = f" of its group {reason.group!r}" if reason.group else ""
    return f"{_call(reason)} runs {len(reason.calls)} calls{group}, as many as it may"


def _busy(reason: r.ActorBusy) -> str:
    ahead = f"; up to {reason.ahead} calls wait in its queue" if reason.ahead > 1 else ""
    return f"{_call(reason)} is busy with call {reason.call}{ahead}"


def _worker_starting(reason: r.WaitsForWorker) -> str:
    text = f"waits{{since}} for a process: {reason.starting} are being started"
    if reason.failures:
        text += f", the last {reason.failures} starts failed"
    if reason.again_in_s is not None:
        text += f", the next is tried in {_seconds(reason.again_in_s)}"
    return _of_task(text)(reason)


def _room(reason: r.WaitsForRoom) -> str:
    held = "".join(
        f"; {_who(holder)} has refs to {holder.amounts.get('bytes', 0):,.0f} bytes"
        for holder in reason.holders[:3]
    )
    return (
        f"node memory is full: {reason.used_bytes:,} of {reason.capacity_bytes:,} bytes are in use"
        + held
    )


def _memory(reason: r.WaitsForMemory) -> str:
    if reason.again_in_s is not None:
        return (
            f"{reason.function} was ended for its memory: it runs again in"
            f" {_seconds(reason.again_in_s)}"
        )
    held = "".join(
        f"; {_who(holder)} may take {holder.amounts.get('memory', 0):,.0f}"
        for holder in reason.holders[:3]
    )
    return (
        f"{reason.function} has needed {reason.needs_bytes:,} bytes of memory, and"
        f" {reason.used_bytes:,} of {reason.limit_bytes:,} are in use{held}"
    )


def _paused(reason: r.AdmissionPaused) -> str:
    by = ", ".join(
        f"{_who(holder)} has {holder.amounts.get('memory', 0):,.0f}"
        for holder in reason.holders[:3]
    )
    return (
        f"{_subject(reason)} waits{_since(reason)}: nothing new begins, since"
        f" {reason.used_bytes:,} of {reason.limit_bytes:,} bytes of memory are in use"
    ) + (f" ({by})" if by else "")


def _lock(reason: r.WaitsForLock) -> str:
    return f"it waits for the lock {reason.lock!r}, which {_who(reason.holder)} holds"


def _time_over(reason: r.TimeOver) -> str:
    spent = ", ".join(f"{_seconds(took)} {name}" for name, took in reason.stages_s.items())
    when = f" while it was {reason.stage}" if reason.stage else ""
    text = f"{_subject(reason)} was ended{when}, after {_seconds(reason.timeout_s)}"
    return f"{text} ({spent})" if spent else text


def _no_answer(reason: r.NoAnswer) -> str:
    who = f"the node daemon (pid {reason.pid})" if reason.pid else "the node daemon"
    if reason.is_stopped:
        return f"{who} is stopped by a signal or a debugger"
    return f"{who} has not answered for {_seconds(reason.waited_s)}"


def _ready(reason: r.Ready) -> str:
    if reason.file:
        return f"{reason.id} is there, on disk in {reason.file}; it comes back when it is read"
    if reason.node:
        return f"{reason.id} is there, on node {reason.node}; it comes here when it is read"
    if reason.is_evicted:
        return (
            f"{reason.id} was evicted, as there was no room for it; its task makes it again when"
            " it is read"
        )
    if not reason.is_error:
        return f"{reason.id} is there"
    return f"{reason.id} is there, and is an error" + (f": {reason.error}" if reason.error else "")


def _rebuilding(reason: r.Rebuilding) -> str:
    of = f" of {reason.attempts_most}" if reason.attempts_most else ""
    tasks = "another task runs" if reason.before == 1 else f"{reason.before} other tasks run"
    before = f"; {tasks} before it" if reason.before else ""
    return (
        f"{reason.object} is being rebuilt: attempt {reason.attempt}{of}, because"
        f" {reason.problem}{before}"
    )


def _store_away(reason: r.ControlStoreAway) -> str:
    if not reason.actor:
        return f"the control store does not answer: a change ({reason.what}) is not written yet"
    return f"{_call(reason)} is not written down yet: the control store does not answer"


_SENTENCES: dict[type[r.Reason], Callable[[Any], str]] = {
    r.Ready: _ready,
    r.Gone: lambda x: f"{x.id} is gone: nobody holds it any more",
    r.NoAnswer: _no_answer,
    r.Nothing: lambda x: f"the program (pid {x.pid}) waits for nothing of Shoal",
    r.WaitsForArgument: _of_task("has waited{since} for its argument {argument}"),
    r.WaitsForEarlierCall: _of_task(
        "has waited{since} for {earlier}, an earlier call of the same caller to the same actor"
    ),
    r.Submitting: _of_task("is just being handed on"),
    r.Running: _running,
    r.OnNode: _on_node,
    r.WaitsForTurn: _of_task(
        "waits{since} for its turn (tasks in the queue: at most {ahead}; workers at it: {workers})"
    ),
    r.Delivering: _of_task("is about to be taken by a worker"),
    r.WaitsForWorker: _worker_starting,
    r.TooManyProcesses: _of_task("waits{since}: {workers} processes run, of at most {most}"),
    r.WorkersCrash: _of_task(
        "waits{since}: {deaths} workers in a row ended before they took a task; the next is tried"
        " in {again_in_s:.3g} s"
    ),
    r.WaitsForResources: _waits_for_resources,
    r.AdmissionPaused: _paused,
    r.LeaseOver: _of_task(
        "waits{since}: this node has not heard from the control store, and its lease has been over"
        " for {over_s:.3g} s, so nothing begins here"
    ),
    r.KeptForAnother: lambda x: (
        f"{_subject(x)} waits{_since(x)}: what is free is kept for {x.other},"
        f" which asks for {_amounts(x.other_asked)} and has waited longer"
    ),
    r.Infeasible: _infeasible,
    r.WaitsForNode: _waits_for_node,
    r.EnvironmentBuilding: _of_task("waits: its runtime environment has been made{since}"),
    r.EnvironmentFailed: _of_task("fails: its runtime environment could not be made"),
    r.GroupPending: _of_task("waits: placement group {group} is not reserved yet"),
    r.GroupRemoved: _of_task("fails: placement group {group} is gone ({text})"),
    r.JobEnding: _of_task("fails: job {job} has ended"),
    r.ActorPending: _of_actor("has no process yet"),
    r.ActorConstructing: _of_actor("is being constructed on worker {worker} (pid {pid})"),
    r.ActorRestarting: _restarting,
    r.ActorBusy: _busy,
    r.ConcurrencyFull: _concurrency,
    r.ActorIdle: _of_actor("lives on worker {worker} (pid {pid}) and runs nothing"),
    r.ActorOnNode: _actor_on_node,
    r.ActorEnding: _of_actor("has ended, and its process is ending"),
    r.ControlStoreAway: _store_away,
    r.Stopped: lambda x: f"worker {x.worker} (pid {x.pid}) is stopped by a signal or a debugger",
    r.WaitsForRoom: _room,
    r.WaitsForMemory: _memory,
    r.Restoring: lambda x: f"{x.object} is being read from {x.file}",
    r.Arriving: lambda x: f"{x.object} is being brought here from node {x.node}",
    r.MadeElsewhere: lambda x: f"{x.object} comes from node {x.node}, where it is not there yet",
    r.Rebuilding: _rebuilding,
    r.BackPressure: lambda x: (
        f"the stream {x.stream} has as many unseen items as it may have;"
        f" {_who(x.consumer)} does not take them"
    ),
    r.WaitsForLock: _lock,
    r.WaitsForChannel: lambda x: (
        f"it waits for {x.what}: the other side of the channel has not come"
    ),
    r.TimeOver: _time_over,
    r.NotSealed: lambda x: f"{x.object} is made by no task: {_who(x.owner)} has to give it a value",
    r.Circular: lambda x: f"it comes back to where it began ({' -> '.join(x.ids)}): a deadlock",
}

_ADVICE: dict[type[r.Reason], str] = {
    r.Gone: "keep a ref to a value for as long as it is needed.",
    r.NoAnswer: "send it SIGCONT if it is stopped; else see whether this machine is overloaded.",
    r.Infeasible: "ask for less, or declare more in init(num_cpus=, num_gpus=, resources=); in a"
    " cluster, start a node that has it.",
    r.OnNode: "to see what it does, ask `shoal why` for its name on that node.",
    r.ActorOnNode: "to see what it does, ask `shoal why` for its name on that node.",
    r.WaitsForNode: "see what runs on those nodes (`shoal status`), or start another one.",
    r.MadeElsewhere: "ask `shoal why` on that node for what makes it.",
    r.WaitsForResources: "end an actor or remove a group that is not needed, ask for less, or give"
    " the session more.",
    r.AdmissionPaused: "end what takes so much (`shoal.state.workers()` shows memory_bytes), or"
    " give tasks memory= for what they need.",
    r.LeaseOver: "see that the head runs and can be reached from this node; as soon as it is heard"
    " work begins again.",
    r.WaitsForMemory: "wait, or let it take less at a time.",
    r.KeptForAnother: "wait, or ask for less where the other asks.",
    r.TooManyProcesses: "end actors that are not needed, or use fewer and larger tasks.",
    r.WorkersCrash: "read the logs of the workers in the session's directory.",
    r.EnvironmentFailed: "correct the runtime_env.",
    r.GroupRemoved: "make the group again.",
    r.Stopped: "send the process SIGCONT, or end the debugger.",
    r.WaitsForRoom: "drop refs that are not needed (`shoal memory` shows whose), or give"
    " init(object_store_memory=) more.",
    r.BackPressure: "take the items of the stream, or drop its generator.",
    r.WaitsForChannel: "see what the process on the other side does (`shoal why`).",
    r.TimeOver: "give it more timeout_s, or less to do; where it was longest says which.",
    r.NotSealed: "see what that process does; shoal.cancel does not end this wait.",
    r.Circular: "break the circle: no task or actor may wait for something that waits for it.",
    r.ActorRestarting: "read the last lines of the actor's log for why its process dies.",
    r.Restoring: "if it lasts, see whether the disk of that file answers.",
    r.ControlStoreAway: "nothing, if it lasts for seconds; else see the log of the session.",
}
