"""Questions about the session as a whole: nodes and resources."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

from shoal import errors
from shoal._core.resources import UNIT
from shoal._proto import messages
from shoal._runtime import machine_facts
from shoal._runtime import session as sessions
from shoal._runtime.event_names import NamedActor, Names

Row = dict[str, float]
LIVING = ("ALIVE", "DRAINING")
PLAIN = (str, bool, int, float, type(None))
"""What a filter may be that other nodes choose by."""


def table(name: str, limit: int = 10_000) -> list[dict[str, Any]]:
    """Rows of one of the daemon's tables."""
    return sessions.current().request(messages.GetTable(name, limit), messages.Table).rows


def is_many() -> bool:
    """Whether this node is one of a cluster."""
    return bool(table("cluster"))


def everywhere(
    name: str, limit: int = 10_000, filters: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Rows of a table of all nodes; who does not answer soon is named in a warning."""
    sent: dict[str, object] = {k: v for k, v in (filters or {}).items() if isinstance(v, PLAIN)}
    asked = messages.GetTable(name, limit, is_everywhere=True, filters=sent)
    told = sessions.current().request(asked, messages.Table)
    for text in told.notices:
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    return told.rows


def names() -> Names:
    """Names of what stands in this node's events."""
    functions = {row["key"]: str(row["name"]) for row in table("functions")}
    actors = {row["key"]: NamedActor(row["actor_id"], row["class_name"]) for row in table("actors")}
    return Names(functions, actors, _methods_of)


def _methods_of(actor_id: str) -> bytes:
    try:
        body = messages.DescribeActor(actor_id)
        return sessions.current().request(body, messages.ActorInfo).spec.methods
    except errors.ActorNotFoundError:  # it has gone since
        return b""


def nodes() -> list[dict[str, Any]]:
    """Return one row per node: ids, addresses, resources, labels.

    Example:
        >>> shoal.nodes()[0]["Alive"]
        True
    """
    rows = []
    for row in table("nodes"):
        is_alive = row.get("state", "ALIVE") == "ALIVE"
        rows.append(
            {
                "NodeID": row.get("node_id"),
                "Alive": is_alive,
                "alive": is_alive,
                "NodeName": row.get("name"),
                "NodeManagerHostname": row.get("name"),
                "NodeManagerAddress": row.get("host") or machine_facts.address(),
                "Resources": row.get("total", {}),
                "Labels": row.get("labels", {}),
                **row,
            }
        )
    return rows


@overload
def list_named_actors(all_namespaces: Literal[False] = False) -> list[str]: ...
@overload
def list_named_actors(all_namespaces: Literal[True]) -> list[dict[str, str]]: ...
@overload
def list_named_actors(all_namespaces: bool) -> list[str] | list[dict[str, str]]: ...
def list_named_actors(all_namespaces: bool = False) -> list[str] | list[dict[str, str]]:
    """Return the names of the living actors of this namespace, of all nodes.

    Args:
        all_namespaces: Return those of every namespace, as dicts of ``namespace`` and ``name``.

    Example:
        >>> keeper = shoal.remote(list).options(name="keeper").remote()
        >>> shoal.util.list_named_actors()
        ['keeper']
    """
    rows = everywhere("actors")
    named = [row for row in rows if row.get("name") and row.get("state") != "DEAD"]
    if all_namespaces:
        return [{"namespace": row["namespace"], "name": row["name"]} for row in named]
    namespace = sessions.current().namespace
    return [row["name"] for row in named if row["namespace"] == namespace]


def cluster_resources() -> dict[str, float]:
    """Return what all nodes own together.

    Example:
        >>> shoal.cluster_resources()["CPU"] > 0
        True
    """
    return _resources("total_units", lambda here: here.total)


def available_resources() -> dict[str, float]:
    """Return what is free now on all nodes together; what is used up is left out.

    Example:
        >>> shoal.available_resources()["CPU"] <= shoal.cluster_resources()["CPU"]
        True
    """
    found = _resources("free_units", lambda here: here.available)
    return {name: amount for name, amount in found.items() if amount > 0}


def available_by_node() -> dict[str, Row]:
    """What is free now, by id of the node: of this one as it is, of others as they said last."""
    session = sessions.current()
    found = {}
    for row in table("members"):
        if row["role"] == "node" and row["state"] in LIVING:
            free = row["free_units"].items()
            found[row["node_id"]] = {name: units / UNIT for name, units in free}
    if (me := session.node_id.hex()) in found:
        found[me] = session.request(messages.GetResources(), messages.Resources).available
    return found


def _resources(column: str, of_here: Callable[[messages.Resources], Row]) -> Row:
    """This node as it is, and what the others have said last."""
    session = sessions.current()
    found = of_here(session.request(messages.GetResources(), messages.Resources))
    for row in table("members"):
        if row["node_id"] != session.node_id.hex() and row["state"] in LIVING:
            for name, units in row[column].items():
                found[name] = found.get(name, 0.0) + units / UNIT
    return found
