"""A worker process: joins the session, takes over its job's context, then serves until it may
leave.

::

    fork with a connection ---------+
    exec -> connect, Hello, Welcome +-> GetAssignment ... Assignment -> job context -> [actor] ->
    serve -> end

Order matters: threads and GPUs of libraries are set before anything of the user's is imported, and
``sys.path`` before anything of the user's is unpickled (RULES E-6, S-9).

Two threads: the main one runs tasks, the session thread reads from the daemon; the end of that
stream ends the process at once, whatever user code is doing. Loss of the daemon is the end of the
session (RULES section 2).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
import threading
from typing import Any, NoReturn

import msgspec

from shoal import _native
from shoal._base import environment
from shoal._proto import messages
from shoal._proto.environments import Environment
from shoal._runtime import context, hooks, side_by_side, strays, wire, worker_output
from shoal._runtime import session as sessions
from shoal._runtime.actor import handle_of
from shoal._runtime.cancelling import cancelling
from shoal._runtime.client import Connection
from shoal._runtime.execute import Executor
from shoal._runtime.groups import PlacementGroup, PlacementGroupID
from shoal._runtime.session import Session

AS_RAY_LAYER = "shoal.compat.ray"
"""A layer above this one, so it stands here as a name: jobs that use Ray's names need it
(RULES E-7)."""

# What tasks need is loaded here, so that a forked worker finds it in the zygote's memory.
hooks.preload()

_REUSED_BYTES = 4 << 20
"""A worker may keep twice as much. With 16 MiB, six of them in a group of 640 MB took the room of
the store: values waited half a minute for it."""


def _teach_malloc() -> None:
    """Have arrays of up to ``_REUSED_BYTES`` reuse what others have freed.

    glibc maps large blocks from the kernel and gives them back, so that a method that makes two
    arrays of 2 MB takes 1,000 page faults, 2 ms, per call. It stops that for blocks up to the size
    of the largest mapped one that was freed so far, and trims the heap from twice that size on.
    Programs have freed something large at some time; a fresh worker has not, and does it here, with
    memory that nobody has written to (``bytes`` asks for zeros, ``bytearray`` writes them).
    """
    bytes(_REUSED_BYTES)


_teach_malloc()

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_GPUS = "CUDA_VISIBLE_DEVICES"


class Prepared(msgspec.Struct):
    """What is equal for all workers of a session; made once by the zygote, before it forks."""

    variables: frozenset[str] = frozenset()
    """Of ``_THREAD_VARIABLES``, those that are set to one thread already."""
    has_no_gpus: bool = False
    """``CUDA_VISIBLE_DEVICES`` is empty already."""


def prepare(socket_path: str) -> Prepared:
    """Set the variables of a worker with one thread and no GPUs, as most have, in this process."""
    own = frozenset(set(_THREAD_VARIABLES) - set(environment.inherited_variables()))
    environment.change(dict.fromkeys(own, "1"))
    environment.change({_GPUS: "", environment.SOCKET_VARIABLE: socket_path})
    return Prepared(own, has_no_gpus=True)


def main(index: int, socket_path: str) -> NoReturn:
    """Run a worker that was exec'd: it connects, says Hello and is sent its descriptors."""
    connection = Connection(wire.connect(socket_path))
    hello = messages.Hello(
        role="worker",
        pid=os.getpid(),
        version=messages.VERSION,
        layout=_native.LAYOUT_HASH,
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        index=index,
    )
    welcome, (memory_fd, eventfd) = connection.hello(hello)
    environment.change({environment.SOCKET_VARIABLE: socket_path})
    memory = _native.Memory.attach(memory_fd, eventfd, welcome.index)
    begin(memory, connection, welcome, Prepared())


def begin(
    memory: _native.Memory,
    connection: Connection,
    welcome: messages.Welcome,
    prepared: Prepared,
) -> NoReturn:
    """Run a worker that is connected.

    The session thread begins when it is known what the worker is for: until then there is nothing
    that the main one would not hear by itself.
    """
    context.process.is_worker = True
    try:
        session, assignment = join(memory, connection, welcome, prepared)
    except OSError:  # the session has ended
        os._exit(1)
    strays.mark(assignment.job)  # not in ``join``, which the zygote rehearses
    sessions.install(session)
    sys.breakpointhook = _stop
    connection.start(cancelling.receive, lambda: os._exit(1))
    if assignment.config.as_ray:
        importlib.import_module(AS_RAY_LAYER).install()
    if assignment.environment is not None:
        _take_environment_over(assignment.environment, session)
    info = assignment.actor
    if info is not None and side_by_side.is_side_by_side(info.spec):
        executor: Executor | None = _serve_side_by_side(session, info)
    else:
        executor = become(session, assignment)
        if executor is not None:
            executor.serve()
    _end(executor)


