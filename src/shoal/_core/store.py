"""The control store's tables as one machine.

It is the authority for cluster-wide facts: nodes, jobs, actors and their names, groups, functions,
and a key-value table. In a session that ``init()`` started the node's machine holds the tables
itself; in one that ``shoal start`` started they live in a process of their own, and the node keeps
a mirror: it reads from the mirror, sends every change as a *write* and answers who asked for it
only when the store has it. When the store's process dies and a new one serves, the mirror is
reported whole (``Report``) and every unanswered write is sent again.

1. Repeating a write is harmless: the tables are the same afterwards.
2. A write never depends on who sends it; so a mirror that applies the same writes is equal to the
   store.
3. Values of the key-value table are opaque.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec

from shoal._proto.messages import Done, KvAnswer, KvDelete, KvGet, KvKeys, KvPut, Message

TABLES = ("nodes", "jobs", "actors", "groups", "functions")


class PutRow(Message, frozen=True):
    """Row ``key`` of ``table`` is now this."""

    table: str
    key: str
    row: dict[str, Any]


class DropRow(Message, frozen=True):
    table: str
    key: str


class KvEntry(Message, frozen=True):
    namespace: str
    key: bytes
    value: bytes


class Report(Message, frozen=True):
    """Everything that a node's mirror knows: sent first to a store that has just started."""

    rows: list[PutRow]
    kv: list[KvEntry]


Write = Union[PutRow, DropRow, KvPut, KvDelete, Report]
Read = Union[KvGet, KvKeys]


class StoreAsked(msgspec.Struct, frozen=True):
    """Event: ``caller`` (a connection's number) sent ``body`` under ``ticket``."""

    caller: int
    ticket: int
    body: Message


class StoreReply(msgspec.Struct, frozen=True):
    """Command: answer it."""

    caller: int
    ticket: int
    body: Message


class StoreMachine:
    """All tables."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, dict[str, Any]]] = {table: {} for table in TABLES}
        self.kv: dict[str, dict[bytes, bytes]] = {}

    def step(self, now: float, event: StoreAsked) -> list[StoreReply]:
        """Every event is answered at once."""
        return [StoreReply(event.caller, event.ticket, self.apply(event.body))]

    def apply(self, body: Message) -> Message:
        """Carry one request out; its answer."""
        match body:
            case PutRow(table, key, row):
                self.rows.setdefault(table, {})[key] = row
            case DropRow(table, key):
                self.rows.get(table, {}).pop(key, None)
            case KvPut():
                return self._put(body)
            case KvGet(key, namespace):
                value = self.kv.get(namespace, {}).get(key)
                return KvAnswer(value=value, existed=value is not None)
            case KvDelete(key, namespace):
                entries = self.kv.get(namespace, {})
                existed = entries.pop(key, None) is not None
                if existed and not entries:
                    del self.kv[namespace]
                return KvAnswer(existed=existed)
            case KvKeys(prefix, namespace):
                keys = self.kv.get(namespace, {})
                return KvAnswer(keys=sorted(key for key in keys if key.startswith(prefix)))
            case Report(rows, kv):
                for entry_row in rows:
                    self.apply(entry_row)
                for entry in kv:
                    self.kv.setdefault(entry.namespace, {})[entry.key] = entry.value
        return Done()

    def _put(self, body: KvPut) -> KvAnswer:
        entries = self.kv.setdefault(body.namespace, {})
        existed = body.key in entries
        if body.overwrite or not existed:
            entries[body.key] = body.value
        return KvAnswer(existed=existed)

    def report(self) -> Report:
        """Everything, to be told to a new store."""
        return Report(
            rows=[
                PutRow(table, key, row)
                for table, rows in self.rows.items()
                for key, row in rows.items()
            ],
            kv=[
                KvEntry(namespace, key, value)
                for namespace, entries in self.kv.items()
                for key, value in entries.items()
            ],
        )

    def validate(self) -> None:
        """Assert what must hold."""
        assert all(entries for entries in self.kv.values())
