"""Where each ref was made, for those who look for who keeps memory: off unless asked for.

With ``SHOAL_RECORD_CALL_SITES=1`` every ``.remote()`` notes the line of user code that called it;
``ref.call_site()`` reads it. Without it nothing is wrapped and nothing is slower. Sites stand in
the process that made the ref; they do not travel.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from shoal._base import environment
from shoal._native import ObjectRef

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

_sites: weakref.WeakKeyDictionary[ObjectRef[Any], str] = weakref.WeakKeyDictionary()


def of(ref: ObjectRef[Any]) -> str:
    """``file:line in function`` of the call; "" if it was not recorded here."""
    return _sites.get(ref, "")


def recorded_if_asked(call: Callable[..., Any]) -> Callable[..., Any]:
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
        return made

    return recorded


def _caller(frame: FrameType | None) -> str:
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return ""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
