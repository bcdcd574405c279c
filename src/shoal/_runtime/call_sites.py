"""Where each ref was made, for those who look for who keeps memory: off unless asked for.

With ``SHOAL_RECORD_CALL_SITES=1`` every ``.remote()`` notes the line of user code that called it;
``ref.call_site()`` reads it. Without it nothing is wrapped and nothing is slower. Sites stand in
the process that made the ref, and in a file per process of the session's directory, from where
``shoal memory`` reads all; a file is written anew with what lives when it has ``FILE_MOST`` bytes.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from shoal._base import environment
from shoal._native import ObjectRef
from shoal._runtime import session as sessions

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

DIRECTORY = "call_sites"
FILE_MOST = 8 << 20

F = TypeVar("F", bound=Callable[..., Any])

_sites: weakref.WeakKeyDictionary[ObjectRef[Any], str] = weakref.WeakKeyDictionary()


def of(ref: ObjectRef[Any]) -> str:
    """``file:line in function`` of the call; "" if it was not recorded here."""
    return _sites.get(ref, "")


def recorded_if_asked(call: F) -> F:
    """``call``; if the environment asks for it, one that notes who called it for what refs."""
    if not environment.read().call_sites:
        return call

    def recorded(*args: Any, **kwargs: Any) -> Any:
        made = call(*args, **kwargs)
        refs = made if isinstance(made, list) else [made]
        site = _caller(sys._getframe(1))
        for ref in refs:
            if type(ref) is ObjectRef:
                _sites[ref] = site
                _leave(ref, site)
        return made

    return recorded  # type: ignore[return-value]


def _leave(ref: ObjectRef[Any], site: str) -> None:
    """Write it down where others find it."""
    session = sessions.current()
    directory = os.path.join(session.directory, DIRECTORY)
    path = os.path.join(directory, str(os.getpid()))
    try:
        os.makedirs(directory, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{ref.key:x} {site}\n")
            is_long = file.tell() > FILE_MOST
        if is_long:
            lines = [f"{living.key:x} {known}\n" for living, known in list(_sites.items())]
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(lines)
    except OSError:  # a full disk must not end the program that is looked at
        pass


def read_all(directory: str) -> dict[int, str]:
    """Sites by key, of all processes of the session in ``directory``."""
    found: dict[int, str] = {}
    place = os.path.join(directory, DIRECTORY)
    try:
        names = os.listdir(place)
    except OSError:  # nobody has recorded any
        return found
    for name in names:
        with open(os.path.join(place, name), encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, site = line.rstrip("\n").partition(" ")
                if site:
                    found[int(key, 16)] = site
    return found


def _caller(frame: FrameType | None) -> str:
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return ""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
