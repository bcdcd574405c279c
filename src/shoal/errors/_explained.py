"""What makes an error say why: the reasons come from the daemon, at once or when somebody looks.

1. ``reasons`` are bytes until somebody looks: an error that nobody looks at makes no record.
2. Asking never fails: who cannot say, the daemon or the session, leaves ``why`` None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.errors._why import Why

SHOWN_S = 1.0
"""So long an error that is shown waits for its reason."""


class Explained(Exception):
    """Part of every error about a time that is over: ``why`` says what was waited for.

    Example:
        >>> error = shoal.errors.GetTimeoutError(timeout_s=1.0)
        >>> error.why is None
        True
    """

    reasons: bytes = b""
    """The chain of reasons at that moment, as it travels; ``why`` reads it."""

    _ask: Callable[[float], bytes] | None = None
    """Gives ``reasons`` once they have come."""

    @property
    def why(self) -> Why | None:
        """What was waited for when this was raised (docs/why.md); None if nobody could say."""
        from shoal.errors import _why

        self._settle(SHOWN_S)
        return _why.unpacked(self.reasons) if self.reasons else None

    def ask(self, take: Callable[[float], bytes]) -> None:
        """``take(timeout_s)`` gives the reasons, which are on their way."""
        self._ask = take
        self._settle(0.0)

    def _settle(self, timeout_s: float) -> None:
        if self._ask is not None and (found := self._ask(timeout_s)):
            self.reasons = found
            if "facts" in (own := vars(self)):  # of ours: they travel as facts
                own["facts"]["reasons"] = found
            self._ask = None

    def __str__(self) -> str:
        text = super().__str__()
        why = self.why
        return text if why is None else f"{text}: {why}" if text else str(why)

    def __reduce__(self) -> Any:
        self._settle(0.0)
        made = super().__reduce__()
        if isinstance(made, tuple) and len(made) == 3 and isinstance(made[2], dict):
            return (*made[:2], {k: v for k, v in made[2].items() if k != "_ask"})
        return made
