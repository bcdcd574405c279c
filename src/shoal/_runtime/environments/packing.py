"""Local files on their way into a session: which ones, their hash, and the copy.

A directory is looked through once. What ignore files (``.gitignore``, ``.rayignore``,
``.shoalignore``, in any directory), ``excludes`` and ``ALWAYS_LEFT_OUT`` name stays behind; where
that is much, one line says what. The content's hash names the copy in the session, so that equal
directories are copied once, and a task sees the files as they were when it was asked for.

A symbolic link that stays inside the directory remains a link; one that leads out is replaced by
what it leads to, because that place may not exist where the task runs. Sockets, pipes and devices
stay behind.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Sequence

from shoal import errors
from shoal._base import environment as variables
from shoal._runtime.environments import ignoring
from shoal._runtime.environments.places import Place

IGNORE_FILES = (".gitignore", ".rayignore", ".shoalignore")
ALWAYS_LEFT_OUT = (".git/", ".hg/", ".venv/", "venv/", "__pycache__/", "*.pyc")
TOLD_FROM_BYTES = 10 << 20
TOLD_FROM_FILES = 1000
COUNTED_MOST = 20_000
"""Files that are counted in what is left out: more are only said to be more."""


class Content:
    """What of one directory travels."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: list[tuple[str, str, int]] = []
        """(relative path, path to read, size in bytes)"""
        self.links: list[tuple[str, str]] = []
        """(relative path, where it leads)"""
        self.directories: list[str] = []
        self.size_bytes = 0
        self.left_out: dict[str, list[int]] = {}
        """What is left out, with bytes and files in it."""

    def digest(self) -> str:
        """Hash of names, kinds and contents."""
        total = hashlib.sha256()
        for name in sorted(self.directories):
            total.update(b"d" + os.fsencode(name) + b"\0")
        for name, leads_to in sorted(self.links):
            total.update(b"l" + os.fsencode(name) + b"\0" + os.fsencode(leads_to) + b"\0")
        for name, path, _ in sorted(self.files):
            with open(path, "rb") as file:
                inner = hashlib.file_digest(file, "sha256").digest()
            mode = b"x" if os.stat(path).st_mode & 0o100 else b"-"
            total.update(b"f" + mode + os.fsencode(name) + b"\0" + inner)
        return total.hexdigest()[:40]

    def copy(self, target: str, below: str = "") -> None:
        """Make ``target``, and in its directory ``below`` a copy of everything."""
        top = os.path.join(target, below) if below else target
        os.makedirs(top, mode=0o755)
        for name in self.directories:
            os.makedirs(os.path.join(top, name), mode=0o755, exist_ok=True)
        for name, path, _ in self.files:
            copy = os.path.join(top, name)
            shutil.copyfile(path, copy)
            # The copy is the session's: whoever works there may write to it.
            os.chmod(copy, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)
        for name, leads_to in self.links:
            os.symlink(leads_to, os.path.join(top, name))

    def told(self, what: str) -> str:
        """One line about what stays behind; empty if that is little."""
        counted = sum(count for _, count in self.left_out.values())
        size = sum(size for size, _ in self.left_out.values())
        if size < TOLD_FROM_BYTES and counted < TOLD_FROM_FILES:
            return ""
        name, (largest, _) = max(self.left_out.items(), key=lambda row: row[1])
        count = f"over {COUNTED_MOST:,}" if counted >= COUNTED_MOST else f"{counted:,}"
        return (
            f"{what} {self.root}: {len(self.files):,} files ({_mebibytes(self.size_bytes)}) are"
            f" taken; left out by ignore rules: {count} files ({_mebibytes(size)}), the largest"
            f" part {name} ({_mebibytes(largest)})"
        )


def look(root: str, excludes: Sequence[str], what: str) -> Content:
    """Look through the directory ``root``; ``what`` it is for stands in errors.

    Raises:
        OptionError: it is too large.
    """
    content = Content(root)
    rules = ignoring.parse(ALWAYS_LEFT_OUT) + ignoring.parse(excludes)
    _look(content, "", root, rules, (os.path.realpath(root),))
    most = variables.read().package_bytes
    if content.size_bytes > most:
        size_of_parts: dict[str, int] = {}
        for name, _, size in content.files:
            top = name.split("/", 1)[0]
            size_of_parts[top] = size_of_parts.get(top, 0) + size
        largest = sorted(size_of_parts.items(), key=lambda row: -row[1])[:3]
        parts = ", ".join(f"{name} ({_mebibytes(size)})" for name, size in largest)
        raise errors.OptionError(
            f"{what}: {root} has {_mebibytes(content.size_bytes)}, more than the"
            f" {_mebibytes(most)} that may travel; its largest parts: {parts}. What to do: name"
            " what is not needed in excludes or in a .gitignore, or raise SHOAL_PACKAGE_BYTES",
            option=what,
        )
    if told := content.told(what):
        print(f"shoal: {told}", file=sys.stderr, flush=True)
    return content


def _look(
    content: Content, relative: str, path: str, rules: list[ignoring.Rule], above: tuple[str, ...]
) -> None:
    for name in IGNORE_FILES:
        try:
            with open(os.path.join(path, name), encoding="utf-8", errors="replace") as file:
                rules = rules + ignoring.parse(file, relative)
        except (FileNotFoundError, IsADirectoryError):
            continue
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        name = relative + entry.name
        if ignoring.is_left_out(rules, name, entry.is_dir()):
            content.left_out[name] = _measure(entry)
            continue
        if entry.is_symlink() and _stays_inside(content.root, entry.path):
            content.links.append((name, os.readlink(entry.path)))
        elif entry.is_dir():
            real = os.path.realpath(entry.path)
            if real not in above:  # else a link to a directory that it stands in
                content.directories.append(name)
                _look(content, name + "/", entry.path, rules, (*above, real))
        elif entry.is_file():
            size = entry.stat().st_size
            content.size_bytes += size
            content.files.append((name, entry.path, size))


def _stays_inside(root: str, path: str) -> bool:
    leads_to = os.readlink(path)
    real_root = os.path.realpath(root)
    return not os.path.isabs(leads_to) and os.path.realpath(path).startswith(real_root + os.sep)


def _measure(entry: os.DirEntry[str]) -> list[int]:
    """[bytes, files] of what is left out, as far as counting is worth it."""
    if not entry.is_dir(follow_symlinks=False):
        return [entry.stat(follow_symlinks=False).st_size, 1]
    size = count = 0
    for directory, _, names in os.walk(entry.path):
        for name in names:
            seen = os.lstat(os.path.join(directory, name))
            size += seen.st_size if stat.S_ISREG(seen.st_mode) else 0
            count += 1
        if count >= COUNTED_MOST:
            break
    return [size, count]


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


def place_directory(session_directory: str, content: Content, below: str = "") -> str:
    """Have a copy in the session, in a directory ``below`` its place; its digest."""
    digest = content.digest()
    if below:
        digest = hashlib.sha256(f"{digest}/{below}".encode()).hexdigest()[:40]
    place = Place(os.path.join(session_directory, "packages"), digest)
    if not place.is_there():
        place.make(lambda target: content.copy(target, below))
    return digest


def place_file(session_directory: str, path: str, name: str) -> str:
    """Have a copy of one file in the session, as ``name`` in its place; its digest."""
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256(f"{content}/{name}".encode()).hexdigest()[:40]
    place = Place(os.path.join(session_directory, "packages"), digest)

    def copy(target: str) -> None:
        os.mkdir(target, 0o755)
        shutil.copyfile(path, os.path.join(target, name))

    if not place.is_there():
        place.make(copy)
    return digest
