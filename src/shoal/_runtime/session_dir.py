"""Session directories: what stands where, and who may enter.

::

    <root>                       SHOAL_DIR, else /tmp/shoal-<uid>        mode 0700, owner checked
      session-<id>/              one session; removed when it ends       mode 0700
        settings.json            what the node daemon was started with (``launch.NodeSettings``)
        member.json              as which member of a cluster, once it is one (``last_words``)
        node.sock                the daemon's socket
        store.sock               the control store's, only in a started session
        store/                   its journal, unless the session has a name
        logs/                    node.log, worker-<index>-<pid>-<number>.jsonl (``log_records``)
      kept-<name>/               the journal of sessions with that name; stays  mode 0700
      sessions/<id>.json         one per started session, see ``registry``

Light: ``init`` makes the directory before anything large is imported. (Even ``socket`` is: it
brings ``enum``, ``re`` and ``selectors``, and ``_socket`` is what listens.)
"""

from __future__ import annotations

import _socket
import os
import stat

from shoal._base import clock

TYPE_CHECKING = False  # ``typing`` has it too, and takes 7 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable

SOCKET_NAME = "node.sock"
STORE_SOCKET_NAME = "store.sock"
STORE_DIRECTORY = "store"
SETTINGS_NAME = "settings.json"
MEMBER_NAME = "member.json"
_PREFIX = "session-"
_KEPT_PREFIX = "kept-"
REGISTRY = "sessions"
BEGINNING_S = 60.0
"""A directory that is younger may have a socket at which nobody listens yet."""


class SessionDirectoryError(OSError):
    """The place for session directories cannot be used."""


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


def is_stopped(pid: int) -> bool:
    """Whether the kernel has stopped the process, or a debugger has."""
    if not pid:
        return False
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:  # it has just gone
        return False


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
    os.mkdir(logs(path), 0o700)
    return path


def kept(root: str, name: str) -> str:
    """Where the journal of sessions called ``name`` stays."""
    return os.path.join(root, _KEPT_PREFIX + name)


def forget_kept(root: str, name: str) -> None:
    """Throw the journal of sessions called ``name`` away."""
    _remove_tree(kept(root, name))


def listen(directory: str, name: str) -> int:
    """Return the descriptor (close-on-exec) of a unix socket that listens at ``directory/name``;
    who may enter the directory may connect.

    An address of a unix socket has at most 107 bytes; through a descriptor of the directory, every
    path fits.
    """
    kind = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = _socket.socket(_socket.AF_UNIX, kind)
    try:
        listener.bind(f"/proc/self/fd/{place}/{name}")
        listener.listen(1024)
        return listener.detach()
    finally:
        listener.close()
        os.close(place)


def remove(path: str) -> None:
    """Remove a session directory with all that is in it; nothing happens if it is gone already.

    (``shutil`` would do this and take 4 ms to import, in each daemon and zygote.)
    """
    if not os.path.basename(path).startswith(_PREFIX):
        raise ValueError(f"{path} is not a session directory")
    _remove_tree(path)


def _remove_tree(path: str) -> None:
    for directory, directories, files in os.walk(path, topdown=False):
        for name in files:
            _ignore_gone(os.unlink, os.path.join(directory, name))
        for name in directories:
            below = os.path.join(directory, name)
            _ignore_gone(os.unlink if os.path.islink(below) else os.rmdir, below)
    _ignore_gone(os.rmdir, path)


def _ignore_gone(remove_one: Callable[[str], None], path: str) -> None:
    try:
        remove_one(path)
    except OSError:
        pass  # somebody else was faster, or is writing there: whoever removes last meets it again


def logs(directory: str) -> str:
    """Where the logs of a session are."""
    return os.path.join(directory, "logs")


def sockets(root: str) -> list[str]:
    """Return the sockets of all sessions under ``root``, newest first; remove what is left of those
    that ended before there was anybody who cleans up."""
    try:
        names = sorted(os.listdir(root), reverse=True)
    except FileNotFoundError:
        return []
    found = []
    for directory in (os.path.join(root, name) for name in names if name.startswith(_PREFIX)):
        if _is_left_over(directory):
            remove(directory)
        elif os.path.exists(path := os.path.join(directory, SOCKET_NAME)):
            found.append(path)
    return found


def _is_left_over(directory: str) -> bool:
    """Whether nobody listens there, and nobody is about to."""
    try:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False  # it has just gone
    caller = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        caller.connect(f"/proc/self/fd/{place}/{SOCKET_NAME}")
        return False
    except ConnectionRefusedError:
        return clock.wall() - os.stat(place).st_mtime > BEGINNING_S
    except OSError:
        return False  # nothing to be said about it
    finally:
        caller.close()
        os.close(place)
