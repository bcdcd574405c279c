"""The daemon's half of runtime environments: are they there, and if not, a child that makes them.

``build`` first tries to hold everything that the environment needs; where all
of it is there (the second use of anything), that is a few system calls and the answer. Else it
starts ``shoal._runtime.environments.build`` with its request in a file, and looks at its answer,
another file, when the child has been reaped. Several environments that share a part each have a
child; the part's lock lets one of them make it.

1. A child has a time limit and a process group of its own: when the time is over, or nobody wants
   the environment any more, the whole group is killed. What it was making is incomplete and will
   never be used (``places``).
2. What an environment needs is held from ``EnvironmentBuilt`` to ``DropEnvironment``: no collector
   of this or another session removes it meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import msgspec

from shoal._base import environment as variables
from shoal._core import events
from shoal._core.events import AnyEvent
from shoal._proto.environments import CONDA, Environment
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.environments import places
from shoal._runtime.environments.request import Answer, Request

TRIES_MOST = 3
"""A child may be killed, and what it made be collected before it is held: then it begins again."""


class Making(msgspec.Struct):
    """One child."""

    environment: Environment
    pid: int = 0
    timer: Timer | None = None
    tries: int = 0


class EnvironmentPlaces:
    """What this node's jobs use, and the children that make it."""

    def __init__(self, loop: Loop, directory: str, post: Callable[[AnyEvent], None]) -> None:
        self._loop = loop
        self._directory = directory
        self._post = post
        self._making: dict[str, Making] = {}
        self._by_pid: dict[int, Making] = {}
        self._held: dict[str, list[int]] = {}
        self._pythons: dict[str, str] = {}

    def pids(self) -> frozenset[int]:
        """Of the children that are at work."""
        return frozenset(self._by_pid)

    def interpreter(self, python: str) -> str:
        """``python`` with the path of the one that an environment brings; others are paths."""
        path = self._pythons.get(python)
        return python if path is None else CONDA + path

    def build(self, environment: Environment) -> None:
        """Have it made if need be, and hold it; tells by an event, perhaps at once."""
        self._look(Making(environment))

    def drop(self, key: str) -> None:
        """Nobody wants it any more, whether it is there or on its way."""
        making = self._making.pop(key, None)
        if making is not None:
            self._end(making)
        for descriptor in self._held.pop(key, ()):
            os.close(descriptor)

    def ended(self, pid: int) -> bool:
        """A child of ours was reaped; False if it is none of them."""
        making = self._by_pid.pop(pid, None)
        if making is None:
            return False
        if making.timer is not None:
            making.timer.cancel()
        key = making.environment.key
        if self._making.get(key) is not making:
            return True  # nobody wants it any more
        answer = self._answer(key)
        if answer is None:
            # Its tool may live on, and hold locks of its own. (The number of a group is not given
            # to another while it has members, and a number just reaped is the last to come again.)
            _kill_group(pid)
        if answer is None and making.tries < TRIES_MOST:
            self._start(making)  # somebody has killed it, such as the kernel for want of memory
        elif answer is None:
            text = f"the process that was making it has been killed {making.tries} times"
            self._fail(making, Answer("environment", text))
        elif answer.step:
            self._fail(making, answer)
        else:
            if making.environment.conda is not None:
                self._pythons[CONDA + making.environment.conda.digest] = answer.python
            self._look(making)
        return True

    def _look(self, making: Making) -> None:
        """Hold what is there; have made what is not."""
        environment = making.environment
        needs_python = environment.conda is not None and (
            CONDA + environment.conda.digest not in self._pythons
        )
        try:
            held = None if needs_python else self._hold(environment)
            if held is None and making.tries < TRIES_MOST:
                self._start(making)
                return
        except OSError as error:
            self._fail(making, Answer("environment", f"it cannot be made: {error}"))
            return
        if held is None:
            text = "what was made is removed at once: is the cache's limit too small for it?"
            self._fail(making, Answer("environment", text))
            return
        self._making.pop(environment.key, None)
        self._held[environment.key] = held
        self._post(events.EnvironmentBuilt(environment.key))

    def _hold(self, environment: Environment) -> list[int] | None:
        held: list[int] = []
        for place in places.to_be_made(environment, places.cache_root(), self._directory):
            descriptor = place.hold()
            if descriptor is None:
                for other in held:
                    os.close(other)
                return None
            held.append(descriptor)
        return held

    def _start(self, making: Making) -> None:
        environment = making.environment
        making.tries += 1
        request = self._path(environment.key, "request")
        os.makedirs(os.path.dirname(request), mode=0o700, exist_ok=True)
        # Neither is needed to make it, and both may be secrets.
        plain = msgspec.structs.replace(environment, env_vars={}, hook=b"")
        answer = self._path(environment.key, "answer")
        with open(request, "wb") as file:
            file.write(msgspec.json.encode(Request(plain, self._directory, answer)))
        log = os.path.join(self._directory, "logs", "environments.log")
        making.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "shoal._runtime.environments.build", request],
            variables.inherited_variables(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        self._making[environment.key] = self._by_pid[making.pid] = making
        limit_s = environment.setup_timeout_s
        if limit_s >= 0:
            making.timer = self._loop.call_later(limit_s, lambda: self._expire(making))

    def _expire(self, making: Making) -> None:
        limit_s = making.environment.setup_timeout_s
        self._end(making)
        text = (
            f"it was not made within {limit_s:g} s"
            ' (config={"setup_timeout_seconds": ...} gives it longer)'
        )
        self._fail(making, Answer("setup_timeout_seconds", text))

    def _end(self, making: Making) -> None:
        """Kill the child with all that it has started; reaping it forgets it."""
        if making.timer is not None:
            making.timer.cancel()
        if making.pid in self._by_pid:
            _kill_group(making.pid)

    def _fail(self, making: Making, answer: Answer) -> None:
        key = making.environment.key
        self._making.pop(key, None)
        self._post(events.EnvironmentFailed(key, answer.step, answer.text, tuple(answer.output)))

    def _answer(self, key: str) -> Answer | None:
        path = self._path(key, "answer")
        try:
            with open(path, "rb") as file:
                answer = msgspec.json.decode(file.read(), type=Answer)
            os.unlink(path)
        except FileNotFoundError:  # it was killed
            return None
        return answer

    def _path(self, key: str, ending: str) -> str:
        return os.path.join(self._directory, "environments", f"{key}.{ending}")


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of it has ended
