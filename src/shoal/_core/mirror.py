"""The node's mirror of the control store: what it reads from, and how changes reach the store.

In a session that ``init()`` started the mirror *is* the store: it ends with its daemon, and nothing
is written to disk. In one of ``shoal start`` the store is a process of its own::

    waiting --StoreConnected--> joining --Joined--> joined --StoreConnected--> joining ...
    (fresh: nothing may be      Join is on         what was not answered
     asked of the node yet)     its way            is sent again

1. A change that is lasting is acknowledged (its replies go out) when the store has it on disk. Any
   other change is acknowledged at once: work that needs no lasting fact never waits for the store.
2. Changes to rows show in the mirror at once, those to the key-value table when the store has
   answered: what it answers depends on what it has.
3. Nothing is lost while the store is away: what it has not answered is kept here, in the order of
   its numbers, and sent again to whoever serves next. The store knows what it has carried out.
4. Until the first ``Joined`` a node does not know which jobs, names and actors there were: requests
   wait (``is_fresh``).
"""

from __future__ import annotations

import msgspec

from shoal._core import commands as do
from shoal._core.store import (
    Answered,
    Join,
    Joined,
    PutRow,
    Report,
    Request,
    StoreMachine,
)
from shoal._proto.messages import Message

NOTICES_MOST = 20

Replies = tuple[do.Reply, ...]


class Unwritten(msgspec.Struct, frozen=True):
    """A write that the store has not answered yet, and whom to tell."""

    write: Message
    replies: Replies
    is_kv: bool = False
    """The body of its one reply is the store's answer."""


class Mirror:
    """The tables, and the way to the store's process if there is one."""

    def __init__(self, caller: str, has_process: bool, shares_kv: bool = False) -> None:
        """``shares_kv``: the key-value table is that of a cluster, and not known here."""
        self._shares_kv = shares_kv
        self.tables = StoreMachine()
        self.has_process = has_process
        self.is_fresh = has_process
        """Nothing is known yet."""
        self.is_joined = False
        self.epoch = 0
        self.sequence = 0
        """The newest of each that the store has told."""
        self.notices: list[str] = []
        """What was found out about the store, one line each."""
        self._caller = caller
        self._number = 0
        self._unwritten: dict[int, Unwritten] = {}

    @property
    def unanswered(self) -> int:
        """How many writes wait for the store."""
        return len(self._unwritten)

    def is_unwritten(self, table: str, key: str) -> bool:
        """Whether the store has yet to answer for a row."""
        writes = (unwritten.write for unwritten in self._unwritten.values())
        return any(isinstance(w, PutRow) and (w.table, w.key) == (table, key) for w in writes)

    def awaited_by(self, index: int) -> tuple[str, str, int] | None:
        """(table, row, number) of a change for whose answer process ``index`` waits."""
        for number, unwritten in self._unwritten.items():
            if any(reply.index == index for reply in unwritten.replies):
                write = unwritten.write
                row = (write.table, write.key) if isinstance(write, PutRow) else ("kv", "")
                return *row, number
        return None

    # ---- changes
    def write(self, write: Message, replies: Replies) -> list[do.Command]:
        """Change a table; ``replies`` go out once that is acknowledged (rule 1)."""
        effects: list[object] = []
        self.tables.carry_out(write, effects)  # type: ignore[arg-type]
        if not self.has_process:
            return list(replies)
        if effects:
            return self._send(Unwritten(write, replies))
        news = [do.WriteStore(0, write)] if self.is_joined else []
        return [*news, *replies]

    def write_kv(self, write: Message, reply: do.Reply) -> list[do.Command]:
        """Change the key-value table; the store's answer is the answer."""
        if not self.has_process:
            return [msgspec.structs.replace(reply, body=self.tables.apply(write))]
        return self._send(Unwritten(write, (reply,), is_kv=True))

    def _send(self, unwritten: Unwritten) -> list[do.Command]:
        self._number += 1
        self._unwritten[self._number] = unwritten
        return [self._command(self._number, unwritten)] if self.is_joined else []

    def _command(self, number: int, unwritten: Unwritten) -> do.WriteStore:
        first = next(iter(self._unwritten))
        return do.WriteStore(number, Request(first, unwritten.write))  # type: ignore[arg-type]

    def answered(self, number: int, answer: Message) -> list[do.Command]:
        """The store has it."""
        if not isinstance(answer, Answered):
            return []
        self.sequence = max(self.sequence, answer.sequence)
        unwritten = self._unwritten.pop(number, None)
        if unwritten is None:
            return []
        if not unwritten.is_kv:
            return list(unwritten.replies)
        self.tables.apply(unwritten.write)
        return [msgspec.structs.replace(reply, body=answer.body) for reply in unwritten.replies]

    # ---- the store's process
    def connected(self) -> list[do.Command]:
        """A (new) store takes connections: say who we are, and what we know."""
        self.is_joined = False
        self._number += 1
        join = Join(self._caller, self.is_fresh, self.epoch, self.sequence)
        return [do.WriteStore(self._number, join)]

    def joined(self, answer: Joined) -> tuple[list[do.Command], Report | None]:
        """It serves: what it does not know, and what it has not answered. With the state that a
        fresh daemon starts from."""
        state = answer.state if self.is_fresh else None
        if state is not None:
            self.tables.apply(state)
        out: list[do.Command] = []
        if answer.is_behind:
            lost = f"epoch {answer.epoch}, change {answer.sequence}"
            had = f"epoch {self.epoch}, change {self.sequence}"
            text = (
                f"the control store came back with less than it had acknowledged ({lost}; it had"
                f" been at {had}): it is told everything again"
            )
            self.notices = [*self.notices, text][-NOTICES_MOST:]
            out.append(do.Warn(text))
            whole = msgspec.structs.replace(
                self.tables.report(is_lasting=False, is_whole=True),
                epoch=self.epoch,
                sequence=self.sequence,
                keeps_kv=self._shares_kv,
            )
            if self._shares_kv:
                whole = msgspec.structs.replace(whole, kv=self.tables.passing().kv)
            out.append(do.WriteStore(0, whole))
            self.epoch = max(self.epoch, answer.epoch) + 1
            self.sequence = max(self.sequence, answer.sequence) + 1
        else:
            out.append(do.WriteStore(0, self.tables.passing()))
            self.epoch, self.sequence = answer.epoch, max(self.sequence, answer.sequence)
        self.is_fresh, self.is_joined = False, True
        for number, unwritten in self._unwritten.items():
            out.append(self._command(number, unwritten))
        return out, state

    def validate(self) -> None:
        """Assert what must hold."""
        self.tables.validate()
        assert self.has_process or not self._unwritten
        assert list(self._unwritten) == sorted(self._unwritten)
