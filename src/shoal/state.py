"""What is going on: read-only tables of the session, as lists of small typed records.

Each function takes ``limit`` (how many rows at most) and filters by field:
``tasks(state="RUNNING")``. In a cluster, nodes, jobs, actors, groups, workers, tasks, objects and
memory are those of all nodes; a node that does not answer within two seconds is named in a
``RuntimeWarning``. The others (events, stories, functions, environments, logs, metrics) are of this
node.

Most tables are asked from the daemon; events, and on one machine tasks and objects, are read
straight from node memory, without disturbing anybody.

Example:
    >>> shoal.state.actors(state="ALIVE")
    []
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from shoal import _native, errors
from shoal._proto import messages
from shoal._runtime import cluster, explaining, history, log_records, metric_files, task_rows
from shoal._runtime import log_files as _log_files
from shoal._runtime import session as sessions
from shoal._runtime.chosen_rows import check, chosen
from shoal._runtime.event_ids import EventIds
from shoal.errors._why import Why

T = TypeVar("T", bound=msgspec.Struct)

DEFAULT_LIMIT = 10_000

LogLine, LogPart = log_records.LogLine, _log_files.LogPart
logs, follow_logs, log_files = _log_files.logs, _log_files.follow_logs, _log_files.log_files


class Node(msgspec.Struct, frozen=True):
    """A machine of the session."""

    node_id: str
    name: str = ""
    state: str = ""
    total: dict[str, float] = {}
    cores: int = 0
    labels: dict[str, str] = {}


class Job(msgspec.Struct, frozen=True):
    """A program that uses the session."""

    job: int
    state: str = ""
    pid: int = 0
    namespace: str = ""
    entrypoint: str = ""
    reason: str = ""
    node_id: str = ""
    """Id of the node of its program; another program elsewhere may have the same number."""


class Worker(msgspec.Struct, frozen=True):
    """A process that runs tasks or an actor."""

    worker: int
    pid: int = 0
    state: str = ""
    job: int = 0
    gpu_ids: list[str] = []
    queue: int = 0
    running: int = 0
    blocked: bool = False
    actor_id: str = ""
    memory_bytes: int | None = None
    node_id: str = ""
    """Id of its node, as in all tables; ``worker`` and ``queue`` are numbers of that."""


class MemoryPeak(msgspec.Struct, frozen=True):
    """What a function needs, known from so many runs (docs/memory.md); ``is_admitted``: its tasks
    wait until there is enough."""

    function: str
    runs: int = 0
    peak_bytes: int = 0
    ended: int = 0
    is_admitted: bool = False


class Actor(msgspec.Struct, frozen=True):
    """An actor, living or dead."""

    actor_id: str
    class_name: str = ""
    name: str = ""
    namespace: str = ""
    state: str = ""
    job: int = 0
    pid: int = 0
    incarnation: int = 0
    restarts: int = 0
    detached: bool = False
    cause: str = ""
    """Why it is dead."""
    node_id: str = ""
    """Id of the node that it lives on; of one that has no place, of that which made it."""


class Group(msgspec.Struct, frozen=True):
    """A placement group, also a removed one that is still known."""

    group_id: str
    name: str = ""
    namespace: str = ""
    state: str = ""
    """PENDING, CREATED or REMOVED."""
    strategy: str = ""
    bundles: list[dict[str, float]] = []
    job: int = 0
    detached: bool = False
    reason: str = ""
    """Why it is gone, or can not be."""


class RuntimeEnvironment(msgspec.Struct, frozen=True):
    """A runtime environment that running jobs have asked for."""

    environment: str
    """Its key: equal environments have one."""
    state: str = ""
    """making, ready or failed."""
    jobs: list[int] = []
    given: str = ""
    """JSON of its fields, merged with what is inherited; without the values of ``env_vars``."""


class Function(msgspec.Struct, frozen=True):
    """An exported function or class."""

    digest: str
    name: str = ""
    key: int = 0
    job: int = 0
    size_bytes: int = 0


class Task(msgspec.Struct, frozen=True):
    """A task, or a call of an actor; also one of the last that have ended."""

    task_id: str
    name: str
    """What its call was named, else ``function``."""
    function: str
    """Name of the function, or ``Class.method``."""
    state: str
    """HELD (waits for arguments), QUEUED, FORWARDED (it waits on another node, or for one),
    RUNNING, FINISHED or FAILED."""
    attempt: int
    worker: int
    """Index of the process that runs it, or ran it last; -1 for none."""
    job: int
    """Of a call that has ended, the actor's; 0: not known any more."""
    queue: int
    """0 of what has ended."""
    parent: str
    """Id of the task that submitted it; "" for the driver's, or if it is not known any more."""
    actor_id: str = ""
    """Of a call: whose it is."""
    error: str = ""
    """Class of what it failed with, or of what ended it; "" if that is not known any more."""
    submitted_s: float | None = None
    """Since boot (CLOCK_BOOTTIME), as all times here; None: not known any more."""
    started_s: float | None = None
    """When its last attempt began; of what another node ran, when it was sent there."""
    ended_s: float | None = None
    node: str = ""
    """Name of the other node that has it, or ran it; "": this one, or one is being looked for."""
    node_id: str = ""
    """Id of that node."""


