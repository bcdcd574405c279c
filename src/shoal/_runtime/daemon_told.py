"""What the daemon tells about one thing, about a name, and about all memory: rows read when asked.

*Story*: the lines that the machine has kept about a worker, queue, job, actor or group, and the
events that all processes have left about an object, a task or an actor's calls, in the order of
time. Both are bounded: a story begins by saying how much of all stories is overwritten (RULES V-2).

*Memory*: one row per value, with everybody who holds it: processes (their refs), tasks (as
arguments) and other values (a ref stands in them). Whoever recorded call sites
(``SHOAL_RECORD_CALL_SITES``) has left them in files of the session.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection

import msgspec

from shoal import _native
from shoal._base import typed_ids
from shoal._core.node import NodeMachine
from shoal._core.sights import Sights
from shoal._core.why_names import Names
from shoal._native import Memory
from shoal._runtime import call_sites, history
from shoal._runtime.event_ids import EventIds

Row = dict[str, object]
EVENTS_MOST = 1 << 24
LINES_MOST = 1000
OBJECTS_MOST = 100_000
HOLDERS_MOST = 3
TASKS_MOST = 100_000
NAMED = "named "
DAEMON = 0
"""Process index of the daemon: what it takes, another node runs."""
ERRORS = (_native.FORMAT_ERROR_PICKLE, _native.FORMAT_ERROR_RECORD)
SUBMITTED, TAKEN, SEALED, PUT, FREED, REPAIRED, SPILLED, RESTORED = 1, 2, 3, 4, 5, 6, 9, 10
LOST, REBUILT = 11, 12
TEXTS = (_native.EVENT_NAME, _native.EVENT_ERROR)


def story(memory: Memory, machine: NodeMachine, about: str) -> list[Row]:
    """Rows (time_s, process, text) about ``about``, oldest first; of ``NAMED`` and a name those of
    ``_named``."""
    if about.startswith(NAMED):
        return _named(memory, machine, about.removeprefix(NAMED))
    teller = _Teller(memory, machine)
    rows = teller.lines(about)
    actor = machine.tables.actors.find(about)
    if actor is not None:
        rows += teller.of_calls(actor.spec.arguments)
    elif key := typed_ids.key_of(about):
        rows += teller.of_key(key)
    rows.sort(key=lambda row: float(str(row["time_s"])))
    rows = rows[-LINES_MOST:]
    if rows and (lost := memory.events_lost):
        text = f"({lost:,} older events of all processes are overwritten)"
        rows.insert(0, {"time_s": 0.0, "process": -1, "text": text})
    return rows


class _Teller:
    def __init__(self, memory: Memory, machine: NodeMachine) -> None:
        self._memory = memory
        self._machine = machine
        self._names = Names(machine.tables, 0.0, Sights())
        self.rows = memory.list_events(EVENTS_MOST)
        self.told = history.read(self.rows)
        self.ids = EventIds(memory, machine.tables.config.node_id, self.told, self.rows)

    def lines(self, about: str) -> list[Row]:
        """What the machine has kept."""
        found: list[Row] = []
        for line in self._machine.story(about):
            when, _, text = line.partition(" ")
            if line.startswith("("):
                when, text = "0", line
            found.append({"time_s": float(when), "process": 0, "text": text})
        return found if any(row["time_s"] for row in found) else []

    def of_key(self, key: int) -> list[Row]:
        """What processes have left about an object, and about the task that makes it."""
        ancestry = self._memory.ancestry(key)
        is_later = ancestry is not None and ancestry[3] > 1
        return self._events({key, ancestry[0]} if ancestry and is_later else {key}, False)

    def of_calls(self, actor: int) -> list[Row]:
        """What they have left about all calls of the actor."""
        calls = {
            row[3] for row in self.rows if row[2] == TAKEN and history.actor_of(row[4]) == actor
        }
        return self._events(calls, True)

    def _events(self, wanted: set[int], are_named: bool) -> list[Row]:
        found: list[Row] = []
        has_text: set[tuple[int, int]] = set()
        for ns, process, kind, key, number, n, *_ in self.rows:
            if key not in wanted or (key, kind) in has_text:
                continue
            if kind in TEXTS:  # in pieces of eight bytes
                has_text.add((key, kind))
            told = self.told.get(key)
            if kind == _native.EVENT_NAME and told is not None and told.submitted_ns:
                ns = told.submitted_ns  # it was noted after it, and the call may run by then
            text = self._text((kind, process), key, number, n)
            suffix = f" ({self.ids.task(key) or self.ids.value(key)})" if are_named else ""
            found.append({"time_s": ns / 1e9, "process": process, "text": text + suffix})
        return found

    def _text(self, what: tuple[int, int], key: int, about: int, n: int) -> str:
        """``what``: kind and process."""
        kind, process = what
        told = self.told.get(key)
        if kind == SUBMITTED:
            by = told and self.ids.parent(told)
            return f"submitted by task {by}" if by else "submitted"
        if kind == TAKEN and process == DAEMON:
            return f"{self._names.name_of(about)} is taken for another node, attempt {n}"
        if kind == TAKEN:
            return f"{self._names.name_of(about)} begins, attempt {n}"
        if kind == SEALED:
            return "ended with an error" if n in ERRORS else "ended: its value is there"
        if kind == _native.EVENT_NAME:
            return f"is called {told.name if told else ''}"
        if kind == _native.EVENT_ERROR:
            return f"fails with {told.error if told else ''}"
        return {
            PUT: "put",
            FREED: "freed, then or later" if n else "freed",
            REPAIRED: "repaired after a death",
            SPILLED: "left for a file",
            RESTORED: "came back from its file",
            LOST: "its value is lost",
            REBUILT: f"is made again by its task, attempt {n}",
        }.get(kind, f"event {kind}")

    def function(self, about: int) -> str:
        """Name of a function, or ``Class.method``."""
        return self._names.name_of(about)

    def id_of(self, key: int, is_task: bool = False) -> str:
        """An object's id, or a task's; "" if a part of it is not known any more."""
        return self.ids.task(key) if is_task else self.ids.value(key)


def _named(memory: Memory, machine: NodeMachine, name: str) -> list[Row]:
    """Rows (kind, id, name) of the living actors and unended tasks of that name, which may be that
    of their class, function or method."""
    teller = _Teller(memory, machine)
    found: list[Row] = []
    for actor in machine.tables.actors.living.values():
        if name in (actor.spec.name, actor.spec.class_name):
            shown = actor.spec.name or actor.spec.class_name
            found.append({"kind": "actor", "id": actor.actor_id, "name": shown})
    for key, _, _, _, about, *_, job in memory.list_tasks(TASKS_MOST):
        told = teller.told.get(key)
        own, function = told.name if told else "", teller.function(about)
        if name in (own, function, function.rpartition(".")[2]):
            node_id, actor_key = machine.tables.config.node_id, history.actor_of(about)
            task = typed_ids.task_id(node_id, key, actor_key, job)
            found.append({"kind": "task", "id": task, "name": own or function})
    return found


def memory_rows(
    memory: Memory,
    machine: NodeMachine,
    directory: str,
    now: float,
    where: Callable[[int], str],
) -> list[Row]:
    """One row per value: size, age, where it is (``where``) and was made, and its holders, the
    largest first."""
    teller = _Teller(memory, machine)
    names = Names(machine.tables, now, Sights())
    objects = memory.list_objects(OBJECTS_MOST)
    largest = heapq.nlargest(OBJECTS_MOST, objects, key=lambda row: row[2])
    holders: dict[int, list[Row]] = {}
    for key, kind, holder, refs, pins in memory.list_holds(2 * OBJECTS_MOST):
        row: Row = {"refs": refs, "pins": pins}
        if kind == 0:
            who = names.process_holder(holder)
            what = "the daemon" if holder == 0 else who.name or "worker"
            row |= {"kind": "process", "id": str(holder), "name": what, "pid": who.pid}
        else:
            word = ("", "task", "value")[kind]
            row |= {"kind": word, "id": teller.id_of(holder, kind == 1), "name": "", "pid": 0}
        holders.setdefault(key, []).append(row)
    made: dict[int, tuple[float, str]] = {}
    for ns, _, kind, key, about, *_ in teller.rows:
        if kind in (PUT, SUBMITTED, TAKEN):
            since, name = made.get(key, (ns / 1e9, ""))
            made[key] = since, names.name_of(about) if kind == TAKEN else name or _word(kind)
    sites = call_sites.read_all(directory)
    rows: list[Row] = []
    for key, format, size, refs, pins, owner in largest:
        since, name = made.get(key, (0.0, ""))
        rows.append(
            {
                "object_id": teller.id_of(key),
                "size_bytes": size,
                "state": "PENDING" if not format else "ERROR" if format in ERRORS else "VALUE",
                "where": where(key) if format else "",
                "refs": refs,
                "pins": pins,
                "owner": owner,
                "age_s": now - since if since else None,
                "made_by": name,
                "site": sites.get(key, ""),
                "holders": holders.get(key, []),
                "node_id": machine.tables.config.node_id.hex(),
            }
        )
    return rows


class _Held(msgspec.Struct):
    """What one process holds, or all tasks, or all values."""

    size: int = 0
    count: int = 0
    read: int = 0
    """Bytes that are being looked at."""
    largest: tuple[int, int] = (0, 0)
    """(size, key)"""
    since_ns: int = 0
    """When the oldest was made, as far as events know."""

    def add(self, key: int, size: int, pins: int, since_ns: int) -> None:
        self.size += size
        self.count += 1
        self.read += size if pins else 0
        self.largest = max(self.largest, (size, key))
        self.since_ns = min(self.since_ns or since_ns, since_ns or self.since_ns)


def holders(
    memory: Memory,
    machine: NodeMachine,
    out: Collection[int],
    problem: str,
    directory: str,
    now: float,
) -> list[Row]:
    """Who holds the most bytes, but for those of values that are ``out``, since when and from which
    line, for the error of a full store: rows (kind, text)."""
    names = Names(machine.tables, 0.0, Sights())
    sizes = {
        key: size
        for key, format, size, *_ in memory.list_objects(OBJECTS_MOST)
        if format and key not in out
    }
    made: dict[int, int] = {}
    for ns, _, kind, key, *_ in memory.list_events(EVENTS_MOST):
        if kind in (PUT, SUBMITTED, TAKEN) and key in sizes:
            made.setdefault(key, ns)
    held: dict[tuple[int, int], _Held] = {}
    for key, kind, holder, _, pins in memory.list_holds(2 * OBJECTS_MOST):
        if size := sizes.get(key, 0):
            whose = (kind, holder if kind == 0 else 0)
            held.setdefault(whose, _Held()).add(key, size, pins, made.get(key, 0))
    sites = call_sites.read_all(directory)
    rows: list[Row] = []
    for (kind, holder), total in heapq.nlargest(
        HOLDERS_MOST, held.items(), key=lambda item: item[1].size
    ):
        who = ("", "tasks, as arguments", "other values, which contain them")[kind]
        if kind == 0:
            process = names.process_holder(holder)
            who = "the daemon" if holder == 0 else f"{process.name or 'a worker'}"
            who += f" (pid {process.pid})" if process.pid else ""
        text = f"{total.size:,} bytes in {total.count:,} values by {who}"
        rows.append({"kind": "holder", "text": text + _details(total, sites, now)})
    return [*rows, {"kind": "problem", "text": problem}]


def _details(total: _Held, sites: dict[int, str], now: float) -> str:
    found = [f"{total.read:,} bytes of it are being looked at"] if total.read else []
    if total.since_ns:
        found.append(f"the oldest was made {now - total.since_ns / 1e9:.1f} s ago")
    if site := sites.get(total.largest[1]):
        found.append(f"the largest came from {site}")
    return f" ({'; '.join(found)})" if found else ""


def _word(kind: int) -> str:
    return "put" if kind == PUT else ""
