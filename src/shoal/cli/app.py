"""The commands of ``shoal`` besides ``run``: signatures are the command line, docstrings the
help."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from shoal import errors
from shoal._runtime import log_files, registry, session_dir
from shoal._runtime.observer import ANSWER_S, Observer
from shoal.cli import explanations, logs, operating, report, starting, stopping, values
from shoal.cli.values import CommandError

JOB_HEX = 8
"""Digits of a job's id."""

app = cyclopts.App(
    name="shoal",
    help="Tasks, actors and shared objects for Python.",
    help_format="plaintext",
    version_flags=[],
)


class _NoAnswerError(CommandError):
    """A node daemon is silent."""

    def __init__(self, path: str, pid: int, waited_s: float) -> None:
        self.pid = pid
        self.waited_s = waited_s
        said = f"has not answered for {waited_s:g} s" if waited_s else f"(pid {pid}) is stopped"
        super().__init__(
            f"the node daemon at {path} {said}.\nWhat to do: send it SIGCONT if it is stopped;"
            " else see whether this machine is overloaded."
        )


def run(words: list[str]) -> int:
    """Run one command and return the exit code."""
    try:
        result = app(words, exit_on_error=False, print_error=True, result_action="return_value")
    except cyclopts.CycloptsError:
        return 2
    except (CommandError, errors.ShoalError, session_dir.SessionDirectoryError) as error:
        print(f"shoal: {error}", file=sys.stderr)
        return 1
    except (TimeoutError, ConnectionError) as error:
        print(
            f"shoal: a node daemon does not answer ({error}).\nWhat to do: `shoal status` names"
            " it; send it SIGCONT if it is stopped, else see whether this machine is overloaded.",
            file=sys.stderr,
        )
        return 1
    return result if isinstance(result, int) else 0


@app.command(name="run")
def _run(script: str, *arguments: str) -> None:
    """Run a Python program; its first use of Shoal starts a session (see `shoal run --help`)."""
    raise AssertionError("shoal.cli.main does this without the parser")


app.command(starting.start)
app.command(starting.join)
app.command(stopping.stop)
app.command(operating.drain)
app.command(operating.autoscale)


@app.command
def status() -> int:
    """Show your sessions: resources, workers, actors, what waits, and since when they run."""
    sessions = _reachable()
    if not sessions:
        print("No session is running.")
        return 0
    for path in sessions:
        try:
            with Observer(path) as observer:
                report.print_status(observer)
        except OSError:
            print(f"The session behind {path} does not answer.")
    return 0