def _stop(*args: Any, **kwargs: Any) -> Any:
    """``breakpoint()`` in user code."""
    from shoal._runtime import breakpoints

    return breakpoints.hook(*args, **kwargs)


def join(
    memory: _native.Memory,
    connection: Connection,
    welcome: messages.Welcome,
    prepared: Prepared,
) -> tuple[Session, messages.Assignment]:
    """Wait until the worker is needed, and take over what it is needed for.

    Raises:
        ConnectionError: the session has ended.
    """
    session = Session(memory, connection, welcome, "worker")
    assignment, _ = connection.ask(messages.GetAssignment(), messages.Assignment)
    _take_over(assignment, session, prepared)
    return session, assignment


def become(session: Session, assignment: messages.Assignment) -> Executor | None:
    """Make what serves; None if it was an actor whose constructor raised."""
    executor = Executor(session)
    executor.is_guest = assignment.is_guest
    if assignment.actor is None:
        worker_output.install()
        hooks.install(session.memory, help=executor.help)
        cancelling.serve(Executor.run.__code__)
        context.process.leave = executor.leave
        return executor
    worker_output.install()
    hooks.install(session.memory)
    return executor if _become_actor(executor, session, assignment.actor) else None


def _end(executor: Executor | None) -> NoReturn:
    """End as an interpreter does (user threads, atexit, the actor's ``__del__``), but leave
    its memory to the kernel.

    Taking an interpreter apart writes into every page that this process still shares with the
    zygote: 4 ms and 6 MB of copies, only to give them back.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if executor is not None:
        executor.methods.clear()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _take_over(assignment: messages.Assignment, session: Session, prepared: Prepared) -> None:
    """Apply grants and job context, before any user code is loaded."""
    process = context.process
    process.gpu_ids = tuple(assignment.gpu_ids)
    process.resources = assignment.resources
    if assignment.group:
        process.group = PlacementGroup(PlacementGroupID.from_hex(assignment.group))
        process.captures = assignment.captures
    session.job = session.memory.job = assignment.job
    session.heavy.update(assignment.heavy)
    job = assignment.config
    session.namespace = job.namespace or session.namespace
    session.job_environment = job.environment
    if assignment.threads > 1 or not prepared.variables:
        threads = str(max(1, assignment.threads))
        environment.change(dict.fromkeys(prepared.variables, threads))
        environment.change(dict.fromkeys(_THREAD_VARIABLES, threads), keep=True)
    environment.change(job.env_vars)
    if assignment.gpu_ids or not prepared.has_no_gpus or _GPUS in job.env_vars:
        environment.change({_GPUS: ",".join(assignment.gpu_ids)})
    known = set(job.sys_path)
    sys.path[:] = [*job.sys_path, *(path for path in sys.path if path not in known)]
    if job.cwd:
        try:
            os.chdir(job.cwd)
        except OSError as error:
            print(f"shoal: cannot change to {job.cwd}: {error.strerror}", file=sys.stderr)


def _take_environment_over(environment: Environment, session: Session) -> None:
    """Become a worker with that environment, or say why not and end."""
    from shoal._runtime.environments import SetupFailure, applying

    session.environment = environment
    try:
        applying.take_over(environment, session.directory)
    except SetupFailure as failure:
        print(failure.text, *failure.output, sep="\n", file=sys.stderr, flush=True)
        body = messages.SetupFailed(failure.step, failure.text, failure.output)
        session.request(body, messages.Done)
        os._exit(1)


def _become_actor(executor: Executor, session: Session, info: messages.ActorInfo) -> bool:
    _take_part(session, info)
    return executor.become_actor(info)


def _serve_side_by_side(session: Session, info: messages.ActorInfo) -> Executor:
    """Be an actor whose calls may overlap, until it may leave."""
    executor = Executor(session)
    executor.is_serial = False
    worker_output.install(side_by_side=True)
    hooks.install(session.memory)
    _take_part(session, info)
    if info.spec.is_asyncio:
        from shoal._runtime import asyncio_actor

        asyncio_actor.serve(executor, info)
    else:
        side_by_side.serve_threaded(executor, info)
    return executor


def _take_part(session: Session, info: messages.ActorInfo) -> None:
    """What code that runs here may ask about the actor."""
    process = context.process
    process.actor_id = info.actor_id
    process.actor_name = info.spec.name
    process.class_name = info.spec.class_name
    process.incarnation = info.incarnation
    process.actor = handle_of(info, session.id, None)
    session.memory.actor = info.spec.arguments


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
