"""Functions of ``ray`` and ``ray.util`` whose arguments or results differ from ours.

``init`` takes every argument of Ray's. Those that mean something here are passed on; the others are
named in one warning per process (``IGNORED`` says why each means nothing).
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import shoal
from shoal import errors
from shoal._base import clock
from shoal._runtime import machine_facts
from shoal._runtime import session as sessions
from shoal._runtime.driver import SessionContext
from shoal.compat.ray.names import VERSION

_PASSED = (
    "num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "ignore_reinit_error",
    "logging_level", "log_to_driver", "namespace", "runtime_env", "priority", "weight",
)  # fmt: skip

SPILLING = ("object_spilling_directory", "_object_spilling_directory")
"""Where values go that have no room; ``_system_config`` may say it too."""

_ADDRESSES = "a session of one machine has no network addresses"
_LOGS = "workers log as their code says, and what they print is shown"
_PLACES = "node memory is anonymous; SHOAL_DIR moves the session's directory"
IGNORED = {
    "local_mode": "tasks run in worker processes; call f(x) instead of f.remote(x) to run one here",
    "include_dashboard": "there is no dashboard",
    "dashboard_host": "there is no dashboard",
    "dashboard_port": "there is no dashboard",
    "configure_logging": _LOGS,
    "logging_format": _LOGS,
    "logging_config": _LOGS,
    "enable_resource_isolation": "limits of the cgroup that the session runs in are kept",
    "cgroup_path": "limits of the cgroup that the session runs in are kept",
    "system_reserved_cpu": "the daemon is part of no account",
    "system_reserved_memory": "the daemon is part of no account",
    "proxy_server_url": "there is no dashboard",
    "_memory": "memory is what the machine has",
    "_temp_dir": _PLACES,
    "_plasma_directory": _PLACES,
    "_driver_object_store_memory": "there is one store per node",
    "_redis_max_memory": "there is no Redis",
    "_redis_password": "there is no Redis",
    "_redis_username": "there is no Redis",
    "_node_ip_address": _ADDRESSES,
    "_node_name": _ADDRESSES,
    "_metrics_export_port": _ADDRESSES,
    "_system_config": "it sets constants of Ray's own processes",
    "_tracing_startup_hook": "use shoal.timeline()",
    "_enable_object_reconstruction": "values outlive the process that made them",
    "_lru_evict": "values live as long as refs to them",
}
"""Arguments of Ray's ``init`` that mean nothing here, and why."""

_told: set[str] = set()


class RayContext(SessionContext):
    """What ``ray.init`` returns: the facts of the session under Ray's names."""

    def __init__(self, session: sessions.Session) -> None:
        super().__init__(session)
        address = get_node_ip_address()
        self._facts.update(
            {
                "node_ip_address": address,
                "raylet_ip_address": address,
                "address": session.id,
                "gcs_address": session.id,
                "redis_address": None,
                "webui_url": "",
                "dashboard_url": "",
                "object_store_address": "",
                "raylet_socket_name": "",
            }
        )
        self.dashboard_url = ""
        self.python_version = ".".join(map(str, sys.version_info[:3]))
        self.ray_version = VERSION
        self.ray_commit = "shoal"

    def disconnect(self) -> None:
        """Leave the session."""
        shoal.shutdown()


def init(address: str | None = None, *, job_config: Any = None, **given: Any) -> RayContext:
    """Join a session or start one, with the arguments of Ray's ``init``.

    Arguments that mean nothing here are named once in a warning.

    Raises:
        RuntimeError: there is a session already.
        ValueError: an argument is unknown or wrong.
        ConnectionError: there is no such session.
    """
    if job_config is not None:
        given = _of_job(job_config, given)
    passed = {name: given.pop(name) for name in _PASSED if name in given}
    passed |= _spilling(given)
    _tell({name: value for name, value in given.items() if name in IGNORED})
    unknown = [name for name in given if name not in IGNORED]
    if unknown:
        raise errors.OptionError(
            f"init has no argument {unknown[0]!r}. Valid: {', '.join(_PASSED)}", option=unknown[0]
        )
    shoal.init(address, **passed)
    return RayContext(sessions.current())