class Object(msgspec.Struct, frozen=True):
    """A value, or the place of one that is still to come."""

    object_id: str
    state: str
    """PENDING, VALUE or ERROR."""
    size_bytes: int
    refs: int
    pins: int
    owner: int
    """Index of the process that made it, -1 for none."""
    node_id: str = ""
    """Id of the node that has its bytes."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a task or value."""

    time_s: float
    """Since boot (CLOCK_BOOTTIME)."""
    process: int
    kind: str
    id: str
    """Of a value for ``put`` and ``freed``, else of a task; "" if it is not known any more."""
    name: str = ""
    """Of ``taken``: the function, or ``Class.method``."""


class Metric(msgspec.Struct, frozen=True):
    """What was counted under one name and one combination of tags."""

    name: str
    kind: str = ""
    """counter, gauge or histogram."""
    tags: dict[str, str] = {}
    value: float = 0.0
    """The count, the gauge's last value, or the sum of what was observed."""
    count: int = 0
    """Of a histogram: how many values were observed."""
    buckets: dict[float, int] = {}
    """Of a histogram: by upper bound, how many values were at most that."""
    pid: int = 0
    """Of a gauge: the process that set it; counters and histograms are sums over all."""
    description: str = ""


class StoryLine(msgspec.Struct, frozen=True):
    """Something that happened to one thing."""

    time_s: float
    """Since boot (CLOCK_BOOTTIME); 0 of a line that says how much is overwritten."""
    process: int
    """Index of the process that says it; 0: the node daemon."""
    text: str


class Holder(msgspec.Struct, frozen=True):
    """Who keeps a value alive."""

    kind: str
    """process, task (as an argument) or value (a ref stands in it)."""
    id: str
    name: str = ""
    pid: int = 0
    refs: int = 0
    pins: int = 0
    """How often it is looked at: arrays that stand in node memory."""


class Held(msgspec.Struct, frozen=True):
    """A value in node memory, and everybody who holds it."""

    object_id: str
    size_bytes: int = 0
    state: str = ""
    """PENDING, VALUE or ERROR; ``where``: memory, a file's path, evicted, being rebuilt."""
    where: str = ""
    refs: int = 0
    pins: int = 0
    owner: int = -1
    age_s: float | None = None
    """None: its beginning is not known any more."""
    made_by: str = ""
    """Name of the task that made it, or ``put``; "": not known any more."""
    site: str = ""
    """The line of the call, of programs that run with SHOAL_RECORD_CALL_SITES=1."""
    holders: list[Holder] = []
    node_id: str = ""
    """Id of the node whose memory this is about."""


_ENDED = frozenset({"FINISHED", "FAILED"})
_EVENTS = {1: "submitted", 2: "taken", 3: "sealed", 4: "put", 5: "freed", 6: "repaired"}
_EVENTS |= {7: "named", 8: "failed", 9: "spilled", 10: "restored", 11: "lost", 12: "rebuilding"}


