"""A worker process: joins the session, takes over its job's context, then serves until it may
leave.

::

    fork or exec -> Hello -> Welcome -> GetAssignment ... Assignment -> job context -> [actor] ->
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
import os
import sys
import threading
from typing import NoReturn

from shoal import _native
from shoal._base import environment
from shoal._proto import messages
from shoal._runtime import context, hooks, wire, worker_output
from shoal._runtime import session as sessions
from shoal._runtime.actor import handle_of
from shoal._runtime.client import Connection
from shoal._runtime.driver import VERSION
from shoal._runtime.execute import Executor
from shoal._runtime.session import Session

# What tasks need is loaded here, so that a forked worker finds it in the zygote's memory.
hooks.preload()

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def main(memory_fd: int, eventfd: int, index: int, socket_path: str) -> NoReturn:
    """Run a worker from beginning to end. ``memory_fd`` -1: the daemon sends the descriptors."""
    connection = Connection(wire.connect(socket_path))
    hello = messages.Hello(
        role="worker",
        pid=os.getpid(),
        version=VERSION,
        layout=_native.LAYOUT_HASH,
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        index=index,
    )
    welcome, descriptors = connection.hello(hello)
    if memory_fd < 0:
        memory_fd, eventfd = descriptors
    else:
        for descriptor in descriptors:
            os.close(descriptor)
    memory = _native.Memory.attach(memory_fd, eventfd, welcome.index)
    session = Session(memory, connection, welcome, "worker")
    sessions.install(session)
    context.process.is_worker = True
    connection.start(lambda body: None, lambda: os._exit(1), "shoal-session")
    # A program that user code starts joins this session by itself (RULES E-8).
    environment.change({environment.SOCKET_VARIABLE: socket_path})
    assignment = session.request(messages.GetAssignment(), messages.Assignment)
    _take_over(assignment, session)
    executor = Executor(session)
    if assignment.actor is None:
        worker_output.install()
        hooks.install(memory, help=executor.help)
        executor.serve()
    else:
        hooks.install(memory)
        _serve_actor(executor, session, assignment.actor)
    _end(executor)


def _end(executor: Executor) -> NoReturn:
    """End as an interpreter does (user threads, atexit, the actor's ``__del__``), but leave
    its memory to the kernel.

    Taking an interpreter apart writes into every page that this process still shares with the
    zygote: 4 ms and 6 MB of copies, only to give them back.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    executor.methods.clear()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _take_over(assignment: messages.Assignment, session: Session) -> None:
    """Apply grants and job context, before any user code is loaded."""
    process = context.process
    process.gpu_ids = tuple(assignment.gpu_ids)
    process.resources = assignment.resources
    session.job = assignment.job
    job = assignment.config
    session.namespace = job.namespace or session.namespace
    threads = str(max(1, assignment.threads))
    environment.change(dict.fromkeys(_THREAD_VARIABLES, threads), keep=True)
    environment.change(job.env_vars)
    environment.change({"CUDA_VISIBLE_DEVICES": ",".join(assignment.gpu_ids)})
    known = set(job.sys_path)
    sys.path[:] = [*job.sys_path, *(path for path in sys.path if path not in known)]
    if job.cwd:
        try:
            os.chdir(job.cwd)
        except OSError as error:
            print(f"shoal: cannot change to {job.cwd}: {error.strerror}", file=sys.stderr)


def _serve_actor(executor: Executor, session: Session, info: messages.ActorInfo) -> None:
    process = context.process
    process.actor_id = info.actor_id
    process.actor_name = info.spec.name
    process.class_name = info.spec.class_name
    process.incarnation = info.incarnation
    process.actor = handle_of(info, session.id, None)
    if executor.become_actor(info):
        executor.serve()


if __name__ == "__main__":
    main(-1, -1, int(sys.argv[1]), sys.argv[2])
