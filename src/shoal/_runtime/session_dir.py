"""Session directories, and the registry of sessions that ``shoal start`` started.

::

    <root>                       SHOAL_DIR, else /tmp/shoal-<uid>        mode 0700, owner checked
      session-<id>/              one session; removed when it ends       mode 0700
        settings.json            what the node daemon was started with (``launch.NodeSettings``)
        node.sock                the daemon's socket
        store.sock               the control store's, only in a started session
        logs/                    node.log, worker-<index>-<pid>.out and .err
      sessions/<id>.json         registry: one ``Entry`` per started session  mode 0600

A registry entry is never trusted: it names a process by (pid, start time), and one whose process is
gone is removed by whoever meets it (RULES T1, T2). Nothing is shared between sessions but the
directory ``sessions``; each entry is its own file, made complete under another name and renamed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import msgspec

SOCKET_NAME = "node.sock"
STORE_SOCKET_NAME = "store.sock"
SETTINGS_NAME = "settings.json"
_PREFIX = "session-"
_REGISTRY = "sessions"


class SessionDirectoryError(OSError):
    """The place for session directories cannot be used."""


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


def process_start_time(pid: int) -> int | None:
    """Return the start time of process ``pid`` in clock ticks after boot, None if it is gone or a
    zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def is_alive(pid: int, start_time: int) -> bool:
    """Whether exactly that process (not a later one with its pid) is alive."""
    return process_start_time(pid) == start_time


def check_root(root: str) -> str:
    """Make sure that ``root`` is a directory of ours that nobody else can enter, and return it.

    Raises:
        SessionDirectoryError: it belongs to somebody else, is a link, or cannot be made.
    """
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        found = os.lstat(root)
    except OSError as error:
        raise SessionDirectoryError(
            f"the directory for sessions, {root}, cannot be made: {error.strerror or error}."
            f" What to do: set SHOAL_DIR to a directory that you can write to."
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise SessionDirectoryError(
            f"{root} is not a directory that belongs to you (its owner is uid {found.st_uid},"
            f" you are {os.geteuid()}). What to do: set SHOAL_DIR to a directory of your own."
        )
    if found.st_mode & 0o077:
        os.chmod(root, 0o700)
    return root


def create(root: str, session: str) -> str:
    """Make the directory of ``session`` and return its path."""
    path = os.path.join(check_root(root), _PREFIX + session)
    os.mkdir(path, 0o700)
    os.mkdir(os.path.join(path, "logs"), 0o700)
    return path


def remove(path: str) -> None:
    """Remove a session directory with all that is in it; nothing happens if it is gone already.

    (``shutil`` would do this and take 4 ms to import, in each daemon and zygote.)
    """
    if not os.path.basename(path).startswith(_PREFIX):
        raise ValueError(f"{path} is not a session directory")
    for directory, directories, files in os.walk(path, topdown=False):
        for name in files:
            _ignore_gone(os.unlink, os.path.join(directory, name))
        for name in directories:
            _ignore_gone(os.rmdir, os.path.join(directory, name))
    _ignore_gone(os.rmdir, path)


def _ignore_gone(remove_one: Callable[[str], None], path: str) -> None:
    try:
        remove_one(path)
    except OSError:
        pass  # somebody else was faster, or is writing there: whoever removes last meets it again


def sockets(root: str) -> list[str]:
    """Return the sockets of all session directories under ``root``, whether anybody listens or
    not."""
    try:
        names = sorted(os.listdir(root), reverse=True)
    except FileNotFoundError:
        return []
    paths = (os.path.join(root, name, SOCKET_NAME) for name in names if name.startswith(_PREFIX))
    return [path for path in paths if os.path.exists(path)]


# ---- the registry
def _entry_path(root: str, session: str) -> str:
    return os.path.join(root, _REGISTRY, session + ".json")


def register(root: str, entry: Entry) -> None:
    """Enter a started session into the registry."""
    os.makedirs(os.path.join(root, _REGISTRY), mode=0o700, exist_ok=True)
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
        names = os.listdir(os.path.join(root, _REGISTRY))
    except FileNotFoundError:
        return []
    for name in sorted(names, reverse=True):
        if not name.endswith(".json"):
            continue
        path = os.path.join(root, _REGISTRY, name)
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