def _of_job(job_config: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with what a ``JobConfig`` adds to them."""
    if job_config.default_actor_lifetime == "detached":
        raise errors.NotSupportedError(
            "default_actor_lifetime='detached' is not there. What to do: give the actors that"
            " shall outlive the program lifetime='detached'"
        )
    from_job = {"namespace": job_config.ray_namespace, "runtime_env": job_config.runtime_env}
    return {name: value for name, value in from_job.items() if value} | given


def _spilling(given: dict[str, Any]) -> dict[str, Any]:
    """Where values go that have no room, in each way that Ray has to say it."""
    said = [given.pop(name, None) for name in SPILLING]
    where = next(filter(None, said), None)
    rest = dict(given.get("_system_config") or {})
    config = rest.pop("object_spilling_config", None)
    if config is not None:
        given["_system_config"] = rest
        config = json.loads(config) if isinstance(config, str) else config
        params = config.get("params", {})
        where = where or params.get("directory_path") or params.get("uri")
    if not where:
        return {}
    places = [where] if isinstance(where, str) else list(where)
    named = [place if "://" in place else os.path.abspath(place) for place in places]
    return {"object_spilling_directory": named}


def _tell(ignored: Mapping[str, Any]) -> None:
    """Name arguments that mean nothing here, each once."""
    new = [name for name, value in ignored.items() if value and name not in _told]
    _told.update(new)
    if new:
        reasons = "; ".join(f"{name} ({IGNORED[name]})" for name in new)
        text = f"init ignores {reasons}. docs/from-ray.md lists the differences."
        warnings.warn(text, UserWarning, stacklevel=3)


def put(value: Any, *, _owner: Any = None, _tensor_transport: str | None = None) -> Any:
    """Store a value once and return a ref; values outlive their maker, so an owner is no matter."""
    return shoal.put(value)


def shutdown(*_unused: Any, **_ignored: Any) -> None:
    """Leave the session. Ray's arguments say how long to wait for processes: always for all."""
    shoal.shutdown()


ActorProxy = shoal.ActorHandle
"""What annotations call a handle whose class is known."""


# ---- ray.util -----------------------------------------------------------------------------------


def get_node_ip_address() -> str:
    """The address under which other machines reach this one, 127.0.0.1 if there is no network."""
    return machine_facts.address()


def get_node_instance_id() -> str:
    """The cloud's id of this machine: none is known."""
    return ""


def as_completed(
    refs: Sequence[Any], *, chunk_size: int = 10, yield_obj_refs: bool = False
) -> Iterator[Any]:
    """Yield the values (or the refs) of ``refs`` as they become ready.

    Args:
        refs: Refs, each once.
        chunk_size: Ray's batch of one wait; completions need none here.
        yield_obj_refs: Yield refs instead of values.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size!r}")
    for ref in shoal.as_completed(refs):
        yield ref if yield_obj_refs else shoal.get(ref)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
) -> Iterator[Any]:
    """Yield ``fn.remote(item)`` of each item as they become ready.

    Args:
        fn: A remote function or an actor's method.
        items: What it is called with.
        backpressure_size: How many calls may be unfinished; None for no limit.
        chunk_size: Ray's batch of one wait; completions need none here.
        yield_obj_refs: Yield refs instead of values.
    """
    if not hasattr(fn, "remote"):
        raise TypeError(f"map_unordered needs a remote function, not {fn!r}")
    source = iter(items)
    if backpressure_size is None:
        refs = [fn.remote(item) for item in source]
        yield from as_completed(refs, chunk_size=chunk_size, yield_obj_refs=yield_obj_refs)
        return
    if backpressure_size < chunk_size:
        raise ValueError("backpressure_size must be at least chunk_size")
    unfinished = [fn.remote(item) for item in itertools.islice(source, backpressure_size)]
    while unfinished:
        ready, unfinished = shoal.wait(unfinished, num_returns=1)
        unfinished += [fn.remote(item) for item in itertools.islice(source, len(ready))]
        for ref in ready:
            yield ref if yield_obj_refs else shoal.get(ref)


_seen_keys: dict[str, float] = {}
_log_switches: dict[str, float | None] = {"period_s": None, "off": None}


def log_once(key: str) -> bool:
    """Whether this is the first time that ``key`` asks (or the first in a minute, once
    ``enable_periodic_logging`` was called)."""
    if _log_switches["off"] is not None:
        return False
    now, last, period_s = clock.now(), _seen_keys.get(key), _log_switches["period_s"]
    if last is not None and (period_s is None or now - last < period_s):
        return False
    _seen_keys[key] = now
    return True


def disable_log_once_globally() -> None:
    """Make ``log_once`` say no to everybody."""
    _log_switches["off"] = 1.0


def enable_periodic_logging() -> None:
    """Let ``log_once`` say yes once a minute."""
    _log_switches["off"] = None
    _log_switches["period_s"] = 60.0


def reset_log_once(key: str | None = None) -> None:
    """Let ``log_once`` say yes again, for one key or for all."""
    if key is None:
        _seen_keys.clear()
    else:
        _seen_keys.pop(key, None)
