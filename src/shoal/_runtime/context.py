"""Where am I? What a task, an actor or a driver may ask about itself.

The running task is one context variable that the worker's loop sets to the native ``Task`` of each
attempt (also of a helped one, and put back after it): 40 ns, and nothing else is computed until
somebody asks. Facts of the process (job, node, GPUs, actor) stand in one record that the worker
fills once; what only the daemon knows (the resources of a task's class) is asked from it. A thread
that user code starts in a plain task has that task's id, and nothing else of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from shoal import _native, errors
from shoal._base import typed_ids
from shoal._runtime import arguments, cluster
from shoal._runtime import session as sessions
from shoal._runtime.environments.runtime_env import RuntimeEnv, of_environment

if TYPE_CHECKING:
    from shoal._runtime.actor import ActorHandle
    from shoal._runtime.groups import PlacementGroup

running: ContextVar[_native.Task | None] = ContextVar("shoal_task", default=None)
"""The attempt that this thread or coroutine runs."""


class Process:
    """Facts of a worker process."""

    is_worker = False
    gpu_ids: tuple[str, ...] = ()
    resources: dict[str, float] = {}
    actor_id: str | None = None
    actor_name: str | None = None
    class_name = ""
    incarnation = 0
    group: PlacementGroup | None = None
    """The placement group that this worker runs in, for life."""
    captures = False
    """What it submits goes into the group too."""
    actor: ActorHandle[Any] | None = None
    """A handle of the actor that lives here, which does not keep it alive (RULES A-5)."""
    leave: Callable[[], None]
    """Have this worker end after its present task."""
    cancelled: dict[int, tuple[int, bytes]] = {}
    """Attempts that run here and are to end: (attempt, what it fails with) by key."""


process = Process()


class _Ids:
    """The half of the context that says who this is."""

    @property
    def job_id(self) -> typed_ids.JobID:
        """``get_job_id`` as a value."""
        return typed_ids.JobID.from_int(sessions.current().job)

    @property
    def node_id(self) -> typed_ids.NodeID:
        """``get_node_id`` as a value."""
        return typed_ids.NodeID(sessions.current().node_id)

    @property
    def task_id(self) -> typed_ids.TaskID:
        """``get_task_id`` as a value; nil in a driver."""
        task_id = self.get_task_id()
        return typed_ids.TaskID.from_hex(task_id) if task_id else typed_ids.TaskID.nil()

    @property
    def actor_id(self) -> typed_ids.ActorID:
        """``get_actor_id`` as a value; nil outside actors."""
        if process.actor_id is None:
            return typed_ids.ActorID.nil()
        return typed_ids.ActorID.from_hex(process.actor_id)

    def get_task_id(self) -> str | None:
        """Id of the running task, as ``ref.task_id().hex()``; None outside tasks.

        A thread that user code started in a task has that task's; an actor outside its calls, as in
        its constructor, that of its construction.
        """
        task = running.get()
        if task is not None:
            return id_of(task)
        session = sessions.current()
        actor = session.memory.actor
        key = session.memory.running if process.is_worker and not actor else 0
        if not key and not actor:
            return None
        return typed_ids.task_id(session.node_id, key, actor, session.job)

    def get_parent_task_id(self) -> str | None:
        """Id of the task that submitted the running one; None for what a driver submitted."""
        task = running.get()
        if task is None or not (task.parent or task.caller):
            return None
        return typed_ids.task_id(sessions.current().node_id, task.parent, task.caller, task.job)

    def get_job_id(self) -> str:
        """Id of the job: one per driver."""
        return self.job_id.hex()

    def get_node_id(self) -> str:
        """Id of this node."""
        return sessions.current().node_id.hex()

    def get_worker_id(self) -> str:
        """Id of this process: its node, its index there and its pid."""
        session = sessions.current()
        return typed_ids.worker_id(session.node_id, session.index, os.getpid())

    def get_actor_id(self) -> str | None:
        """Id of the actor that runs this, None elsewhere."""
        return process.actor_id


class RuntimeContext(_Ids):
    """What ``get_runtime_context`` returns: a view that looks when it is asked.

    Ids are texts of hexadecimal digits; ``shoal.ids`` has them as values. What a driver can not
    have (a task, an actor) is None there.
    """

    @property
    def is_driver(self) -> bool:
        """Whether this is a user's program, not a worker."""
        return not process.is_worker

    @property
    def task(self) -> _native.Task | None:
        """The running attempt, as native code knows it."""
        return running.get()

    @property
    def attempt(self) -> int:
        """Number of the running attempt, from 1; 0 outside tasks."""
        task = running.get()
        return task.attempt if task is not None else 0

    def is_canceled(self) -> bool:
        """Whether somebody has cancelled the running task or call: a loop may ask, and return."""
        task = running.get()
        found = process.cancelled.get(task.key) if task is not None else None
        return found is not None and task is not None and found[0] == task.attempt

    @property
    def incarnation(self) -> int:
        """Number of this life of the actor: only grows, so it may fence outside systems."""
        return process.incarnation

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor was restarted after a crash."""
        return process.incarnation > 1

    @property
    def namespace(self) -> str:
        """Where names of actors are looked up."""
        return sessions.current().namespace

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The runtime environment of this process: what its calls inherit."""
        return of_environment(sessions.current().environment)

    def get_runtime_env_string(self) -> str:
        """``runtime_env`` as JSON; ``"{}"`` where there is none."""
        return msgspec.json.encode(dict(self.runtime_env), enc_hook=str, order="sorted").decode()

    def get_node_labels(self) -> dict[str, str]:
        """Labels of this node."""
        return dict(cluster.table("nodes")[0].get("labels") or {})

    @property
    def session(self) -> str:
        """Id of the session."""
        return sessions.current().id

    def get_session_name(self) -> str:
        """Name of the session: ``session-`` and its id, as its directory is called."""
        return os.path.basename(sessions.current().directory)

    def get_temp_dir(self) -> str:
        """Where sessions have their directories: ``SHOAL_DIR``, or one of the user's own."""
        return os.path.dirname(sessions.current().directory)

    @property
    def gcs_address(self) -> str:
        """Directory of the session; there is no TCP address on one machine."""
        return sessions.current().directory

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle of the actor that runs this.

        Raises:
            UsageError: this is no actor.
        """
        if process.actor is None:
            raise errors.NotInActorError("current_actor: this code does not run in an actor")
        return process.actor

    def get_task_name(self) -> str | None:
        """Name of the running task or call."""
        task = running.get()
        return task_name(task) if task is not None else None

    def get_task_function_name(self) -> str | None:
        """Name of the running function, or ``Class.method``, whatever the task is called."""
        task = running.get()
        return function_name(task) if task is not None else None

    def get_actor_name(self) -> str | None:
        """Name of the actor that runs this, "" if it has none; None outside actors."""
        return None if process.actor_id is None else process.actor_name or ""

    def get_placement_group_id(self) -> str | None:
        """Id of the placement group that this runs in, None elsewhere."""
        return process.group.id.hex() if process.group is not None else None

    @property
    def current_placement_group_id(self) -> typed_ids.PlacementGroupID:
        """``get_placement_group_id`` as a value; nil outside groups."""
        if process.group is None:
            return typed_ids.PlacementGroupID.nil()
        return typed_ids.PlacementGroupID.from_hex(process.group.id.hex())

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what this submits goes into its placement group too, if it names no other."""
        return process.group is not None and process.captures

    def get_assigned_resources(self) -> dict[str, float]:
        """What the running task, or the actor, was granted; {} in a driver."""
        row = _queue_row()
        granted = process.resources if row is None else row["resources"]
        return {name: amount for name, amount in granted.items() if amount > 0}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Ids of the granted accelerators by kind."""
        return {"GPU": list(process.gpu_ids)}

    def get_resource_ids(self) -> dict[str, list[str]]:
        """The former name of ``get_accelerator_ids``."""
        return self.get_accelerator_ids()

    def get(self) -> dict[str, Any]:
        """Everything known, as a dict."""
        facts = {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "task_id": self.get_task_id(),
            "actor_id": self.get_actor_id(),
            "namespace": self.namespace,
        }
        return {name: value for name, value in facts.items() if value is not None}


def id_of(task: _native.Task) -> str:
    """``TaskID.hex()`` of what runs here: a call's job is its actor's, which is this process's."""
    session = sessions.current()
    return typed_ids.task_id(session.node_id, task.first, task.actor, session.job)


