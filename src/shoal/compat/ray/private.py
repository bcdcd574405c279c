"""Names that were never public in Ray and that much-used programs use all the same (RULES T5).

Each has who uses it, and a test in ``tests/scenario/test_compat_private.py``. Any other private
name raises, and says that this list is all there is.

================================================  ================================================
name                                              who uses it
================================================  ================================================
``_private.services.get_node_ip_address``         trainers of language models, for the address of
                                                  the torch process group of their vLLM engines
``_private.state.available_resources_per_node``   verl (older: ``ray.state``), to see whether its
                                                  GPUs are free
``_private.state.total_resources_per_node``       the same, against what there is at all
``_private.state.actors``, ``node_ids``           tests of applications: is that actor dead?
``_private.worker.global_worker.mode``            log handlers and telemetry that ask "am I in a
                                                  worker?" (with ``WORKER_MODE``)
``_private.worker.global_worker.connected``       "is there a session?", from before
                                                  ``is_initialized``
``_private.worker.global_worker.node``            ``address_info["session_dir"]`` to find logs,
                                                  ``unique_id``, ``node_ip_address``
``_private.worker.global_worker.core_worker``     ``object_exists`` in tests of caches
``_private.test_utils.wait_for_condition``,       tests of applications (newer programs find them in
``SignalActor``, ``Semaphore``                    ``_common.test_utils``)
``experimental.get_object_locations``,            shuffles and loaders, to learn sizes of values and
``get_local_object_locations``                    to send work to where its input is
``_raylet.ObjectRef`` and the classes of ids      type checks and annotations
``experimental.internal_kv._internal_kv_*``       small facts that processes share
``ActorClass.__ray_metadata__.modified_class``,
``ActorClass.__ray_actor_class__``                verl, RL controllers: unit tests of actors without
                                                  actors, calling a base's method unbound
``RemoteFunction._function``                      the same for tasks
``ActorHandle._ray_actor_id``                     communicators of accelerators: which rank is it?
``f._remote``, ``__ray_call__``,                  everywhere
``__ray_ready__``, ``__ray_terminate__``
================================================  ================================================

The last four rows are not here: they are attributes of our own classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import shoal
from shoal import state
from shoal._base import clock
from shoal._proto import messages
from shoal._runtime import cluster, context
from shoal._runtime import session as sessions
from shoal.compat.ray import names
from shoal.compat.ray.api import RayContext, get_node_ip_address

_ALL = 2**31
"""More rows than there are slots."""

SCRIPT_MODE = 0
WORKER_MODE = 1

__all__ = ["get_node_ip_address", "global_worker"]


# ---- ray._private.worker ------------------------------------------------------------------------


class _Listed:
    """An object of which only some attributes exist; the others say so."""

    _name = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(names.missing(f"{self._name}.{name}"), name=name, obj=self)


class CoreWorker(_Listed):
    """``global_worker.core_worker``."""

    _name = "ray._private.worker.global_worker.core_worker"

    def object_exists(self, ref: shoal.ObjectRef) -> bool:
        """Whether the value of ``ref`` is there."""
        return ref.is_sealed()


class Node(_Listed):
    """``global_worker.node``."""

    _name = "ray._private.worker.global_worker.node"

    @property
    def address_info(self) -> dict[str, Any]:
        """Facts of the session, as ``ray.init`` returns them."""
        return RayContext(sessions.current()).address_info

    @property
    def session_name(self) -> str:
        """Id of the session."""
        return sessions.current().id

    @property
    def unique_id(self) -> str:
        """Id of this node."""
        return sessions.current().node_id.hex()

    @property
    def node_ip_address(self) -> str:
        """Address of this machine."""
        return get_node_ip_address()

    def get_session_dir_path(self) -> str:
        """The directory of the session."""
        return sessions.current().directory


class GlobalWorker(_Listed):
    """``global_worker``: what this process is."""

    _name = "ray._private.worker.global_worker"

    @property
    def mode(self) -> int | None:
        """WORKER_MODE in a worker, SCRIPT_MODE in a program with a session, else None."""
        if context.process.is_worker:
            return WORKER_MODE
        return SCRIPT_MODE if self.connected else None

    @property
    def connected(self) -> bool:
        """Whether this process has a session."""
        return shoal.is_initialized()

    @property
    def node(self) -> Node | None:
        """The node, None without a session."""
        return Node() if self.connected else None

    @property
    def core_worker(self) -> CoreWorker:
        """The engine of this process, of which little is there.

        Raises:
            AttributeError: there is no session, as in Ray.
        """
        if not self.connected:
            raise AttributeError("global_worker has no core_worker before init()")
        return CoreWorker()

    @property
    def namespace(self) -> str:
        """Where names of actors live."""
        return sessions.current().namespace

    @property
    def node_ip_address(self) -> str:
        """Address of this machine."""
        return get_node_ip_address()


global_worker = GlobalWorker()


# ---- ray._private.state -------------------------------------------------------------------------


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """What is free now, by id of the node."""
    return {
        node: {name: amount for name, amount in free.items() if amount > 0}
        for node, free in cluster.available_by_node().items()
    }


def total_resources_per_node() -> dict[str, dict[str, float]]:
    """What there is, by id of the node."""
    return {row.node_id: dict(row.total) for row in state.nodes()}


def node_ids() -> list[str]:
    """A resource name of each node that is there."""
    living = state.nodes(state="ALIVE")
    found = [name for row in living for name in row.total if name.startswith("node:")]
    return [name for name in found if not name.startswith("node:__")]


def actors(actor_id: Any = None) -> dict[str, Any]:
    """Facts of one actor, or of all by id."""
    rows = {
        row.actor_id: {
            "ActorID": row.actor_id,
            "ActorClassName": row.class_name,
            "Name": row.name,
            "State": row.state,
            "JobID": f"{row.job:08x}",
            "Pid": row.pid,
            "NumRestarts": row.restarts,
            "ActorIsDetached": row.detached,
        }
        for row in state.actors()
    }
    if actor_id is None:
        return rows
    return rows.get(actor_id if isinstance(actor_id, str) else actor_id.hex(), {})


# ---- ray._private.test_utils --------------------------------------------------------------------


def wait_for_condition(
    condition_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    raise_exceptions: bool = False,
    **given: Any,
) -> None:
    """Wait until ``condition_predictor(**given)`` is true.

    Args:
        condition_predictor: What must become true.
        timeout: Seconds at most.
        retry_interval_ms: Milliseconds between looks.
        raise_exceptions: Pass on what the predicate raises; without it, that means "not yet".

    Raises:
        RuntimeError: it did not become true in time.
    """
    deadline = clock.now() + timeout
    raised: Exception | None = None
    while True:
        try:
            if condition_predictor(**given):
                return
        except Exception as error:
            if raise_exceptions:
                raise
            raised = error
        if clock.now() > deadline:
            raise RuntimeError(f"the condition was not met within {timeout} s") from raised
        time.sleep(retry_interval_ms / 1000)


# ---- ray.experimental.internal_kv ---------------------------------------------------------------

_KV_PREFIX = "ray:"
"""Namespaces of theirs never meet ours."""


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _kv_namespace(namespace: str | bytes | None) -> str:
    text = namespace.decode() if isinstance(namespace, bytes) else namespace or ""
    return _KV_PREFIX + text


def _ask(body: messages.Body) -> messages.KvAnswer:
    return sessions.current().request(body, messages.KvAnswer)


def _internal_kv_initialized() -> bool:
    """Whether there is a session that has a table."""
    return shoal.is_initialized()


def _internal_kv_put(
    key: str | bytes,
    value: str | bytes,
    overwrite: bool = True,
    *,
    namespace: str | bytes | None = None,
) -> bool:
    """Store a value; says whether the key was there already."""
    place = _kv_namespace(namespace)
    return _ask(messages.KvPut(_bytes(key), _bytes(value), place, overwrite)).existed


def _internal_kv_get(key: str | bytes, *, namespace: str | bytes | None = None) -> bytes | None:
    """The value of a key, None if there is none."""
    return _ask(messages.KvGet(_bytes(key), _kv_namespace(namespace))).value


def _internal_kv_exists(key: str | bytes, *, namespace: str | bytes | None = None) -> bool:
    """Whether a key has a value."""
    return _internal_kv_get(key, namespace=namespace) is not None


def _internal_kv_list(prefix: str | bytes, *, namespace: str | bytes | None = None) -> list[bytes]:
    """The keys that begin with ``prefix``."""
    return _ask(messages.KvKeys(_bytes(prefix), _kv_namespace(namespace))).keys


def _internal_kv_del(
    key: str | bytes,
    *,
    del_by_prefix: bool = False,
    namespace: str | bytes | None = None,
) -> int:
    """Forget a key, or all that begin with it; says how many there were."""
    place = _kv_namespace(namespace)
    keys = _internal_kv_list(key, namespace=namespace) if del_by_prefix else [_bytes(key)]
    return sum(_ask(messages.KvDelete(one, place)).existed for one in keys)


# ---- ray.experimental.locations -----------------------------------------------------------------


def get_object_locations(
    obj_refs: Sequence[shoal.ObjectRef], timeout_ms: int = -1
) -> dict[shoal.ObjectRef, dict[str, Any]]:
    """Where each value is and how large: ``node_ids``, ``object_size`` in bytes, ``did_spill``.

    A value that is still to come has no node and the size 0.
    """
    if not obj_refs:
        raise ValueError("get_object_locations needs at least one ref")
    rows = {row.object_id: row for row in state.objects(limit=_ALL)}
    told = {}
    for ref in obj_refs:
        row = rows.get(ref.hex())
        told[ref] = {"node_ids": [], "object_size": 0, "did_spill": False}
        if row is not None and row.state != "PENDING":
            told[ref] |= {"node_ids": [row.node_id], "object_size": row.size_bytes}
    return told


def get_local_object_locations(
    obj_refs: Sequence[shoal.ObjectRef],
) -> dict[shoal.ObjectRef, dict[str, Any]]:
    """The same of what this process knows: on one machine, all."""
    return get_object_locations(obj_refs)
