"""``RuntimeEnv``: a ``runtime_env`` as a dict that is checked when it is made."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal._proto.environments import Environment
from shoal._runtime.environments import given


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is made, not what it is.

    Args:
        setup_timeout_seconds: Seconds that making it may take (default 600); -1: no limit.
        eager_install: Whether it is made when the job begins (default) or when the first task
            asks for it.

    Raises:
        OptionError: a value is wrong.

    Example:
        >>> shoal.runtime_env.RuntimeEnvConfig(setup_timeout_seconds=60)
        {'setup_timeout_seconds': 60, 'eager_install': True}
    """

    def __init__(self, setup_timeout_seconds: float = 600, eager_install: bool = True) -> None:
        values = {"setup_timeout_seconds": setup_timeout_seconds, "eager_install": eager_install}
        super().__init__(values)
        given.check({"config": self})


class RuntimeEnv(dict[str, Any]):
    """What stands around the code of a job, task or actor; a dict, for ``runtime_env=``.

    Args:
        env_vars: Environment variables; ``${NAME}`` in a value means what NAME was.
        working_dir: A directory or archive, local or a URI, in which workers begin.
        py_modules: Directories, modules, wheels or archives that can be imported.
        excludes: Patterns as in ``.gitignore`` of files that do not travel.
        pip, uv: Requirements, a requirements file's path, or a dict with ``packages``.
        conda: A conda environment's name, a ``.yml`` file's path, or what such a file says.
        config: A ``RuntimeEnvConfig`` or dict.
        worker_process_setup_hook: A function (or ``"module.name"``) that each worker calls first.

    Raises:
        OptionError: a field is unknown or wrong; says which ones there are.

    Example:
        >>> env = shoal.runtime_env.RuntimeEnv(env_vars={"TOKEN": "x"})
        >>> session = shoal.init(runtime_env=env)
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__(given.check(fields))

    def set(self, name: str, value: Any) -> None:
        """Set one field.

        Raises:
            OptionError: the field is unknown or the value wrong.
        """
        self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        given.check({name: value})
        super().__setitem__(name, value)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dict."""
        return dict(self)

    def __repr__(self) -> str:
        return f"RuntimeEnv({given.shown(self)})"


def of_environment(environment: Environment | None) -> RuntimeEnv:
    """What a process has, as its user would write it."""
    found = RuntimeEnv()
    if environment is not None:
        dict.update(found, msgspec.json.decode(environment.given))
        if environment.env_vars:
            dict.__setitem__(found, "env_vars", dict(environment.env_vars))
    return found
