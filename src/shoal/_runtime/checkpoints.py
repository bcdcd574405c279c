"""State that outlives the process of a restartable actor (RULES A-18).

A class that has both hooks keeps its state by itself::

    class Counter:
        def __shoal_checkpoint__(self): return self.n        # any value that can be pickled
        def __shoal_restore__(self, state): self.n = state   # after __init__, in the next life

The state is taken after a call's own code and before its result can be seen (after every call, or
every ``checkpoint_every``-th), put into node memory and held by the daemon: whoever has got a
result knows that it is in the state. A call that was running when the process died, and is run
again (``max_task_retries``), may find its own change in the state already: at least once, as always
with retries.

Calls of actors without hooks pay nothing: only bound methods of those with hooks are wrapped.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from shoal import errors
from shoal._proto import messages
from shoal._runtime import serialize
from shoal._runtime.session import Session

SAVE = "__shoal_checkpoint__"
RESTORE = "__shoal_restore__"
PUT_WAIT_S = 2.0


class Checkpoints:
    """Keeps and gives back the state of one actor."""

    def __init__(self, session: Session, info: messages.ActorInfo, instance: Any) -> None:
        self._session = session
        self._actor_id = info.actor_id
        self._every = info.spec.checkpoint_every
        self._save: Callable[[], Any] = getattr(instance, SAVE)
        self._calls = 0
        self._lock = threading.Lock()

    def keep(self) -> None:
        """A call has ended: keep the state if it is time."""
        with self._lock:
            self._calls += 1
            if self._calls % self._every:
                return
            ref = serialize.put(self._session.memory, self._save(), PUT_WAIT_S)
            body = messages.KeepCheckpoint(self._actor_id, ref.key)
            self._session.request(body, messages.Done)

    def keeping(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, which keeps the state at its end."""
        if inspect.isasyncgenfunction(call):
            return functools.wraps(call)(functools.partial(self._yield_async, call))
        if inspect.iscoroutinefunction(call):

            @functools.wraps(call)
            async def wait(*args: Any, **kwargs: Any) -> Any:
                value = await call(*args, **kwargs)
                self.keep()
                return value

            return wait
        if inspect.isgeneratorfunction(call):

            @functools.wraps(call)
            def produce(*args: Any, **kwargs: Any) -> Iterator[Any]:
                yield from call(*args, **kwargs)
                self.keep()

            return produce

        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            value = call(*args, **kwargs)
            self.keep()
            return value

        return run

    async def _yield_async(
        self, call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async for item in call(*args, **kwargs):
            yield item
        self.keep()


def begin(
    session: Session, info: messages.ActorInfo, instance: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """After the constructor: give the former life's state back; what methods are wrapped with."""
    cls = type(instance)
    hooks = [name for name in (SAVE, RESTORE) if hasattr(cls, name)]
    if len(hooks) == 1:
        raise errors.OptionError(f"class {cls.__qualname__} has {hooks[0]}, and needs its sister")
    if not hooks:
        if info.incarnation == 2 and (getattr(instance, "__dict__", None) or _has_slots(cls)):
            _say_lost(info)
        return lambda call: call
    if info.checkpoint:
        state = session.memory.load_key(info.checkpoint)
        getattr(instance, RESTORE)(state)
    return Checkpoints(session, info, instance).keeping


def _has_slots(cls: type) -> bool:
    return any(vars(base).get("__slots__") for base in cls.__mro__)


def _say_lost(info: messages.ActorInfo) -> None:
    print(
        f"shoal: actor {info.spec.class_name} ({info.actor_id}) was started again after its process"
        " had ended: what it held in memory is lost, __init__ has run anew. What to do: give the"
        f" class {SAVE} and {RESTORE} to keep its state",
        file=sys.stderr,
        flush=True,
    )
