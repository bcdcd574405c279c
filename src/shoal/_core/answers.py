"""Answers and records that several reactions make."""

from __future__ import annotations

import msgspec

from shoal._core import commands as do
from shoal._core.events import Requested
from shoal._core.jobs import Job
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
