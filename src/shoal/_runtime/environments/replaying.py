"""The runtime environment of a recorded task around one call of it in another process.

Variables, the working directory and modules are set up as in a worker, and everything is as before
when the call is over, but for modules that it has loaded. What a worker has by other means
(packages of pip, uv or conda, a hook) is named, and not set up: it may not fit to what is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator

from shoal._base import environment as variables
from shoal._proto.environments import Environment
from shoal._runtime.environments import SetupFailure, applying, places


@contextlib.contextmanager
def around(environment: Environment | None, session_directory: str) -> Iterator[None]:
    """Run the block in what can be had of ``environment`` here.

    Raises:
        SetupFailure: its files are gone.
    """
    if environment is None or not environment.key:
        yield
        return
    before, path, directory = variables.inherited_variables(), list(sys.path), os.getcwd()
    try:
        _set_up(environment, session_directory)
        yield
    finally:
        variables.restore(before)
        sys.path[:] = path
        os.chdir(directory)


def _set_up(environment: Environment, session_directory: str) -> None:
    applying.change_variables(environment.env_vars)
    trees = [places.of_tree(session_directory, t).path for t in environment.trees() if not t.wheel]
    gone = [tree for tree in trees if not os.path.isdir(tree)]
    if gone:
        raise SetupFailure("environment", f"{gone[0]} has been removed")
    sys.path[:0] = trees
    if environment.working_dir is not None:
        os.chdir(trees[0])
    importlib.invalidate_caches()


def left_out(environment: Environment | None) -> str:
    """What of it is not set up, in words; "" if nothing is missing."""
    if environment is None:
        return ""
    found = [f"py_modules {tree.wheel}" for tree in environment.py_modules if tree.wheel]
    if environment.packages is not None:
        names = ", ".join(environment.packages.requirements)
        found.append(f"{environment.packages.field} ({names})")
    if environment.conda is not None:
        found.append(f"conda {environment.conda.name}".rstrip())
    if environment.hook or environment.hook_name:
        found.append("worker_process_setup_hook")
    return "; ".join(found)
