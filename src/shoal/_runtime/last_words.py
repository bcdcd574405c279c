"""What is still said of a node whose daemon was killed: that everything of its epoch has ended.

The zygote outlives its daemon by as long as it takes to end every process of the session; then it
says so to the control store, in the node's name (``Obituary``). So a killed daemon costs its node's
work half a second instead of a lease, and also what must not run twice may begin elsewhere at once:
that nothing of it is left is no guess. Who cannot say it any more (the machine is gone, the zygote
was killed too, there is no way to the store) is known to be dead when its lease is over.

1. It is said only when nothing of the session was left at the last look.
2. What is needed for it stands in the session's directory from the moment the node is a member, and
   names that epoch: said twice, late, or of an epoch that is over, it changes nothing.
3. A head that is killed says nothing: the control store ends with its daemon. One that is stopped,
   and has a journal, says it itself before it ends its store (``tell``), so that the next head of
   that name waits for nobody.
"""

from __future__ import annotations

import os
import sys

import msgspec

from shoal._proto import membership
from shoal._runtime import session_dir
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.links import keys
from shoal._runtime.links.peers import PeerEvents, PeerOptions, Peers, new_epoch

SAID_S = 5.0
"""A store that is away begins again within a second; later than this the lease is nearly over."""


class Member(msgspec.Struct, frozen=True):
    """One epoch of a node, and where its control store is."""

    node: str
    epoch: int
    link_epoch: int
    """Of the daemon's links: who speaks after it has a later one."""
    keys: str
    store_address: str


def keep(directory: str, member: Member) -> None:
    """Write down what ``say`` reads; where that cannot be (a full disk), the lease has to do."""
    path = os.path.join(directory, session_dir.MEMBER_NAME)
    try:
        with open(path + ".new", "wb") as file:
            file.write(msgspec.json.encode(member))
        os.replace(path + ".new", path)
    except OSError as error:
        print(f"if this daemon is killed, only its lease will tell: {error}", file=sys.stderr)


def say(directory: str) -> None:
    """Say it for the member that the directory tells of, until the store has heard it.

    Raises:
        OSError, CredentialsError: something is missing there.
    """
    with open(os.path.join(directory, session_dir.MEMBER_NAME), "rb") as file:
        member = msgspec.json.decode(file.read(), type=Member)
    tell(member, SAID_S)


def tell(member: Member, limit_s: float) -> None:
    """Say it, and wait until that is on disk, or for so long.

    Raises:
        CredentialsError: the keys cannot be used.
    """
    loop = Loop()

    def received(node: str, body: object) -> None:
        if isinstance(body, membership.DeclaredDead) and body.epoch == member.epoch:
            loop.stop()

    events = PeerEvents(
        received=received,
        linked=lambda node: None,
        suspected=lambda node, why: None,
        open_source=lambda node, name: None,
    )
    epoch = max(new_epoch(), member.link_epoch + 1)
    peers = Peers(loop, keys.load(member.keys, member.node), events, PeerOptions(epoch))
    peers.connect(keys.STORE, member.store_address)
    peers.send(keys.STORE, membership.Obituary(member.node, member.epoch))
    loop.call_later(limit_s, loop.stop)
    loop.run()
    peers.close()
