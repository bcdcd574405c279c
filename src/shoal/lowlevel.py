"""Supported sharp tools, for libraries that are built on Shoal.

What the public API does not show and a library may need: the session's key-value table, and the
native view of node memory. Everything here is stable; everything else under ``_runtime`` is not.
"""

from __future__ import annotations

from shoal._native import Memory
from shoal._proto import messages
from shoal._runtime import session as sessions


def memory() -> Memory:
    """Return this process's view of node memory."""
    return sessions.current().memory


def kv_put(key: bytes, value: bytes, *, namespace: str = "", overwrite: bool = True) -> bool:
    """Store ``value`` under ``key`` for the life of the session; False if the key existed."""
    body = messages.KvPut(key, value, namespace, overwrite)
    return not sessions.current().request(body, messages.KvAnswer).existed


def kv_get(key: bytes, *, namespace: str = "") -> bytes | None:
    """Return the value of ``key``, None if there is none."""
    return sessions.current().request(messages.KvGet(key, namespace), messages.KvAnswer).value


def kv_delete(key: bytes, *, namespace: str = "") -> bool:
    """Remove ``key``; whether it existed."""
    body = messages.KvDelete(key, namespace)
    return sessions.current().request(body, messages.KvAnswer).existed


def kv_keys(prefix: bytes = b"", *, namespace: str = "") -> list[bytes]:
    """Return the keys that begin with ``prefix``."""
    return sessions.current().request(messages.KvKeys(prefix, namespace), messages.KvAnswer).keys
