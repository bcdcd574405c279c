"""G1 with everything that the control store writes down, and calls that never wait for it.

Three threads make changes and calls while a fourth kills the store at random moments:

========  ==========================================================================================
keys      puts and deletes keys of the key-value table
names     makes and ends detached actors and groups; now and then a driver comes and goes
calls     L2: actors append unique ids to synced files
========  ==========================================================================================

``Ledger`` has what was acknowledged, and what was asked for. Then the session ends, another one of
the same name begins, and reads what is on disk: everything acknowledged must be there and nothing
that was taken back.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shoal
from shoal import lowlevel, state
from shoal.util import get_placement_group, placement_group, remove_placement_group
from tests.chaos import audit
from tests.chaos.loads import Appending
from tests.chaos.recovery import figures
from tests.torture.processes import eventually, kill
from tests.torture.started import Started

LONG_S = 300.0
NAME = "head"
SPACE = "head"
ALIVE_MOST = 4
"""Detached actors, and detached groups, at a time."""
DRIVER_EVERY = 40
LATE_S = 5.0

DRIVER = """
import sys
import shoal
shoal.init(address=sys.argv[1], log_to_driver=False)
shoal.lowlevel.kv_put(sys.argv[2].encode(), b"a driver")
shoal.shutdown()
"""

Say = Callable[[str], None]


@shoal.remote(num_cpus=0)
class Named:
    """Says what it was made with, also when it is made again from the journal."""

    def __init__(self, text: str) -> None:
        self._text = text

    def text(self) -> str:
        return self._text


@dataclass
class Ledger:
    """What was acknowledged."""

    keys: dict[bytes, bytes] = field(default_factory=dict)
    actors: dict[str, str] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    drivers: int = 0
    changes: int = 0
    kills: int = 0
    calls: int = 0
    waits_s: list[float] = field(default_factory=list)
    """Of changes of keys that a kill fell into."""
    late: list[str] = field(default_factory=list)
    """What took longer than ``LATE_S``: a change, with the kills in it, or a store that begins."""


class Changes:
    """What the threads do until ``over``."""

    def __init__(self, started: Started, ledger: Ledger, seed: int) -> None:
        self._started = started
        self.ledger = ledger
        self._seed = seed
        self.over = threading.Event()
        self.kills = 0

    def keys(self) -> None:
        chance, number = random.Random(self._seed), 0
        ledger = self.ledger
        while not self.over.is_set():
            number += 1
            key, kills, begun = b"key-%d" % number, self.kills, time.monotonic()
            if ledger.keys and chance.random() < 0.3:
                key = chance.choice(list(ledger.keys))
                assert lowlevel.kv_delete(key, namespace=SPACE), f"{key!r} was acknowledged"
                del ledger.keys[key]
            else:
                value = chance.randbytes(chance.randrange(300))
                assert lowlevel.kv_put(key, value, namespace=SPACE, overwrite=False)
                ledger.keys[key] = value
            ledger.changes += 1
            took_s, fell = time.monotonic() - begun, self.kills - kills
            if fell:
                ledger.waits_s.append(took_s)
            if took_s > LATE_S:
                ledger.late.append(f"a change took {took_s:.1f} s, in which {fell} kills fell")

    def names(self) -> None:
        chance, number = random.Random(self._seed + 1), 0
        while not self.over.is_set():
            number += 1
            if number % DRIVER_EVERY == 0:
                self._driver(f"driver-{self.ledger.drivers}")
            elif number % 2:
                self._actor(f"actor-{number}", chance)
            else:
                self._group(f"group-{number}", chance)
            self.ledger.changes += 1

    def _actor(self, name: str, chance: random.Random) -> None:
        actors = self.ledger.actors
        if len(actors) >= ALIVE_MOST:
            gone = chance.choice(list(actors))
            del actors[gone]
            shoal.kill(shoal.get_actor(gone))
            self.ledger.changes += 1
        made = Named.options(name=name, lifetime="detached").remote(name * 3)
        assert shoal.get(made.text.remote(), timeout=LONG_S) == name * 3
        actors[name] = name * 3

    def _group(self, name: str, chance: random.Random) -> None:
        groups = self.ledger.groups
        if len(groups) >= ALIVE_MOST:
            gone = chance.choice(sorted(groups))
            groups.remove(gone)
            remove_placement_group(get_placement_group(gone))
            self.ledger.changes += 1
        group = placement_group([{"CPU": 0.01}], name=name, lifetime="detached")
        shoal.get(group.ready(), timeout=LONG_S)
        groups.add(name)

    def _driver(self, name: str) -> None:
        words = [sys.executable, "-c", DRIVER, self._started.session, name]
        subprocess.run(words, env=self._started.environment, check=True, timeout=LONG_S)
        self.ledger.drivers += 1

    def calls(self, folder: Path, actors: int) -> None:
        load = Appending(folder, actors)
        while not self.over.is_set():
            load.round()
        assert load.judge() == load.calls, "lost, doubled or reordered"
        self.ledger.calls = load.calls


def kill_again_and_again(
    started: Started, changes: Changes, kills: int, seconds: float, seed: int, say: Say
) -> None:
    """SIGKILL of the store, each time some moment after it has begun to serve; at least so often,
    and for so long."""
    chance = random.Random(seed)
    epoch, end = -1, time.monotonic() + seconds
    while changes.kills < kills or time.monotonic() < end:
        begun = time.monotonic()
        eventually(lambda: _serves(started, epoch), LONG_S, "a store serves")  # noqa: B023
        if (took_s := time.monotonic() - begun) > LATE_S:
            changes.ledger.late.append(f"no store served for {took_s:.1f} s after a kill")
        row = started.facts()["store"]
        epoch = int(row["epoch"])  # type: ignore[index,call-overload]
        (pid,) = eventually(started.stores, LONG_S, "it is a process")
        time.sleep(chance.random() * 0.1)
        if changes.over.is_set():
            return  # one of the threads has failed
        kill(pid)
        changes.kills += 1
        if changes.kills % 50 == 0:
            say(f"{changes.kills} kills")


def _serves(started: Started, than: int) -> bool:
    row: Any = started.facts()["store"]
    return row["epoch"] > than and not row["away_s"]


def losses(started: Started) -> list[str]:
    """What the daemon has found missing in a store that came back."""
    row: Any = started.facts()["store"]
    return [text for text in row["notices"] if "less than" in text or "damaged" in text]


def join(started: Started) -> None:
    """Names are of one namespace, in both sessions."""
    shoal.shutdown()
    shoal.init(address=started.session, namespace=SPACE, log_to_driver=False)


def disturb(
    started: Started, folder: Path, actors: int, kills: int, seconds: float, seed: int, say: Say
) -> Ledger:
    """All threads while the store is killed; what was acknowledged."""
    join(started)
    ledger = Ledger()
    changes = Changes(started, ledger, seed)
    with ThreadPoolExecutor(3) as pool:
        running = [
            pool.submit(changes.keys),
            pool.submit(changes.names),
            pool.submit(changes.calls, folder / "files", actors),
        ]
        for each in running:
            each.add_done_callback(lambda _: changes.over.set())
        try:
            kill_again_and_again(started, changes, kills, seconds, seed, say)
        finally:
            changes.over.set()
            for each in running:
                each.result(LONG_S)
    ledger.kills = changes.kills
    lowlevel.kv_put(b"last", b"of all", namespace=SPACE)
    ledger.keys[b"last"] = b"of all"
    assert not losses(started), losses(started)
    return ledger


def compare(started: Started, ledger: Ledger) -> None:
    """What another session finds on disk is what was acknowledged, and nothing else."""
    join(started)
    found = {
        key: lowlevel.kv_get(key, namespace=SPACE) for key in lowlevel.kv_keys(namespace=SPACE)
    }
    assert found == ledger.keys, "keys are lost, changed, or came back"
    drivers = [lowlevel.kv_get(b"driver-%d" % number) for number in range(ledger.drivers)]
    assert drivers == [b"a driver"] * ledger.drivers
    ended = [row for row in state.jobs() if row.state == "ENDED"]
    assert len(ended) >= ledger.drivers, "a job is lost"
    alive = {row.name for row in state.actors() if row.state != "DEAD" and row.name}
    assert alive == set(ledger.actors), "an actor is lost, or one that was ended came back"
    for name, text in ledger.actors.items():
        actor = shoal.get_actor(name)
        assert shoal.get(actor.text.remote(), timeout=LONG_S) == text
        shoal.kill(actor)
    alive = {row.name for row in state.groups() if row.state != "REMOVED"}
    assert alive == ledger.groups, "a group is lost, or one that was removed came back"
    for name in ledger.groups:
        group = get_placement_group(name)
        shoal.get(group.ready(), timeout=LONG_S)
        remove_placement_group(group)


def run(
    folder: Path, seed: int, seconds: float, say: Say, actors: int = 30, kills: int = 1
) -> dict[str, Any]:
    """Both sessions; what was done."""
    with audit.session(folder, 2, "--name", NAME) as started:
        ledger = disturb(started, folder, actors, kills, seconds, seed, say)
    with audit.session(folder, 2, "--name", NAME) as started:
        with audit.audited(started):
            compare(started, ledger)
    return {
        "kills": ledger.kills,
        "changes": ledger.changes,
        "drivers": ledger.drivers,
        "actors": actors,
        "calls": ledger.calls,
        "lost": 0,
        "doubled": 0,
        "lost_below_at_95_percent": float(f"{3 / ledger.changes:.1e}"),
        "change_that_a_kill_fell_into": figures(ledger.waits_s),
        "late": ledger.late,
    }
