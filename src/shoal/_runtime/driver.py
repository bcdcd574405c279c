"""``init``, once its daemon has begun to start, and ``shutdown``: a user's program joins a session
or starts one of its own.

Which session (RULES T1)::

    init()                SHOAL_ADDRESS, else one of ``shoal start`` that lives, else a new one
    init("local")         always a new one
    init("auto")          a session of ``shoal start``; an error if there is none
    init("<session id>")  that one
    init("HOST:PORT")     the cluster whose head listens there: a node of it on this machine, else
                          one of our own that runs nothing (``elsewhere``)

Starting is: exec the daemon (``init`` has done that if it could), tell it its settings, connect to
the socket that is listening already, say Hello, and load cloudpickle while the daemon makes node
memory. A session that ``init`` started ends
with this process: the daemon watches its pidfd, ``shutdown`` is only the polite way.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from shoal import _native, errors
from shoal._base import environment
from shoal._proto import messages
from shoal._runtime import (
    hooks,
    launch,
    logs,
    node_spawn,
    options,
    registry,
    stalls,
    starting,
    strategies,
    wire,
)
from shoal._runtime import session as sessions
from shoal._runtime.client import Connection
from shoal._runtime.environments import given as given_env
from shoal._runtime.session import Session
from shoal._runtime.session_dir import SOCKET_NAME

_END_S = 5.0
_LEAST_STORE_BYTES = 8 << 20


class _Row(msgspec.Struct, frozen=True):
    expected: str
    check: Callable[[Any], bool]
    not_yet: bool = False


def _is_labels(value: Any) -> bool:
    good = strategies.is_selector
    return isinstance(value, Mapping) and all(
        isinstance(text, str) and (good({key: text}) if text else good({key: "x"}))
        for key, text in value.items()
    )


def _is_places(value: Any) -> bool:
    given = [value] if isinstance(value, str) else value
    return value is False or (
        isinstance(given, list | tuple)
        and bool(given)
        and all(isinstance(p, str) and (os.path.isabs(p) or "://" in p) for p in given)
    )


def _is_bytes(value: Any) -> bool:
    return type(value) is int and value >= _LEAST_STORE_BYTES


_TABLE: dict[str, _Row] = {
    "num_cpus": _Row("a number >= 0", options.TABLE["num_cpus"].check),
    "num_gpus": _Row("a number >= 0", options.TABLE["num_gpus"].check),
    "resources": _Row(options.TABLE["resources"].expected, options.TABLE["resources"].check),
    "object_store_memory": _Row(f"an integer >= {_LEAST_STORE_BYTES} (bytes)", _is_bytes),
    "object_spilling_directory": _Row(
        "the absolute path of a directory, a URI, a list of them, or False", _is_places
    ),
    "lineage_bytes": _Row("an integer >= 0 (bytes)", lambda v: type(v) is int and v >= 0),
    "log_bytes": _Row("an integer > 0 (bytes)", lambda v: type(v) is int and v > 0),
    "log_age_s": _Row(
        "a number > 0 (seconds)", lambda v: options.TABLE["num_cpus"].check(v) and v > 0
    ),
    "namespace": _Row("a text that is not empty", lambda v: isinstance(v, str) and bool(v)),
    "ignore_reinit_error": _Row("True or False", lambda v: isinstance(v, bool)),
    "log_to_driver": _Row("True or False", lambda v: isinstance(v, bool)),
    "priority": _Row("an integer", lambda v: type(v) is int),
    "weight": _Row("a number > 0", lambda v: options.TABLE["num_cpus"].check(v) and v > 0),
    "labels": _Row("a dict of names (letters, digits, ./_-) to texts", _is_labels),
    "runtime_env": _Row("a dict", lambda v: isinstance(v, Mapping)),
    "token_file": _Row(
        "the path of a file", lambda v: isinstance(v, str | os.PathLike) and bool(os.fspath(v))
    ),
    "logging_level": _Row(
        "a level of logging (there is no log yet)", lambda v: isinstance(v, int | str)
    ),
    "include_dashboard": _Row("False: there is none yet", lambda v: v is False),
}

_OF_THE_SESSION = ("num_cpus", "num_gpus", "resources", "object_store_memory", "labels",
    "object_spilling_directory", "lineage_bytes", "log_bytes", "log_age_s",
)  # fmt: skip
"""Options that describe a new session and make no sense for one that exists."""


class SessionContext(Mapping[str, Any]):
    """What ``init`` returns: facts of the session, and a context manager that ends it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._facts = {
            "session": session.id,
            "session_dir": session.directory,
            "node_id": session.node_id.hex(),
            "namespace": session.namespace,
            "job_id": session.job,
            "resources": dict(session.total),
        }

    def __getitem__(self, name: str) -> Any:
        return self._facts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    @property
    def address_info(self) -> dict[str, Any]:
        """All facts, as a dict."""
        return dict(self._facts)

    def __enter__(self) -> SessionContext:
        return self

    def __exit__(self, *error: object) -> None:
        if sessions.current_or_none() is self._session:
            shutdown()

    def __repr__(self) -> str:
        amounts = ", ".join(f"{k} {v:g}" for k, v in sorted(self._session.total.items()))
        what = amounts or "a program of a cluster, which runs its tasks"
        return f"<shoal session {self._session.id}: {what}>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in self._facts.items())
        return f"<table>{rows}</table>"


