"""Which files of a directory do not travel: the rules of ``.gitignore``, one file or many.

A rule is a pattern as git knows it: ``*`` and ``?`` do not cross a slash, ``**`` does, a slash at
the beginning or in the middle ties it to the directory of its file, one at the end means only
directories, ``!`` takes back what an earlier rule has left out, ``#`` begins a comment. The last
rule that fits decides; below a directory that is left out nothing is looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Rule(NamedTuple):
    """One line."""

    base: str
    """The directory that it belongs to, relative to the top: "" or ending in a slash."""
    pattern: re.Pattern[str]
    is_negated: bool
    is_for_directories: bool


def parse(lines: Iterable[str], base: str = "") -> list[Rule]:
    """Return the rules in ``lines`` of an ignore file in directory ``base``."""
    return [rule for line in lines if (rule := _rule(line, base)) is not None]


def is_left_out(rules: Iterable[Rule], path: str, is_directory: bool) -> bool:
    """Whether the last rule that fits ``path`` (relative to the top) leaves it out."""
    verdict = False
    for rule in rules:
        if rule.is_for_directories and not is_directory:
            continue
        if path.startswith(rule.base) and rule.pattern.fullmatch(path[len(rule.base) :]):
            verdict = not rule.is_negated
    return verdict


def _rule(line: str, base: str) -> Rule | None:
    line = line.rstrip("\r\n")
    # Blanks at the end count only if they are escaped.
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if not line or line.startswith("#"):
        return None
    is_negated = line.startswith("!")
    if is_negated:
        line = line[1:]
    is_for_directories = line.endswith("/")
    line = line.rstrip("/")
    if not line:
        return None
    is_tied = "/" in line
    line = line.removeprefix("/")
    pattern = _translate(line)
    if not is_tied:
        pattern = "(?:.*/)?" + pattern
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error:
        return None  # such as an unfinished range: git, too, lets it match nothing
    return Rule(base, compiled, is_negated, is_for_directories)


def _translate(glob: str) -> str:
    out = ""
    at = 0
    while at < len(glob):
        if glob.startswith("**/", at) and (at == 0 or glob[at - 1] == "/"):
            out += "(?:.*/)?"
            at += 3
        elif glob[at:] == "**" and (at == 0 or glob[at - 1] == "/"):
            out += ".+"
            at += 2
        elif glob[at] == "*":
            out += "[^/]*"
            at += 1
        elif glob[at] == "?":
            out += "[^/]"
            at += 1
        elif glob[at] == "[" and (end := _end_of_range(glob, at)) > 0:
            inner = glob[at + 1 : end].replace("\\", "\\\\")
            if inner.startswith(("!", "^")):
                inner = "^/" + inner[1:]
            out += f"[{inner}]"
            at = end + 1
        elif glob[at] == "\\" and at + 1 < len(glob):
            out += re.escape(glob[at + 1])
            at += 2
        else:
            out += re.escape(glob[at])
            at += 1
    return out


def _end_of_range(glob: str, at: int) -> int:
    first = at + 2 if glob[at + 1 : at + 2] in ("!", "^") else at + 1
    return glob.find("]", first + 1)
