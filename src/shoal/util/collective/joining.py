"""How the ranks of a group find each other, through the session's key-value table.

Under ``(namespace, name)`` the table says which object holds the group's block. The first rank that
comes makes the block and enters it. A group whose ranks have died or left, or that is broken, is
*over*: the next that comes makes another in its place. Whoever leaves last takes the entry away.

Invariants:

1. The entry is looked at and changed under a lock of the session, so all agree on who was first.
   Whether a rank is taken is decided by one swap in the block.
2. Each rank that is there hears of what broke its group; so does one that comes late, as long as
   somebody has the block still.
3. Only a group that is still forming is broken by a wrong call to join it. One that is whole goes
   on without its entry: who wants a rank of it begins the next group of this name, so several may
   have one name if they form one after the other. Who waits for that one in vain is told of both.
"""

from __future__ import annotations

import os
import select
from typing import Any, NamedTuple

import msgspec

from shoal import errors, lowlevel
from shoal._base import clock
from shoal._runtime import locks, objects
from shoal._runtime import session as sessions
from shoal.util.collective.control import PID, Control, nbytes

TABLE = "collective"
FIRST_LOOK_S = 0.05
"""After so long without news a rank looks whether the others live; then after twice as long, ..."""
LONGEST_LOOK_S = 1.0


class Place(NamedTuple):
    """A rank's place in a group."""

    control: Control
    holder: Any
    """The ref that keeps the block findable; None for one that was handed over, and is listed
    nowhere."""
    name: str
    owner: _Pidfd | None = None
    """Tells of the end of a process without which the group makes no sense."""
    former: str = ""
    """Who has an older group of this name, which was found whole."""


def handed_over(block: Any, ranks: int, rank: int, name: str, owner: int) -> Place:
    """The place of ``rank`` in a group whose block was handed to its ranks.

    Args:
        block: The memory, zero at first, of ``nbytes(ranks)`` bytes.
        ranks: How many there are.
        rank: Which of them this process is.
        name: For people.
        owner: The process whose end ends the group.

    Raises:
        CollectiveError: the owner has ended, or the place is taken.
    """
    control = Control(block, ranks)
    watched = pidfd_of(owner)
    if watched is None:
        control.break_off("died", f"the process that owns group {name!r} has ended")
    elif not control.claim(rank, os.getpid()):
        control.break_off("refused", f"rank {rank} of {name!r} is taken twice")
    return Place(control, None, name, watched)


class _Row(msgspec.Struct, array_like=True):
    holder: int
    ranks: int


def failed(kind: str, group: str, rank: int, text: str, missing: int = 0) -> errors.CollectiveError:
    """The error for ``kind`` (late, or anything else); ``missing``: pid of who is late."""
    if kind != "late":
        return errors.CollectiveError(text, group=group, rank=rank)
    late = errors.CollectiveTimeoutError(text, group=group, rank=rank)
    told: errors.CollectiveError = lowlevel.explained(late, f"pid {missing}" if missing else None)
    return told


def take_place(name: str, ranks: int, rank: int) -> Place:
    """Take the place of ``rank`` in the group ``name``, making the group if there is none.

    Raises:
        CollectiveError: the place is taken, the group has another size, or it is broken.
    """
    with _alone(name):
        row = _entry(name)
        place = None if row is None else _opened(name, row)
        if place is None:
            return _make(name, ranks, rank)
        return _join(place, ranks, rank) or _make(name, ranks, rank, _whole(place.control))


def forget(place: Place) -> None:
    """Nobody can use the group any more: take its entry away, if it has not another's already."""
    if place.holder is None:
        return
    with _alone(place.name):
        row = _entry(place.name)
        if row is not None and row.holder == place.holder.key:
            lowlevel.kv_delete(_key(place.name), namespace=TABLE)


def _alone(name: str) -> locks.Lock:
    return locks.lock(f"{TABLE} {_key(name).hex()}")


def _key(name: str) -> bytes:
    return f"{sessions.current().namespace}\0{name}".encode()


def _entry(name: str) -> _Row | None:
    value = lowlevel.kv_get(_key(name), namespace=TABLE)
    return None if value is None else msgspec.msgpack.decode(value, type=_Row)


def _opened(name: str, row: _Row) -> Place | None:
    """The group of that entry; None if nobody has it any more."""
    holder = lowlevel.memory().ref(row.holder)
    if holder is None:
        return None
    block = objects.get(holder)[0]
    return Place(Control(block, row.ranks), holder, name)


