"""What a node daemon is told at its start: used by ``init()`` in the driver and by ``shoal start``.

``node_spawn`` has begun it; ``settle`` sends it its settings. From then on it lives, or says in its
log why not (``startup_failure``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import msgspec

from shoal._base.config import LeaseTimes
from shoal._runtime import node_spawn, session_dir

_LOG_TAIL_BYTES = 4 << 10


class Membership(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which cluster of several machines a node belongs to. No secret: that is in a file."""

    keys: str
    """Directory of what it knows the others by (``links/keys.py``)."""
    is_head: bool = False
    """The control store is here."""
    listen: str = ""
    """Where it listens, ``HOST:PORT``; empty: it only dials out."""
    addresses: tuple[str, ...] = ()
    """Of the control store, for all but the head."""
    node_name: str = ""
    is_driver: bool = False
    """It has one program and runs nothing (RULES S-19)."""
    lease_s: float = LeaseTimes().lease_s
    """How long leases last: the head decides it, others hear it from the control store."""


class NodeSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node daemon is told at its start (``settings.json``)."""

    session: str
    directory: str
    started: bool = False
    """By ``shoal start``: lives until ``shoal stop``; else it ends with ``owner_pid``."""
    name: str = ""
    """Of a session whose journal stays when it ends."""
    kept: str = ""
    """Directory of that journal; empty: in the session's own, which goes with it."""
    owner_pid: int = 0
    owner_start_time: int = 0
    num_cpus: float | None = None
    """None: what this process may use."""
    num_gpus: float | None = None
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    object_store_memory: int | None = None
    """Bytes; None: 30 % of the memory that this process may use."""
    spill: tuple[str, ...] | None = None
    """Directories for values that have no room; None: one in the session's; empty: nowhere."""
    lineage_bytes: int | None = None
    """What may be kept for making lost values again; None: a tenth of the store, at most 1 GiB."""
    log_bytes: int | None = None
    """What workers' logs may take; None: as the environment says."""
    log_age_s: float | None = None
    membership: Membership | None = None
    """None: a session of this machine alone."""


class Launched(msgspec.Struct, frozen=True):
    """A daemon that has been exec'd; whether it lives is seen by connecting to it."""

    pid: int
    """A child of the caller, who reaps it (``os.waitpid``) when the session has ended."""
    settings: NodeSettings

    @property
    def socket_path(self) -> str:
        """Where it listens."""
        return os.path.join(self.settings.directory, session_dir.SOCKET_NAME)


def launch(
    root: str,
    variables: dict[str, str],
    *,
    name: str = "",
    enter: Callable[[str], Membership] | None = None,
    **options: Any,
) -> Launched:
    """Begin a session under ``root`` and settle it at once; see ``settle`` for the options. One
    with a ``name`` goes on from what is kept under it; ``enter`` puts the keys of a cluster into
    the session's directory, and says which cluster that is. What it raises ends the session.

    Raises:
        SessionDirectoryError: ``root`` cannot be used.
        OSError: no more processes or descriptors.
    """
    begun = node_spawn.begin(root, variables)
    if name:
        begun.name, begun.kept = name, session_dir.kept(root, name)
    if enter is not None:
        try:
            options["membership"] = enter(begun.directory)
        finally:
            if "membership" not in options:
                node_spawn.abandon(begun)
    return settle(begun, **options)


def settle(
    begun: node_spawn.Begun,
    *,
    started: bool,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    spill: tuple[str, ...] | None = None,
    lineage_bytes: int | None = None,
    log_bytes: int | None = None,
    log_age_s: float | None = None,
    membership: Membership | None = None,
) -> Launched:
    """Tell a daemon that has begun to start what it is to be."""
    encoded = b""
    try:
        settings = NodeSettings(
            session=begun.session,
            directory=begun.directory,
            started=started,
            name=begun.name,
            kept=begun.kept,
            owner_pid=0 if started else os.getpid(),
            owner_start_time=0 if started else session_dir.process_start_time(os.getpid()) or 0,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=dict(resources or {}),
            labels=dict(labels or {}),
            object_store_memory=object_store_memory,
            spill=spill,
            lineage_bytes=lineage_bytes,
            log_bytes=log_bytes,
            log_age_s=log_age_s,
            membership=membership,
        )
        encoded = msgspec.json.encode(settings)
    finally:
        if not encoded:  # something in it is of a kind that cannot be sent
            node_spawn.abandon(begun)
    begun.settle(encoded)
    return Launched(begun.pid, settings)


def startup_failure(settings: NodeSettings) -> str:
    """Return what the daemon wrote before it ended, for the error of a session that did not
    start."""
    try:
        with open(os.path.join(settings.directory, "logs", "node.log"), "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def give_up(launched: Launched) -> None:
    """End a daemon that does not answer, with what it has begun; its zygote ends the rest."""
    try:
        os.kill(launched.pid, signal.SIGKILL)
        os.waitpid(launched.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it had ended by itself, and somebody else has waited for it
    session_dir.remove(launched.settings.directory)
