"""The fault proxy: stands between TCP programs and does to their connections what networks do.

Owns: one listening socket, which faults hold now, and the thread in which everything happens. Each
connection is a relay of its own (``relays``), and what happens to its bytes is decided by its lanes
(``lanes``).

::

    program --- near end ---[ up   lane ]--> far end --- the server it means
            <---------------[ down lane ]---

Two ways to stand in between:

* in front of a server: ``FaultProxy(("127.0.0.1", 5000))``, and clients are told its ``address``;
* in a network namespace whose packets iptables redirects (``networks``): ``FaultProxy(None)`` asks
  the kernel where each connection was going. Programs then use real addresses and know nothing.

What it can do: everything in ``Faults``, each direction and each peer on its own, at any time;
``reset`` all connections; leave them half open (one side is gone, the other is not told).
What it cannot: refuse the handshake of TCP while a lane is cut, since the kernel makes it before
anybody is asked: ``connect`` succeeds and then nothing answers. Cuts by iptables have no such seam.

Invariants:

1. Who does not read stops who sends: at most a window and the kernel's buffers are in between.
2. All sockets belong to the loop's thread; methods hand it a call and wait until it is done, so a
   fault holds when the method returns.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from shoal._runtime import daemon_loop
from shoal.testing.lanes import NONE, Faults, Lane
from shoal.testing.relays import Address, End, Relay, Side

Toward = Literal["up", "down", "both"]

ANSWER_S = 10.0
FIGURES = ("accepted", "refused", "reset", "up_bytes", "down_bytes", "changed", "stalled")
_ORIGINAL_DESTINATION = 80  # SO_ORIGINAL_DST of linux/netfilter_ipv4.h

T = TypeVar("T")


class FaultProxy:
    """A TCP proxy with faults; a context manager.

    Args:
        target: Where connections go; None: where they were going when iptables redirected them.
        listen: Its own address; port 0: any.
        seed: Of all chance in it.
        mark: Mark of its own packets, by which iptables lets them pass (needs CAP_NET_ADMIN).
        buffer_bytes: Of each socket, for slow readers; None: as the kernel likes.

    Example:
        >>> from shoal.testing import FaultProxy, Faults
        >>> with FaultProxy(("127.0.0.1", 9)) as proxy:
        ...     proxy.set("down", Faults(delay_s=0.2, jitter_s=0.05))
        ...     proxy.cut("up")
        ...     proxy.heal()
    """

    def __init__(
        self,
        target: Address | None,
        listen: Address = ("127.0.0.1", 0),
        *,
        seed: int = 0,
        mark: int = 0,
        buffer_bytes: int | None = None,
    ) -> None:
        self._target = target
        self._mark = mark
        self._buffer_bytes = buffer_bytes
        self._chance = random.Random(seed)
        self._faults: dict[tuple[str, str], Faults] = {}
        self._relays: set[Relay] = set()
        self._figures = dict.fromkeys(FIGURES, 0)
        self._listener = self._new_socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind(listen)
            self._listener.listen(1024)
        except OSError:
            self._listener.close()
            raise
        self.address: Address = self._listener.getsockname()
        """Where it listens."""
        self._loop = daemon_loop.Loop()
        self._calls: deque[Callable[[], None]] = deque()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._loop.watch(self._bell, self._rung)
        self._loop.watch(self._listener.fileno(), self._accept)
        self._thread = threading.Thread(target=self._loop.run, name="fault-proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- what tests say, from any thread
    def set(self, toward: Toward, faults: Faults, peer: str = "") -> None:
        """From now on these ``faults``, and only these: of bytes to the server (``"up"``), from it
        (``"down"``) or both; of one server only, by its ip, if a ``peer`` is given."""
        self._do(lambda: self._set(toward, faults, peer))

    def cut(self, toward: Toward = "both", peer: str = "") -> None:
        """Nothing more moves that way, and nobody is told."""
        self.set(toward, Faults(is_cut=True), peer)

    def heal(self, peer: str = "") -> None:
        """No faults any more (of ``peer``, or at all); what is half open is reset."""
        self._do(lambda: self._heal(peer))

    def reset(self, peer: str = "") -> int:
        """Reset every connection, at both ends, and return how many there were."""
        return self._do(lambda: self._reset_all(peer))

    def half_open(self, stays: Side, peer: str = "") -> int:
        """One end of each connection is gone, as if its machine had lost power, and the end that
        ``stays`` is not told; return how many there were."""
        return self._do(lambda: self._half_open(stays, peer))

    def figures(self) -> dict[str, int]:
        """What it has seen and done: connections, bytes, segments changed and stalled."""
        return self._do(self._counted)

    def close(self) -> None:
        """Reset all connections and stop listening."""
        if not self._thread.is_alive():
            return
        self._do(self._stop)
        self._thread.join(ANSWER_S)
        os.close(self._bell)

    def _do(self, call: Callable[[], T]) -> T:
        """Run ``call`` in the loop's thread and return what it does."""
        if not self._thread.is_alive():
            raise RuntimeError("the fault proxy is closed")
        done = threading.Event()
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append(call())
            finally:
                done.set()

        self._calls.append(run)
        os.eventfd_write(self._bell, 1)
        if not done.wait(ANSWER_S):
            raise TimeoutError(f"the fault proxy has not answered for {ANSWER_S} s")
        if not outcome:
            raise RuntimeError("the fault proxy has failed; its log says why")
        result: T = outcome[0]
        return result

    # ---- from here on: the loop's thread
    def _rung(self, _: int) -> None:
        os.eventfd_read(self._bell)
        while self._calls:
            self._loop.guard(self._calls.popleft())

    def _new_socket(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if self._buffer_bytes is not None:
            for which in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                made.setsockopt(socket.SOL_SOCKET, which, self._buffer_bytes)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def _accept(self, _: int) -> None:
        while True:
            try:
                accepted, _from = self._listener.accept()
            except ConnectionError:
                continue  # it was reset before it was taken
            except OSError:
                return  # there is no more, or there are no descriptors left
            self._figures["accepted"] += 1
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            target = self._target or _original_destination(accepted)
            near = End(accepted, self._lane(target[0], "up"))
            far = End(self._new_socket(), self._lane(target[0], "down"))
            if self._mark:
                far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            relay = Relay(self._loop, near, far, target, self._over)
            self._relays.add(relay)
            relay.look()

    def _lane(self, peer: str, toward: str) -> Lane:
        seed = self._chance.getrandbits(64)
        return Lane(self._faults_of(peer, toward), random.Random(seed))

    def _faults_of(self, peer: str, toward: str) -> Faults:
        found = self._faults.get((peer, toward))
        return found or self._faults.get(("", toward)) or NONE

    def _over(self, relay: Relay, why: str) -> None:
        self._relays.discard(relay)
        if why in self._figures:
            self._figures[why] += 1
        for name, count in _counts(relay).items():
            self._figures[name] += count

    # ---- what methods ask for
    def _set(self, toward: Toward, faults: Faults, peer: str) -> None:
        for each in ("up", "down") if toward == "both" else (toward,):
            self._faults[peer, each] = faults
        self._refresh()

    def _refresh(self) -> None:
        for relay in list(self._relays):
            relay.near.lane.faults = self._faults_of(relay.target[0], "up")
            relay.far.lane.faults = self._faults_of(relay.target[0], "down")
            relay.look()

    def _heal(self, peer: str) -> None:
        self._faults = {
            key: faults for key, faults in self._faults.items() if peer and key[0] != peer
        }
        for relay in self._of(peer):
            if relay.state == "half open":
                relay.drop("half open")
        self._refresh()

    def _of(self, peer: str) -> list[Relay]:
        return [relay for relay in self._relays if peer in ("", relay.target[0])]

    def _reset_all(self, peer: str) -> int:
        found = self._of(peer)
        for relay in found:
            relay.drop("reset")
        return len(found)

    def _half_open(self, stays: Side, peer: str) -> int:
        return sum(relay.halve(stays) for relay in self._of(peer))

    def _counted(self) -> dict[str, int]:
        figures = {**self._figures, "open": len(self._relays)}
        for relay in self._relays:
            for name, count in _counts(relay).items():
                figures[name] += count
        return figures

    def _stop(self) -> None:
        self._reset_all("")
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        self._loop.stop()


def _counts(relay: Relay) -> dict[str, int]:
    lanes = [end.lane for end in relay.ends]
    return {
        "up_bytes": relay.near.moved,
        "down_bytes": relay.far.moved,
        "changed": sum(lane.changed for lane in lanes),
        "stalled": sum(lane.stalled for lane in lanes),
    }


def _original_destination(accepted: socket.socket) -> Address:
    """Where a connection was going before iptables redirected it."""
    raw = accepted.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, 16)
    port, ip = struct.unpack_from("!2xH4s", raw)
    return socket.inet_ntoa(ip), port
