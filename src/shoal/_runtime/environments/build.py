"""The child that makes an environment: ``python -m shoal._runtime.environments.build REQUEST``.

It makes what is not there, part by part, each under its lock, writes its answer, and last looks
whether the cache has grown too large. It may be killed at any moment.
"""

from __future__ import annotations

import os
import sys

import msgspec

from shoal._base import environment as variables
from shoal._proto.environments import Environment, Tree
from shoal._runtime.environments import SetupFailure, fetching, installing, places
from shoal._runtime.environments.places import Place
from shoal._runtime.environments.request import Answer, Request


def main(arguments: list[str]) -> int:
    """Make what the request in file ``arguments[0]`` asks for; the exit code."""
    with open(arguments[0], "rb") as file:
        request = msgspec.json.decode(file.read(), type=Request)
    os.unlink(arguments[0])
    cache = places.cache_root()
    try:
        answer = Answer(python=make(request.environment, cache, request.directory))
    except SetupFailure as failure:
        answer = Answer(failure.step, failure.text, failure.output)
    except OSError as error:
        answer = Answer("environment", f"it cannot be made: {error}")
    if not answer.step:
        for place in places.collect(cache, variables.read().cache_bytes):
            print(f"{place.path} has not been used for long and is removed", flush=True)
    with open(request.answer + ".new", "wb") as file:
        file.write(msgspec.json.encode(answer))
    os.rename(request.answer + ".new", request.answer)
    return 1 if answer.step else 0


def make(environment: Environment, cache: str, directory: str) -> str:
    """Make what is not there; the interpreter that it brings, if it does.

    Raises:
        SetupFailure: a part cannot be made.
    """
    if environment.working_dir is not None:
        _fetch(environment.working_dir, "working_dir", cache, directory)
    for tree in environment.py_modules:
        _fetch(tree, "py_modules", cache, directory)
        if tree.wheel:
            wheel = os.path.join(places.of_tree(directory, tree).path, tree.wheel)
            _install_wheel(places.of_wheel(cache, directory, tree), wheel)
    packages = environment.packages
    if packages is not None:
        place = places.of_packages(cache, packages)
        place.make(lambda target: installing.install(packages, target))
    conda = environment.conda
    if conda is None:
        return ""
    if conda.name:
        return installing.interpreter_of(installing.prefix_of(conda.name))
    place = places.of_conda(cache, conda)
    place.make(lambda target: installing.make_conda(conda, place.prefix, target))
    return installing.interpreter_of(place.prefix)


def _fetch(tree: Tree, step: str, cache: str, directory: str) -> None:
    if tree.uri:
        place = places.of_tree(directory, tree)
        place.make(lambda target: fetching.fetch(tree, step, cache, target))


def _install_wheel(place: Place, wheel: str) -> None:
    place.make(lambda target: installing.install_wheel(wheel, target))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
