"""Members of a cluster as threads of one process, each with a loop, a door and its own keys.

Real sockets, real TLS, real threads; only the daemon around them is missing. A test makes a
``Cluster`` in its temporary directory, adds members, and talks to them from its own thread:
``call`` runs something on a member's loop, ``until`` waits for a condition with a deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal._core.link_events import LinkLimits
from shoal._proto import links
from shoal._proto.links import NodeBody
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.links import keys
from shoal._runtime.links.bulk import BulkLimits
from shoal._runtime.links.door import Door, listen_anywhere
from shoal._runtime.links.joining import JoinDesk
from shoal._runtime.links.peers import PeerEvents, PeerOptions, Peers

DEADLINE_S = 20.0


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Wait until ``condition`` is true, and return what it is."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {deadline_s} s in vain: {what}"
        time.sleep(0.002)
    return value


class Member:
    """One node: a thread with a loop."""

    def __init__(
        self,
        credentials: keys.Credentials,
        epoch: int = 1,
        listens: bool = True,
        limits: LinkLimits | None = None,
        bulk: BulkLimits | None = None,
    ) -> None:
        self.name = credentials.name
        self.loop = Loop()
        self.received: list[tuple[str, NodeBody]] = []
        self.news: list[tuple[str, ...]] = []
        self.values: dict[bytes, memoryview] = {}
        self.released = 0
        self.on_received: Callable[[str, NodeBody], None] = lambda node, body: None
        self.address = ""
        self.door: Door | None = None
        listening = None
        if listens:
            listening, self.address = listen_anywhere("127.0.0.1")
        options = PeerOptions(epoch, self.address, limits or LinkLimits(), bulk or BulkLimits())
        events = PeerEvents(
            self._receive,
            lambda node: self.news.append(("linked", node)),
            lambda node, why: self.news.append(("suspected", node, why)),
            self._open,
            lambda node, count: self.news.append(("ended", node, str(count))),
            lambda node, is_congested: self.news.append(("congested", node, str(is_congested))),
            lambda node, why: self.news.append(("fenced", node, why)),
        )
        self.peers = Peers(self.loop, credentials, events, options)
        if listening is not None:
            desks = self.peers.desks()
            self.door = Door(self.loop, listening, credentials.secret.id, desks)
            if credentials.is_authority:
                desks[links.JOIN] = JoinDesk(self.loop, self.peers.contexts, self.door.refusals.say)
        self.thread = threading.Thread(target=self.loop.run, name=self.name, daemon=True)
        self.thread.start()
        # The loop sleeps without a timeout; calls from the test's thread wake it as bulk's do.
        self._mailbox = self.peers._mailbox

    def _receive(self, node: str, body: NodeBody) -> None:
        self.received.append((node, body))
        self.on_received(node, body)

    def _open(self, node: str, name: bytes) -> tuple[memoryview, Callable[[], None]] | None:
        if name not in self.values:
            return None

        def release() -> None:
            self.released += 1

        return self.values[name], release

    def call(self, what: Callable[[], Any]) -> Any:
        """Run on the member's loop; return, or raise, what it does."""
        done = threading.Event()
        outcome: list[Any] = [None, None]

        def run() -> None:
            try:
                outcome[0] = what()
            except BaseException as error:
                outcome[1] = error
            done.set()

        self._mailbox.post(run)
        assert done.wait(DEADLINE_S), f"the loop of {self.name} stands still"
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def connect(self, other: Member | str, address: str | None = None) -> None:
        name = other if isinstance(other, str) else other.name
        where = address if address is not None else getattr(other, "address", "")
        self.call(lambda: self.peers.connect(name, where))

    def send(self, other: Member | str, body: NodeBody) -> None:
        name = other if isinstance(other, str) else other.name
        self.call(lambda: self.peers.send(name, body))

    def wait_linked(self, other: Member | str) -> None:
        name = other if isinstance(other, str) else other.name
        until(lambda: self.peers.is_linked(name), f"{self.name} is linked with {name}")

    def wait_suspected(self, name: str) -> str:
        def why() -> str:
            return next((n[2] for n in self.news if n[:2] == ("suspected", name)), "")

        return str(until(why, f"{self.name} suspects {name}"))

    def pull(self, other: Member, name: bytes, into: bytearray, compress: bool = False) -> str:
        """Pull a value and wait for it; "" or why not."""
        done: list[str] = []
        view = memoryview(into)
        self.call(lambda: self.peers.pull(other.name, name, view, done.append, compress))
        until(lambda: done, f"{name!r} came", 60.0)
        return done[0]

    def stop(self) -> None:
        if not self.thread.is_alive():
            return

        def end() -> None:
            if self.door is not None:
                self.door.close()
            self.loop.stop()
            self.peers.close()

        self._mailbox.post(end)
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


class Cluster:
    """Keys in a directory, and the members made from them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.line = keys.new_cluster(str(directory / "head"), "127.0.0.1:6380")
        self.members: list[Member] = []

    def credentials(self, name: str) -> keys.Credentials:
        return keys.load(str(self.directory / "head"), name)

    def add(self, name: str, **options: Any) -> Member:
        """A member whose keys were made where the cluster was."""
        member = Member(self.credentials(name), **options)
        self.members.append(member)
        return member

    def join(self, name: str, line: keys.JoinLine | None = None, **options: Any) -> Member:
        """A member that has nothing but the join line."""
        directory = str(self.directory / name)
        keys.join(directory, line or self.line)
        member = Member(keys.load(directory, name), **options)
        self.members.append(member)
        return member

    def close(self) -> None:
        for member in self.members:
            member.stop()
