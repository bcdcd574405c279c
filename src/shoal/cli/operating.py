"""Commands for whoever runs a cluster: ``drain`` and ``autoscale``."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Annotated, Any, cast

from cyclopts import Parameter

from shoal import errors
from shoal._base import clock
from shoal._proto import messages
from shoal._runtime import entering, registry
from shoal._runtime.observer import Observer
from shoal.cli import report, values
from shoal.cli.values import CommandError

ID_LEAST = 6
"""Digits of a node's id that people have to type at least."""


LEFT_S = 5.0
"""So long a node may take to say what is still there."""


def drain(
    node: str,
    *,
    deadline: str = "5min",
    if_idle: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Empty a node of the cluster, then take it out: it accepts nothing new, what waits there goes
    elsewhere, restartable actors restart elsewhere, values are handed over. It cannot be undone.

    Parameters
    ----------
    node
        Its name, or the beginning of its id (`shoal status`).
    deadline
        What still runs after this time is ended: 30s, 10m, 2h. Said again, the shorter one holds.
    if_idle
        Only if nothing runs and no value is kept there.
    """
    deadline_s = values.time_s(deadline, "--deadline")
    assert deadline_s is not None
    with _session() as observer:
        row = find_node(observer.table("members"), node)
        if row["state"] == "DRAINED":
            print(f"Node {row['name']} has been drained, and has left.")
            return 0
        try:
            asked = messages.AskDrain(str(row["node_id"]), deadline_s, only_if_idle=if_idle)
            observer.ask(asked, messages.Done)
        except errors.ShoalError as error:
            raise CommandError(f"node {row['name']} is not drained: {error}") from None
        left = _left(observer, str(row["node_id"]))
    if row["state"] == "DRAINING":
        print(f"Node {row['name']} is being drained already.")
    else:
        print(f"Node {row['name']} takes nothing new and is emptied; `shoal status` shows how far.")
    _explain(left, deadline)
    return 0


def _left(observer: Observer, node: str) -> dict[str, Any] | None:
    """What is still there, as soon as the node has said so; None: it says nothing, or has left."""
    until = clock.now() + LEFT_S
    while clock.now() < until:
        (row,) = [row for row in observer.table("members") if row["node_id"] == node]
        if row["left"] is not None or row["state"] in ("DRAINED", "DEAD"):
            return cast("dict[str, Any] | None", row["left"])
        time.sleep(0.1)
    return None


def _explain(left: dict[str, Any] | None, deadline: str) -> None:
    """What the drain waits for."""
    if left is None:
        return
    print(f"  {report.left_in_words(left)}")
    if left["programs"]:
        who = "a program is" if left["programs"] == 1 else f"{left['programs']} programs are"
        print(
            f"  {who} attached to it: the node waits until they end, at most {deadline};"
            " then they end with it, with their tasks, actors and values"
        )


def find_node(rows: list[dict[str, Any]], about: str) -> dict[str, Any]:
    """The one node that ``about`` names.

    Raises:
        CommandError: none, or several.
    """
    living = [row for row in rows if row["state"] != "DEAD"]
    found = [row for row in living if row["name"] == about]
    if len(found) > 1:  # one of the same name has left
        found = [row for row in found if row["state"] != "DRAINED"]
    if not found and len(about) >= ID_LEAST:
        found = [row for row in living if str(row["node_id"]).startswith(about)]
    if len(found) == 1:
        return found[0]
    there = [row for row in living if row["state"] != "DRAINED"]
    names = ", ".join(f"{row['name']} ({str(row['node_id'])[:ID_LEAST]})" for row in there)
    gone = [row for row in rows if row["state"] == "DEAD" and row["name"] == about]
    if gone and not found:
        raise CommandError(f"node {about} is dead: {gone[-1]['why']}; the nodes are: {names}")
    how = "several nodes are called" if found else "there is no node"
    raise CommandError(f"{how} {about}; the nodes are: {names}")


def autoscale(file: str, *, directory: str = "") -> int:
    """Ask for nodes when work waits for them, and give them back when nothing needs them; until
    Ctrl-C. Runs on the head, beside its started session.

    Parameters
    ----------
    file
        A configuration in TOML: node types and how many of each; see docs/clusters.md.
    directory
        Where a provider keeps what it must not forget (default: beside the sessions).
    """
    from shoal.cluster import Autoscaler, ScalingError
    from shoal.cluster.processes import ProcessProvider
    from shoal.cluster.provider import read_scaling

    try:
        with open(file, encoding="utf-8") as stream:
            scaling = read_scaling(stream.read())
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    except (ScalingError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: {error}") from None
    if scaling.provider != "processes":
        raise CommandError(f"{file}: there is no provider {scaling.provider!r}, only 'processes'")
    entry = _started()
    with Observer(entry.socket_path) as observer:
        (row,) = observer.table("cluster") or [{}]
    if row.get("role") != "head":
        raise CommandError(
            "the session of this machine is not the head of a cluster.\n"
            "What to do: start it with `shoal start --head --listen ADDRESS`"
        )
    place = directory or os.path.join(values.root(), f"nodes-{entry.session}")
    line = entering.join_line(str(row["keys"]), str(row["address"]))
    provider = ProcessProvider(place, line)
    readable, writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    print(f"Looks after {len(scaling.types)} node types; nodes are kept in {place}.", flush=True)
    Autoscaler(scaling, provider, entry.socket_path, _tell).run(readable)
    print("Ends; the nodes go on.")
    return 0


def _tell(line: str) -> None:
    print(f"{clock.wall():.0f} {line}", file=sys.stdout, flush=True)


def _started() -> registry.Entry:
    entries = registry.started_sessions(values.root())
    if not entries:
        raise CommandError("no session that `shoal start` started is running on this machine")
    return entries[0]


def _session() -> Observer:
    entry = _started()
    try:
        return Observer(entry.socket_path)
    except OSError as error:
        raise CommandError(f"the session's daemon does not answer: {error}") from None
