"""Runs the stories of one file, in one session, and says each outcome as a line of JSON.

The lines go to the file that ``STORY_OUTCOMES`` names: what workers and daemons print comes in
between on the streams.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import ray

OF_NODES = ("num_cpus", "num_gpus", "resources", "labels")
"""Options of ``init`` that say what a node has."""
STORY_S = 100
"""A story that takes longer has hung."""


class TimedOut(BaseException):
    """The story hangs."""


def tell(names: Mapping[str, Any], **init: Any) -> None:
    """Run the functions ``story_*`` of a file: all, or those that the command line names."""
    stories = {n[6:]: f for n, f in names.items() if n.startswith("story_") and callable(f)}
    chosen = sys.argv[1:] or list(stories)
    signal.signal(signal.SIGALRM, _hangs)
    given: dict[str, Any] = {"num_cpus": 2, **init}
    if address := os.environ.get("STORY_ADDRESS"):  # which has its nodes already
        given = {name: value for name, value in given.items() if name not in OF_NODES}
        given["address"] = address
    ray.init(**{"namespace": "stories", "log_to_driver": False, **given})
    for name in chosen:
        _say(json.dumps([name, _outcome(stories[name])]))
    if ray.is_initialized():
        ray.shutdown()


def _say(line: str) -> None:
    print(f"outcome: {line}", flush=True)
    if path := os.environ.get("STORY_OUTCOMES"):
        with open(path, "a") as file:
            file.write(line + "\n")


def _hangs(*_: object) -> None:
    raise TimedOut


def _outcome(story: Callable[[], Any]) -> Any:
    signal.alarm(STORY_S)
    try:
        return story()
    except TimedOut:
        return {"raised": "TimedOut"}
    except Exception as error:
        traceback.print_exc()
        return {"raised": type(error).__name__.partition("(")[0]}
    finally:
        signal.alarm(0)


def caught(call: Callable[[], Any], *classes: type[BaseException]) -> list[bool]:
    """What ``call`` raises is an instance of which of ``classes``; [] if it raises nothing."""
    try:
        call()
    except Exception as error:
        return [isinstance(error, cls) for cls in classes]
    return []