@app.command(name="list")
def list_(
    table: str,
    *,
    limit: int = 100,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show a table of your session: nodes, jobs, actors, groups, functions, workers or queues.

    In a cluster nodes, jobs, actors, groups and workers are those of all nodes.

    Parameters
    ----------
    table
        Which one.
    limit
        Rows at most.
    as_json
        Print JSON.
    """
    if table not in report.TABLES:
        raise CommandError(f"there is no table {table!r}; there are {', '.join(report.TABLES)}")
    sessions = _reachable()
    if not sessions:
        raise CommandError("no session is running")
    shown: set[object] = set()
    for path in sessions:
        with Observer(path) as observer:
            if observer.welcome.node_id.hex() in shown:
                continue  # a node of a cluster that another one has shown
            told = observer.everywhere(table, limit)
            if table in report.SHARED_TABLES:
                shown.update(row["node_id"] for row in observer.table("members"))
        rows = [_readable(row) for row in told.rows]
        for text in told.notices:
            print(f"shoal: {text}", file=sys.stderr)
        if as_json:
            print(json.dumps(rows, default=_plain))
        else:
            report.print_rows(table, rows)
    return 0


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the sentence that its cause, a record of an error, stands for."""
    cause = row.get("cause")
    if not isinstance(cause, bytes):
        return row
    return {**row, "cause": errors.from_record(cause).describe() if cause else ""}


@app.command
def metrics(*, serve: int | None = None) -> int:
    """Print the metrics of your sessions in Prometheus' text format.

    Parameters
    ----------
    serve
        Answer at this port of 127.0.0.1 instead (0: any), until Ctrl-C.
    """
    try:
        from shoal.cli import exposition
    except ImportError:
        raise CommandError(
            "this needs prometheus-client.\nWhat to do: pip install 'shoal[metrics]'"
        ) from None
    find = functools.partial(session_dir.sockets, values.root())
    if serve is None:
        print(exposition.text(find()), end="")
        return 0
    try:
        exposition.serve(find, serve)
    except (OSError, OverflowError) as error:
        raise CommandError(f"nothing can listen at port {serve}: {error}") from None
    return 0


@app.command
def why(
    about: str = "",
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Say why something is not there yet: the reason, and the chain behind it.

    Parameters
    ----------
    about
        Id of an object, task, actor or placement group, or the name of actors or of tasks that have
        not ended; without it: what your program waits for.
    as_json
        Print JSON.
    """
    try:
        return _told(lambda observer: explanations.print_why(observer, about, as_json))
    except _NoAnswerError as silent:
        explanations.print_no_answer(silent.pid, silent.waited_s, as_json)
        return 0


@app.command
def story(
    about: str,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show what happened to one task, object, actor, group, worker or job.

    Parameters
    ----------
    about
        Its id; "worker 3", "queue 7" and "job 1" are ids too.
    as_json
        Print JSON.
    """
    return _told(lambda observer: explanations.print_story(observer, about, as_json))


@app.command
def memory(
    *,
    by: Literal["object", "site", "process", "function"] = "object",
    limit: int = 30,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show who holds what in node memory, since when, and where it was made.

    Lines of code are known of programs that run with SHOAL_RECORD_CALL_SITES=1.

    Parameters
    ----------
    by
        One row per object, per line of code, or per process; or what functions need of the memory
        of processes.
    limit
        Rows at most; the largest first.
    as_json
        Print JSON.
    """
    return _told(lambda observer: explanations.print_memory(observer, by, limit, as_json))


@app.command(name="logs")
def logs_(
    about: str = "",
    *,
    job: str = "",
    actor: str = "",
    task: str = "",
    worker: int | None = None,
    pid: int | None = None,
    stream: str = "",
    level: str = "",
    since: str = "",
    grep: str = "",
    tail: int | None = None,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show what workers have printed: all of it, or of one task, actor, job or process.

    Parameters
    ----------
    about
        Id of a task, object, actor or job, or a pid.
    job
        Number of a job (`shoal list jobs`), or its id.
    actor
        Id or name of an actor.
    task
        Id of a task.
    worker
        Number of a worker (`shoal list workers`).
    pid
        Pid of a worker.
    stream
        stdout or stderr.
    level
        Of lines of Python's logging: WARNING, ERROR and so on.
    since
        Only the last time: 30s, 10m, 2h.
    grep
        A regular expression that the text must match somewhere.
    tail
        The last lines only, so many.
    follow
        Go on with what comes, until Ctrl-C or the end of the session.
    as_json
        Print one JSON object per line, with everything that is known of it.
    """
    sockets = _reachable()
    if not sockets:
        raise CommandError("no session is running, and logs end with their session")
    if job and not re.fullmatch("[0-9]+|[0-9a-f]{8}", job):
        raise CommandError(f"--job must be a number or an id of 8 digits: {job}")
    given: dict[str, object] = {
        "job": (int(job, 16) if len(job) == JOB_HEX else int(job)) if job else None,
        "actor": logs.actor_id(sockets, actor) if actor else "",
        "task": task,
        "worker": worker,
        "pid": pid,
        "stream": stream,
        "level": level.upper(),
        "grep": grep,
        **(log_files.meaning(about) if about else {}),
    }
    wanted = log_files.wanted(since=values.time_s(since, "--since"), **given)
    logs.show(sockets, wanted, tail, follow, as_json)
    return 0


@app.command
def debug(
    about: str = "", *, show: Annotated[bool, Parameter(name="--list", negative="")] = False
) -> int:
    """Join a task that stands at a breakpoint, or run a failed one again, here.

    Parameters
    ----------
    about
        What `shoal debug --list` calls it, its pid or task id; or the id of a failed object
        (ref.hex()), whose task is run again in this process. Without one: the only one there is.
    show
        Only list the tasks that stand at a breakpoint.
    """
    from shoal.cli import debugger

    sockets = _reachable()
    found = debugger.stops(sockets)
    chosen = debugger.find(found, about)
    if len(about) > debugger.KEY_HEX and not chosen:
        debugger.run_again(sockets, about)
        return 0
    if show or (len(chosen) > 1 and not about):
        debugger.print_stops(found)
        return 0
    if not chosen and about:
        raise CommandError(
            f"no task {about} stands at a breakpoint; `shoal debug --list` shows all"
        )
    if not chosen:
        print("No task stands at a breakpoint.")
        return 0
    if not debugger.join(chosen[0][1]):
        print("It goes on already.")
    return 0


def _told(tell: Callable[[Observer], bool]) -> int:
    """Have the sessions of this user tell, until one knows."""
    sessions = _reachable()
    if not sessions:
        raise CommandError("no session is running")
    refused: Exception | None = None
    entries = registry.started_sessions(values.root())
    for path in sessions:
        pid = next((entry.pid for entry in entries if entry.socket_path == path), 0)
        if session_dir.is_stopped(pid):
            refused = _NoAnswerError(path, pid, 0.0)
            continue
        try:
            with Observer(path) as observer:
                if tell(observer):
                    return 0
        except TimeoutError:
            refused = _NoAnswerError(path, pid, ANSWER_S)
        except ConnectionError:  # it has ended meanwhile
            continue
        except (errors.UsageError, OSError) as error:
            refused = refused or error
    if isinstance(refused, _NoAnswerError):
        raise refused
    raise CommandError(str(refused) if refused else "no session knows anything about it")


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _reachable() -> list[str]:
    """Sockets of all sessions of this user, started ones first."""
    root = values.root()
    started = [entry.socket_path for entry in registry.started_sessions(root)]
    others = session_dir.sockets(root)
    return started + [path for path in others if path not in started]
