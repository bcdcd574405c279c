"""The one reader of the environment. Light: it is imported before anything else is.

Nothing else in the package looks at ``os.environ`` to decide something (passing it on to a child is
not deciding).

====================  =====================================================================
variable              meaning
====================  =====================================================================
``SHOAL_ADDRESS``     session that ``init()`` joins: ``local``, ``auto``, a session id, or where
                      the head of a cluster is, ``HOST:PORT``
``SHOAL_TOKEN_FILE``  file with the join line or the token of that cluster
``RAY_ADDRESS``       the same for programs that run with the Ray names (``as_ray``)
``SHOAL_AS_RAY``      set where ``import ray`` means Shoal: workers of its jobs get the layer too
``SHOAL_DIR``         where session directories live, instead of ``/tmp/shoal-<uid>``
``SHOAL_CACHE``       where made runtime environments are kept, instead of ``~/.cache/shoal``
``SHOAL_CACHE_BYTES`` how large that may grow before what is unused goes; default 10 GiB
``SHOAL_PACKAGE_BYTES``  the most that one working_dir or module may have; default 512 MiB
``SHOAL_STALL_S``     after how long a program is told what it waits for, if nothing goes on;
                      default 30, 0: never
``SHOAL_MEMORY_BYTES``   what all processes of a session may use together, node memory included;
                      default: what the machine and the groups around it leave
``SHOAL_MEMORY_THRESHOLD``  above this share of it a worker is ended; default 0.95
``SHOAL_MEMORY_REFRESH_MS``  how often that is looked at, at least; 0: never; default 250
``SHOAL_CGROUP``         cgroup v2 directory in which workers get groups; ``none``: nowhere;
                      default: our own, where it is delegated
``RAY_memory_...``    the same for programs that run with the Ray names: ``usage_threshold``,
                      ``monitor_refresh_ms``
``SHOAL_SESSION``     set in every process of a session: its id
``SHOAL_SOCKET``      set in every worker: the socket of its daemon
``SHOAL_DEBUGGER``    what ``breakpoint()`` in a task opens: ``pdb`` (default) or ``debugpy``
``RAY_DEBUG``         the same for programs that run with the Ray names: ``legacy`` means pdb,
                      ``1`` debugpy, ``0`` that nothing stops
``SHOAL_DEBUGGER_WAIT_S``  how long it waits for somebody where no terminal is; default 30
``SHOAL_LOG_BYTES``   what logs of workers may take on this node; default 256 MiB
``SHOAL_LOG_AGE_S``   after how many seconds they go; default 604800 (a week)
``SHOAL_DEBUG_BYTES`` the most that is kept of one failed task for ``debug``; default 64 MiB
====================  =====================================================================

Where ``SHOAL_RECORD_CALL_SITES`` is set, ``ref.call_site()`` and ``shoal memory`` say who called.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # ``typing`` has it too, and takes 7 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping

SESSION_VARIABLE = "SHOAL_SESSION"
SOCKET_VARIABLE = "SHOAL_SOCKET"
AS_RAY_VARIABLE = "SHOAL_AS_RAY"
_DEBUGGERS = {"1": "debugpy", "0": "off"}
"""Values of ``RAY_DEBUG`` that mean no pdb."""
LOG_BYTES = 256 << 20
LOG_AGE_S = 7 * 86_400.0


class Environment:
    """What the environment says about Shoal."""

    __slots__ = (
        "address",
        "as_ray",
        "cache",
        "cache_bytes",
        "call_sites",
        "cgroup",
        "debug_bytes",
        "debugger",
        "debugger_wait_s",
        "log_age_s",
        "log_bytes",
        "memory_bytes",
        "memory_refresh_s",
        "memory_threshold",
        "package_bytes",
        "python_breakpoint",
        "root",
        "session",
        "socket",
        "stall_s",
        "token_file",
    )

    def __init__(self, seen: Mapping[str, str]) -> None:
        self.as_ray = bool(seen.get(AS_RAY_VARIABLE))
        """Whether this process uses Shoal under Ray's names."""
        self.address = seen.get("SHOAL_ADDRESS", "")
        if self.as_ray:
            self.address = self.address or seen.get("RAY_ADDRESS", "")
        self.token_file = seen.get("SHOAL_TOKEN_FILE", "")
        self.root = seen.get("SHOAL_DIR", "") or f"/tmp/shoal-{os.getuid()}"
        """Directory of this user's sessions."""
        home = seen.get("XDG_CACHE_HOME", "") or os.path.join(seen.get("HOME", self.root), ".cache")
        self.cache = seen.get("SHOAL_CACHE", "") or os.path.join(home, "shoal")
        """Directory of what this user's sessions share."""
        self.cache_bytes = _bytes(seen.get("SHOAL_CACHE_BYTES", ""), 10 << 30)
        self.package_bytes = _bytes(seen.get("SHOAL_PACKAGE_BYTES", ""), 512 << 20)
        self.memory_bytes = _bytes(seen.get("SHOAL_MEMORY_BYTES", ""), 0)
        self.memory_threshold = _share(self._either(seen, "THRESHOLD", "usage_threshold"), 0.95)
        refresh = self._either(seen, "REFRESH_MS", "monitor_refresh_ms")
        self.memory_refresh_s = _bytes(refresh, 250) / 1000
        self.cgroup = seen.get("SHOAL_CGROUP", "")
        self.session = seen.get(SESSION_VARIABLE, "")
        self.socket = seen.get(SOCKET_VARIABLE, "")
        self.stall_s = _seconds(seen.get("SHOAL_STALL_S", ""), 30.0)
        self.call_sites = bool(seen.get("SHOAL_RECORD_CALL_SITES"))
        """Whether calls note who made them."""
        self.python_breakpoint = seen.get("PYTHONBREAKPOINT", "")
        """What Python itself asks before ``breakpoint()``; "0" turns it off."""
        ray = _DEBUGGERS.get(seen.get("RAY_DEBUG", ""), "") if self.as_ray else ""
        self.debugger = seen.get("SHOAL_DEBUGGER", "") or ray or "pdb"
        self.debugger_wait_s = _seconds(seen.get("SHOAL_DEBUGGER_WAIT_S", ""), 30.0)
        self.log_bytes = _bytes(seen.get("SHOAL_LOG_BYTES", ""), LOG_BYTES)
        self.log_age_s = _seconds(seen.get("SHOAL_LOG_AGE_S", ""), LOG_AGE_S) or LOG_AGE_S
        self.debug_bytes = _bytes(seen.get("SHOAL_DEBUG_BYTES", ""), 64 << 20)

    def _either(self, seen: Mapping[str, str], name: str, ray: str) -> str:
        """A setting of the memory watch, under our name or, ``as_ray``, under Ray's."""
        own = seen.get("SHOAL_MEMORY_" + name, "")
        return own or (seen.get("RAY_memory_" + ray, "") if self.as_ray else "")


def _bytes(text: str, default: int) -> int:
    return int(text) if text.isdecimal() else default


def _seconds(text: str, default: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return default
    return value if 0 <= value < 1e9 else default


def _share(text: str, default: float) -> float:
    value = _seconds(text, default)
    return value if 0 < value <= 1 else default


def read(variables: Mapping[str, str] | None = None) -> Environment:
    """The present environment, or the one given."""
    return Environment(os.environ if variables is None else variables)


def inherited_variables() -> dict[str, str]:
    """A copy of the whole environment, to hand to a child."""
    return dict(os.environ)


def change(variables: Mapping[str, str], keep: bool = False) -> None:
    """Set ``variables`` in this process; ``keep``: only those that are not set yet."""
    for name, value in variables.items():
        if not (keep and name in os.environ):
            os.environ[name] = value


def restore(variables: Mapping[str, str]) -> None:
    """Make the environment what ``inherited_variables`` had returned."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    change({name: value for name, value in variables.items() if os.environ.get(name) != value})


def set_loopback_of_gloo() -> None:
    """Have Gloo, which reads only the environment, use the loopback unless the user says
    otherwise."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
