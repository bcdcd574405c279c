"""Small public classes of Ray that only describe something, and decorators that only mark.

``PublicAPI`` and its like are used by libraries on their own functions: they return what they are
given, as theirs do, and ``Deprecated`` warns at the first call.
"""

from __future__ import annotations

import enum
import functools
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

logger = logging.getLogger("ray")
"""``ray.logger``: programs set its level and add handlers."""


class Language(enum.IntEnum):
    """Languages of tasks: Python only."""

    PYTHON = 0


class LoggingConfig(msgspec.Struct, kw_only=True):
    """How a job logs. Kept and shown; workers log as their code says."""

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: list[str] = []
    logger: str = "ray"


class JobConfig:
    """Settings of a job that ``init(job_config=...)`` takes."""

    def __init__(
        self,
        *unused: Any,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        **other: Any,
    ) -> None:
        self.runtime_env = dict(runtime_env or {})
        self.metadata = dict(metadata or {})
        self.ray_namespace = ray_namespace
        self.set_default_actor_lifetime(default_actor_lifetime)
        self.other = other
        """Arguments without a meaning here (``jvm_options``, ``code_search_path`` ...)."""

    def set_runtime_env(
        self, runtime_env: Mapping[str, Any] | None, validate: bool = False
    ) -> None:
        """Set the environment of the job's tasks and actors; ``init`` checks it."""
        self.runtime_env = dict(runtime_env or {})

    def set_ray_namespace(self, ray_namespace: str) -> None:
        """Set where names of actors live."""
        self.ray_namespace = ray_namespace

    def set_metadata(self, key: str, value: str) -> None:
        """Note something about the job."""
        self.metadata[key] = value

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """Set how long actors live that do not say it.

        Raises:
            ValueError: it is neither ``detached`` nor ``non_detached``.
        """
        if default_actor_lifetime not in ("detached", "non_detached"):
            raise ValueError(
                "default_actor_lifetime must be 'detached' or 'non_detached', not"
                f" {default_actor_lifetime!r}"
            )
        self.default_actor_lifetime = default_actor_lifetime


class RayDeprecationWarning(DeprecationWarning):
    """What ``Deprecated`` warns with."""


def _mark(*args: Any, **given: Any) -> Any:
    if len(args) == 1 and not given and callable(args[0]):
        return args[0]
    return lambda thing: thing


PublicAPI = DeveloperAPI = _mark
"""Decorators with or without arguments that change nothing."""


def Deprecated(*args: Any, message: str = "", warning: bool = False) -> Any:
    """Mark a function or class as deprecated; ``warning``: and warn at its first call."""
    if len(args) == 1 and callable(args[0]):
        return args[0]

    def mark(thing: Callable[..., Any]) -> Callable[..., Any]:
        if not warning or isinstance(thing, type):
            return thing

        @functools.wraps(thing)
        def warns(*call: Any, **given: Any) -> Any:
            text = f"{thing.__qualname__} is deprecated. {message}"
            warnings.warn(text, RayDeprecationWarning, stacklevel=2)
            return thing(*call, **given)

        return warns

    return mark
