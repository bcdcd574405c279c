"""Messages between the node daemon and its zygote: one packet each on a SEQPACKET socket pair.

A packet keeps its borders, so there is no length and nothing to cut. Descriptors travel beside the
packet that names them. Order: ``Setup`` first, then any number of ``Fork``; the zygote answers each
``Fork`` with ``Forked`` or ``ForkFailed`` and tells ``Exited`` once for each child that ended.
"""

import msgspec

from shoal._proto.messages import Message, Welcome

MAX_PACKET_BYTES = 64 << 10


class Setup(Message, frozen=True):
    """Daemon to zygote; beside it node memory and the daemon's bell, for all forks to come."""

    socket_path: str
    welcome: Welcome
    """What every worker would be told; its own index takes the place of the one in here."""
    group: str = ""
    """The session's cgroup, to be ended with it; empty: none."""
    has_lease: bool = False
    """It is a node of a cluster: what is marked in node memory ends with its lease."""


class Fork(Message, frozen=True):
    """Daemon to zygote; beside it the write ends of the worker's stdout and stderr, and its end of
    a connection to the daemon, unless it is exec'd: then it connects by itself."""

    start: int
    index: int
    """The worker's process index in node memory."""
    python: str = ""
    """Another interpreter to exec; empty: fork this one."""
    group: str = ""
    """The cgroup that the worker joins first; empty: none."""


class Forked(Message, frozen=True):
    """Zygote to daemon; beside it a pidfd, exact because only the zygote can reap the child."""

    start: int
    pid: int


class ForkFailed(Message, frozen=True):
    start: int
    reason: str


class Exited(Message, frozen=True):
    pid: int
    status: int
    """As ``os.waitpid`` gives it."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Setup | Fork | Forked | ForkFailed | Exited)


def encode(message: Setup | Fork | Forked | ForkFailed | Exited) -> bytes:
    """Return the packet of ``message``."""
    return _encoder.encode(message)


def decode(packet: bytes) -> Setup | Fork | Forked | ForkFailed | Exited:
    """Return the message of ``packet``; raises ``ValueError`` if it is none."""
    try:
        message: Setup | Fork | Forked | ForkFailed | Exited = _decoder.decode(packet)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a packet between daemon and zygote: {error}") from None
    return message
