"""Sockets and descriptors: how frames and file descriptors move between two processes of a machine.

Used by both sides of the session's unix socket. A descriptor travels beside the first byte of the
frame it belongs to (``SCM_RIGHTS``) and arrives close-on-exec (``MSG_CMSG_CLOEXEC``), so a
program that user code starts never inherits node memory.

A unix address is at most 107 bytes long and session directories may be deeper, so both sides name
the socket through a descriptor of its directory: ``/proc/self/fd/<n>/node.sock`` always fits.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Iterator

from shoal._proto.frames import FrameDecoder
from shoal._proto.messages import Frame

RECEIVE_BYTES = 64 << 10
MAX_DESCRIPTORS = 4
_CREDENTIALS = struct.Struct("3i")
_SO_PEERPIDFD = 77


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def connect(path: str, timeout_s: float | None = None) -> socket.socket:
    """Return a blocking connection to the unix socket ``path``.

    Raises:
        OSError: nobody listens there (``ConnectionRefusedError``, ``FileNotFoundError``).
    """
    directory, name = os.path.split(path)
    with contextlib.ExitStack() as undo:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        undo.callback(connection.close)
        with _opened(directory or ".") as directory_fd:
            connection.settimeout(timeout_s)
            connection.connect(f"/proc/self/fd/{directory_fd}/{name}")
        connection.settimeout(None)
        undo.pop_all()
    return connection


def peer_credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return (pid, uid, gid) of the process that connected; the kernel vouches for them."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return pid, uid, gid


def peer_pidfd(connection: socket.socket) -> int:
    """Return a pidfd of the process that connected, exact even if its pid is used again.

    Raises:
        OSError: the peer is gone.
    """
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
        fd = struct.unpack("i", data)[0]
        os.set_inheritable(fd, False)
        return int(fd)
    except OSError:
        # Before Linux 6.5. If the peer ended and its pid was reused, the connection is at its
        # end: the caller sees EOF there and never believes this pidfd.
        return os.pidfd_open(peer_credentials(connection)[0])


def send_with_descriptors(
    connection: socket.socket, data: bytes, descriptors: list[int] | tuple[int, ...]
) -> int:
    """Send ``data`` and, beside its first byte, ``descriptors``; return how many bytes went out."""
    if not descriptors:
        return connection.send(data, socket.MSG_NOSIGNAL)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    return connection.sendmsg([data], [rights], socket.MSG_NOSIGNAL)


def receive_with_descriptors(
    connection: socket.socket, size_bytes: int = RECEIVE_BYTES
) -> tuple[bytes, list[int]]:
    """Receive up to ``size_bytes`` and the descriptors beside them; ``b""`` is the end of the
    stream."""
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
    data, controls, _, _ = connection.recvmsg(size_bytes, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in controls:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % 4])
    return data, list(descriptors)


def receive_frames(
    connection: socket.socket, decoder: FrameDecoder
) -> tuple[list[Frame], list[int]] | None:
    """Block until something arrives; return complete frames (maybe none) and descriptors, None at
    the end.

    Raises:
        FrameError: the stream is not made of frames.
    """
    data, descriptors = receive_with_descriptors(connection)
    if not data:
        return None
    return decoder.feed(data), descriptors
