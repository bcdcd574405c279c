"""How a worker takes its environment over, before it loads any user code (RULES E-6).

Order: variables, paths, working directory, then the hook, which may import what the others have
brought. A forked worker shares the interpreter that the zygote started, so

* what the interpreter itself reads at its start has no effect here but on programs that the worker
  starts; of these ``PYTHONPATH`` and ``TZ`` are made up for;
* what is loaded already stays (``shoal`` and the few modules it needs, RULES E-2): a path in front
  of ``sys.path`` only decides about what is imported from now on.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import site
import sys
import time
import traceback

from shoal._base import environment as variables
from shoal._proto.environments import Environment
from shoal._runtime.environments import SetupFailure, places

_LIBRARY = os.path.dirname(os.__file__)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def take_over(environment: Environment, session_directory: str) -> None:
    """Become a worker with that environment.

    Raises:
        SetupFailure: its files are gone, or its hook raised.
    """
    change_variables(environment.env_vars)
    if environment.conda is not None:
        _prefer_own_interpreter()
    cache = places.cache_root() if environment.has_to_be_made() else ""
    front = _add_packages(environment, cache, session_directory)
    trees = [places.of_tree(session_directory, t).path for t in environment.trees() if not t.wheel]
    _check(trees)
    sys.path[:0] = [*trees, *(path for path in front if path not in trees)]
    paths = [*trees, *front]
    if paths:
        _show_to_programs(paths)
    if environment.working_dir is not None:
        os.chdir(trees[0])
    importlib.invalidate_caches()
    _call_hook(environment)


def change_variables(given: dict[str, str]) -> None:
    """Set them; ``${NAME}`` means what NAME was before."""
    before = variables.inherited_variables()
    changed = {
        name: _VARIABLE.sub(lambda found: before.get(found.group(1), ""), value)
        for name, value in given.items()
    }
    variables.change(changed)
    if "TZ" in changed:
        time.tzset()
    if python_path := changed.get("PYTHONPATH"):
        sys.path[:0] = [part for part in python_path.split(os.pathsep) if part]


def _prefer_own_interpreter() -> None:
    """We run another Python than the driver: what stands in its ``sys.path`` for it alone is not
    for us."""
    endings = ("site-packages", "dist-packages", "lib-dynload", ".zip", os.path.basename(_LIBRARY))
    own = (sys.prefix, sys.base_prefix)
    sys.path[:] = [p for p in sys.path if p.startswith(own) or not p.endswith(endings)]
    commands = variables.inherited_variables().get("PATH", os.defpath)
    own_commands = os.path.join(sys.prefix, "bin")
    path = f"{own_commands}{os.pathsep}{commands}"
    variables.change({"PATH": path, "CONDA_PREFIX": sys.prefix})


def _add_packages(environment: Environment, cache: str, session_directory: str) -> list[str]:
    """Have site read what was installed (also its ``.pth`` files); the paths that this adds."""
    directories = [
        places.of_wheel(cache, session_directory, tree).path
        for tree in environment.py_modules
        if tree.wheel
    ]
    if environment.packages is not None:
        directories.append(places.of_packages(cache, environment.packages).path)
    _check(directories)
    before = list(sys.path)
    for directory in directories:
        site.addsitedir(directory)
    added = [path for path in sys.path if path not in before]
    sys.path[:] = before
    return added


def _check(paths: list[str]) -> None:
    for path in paths:
        if not os.path.isdir(path):
            raise SetupFailure("environment", f"{path} has been removed; it is needed for workers")


def _show_to_programs(paths: list[str]) -> None:
    """What the worker starts finds the same modules and commands."""
    before = variables.inherited_variables()
    python_path = [*paths, *filter(None, before.get("PYTHONPATH", "").split(os.pathsep))]
    commands = [found for path in paths if os.path.isdir(found := os.path.join(path, "bin"))]
    commands += filter(None, before.get("PATH", os.defpath).split(os.pathsep))
    variables.change(
        {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(python_path)),
            "PATH": os.pathsep.join(dict.fromkeys(commands)),
        }
    )


def _call_hook(environment: Environment) -> None:
    try:
        if environment.hook:
            pickle.loads(environment.hook)()
        elif environment.hook_name:
            module, _, name = environment.hook_name.rpartition(".")
            getattr(importlib.import_module(module), name)()
    except Exception as error:  # whatever the user's hook raises
        frames = error.__traceback__ and error.__traceback__.tb_next  # without our own
        told = "".join(traceback.format_exception(type(error), error, frames))
        lines = told.splitlines()[-20:]
        text = f"the hook raised {type(error).__name__}: {error}"
        raise SetupFailure("worker_process_setup_hook", text, lines) from None
