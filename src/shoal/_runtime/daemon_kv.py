"""The key-value table in a cluster: one for all nodes, which is the control store's.

A session of one machine reads its mirror; in a cluster a program on another node may have written a
moment ago, so every request of every node, the head's too, is an ask of the control store, and its
answer comes when what it changed is on disk. Asks are repeated until they are told and carried out
once (``membership``, ``StoreMachine.carry_out_once``).

Keys of node memory mean something on their node only: the namespaces for them stay the daemon's.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal._base import records
from shoal._core.store import PASSING_NAMESPACES
from shoal._proto import messages
from shoal._proto.membership import KV_BYTES_MOST
from shoal._runtime.daemon_connections import Connection
from shoal._runtime.daemon_door import Door

KvBody = messages.KvPut | messages.KvGet | messages.KvDelete | messages.KvKeys


class SharedTable:
    """Takes what programs of this node ask of the table."""

    def __init__(self, door: Door, ask: Callable[[Connection, int, KvBody], None]) -> None:
        """``ask`` sends one request of one connection to the control store."""
        self._door = door
        self._ask = ask
        for kind in (messages.KvPut, messages.KvGet, messages.KvDelete, messages.KvKeys):
            door.add_request(kind, self._take)

    def _take(self, connection: Connection, request: int, body: KvBody) -> None:
        if body.namespace in PASSING_NAMESPACES:
            self._door.pass_on(connection, request, body)
        elif isinstance(body, messages.KvPut) and len(body.key + body.value) > KV_BYTES_MOST:
            text = (
                f"a key and value of {len(body.key + body.value)} bytes: in a cluster at most"
                f" {KV_BYTES_MOST}. What to do: shoal.put the value, and give the ref to an actor"
            )
            connection.send(request, messages.Failure(records.pack("UsageError", message=text)))
        else:
            self._ask(connection, request, body)
