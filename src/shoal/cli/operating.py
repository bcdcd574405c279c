"""Commands for whoever runs a cluster: ``drain`` and ``autoscale``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from shoal import errors
from shoal._base import clock
from shoal._proto import messages
from shoal._runtime import entering, registry
from shoal._runtime.observer import Observer
from shoal.cli import values
from shoal.cli.values import CommandError

ID_LEAST = 6
"""Digits of a node's id that people have to type at least."""


def drain(
    node: str,
    *,
    deadline: str = "5min",
    if_idle: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Empty a node of the cluster, then take it out: it accepts nothing new, what is queued there
    goes back, restartable actors restart elsewhere, values are handed over.

    Parameters
    ----------
    node
        Its name, or the beginning of its id (`shoal status`).
    deadline
        What still runs after this time is ended: 30s, 10m, 2h.
    if_idle
        Only if nothing runs and no value is kept there.
    """
    deadline_s = values.time_s(deadline, "--deadline")
    assert deadline_s is not None
    with _session() as observer:
        row = find_node(observer.table("members"), node)
        if row["state"] in ("DRAINING", "DRAINED"):
            print(f"Node {row['name']} is {str(row['state']).lower()} already.")
            return 0
        try:
            asked = messages.AskDrain(str(row["node_id"]), deadline_s, only_if_idle=if_idle)
            observer.ask(asked, messages.Done)
        except errors.ShoalError as error:
            raise CommandError(f"node {row['name']} is not drained: {error}") from None
    print(f"Node {row['name']} takes nothing new and is emptied; `shoal status` shows how far.")
    return 0


def find_node(rows: list[dict[str, Any]], about: str) -> dict[str, Any]:
    """The one node that ``about`` names.

    Raises:
        CommandError: none, or several.
    """
    living = [row for row in rows if row["state"] != "DEAD"]
    found = [row for row in living if row["name"] == about]
    if not found and len(about) >= ID_LEAST:
        found = [row for row in living if str(row["node_id"]).startswith(about)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{row['name']} ({str(row['node_id'])[:ID_LEAST]})" for row in living)
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
