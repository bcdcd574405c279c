"""Shoal: Python functions as tasks, classes as actors, values in shared memory.

::

    import shoal

    @shoal.remote
    def square(x):
        return x * x

    print(shoal.get([square.remote(i) for i in range(4)]))     # [0, 1, 4, 9]

Layers, each knowing only those below it (a test checks it)::

    shoal              these names, each once, loaded when first used
    state, ids, lowlevel   read-only tables; typed ids; sharp tools for libraries
    _runtime           everything that touches sockets, processes and node memory
    errors             what can go wrong, by whose fault
    _native            node memory: slots, rings, blocks (C++)
    _core              who decides: pure state machines
    _proto             messages between processes
    _base              clock, ids, limits

``import shoal`` loads nothing but this table: a node daemon imports the package too and must never
load pickle.
"""

import importlib as _importlib

TYPE_CHECKING = False
"""What type checkers take for true; ``typing``, which says the same, takes 8 ms to import, and a
node daemon execs its zygote before it has imported anything large."""

if TYPE_CHECKING:
    from shoal import dag, errors, exceptions, ids, lowlevel, runtime_env, state, util
    from shoal._runtime.actor import ActorHandle, get_actor, kill, method
    from shoal._runtime.actor_base import Actor
    from shoal._runtime.cancelling import cancel
    from shoal._runtime.cluster import available_resources, cluster_resources, nodes
    from shoal._runtime.completion import as_completed
    from shoal._runtime.context import RuntimeContext, get_gpu_ids, get_runtime_context
    from shoal._runtime.debugging import debug
    from shoal._runtime.driver import SessionContext, is_initialized, shutdown
    from shoal._runtime.execute import exit_actor
    from shoal._runtime.init import init
    from shoal._runtime.locks import Lock, lock
    from shoal._runtime.mapping import map
    from shoal._runtime.objects import get, put, wait
    from shoal._runtime.refs import ObjectRef
    from shoal._runtime.remote import RemoteFunction, remote
    from shoal._runtime.streams import DynamicObjectRefGenerator, ObjectRefGenerator
    from shoal._runtime.timeline import timeline
    from shoal._runtime.typed import ActorClass

__version__ = "0.1.0"

_HOMES = {
    "Actor": "_runtime.actor_base",
    "ActorClass": "_runtime.actor",
    "ActorHandle": "_runtime.actor",
    "Lock": "_runtime.locks",
    "DynamicObjectRefGenerator": "_runtime.streams",
    "ObjectRef": "_runtime.refs",
    "ObjectRefGenerator": "_runtime.streams",
    "RemoteFunction": "_runtime.remote",
    "RuntimeContext": "_runtime.context",
    "SessionContext": "_runtime.driver",
    "as_completed": "_runtime.completion",
    "available_resources": "_runtime.cluster",
    "cancel": "_runtime.cancelling",
    "cluster_resources": "_runtime.cluster",
    "debug": "_runtime.debugging",
    "exit_actor": "_runtime.execute",
    "get": "_runtime.objects",
    "get_actor": "_runtime.actor",
    "get_gpu_ids": "_runtime.context",
    "get_runtime_context": "_runtime.context",
    "init": "_runtime.init",
    "is_initialized": "_runtime.driver",
    "kill": "_runtime.actor",
    "lock": "_runtime.locks",
    "map": "_runtime.mapping",
    "method": "_runtime.actor",
    "nodes": "_runtime.cluster",
    "put": "_runtime.objects",
    "remote": "_runtime.remote",
    "shutdown": "_runtime.driver",
    "timeline": "_runtime.timeline",
    "wait": "_runtime.objects",
}
_MODULES = ("dag", "errors", "exceptions", "ids", "lowlevel", "runtime_env", "state", "util")

__all__ = [
    "Actor",
    "ActorClass",
    "ActorHandle",
    "DynamicObjectRefGenerator",
    "Lock",
    "ObjectRef",
    "ObjectRefGenerator",
    "RemoteFunction",
    "RuntimeContext",
    "SessionContext",
    "as_completed",
    "available_resources",
    "cancel",
    "cluster_resources",
    "dag",
    "debug",
    "errors",
    "exceptions",
    "exit_actor",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "ids",
    "init",
    "is_initialized",
    "kill",
    "lock",
    "lowlevel",
    "map",
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_env",
    "shutdown",
    "state",
    "timeline",
    "util",
    "wait",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(_importlib.import_module(f"shoal.{home}"), name)
    elif name in _MODULES:
        value = _importlib.import_module(f"shoal.{name}")
    else:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
