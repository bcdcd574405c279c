"""What a node may still do: the holder's side of its lease.

::

                 Began             Admitted                  lease_s without an answer
    OUTSIDE ----------> JOINING ------------> MEMBER ------------------------------> (lapsed)
                          ^  |                  | ^------- any renewal is answered ------+
                          |  | NotAdmitted      | DeclaredDead, or store_lost_s without any store
                          |  v                  v
                          |  OVER <---------- ENDING ---- all has ended ---> JOINING (next life)
                          |         it leaves   |
                          +---------------------+

The lease is counted from the moment at which the last *answered* renewal was sent: the store counts
from a later moment, so it waits longer than the holder acts.

=========================  =====================================================================
younger than ``cautious``  everything
younger than ``lease_s``   no new at-most-once start
older                      named and restartable actors have ended; the rest may finish
``store_lost_s``           everything is ended; the node joins anew when there is a store
=========================  =====================================================================

1. A renewal is sent each ``renew_s``; each has a number, and its answer names it. The next one is
   also the repetition of one that was not answered. How long the lease lasts is said by the store
   with each epoch, and nowhere else; where it is shorter than usual, renewals are as much denser.
2. Who was stopped itself (its alarm came late) does not know what has happened since: until an
   answer to a renewal that was sent after that, it starts nothing at most once (RULES K-4).
3. Where the store was dialled and nobody listens, after its end had ended the connection, no store
   runs, and the next one waits longer than a lease before it gives anybody up: the lease counts
   from that dial too, unless it was over by then.
4. An epoch that was declared dead comes to life in no way: all that it had is ended first, then the
   node asks for another one. Until then nothing of the next epoch exists.
"""

from __future__ import annotations

from shoal._base.config import LeaseTimes
from shoal._proto import membership as m

OUTSIDE, JOINING, MEMBER, ENDING, OVER = "outside", "joining", "member", "ending", "over"
NEVER = float("-inf")
SENT_MOST = 256
"""Renewals whose answer is still awaited: older ones could not make the lease good again."""


class Lease:
    """One node's lease."""

    def __init__(self, times: LeaseTimes) -> None:
        self._times = times
        self.phase = OUTSIDE
        self.request = 0
        self.epoch = 0
        """The epoch that it has, or had last."""
        self.lease_s = times.lease_s
        self.lease_from = NEVER
        """When the last answered renewal was sent, or nobody listened (rule 3)."""
        self._heard_from = NEVER
        """The same of renewals only: starts need a store."""
        self.due_at = 0.0
        """When the next renewal, or the next try to join, is to be sent."""
        self.is_lapsed = False
        self.leaves = False
        """When everything has ended it does not come back."""
        self._asked_at = NEVER
        """When this request to join was sent first."""
        self._sure_from = NEVER
        """Answers to renewals that were sent before do not count for starts (rule 2)."""
        self._pace = 1.0
        """How much denser than usual renewals are (rule 1)."""
        self._number = 0
        self._sent_at = NEVER
        self._sent: dict[int, float] = {}

    # ---- questions
    def age(self, now: float) -> float:
        """How old the lease is."""
        return now - self.lease_from

    def is_good(self, now: float) -> bool:
        """Whether it is a member that may have named and restartable actors."""
        return self.phase == MEMBER and self.age(now) < self.lease_s

    def may_start(self, now: float) -> bool:
        """Whether something that must not run twice may be started."""
        cautious_s = self.lease_s * self._times.cautious_s / self._times.lease_s
        is_young = self.phase == MEMBER and now - self._heard_from < cautious_s
        return is_young and self._heard_from >= self._sure_from

    @property
    def ends_at(self) -> float:
        """When named and restartable actors are ended."""
        return self.lease_from + self.lease_s

    def tries(self, now: float) -> int:
        """How many renewals in a row should have an answer and have none, and the next one."""
        overdue = now - self._times.answer_s * self._pace
        return 1 + sum(sent_at <= overdue for sent_at in self._sent.values())

    def next_at(self) -> float | None:
        """When to look again."""
        if self.phase == JOINING:
            return self.due_at
        if self.phase != MEMBER:
            return None
        end = self._lost_at if self.is_lapsed else min(self.ends_at, self._lost_at)
        return min(self.due_at, end)

    @property
    def _lost_at(self) -> float:
        return self._heard_from + max(self._times.store_lost_s, self.lease_s)

    def is_store_lost(self, now: float) -> bool:
        """Whether it has not heard of any store for too long."""
        return self.phase == MEMBER and now >= self._lost_at

    # ---- changes
    def join(self, now: float) -> None:
        """Begin another life."""
        assert self.phase in (OUTSIDE, ENDING)
        self.phase = JOINING
        self.request += 1
        self.due_at = now
        self._asked_at = NEVER

    def join_sent(self, now: float) -> None:
        """The request to join goes out (again)."""
        if self._asked_at == NEVER:
            self._asked_at = now
        self.due_at = now + self._times.join_retry_s

    def admitted(self, now: float, body: m.Admitted) -> None:
        """It is a member. An answer does not say which try it is to: the first one counts."""
        assert self.phase == JOINING and body.epoch > self.epoch
        self.phase = MEMBER
        self.epoch = body.epoch
        self.lease_s = body.lease_s
        self._pace = min(1.0, body.lease_s / self._times.lease_s)
        self.lease_from = self._heard_from = self._asked_at
        self.is_lapsed = False
        self._sent.clear()
        self.due_at = now

    def renewal_sent(self, now: float) -> int:
        """The number of the renewal that is sent now."""
        self._number += 1
        self._sent[self._number] = now
        self.due_at = now + self._times.renew_s * self._pace
        self._sent_at = now
        while len(self._sent) > SENT_MOST:
            del self._sent[next(iter(self._sent))]
        return self._number

    def hasten(self, pause_s: float) -> None:
        """There is news for the next renewal; no more often than each ``pause_s``."""
        self.due_at = min(self.due_at, self._sent_at + pause_s)

    def renewed(self, number: int) -> bool:
        """The store has answered; whether the lease is longer for it."""
        sent_at = self._sent.get(number, NEVER)
        for older in [other for other in self._sent if other <= number]:
            del self._sent[older]
        if self.phase != MEMBER or sent_at <= self._heard_from:
            return False
        self._heard_from = sent_at
        self.lease_from = max(self.lease_from, sent_at)
        return True

    def refused(self, now: float, dialled_at: float) -> bool:
        """No store ran when it was dialled; whether the lease is longer for it (rule 3)."""
        is_longer = self.phase == MEMBER and self.lease_from < dialled_at <= now < self.ends_at
        if is_longer:
            self.lease_from = dialled_at
        return is_longer

    def was_stopped(self, now: float) -> None:
        """Its alarm came late (rule 2)."""
        self._sure_from = now
        self.due_at = min(self.due_at, now)

    def end(self) -> None:
        """This epoch is over, or about to be: everything is to end."""
        assert self.phase == MEMBER
        self.phase = ENDING
        self._sent.clear()

    def validate(self) -> None:
        """Assert what must hold."""
        assert self.phase != MEMBER or self.epoch > 0
        assert self.phase == MEMBER or not self._sent
        assert list(self._sent.values()) == sorted(self._sent.values())