def _queue_row() -> dict[str, Any] | None:
    """What the daemon knows of the scheduling class of the running task; None for actors."""
    task = running.get()
    if task is None or task.actor:
        return None
    rows = (row for row in cluster.table("queues") if row["queue"] == task.queue)
    return next(rows, None)


def get_runtime_context() -> RuntimeContext:
    """Return what this code can know about where it runs: ids, attempt, resources, GPUs.

    Example:
        >>> @shoal.remote
        ... def attempt():
        ...     return shoal.get_runtime_context().attempt
        >>> shoal.get(attempt.remote())
        1
    """
    return RuntimeContext()


def get_gpu_ids() -> list[int | str]:
    """Return the ids of the GPUs that this task or actor may use; [] in a driver.

    ``CUDA_VISIBLE_DEVICES`` names the same ones.

    Example:
        >>> shoal.get_gpu_ids()
        []
    """
    return [int(gpu) if gpu.isdigit() else gpu for gpu in process.gpu_ids]


def task_name(task: _native.Task) -> str:
    """Name of ``task``: that of its call, if it was given one, else that of its function."""
    return arguments.name_of(task.payload()) or function_name(task)


def function_name(task: _native.Task) -> str:
    """Name of the function or method that ``task`` runs."""
    session = sessions.current()
    function = session.functions.get(task.function)
    name = getattr(function, "__qualname__", None) or "task"
    if task.actor and process.actor is not None:
        return f"{process.class_name}.{process.actor._facts.method_name(task.method)}"
    return str(name)
