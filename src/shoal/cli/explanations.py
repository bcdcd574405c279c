"""How the command line shows why something waits, what happened to it, and who holds memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shoal import errors
from shoal._base import clock
from shoal._proto import messages, reasons
from shoal._runtime import session_dir
from shoal._runtime.observer import Observer
from shoal.cli import report
from shoal.errors import _why

HOLDERS_SHOWN = 3
NAMED_SHOWN = 20


def print_why(observer: Observer, about: str, as_json: bool) -> bool:
    """Print the chain of reasons for an id, or for what has that name: of several, a table."""
    try:
        why = _asked(observer, about)
    except errors.UsageError:
        rows = _named(observer, about)
        if not rows:
            raise
        if len(rows) > 1:
            _print_named(observer, about, rows, as_json)
            return True
        why = _asked(observer, str(rows[0]["id"]))
    show_why(why, as_json)
    return True


def _asked(observer: Observer, about: str) -> _why.Why:
    return _why.unpacked(observer.ask(messages.AskWhy(about), messages.WhyAnswer).reason)


def _named(observer: Observer, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = observer.ask(
        messages.GetTable("story", about=f"named {name}"), messages.Table
    ).rows
    return found


def _print_named(
    observer: Observer, name: str, rows: Sequence[Mapping[str, Any]], as_json: bool
) -> None:
    """Each with the first of its reasons."""
    table = []
    for row in rows[:NAMED_SHOWN]:
        try:
            why = str(_asked(observer, row["id"])).splitlines()[0]
        except errors.UsageError:  # it has ended since
            continue
        table.append({**row, "why": why})
    if as_json:
        print(json.dumps(table))
        return
    report.print_rows(name, table)
    if len(rows) > NAMED_SHOWN:
        print(f"and {len(rows) - NAMED_SHOWN} more")


def print_no_answer(pid: int, waited_s: float, as_json: bool) -> None:
    """Print that the node daemon is silent; ``pid`` 0: nobody here knows it."""
    is_stopped = session_dir.is_stopped(pid)
    reason = reasons.NoAnswer(pid=pid, waited_s=waited_s, is_stopped=is_stopped)
    show_why(_why.Why(reason), as_json)


def show_why(why: _why.Why, as_json: bool) -> None:
    """Print it; as JSON, each reason has its type, its facts and its sentence."""
    if not as_json:
        print(why)
        return
    chain = []
    for reason in why.chain:
        facts = msgspec.to_builtins(reason)
        del facts["cause"]
        chain.append({**facts, "text": _why.sentence(reason)})
    print(json.dumps({"chain": chain, "what_to_do": _why.advice(why.root)}))


def print_story(observer: Observer, about: str, as_json: bool) -> bool:
    """Print its lines, each with how long ago it was; False if there are none."""
    asked = messages.GetTable("story", about=about)
    rows: list[dict[str, Any]] = observer.ask(asked, messages.Table).rows
    now = clock.now()
    if as_json and rows:
        agos = [{"ago_s": now - row["time_s"] if row["time_s"] else None} for row in rows]
        print(json.dumps([{**row, **ago} for row, ago in zip(rows, agos, strict=True)]))
        return True
    for row in rows:
        ago = f"{now - row['time_s']:9.3f} s ago" if row["time_s"] else " " * 15
        who = f"process {row['process']}" if row["process"] > 0 else "daemon"
        print(f"{ago}  {'' if row['process'] < 0 else who:12} {row['text']}")
    return bool(rows)


def print_memory(observer: Observer, by: str, limit: int, as_json: bool) -> bool:
    """Print who holds what, or what functions need."""
    if by == "function":
        return _print_peaks(observer, limit, as_json)
    rows: list[dict[str, Any]] = observer.table("memory", 100_000)
    table = {"object": _objects, "site": _sites, "process": _processes}[by](rows)[:limit]
    if as_json:
        print(json.dumps(rows[:limit] if by == "object" else table))
        return True
    total = sum(row["size_bytes"] for row in rows)
    print(f"{report.count(len(rows), 'object')}, {report.size(total)}{_elsewhere(rows)}")
    report.print_rows("memory", table)
    if by != "process" and rows and not any(row["site"] for row in rows):
        print("Lines are known of programs that run with SHOAL_RECORD_CALL_SITES=1.")
    return True


def _elsewhere(rows: Sequence[Mapping[str, Any]]) -> str:
    """How much of it has left memory, and for which folders: the rows name files only."""
    left = [row for row in rows if row["where"] not in ("", "memory")]
    if not left:
        return ""
    folders = sorted({os.path.dirname(row["where"]) for row in left})
    size = report.size(sum(row["size_bytes"] for row in left))
    return f", of which {size} in {', '.join(folders)}"


def _print_peaks(observer: Observer, limit: int, as_json: bool) -> bool:
    rows: list[dict[str, Any]] = observer.table("memory_peaks")
    rows = sorted(rows, key=lambda row: -row["peak_bytes"])[:limit]
    if as_json:
        print(json.dumps(rows))
        return True
    (session,) = observer.table("session")
    report.print_memory(session.get("processes_memory"))
    table = [
        {
            "function": row["function"],
            "runs": row["runs"],
            "peak": report.size(row["peak_bytes"]),
            "ended for it": row["ended"],
            "begins": "if there is enough" if row["is_admitted"] else "at once",
        }
        for row in rows
    ]
    report.print_rows("functions that have needed much", table)
    return True


def _objects(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    return [
        {
            "object": row["object_id"],
            "size": report.size(row["size_bytes"]),
            "state": row["state"],
            "where": os.path.basename(row["where"]),
            "age": "" if row["age_s"] is None else report.duration(row["age_s"]),
            "made by": row["made_by"],
            "line": row["site"],
            "held by": _holders(row["holders"]),
        }
        for row in rows
    ]


def _holders(holders: Sequence[Mapping[str, Any]]) -> str:
    """The first few, in words."""
    words = []
    for holder in holders[:HOLDERS_SHOWN]:
        pid = f" pid {holder['pid']}" if holder["pid"] else ""
        who = (
            f"{holder['name']}{pid}"
            if holder["kind"] == "process"
            else (f"{holder['kind']} {holder['id']}")
        )
        pins = f", {holder['pins']} looked at" if holder["pins"] else ""
        words.append(f"{who}: {report.count(holder['refs'], 'ref')}{pins}")
    more = len(holders) - len(words)
    return "; ".join([*words, *([f"{more} more"] if more else [])])


def _sites(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    found: dict[str, list[int]] = {}
    for row in rows:
        place = row["site"] or (f"(no line known) {row['made_by']}").strip()
        sums = found.setdefault(place, [0, 0])
        sums[0] += 1
        sums[1] += row["size_bytes"]
    largest = sorted(found.items(), key=lambda item: -item[1][1])
    return [
        {"line": place, "objects": count, "size": report.size(size_bytes)}
        for place, (count, size_bytes) in largest
    ]


def _processes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    found: dict[tuple[str, str, int], list[int]] = {}
    for row in rows:
        for holder in row["holders"]:
            if holder["kind"] == "process":
                who = (holder["id"], holder["name"], holder["pid"])
                sums = found.setdefault(who, [0, 0, 0])
                sums[0] += 1
                sums[1] += row["size_bytes"]
                sums[2] += holder["pins"]
    largest = sorted(found.items(), key=lambda item: -item[1][1])
    return [
        {
            "process": number,
            "what": name,
            "pid": pid,
            "objects": count,
            "size": report.size(size_bytes),
            "looked at": pins,
        }
        for (number, name, pid), (count, size_bytes, pins) in largest
    ]