def open_session(
    address: str | None, given: Mapping[str, Any], begun: node_spawn.Begun | None
) -> SessionContext:
    """What ``init`` does once everything is imported; ``begun``: its daemon has begun to start."""
    try:
        _check(address, given)
        if sessions.is_forked():
            raise errors.ForkedProcessError
        present = sessions.current_or_none()
        if present is not None:
            if given.get("ignore_reinit_error") or present.role == "worker":
                return SessionContext(present)
            raise errors.SessionExistsError(session=present.id)
        _forget_lost()
        seen = environment.read()
        if begun is None and _is_elsewhere(where := address or seen.address):
            if not address and where.startswith("shoal-1 "):
                raise errors.OptionError(
                    "SHOAL_ADDRESS holds a join line, and with it a secret that other programs can"
                    " see. What to do: set it to HOST:PORT, and SHOAL_TOKEN_FILE to a file with the"
                    " line (mode 0600)",
                    option="address",
                )
            return SessionContext(_drive(where, given, seen))
        if given.get("token_file") is not None:
            raise errors.OptionError(
                "token_file is for a cluster. What to do: give its address too, HOST:PORT",
                option="token_file",
            )
        found = _find(address, seen) if begun is None else None
        if found is None:
            begun, taken = None, begun or node_spawn.begin(seen.root)
            return SessionContext(_start(taken, given))
    finally:
        if begun is not None:
            node_spawn.abandon(begun)
    return SessionContext(_attach(found, given))


def _check(address: Any, given: Mapping[str, Any]) -> None:
    if address is not None and (not isinstance(address, str) or not address):
        raise errors.OptionError(f"address must be a text, not {address!r}", option="address")
    for name, value in given.items():
        row = _TABLE.get(name)
        valid = ["address", *sorted(_TABLE)]
        if row is None:
            text = f"init has no option {name!r}. Valid: {', '.join(valid)}"
            raise errors.OptionError(text, option=name, valid=valid)
        if value is None:
            continue
        if not row.check(value):
            text = f"option {name} of init must be {row.expected}, not {value!r}"
            raise errors.OptionError(f"{text}. Valid: {', '.join(valid)}", option=name, valid=valid)
        if name == "runtime_env":
            given_env.check(value)
        if row.not_yet and value:
            raise errors.NotSupportedError(f"option {name} of init is not there yet")


def _find(address: str | None, seen: environment.Environment) -> registry.Entry | None:
    """The existing session to join, or None to start one."""
    address = address or seen.address or None
    if address is None and seen.session and seen.socket:
        directory = os.path.dirname(seen.socket)
        return registry.Entry(seen.session, directory, 0, 0)
    if address == "local":
        return None
    found = registry.started_sessions(seen.root)
    if address in (None, "auto"):
        if found:
            return found[0]
        if address is None:
            return None
        raise ConnectionError(
            "init('auto') found no session. What to do: run `shoal start`, or call init() without"
            " an address to start one for this program."
        )
    for entry in found:
        if entry.session == address:
            return entry
    for directory in (address, os.path.join(seen.root, f"session-{address}")):
        if os.path.exists(os.path.join(directory, SOCKET_NAME)):  # a program's own session
            return registry.Entry(address, directory, 0, 0)
    known = ", ".join(entry.session for entry in found) or "none"
    raise ConnectionError(f"there is no session {address!r} of this user here; running: {known}")


