"""``ray.util.state``: the tables of ``shoal.state``, as rows with the fields that people read.

A row is a dict whose fields are attributes too, as Ray's are. Fields that Ray has and that nothing
here knows are None. Of tasks that have ended, the last thousand or so of each process are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shoal import errors, state
from shoal._base import clock
from shoal.compat.ray.api import get_node_ip_address

Filter = tuple[str, str, Any]


class RayStateApiException(Exception):
    """What programs catch around these tables; nothing raises it, as there is no server to ask."""


class DataSourceUnavailable(RayStateApiException):
    """A table could not be read."""


class ServerUnavailable(RayStateApiException):
    """The dashboard did not answer."""


class Row(dict[str, Any]):
    """One row; ``row.state`` and ``row["state"]`` are the same."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"a row of this table has no field {name!r}; its fields: {', '.join(self)}"
            ) from None

    def asdict(self) -> dict[str, Any]:
        """A plain dict of it."""
        return dict(self)


def _chosen(rows: Iterable[Row], filters: Sequence[Filter] | None, limit: int) -> list[Row]:
    """The rows that pass all filters ``(field, "=" or "!=", value)``."""
    for name, operator, _ in filters or ():
        if operator not in ("=", "!="):
            raise ValueError(f"the filter of {name} must use '=' or '!=', not {operator!r}")
    found = []
    for row in rows:
        if all(_passes(row, *one) for one in filters or ()):
            found.append(row)
        if len(found) >= limit:
            break
    return found


def _passes(row: Row, name: str, operator: str, value: Any) -> bool:
    if name not in row:
        valid = ", ".join(row)
        raise errors.OptionError(f"rows have no field {name!r}. Valid: {valid}", option=name)
    same = str(row[name]).lower() == str(value).lower()
    return same if operator == "=" else not same


def _only(rows: Iterable[Row], field: str, wanted: str) -> Row | None:
    return next((row for row in rows if row[field] == wanted), None)


def _job_id(job: int) -> str:
    return f"{job:08x}"


def _worker_id(node: str, worker: int) -> str:
    """Its process on that node; the beginning of what ``get_worker_id`` says there."""
    return f"{node}{worker:08x}" if worker >= 0 else ""


def _addresses() -> dict[str, str]:
    """Of each node."""
    return {row.node_id: _address(row) for row in state.nodes()}


def _address(row: state.Node) -> str:
    names = [name.removeprefix("node:") for name in row.total if name.startswith("node:")]
    return next((name for name in names if not name.startswith("__")), get_node_ip_address())


def _actor(row: state.Actor) -> Row:
    return Row(
        actor_id=row.actor_id,
        class_name=row.class_name,
        state="PENDING_CREATION" if row.state == "PENDING" else row.state,
        job_id=_job_id(row.job),
        name=row.name or "",
        node_id=row.node_id or None,
        pid=row.pid,
        ray_namespace=row.namespace,
        death_cause=row.cause or None,
        is_detached=row.detached,
        num_restarts=row.restarts,
    )


_STATES = {
    "HELD": "PENDING_ARGS_AVAIL",
    "QUEUED": "PENDING_NODE_ASSIGNMENT",
    "FORWARDED": "SUBMITTED_TO_WORKER",
}
_ERRORS = {
    "TaskCancelledError": "TASK_CANCELLED",
    "WorkerCrashedError": "WORKER_DIED",
    "OutOfMemoryError": "OUT_OF_MEMORY",
    "ActorDiedError": "ACTOR_DIED",
    "RuntimeEnvSetupError": "RUNTIME_ENV_SETUP_FAILED",
    "TaskUnschedulableError": "TASK_UNSCHEDULABLE_ERROR",
}
"""What Ray calls a failure that is no exception of the task."""


def _task(row: state.Task) -> Row:
    failed = _ERRORS.get(row.error, "TASK_EXECUTION_EXCEPTION") if row.state == "FAILED" else None
    return Row(
        task_id=row.task_id,
        attempt_number=max(0, row.attempt - 1),
        name=row.name,
        state=_STATES.get(row.state, row.state),
        job_id=_job_id(row.job),
        actor_id=row.actor_id or None,
        type="ACTOR_TASK" if row.actor_id else "NORMAL_TASK",
        func_or_class_name=row.function,
        parent_task_id=row.parent or None,
        node_id=row.node_id or None,
        worker_id=_worker_id(row.node_id, row.worker),
        error_type=failed,
        error_message=row.error or None,
        language="PYTHON",
        creation_time_ms=_epoch_ms(row.submitted_s),
        start_time_ms=_epoch_ms(row.started_s),
        end_time_ms=_epoch_ms(row.ended_s),
    )


def _epoch_ms(boot_s: float | None) -> int | None:
    """The moment ``boot_s`` after boot as Ray tells times."""
    if boot_s is None:
        return None
    return round((boot_s + clock.wall() - clock.now()) * 1000)


def _node(row: state.Node) -> Row:
    return Row(
        node_id=row.node_id,
        node_ip=_address(row),
        is_head_node="node:__internal_head__" in row.total,
        state=row.state or "ALIVE",
        node_name=row.name,
        resources_total=row.total,
    )


def _worker(row: state.Worker, addresses: Mapping[str, str]) -> Row:
    return Row(
        worker_id=_worker_id(row.node_id, row.worker),
        is_alive=True,
        worker_type="WORKER",
        node_id=row.node_id or None,
        ip=addresses.get(row.node_id, ""),
        pid=row.pid,
    )


