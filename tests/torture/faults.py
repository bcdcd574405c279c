"""Who is hit: picks processes of a session by role, kills them, or stops them for a while.

Roles and how often each is killed (`KILLS`):

=========  ==========================================================================
worker     a process that runs tasks of some job, or waits for an assignment
actor      the process of an actor
child      what user code forked in a worker (it looks at values of its parent)
newborn    the youngest child of the zygote: forked, maybe not joined yet
zygote     only once it has forked: three that die before that end the session
store      the control store
driver     a program that is attached
=========  ==========================================================================

A stopped process (SIGSTOP) is always continued, unless it is killed before.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping

from shoal._runtime import cluster, descendants
from tests.torture.drivers import Crew
from tests.torture.processes import signal_session_process
from tests.torture.started import Started

KILLS = {
    "worker": 30, "actor": 24, "child": 8, "newborn": 4, "zygote": 2, "store": 2, "driver": 2,
}  # fmt: skip
KILLS_OF_TOOLS = {
    "worker": 5, "actor": 12, "newborn": 1, "zygote": 1, "store": 1, "driver": 2,
}  # fmt: skip
STOPS = {"worker": 6, "actor": 4, "driver": 3, "zygote": 2, "store": 2, "daemon": 1}
STOP_LEAST_S, STOP_MOST_S = 0.05, 2.0
DAEMON_STOP_MOST_S = 0.5
PIDS_FOR_S = 0.5


class Targets:
    """Which processes have which role, as the daemon and the kernel say now."""

    def __init__(self, started: Started) -> None:
        self._started = started
        self._facts = started.facts()
        self._facts_until = 0.0

    def facts(self) -> dict[str, int]:
        """Pids of daemon, zygote and store; asked for again now and then."""
        if time.monotonic() > self._facts_until:
            self._facts = self._started.facts()
            self._facts_until = time.monotonic() + PIDS_FOR_S
        return {name: int(str(self._facts[f"{name}pid"])) for name in ("", "zygote_", "store_")}

    def forget(self) -> None:
        """Somebody was killed: what is known may be wrong."""
        self._facts_until = 0.0

    def pids(self, role: str) -> list[int]:
        """Living processes of this role, oldest first."""
        facts = self.facts()
        if role == "daemon":
            return [facts[""]]
        if role == "store":
            return [facts["store_"]] if facts["store_"] else []
        seen = descendants.list_processes()
        of_zygote = [each for each in seen if each.parent == facts["zygote_"]]
        if role == "zygote":
            return [facts["zygote_"]] if of_zygote else []
        if role == "newborn":
            youngest = sorted(of_zygote, key=lambda each: each.start_time)
            return [each.pid for each in youngest[-1:]]
        rows = cluster.table("workers")
        if role == "child":
            workers = {int(row["pid"]) for row in rows}
            return [each.pid for each in seen if each.parent in workers]
        is_actor = role == "actor"
        return [int(row["pid"]) for row in rows if bool(row["actor_id"]) is is_actor]


class Faults:
    """Kills and stops, chosen by one random generator."""

    def __init__(
        self, started: Started, crew: Crew, chance: random.Random, kills: Mapping[str, int]
    ) -> None:
        self._started = started
        self._crew = crew
        self._chance = chance
        self._kills = kills
        self._targets = Targets(started)
        self._timers: list[threading.Timer] = []
        self.killed: Counter[str] = Counter()
        self.stopped: Counter[str] = Counter()

    def kill_one(self, seconds_left: float) -> None:
        """`kill -9` of somebody; nothing, if nobody has the role that was drawn."""
        (role,) = self._chance.choices(list(self._kills), list(self._kills.values()))
        if role == "driver":
            mode = self._crew.kill(self._chance.randrange(len(self._crew.at_work)))
            self._crew.add(self._chance.getrandbits(30), max(1.0, seconds_left), mode)
        elif pids := self._targets.pids(role):
            victim = self._chance.choice(pids)
            if not signal_session_process(victim, self._started.session, signal.SIGKILL):
                return
            if role in ("zygote", "store"):
                self._targets.forget()
        else:
            return
        self.killed[role] += 1

    def stop_one(self) -> None:
        """SIGSTOP somebody for a while."""
        (role,) = self._chance.choices(list(STOPS), list(STOPS.values()))
        most_s = DAEMON_STOP_MOST_S if role == "daemon" else STOP_MOST_S
        duration_s = self._chance.uniform(STOP_LEAST_S, most_s)
        if role == "driver":
            driver = self._chance.choice(self._crew.at_work)
            if driver.process.poll() is not None:
                return
            driver.process.send_signal(signal.SIGSTOP)
            pid = driver.process.pid
        else:
            pids = self._targets.pids(role)
            if not pids:
                return
            pid = self._chance.choice(pids)
            if not signal_session_process(pid, self._started.session, signal.SIGSTOP):
                return
        self.stopped[role] += 1
        # A thread of its own: whoever asks a stopped daemon something waits until it goes on.
        timer = threading.Timer(duration_s, self._resume, (pid, role))
        self._timers = [each for each in self._timers if each.is_alive()] + [timer]
        timer.start()

    def _resume(self, pid: int, role: str) -> None:
        if role == "driver":
            for driver in self._crew.everybody():
                if driver.process.pid == pid:
                    driver.process.send_signal(signal.SIGCONT)
        else:
            signal_session_process(pid, self._started.session, signal.SIGCONT)

    def end(self) -> None:
        """Wait until everybody who was stopped goes on."""
        for timer in self._timers:
            timer.join()
