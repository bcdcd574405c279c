"""``shoal run``: a user's program, exactly as Python would run it.

The process *becomes* ``python script.py`` (exec), so ``__main__``, ``sys.argv``, ``sys.path``,
signals, tracebacks and the exit code are Python's own. The program needs no ``init()``: the first
use of the API starts a session, or joins the one that ``--address`` names.
"""

from __future__ import annotations

import os
import sys

from shoal import compat
from shoal._base import environment

USAGE = """\
usage: shoal run [--address ADDRESS] [--as-ray] script.py [arguments of the script]
       shoal run [--address ADDRESS] [--as-ray] -m module [arguments of the module]

Run a Python program; the first use of Shoal in it starts a session on this machine.

  --address ADDRESS   join a session that `shoal start` started: `auto` or its id
  --as-ray            `import ray` in the program means Shoal: it runs unchanged
"""


def run(words: list[str]) -> int:
    """Replace this process by the program that ``words`` name; returns only if they make no
    sense."""
    variables = environment.inherited_variables()
    while words and words[0].startswith("--"):
        option, equals, value = words.pop(0).partition("=")
        if option == "--help":
            print(USAGE, end="")
            return 0
        if option == "--as-ray" and not equals:
            _use_names_of_ray(variables)
            continue
        if option != "--address" or not (value or (words and not equals)):
            return _complain(f"unknown option or missing value: {option}")
        variables["SHOAL_ADDRESS"] = value or words.pop(0)
    if words[:1] == ["-h"]:
        print(USAGE, end="")
        return 0
    if not words or (words[0] == "-m" and len(words) < 2):
        return _complain("which program?")
    if words[0] != "-m" and not os.path.exists(words[0]):
        return _complain(f"there is no file {words[0]}")
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *words], variables)


def _use_names_of_ray(variables: dict[str, str]) -> None:
    """Put the folder in which ``import ray`` finds the layer before what is installed."""
    folder = os.path.join(os.path.dirname(compat.__file__), "as_ray")
    former = variables.get("PYTHONPATH")
    variables["PYTHONPATH"] = f"{folder}{os.pathsep}{former}" if former else folder
    variables[environment.AS_RAY_VARIABLE] = "1"


def _complain(text: str) -> int:
    print(f"shoal run: {text}\n\n{USAGE}", end="", file=sys.stderr)
    return 2
