"""Ray's names for Shoal: ``import ray`` in an unchanged program means this package's modules.

::

    install()                in the program, before it imports ray
    shoal run --as-ray x.py  the program says nothing: a folder in front of Python's path does it

What it is made of::

    names.py       which module has which names, and where each one really lives; hints for others
    modules.py     the modules themselves, and the finder that Python asks for them
    api.py         functions whose arguments differ from ours: init, put, shutdown
    records.py     small public classes that only describe something: JobConfig, LoggingConfig ...
    states.py      ray.util.state: rows with the fields that people read
    private.py     names that were never public and that much-used programs use all the same

Invariants:

1. A name is Shoal's own object wherever its meaning is the same: ``ray.get is shoal.get``. The
   layer costs nothing per call, and objects pass freely between code that says ray and code that
   says shoal.
2. Nothing of a real Ray is touched or imported. A real one that was imported first is an error.
3. What is not there raises, and the message says what to do instead; nothing is a silent stub. (An
   argument of ``init`` without a meaning here is named once in a warning.)
4. Workers of a job whose driver has the layer have it too, before they load any user code.
5. This module and those it imports are light: no session, no pickle.
"""

from __future__ import annotations

import sys

from shoal import errors
from shoal._base import environment
from shoal.compat.ray import modules
from shoal.compat.ray.names import VERSION

__all__ = ["VERSION", "install"]


def install() -> None:
    """Make ``import ray`` mean Shoal in this process, and in the workers of its session.

    May be repeated. Call it before anything imports ray and before ``init``.

    Raises:
        UsageError: a real Ray is imported already, or a session was begun without the layer.

    Example:
        >>> import shoal.compat.ray
        >>> shoal.compat.ray.install()
        >>> import ray
        >>> ray.__version__
        '2.60.0'
    """
    if modules.is_installed():
        return
    present = sys.modules.get("ray")
    if present is not None and not modules.is_entry(present):
        where = getattr(present, "__file__", None) or "somewhere"
        raise errors.UsageError(
            f"ray is imported already, from {where}. What to do: call"
            " shoal.compat.ray.install() before the first import of ray, or start the program with"
            " `shoal run --as-ray`"
        )
    if _has_session_without_it():
        raise errors.UsageError(
            "this program has a session already, whose workers do not know the name ray. What to"
            " do: call shoal.compat.ray.install() before init() and before the first .remote()"
        )
    environment.change({environment.AS_RAY_VARIABLE: "1"})
    modules.install()


def _has_session_without_it() -> bool:
    """Looked up, not imported: a program without a session has not loaded what sessions need."""
    sessions = sys.modules.get("shoal._runtime.session")
    session = sessions.current_or_none() if sessions is not None else None
    return session is not None and session.role == "driver" and not environment.read().as_ray
