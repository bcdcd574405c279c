"""Unpacking an archive that somebody else made, so that it can only make files below one directory.

Refused as a whole, before or while it is unpacked: names that are absolute, climb (``..``) or name
a drive; links that lead out of the directory, also by way of other links; hard links, devices and
pipes; two entries that cannot both be there (a file where another has a directory); more entries,
more bytes, or more bytes for each byte of the archive than ``Limits`` allow. Sizes are counted as
they are written: what the archive says of itself is not believed.

Links are made after all files, so that no file is written through one, and are then looked at where
they really lead. Of the permissions only "may be executed" is kept.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import msgspec

_CHUNK = 1 << 20


class ArchiveError(ValueError):
    """The archive cannot be read, or must not be unpacked."""


class Limits(msgspec.Struct, frozen=True):
    """How much an archive may become."""

    bytes_most: int = 2 << 30
    entries_most: int = 200_000
    ratio_most: int = 200
    """Bytes for each byte of the archive, once it has become more than ``ratio_from_bytes``."""
    ratio_from_bytes: int = 64 << 20


class Entry(msgspec.Struct):
    """One thing in an archive."""

    name: str
    link: str = ""
    """Where a symbolic link leads."""
    is_directory: bool = False
    is_executable: bool = False
    open: Callable[[], IO[bytes] | None] | None = None


def unpack(path: str, target: str, limits: Limits | None = None) -> None:
    """Unpack the zip or tar archive at ``path`` into the new directory ``target``.

    Raises:
        ArchiveError: it is none, is damaged, or asks for something that is refused.
    """
    limits = limits or Limits()
    size = os.path.getsize(path)
    os.mkdir(target, 0o700)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _unpack(_of_zip(archive), target, limits, size)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                _unpack(_of_tar(tar), target, limits, size)
        else:
            raise ArchiveError(f"{path} is neither a zip nor a tar archive")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        # RuntimeError: it is encrypted; NotImplementedError, a RuntimeError: an unknown method.
        raise ArchiveError(f"{path} cannot be unpacked: {error}") from None


def only_directory(target: str) -> str:
    """The path of the one directory that ``target`` consists of, else ``target`` itself."""
    names = os.listdir(target)
    inner = os.path.join(target, names[0]) if len(names) == 1 else target
    return inner if os.path.isdir(inner) and not os.path.islink(inner) else target


def _of_zip(archive: zipfile.ZipFile) -> Iterator[Entry]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFLNK:
            with archive.open(info) as file:
                yield Entry(info.filename, link=os.fsdecode(file.read(4096)))
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"entry {info.filename!r} is neither a file nor a directory")
        else:
            opener = lambda info=info: archive.open(info)  # noqa: E731
            is_directory = info.is_dir() or kind == stat.S_IFDIR
            yield Entry(info.filename, "", is_directory, bool(mode & 0o100), opener)


def _of_tar(archive: tarfile.TarFile) -> Iterator[Entry]:
    for info in archive:
        if info.issym():
            yield Entry(info.name, link=info.linkname)
        elif info.isdir():
            yield Entry(info.name, is_directory=True)
        elif info.isreg():
            opener = lambda info=info: archive.extractfile(info)  # noqa: E731
            yield Entry(info.name, "", False, bool(info.mode & 0o100), opener)
        else:
            raise ArchiveError(f"entry {info.name!r} is neither a file nor a directory")


def _unpack(entries: Iterator[Entry], target: str, limits: Limits, archive_bytes: int) -> None:
    most = min(limits.bytes_most, max(limits.ratio_from_bytes, limits.ratio_most * archive_bytes))
    links: list[Entry] = []
    written = 0
    for count, entry in enumerate(entries, 1):
        if count > limits.entries_most:
            raise ArchiveError(f"it has more than {limits.entries_most:,} entries")
        parts = _parts(entry.name)
        if entry.link:
            links.append(entry)
        elif entry.is_directory:
            _make_directories(target, parts)
        elif parts:
            written += _write(entry, target, parts, most - written)
    for entry in links:
        _make_link(entry, target)
    _check_links(links, target)


def _parts(name: str) -> list[str]:
    is_drive = len(name) > 1 and name[1] == ":" and name[0].isalpha()
    if name.startswith(("/", "\\")) or is_drive or "\0" in name:
        raise ArchiveError(f"entry {name!r} has an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or ".." in name.replace("\\", "/").split("/"):
        raise ArchiveError(f"entry {name!r} leads out of the archive's directory")
    return parts


def _make_directories(target: str, parts: list[str]) -> str:
    path = target
    for part in parts:
        path = os.path.join(path, part)
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            if os.path.islink(path) or not os.path.isdir(path):
                raise ArchiveError(f"{'/'.join(parts)!r}: a file is where a directory is") from None
    return path


def _write(entry: Entry, target: str, parts: list[str], most: int) -> int:
    assert entry.open is not None
    path = os.path.join(_make_directories(target, parts[:-1]), parts[-1])
    mode = 0o755 if entry.is_executable else 0o644
    written = 0
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise ArchiveError(f"entry {entry.name!r} is there twice") from None
    source = entry.open()
    assert source is not None, "only a file is opened"
    with open(descriptor, "wb") as file, source:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise ArchiveError(
                    "it becomes too large: more bytes than are allowed, or far more than such an"
                    " archive should hold"
                )
            file.write(chunk)
    return written


def _make_link(entry: Entry, target: str) -> None:
    parts = _parts(entry.name)
    if not parts or entry.link.startswith("/"):
        raise ArchiveError(f"entry {entry.name!r} is a link to {entry.link!r}, an absolute path")
    path = os.path.join(_make_directories(target, parts[:-1]), parts[-1])
    try:
        os.symlink(entry.link, path)
    except FileExistsError:
        raise ArchiveError(f"entry {entry.name!r} is there twice") from None


def _check_links(links: list[Entry], target: str) -> None:
    root = os.path.realpath(target)
    for entry in links:
        real = os.path.realpath(os.path.join(target, *_parts(entry.name)))
        if real != root and not real.startswith(root + os.sep):
            raise ArchiveError(
                f"entry {entry.name!r} is a link to {entry.link!r}, out of its directory"
            )
