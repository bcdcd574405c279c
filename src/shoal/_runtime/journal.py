"""The control store's journal: what is lasting, on disk, so that an acknowledgement is a promise.

``_core.store`` decides what is lasting and answers with effects; this file has them on disk before
the answer goes out. SQLite does the writing; what it does not promise is added here.

::

    store/                  mode 0700
      lock                  flock of the process that serves: a second one refuses (G5)
      seen                  the last change that was acknowledged, written without a sync
      journal-<n>.db, -wal  the tables; the highest n is the one in use
      copy-<n>.db           whole copies, the newest two
      damaged-...           what was found broken, kept for whoever wants to look

**One sync for all that came together.** The shell collects the effects of a round of its loop (all
that arrived while the last sync was under way) and commits them as one transaction. WAL with
``synchronous=FULL``: one sequential write and one ``fdatasync`` of the log for each commit. With
NORMAL the log would be synced at checkpoints only: what was acknowledged since would be lost when
power is. A kill loses nothing either way; the difference is 0.4 ms per round, on tables that
nobody's tasks or calls wait for. (A rollback journal syncs three times.)

**What SQLite does not notice.** Its log has checksums, its pages have none, and the log ends at the
first frame that is wrong, silently: a cut log is simply shorter. So

* each row carries a checksum of its kind, key and value, and the ``meta`` row, written with each
  transaction, a sum over all of them: a row that changed, vanished or came back is found;
* ``meta`` counts changes, and ``seen`` says up to where they were acknowledged. It is written after
  the sync and is not synced itself, so it never claims too much; it survives every kill. A journal
  that ends before it has lost something, and this is said.

**When something is wrong.** At the beginning: the journal and the copies are read until one is
whole and as new as what was acknowledged; else the newest whole one is used. What is lost, and why,
is a *notice*: it goes to the log and to ``shoal status``. A daemon that lives tells everything
again (``_core.mirror``). While serving: all that is lasting is in memory, so
after any error of a write or a sync (a failed sync says nothing about pages) a new journal is
written from memory into a new file, and answers wait until that has worked. Nothing is renamed over
a journal: the log of an old file beside a new one would be taken for its own.

**Epochs.** Every process that serves writes its epoch first, one more than the last. Daemons refuse
a store that is behind what they have seen (G4).

Copies are written by a thread from a snapshot of the memory: they cost the loop nothing. One is
made ``COPY_S`` after a change or a beginning, and one at the end.

Not journalled: a session that ``init()`` started. Its store lives in its daemon, ends with it, and
nobody could read the journal; this module (and ``sqlite3``) is not imported there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import struct
import threading
from _blake2 import blake2b  # ``hashlib`` has it too, and loads OpenSSL: 3 ms
from collections.abc import Mapping, Sequence

import msgspec

from shoal._core.store import Effect, Keep

FORMAT = 1
"""Of the files. Another one is not read, and not touched."""
COPY_S = 5.0
COPIES_MOST = 2
DAMAGED_MOST = 3
CHECKPOINT_PAGES = 1000
READS = 3
_NO_DAMAGE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
)
"""What SQLite says of a file that it could not read, as against one that it did not understand."""
_SUM_BYTES = 16
_SUMS = 1 << (8 * _SUM_BYTES)
_SEEN = struct.Struct("<QQ")
_NAME = re.compile(r"(journal|copy)-(\d{1,12})\.db$")

Place = tuple[str, bytes]


class JournalError(Exception):
    """A change could not be written; the text says why. ``heal`` tries again."""


class JournalInUseError(Exception):
    """Another control store serves from this directory."""


class UnreadableError(JournalError):
    """A file could not be read, which says nothing about what is in it."""


class DamageError(Exception):
    """A file is not what this module has written."""


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """The row that is written with every transaction."""

    format: int
    epoch: int
    sequence: int
    rows: int
    total: bytes
    """Sum of the checksums of all rows, modulo 2**128."""


class Loaded(msgspec.Struct, frozen=True):
    """One file that was read, and is whole."""

    path: str
    rows: dict[Place, bytes]
    meta: Meta


def checksum(kind: str, key: bytes, value: bytes) -> int:
    """Of one row: no two different rows have the same bytes under it."""
    name = kind.encode()
    digest = blake2b(struct.pack("<QQ", len(name), len(key)), digest_size=_SUM_BYTES)
    digest.update(name)
    digest.update(key)
    digest.update(value)
    return int.from_bytes(digest.digest(), "little")


class Journal:
    """The one journal of a directory, open for writing."""

    def __init__(self, directory: str) -> None:
        """Take the lock and read the newest whole state.

        Raises:
            JournalInUseError: another process serves from here.
            JournalError: nothing can be read or written here.
        """
        self.notices: list[str] = []
        self._directory = directory
        self._lock = _locked(directory)
        self._seen = _opened_seen(directory)
        self._copying: threading.Thread | None = None
        self._copied = (-1, -1)
        found = self._newest()
        self.rows = {} if found is None else found.rows
        self.epoch = 0 if found is None else found.meta.epoch
        self.sequence = 0 if found is None else found.meta.sequence
        self._total = 0 if found is None else int.from_bytes(found.meta.total, "little")
        self._connection: sqlite3.Connection | None = None
        self._begin(found)

    # ---- the beginning
    def _newest(self) -> Loaded | None:
        """The file to go on from; None: there is none, or none is whole."""
        acknowledged = self._acknowledged()
        best: Loaded | None = None
        broken = 0
        for name in _names(self._directory):
            path = os.path.join(self._directory, name)
            try:
                found = load(path)
            except DamageError as error:
                broken += 1
                self._notice(f"{name} is damaged ({error}): it is not used")
                _put_aside(self._directory, name)
                continue
            if best is None or found.meta.sequence > best.meta.sequence:
                best = found
            if (best.meta.epoch, best.meta.sequence) >= acknowledged:
                break
        sequence = 0 if best is None else best.meta.sequence
        if broken or sequence < acknowledged[1]:
            source = "nothing" if best is None else os.path.basename(best.path)
            lost = max(0, acknowledged[1] - sequence)
            self._notice(
                f"the last good state is used: {source}, change {sequence}; {lost or 'no'}"
                f" acknowledged {'change is' if lost == 1 else 'changes are'} missing in it"
            )
        return best

    def _acknowledged(self) -> tuple[int, int]:
        """(epoch, sequence) that somebody has been told."""
        data = os.pread(self._seen, _SEEN.size + _SUM_BYTES, 0)
        body, found = data[: _SEEN.size], data[_SEEN.size :]
        if len(body) < _SEEN.size or blake2b(body, digest_size=_SUM_BYTES).digest() != found:
            return (0, 0)
        epoch, sequence = _SEEN.unpack(body)
        return epoch, sequence

    def _begin(self, found: Loaded | None) -> None:
        """Serve from now on: the epoch is on disk before anybody is answered."""
        self.epoch = max(self.epoch, self._acknowledged()[0]) + 1
        is_usable = found is not None and os.path.basename(found.path).startswith("journal-")
        if found is not None and is_usable:
            with contextlib.suppress(JournalError):
                self._connection = _connected(found.path)
                self.keep((), self.sequence)
                return
        self.heal()

    # ---- changes
    def keep(self, effects: Sequence[Effect], sequence: int, epoch: int = 0) -> None:
        """Have ``effects`` on disk; when this returns, they may be acknowledged.

        Raises:
            JournalError: they are not on disk. They count as part of the state: ``heal`` writes
                them too.
        """
        latest: dict[Place, bytes | None] = {}
        for effect in effects:
            place = (effect.kind, effect.key)
            latest[place] = effect.value if isinstance(effect, Keep) else None
        for place, value in latest.items():
            former = self.rows.pop(place, None)
            if former is not None:
                self._total -= checksum(*place, former)
            if value is not None:
                self.rows[place] = value
                self._total += checksum(*place, value)
        self._total %= _SUMS
        self.sequence = sequence
        self.epoch = max(self.epoch, epoch)
        connection = self._connection
        if connection is None:
            raise JournalError("there is no journal that can be written")
        try:
            connection.execute("BEGIN IMMEDIATE")
            for place, value in latest.items():
                if value is None:
                    connection.execute("DELETE FROM rows WHERE kind = ? AND key = ?", place)
                else:
                    _insert(connection, place, value)
            _write_meta(connection, self._meta())
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._forget_connection()
            raise JournalError(str(error)) from None
        self._acknowledge()

    def heal(self) -> None:
        """Write a new journal from memory, and use it from now on.

        Raises:
            JournalError: that failed too.
        """
        self._forget_connection()
        path = os.path.join(self._directory, f"journal-{_next_number(self._directory)}.db")
        try:
            write_whole(path, self.rows, self._meta())
            self._connection = _connected(path)
        except (sqlite3.Error, OSError) as error:
            _unlink(path)
            raise JournalError(str(error)) from None
        self._acknowledge()
        for name in _names(self._directory):
            if name.startswith("journal-") and name != os.path.basename(path):
                _unlink(os.path.join(self._directory, name))

    def _meta(self) -> Meta:
        total = self._total.to_bytes(_SUM_BYTES, "little")
        return Meta(FORMAT, self.epoch, self.sequence, len(self.rows), total)

    def _acknowledge(self) -> None:
        body = _SEEN.pack(self.epoch, self.sequence)
        with contextlib.suppress(OSError):
            os.pwrite(self._seen, body + blake2b(body, digest_size=_SUM_BYTES).digest(), 0)

    def _forget_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # ---- copies
    def copy(self) -> None:
        """Begin to write a whole copy, unless one is being written or nothing has changed."""
        is_busy = self._copying is not None and self._copying.is_alive()
        if is_busy or self._copied == (self.epoch, self.sequence):
            return
        self._copied = (self.epoch, self.sequence)
        snapshot, meta = dict(self.rows), self._meta()
        thread = threading.Thread(target=self._copy, args=(snapshot, meta), daemon=True)
        self._copying = thread
        thread.start()

    def _copy(self, rows: Mapping[Place, bytes], meta: Meta) -> None:
        path = os.path.join(self._directory, f"copy-{_next_number(self._directory)}.db")
        try:
            write_whole(path, rows, meta)
            load(path)
        except (sqlite3.Error, OSError, DamageError) as error:
            _unlink(path)
            self._copied = (-1, -1)
            self._notice(f"a copy of the journal could not be written: {error}")
            return
        copies = [name for name in _names(self._directory) if name.startswith("copy-")]
        for name in copies[COPIES_MOST:]:
            _unlink(os.path.join(self._directory, name))

    def close(self) -> None:
        """Write a last copy and let go of the directory."""
        if self._copying is not None:
            self._copying.join()
        self.copy()
        if self._copying is not None:
            self._copying.join()
        self._forget_connection()
        os.close(self._seen)
        os.close(self._lock)

    def _notice(self, text: str) -> None:
        self.notices.append(text)


# ---- files
def load(path: str) -> Loaded:
    """Read a file of ours, all of it.

    Raises:
        DamageError: a bit of it is not as it was written.
        UnreadableError: the disk is full, or does not answer.
    """
    for _ in range(READS - 1):
        with contextlib.suppress(UnreadableError):
            return _load(path)
    return _load(path)


def _load(path: str) -> Loaded:
    connection: sqlite3.Connection | None = None
    try:
        connection = _opened(path)
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise DamageError(str(verdict).replace("\n", " "))
        found = connection.execute("SELECT value, sum FROM meta").fetchall()
        rows = connection.execute("SELECT kind, key, value, sum FROM rows").fetchall()
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_DAMAGE:
            raise UnreadableError(f"{path} cannot be read: {error}") from None
        raise DamageError(str(error)) from None
    finally:
        if connection is not None:
            connection.close()
    meta = _checked_meta(found)
    total = 0
    contents: dict[Place, bytes] = {}
    for kind, key, value, told in rows:
        is_typed = isinstance(kind, str) and isinstance(key, bytes) and isinstance(value, bytes)
        right = checksum(kind, key, value) if is_typed else -1
        if not isinstance(told, bytes) or told != right.to_bytes(_SUM_BYTES, "little"):
            raise DamageError(f"a row of {kind!r} is not what was written")
        contents[kind, key] = value
        total += right
    if len(contents) != meta.rows or (total % _SUMS).to_bytes(_SUM_BYTES, "little") != meta.total:
        raise DamageError(f"{len(contents)} rows, and {meta.rows} were written")
    return Loaded(path, contents, meta)


def _checked_meta(found: list[tuple[object, object]]) -> Meta:
    if len(found) != 1:
        raise DamageError("it has no record of itself")
    ((value, told),) = found
    if not isinstance(value, bytes) or not isinstance(told, bytes):
        raise DamageError("its record of itself is not readable")
    if checksum("meta", b"", value).to_bytes(_SUM_BYTES, "little") != told:
        raise DamageError("its record of itself is not what was written")
    try:
        meta = msgspec.msgpack.decode(value, type=Meta)
    except msgspec.MsgspecError as error:
        raise DamageError(str(error)) from None
    if meta.format != FORMAT:
        raise JournalError(
            f"the journal has format {meta.format}, and this program knows {FORMAT}: use the"
            " version of Shoal that wrote it, or begin anew with `shoal start --fresh`"
        )
    return meta


def _opened(path: str) -> sqlite3.Connection:
    """Nobody else has it open, so its log needs no index in a file of its own (no ``-shm``)."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    return connection


