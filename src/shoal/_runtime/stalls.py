"""The stall detector of a program: one diagnosis when nothing goes on although something is wanted.

Twice in every ``SHOAL_STALL_S`` seconds the session thread of a driver looks whether the program
waits for something (in ``get`` or ``wait``, for an awaited ref, for an answer of the daemon). If it
does, it asks the daemon why, and if the same answer comes twice in a row, and is no answer that
merely takes its time, it is printed, once.

1. A program that waits for nothing asks nothing: its look is one native call.
2. What runs is no stall, however long it runs; nor is an environment or actor that is being made.
3. Nobody is waited for here, the daemon neither: one that does not answer is the diagnosis.
4. Nothing is printed while a task of the program stands at a breakpoint: somebody is at its prompt,
   and what waits may wait for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shoal import errors
from shoal._base import clock
from shoal._proto import messages
from shoal._runtime import session_dir
from shoal._runtime.client import Coming
from shoal._runtime.session import NATIVE_ERRORS, Session

if TYPE_CHECKING:
    from shoal._core import stalls

ANSWER_S = 0.2
"""So soon after a question somebody looks for its answer."""
SILENT_S = 5.0
"""A daemon that does not answer for so long is told of, also where the period is shorter."""


class StallWatch:
    """What one driver has seen of its own waiting."""

    def __init__(self, session: Session, period_s: float, show: Callable[[str], None]) -> None:
        self._session = session
        self._period_s = period_s
        self._show = show
        self._coming: Coming | None = None
        self._asked_at = 0.0
        self._stalls: stalls.Stalls | None = None

    def look(self) -> float:
        """Look once; how many seconds until the next time."""
        try:
            return self._look()
        except (errors.ShoalError, *NATIVE_ERRORS):  # the session has just ended
            return self._period_s

    def _look(self) -> float:
        session, half = self._session, self._period_s / 2
        if self._coming is not None:
            waited_s = clock.now() - self._asked_at
            if self._coming.wait(0):
                self._judge(session.result(self._coming, messages.WhyAnswer).reason, waited_s)
                self._coming = None
                return max(ANSWER_S, half - waited_s)
            if waited_s >= max(half, SILENT_S):
                self._judge(b"", waited_s)
            return half
        sight = session.memory.process_sight(session.index)
        if not (sight[0] or sight[4] or session.connection.is_asking):
            if self._stalls is not None:
                self._stalls.idle()
            return half
        self._asked_at = clock.now()
        self._coming = session.begin(messages.AskWhy(""))
        return ANSWER_S

    def _judge(self, answer: bytes, waited_s: float) -> None:
        """Of the daemon's answer; b"": there is none."""
        from shoal._core import stalls
        from shoal._proto import reasons
        from shoal._runtime import terminals
        from shoal.errors import _why

        reason: reasons.Reason
        if answer:
            reason = reasons.unpack(answer)
        else:
            pid = self._session.daemon
            is_stopped = session_dir.is_stopped(pid)
            reason = reasons.NoAnswer(pid=pid, waited_s=waited_s, is_stopped=is_stopped)
        stops = terminals.stops(self._session.directory)
        if any(stop.job == self._session.job for stop, _ in stops):
            return
        if self._stalls is None:
            self._stalls = stalls.Stalls()
        if self._stalls.judge(reason):
            told = str(_why.Why(reason)).replace("\n", "\n  ")
            self._show(
                f"nothing that this program waits for has gone on for {self._period_s:g} s:\n"
                f"  {told}"
            )
