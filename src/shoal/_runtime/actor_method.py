"""Methods of actors as their callers see them: ``handle.method.remote(...)``.

A method knows what every handle of its actor knows (``ActorFacts``: queues, methods, ids), its
place in the table of methods, and the options given for it. It holds the actor's lifetime ref,
never the handle: no cycle keeps an actor alive until the garbage collector runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shoal import _native, errors
from shoal._base import typed_ids
from shoal._proto import messages
from shoal._runtime import concurrency, options, streams
from shoal._runtime import session as sessions
from shoal._runtime.submitting import Submitting

READY = "__ray_ready__"
TERMINATE = "__ray_terminate__"
CALL = "__ray_call__"
BUILTIN_METHODS = (READY, TERMINATE, CALL)
ONE_REF = streams.ANY | _native.FLAG_NO_RETURN
"""Flags of calls that make one ref, whatever they return."""


class MethodRow(msgspec.Struct, frozen=True, array_like=True):
    """What a caller must know of one method."""

    name: str
    n_returns: int = 1
    retry_exceptions: bool = False
    max_task_retries: int | None = None
    limit: int = 0
    """Items of its stream that may be unseen; 0: any number."""
    group: str | None = None
    """Its concurrency group."""
    thread: bool | None = None
    """Whether it runs in a thread of an asyncio actor; None: as the actor says."""
    timeout_s: float = 0.0


class ActorFacts(msgspec.Struct, frozen=True, array_like=True):
    """What every handle of one actor knows."""

    actor_id: str
    session: str
    queue: int
    generation: int
    key: int
    """Of the lifetime object."""
    class_name: str
    methods: tuple[MethodRow, ...]
    max_task_retries: int = 0
    name: str | None = None
    groups: tuple[tuple[str, int, int], ...] = ()
    """(name, queue, generation) of each concurrency group."""
    is_unordered: bool = False
    max_pending_calls: int = -1

    def method_name(self, index: int) -> str:
        """Name of the method with number ``index``."""
        return self.methods[index].name


class ActorMethod(Submitting):
    """One method of one actor: ``handle.method.remote(...)``."""

    def __init__(
        self, facts: ActorFacts, index: int, lifetime: Any, given: Mapping[str, Any] | None = None
    ) -> None:
        self._facts = facts
        self._index = index
        self._lifetime = lifetime
        self._given = given or {}

    def options(self, **given: Any) -> ActorMethod:
        """Return the same method with other options (``num_returns``, ``max_task_retries``)."""
        checked = options.check("m", given, in_options=True)
        return self._like({**self._given, **checked})

    def _like(self, given: Mapping[str, Any]) -> ActorMethod:
        return ActorMethod(self._facts, self._index, self._lifetime, given)

    def _remote(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **given: Any,
    ) -> Any:
        chosen = self.options(**given) if given else self
        return chosen.remote(*(args or ()), **(kwargs or {}))

    def _prepare(self) -> _native.Template:
        facts = self._facts
        session = sessions.owner(facts.session)
        row = facts.methods[self._index]
        given = self._given
        retries = facts.max_task_retries
        if row.max_task_retries is not None:
            retries = row.max_task_retries
        n_returns = self._n_returns()
        flags = _native.FLAG_ACTOR | streams.flags_of(n_returns)
        if given.get("retry_exceptions", row.retry_exceptions):
            flags |= _native.FLAG_RETRY_EXCEPTIONS
        if facts.is_unordered:
            flags |= _native.FLAG_UNORDERED
        if n_returns == 0 and facts.max_pending_calls > 0:
            flags |= _native.FLAG_NO_RETURN  # with a ref all the same: it is what is counted
        queue, generation = self._queue()
        template = _native.Template(
            function=0,
            queue=queue,
            queue_generation=generation,
            job=session.job,
            method=self._index,
            n_returns=max(n_returns, 1) if flags & ONE_REF else n_returns,
            max_retries=int(given.get("max_task_retries", retries)),
            flags=flags,
            actor=facts.key,
            limit=streams.limit_of(given) or row.limit,
            timeout_s=given.get("timeout_s") or row.timeout_s,
            actor_job=typed_ids.ActorID.from_hex(facts.actor_id).job_id().int(),
        )
        return self._ready(session, template, given.get("name"))

    def _queue(self) -> tuple[int, int]:
        """Queue and generation of the group that calls go to."""
        facts = self._facts
        row = facts.methods[self._index]
        name = self._given.get("concurrency_group") or row.group
        if name is None:
            return facts.queue, facts.generation
        for group, queue, generation in facts.groups:
            if group == name:
                return queue, generation
        who = f"method {row.name} of {facts.class_name}"
        raise concurrency.unknown_group(who, name, {group: 0 for group, _, _ in facts.groups})

    def _is_queue_gone(self) -> bool:
        assert self._memory is not None
        return self._memory.is_queue_dead(*self._queue())

    def _submit_again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The actor is dead and its queue is gone."""
        return self._failed(cause_of(self._facts))

    def _n_returns(self) -> int:
        row = self._facts.methods[self._index]
        return streams.returns_number(self._given.get("num_returns", row.n_returns))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._facts.method_name(self._index)
        raise TypeError(f"methods of an actor run there: call handle.{name}.remote(...)")

    def __repr__(self) -> str:
        return f"<method {self._facts.class_name}.{self._facts.method_name(self._index)}>"


def cause_of(facts: ActorFacts) -> bytes:
    """Record of why the actor is dead."""
    try:
        body = messages.DescribeActor(facts.actor_id)
        info = sessions.current().request(body, messages.ActorInfo)
        if info.cause:
            return info.cause
    except errors.ActorNotFoundError:  # dead for so long that even its tombstone is gone
        pass
    error = errors.ActorDiedError(
        actor_id=facts.actor_id, class_name=facts.class_name, name=facts.name
    )
    return errors.to_record(error)
