"""What happened to one thing: a bounded list of lines, each with the id it is about.

Ids are strings such as ``worker 3``, ``queue 7``, ``job 1`` or an actor id. A story that has lost
its beginning says so. Each line is one string: of a record with its own time, id and text there
would be four objects, and a node keeps 20,000 lines.
"""

from __future__ import annotations

from collections import deque


class Stories:
    """The last ``most`` lines about everything."""

    def __init__(self, most: int) -> None:
        self._lines: deque[str] = deque(maxlen=most)
        """Id, a line break, then what is shown."""
        self._told = 0

    def tell(self, now: float, about: str, text: str) -> None:
        """``text`` happened to ``about``."""
        self._lines.append(f"{about}\n{now:.6f} {text}")
        self._told += 1

    def count_since(self, name: str, begins: str, at: float) -> int:
        """How many lines about ``name`` that begin so were told since ``at``."""
        found = 0
        for line in reversed(self._lines):
            about, _, told = line.partition("\n")
            if about == name:
                when, _, text = told.partition(" ")
                found += float(when) >= at and text.startswith(begins)
        return found

    def about(self, name: str) -> list[str]:
        """Every line about ``name`` that is still known, oldest first."""
        begin = f"{name}\n"
        lines = [line[len(begin) :] for line in self._lines if line.startswith(begin)]
        lost = self._told - len(self._lines)
        if lost:
            lines.insert(0, f"({lost} older lines of all stories are overwritten)")
        return lines
