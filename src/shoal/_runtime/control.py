"""The control store's own process, in a session that ``shoal start`` started.

``python -P -m shoal._runtime.control`` is exec'd by the node daemon with the listening socket
``store.sock`` as descriptor 3. The daemon keeps its copy of that socket: what connects while no
store runs waits in the kernel's queue for the next one. All state is in
``_core.store.StoreMachine``; it comes back from the daemons' mirrors when a killed store is
replaced, so nothing is written to disk here.

The store serves whoever connects (its own user only), answers each frame with one frame of the
same id, and ends when the daemon that started it has ended. Like the daemon it never loads
pickle.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
from typing import Union

import msgspec

from shoal._base import clock
from shoal._core.store import Read, StoreAsked, StoreMachine, Write
from shoal._proto.frames import Codec
from shoal._proto.messages import Done, GetTable, KvAnswer, Table
from shoal._runtime import descendants
from shoal._runtime.daemon_connections import Connection, Listener
from shoal._runtime.daemon_loop import Loop

LISTENER_FD = 3
MAX_STORE_FRAME_BYTES = 1 << 30
"""A mirror reports everything it knows in one frame."""


class StoreFrame(msgspec.Struct, frozen=True, array_like=True):
    """One request to the store, or its answer."""

    id: int
    body: Union[Write, Read, GetTable, Done, KvAnswer, Table]


@functools.cache
def store_messages() -> Codec:
    """What daemons and the store say to each other; few sessions have such a store."""
    return Codec(StoreFrame, MAX_STORE_FRAME_BYTES)


class ControlStore:
    """The shell around the machine."""

    def __init__(self, loop: Loop, listening: socket.socket) -> None:
        self._loop = loop
        self._machine = StoreMachine()
        self._listener = Listener(loop, listening, self._connected)

    def _connected(self, connected: socket.socket, pid: int) -> None:
        Connection(self._loop, connected, pid, self._framed, self._closed, store_messages())

    def _framed(self, connection: Connection, frame: StoreFrame) -> None:
        if isinstance(frame.body, GetTable):
            row = {"pid": os.getpid(), "modules": sorted(sys.modules)}
            connection.send(frame.id, Table([row]))
            return
        asked = StoreAsked(connection.pid, frame.id, frame.body)
        for reply in self._machine.step(clock.now(), asked):
            connection.send(reply.ticket, reply.body)

    def _closed(self, connection: Connection) -> None:
        pass


def main() -> int:
    """Serve until the daemon that started us has ended."""
    descendants.set_process_name("shoal-store")
    os.set_inheritable(LISTENER_FD, False)
    loop = Loop()
    loop.watch(os.pidfd_open(os.getppid()), lambda _: loop.stop())
    ControlStore(loop, socket.socket(fileno=LISTENER_FD))
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