def _object(row: state.Object, addresses: Mapping[str, str]) -> Row:
    return Row(
        object_id=row.object_id,
        object_size=row.size_bytes,
        task_status="PENDING" if row.state == "PENDING" else "FINISHED",
        reference_type="LOCAL_REFERENCE",
        ip=addresses.get(row.node_id, ""),
    )


def _group(row: state.Group) -> Row:
    return Row(
        placement_group_id=row.group_id,
        name=row.name or "",
        creator_job_id=_job_id(row.job),
        state=row.state,
        bundles=[{"bundle_index": i, "unit_resources": b} for i, b in enumerate(row.bundles)],
        is_detached=row.detached,
    )


def _job(row: state.Job) -> Row:
    return Row(
        job_id=_job_id(row.job),
        type="DRIVER",
        status="RUNNING" if row.state in ("", "RUNNING") else "SUCCEEDED",
        entrypoint=row.entrypoint,
        message=row.reason,
    )


def _workers() -> list[Row]:
    addresses = _addresses()
    return [_worker(row, addresses) for row in state.workers()]


def _objects() -> list[Row]:
    addresses = _addresses()
    return [_object(row, addresses) for row in state.objects()]


def _table(read: Callable[[], Iterable[Row]]) -> Callable[..., list[Row]]:
    def list_rows(
        address: str | None = None,
        filters: Sequence[Filter] | None = None,
        limit: int = 100,
        timeout: int = 30,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[Row]:
        """Rows that pass all filters ``(field, "=" or "!=", value)``, at most ``limit``.

        Nodes that do not answer within two seconds are named in a ``RuntimeWarning``. The other
        arguments mean nothing.
        """
        return _chosen(read(), filters, limit)

    return list_rows


list_actors = _table(lambda: map(_actor, state.actors()))
list_jobs = _table(lambda: map(_job, state.jobs()))
list_nodes = _table(lambda: map(_node, state.nodes()))
list_objects = _table(_objects)
list_placement_groups = _table(lambda: map(_group, state.groups()))
list_tasks = _table(lambda: map(_task, state.tasks()))
list_workers = _table(_workers)


def get_actor(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> Row | None:
    """The row of one actor, None if there is none."""
    return _only(map(_actor, state.actors()), "actor_id", id)


def get_job(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> Row | None:
    """The row of one job, None if there is none."""
    return _only(map(_job, state.jobs()), "job_id", id)


def get_node(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> Row | None:
    """The row of one node, None if there is none."""
    return _only(map(_node, state.nodes()), "node_id", id)


def get_placement_group(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> Row | None:
    """The row of one placement group, None if there is none."""
    return _only(map(_group, state.groups()), "placement_group_id", id)


def get_task(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> Row | None:
    """The row of one task, None if there is none, or it ended too long ago."""
    return _only(map(_task, state.tasks()), "task_id", id)


def get_worker(
    id: str, address: str | None = None, timeout: int = 30, _explain: bool = False
) -> Row | None:
    """The row of one worker, None if there is none."""
    return _only(_workers(), "worker_id", id)


def _summary(rows: Iterable[Row], by: str, title: str, fields: Sequence[str]) -> dict[str, Any]:
    """How many rows there are in which state, by what ``by`` says of them."""
    counts: dict[str, dict[str, Any]] = {}
    for row in rows:
        told = counts.setdefault(
            row[by], {title: row[by], **{name: row[name] for name in fields}, "state_counts": {}}
        )
        states = told["state_counts"]
        states[row["state"]] = states.get(row["state"], 0) + 1
    return {"summary": counts}


def summarize_actors(
    address: str | None = None,
    timeout: int = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many actors of each class are in which state."""
    rows = list(map(_actor, state.actors()))
    summary = _summary(rows, "class_name", "class_name", ())
    return {"cluster": {**summary, "total_actors": len(rows), "summary_by": "class"}}


def summarize_tasks(
    address: str | None = None,
    timeout: int = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many tasks and calls of each name are in which state."""
    rows = list(map(_task, state.tasks()))
    kinds = Counter(row["type"] for row in rows)
    summary = _summary(rows, "name", "func_or_class_name", ("type",))
    totals = {
        "total_tasks": kinds["NORMAL_TASK"],
        "total_actor_tasks": kinds["ACTOR_TASK"],
        "total_actor_scheduled": len(state.actors()),
    }
    return {"cluster": {**summary, **totals, "summary_by": "func_name"}}


def summarize_objects(
    address: str | None = None,
    timeout: int = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many values there are in each state, and how many bytes they have.

    Ray groups them by the line that made them; here they are one group, as they are in Ray where
    call sites are not recorded.
    """
    rows = state.objects()
    counts = Counter("PENDING" if row.state == "PENDING" else "FINISHED" for row in rows)
    total_mb = sum(row.size_bytes for row in rows) / 2**20
    group = {
        "total_objects": len(rows),
        "total_size_mb": total_mb,
        "total_num_workers": len({(row.node_id, row.owner) for row in rows}),
        "total_num_nodes": len({row.node_id for row in rows}) or 1,
        "task_state_counts": dict(counts),
    }
    return {
        "cluster": {
            "summary": {"disabled": group},
            "total_objects": len(rows),
            "total_size_mb": total_mb,
            "callsite_enabled": False,
            "summary_by": "callsite",
        }
    }
