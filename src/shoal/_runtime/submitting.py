"""The hot path of ``.remote()``: from a call to a spec in node memory.

``Submitting`` is the common part of remote functions and actor methods. Its ``remote`` is one
Python frame for calls without arguments or with plain ones (numbers, text, bytes): a type check,
one C pickle, one native submit. Everything else (refs, arrays, objects, the first call) takes the
longer way through ``arguments``.

Invariant: ``_template`` is not None only while the session that it belongs to is open.
"""

from __future__ import annotations

import importlib
import pickle
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from shoal import _native, errors
from shoal._runtime import arguments, call_sites, streams
from shoal._runtime import session as sessions
from shoal._runtime.arguments import PLAIN, STORED_BYTES, TEXT, TEXT_BYTES
from shoal._runtime.session import NATIVE_ERRORS

_dumps = pickle.dumps


GRAPH_LAYER = "shoal.dag.nodes"
"""A layer above this one, so it stands here as a name; programs without graphs never load it."""

NEVER_RUNS = (errors.UnschedulableError, errors.GroupRemovedError, errors.RuntimeEnvSetupError)
"""Why a call fails at ``get`` and not where it is made: nothing is wrong with the call."""


class Bindable:
    """Something that may stand in a graph."""

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Describe a call without making it: a node of a graph (see ``shoal.dag``).

        Args:
            args: Arguments, among them other nodes.
            kwargs: Arguments by name.

        Example:
            >>> @shoal.remote
            ... def double(x):
            ...     return 2 * x
            >>> shoal.get(double.bind(double.bind(5)).execute())
            20
        """
        return importlib.import_module(GRAPH_LAYER).bind(self, args, kwargs)


class Submitting(Bindable):
    """Something with ``.remote()``."""

    _template: _native.Template | None = None
    _memory: _native.Memory | None = None
    _submit: Callable[..., Any]

    @abstractmethod
    def _prepare(self) -> _native.Template:
        """Make the template for the open session, call ``_ready`` and return it."""

    def _ready(
        self, session: sessions.Session, template: _native.Template, name: str | None = None
    ) -> _native.Template:
        """Keep what each call needs, until the session ends; ``name`` is the calls' own."""
        self._memory = session.memory
        submit: Callable[..., Any] = session.memory.submit
        if self._n_returns() == streams.STREAMING:
            submit = streams.submitter(session.memory)
        if name:
            submit = _naming(submit, name, session.memory)
        self._submit = call_sites.recorded_if_asked(submit)
        self._template = template
        session.on_end(self)
        return template

    def reset(self) -> None:
        """Forget what was only valid in a session that has ended."""
        self._template = None
        self._memory = None

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a call; return a ref to its result, or a list of refs, or None for no returns."""
        template = self._template
        if template is None:
            try:
                template = self._prepare()
            except NEVER_RUNS as error:
                return self._failed(errors.to_record(error))
            except NATIVE_ERRORS as error:
                raise sessions.translate(error) from None
        try:
            if not kwargs:
                if not args:
                    return self._submit(template, None)
                for argument in args:
                    kind = type(argument)
                    if kind not in PLAIN and (kind not in TEXT or len(argument) > TEXT_BYTES):
                        break
                else:
                    payload = _dumps(args, 5)
                    if len(payload) <= STORED_BYTES:
                        return self._submit(template, payload)
            assert self._memory is not None
            return self._submit(template, *arguments.pack(self._memory, args, kwargs))
        except NATIVE_ERRORS as error:
            if isinstance(error, _native.FullError) and self._is_queue_gone():
                return self._submit_again(args, kwargs)
            raise sessions.translate(error, self._memory) from None

    @abstractmethod
    def _n_returns(self) -> int:
        """How many refs a call returns."""

    def _failed(self, record: bytes) -> Any:
        """What a call returns that can never run: refs that hold the reason."""
        memory = sessions.current().memory
        n_returns = self._n_returns()
        if n_returns == streams.STREAMING:
            return streams.failed(memory, record)
        n_returns = 1 if n_returns == streams.DYNAMIC else n_returns
        refs = [memory.put(_native.FORMAT_ERROR_RECORD, record, (), ()) for _ in range(n_returns)]
        return refs[0] if n_returns == 1 else refs or None

    def _is_queue_gone(self) -> bool:
        """Whether the daemon has taken the queue away since the template was made."""
        return False

    def _submit_again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Submit to another queue than the one that is gone."""
        self.reset()
        try:
            template = self._prepare()
        except NEVER_RUNS as error:
            return self._failed(errors.to_record(error))
        assert self._memory is not None
        try:
            return self._submit(template, *arguments.pack(self._memory, args, kwargs))
        except NATIVE_ERRORS as error:
            raise sessions.translate(error, self._memory) from None


def _naming(submit: Callable[..., Any], name: str, memory: _native.Memory) -> Callable[..., Any]:
    """``submit`` for calls that have a name of their own: it travels before their arguments."""

    def submit_named(template: Any, payload: bytes | None, *refs: Any) -> Any:
        made = submit(template, arguments.named(payload, name), *refs)
        first = made[0] if type(made) is list else made
        if isinstance(first, streams.ObjectRefGenerator):
            first = first.completed()
        if first is not None:
            memory.note(first.key, _native.EVENT_NAME, name)
        return made

    return submit_named
