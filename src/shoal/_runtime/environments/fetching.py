"""Archives from elsewhere: what a URI names, through fsspec, kept while it does not change.

``fsspec`` knows the protocols (with the package of each: s3fs, gcsfs, ...). A download is kept in
the cache under the URI and what the storage says of its version (``ukey``: an etag, a time); where
the storage says nothing, each session fetches anew.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from shoal._proto.environments import Tree
from shoal._runtime.environments import SetupFailure, archives, places
from shoal._runtime.environments.places import Place


def fetch(tree: Tree, step: str, cache: str, target: str) -> None:
    """Fill ``target`` with what ``tree.uri`` names.

    Raises:
        SetupFailure: there is no fsspec, it cannot be read, or must not be unpacked.
    """
    try:
        with _open(tree.uri, step, cache) as path:
            if tree.wheel:
                os.mkdir(target, 0o755)
                _copy(path, os.path.join(target, tree.wheel))
                return
            archives.unpack(path, target)
    except archives.ArchiveError as error:
        raise SetupFailure(step, f"{tree.uri}: {error}") from None
    _lift(target, step)


def _lift(target: str, step: str) -> None:
    """An archive of one directory means what is in it; but a package is meant itself."""
    inner = archives.only_directory(target)
    is_package = os.path.exists(os.path.join(inner, "__init__.py"))
    if inner == target or (step == "py_modules" and is_package):
        return
    aside = target + ".inner"
    places.remove(aside)
    os.rename(inner, aside)
    os.rmdir(target)
    os.rename(aside, target)


class _open:
    """The path of a local copy of ``uri``, for as long as it is needed."""

    def __init__(self, uri: str, step: str, cache: str) -> None:
        system, path = _system(uri, step)
        self._name = f"{uri}"
        self._step = step
        version = _version(system, path)
        text = f"{uri}\0{version or os.urandom(16).hex()}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:40]
        self._place = Place(os.path.join(cache, places.DOWNLOADS), digest)
        self._is_kept = bool(version)
        self._system, self._remote = system, path
        self._held: int | None = None

    def __enter__(self) -> str:
        for _ in range(3):
            try:
                self._place.make(self._download)
            except Exception as error:  # whatever a storage's client raises
                text = f"{self._name} cannot be fetched: {type(error).__name__}: {error}"
                raise SetupFailure(self._step, text) from None
            self._held = self._place.hold()
            if self._held is not None:
                return self._place.path
        raise SetupFailure(self._step, f"{self._name} is removed from the cache at once")

    def __exit__(self, *error: object) -> None:
        assert self._held is not None
        os.close(self._held)
        if not self._is_kept:
            self._place.remove_if_unused()

    def _download(self, target: str) -> None:
        self._system.get_file(self._remote, target)


def _system(uri: str, step: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        text = f"{uri} needs the package fsspec. What to do: pip install 'shoal[env]'"
        raise SetupFailure(step, text) from None
    try:
        system, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise SetupFailure(step, f"{uri} cannot be read: {error}") from None
    return system, path


def _version(system: Any, path: str) -> str:
    try:
        return str(system.ukey(path))
    except Exception:  # a storage that knows no versions says so in many ways
        return ""


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as reading, open(target, "wb") as writing:
        while chunk := reading.read(1 << 20):
            writing.write(chunk)