def why(ref_or_id: Any = None, *, timeout_s: float = explaining.ANSWER_S) -> Why:
    """Explain why something is not there yet: a typed reason, and the chain behind it.

    Args:
        ref_or_id: A ref, a generator of refs, an actor's handle, a placement group, or the id of
            one of them or of a task; None: whatever this program waits for.
        timeout_s: Seconds to wait for the daemon's answer. It never waits for what it explains.

    Returns:
        What can be printed, and looked at: ``reason`` is the first record, each record's ``cause``
        the next, ``chain`` has them all (docs/why.md lists them).

    Raises:
        UsageError: nobody here knows that id.
        NotARefError: it is nothing that has an id.

    Example:
        >>> ref = shoal.put(1)
        >>> type(shoal.state.why(ref).reason).__name__
        'Ready'
    """
    return explaining.why(ref_or_id, timeout_s)


def story(ref_or_id: Any) -> list[StoryLine]:
    """Return everything that is still known to have happened to one thing, oldest first.

    Args:
        ref_or_id: What ``why`` takes, or ``"worker 3"``, ``"queue 7"``, ``"job 1"``. The story of
            an actor has its calls too.

    Raises:
        UsageError: nobody here knows that id.
        NotARefError: it is nothing that has an id.

    Example:
        >>> ref = shoal.remote(len).remote("four")
        >>> shoal.get(ref)
        4
        >>> [line.text for line in shoal.state.story(ref)][:2]
        ['submitted', 'len begins, attempt 1']
    """
    asked = messages.GetTable("story", about=explaining.name_of(ref_or_id))
    rows = sessions.current().request(asked, messages.Table).rows
    if not rows:
        explaining.why(ref_or_id)  # which says so if there is no such thing
    return [msgspec.convert(row, StoryLine) for row in rows]


def memory(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Held]:
    """Return the values in node memory, the largest first, each with everybody who holds it.

    Example:
        >>> ref = shoal.put(bytes(1_000_000))
        >>> shoal.state.memory(object_id=ref.hex())[0].holders[0].name
        'the program'
    """
    check(Held, filters)
    found = cluster.everywhere("memory", DEFAULT_LIMIT, filters)
    rows = (msgspec.convert(row, Held) for row in found)
    return chosen(rows, Held, limit, filters)


