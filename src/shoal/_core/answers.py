"""Answers and records that several reactions make."""

from __future__ import annotations

from types import ModuleType

import msgspec

from shoal._core import commands as do
from shoal._core.events import Requested
from shoal._core.jobs import Job
from shoal._core.resources import Amounts, Target
from shoal._core.store import PutRow
from shoal._core.tables import NodeTables
from shoal._proto import messages as m
from shoal._proto.environments import Environment

Commands = list[do.Command]


def refuse(event: Requested, record: bytes) -> Commands:
    """Answer a request with a record."""
    return [do.Reply(event.index, event.request, m.Failure(record))]


def welcome(t: NodeTables, index: int, request: int, job: Job | None) -> do.Reply:
    """The answer to a Hello."""
    body = m.Welcome(
        session=t.config.session,
        directory=t.config.directory,
        node_id=t.config.node_id,
        index=index,
        job=0 if job is None else job.number,
        namespace="" if job is None else job.namespace,
        total=dict(t.config.total),
        owner=t.owner == index,
    )
    return do.Reply(index, request, body)


def begin_job(t: NodeTables, now: float, config: m.JobConfig) -> Job:
    """A new root of work."""
    job = t.jobs.begin(now, config)
    job.config = msgspec.structs.replace(config, namespace=job.namespace)
    t.scheduler.held.shares.add(job.number, config.priority, config.weight)
    return job


def elsewhere() -> ModuleType:
    """Only a node that knows others needs it."""
    from shoal._core import elsewhere

    return elsewhere


def shifting() -> ModuleType:
    """Only a node that knows others needs it."""
    from shoal._core import shifting

    return shifting


def draining() -> ModuleType:
    """Only a node that leaves a cluster needs it."""
    from shoal._core import reactions_draining

    return reactions_draining


def lease() -> ModuleType:
    """As ``draining``, of any node of a cluster."""
    from shoal._core import reactions_lease

    return reactions_lease


def homes() -> ModuleType:
    """As ``draining``, or where actors have another home from the beginning."""
    from shoal._core import reactions_homes

    return reactions_homes


def shared_groups() -> ModuleType:
    """As ``elsewhere``: groups whose bundles may be on several nodes."""
    from shoal._core import reactions_shared_groups

    return reactions_shared_groups


def await_group(t: NodeTables, event: Requested, group_id: str) -> Commands:
    """In a cluster: who names a group that is not known here waits; nothing to do: it is known."""
    if not t.config.in_cluster or not group_id:
        return []
    return list(shared_groups().awaited(t, event, group_id))


def never_runs(t: NodeTables, amounts: Amounts, target: Target) -> str | None:
    """Why nobody can run what this node never can, of a started session; None: another node of
    the cluster could."""
    if target.group:
        group = t.groups.find(target.group)
        if group is not None and group.is_shared and group.could_hold(target.room, amounts):
            return None
        return target.why or "no bundle of its placement group has that much"
    if t.elsewhere is None:
        return target.why or f"no node has that (total {t.config.total})"
    if elsewhere().able(t, amounts, target):
        return None
    return str(elsewhere().lacks(t, amounts, target))


def label_worker(job: Job, index: int, label: str, actor_id: str = "") -> do.LabelWorker:
    """Whose output that of worker ``index`` is."""
    if not job.config.log_to_driver:
        return do.LabelWorker(index, job.number, -1, label, actor_id)
    return do.LabelWorker(index, job.number, job.driver, label, actor_id, job.home)


def want_environment(
    t: NodeTables, now: float, job: Job, asked: Environment | None
) -> tuple[str, Commands]:
    """The key of the environment that is asked for (None: the job's own), and what is done to get
    it."""
    environment = asked or job.config.environment
    if environment is None or not environment.key:
        return "", []
    out = t.environments.want(now, job.number, environment)
    if out:
        t.tell(now, f"environment {environment.key}", "is being made")
    return environment.key, out


def row_of_job(job: Job) -> dict[str, object]:
    """The row of the job table."""
    return {
        "job": job.number,
        "state": "ENDED" if job.is_over else "RUNNING",
        "namespace": job.namespace,
        "entrypoint": job.config.entrypoint,
        "pid": job.pid,
        "root_actor": job.root_actor or "",
        "priority": job.config.priority,
        "weight": job.config.weight,
        "reason": job.end_reason,
    }


def job_row(t: NodeTables, job: Job, reply: do.Reply | None = None) -> Commands:
    """Bring the job's row up to date."""
    return t.write(PutRow("jobs", str(job.number), row_of_job(job)), reply)