def write_whole(path: str, rows: Mapping[Place, bytes], meta: Meta) -> None:
    """Write a file that is complete and synced when this returns."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = _opened(path)
    try:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE rows (kind TEXT, key BLOB, value BLOB, sum BLOB,"
            " PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        connection.execute("CREATE TABLE meta (id INTEGER PRIMARY KEY, value BLOB, sum BLOB)")
        for place, value in rows.items():
            _insert(connection, place, value)
        _write_meta(connection, meta)
        connection.execute("COMMIT")
    finally:
        connection.close()
    _sync_directory(os.path.dirname(path))


def _insert(connection: sqlite3.Connection, place: Place, value: bytes) -> None:
    told = checksum(*place, value).to_bytes(_SUM_BYTES, "little")
    connection.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", (*place, value, told))


def _write_meta(connection: sqlite3.Connection, meta: Meta) -> None:
    value = msgspec.msgpack.encode(meta)
    told = checksum("meta", b"", value).to_bytes(_SUM_BYTES, "little")
    connection.execute("INSERT OR REPLACE INTO meta VALUES (1, ?, ?)", (value, told))


def _connected(path: str) -> sqlite3.Connection:
    try:
        connection = _opened(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    except sqlite3.Error as error:
        raise JournalError(str(error)) from None
    return connection


def _names(directory: str) -> list[str]:
    """Journals, then copies, newest first."""
    found = [match for name in os.listdir(directory) if (match := _NAME.match(name))]
    order = sorted(found, key=lambda match: (match[1] == "journal", int(match[2])), reverse=True)
    return [match[0] for match in order]


def _next_number(directory: str) -> int:
    numbers = [int(match[2]) for name in os.listdir(directory) if (match := _NAME.match(name))]
    return max(numbers, default=0) + 1


def _locked(directory: str) -> int:
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise JournalInUseError(
            f"another control store (pid {holder}) serves from {directory}: this one refuses"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _opened_seen(directory: str) -> int:
    path = os.path.join(directory, "seen")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _put_aside(directory: str, name: str) -> None:
    """Keep what is damaged for whoever wants to look, the last few of them."""
    count = 0
    while os.path.exists(os.path.join(directory, f"damaged-{count}-{name}")):
        count += 1
    for ending in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            here = os.path.join(directory, name + ending)
            os.rename(here, os.path.join(directory, f"damaged-{count}-{name}{ending}"))
    kept = [entry for entry in os.listdir(directory) if entry.startswith("damaged-")]
    kept.sort(key=lambda entry: os.stat(os.path.join(directory, entry)).st_mtime_ns)
    for entry in kept[: -3 * DAMAGED_MOST]:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(directory, entry))


def _unlink(path: str) -> None:
    for ending in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            os.unlink(path + ending)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
