"""``timeline``: what ran where and when, as a file that Perfetto and chrome://tracing open.

Every process writes small events into a ring of its own in node memory, always; this reads all
rings. One row per process: a slice lasts from *taken* to *sealed*, a task that a waiting worker ran
meanwhile lies inside the one that waits. Calls of a concurrent actor overlap without being nested,
which one row can not show, so they spread over as many rows as it takes.

A ring holds the last 4,096 events of its process, so the file begins where the shortest ring does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from shoal import _native
from shoal._base import clock, typed_ids
from shoal._runtime import cluster, history
from shoal._runtime import session as sessions

ROWS_PER_PROCESS = 1000
NODE = 1
"""The node's number in the file. 0 means an idle machine to tools that read kernel traces."""


class Slice(NamedTuple):
    """One attempt, as it was run."""

    begin_ns: int
    end_ns: int
    process: int
    key: int
    about: int
    is_running: bool
    job: int = 0


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """Return the tasks and calls of the last minutes as trace events, or write them to a file.

    Args:
        filename: A file to write, which opens in Perfetto; None returns the events.

    Example:
        >>> events = shoal.timeline()
        >>> all("ph" in event for event in events)
        True
    """
    session = sessions.current()
    rows = session.memory.list_events(history.ALL)
    living = {row["worker"] for row in cluster.table("workers")}
    slices = slices_of(rows, living, clock.now_ns())
    submitted = {row[3]: row for row in rows if row[2] == history.SUBMITTED}
    placed = list(lanes_of(slices))
    events = list(_labels({(piece.process, lane) for piece, lane in placed}))
    names = cluster.names()
    for piece, lane in placed:
        actor = history.actor_of(piece.about)
        told: dict[str, Any] = {
            "task_id": typed_ids.task_id(session.node_id, piece.key, actor, piece.job)
        }
        if piece.key in submitted:
            began = submitted[piece.key]
            told["submitted_by"] = began[1]
            told["waited_us"] = max(0.0, (piece.begin_ns - began[0]) / 1e3)
        if piece.is_running:
            told["running"] = True
        events.append(
            {
                "ph": "X",
                "cat": "call" if piece.about & _native.EVENT_METHOD else "task",
                "name": names.of(piece.about),
                "pid": NODE,
                "tid": piece.process * ROWS_PER_PROCESS + lane,
                "ts": piece.begin_ns / 1e3,
                "dur": (piece.end_ns - piece.begin_ns) / 1e3,
                "args": told,
            }
        )
    if filename is None:
        return events
    with open(filename, "w", encoding="utf-8") as file:
        json.dump(events, file)
    return None


def slices_of(rows: Iterable[history.Row], living: set[int], now_ns: int) -> Iterator[Slice]:
    """Pair *taken* with *sealed*; an attempt that was given back ends where the next one begins.

    One that nobody sealed runs still, if its process is ``living``, or ended with it.
    """
    open_: dict[int, history.Row] = {}
    last: dict[int, int] = {}
    for row in rows:
        ns, process, kind, key, _, _, _, _ = row
        last[process] = ns
        if kind not in (history.TAKEN, history.SEALED):
            continue
        began = open_.pop(key, None)
        if began is not None:
            yield Slice(began[0], ns, began[1], key, began[4], False, began[6])
        if kind == history.TAKEN:
            open_[key] = row
    for ns, process, _, key, about, _, job, _ in open_.values():
        lives = process in living
        end_ns = max(now_ns, ns) if lives else last[process]
        yield Slice(ns, end_ns, process, key, about, lives, job)


def lanes_of(slices: Iterable[Slice]) -> Iterator[tuple[Slice, int]]:
    """Give each slice the first lane of its process where it is beside the others or inside one."""
    lanes: dict[int, list[list[int]]] = {}
    for piece in sorted(slices, key=lambda piece: (piece.begin_ns, -piece.end_ns)):
        of_process = lanes.setdefault(piece.process, [])
        lane = 0
        while lane < len(of_process) and not _fits(of_process[lane], piece):
            lane += 1
        if lane == len(of_process):
            of_process.append([])
        of_process[lane].append(piece.end_ns)
        yield piece, min(lane, ROWS_PER_PROCESS - 1)


def _fits(ends: list[int], piece: Slice) -> bool:
    """Whether ``piece`` is beside or inside the slices that end at ``ends``, innermost last."""
    while ends and ends[-1] <= piece.begin_ns:
        ends.pop()
    return not ends or piece.end_ns <= ends[-1]


def _labels(rows: set[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Names of the node and of each row: (process, lane)."""
    node = sessions.current().node_id.hex()[:8]
    yield {"ph": "M", "name": "process_name", "pid": NODE, "args": {"name": f"node {node}"}}
    classes = {row["actor_id"]: row["class_name"] for row in cluster.table("actors")}
    workers = {row["worker"]: row for row in cluster.table("workers")}
    for index, lane in sorted(rows):
        worker = workers.get(index)
        text = f"process {index}"
        if worker is not None:
            what = classes.get(worker["actor_id"]) or "worker"
            text = f"{what} (pid {worker['pid']})"
        yield {
            "ph": "M",
            "name": "thread_name",
            "pid": NODE,
            "tid": index * ROWS_PER_PROCESS + lane,
            "args": {"name": f"{text}, {lane + 1}" if lane else text},
        }
