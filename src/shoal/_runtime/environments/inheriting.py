"""The environment that a call asks for: what it names, on top of what the caller has.

Light, because every remote function comes here once: what resolves is imported only where somebody
names something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal._proto.environments import Environment
from shoal._runtime.session import Session


def asked(session: Session, value: Mapping[str, Any] | None) -> Environment | None:
    """The environment for a task or actor with option ``runtime_env=value``; None: the job's own.

    Raises:
        OptionError: a field is unknown or wrong, or a file is not there.
    """
    environment = session.environment
    if value:
        from shoal._runtime.environments import resolving

        environment = resolving.resolve(value, environment, session.directory)
    own = session.job_environment
    if _key(environment) == _key(own):
        return None
    return environment or Environment()


def _key(environment: Environment | None) -> str:
    return "" if environment is None else environment.key