def _make(name: str, ranks: int, rank: int, former: str = "") -> Place:
    block = lowlevel.shared_block(nbytes(ranks))
    control = Control(block, ranks)
    control.claim(rank, os.getpid())
    holder = objects.put([block])
    row = msgspec.msgpack.encode(_Row(holder.key, ranks))
    lowlevel.kv_put(_key(name), row, namespace=TABLE)
    return Place(control, holder, name, former=former)


def _whole(control: Control) -> str:
    """Who are the ranks of a group that goes on; empty if it does not."""
    pids = [control.pid(rank) for rank in range(control.ranks)]
    return "" if _is_over(control, pids) else ", ".join(str(pid) for pid in pids)


def _join(place: Place, ranks: int, rank: int) -> Place | None:
    """Our place in a group that was found; None if it is over, or whole without us."""
    control, name = place.control, place.name
    pids = [control.pid(other) for other in range(control.ranks)]
    if control.ranks != ranks:
        if all(pids) or _is_over(control, pids):
            return None
        text = f"rank {rank} (pid {os.getpid()}) joins group {name!r} with world_size {ranks}, "
        text += f"but it was begun with {control.ranks}"
        raise _refused(control, name, rank, text)
    if control.claim(rank, os.getpid()):
        if control.is_broken():
            raise failed(*_reason(control, name, rank))
        return place
    if all(pids) or _is_over(control, pids) or _is_over_for(control, rank, pids[rank]):
        return None
    pid = control.pid(rank)
    text = f"rank {rank} of group {name!r} is taken by process {pid}; process {os.getpid()} wants"
    text += " it too: a rank is taken twice, or another group of this name forms at the same time"
    raise _refused(control, name, rank, text)


def _reason(control: Control, name: str, rank: int) -> tuple[str, str, int, str]:
    kind, text = control.reason()
    return kind, name, rank, text


def _is_over(control: Control, pids: list[int]) -> bool:
    """Whether nobody can use the group any more."""
    return control.is_broken() or all(
        pid and _is_over_for(control, rank, pid) for rank, pid in enumerate(pids)
    )


def _is_over_for(control: Control, rank: int, pid: int) -> bool:
    """Whether whoever had the rank has left it, or is dead."""
    return control.has_left(rank) or pidfd_of(pid) is None


def _refused(control: Control, name: str, rank: int, text: str) -> errors.CollectiveError:
    control.break_off("refused", text)
    return failed("refused", name, rank, text)


def pidfd_of(pid: int) -> _Pidfd | None:
    """A descriptor that tells when the process ends; None if it has ended."""
    try:
        return _Pidfd(os.pidfd_open(pid))
    except ProcessLookupError:
        return None


class _Pidfd:
    """Closed with its last holder."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self.descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def wait_for_all(place: Place, name: str, rank: int, timeout_s: float) -> dict[int, _Pidfd]:
    """Wait until every rank has joined; what tells of the end of each other one.

    Raises:
        CollectiveTimeoutError: some did not come in time; all that wait get this error.
        CollectiveError: the group was broken meanwhile.
    """
    control = place.control
    deadline = clock.now() + timeout_s
    found: dict[int, _Pidfd] = {}
    for other in range(control.ranks):
        look_s = FIRST_LOOK_S
        while not (pid := control.pid(other)) and not control.is_broken():
            control.block.wait(control.word(PID, other), 0, look_s)
            look_s = min(2 * look_s, LONGEST_LOOK_S, max(0.0, deadline - clock.now()))
            if place.owner is not None and is_dead(place.owner):
                control.break_off("died", f"the process that owns group {name!r} has ended")
            dead = [peer for peer, pidfd in found.items() if is_dead(pidfd)]
            if dead:
                text = f"rank {dead[0]} of group {name!r} died before all had joined"
                control.break_off("died", text)
            elif clock.now() >= deadline:
                control.break_off("late", _late(control, name, timeout_s, place.former))
        if control.is_broken():
            raise failed(*_reason(control, name, rank))
        if other != rank:
            pidfd = pidfd_of(pid)
            if pidfd is None:
                text = f"rank {other} of group {name!r} died before all had joined"
                control.break_off("died", text)
                raise failed(*_reason(control, name, rank))
            found[other] = pidfd
    return found


def _late(control: Control, name: str, timeout_s: float, former: str) -> str:
    missing = [str(other) for other in range(control.ranks) if not control.pid(other)]
    ranks = f"rank {missing[0]}" if len(missing) == 1 else f"ranks {', '.join(missing)}"
    text = f"{ranks} of {control.ranks} did not join group {name!r} within {timeout_s:g} s"
    if former:
        text += f"; an older group of this name has all its ranks (processes {former}): is one of"
        text += " them taken twice?"
    return text


def is_dead(pidfd: _Pidfd) -> bool:
    """Whether the process has ended."""
    return bool(select.select([pidfd], [], [], 0)[0])
