"""How the node daemon and its zygote begin: what keeps their start short, in one place.

They are one interpreter of our own that imports a fixed set of modules, forks (``zygote_spawn``)
and imports what only one of the two needs, while somebody waits for the first result. So it
collects no garbage while it imports (there is none), and imports ``msgspec`` without
``typing_extensions``.

A user's program that starts a session (``Importing``) does the same while it imports what it needs.

This file itself imports nothing that is not loaded already when an interpreter starts.
"""

from __future__ import annotations

import gc
import os
import sys

_LARGE = "typing_extensions"
_SLOW = "platform"


class _Platform:
    """What ``uuid`` asks ``platform`` for."""

    @staticmethod
    def system() -> str:
        """As ``platform.system``."""
        return os.uname().sysname


def program(module: str, first: str = "begin") -> list[str]:
    """Return the arguments of an interpreter that calls ``first`` of this file, then runs ``main``
    of ``module`` with the arguments that follow.

    ``-P`` keeps the user's working directory from ``sys.path``. ``-m`` would import ``runpy`` and
    what that needs first, and run the module under a second name.
    """
    text = (
        f"import sys; from shoal._runtime import starting; starting.{first}();"
        f" from {module} import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-P", "-c", text]


def begin() -> None:
    """Collect nothing until the program says otherwise."""
    gc.disable()


def begin_with_msgspec() -> None:
    """``begin``, and import msgspec: for a program that needs it at once."""
    begin()
    import_msgspec()


class Importing:
    """Around the imports of a user's program: without msgspec's large relative, and without
    collections, for each of which there is nothing to be found.

    What was imported goes to the oldest generation at once, as if it had survived them; objects
    that somebody has frozen would be thawed, so then it does not.
    """

    def __enter__(self) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()
        if len(sys._current_frames()) == 1:  # nobody else could miss what is hidden
            import_msgspec()

    def __exit__(self, *error: object) -> None:
        if self._was_enabled:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def import_msgspec() -> None:
    """Import msgspec, whose Python part takes ``get_type_hints`` and two names more out of
    ``typing_extensions`` where that is installed.

    ``typing`` has the same since Python 3.11; the other takes 5 ms of its own, and in the daemon 5
    more for ``inspect``. It is only hidden for the moment: user code in workers finds it. And
    ``uuid``, which msgspec imports, asks ``platform`` for the name of the kernel, and that one has
    regular expressions for 1.6 ms: it is answered by us instead.
    """
    if "msgspec" in sys.modules or _LARGE in sys.modules:
        return
    sys.modules[_LARGE] = None  # type: ignore[assignment]
    if sys.version_info < (3, 14):  # what a later one asks for we do not know
        sys.modules.setdefault(_SLOW, _Platform)  # type: ignore[arg-type]
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules[_LARGE]
        if sys.modules.get(_SLOW) is _Platform:  # type: ignore[comparison-overlap]
            del sys.modules[_SLOW]
