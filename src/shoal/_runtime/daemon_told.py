"""What the daemon tells about one thing, and about all memory: rows that it reads when asked.

*Story*: the lines that the machine has kept about a worker, queue, job, actor or group, and the
events that all processes have left about an object, a task or an actor's calls, in the order of
time. Both are bounded: a story begins by saying how much of all stories is overwritten (RULES V-2).

*Memory*: one row per value, with everybody who holds it: processes (their refs), tasks (as
arguments) and other values (a ref stands in them). Whoever recorded call sites
(``SHOAL_RECORD_CALL_SITES``) has left them in files of the session.
"""

from __future__ import annotations

import heapq

from shoal import _native
from shoal._base import typed_ids
from shoal._core.node import NodeMachine
from shoal._core.sights import Sights
from shoal._core.why import KEY_HEX, METHOD_BIT, METHODS, SLOT_BITS, Explainer
from shoal._native import Memory
from shoal._runtime import call_sites

Row = dict[str, object]
EVENTS_MOST = 1 << 24
LINES_MOST = 1000
OBJECTS_MOST = 100_000
ERRORS = (_native.FORMAT_ERROR_PICKLE, _native.FORMAT_ERROR_RECORD)
SUBMITTED, TAKEN, SEALED, PUT, FREED, REPAIRED = 1, 2, 3, 4, 5, 6
TEXTS = (_native.EVENT_NAME, _native.EVENT_ERROR)


def story(memory: Memory, machine: NodeMachine, about: str) -> list[Row]:
    """Rows (time_s, process, text) about ``about``, oldest first."""
    teller = _Teller(memory, machine)
    rows = teller.lines(about)
    actor = machine.tables.actors.find(about)
    key = 0
    if len(about) == 2 * KEY_HEX:
        try:
            key = int(about[KEY_HEX:], 16)
        except ValueError:
            key = 0
    if actor is not None or key:
        rows += teller.events(key, 0 if actor is None else actor.spec.arguments)
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
        self._names = Explainer(machine.tables, 0.0, Sights(), is_last=True)

    def lines(self, about: str) -> list[Row]:
        """What the machine has kept."""
        found: list[Row] = []
        for line in self._machine.story(about):
            when, _, text = line.partition(" ")
            if line.startswith("("):
                when, text = "0", line
            found.append({"time_s": float(when), "process": 0, "text": text})
        return found if any(row["time_s"] for row in found) else []

    def events(self, key: int, actor: int) -> list[Row]:
        """What processes have left about object ``key``, or about the calls of ``actor``."""
        events = self._memory.list_events(EVENTS_MOST)
        wanted = {key} if key else set()
        if actor:
            mine = METHOD_BIT | actor
            wanted |= {
                row[3]
                for row in events
                if row[2] == TAKEN and row[4] & ~(METHODS << SLOT_BITS) == mine
            }
        found: list[Row] = []
        texts: dict[tuple[int, int], tuple[Row, dict[int, bytes]]] = {}
        for ns, process, kind, whose, number, n in events:
            if whose not in wanted:
                continue
            row: Row = {"time_s": ns / 1e9, "process": process, "text": ""}
            if kind in TEXTS:
                known = texts.get((whose, kind))
                if known is None:
                    found.append(row)
                    known = texts[whose, kind] = (row, {})
                known[1][n] = number.to_bytes(8, "little")
                continue
            row["text"] = self._text(kind, number, n) + ("" if key else f" ({self.id_of(whose)})")
            found.append(row)
        for (whose, kind), (row, pieces) in texts.items():
            joined = b"".join(pieces[place] for place in sorted(pieces)).rstrip(b"\0")
            what = "is called" if kind == _native.EVENT_NAME else "fails with"
            suffix = "" if key else f" ({self.id_of(whose)})"
            row["text"] = f"{what} {joined.decode(errors='ignore')}{suffix}"
        return found

    def _text(self, kind: int, about: int, n: int) -> str:
        if kind == SUBMITTED:
            by = f" by task {self.id_of(about)}" if about else ""
            return f"submitted{by}"
        if kind == TAKEN:
            return f"{self._names.name_of(about)} begins, attempt {n}"
        if kind == SEALED:
            return "ended with an error" if n in ERRORS else "ended: its value is there"
        return {PUT: "put", FREED: "freed", REPAIRED: "repaired after a death"}.get(
            kind, f"event {kind}"
        )

    def id_of(self, key: int) -> str:
        return typed_ids.object_id(self._machine.tables.config.node_id, key)


def memory_rows(memory: Memory, machine: NodeMachine, directory: str, now: float) -> list[Row]:
    """One row per value: size, age, where it was made, and its holders, the largest first."""
    teller = _Teller(memory, machine)
    names = Explainer(machine.tables, now, Sights(), is_last=True)
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
            row |= {"kind": word, "id": teller.id_of(holder), "name": "", "pid": 0}
        holders.setdefault(key, []).append(row)
    made: dict[int, tuple[float, str]] = {}
    for ns, _, kind, key, about, _ in memory.list_events(EVENTS_MOST):
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
                "refs": refs,
                "pins": pins,
                "owner": owner,
                "age_s": now - since if since else None,
                "made_by": name,
                "site": sites.get(key, ""),
                "holders": holders.get(key, []),
            }
        )
    return rows


def _word(kind: int) -> str:
    return "put" if kind == PUT else ""
