"""The commands of ``shoal`` besides ``run``: signatures are the command line, docstrings the
help."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from shoal import errors
from shoal._base import clock, environment
from shoal._runtime import launch, log_files, registry, session_dir, strategies
from shoal._runtime.observer import ANSWER_S, Observer
from shoal._runtime.registry import Entry
from shoal.cli import explanations, logs, report

STOP_S = 5.0
"""How long `shoal stop` waits before it uses SIGKILL."""

JOB_HEX = 8
"""Digits of a job's id."""

app = cyclopts.App(
    name="shoal",
    help="Tasks, actors and shared objects for Python.",
    help_format="plaintext",
    version_flags=[],
)


class CommandError(Exception):
    """A command cannot do what was asked; the text says why and what to do."""


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
    return result if isinstance(result, int) else 0


@app.command(name="run")
def _run(script: str, *arguments: str) -> None:
    """Run a Python program; its first use of Shoal starts a session (see `shoal run --help`)."""
    raise AssertionError("shoal.cli.main does this without the parser")


@app.command
def start(
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: str = "{}",
    labels: str = "",
    object_store_memory: Annotated[str, Parameter(help="such as 2GB or 500MiB")] = "",
    object_spilling_directory: str = "",
    log_bytes: str = "",
    log_age: str = "",
    name: str = "",
    fresh: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Start a session on this machine that several programs can join, until `shoal stop`.

    It is reached through a unix socket only; nothing listens on the network.

    Parameters
    ----------
    num_cpus
        CPUs that tasks may use at a time (default: what this process may use).
    num_gpus
        GPUs (default: those present).
    resources
        More resources, as JSON: '{"licence": 2}'.
    labels
        Labels of this machine, for label_selector: zone=a,disk=fast.
    object_spilling_directory
        Where values go that have no room: a directory, a URI, several with commas between them, or
        none (default: one of the session's own).
    log_bytes
        What logs of workers may take on disk, such as 500MiB; the oldest go (default: 256MiB).
    log_age
        When they go, such as 12h or 7d (default: 7d).
    name
        Keep key-value table, detached actors and groups, and jobs on disk under this name: the next
        session that is started with it goes on from there, also after a crash of the machine.
    fresh
        Throw away what is kept under the name.
    """
    root = _root()
    _check_name(name, fresh)
    if running := registry.started_sessions(root):
        raise CommandError(
            f"session {running[0].session} is running (pid {running[0].pid}).\n"
            "What to do: join it with init(), end it with `shoal stop`, or set SHOAL_DIR to another"
            " directory for a second one."
        )
    if fresh:
        session_dir.forget_kept(root, name)
    launched = launch.launch(
        root,
        environment.inherited_variables(),
        started=True,
        num_cpus=_positive("--num-cpus", num_cpus),
        num_gpus=_positive("--num-gpus", num_gpus),
        resources=_resources(resources),
        labels=_labels(labels),
        object_store_memory=_size(object_store_memory),
        spill=_places(object_spilling_directory),
        log_bytes=_size(log_bytes, "--log-bytes"),
        log_age_s=_time_s(log_age, "--log-age"),
        name=name,
    )
    try:
        with Observer(launched.socket_path) as observer:
            total = observer.resources().total
            (row,) = observer.table("session")
    except OSError as error:
        last = launch.startup_failure(launched.settings)
        launch.give_up(launched)
        raise CommandError(f"the session did not start ({error})\n{last}".rstrip()) from None
    print(f"Session {launched.settings.session} has started: {report.amounts(total)}.")
    report.print_store(row["store"])
    print("Programs join it with shoal.init(); `shoal status` shows it, `shoal stop` ends it.")
    return 0


@app.command
def stop() -> int:
    """End your started session and everything in it."""
    entries = registry.started_sessions(_root())
    if not entries:
        print("No session that `shoal start` started is running.")
        return 0
    for entry in entries:
        _stop(entry)
    return 0


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
    for path in sessions:
        with Observer(path) as observer:
            rows = observer.table(table, limit)
        if as_json:
            print(json.dumps(rows, default=_plain))
        else:
            report.print_rows(table, rows)
    return 0


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
    find = functools.partial(session_dir.sockets, _root())
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
    wanted = log_files.wanted(since=_time_s(since, "--since"), **given)
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
    entries = registry.started_sessions(_root())
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


def _root() -> str:
    return session_dir.check_root(environment.read().root)


def _reachable() -> list[str]:
    """Sockets of all sessions of this user, started ones first."""
    root = _root()
    started = [entry.socket_path for entry in registry.started_sessions(root)]
    others = session_dir.sockets(root)
    return started + [path for path in others if path not in started]


def _stop(entry: Entry) -> None:
    try:
        pidfd = os.pidfd_open(entry.pid)
    except ProcessLookupError:
        return
    try:
        try:
            with Observer(entry.socket_path) as observer:
                workers = len(observer.table("workers"))
                actors = sum(row.get("state") != "DEAD" for row in observer.table("actors"))
                observer.stop()
            what = f"{report.count(workers, 'worker')} and {report.count(actors, 'actor')}"
        except (OSError, errors.ShoalError):
            what = "it did not answer"
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not _wait_gone(entry):
            what += "; it had to be killed"
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _wait_gone(entry)
    finally:
        os.close(pidfd)
    print(f"Session {entry.session} has ended ({what}).")


def _wait_gone(entry: Entry) -> bool:
    deadline = clock.now() + STOP_S
    while clock.now() < deadline:
        alive = session_dir.is_alive(entry.pid, entry.start_time)
        if not alive and not os.path.exists(entry.directory):
            return True
        time.sleep(0.01)
    return False


def _check_name(name: str, fresh: bool) -> None:
    if fresh and not name:
        raise CommandError("--fresh needs a --name: a session without one keeps nothing")
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise CommandError(
            f"--name must be of letters, digits, dots, dashes and underscores, 64 at most: {name!r}"
        )


def _positive(option: str, value: float | None) -> float | None:
    if value is not None and value < 0:
        raise CommandError(f"{option} must not be negative: {value}")
    return value


def _resources(text: str) -> dict[str, float]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    is_right = isinstance(found, dict) and all(
        isinstance(amount, int | float) and not isinstance(amount, bool) and amount >= 0
        for amount in found.values()
    )
    if not is_right:
        raise CommandError(
            f"--resources must be JSON like '{{\"licence\": 2}}' with amounts of 0 or more: {text}"
        )
    return {name: float(amount) for name, amount in found.items()}


def _labels(text: str) -> dict[str, str]:
    labels = {}
    for part in filter(None, text.split(",")):
        key, is_given, value = (word.strip() for word in part.partition("="))
        if not is_given or not strategies.is_selector({key: value or "x"}):
            raise CommandError(f"--labels must be like zone=a,disk=fast: {text}")
        labels[key] = value
    return labels


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def _places(text: str) -> tuple[str, ...] | None:
    if not text:
        return None
    given = () if text == "none" else tuple(text.split(","))
    for place in given:
        if "://" not in place and not os.path.isabs(place):
            raise CommandError(f"--object-spilling-directory must be an absolute path: {place}")
    return given


def _size(text: str, option: str = "--object-store-memory") -> int | None:
    """Bytes of ``2GB``, ``500MiB`` or ``1000000``; None for nothing."""
    if not text:
        return None
    number = text.strip().lower().removesuffix("b")
    digits = number.rstrip("kmgti")
    unit = (_UNITS | _BINARY_UNITS).get(number[len(digits) :])
    try:
        size_bytes = int(float(digits) * (unit or 0))
    except ValueError:
        size_bytes = 0
    if size_bytes <= 0:
        raise CommandError(f"{option} must be a size like 2GB or 500MiB: {text}")
    return size_bytes


_TIMES_S = {"s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def _time_s(text: str, option: str) -> float | None:
    """Seconds of ``30s``, ``10m``, ``12h`` or ``7d``; None for nothing."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower())
    unit = _TIMES_S.get(found.group(2)) if found else None
    if found is None or unit is None or float(found.group(1)) <= 0:
        raise CommandError(f"{option} must be a time like 30s, 10m, 12h or 7d: {text}")
    return float(found.group(1)) * unit
