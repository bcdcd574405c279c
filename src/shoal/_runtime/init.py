"""``init``: begins to start the node daemon, and only then imports what it needs itself.

A daemon needs 70 ms to get ready and the driver's own modules 45 ms; begun first, they overlap. So
nothing large is imported here, and ``begin`` is only called where it is certain that a session is
started: no address given that means another one, none registered, none open. What turns out to be
wrong afterwards (an unknown option) ends the daemon that has begun.
"""

from __future__ import annotations

import os
import sys

from shoal._base import environment
from shoal._runtime import node_spawn, session_dir, starting

TYPE_CHECKING = False  # ``typing`` has it too, and takes 7 ms to import
if TYPE_CHECKING:
    from typing import Unpack

    from shoal._runtime.driver import SessionContext
    from shoal._runtime.typed import InitOptions


def init(address: str | None = None, **given: Unpack[InitOptions]) -> SessionContext:
    """Join a session or start one; called by itself at the first use of the API.

    Args:
        address: None, ``"local"`` (a new session), ``"auto"`` (one of ``shoal start``), the id or
            directory of any session of this user (``get_runtime_context().gcs_address``), or a
            cluster: ``"HOST:PORT"`` of its head, or the join line that the head printed. See
            docs/clusters.md.
        num_cpus: CPUs to declare; they need not exist. Default: what this process may use.
        num_gpus: GPUs to declare. Default: what is visible.
        resources: Other resources by name.
        object_store_memory: Bytes for values. Default: 30 % of memory.
        object_spilling_directory: Where values go that have no room: a directory, a URI of fsspec,
            several that take turns, or False for nowhere. Default: one of the session's own, on a
            disk. See docs/spilling.md.
        lineage_bytes: What may be kept for making lost values again, in bytes. Default: a tenth of
            the store, at most 1 GiB. See docs/lineage.md.
        log_bytes: What logs of workers may take on disk, in bytes; the oldest go. Default: 256 MiB,
            or ``SHOAL_LOG_BYTES``. See docs/debugging.md.
        log_age_s: How old they may become, in seconds. Default: a week, or ``SHOAL_LOG_AGE_S``.
        namespace: Where names of actors live. Default: one of this program's own.
        runtime_env: What stands around the code of its tasks; see ``shoal.runtime_env``.
        token_file: A file with the join line or the token of the cluster at ``address``. Default:
            ``SHOAL_TOKEN_FILE``.
        ignore_reinit_error: Return the present session instead of an error.
        log_to_driver: Show what workers print.
        labels: Of this machine, for ``label_selector``: ``{"zone": "a"}``.
        priority: Jobs of higher priority are served first.
        weight: Share of this job among those of its priority.

    Returns:
        Facts of the session; ``with shoal.init():`` ends it at the end of the block.

    Raises:
        SessionExistsError: there is one already.
        OptionError: an option is unknown or wrong, or does not fit a session that exists.
        ConnectionError: there is no such session, it could not be started, or the cluster cannot
            be reached or refuses.
        ForkedProcessError: this is a forked child of a process that has a session.

    Example:
        >>> with shoal.init(num_cpus=4):
        ...     pass
    """
    begun = None
    seen = environment.read()
    # Once the driver is imported, a session may be open, and there is nothing to overlap with.
    if "shoal._runtime.driver" not in sys.modules and _starts_one(address, seen):
        begun = node_spawn.begin(seen.root)
    with starting.Importing():
        from shoal._runtime import driver
    return driver.open_session(address, given, begun)


def _starts_one(address: object, seen: environment.Environment) -> bool:
    if address not in (None, "local") or (seen.session and seen.socket):
        return False
    if address is None and seen.address:
        return seen.address == "local"
    try:
        return address == "local" or not os.listdir(os.path.join(seen.root, session_dir.REGISTRY))
    except OSError:
        return True
