"""Runtime environments: ``RuntimeEnv`` and ``RuntimeEnvConfig``.

A plain dict does as well, wherever ``runtime_env`` is an option: in ``shoal.init`` for a whole
program, in ``@shoal.remote`` and ``.options`` for a task or an actor.
"""

from __future__ import annotations

from shoal._runtime.environments.runtime_env import RuntimeEnv, RuntimeEnvConfig

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
