"""Where parts of environments stand, and who may use, make or remove one.

::

    <cache>                       SHOAL_CACHE, else ~/.cache/shoal             mode 0700
      packages/<digest>/          what uv installed                            shared by sessions
      conda/<digest>/             an interpreter that conda made
      downloads/<digest>          an archive as it came from its URI
        <digest>.lock             exclusive: somebody makes or removes it; shared: it is in use
        <digest>.making           what is being made, or was when its maker died
        <digest>.size             bytes of a complete one; its time is that of the last use
    <session>/packages/<digest>/  files of working_dir and py_modules          this session's own

Locks are ``flock``: the kernel gives them back when their holder dies. A place that exists is
complete, because it gets its name by a rename; a maker begins by removing what a former one left.
Lock files are never removed, since somebody may be waiting on one.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator

import msgspec

from shoal._base import environment as variables
from shoal._proto.environments import Conda, Environment, Packages, Tree

PACKAGES = "packages"
CONDA = "conda"
DOWNLOADS = "downloads"
KINDS = (PACKAGES, CONDA, DOWNLOADS)


class Place(msgspec.Struct, frozen=True):
    """One part of an environment, complete or not there."""

    directory: str
    digest: str

    @property
    def path(self) -> str:
        """Where it stands."""
        return os.path.join(self.directory, self.digest)

    @property
    def prefix(self) -> str:
        """What cannot be renamed when it is complete stands here, and is complete if the place
        is."""
        return self.path + ".prefix"

    def has_prefix(self) -> bool:
        """Whether there is such a thing."""
        return os.path.lexists(self.prefix)

    def is_there(self) -> bool:
        """Whether it is complete."""
        return os.path.lexists(self.path)

    def hold(self) -> int | None:
        """Use it: a descriptor that keeps it from being removed until it is closed; None if it is
        not there, or just being made or removed."""
        if not self.is_there():
            return None
        descriptor = self._open_lock()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        if not self.is_there():
            os.close(descriptor)
            return None
        if os.path.exists(self.path + ".size"):
            os.utime(self.path + ".size")
        return descriptor

    def make(self, maker: Callable[[str], None]) -> bool:
        """Have ``maker`` fill the path it is given, unless somebody else does or has; whether it
        did. Waits for whoever is at it."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        descriptor = self._open_lock()
        try:
            while not self._is_ours_to_make(descriptor):
                if self.is_there():
                    return False
            making = self.path + ".making"
            remove(making)
            remove(self.prefix)
            try:
                maker(making)
                size = size_of(making) + (size_of(self.prefix) if self.has_prefix() else 0)
                with open(self.path + ".size", "w", encoding="ascii") as file:
                    file.write(str(size))
                os.rename(making, self.path)
            finally:
                remove(making)
            return True
        finally:
            os.close(descriptor)

    def _is_ours_to_make(self, descriptor: int) -> bool:
        """Take the exclusive lock if nobody is at it; else wait until they are done. Never wait for
        the lock itself: who uses what another has made holds it for as long as that takes."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            return False
        return not self.is_there()

    def remove_if_unused(self) -> bool:
        """Remove it unless somebody uses or makes it; whether it is gone."""
        descriptor = self._open_lock()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            doomed = self.path + ".making"
            remove(doomed)
            if self.is_there():
                # By one rename: who is killed in the middle leaves nothing that looks complete.
                os.rename(self.path, doomed)
            remove(doomed)
            remove(self.prefix)
            remove(self.path + ".size")
            return True
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        return os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def remove(path: str) -> None:
    """Remove a file or tree, also one whose directories are read-only; nothing if it is gone."""
    if os.path.islink(path) or not os.path.isdir(path):
        if os.path.lexists(path):
            os.unlink(path)
        return
    for directory, _, _ in os.walk(path):
        os.chmod(directory, 0o700)
    # (``shutil`` would do this and take 4 ms to import, in each daemon.)
    for directory, directories, names in os.walk(path, topdown=False):
        for name in names:
            os.unlink(os.path.join(directory, name))
        for name in directories:
            below = os.path.join(directory, name)
            if os.path.islink(below):
                os.unlink(below)
            else:
                os.rmdir(below)
    os.rmdir(path)


def size_of(path: str) -> int:
    """Bytes of a file or of all files of a tree."""
    if not os.path.isdir(path):
        return os.lstat(path).st_size
    return sum(
        os.lstat(os.path.join(directory, name)).st_size
        for directory, _, names in os.walk(path)
        for name in names
    )


def cache_root() -> str:
    """The directory that all sessions of this user share, made if need be."""
    root = variables.read().cache
    os.makedirs(root, mode=0o700, exist_ok=True)
    owner = os.stat(root).st_uid
    if owner != os.geteuid():
        # What stands there would be run: it must be nobody else's.
        raise PermissionError(
            f"{root} belongs to uid {owner}; set SHOAL_CACHE to a directory of your own"
        )
    return root


def of_packages(cache: str, packages: Packages) -> Place:
    """Where what is installed for ``packages`` stands."""
    return Place(os.path.join(cache, PACKAGES), packages.digest)


def of_conda(cache: str, conda: Conda) -> Place:
    """Where the interpreter made for ``conda`` stands."""
    return Place(os.path.join(cache, CONDA), conda.digest)


def of_tree(session_directory: str, tree: Tree) -> Place:
    """Where the session has the files of ``tree``."""
    return Place(os.path.join(session_directory, PACKAGES), tree.digest)


def of_wheel(cache: str, session_directory: str, tree: Tree) -> Place:
    """Where what is in a wheel stands once it is installed: with all sessions, unless only a URI
    says which one it is."""
    digest = f"{tree.digest}-{sys.implementation.cache_tag}"
    root = session_directory if tree.uri else cache
    return Place(os.path.join(root, PACKAGES), digest)


def to_be_made(environment: Environment, cache: str, session_directory: str) -> Iterator[Place]:
    """Everything of it that a node has to make, complete or not."""
    if environment.packages is not None:
        yield of_packages(cache, environment.packages)
    if environment.conda is not None and environment.conda.file:
        yield of_conda(cache, environment.conda)
    for tree in environment.trees():
        if tree.uri:
            yield of_tree(session_directory, tree)
        if tree.wheel:
            yield of_wheel(cache, session_directory, tree)


def collect(cache: str, most_bytes: int) -> list[Place]:
    """Remove what has not been used for longest until the cache has at most ``most_bytes``, sparing
    what is in use; what was removed."""
    found: list[tuple[float, int, Place]] = []
    for kind in KINDS:
        directory = os.path.join(cache, kind)
        for name in os.listdir(directory) if os.path.isdir(directory) else ():
            digest, dot, ending = name.rpartition(".")
            if dot and ending == "size":
                place = Place(directory, digest)
                with open(place.path + ".size", encoding="ascii") as file:
                    text = file.read()
                used_at = os.stat(place.path + ".size").st_mtime
                found.append((used_at, int(text) if text.isdigit() else 0, place))
    total = sum(size for _, size, _ in found)
    removed = []
    for _, size, place in sorted(found, key=lambda row: row[0]):
        if total <= most_bytes:
            break
        if place.remove_if_unused():
            removed.append(place)
            total -= size
    return removed
