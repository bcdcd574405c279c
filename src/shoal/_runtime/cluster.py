"""Questions about the session as a whole: nodes and resources."""

from __future__ import annotations

from typing import Any

from shoal._proto import messages
from shoal._runtime import session as sessions


def table(name: str, limit: int = 10_000) -> list[dict[str, Any]]:
    """Rows of one of the daemon's tables."""
    return sessions.current().request(messages.GetTable(name, limit), messages.Table).rows


def nodes() -> list[dict[str, Any]]:
    """Return one row per node: id, state, resources.

    Example:
        >>> shoal.nodes()[0]["Alive"]
        True
    """
    rows = []
    for row in table("nodes"):
        rows.append(
            {
                "NodeID": row.get("node_id"),
                "Alive": row.get("state", "ALIVE") == "ALIVE",
                "NodeName": row.get("name"),
                "Resources": row.get("total", {}),
                "Labels": row.get("labels", {}),
                **row,
            }
        )
    return rows


def cluster_resources() -> dict[str, float]:
    """Return what all nodes own together."""
    return _resources().total


def available_resources() -> dict[str, float]:
    """Return what is free now on all nodes together; what is used up is left out."""
    return {name: amount for name, amount in _resources().available.items() if amount > 0}


def _resources() -> messages.Resources:
    return sessions.current().request(messages.GetResources(), messages.Resources)
