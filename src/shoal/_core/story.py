"""What happened to one thing: a bounded list of lines, each with the id it is about.

Ids are strings such as ``worker 3``, ``queue 7``, ``job 1`` or an actor id. A story that has lost
its beginning says so.
"""

from __future__ import annotations

from collections import deque


class Stories:
    """The last ``most`` lines about everything."""

    def __init__(self, most: int) -> None:
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=most)
        self._told = 0

    def tell(self, now: float, about: str, text: str) -> None:
        """``text`` happened to ``about``."""
        self._lines.append((now, about, text))
        self._told += 1

    def about(self, name: str) -> list[str]:
        """Every line about ``name`` that is still known, oldest first."""
        lines = [f"{at:.6f} {text}" for at, about, text in self._lines if about == name]
        lost = self._told - len(self._lines)
        if lost:
            lines.insert(0, f"({lost} older lines of all stories are overwritten)")
        return lines