def memory_peaks(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[MemoryPeak]:
    """Return what functions have needed of memory, as far as it was learned (docs/memory.md).

    Example:
        >>> shoal.state.memory_peaks(is_admitted=True)
        []
    """
    return _asked("memory_peaks", MemoryPeak, limit, filters)


def nodes(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Node]:
    """Return the nodes.

    Example:
        >>> shoal.state.nodes()[0].state
        'ALIVE'
    """
    return _asked("nodes", Node, limit, filters)


def jobs(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Job]:
    """Return the jobs, also ended ones.

    Example:
        >>> len(shoal.state.jobs(state="RUNNING"))
        1
    """
    return _asked("jobs", Job, limit, filters)


def workers(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Worker]:
    """Return the worker processes.

    Example:
        >>> shoal.state.workers(state="gone")
        []
    """
    return _asked("workers", Worker, limit, filters)


def groups(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Group]:
    """Return the placement groups.

    Example:
        >>> shoal.state.groups(state="CREATED")
        []
    """
    return _asked("groups", Group, limit, filters)


def runtime_environments(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[RuntimeEnvironment]:
    """Return the runtime environments of jobs that run, also those that are still being made.

    Example:
        >>> shoal.state.runtime_environments()
        []
    """
    return _asked("environments", RuntimeEnvironment, limit, filters)


def functions(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Function]:
    """Return the exported functions and classes of jobs that run.

    Example:
        >>> shoal.state.functions()
        []
    """
    return _asked("functions", Function, limit, filters)


def actors(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Actor]:
    """Return the actors, also dead ones that are still known.

    Example:
        >>> actor = shoal.remote(dict).options(name="table").remote()
        >>> shoal.state.actors(name="table")[0].class_name
        'dict'
    """

    def clear(row: Mapping[str, Any]) -> Mapping[str, Any]:
        cause = row.get("cause")
        if not isinstance(cause, bytes):
            return row
        return {**row, "cause": errors.from_record(cause).describe() if cause else ""}

    return _asked("actors", Actor, limit, filters, clear)


def tasks(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Task]:
    """Return the tasks and calls that have not ended, and then the last ones that have.

    What has ended is read from the events of all processes: each remembers its last 4,096, which
    are about a thousand tasks.

    Example:
        >>> shoal.get(shoal.remote(len).options(name="count").remote("four"))
        4
        >>> task = shoal.state.tasks(name="count")[0]
        >>> task.state, task.function, task.error
        ('FINISHED', 'len', '')
    """
    if cluster.is_many():
        return _asked("tasks", Task, limit, filters)
    reader = task_rows.TaskRows(_memory(), sessions.current().node_id, cluster.names())
    rows: list[task_rows.Row] = []
    if filters.get("state") not in _ENDED:
        rows += reader.unended(limit if not filters else history.ALL)
    if len(rows) < limit or filters:
        rows += reader.ended({row["task_id"] for row in rows})
    return chosen(_made(rows, Task), Task, limit, filters)


def _event_ids(told: Mapping[int, history.Told], rows: Iterable[history.Row] = ()) -> EventIds:
    return EventIds(_memory(), sessions.current().node_id, told, rows)


def objects(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Object]:
    """Return the values in node memory, and those to come.

    Example:
        >>> ref = shoal.put(1)
        >>> shoal.state.objects(object_id=ref.hex())[0].state
        'VALUE'
    """
    if cluster.is_many():
        return _asked("objects", Object, limit, filters)
    rows = task_rows.of_values(_memory(), sessions.current().node_id, limit)
    return chosen(_made(rows, Object), Object, limit, filters)


def events(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Event]:
    """Return the last events of all processes, oldest first.

    Example:
        >>> ref = shoal.put(1)
        >>> shoal.state.events(id=ref.hex())[0].kind
        'put'
    """
    names = cluster.names()
    found = _memory().list_events(limit)
    ids = _event_ids(history.read(found), found)
    rows = (
        Event(
            time_s=ns / 1e9,
            process=process,
            kind=_EVENTS.get(kind, str(kind)),
            id=_event_id(ids, kind, key),
            name=names.of(about) if kind == history.TAKEN else "",
        )
        for ns, process, kind, key, about, *_ in found
    )
    return chosen(rows, Event, limit, filters)


def metrics(*, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[Metric]:
    """Return what ``shoal.util.metrics`` has counted: sums over all processes, also ended ones.

    Gauges are not summed: there is one row per living process that has set it.

    Example:
        >>> from shoal.util.metrics import Counter
        >>> session = shoal.init()
        >>> Counter("pages").inc(3)
        >>> shoal.state.metrics(name="pages")[0].value
        3.0
    """
    rows = (_metric(row) for row in metric_files.read(sessions.current().directory))
    return chosen(rows, Metric, limit, filters)


def _metric(row: metric_files.Reading) -> Metric:
    what = row.definition
    counts = [int(count) for count in row.cells[:-1]]
    bounds = [*what.boundaries, math.inf] if counts else []
    return Metric(
        name=what.name,
        kind=what.kind,
        tags=dict(zip(what.tag_keys, row.values)),
        value=row.cells[-1],
        count=sum(counts),
        buckets=dict(zip(bounds, itertools.accumulate(counts))),
        pid=row.pid,
        description=what.description,
    )


def _event_id(ids: EventIds, kind: int, key: int) -> str:
    if _EVENTS.get(kind) in ("put", "freed"):
        return ids.value(key)
    return ids.task(key) if _EVENTS.get(kind) != "repaired" else ""


def _memory() -> _native.Memory:
    return sessions.current().memory


def _asked(
    table: str,
    kind: type[T],
    limit: int,
    filters: Mapping[str, Any],
    clear: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda row: row,
) -> list[T]:
    """Rows of a table of this node's, or of all nodes where there is one of all."""
    asked = limit if not filters else DEFAULT_LIMIT
    check(kind, filters)
    seen = (clear(row) for row in cluster.everywhere(table, asked, filters))
    return chosen(_made(seen, kind), kind, limit, filters)


def _made(rows: Iterable[Mapping[str, Any]], kind: type[T]) -> Iterator[T]:
    fields = kind.__struct_fields__
    return (kind(**{name: row[name] for name in fields if name in row}) for row in rows)