def _is_elsewhere(address: str) -> bool:
    """Whether it names the head of a cluster, or is a join line."""
    is_pair = ":" in address and "/" not in address
    return is_pair or "://" in address or address.startswith("shoal-1 ")


def _drive(address: str, given: Mapping[str, Any], seen: environment.Environment) -> Session:
    """Join a cluster that this machine may have no node of."""
    from shoal._runtime import elsewhere

    token_file = os.fspath(given.get("token_file") or seen.token_file)
    line = elsewhere.credentials(address, token_file)
    found = elsewhere.member_here(seen.root, address, line)
    if found is not None:
        return _attach(found, given)
    if line is None:
        raise elsewhere.no_credentials(address)
    wrong = [name for name in elsewhere.NOT_OURS if given.get(name) is not None]
    if wrong:
        raise errors.OptionError(
            f"{', '.join(wrong)}: the nodes of the cluster have its resources, and a program that"
            " joins it from outside runs nothing; leave the option out",
            option=wrong[0],
        )
    begun, membership = node_spawn.begin(seen.root), None
    try:
        membership = elsewhere.enter(begun, line)
    finally:
        if membership is None:
            node_spawn.abandon(begun)
    return _start(begun, {**given, "num_cpus": 0, "num_gpus": 0}, membership)


def _attach(found: registry.Entry, given: Mapping[str, Any]) -> Session:
    """Join a session that exists."""
    wrong = [name for name in _OF_THE_SESSION if given.get(name) is not None]
    if wrong:
        raise errors.OptionError(
            f"{', '.join(wrong)}: session {found.session} exists already and has its resources;"
            " leave the option out, or start a session with init('local')",
            option=wrong[0],
        )
    return _join(found.socket_path, given, None)


def _places(given: Any) -> tuple[str, ...] | None:
    if given is False:
        return ()
    return (given,) if isinstance(given, str) else tuple(given) if given else None


def _start(
    begun: node_spawn.Begun,
    given: Mapping[str, Any],
    membership: launch.Membership | None = None,
) -> Session:
    launched = launch.settle(
        begun,
        started=False,
        num_cpus=given.get("num_cpus"),
        num_gpus=given.get("num_gpus"),
        resources=dict(given.get("resources") or {}),
        labels=dict(given.get("labels") or {}),
        object_store_memory=given.get("object_store_memory"),
        spill=_places(given.get("object_spilling_directory")),
        lineage_bytes=given.get("lineage_bytes"),
        log_bytes=given.get("log_bytes"),
        log_age_s=given.get("log_age_s"),
        membership=membership,
    )
    if membership is not None:
        _await_cluster(launched, membership)
    return _join(launched.socket_path, given, launched)


def _await_cluster(launched: launch.Launched, membership: launch.Membership) -> None:
    from shoal._runtime import elsewhere

    _preload()
    try:
        elsewhere.wait_for_state(launched, "joined")
    except elsewhere.NotJoinedError as error:
        where = membership.addresses[0]
        raise ConnectionError(f"the cluster at {where} was not joined: {error}") from None


def _map(memory_fd: int, eventfd: int, index: int) -> _native.Memory:
    """Map node memory. The addresses of former sessions are free again when nothing refers to them,
    and what refers to them in circles has to be collected first: a few hundred sessions of one
    process fill all that it has."""
    try:
        return _native.Memory.attach(memory_fd, eventfd, index)
    except RuntimeError:
        gc.collect()
        return _native.Memory.attach(memory_fd, eventfd, index)


