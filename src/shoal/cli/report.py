"""How the command line shows sessions and their tables to people."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from shoal._core.policies.labels import NODE_ID_LABEL
from shoal._runtime.observer import Observer

TABLES = ("nodes", "jobs", "actors", "groups", "functions", "workers", "queues")
SHARED_TABLES = ("nodes", "jobs", "actors", "groups", "workers")
"""Those that all nodes of a cluster answer with the same."""
PIPE_COLUMNS = 400
_BYTES = ("memory", "object_store_memory")


def count(number: int, noun: str) -> str:
    """``1 worker``, ``2 workers``, ``no workers``."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def size(size_bytes: float) -> str:
    """``512 B``, ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.4g} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.4g} TiB"


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def amount(name: str, value: float) -> str:
    """An amount of resource ``name``: bytes for memory, a plain number else."""
    return size(value) if name in _BYTES else f"{value:g}"


def amounts(total: Mapping[str, float]) -> str:
    """``4 CPU, 7 GiB memory``."""
    shown = (name for name in sorted(total) if not is_name_of_node(name))
    return ", ".join(f"{amount(name, total[name])} {name}" for name in shown)


def is_name_of_node(name: str) -> bool:
    """Whether this resource only says which node it is."""
    return name.startswith("node:")


def print_rows(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print ``rows`` as a table; columns are the keys in the order in which they are first seen."""
    if not rows:
        print(f"{title}: none")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    # Into a pipe every column goes whole; on a terminal rich cuts what does not fit.
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(each) for each in value)
    if isinstance(value, bytes):
        return value.hex()
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_status(observer: Observer) -> None:
    """Print what one session is and does."""
    (session,) = observer.table("session")
    resources = observer.resources()
    uptime = duration(float(str(session["uptime_s"])))
    kind = "started" if session["started"] else "of a program"
    if session["name"]:
        kind = f"started as {session['name']}"
    print(f"Session {session['session']} ({kind}, node daemon {session['pid']}), up {uptime}")
    print_store(session["store"])
    for name, total in sorted(resources.total.items()):
        if is_name_of_node(name):
            continue
        used = total - resources.available.get(name, 0.0)
        if name == "object_store_memory":
            used = float(str(session["memory_used_bytes"]))
        print(f"  {name:20} {amount(name, used)} of {amount(name, total)} in use")
    print_memory(session.get("processes_memory"))
    nodes = observer.table("members")
    living = sum(row["state"] in _LIVING and row["role"] == "node" for row in nodes)
    workers = observer.table("workers")
    actors = [row for row in observer.table("actors") if row.get("state") != "DEAD"]
    jobs = [row for row in observer.table("jobs") if row.get("state") == "RUNNING"]
    clusters = observer.table("cluster")
    print(
        f"  {count(living, 'node')},{' here' if clusters else ''} {count(len(workers), 'worker')},"
        f" {count(len(actors), 'actor')}, {count(len(jobs), 'running job')}"
    )
    for row in clusters:
        print_cluster(row, nodes)
    if not clusters:
        print("  security: a unix socket of this user; nothing listens on the network")
    for row in observer.table("demand"):
        print_demand(row)


def print_cluster(row: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> None:
    """Print where a cluster is, how it is secured, and its nodes."""
    where = f"listens at {row['address']}" if row["address"] else "only dials out"
    print(f"  cluster: this is {_ROLES[row['role']]}, {row['state']}, {where}")
    if row["why"]:
        print(f"  cluster: {row['why']}")
    print(f"  security: {row['security']}")
    for node in nodes:
        free, total = node["free_units"], node["total_units"]
        used = ", ".join(
            f"{_units(name, total[name] - free.get(name, 0))} of {_units(name, total[name])} {name}"
            for name in sorted(total)
            if not is_name_of_node(name) and name not in _BYTES
        )
        shown = sorted(item for item in node["labels"].items() if item[0] != NODE_ID_LABEL)
        labels = ",".join(f"{key}={value}" for key, value in shown)
        facts = [str(node["state"]).lower(), node["address"] or "dials out", used, labels]
        if node["role"] == "driver":
            if node["state"] not in _LIVING:  # that programs end is no news
                continue
            facts = [*facts[:2], "runs nothing"]
        if node["left"] and node["state"] == "DRAINING":
            facts[0] += f" ({left_in_words(node['left'])})"
        if node["state"] == "DEAD":
            facts = ["dead", node["why"]]
        text = "; ".join(fact for fact in facts if fact)
        print(f"  {node['role']} {node['node_id'][:12]} {node['name']}: {text}")


_ROLES = {
    "head": "the head",
    "node": "a node",
    "driver": "the node of a program, which runs nothing",
}
_LIVING = ("ALIVE", "DRAINING")


def left_in_words(left: Mapping[str, Any]) -> str:
    """What a node that is being drained has yet to get rid of."""
    kinds = ("program", "task", "actor", "group", "value")
    parts = [count(left[f"{kind}s"], kind) for kind in kinds if left[f"{kind}s"]]
    if left["size_bytes"]:
        parts[-1] += f" of {size(left['size_bytes'])}"
    return f"still there: {', '.join(parts)}" if parts else "nothing is left there"


def _units(name: str, units: int) -> str:
    return amount(name, units / 10_000)


def print_demand(row: Mapping[str, Any]) -> None:
    """Print what waits, and why."""
    asked = ", ".join(_units(name, units) + f" {name}" for name, units in row["units"].items())
    most = "up to " if row["kind"] == "task" else ""
    job = f" of job {row['job']}" if row["job"] else ""
    what = f"{most}{count(row['count'], row['kind'])}{job} asking {asked or 'nothing'}"
    print(f"  waiting: {what}: {row['why']}")


def print_memory(row: object) -> None:
    """What processes use of the node, and what that keeps from running."""
    if not isinstance(row, dict) or not row["is_watched"]:
        return
    if row["used_bytes"] is None:
        print(f"  {'memory of the node':20} {size(row['limit_bytes'])}, not looked at yet")
        return
    print(f"  {'memory of workers':20} {_sources(row)}")
    share = row["used_bytes"] / row["limit_bytes"]
    text = f"{size(row['used_bytes'])} of {size(row['limit_bytes'])} in use ({share:.0%})"
    print(f"  {'memory of the node':20} {text}")
    if row["is_paused"]:
        print("  admission paused: so little memory is left that nothing new begins (shoal why)")
    if row["waiting"]:
        print(f"  waiting for memory: {count(row['waiting'], 'task')} (shoal why)")


def _sources(row: Mapping[str, Any]) -> str:
    if row["source"] == "cgroup":
        return f"each has a cgroup in {row['source_why']}"
    return f"read from /proc ({row['source_why']})"


def print_store(row: object) -> None:
    """What is unusual about the control store."""
    if not isinstance(row, dict) or not row:
        return
    if row["away_s"]:
        print(
            f"  control store: away for {duration(row['away_s'])},"
            f" {count(row['waiting'], 'change')} wait for it; running work goes on"
        )
    for notice in row["notices"]:
        print(f"  control store: {notice}")
