"""The simulated store process: the real ``StoreMachine``, its journal's disk, and the link to it.

What ``_runtime.control`` does, on the virtual clock: all that has arrived while the last sync was
under way is carried out, is on disk with one sync, and only then is answered. The link is a stream:
nothing overtakes, and whatever is on its way when it breaks is lost. The daemon connects again, and
its machine asks again for what was not answered.

Faults: death at any of its steps (``kill_at``), absence, SIGSTOP, a link that breaks while both
ends live, and those of its disk. A link that delivers twice, or an answer of a former link, does
not exist: a stream does not do that.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.store import Effect, Report, StoreAsked, StoreLeft, StoreMachine, StoreReply
from shoal.testing.sim import store_checkers
from shoal.testing.sim.clock import Clock
from shoal.testing.sim.disk import FakeDisk

START_S = 0.03
LINK_S = 30e-6
LOOK_S = 1e-3
"""From a connection that is made again until the daemon's machine hears of it: the next look."""
AGAIN_S = 0.2
RETRY_S = 0.1
STEPS = ("received", "carried out", "synced", "answered")
"""Moments at which ``kill_at`` may end it."""


class FakeStore:
    """One store process at a time, or none."""

    def __init__(self, world: Clock, post: Callable[[seen.Event], None]) -> None:
        self._world = world
        self._post = post
        # Chance of its own: a session without a store is the same run with or without this file.
        self.chance = random.Random(world.random.getrandbits(32))
        self.disk = FakeDisk(self.chance)
        self.machine: StoreMachine | None = None
        self.link = 0
        """Number of the connection, 0: none."""
        self.deaths = 0
        self.kill_at: tuple[str, int] | None = None
        """(step, how many more of it)"""
        self.notices: list[str] = []
        self.on_loss: Callable[[], None] = lambda: None
        """Something is lost, and perhaps no daemon lives that could tell it again."""
        self.is_short = False
        """The disk has lost something, and nobody has told it again yet."""
        self._has_whole = False
        self._links = 0
        self._life = 0
        self._stopped_until = 0.0
        self._away_until = 0.0
        self._inbox: deque[tuple[int, StoreAsked]] = deque()
        self._effects: list[Effect] = []
        self._replies: list[StoreReply] = []
        self._is_writing = False
        self._last_arrival = {"in": 0.0, "out": 0.0}

    # ---- life
    def begin(self) -> None:
        """Its daemon begins, and starts it."""
        if self.is_short:
            self.on_loss()
        self.is_short = False
        self._start(0.0 if self._links == 0 else START_S)

    def end(self) -> None:
        """Its daemon is gone, so it ends: in peace or with a crash, who knows."""
        self._die()

    def kill(self) -> None:
        """SIGKILL; the daemon starts another."""
        if self.machine is None:
            return
        self.deaths += 1
        self._die()
        self._start(max(START_S, self._away_until - self._world.now))

    def stay_away(self, for_s: float) -> None:
        """It is killed, and no other one can be started for so long."""
        self._away_until = max(self._away_until, self._world.now + for_s)
        self.kill()

    def stop(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT so much later."""
        self._stopped_until = max(self._stopped_until, self._world.now + for_s)

    def break_link(self) -> None:
        """The connection ends while both live."""
        if not self.link:
            return
        former, self.link = self.link, 0
        if self.machine is not None:
            self.machine.step(self._world.now, StoreLeft(former))
        self._world.after(AGAIN_S, self._connect)

    def _die(self) -> None:
        self._life += 1
        self.machine, self.link = None, 0
        self._inbox.clear()
        self._effects, self._replies = [], []
        self._is_writing = self._has_whole = False
        self.kill_at = None
        self.disk.crash()

    def _start(self, delay_s: float) -> None:
        life = self._life
        self._world.after(delay_s, lambda: self._serve() if life == self._life else None)

    def _serve(self) -> None:
        """Read the journal, write the new epoch, take connections."""
        disk = self.disk
        found = disk.newest
        if disk.is_behind:
            lost = disk.acknowledged[1] - found.sequence
            self.notices.append(f"the last good state is used: {lost} changes are missing in it")
            self.is_short = True
            self.on_loss()
        machine = StoreMachine()
        machine.restore(found.rows.items())
        machine.sequence = found.sequence
        machine.epoch = max(found.epoch, disk.acknowledged[0]) + 1
        took_s = disk.write_whole(dict(found.rows), machine.sequence, machine.epoch)
        if took_s is None:
            self._start(RETRY_S)
            return
        disk.sync()
        self.machine = machine
        self._connect()

    def _connect(self) -> None:
        if self.machine is None or self.link:
            return
        self._links += 1
        self.link = self._links
        self._last_arrival = {"in": self._world.now, "out": self._world.now}
        if self._links == 1:
            self._post(seen.StoreConnected())
        else:
            self._world.after(LOOK_S, functools.partial(self._told, self.link))

    def _told(self, link: int) -> None:
        if link == self.link:
            self._post(seen.StoreConnected())

    # ---- the link
    def _carry(self, way: str, action: Callable[[], None]) -> None:
        """Over the link: in order, and only if it is still the same one at the other end."""
        link = self.link
        at = max(self._last_arrival[way], self._world.now + self.chance.expovariate(1 / LINK_S))
        self._last_arrival[way] = at
        self._world.after(
            at - self._world.now, lambda: action() if link == self.link and link else None
        )

    def write(self, command: do.WriteStore) -> None:
        """What the daemon sends; lost while there is no connection."""
        if not self.link:
            return
        asked = StoreAsked(self.link, command.ticket, command.write)
        self._carry("in", lambda: self._arrived(asked))

    def _arrived(self, asked: StoreAsked) -> None:
        self._inbox.append((self._life, asked))
        if not self._passes("received"):
            self._work()

    def _passes(self, step: str) -> bool:
        """Whether it was killed here."""
        if self.kill_at is None or self.kill_at[0] != step:
            return False
        if self.kill_at[1] > 0:
            self.kill_at = (step, self.kill_at[1] - 1)
            return False
        self.kill()
        return True

    # ---- rounds of its loop
    def _work(self) -> None:
        """Everything that has arrived, then one sync, then the answers."""
        if self.machine is None or self._is_writing:
            return
        life = self._life
        if self._stopped_until > self._world.now:
            wait_s = self._stopped_until - self._world.now
            self._world.after(wait_s, lambda: self._work() if life == self._life else None)
            return
        while self._inbox:
            _, asked = self._inbox.popleft()
            if asked.caller != self.link:
                continue  # what it read before the connection broke
            if isinstance(asked.body, Report) and asked.body.is_whole:
                self._has_whole = True
            for done in self.machine.step(self._world.now, asked):
                if isinstance(done, StoreReply):
                    self._replies.append(done)
                else:
                    self._effects.append(done)
            self.machine.validate()
            if self._passes("carried out"):
                return
        self._flush()

    def _flush(self, is_whole: bool = False) -> None:
        machine, life = self.machine, self._life
        assert machine is not None
        effects, self._effects = self._effects, []
        if not effects and not is_whole:
            self._answer()
            return
        self._is_writing = True
        if is_whole:
            rows = dict(machine.contents())
            took_s = self.disk.write_whole(rows, machine.sequence, machine.epoch)
        else:
            took_s = self.disk.write(effects, machine.sequence, machine.epoch)
        if took_s is None:
            # No room: everything is written again, into a new file, when there is some.
            again = lambda: self._flush(is_whole=True) if life == self._life else None  # noqa: E731
            self._world.after(RETRY_S, again)
            return
        self._world.after(took_s, lambda: self._synced() if life == self._life else None)

    def _synced(self) -> None:
        self._is_writing = False
        self.disk.sync()
        if self._has_whole:
            self.is_short = self._has_whole = False
        if not self._passes("synced"):
            self._answer()
            self._work()

    def _answer(self) -> None:
        assert self.machine is not None
        store_checkers.check_acknowledged(self.machine, self.disk)
        replies, self._replies = self._replies, []
        for reply in replies:
            if reply.caller == self.link:
                written = seen.StoreWritten(reply.ticket, reply.body)
                self._carry("out", functools.partial(self._post, written))
            if self._passes("answered"):
                return
