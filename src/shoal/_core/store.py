"""The control store's tables as one machine.

It is the authority for cluster-wide facts: nodes, jobs, actors and their names, groups, functions,
and a key-value table. In a session that ``init()`` started the node's machine holds the tables
itself; in one that ``shoal start`` started they live in a process of their own, and the node keeps
a mirror (``mirror``), reads from it, and sends every change.

What must survive the store's process is *lasting* (RULES K-5): the key-value table, jobs, named and
detached actors, detached groups, and the records from which detached actors and groups are made
again. For each change of it the machine answers with effects (``Keep``, ``Erase``) before the
reply; the shell has them on disk before the reply goes out. Everything else (anonymous actors,
functions, which are keys of node memory) is reported again by the nodes.

::

    daemon                         store
      Join(caller, epoch, sequence) ->             which state it knows to be acknowledged
                                    <- Joined      the store's own; all of it to a fresh daemon
      Report ->                                    what is not lasting, or everything, see rule 4
      Request(answered_below, write) ->
                                    <- Answered(sequence, answer)

1. A request has a number chosen by the caller, and numbers of a caller grow. One that was carried
   out before is answered as it was then: the last number and the answers that the caller may not
   have seen are lasting too, in the same transaction as the change itself.
2. A write never depends on who sends it; so a mirror that applies the same writes is equal.
3. What is on disk is exactly ``contents()`` of a state that this machine had: effects of one step
   belong together.
4. ``sequence`` counts changes, ``epoch`` lives of the store. A daemon that has seen acknowledged
   what the store does not know (its file was damaged, or is an older copy) says so in ``Join``; it
   then reports everything, which replaces everything: what was deleted must not come back.
5. Values and records are opaque: nothing here is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Union

import msgspec

from shoal._proto.messages import Done, KvAnswer, KvDelete, KvGet, KvKeys, KvPut, Message

TABLES = ("nodes", "jobs", "actors", "groups", "functions")
PASSING_NAMESPACES = ("shoal.functions",)
"""Of the key-value table: their values are keys of node memory, which ends with its daemon."""
KV, RECORDS, CALLERS, ANSWERS = "kv", "records", "callers", "answers"
"""Kinds of what is on disk, beside the names of tables."""


class PutRow(Message, frozen=True):
    """Row ``key`` of ``table`` is now this."""

    table: str
    key: str
    row: dict[str, Any]


class DropRow(Message, frozen=True):
    table: str
    key: str


class PutRecord(Message, frozen=True):
    """What ``name`` (an actor's or group's id) is made from."""

    name: str
    data: bytes


class DropRecord(Message, frozen=True):
    name: str


class KvEntry(Message, frozen=True):
    namespace: str
    key: bytes
    value: bytes


class Report(Message, frozen=True):
    """What a mirror knows, or what a store tells a fresh daemon."""

    rows: list[PutRow]
    kv: list[KvEntry] = []
    records: list[PutRecord] = []
    is_whole: bool = False
    """It replaces all that the store has,"""
    keeps_kv: bool = False
    """but for the key-value table, which others write to as well."""
    epoch: int = 0
    sequence: int = 0


class Join(Message, frozen=True):
    """A daemon connects: who it is, and the newest state of the store that it has heard of."""

    caller: str
    is_fresh: bool = False
    """It knows nothing yet, and wants to be told everything."""
    epoch: int = 0
    sequence: int = 0


class Joined(Message, frozen=True):
    epoch: int
    sequence: int
    is_behind: bool = False
    """The daemon has seen acknowledged what is not here."""
    state: Report | None = None
    notices: list[str] = []
    """What the store had to say since it began, one line each."""


Write = Union[PutRow, DropRow, PutRecord, DropRecord, KvPut, KvDelete]
Read = Union[KvGet, KvKeys]


class Request(Message, frozen=True):
    """Carry ``write`` out once; every number below ``answered_below`` has been answered."""

    answered_below: int
    write: Write


class Answered(Message, frozen=True):
    sequence: int
    body: Union[Done, KvAnswer]


class StoreNotice(Message, frozen=True):
    """News (ticket 0): one line for the log and for whoever looks."""

    text: str


class StoreAsked(msgspec.Struct, frozen=True):
    """Event: ``caller`` (a connection's number) sent ``body`` under ``ticket``; 0 is news."""

    caller: int
    ticket: int
    body: Message


class StoreLeft(msgspec.Struct, frozen=True):
    """Event: connection ``caller`` has ended."""

    caller: int


class StoreReply(msgspec.Struct, frozen=True):
    """Command: answer it, once the effects before it are on disk."""

    caller: int
    ticket: int
    body: Message


class Keep(msgspec.Struct, frozen=True):
    """Command: ``value`` is what is on disk under (``kind``, ``key``)."""

    kind: str
    key: bytes
    value: bytes


class Erase(msgspec.Struct, frozen=True):
    """Command: nothing is on disk under (``kind``, ``key``)."""

    kind: str
    key: bytes


Effect = Union[Keep, Erase]
StoreEvent = Union[StoreAsked, StoreLeft]
StoreCommand = Union[Keep, Erase, StoreReply]

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


MEMBER = "@"
"""In the names of callers that are members of a cluster: NODE@EPOCH."""


class Caller(msgspec.Struct):
    """What is remembered of one daemon's requests."""

    last: int = 0
    """The highest number that was carried out; those that changed nothing do not count, since to
    repeat them changes nothing."""
    answers: dict[int, KvAnswer] = {}
    """Those that are more than ``Done``, until the caller has them."""


def is_lasting_row(table: str, row: dict[str, Any]) -> bool:
    """Whether a row must survive the store's process (RULES K-5)."""
    if table == "jobs":
        return True
    if table == "actors":
        return bool(row.get("detached") or row.get("name"))
    return table == "groups" and bool(row.get("detached"))


class StoreMachine:
    """All tables."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, dict[str, Any]]] = {table: {} for table in TABLES}
        self.kv: dict[str, dict[bytes, bytes]] = {}
        self.records: dict[str, bytes] = {}
        self.callers: dict[str, Caller] = {}
        self.epoch = 0
        self.sequence = 0
        self.notices: list[str] = []
        self._names: dict[int, str] = {}
        """Connection -> the caller that joined over it."""

    def step(self, now: float, event: StoreEvent) -> list[StoreCommand]:
        """Effects first, then the reply that may go out once they are on disk."""
        if isinstance(event, StoreLeft):
            self._names.pop(event.caller, None)
            return []
        effects: list[Effect] = []
        match event.body:
            case Join():
                answer = self._join(event.caller, event.body, effects)
            case Request() if event.caller not in self._names:
                return []
            case Request():
                answer = self._request(event.caller, event.ticket, event.body, effects)
            case Report():
                answer = self._reported(event.body, effects)
            case _:
                answer = self.carry_out(event.body, effects)
        reply = [StoreReply(event.caller, event.ticket, answer)] if event.ticket else []
        return [*effects, *reply]

    # ---- callers
    def _join(self, connection: int, body: Join, effects: list[Effect]) -> Message:
        if body.is_fresh:
            # One node: its former daemon, and whatever that has asked for, is gone. A fresh one has
            # asked for nothing yet.
            # (Members of a cluster that live have nothing to do with it.)
            for name in [name for name in self.callers if MEMBER not in name]:
                self.forget(name, effects)
        self._names[connection] = body.caller
        self.callers.setdefault(body.caller, Caller(answers={}))
        is_behind = body.epoch > self.epoch or body.sequence > self.sequence
        state = self.report(is_lasting=True) if body.is_fresh else None
        return Joined(self.epoch, self.sequence, is_behind, state, list(self.notices))

    def _request(
        self, connection: int, number: int, body: Request, effects: list[Effect]
    ) -> Message:
        name = self._names[connection]
        caller = self.callers.setdefault(name, Caller(answers={}))
        self._drop_answered(name, caller, body.answered_below, effects)
        if number <= caller.last:
            return Answered(self.sequence, caller.answers.get(number) or Done())
        count = len(effects)
        answer = self.carry_out(body.write, effects)
        if isinstance(answer, KvAnswer) or len(effects) > count:
            caller.last = number
            effects.append(Keep(CALLERS, name.encode(), _encode(number)))
        if isinstance(answer, KvAnswer):
            caller.answers[number] = answer
            effects.append(Keep(ANSWERS, _answer_key(name, number), _encode(answer)))
        assert isinstance(answer, Done | KvAnswer)
        return Answered(self.sequence, answer)

    def carry_out_once(
        self, caller: str, number: int, answered_below: int, body: Message, effects: list[Effect]
    ) -> KvAnswer:
        """The answer to request ``number`` for the key-value table, as it was if it comes again.
        Numbers of one caller may come in any order; below ``answered_below`` none comes."""
        known = self.callers.setdefault(caller, Caller(answers={}))
        self._drop_answered(caller, known, answered_below, effects)
        if number in known.answers:
            return known.answers[number]
        count = len(effects)
        answer = self.carry_out(body, effects)
        assert isinstance(answer, KvAnswer)
        if len(effects) > count:
            known.answers[number] = answer
            known.last = max(known.last, number)
            effects.append(Keep(CALLERS, caller.encode(), _encode(known.last)))
            effects.append(Keep(ANSWERS, _answer_key(caller, number), _encode(answer)))
        return answer

    def forget(self, caller: str, effects: list[Effect]) -> None:
        """It asks for nothing any more."""
        known = self.callers.pop(caller, None)
        if known is not None:
            effects += _forget(caller, known)

    def _drop_answered(self, name: str, caller: Caller, below: int, effects: list[Effect]) -> None:
        for old in [old for old in caller.answers if old < below]:
            del caller.answers[old]
            effects.append(Erase(ANSWERS, _answer_key(name, old)))

    # ---- what is asked for
    def apply(self, body: Message) -> Message:
        """Carry one request out; its answer. (For a mirror, which has no disk.)"""
        return self.carry_out(body, [])

    def carry_out(self, body: Message, effects: list[Effect]) -> Message:
        """The answer to one request; what it changes on disk is added to ``effects``."""
        count = len(effects)
        answer = self._do(body, effects)
        self.sequence += len(effects) > count
        return answer

    def _do(self, body: Message, effects: list[Effect]) -> Message:
        match body:
            case PutRow(table, key, row):
                former = self.rows.setdefault(table, {}).get(key)
                self.rows[table][key] = row
                if is_lasting_row(table, row):
                    effects.append(Keep(table, key.encode(), _encode(row)))
                elif former is not None and is_lasting_row(table, former):
                    effects.append(Erase(table, key.encode()))
            case DropRow(table, key):
                former = self.rows.get(table, {}).pop(key, None)
                if former is not None and is_lasting_row(table, former):
                    effects.append(Erase(table, key.encode()))
            case PutRecord(name, data):
                self.records[name] = data
                effects.append(Keep(RECORDS, name.encode(), data))
            case DropRecord(name):
                if self.records.pop(name, None) is not None:
                    effects.append(Erase(RECORDS, name.encode()))
            case KvPut():
                return self._put(body, effects)
            case KvGet(key, namespace):
                value = self.kv.get(namespace, {}).get(key)
                return KvAnswer(value=value, existed=value is not None)
            case KvDelete(key, namespace):
                return self._delete(key, namespace, effects)
            case KvKeys(prefix, namespace):
                keys = self.kv.get(namespace, {})
                return KvAnswer(keys=sorted(key for key in keys if key.startswith(prefix)))
            case Report():
                self._take(body)
        return Done()

    def _put(self, body: KvPut, effects: list[Effect]) -> KvAnswer:
        entries = self.kv.setdefault(body.namespace, {})
        existed = body.key in entries
        if body.overwrite or not existed:
            entries[body.key] = body.value
            if body.namespace not in PASSING_NAMESPACES:
                effects.append(Keep(KV, _kv_key(body.namespace, body.key), body.value))
        return KvAnswer(existed=existed)

    def _delete(self, key: bytes, namespace: str, effects: list[Effect]) -> KvAnswer:
        entries = self.kv.get(namespace, {})
        existed = entries.pop(key, None) is not None
        if existed and not entries:
            del self.kv[namespace]
        if existed and namespace not in PASSING_NAMESPACES:
            effects.append(Erase(KV, _kv_key(namespace, key)))
        return KvAnswer(existed=existed)

    # ---- reports
    def report(self, is_lasting: bool = False, is_whole: bool = False) -> Report:
        """Everything, or only what is lasting."""
        return Report(
            rows=[
                PutRow(table, key, row)
                for table, rows in self.rows.items()
                for key, row in rows.items()
                if not is_lasting or is_lasting_row(table, row)
            ],
            kv=[
                KvEntry(namespace, key, value)
                for namespace, entries in self.kv.items()
                if not is_lasting or namespace not in PASSING_NAMESPACES
                for key, value in entries.items()
            ],
            records=[PutRecord(name, data) for name, data in self.records.items()],
            is_whole=is_whole,
            epoch=self.epoch,
            sequence=self.sequence,
        )

    def passing(self) -> Report:
        """What is not lasting: told to each store that begins."""
        return Report(
            rows=[
                PutRow(table, key, row)
                for table, rows in self.rows.items()
                for key, row in rows.items()
                if not is_lasting_row(table, row)
            ],
            kv=[
                KvEntry(namespace, key, value)
                for namespace in PASSING_NAMESPACES
                for key, value in self.kv.get(namespace, {}).items()
            ],
        )

    def _take(self, report: Report) -> None:
        if report.is_whole:
            self.rows = {table: {} for table in TABLES}
            self.kv = self.kv if report.keeps_kv else {}
            self.records = {}
        for row in report.rows:
            self.rows.setdefault(row.table, {})[row.key] = row.row
        for entry in report.kv:
            self.kv.setdefault(entry.namespace, {})[entry.key] = entry.value
        for record in report.records:
            self.records[record.name] = record.data

    def _reported(self, report: Report, effects: list[Effect]) -> Message:
        if not report.is_whole:
            self._take(report)
            return Answered(self.sequence, Done())
        before = dict(self.contents())
        self._take(report)
        # What its daemons have not heard the answer to comes again, and is to be carried out.
        for name, caller in self.callers.items():
            if not (report.keeps_kv and MEMBER in name):
                caller.last, caller.answers = 0, {}
        after = dict(self.contents())
        effects += [Erase(*place) for place in before if place not in after]
        effects += [Keep(*place, value) for place, value in after.items()]
        self.epoch = max(self.epoch, report.epoch) + 1
        self.sequence = max(self.sequence, report.sequence) + 1
        self.notices.append(
            f"a daemon knew more than the journal and has told everything again: epoch {self.epoch}"
        )
        return Answered(self.sequence, Done())

    # ---- what is on disk
    def contents(self) -> Iterator[tuple[tuple[str, bytes], bytes]]:
        """All that is lasting, as it stands on disk."""
        for table, rows in self.rows.items():
            for key, row in rows.items():
                if is_lasting_row(table, row):
                    yield (table, key.encode()), _encode(row)
        for namespace, entries in self.kv.items():
            if namespace not in PASSING_NAMESPACES:
                for kv_key, value in entries.items():
                    yield (KV, _kv_key(namespace, kv_key)), value
        for name, data in self.records.items():
            yield (RECORDS, name.encode()), data
        for name, caller in self.callers.items():
            if caller.last:
                yield (CALLERS, name.encode()), _encode(caller.last)
            for number, answer in caller.answers.items():
                yield (ANSWERS, _answer_key(name, number)), _encode(answer)

    def restore(self, contents: Iterable[tuple[tuple[str, bytes], bytes]]) -> None:
        """Become what ``contents()`` said."""
        for (kind, key), value in contents:
            if kind == KV:
                namespace, name = _decode(key, type=tuple[str, bytes])
                self.kv.setdefault(namespace, {})[name] = value
            elif kind == RECORDS:
                self.records[key.decode()] = value
            elif kind == CALLERS:
                caller = self.callers.setdefault(key.decode(), Caller(answers={}))
                caller.last = _decode(value, type=int)
            elif kind == ANSWERS:
                who, number = _decode(key, type=tuple[str, int])
                caller = self.callers.setdefault(who, Caller(answers={}))
                caller.answers[number] = _decode(value, type=KvAnswer)
            else:
                self.rows.setdefault(kind, {})[key.decode()] = _decode(value)

    def validate(self) -> None:
        """Assert what must hold."""
        assert all(entries for entries in self.kv.values())
        for caller in self.callers.values():
            assert all(number <= caller.last for number in caller.answers)


def _kv_key(namespace: str, key: bytes) -> bytes:
    return _encode((namespace, key))


def _answer_key(name: str, number: int) -> bytes:
    return _encode((name, number))


def _forget(name: str, caller: Caller) -> list[Effect]:
    effects: list[Effect] = [Erase(CALLERS, name.encode())] if caller.last else []
    return effects + [Erase(ANSWERS, _answer_key(name, number)) for number in caller.answers]