def _join(path: str, given: Mapping[str, Any], launched: launch.Launched | None) -> Session:
    config = _job_config(given)
    try:
        if given.get("runtime_env"):
            # Its files are copied while the daemon starts.
            config = _with_environment(config, given["runtime_env"], os.path.dirname(path))
        stream = wire.connect(path)
        connection = Connection(stream)
        hello = messages.Hello(
            role="driver",
            pid=os.getpid(),
            version=messages.VERSION,
            layout=_native.LAYOUT_HASH,
            python=f"{sys.version_info[0]}.{sys.version_info[1]}",
            job=config,
        )
        welcome, descriptors = connection.hello(hello, _preload)
    except errors.OptionError:
        if launched:
            launch.give_up(launched)
        raise
    except OSError as error:
        said = launch.startup_failure(launched.settings) if launched else ""
        if launched:
            # It may have ended before there was anybody who cleans up.
            launch.give_up(launched)
        tail = f"\nIts log says:\n{said}" if said else ""
        what = "could not be started" if launched else f"at {path} does not answer"
        raise ConnectionError(f"the session {what}: {error}{tail}") from None
    memory = _map(descriptors[0], descriptors[1], welcome.index)
    hooks.install(memory)
    session = Session(memory, connection, welcome, "driver")
    session.daemon_pid = launched.pid if launched else 0
    session.environment = session.job_environment = config.environment
    printer = logs.LogPrinter()
    console = _Console(session)

    def news(body: messages.Message) -> None:
        if isinstance(body, messages.LogLines):
            printer.show(body)
        elif isinstance(body, messages.Notice):
            print(f"shoal: {body.text}", file=sys.stderr, flush=True)
        elif isinstance(body, messages.TaskStopped):
            console.stopped(body)
        elif isinstance(body, messages.SessionEnds):
            session.reason = body.reason

    def flush() -> None:
        console.close()
        printer.flush()

    session.flush_logs = flush

    def lost() -> None:
        session.end("ended" if session.is_leaving else "lost", session.reason)

    watch = None
    if period_s := environment.read().stall_s:
        watch = stalls.StallWatch(session, period_s, lambda text: news(messages.Notice(text))).look
    # A first look at once would find most programs waiting for their first task, and make this
    # process and the daemon import all reasons: 5 % of the CPU of a short program.
    connection.start(news, lost, watch, period_s / 2)
    sessions.install(session)
    _at_exit_once()
    return session


class _Console:
    """The terminal of this program, once a task stands at a breakpoint."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._console: Any = None

    def stopped(self, news: messages.TaskStopped) -> None:
        if self._console is None:
            from shoal._runtime import console

            self._console = console.Console(self._session.directory)
        self._console.stopped(news)

    def close(self) -> None:
        if self._console is not None:
            self._console.close()


def _preload() -> None:
    """Import what the first task needs while the daemon starts: this process has nothing else to
    do."""
    with starting.Importing():
        from shoal._runtime import objects, remote  # noqa: F401

        hooks.preload()


def _job_config(given: Mapping[str, Any]) -> messages.JobConfig:
    return messages.JobConfig(
        namespace=given.get("namespace") or "",
        sys_path=[os.path.abspath(path) for path in sys.path],
        cwd=os.getcwd(),
        python=sys.executable,
        entrypoint=" ".join(sys.argv),
        log_to_driver=given.get("log_to_driver") is not False,
        as_ray=environment.read().as_ray,
        priority=given.get("priority") or 0,
        weight=given.get("weight") or 1.0,
    )


def _with_environment(
    config: messages.JobConfig, given: Mapping[str, Any], directory: str
) -> messages.JobConfig:
    from shoal._runtime.environments import resolving

    environment = resolving.resolve(given, None, directory)
    return msgspec.structs.replace(config, environment=environment)


_at_exit: list[int] = []


def _at_exit_once() -> None:
    if not _at_exit:
        _at_exit.append(os.getpid())
        atexit.register(_shutdown_at_exit)


def _shutdown_at_exit() -> None:
    if _at_exit == [os.getpid()]:
        shutdown()


def shutdown() -> None:
    """Leave the session; one that ``init`` started ends, with everything in it. May be repeated.

    Refs and handles of the session can not be used any more.

    Example:
        >>> shoal.shutdown()
    """
    session = sessions.current_or_none()
    if session is None:
        if not sessions.is_forked():  # it is the parent's
            _forget_lost()
        return
    if session.role == "worker":
        return
    session.is_leaving = True
    body = messages.StopSession() if session.is_owner else messages.LeaveJob()
    try:
        session.request(body, messages.Done)
    except errors.ShoalError:  # it went faster than its answer
        pass
    session.end("ended")
    session.connection.close()
    session.flush_logs()
    if session.daemon_pid:
        _reap(session.daemon_pid)


def _forget_lost() -> None:
    lost = sessions.forget()
    if lost is not None and lost.daemon_pid:
        _reap(lost.daemon_pid)


def _reap(pid: int) -> None:
    """Wait for the end of the daemon, which is our child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(_END_S * 1000):
            os.waitpid(pid, 0)
    except ChildProcessError:  # somebody else waited for it
        pass
    finally:
        os.close(pidfd)


def is_initialized() -> bool:
    """Whether this process has an open session.

    Example:
        >>> shoal.is_initialized()
        False
    """
    return sessions.current_or_none() is not None
