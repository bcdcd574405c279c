"""Methods of an actor with ``max_pending_calls``: a call too many is refused, and nothing waits.

Counted per handle and process, as people know it: what this handle has submitted and what has not
ended. The count is only made when it could have reached the limit, so a call costs one comparison
more. Of a call without returns (``num_returns=0``) the ref is made too, and dropped once its key
is noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal import _native, errors
from shoal._runtime import session as sessions
from shoal._runtime.actor_method import ActorFacts, ActorMethod


class Waiting:
    """Calls of one handle, by key; some may have ended since they were counted last."""

    def __init__(self) -> None:
        self.keys: list[int] = []


class LimitedMethod(ActorMethod):
    """A method whose actor takes at most so many waiting calls of a handle."""

    def __init__(
        self,
        facts: ActorFacts,
        index: int,
        lifetime: Any,
        given: Mapping[str, Any] | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        super().__init__(facts, index, lifetime, given)
        self._waiting = waiting or Waiting()

    def _like(self, given: Mapping[str, Any]) -> ActorMethod:
        return LimitedMethod(self._facts, self._index, self._lifetime, given, self._waiting)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a call.

        Raises:
            PendingCallsLimitError: as many calls of this handle wait as there may be.
        """
        waiting = self._waiting
        limit = self._facts.max_pending_calls
        if len(waiting.keys) >= limit:
            memory = sessions.owner(self._facts.session).memory
            waiting.keys = memory.unsealed(waiting.keys)
            if len(waiting.keys) >= limit:
                name = self._facts.class_name
                raise errors.PendingCallsLimitError(limit=limit, class_name=name)
        result = super().remote(*args, **kwargs)
        first = result[0] if type(result) is list else result
        first = getattr(first, "task_completion", first)
        if type(first) is _native.ObjectRef:
            waiting.keys.append(first.key)
        return None if self._n_returns() == 0 else result
