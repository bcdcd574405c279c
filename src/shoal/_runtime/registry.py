"""The registry of sessions that ``shoal start`` started: one file each in ``<root>/sessions``.

An entry is never trusted: it names a process by (pid, start time), and one whose process is gone
is removed by whoever meets it (RULES T1, T2). Nothing is shared between sessions but the directory;
each entry is its own file (mode 0600), made complete under another name and renamed.
"""

from __future__ import annotations

import os

import msgspec

from shoal._runtime.session_dir import REGISTRY, SOCKET_NAME, is_alive, remove


class Entry(msgspec.Struct, frozen=True):
    """One started session, as its registry file says."""

    session: str
    directory: str
    pid: int
    start_time: int
    """Of the node daemon, in clock ticks after boot: with the pid it names one process for ever."""

    @property
    def socket_path(self) -> str:
        """Where the session's daemon listens."""
        return os.path.join(self.directory, SOCKET_NAME)


def _entry_path(root: str, session: str) -> str:
    return os.path.join(root, REGISTRY, session + ".json")


def register(root: str, entry: Entry) -> None:
    """Enter a started session into the registry."""
    os.makedirs(os.path.join(root, REGISTRY), mode=0o700, exist_ok=True)
    path = _entry_path(root, entry.session)
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(entry))
    finally:
        os.close(fd)
    os.rename(temporary, path)


def unregister(root: str, session: str) -> None:
    """Take a session out of the registry; nothing happens if it is not there."""
    try:
        os.unlink(_entry_path(root, session))
    except FileNotFoundError:
        pass


def started_sessions(root: str) -> list[Entry]:
    """Return the started sessions of this user that live, newest first; remove the dead ones.

    A session whose daemon was killed is removed with its directory: its zygote does that too, but a
    machine that lost power has no zygote.
    """
    entries = []
    try:
        names = os.listdir(os.path.join(root, REGISTRY))
    except FileNotFoundError:
        return []
    for name in sorted(names, reverse=True):
        if not name.endswith(".json"):
            continue
        path = os.path.join(root, REGISTRY, name)
        try:
            with open(path, "rb") as file:
                entry = msgspec.json.decode(file.read(), type=Entry)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.MsgspecError):
            entry = None
        if entry is not None and is_alive(entry.pid, entry.start_time):
            entries.append(entry)
            continue
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        if entry is not None and os.path.dirname(entry.directory) == root.rstrip("/"):
            remove(entry.directory)
    return entries
