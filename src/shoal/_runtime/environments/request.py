"""What a daemon and the child that makes an environment tell each other: two files of JSON."""

from __future__ import annotations

import msgspec

from shoal._proto.environments import Environment


class Request(msgspec.Struct, frozen=True):
    """What is to be made."""

    environment: Environment
    directory: str
    """Of the session."""
    answer: str
    """Path of the file for the answer."""


class Answer(msgspec.Struct, frozen=True):
    """How it went."""

    step: str = ""
    """The field that could not be made; empty: all of it is there."""
    text: str = ""
    output: list[str] = []
    """The last lines of the tool that failed."""
    python: str = ""
    """The interpreter that it brings."""
