"""How many jobs a member of a crew may have at a time: learned from how long they take."""

from __future__ import annotations

AHEAD_S = 0.001
"""Short jobs are dealt so far ahead."""

CALL_S = 5e-6
"""What a call costs beside its job, about."""

MOST_AHEAD = 256
LONG_JOB_S = 0.005
"""Jobs as long as this are dealt one at a time: the way from here is a hundredth of it, and nothing
must wait behind a job that turns out to be longer."""

MOST_LEARNED_S = 0.1
"""A job that takes longer teaches no more than this: the next ones may be short again."""

MOST_SEND_S = 0.001
"""Sending a job that took longer was interrupted, most likely."""


class Pace:
    """What is known of the jobs of a crew.

    Args:
        may_learn: Else everybody has one job at a time, whatever they take.
    """

    def __init__(self, may_learn: bool) -> None:
        self.ahead = 1
        """How many jobs somebody may have."""
        self._may_learn = may_learn
        self._job_s: float | None = None
        self._send_s = 0.0

    def sent(self, seconds: float) -> None:
        """Sending a job took so long."""
        self._send_s += (min(seconds, MOST_SEND_S) - self._send_s) / 8

    def learn(self, seconds: float, count: int) -> None:
        """``count`` jobs took so long together."""
        job_s = min(seconds / count, MOST_LEARNED_S)
        known = self._job_s
        known = job_s if known is None else known + (job_s - known) * min(1.0, count / 8)
        self._job_s = known
        if not self._may_learn or known >= LONG_JOB_S:
            self.ahead = 1
        else:
            cost_s = max(known + CALL_S, self._send_s)
            self.ahead = max(2, min(MOST_AHEAD, int(AHEAD_S / cost_s)))
