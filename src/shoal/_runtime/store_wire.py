"""What a daemon and the control store's process must agree on.

Apart from both: a daemon does not import what only the store needs (``journal``, SQLite).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, Union

import msgspec

from shoal._core import store
from shoal._proto.frames import Codec
from shoal._proto.messages import Done, GetTable, KvAnswer, Table

LISTENER_FD = 3
PORT_FD = 4
"""On the head of a cluster: where other machines connect."""
DAEMON_FD = 5
"""On the head: through it go connections that are for its daemon."""
MEMBER_KINDS = ("members.nodes", "members.actors", "members.groups")
"""Rows of the journal that are membership's."""
MAX_STORE_FRAME_BYTES = 1 << 30
"""A mirror reports everything it knows in one frame."""
NOTICES_MOST = 20


class OfCluster(NamedTuple):
    """What the control store of a cluster is told, in the words that begin its process."""

    keys: str
    """Directory of the cluster's keys."""
    lease_s: float
    """How long the leases last that it grants."""

    @classmethod
    def of(cls, words: Sequence[str]) -> OfCluster | None:
        """What was told; None: it is not the store of a cluster."""
        return cls(words[0], float(words[1])) if words else None

    def words(self) -> list[str]:
        """The same for the process."""
        return [self.keys, repr(self.lease_s)]


class StoreFrame(msgspec.Struct, frozen=True, array_like=True):
    """One request to the store, or its answer."""

    id: int
    body: Union[
        store.Join,
        store.Joined,
        store.Report,
        store.Request,
        store.Answered,
        store.StoreNotice,
        store.Write,
        store.Read,
        GetTable,
        Done,
        KvAnswer,
        Table,
    ]


@functools.cache
def store_messages() -> Codec:
    """What daemons and the store say to each other; few sessions have such a store."""
    return Codec(StoreFrame, MAX_STORE_FRAME_BYTES)
