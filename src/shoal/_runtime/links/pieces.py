"""Values that travel over the link itself, a piece at a time: the last way, when no stream can be.

Both nodes are behind NAT, or the network between them is cut and they talk by way of the head. One
piece of a pull is under way at a time: who relays it must not be flooded, and this is
rare enough that its speed (one piece per round trip) matters less than how little there is of it.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal._base import clock
from shoal._proto import links
from shoal._proto.links import NodeBody, Piece, PieceAsked
from shoal._runtime.links.bulk_streams import Pull, Source


class Pieces:
    """All pulls over links."""

    def __init__(
        self,
        send: Callable[[str, NodeBody], None],
        open_source: Callable[[str, bytes], Source | str | None],
    ) -> None:
        self._send = send
        self._open_source = open_source
        self._pulls: dict[int, tuple[str, Pull, int]] = {}
        """By number: from whom, what, and where it stands."""
        self._number = 0

    def pull(self, node: str, pull: Pull) -> None:
        """Begin; ``heard`` says when it is over."""
        self._number += 1
        self._ask(self._number, node, pull, 0)

    def _ask(self, number: int, node: str, pull: Pull, at: int) -> None:
        self._pulls[number] = (node, pull, at)
        length = min(links.CHUNK_BYTES, len(pull.view) - at)
        self._send(node, PieceAsked(number, pull.name, at, length))

    def heard(self, node: str, body: PieceAsked | Piece) -> Pull | None:
        """A message came; the pull that is over by it, if one is."""
        if isinstance(body, PieceAsked):
            self._send(node, self._answer(node, body))
            return None
        asker, pull, at = self._pulls.pop(body.pull, ("", None, 0))
        if pull is None or asker != node:
            return None
        if not pull.why:
            self._take(pull, at, body)
        at += len(body.data)
        if pull.why or at == len(pull.view):
            return pull
        self._ask(body.pull, node, pull, at)
        return None

    def _take(self, pull: Pull, at: int, body: Piece) -> None:
        size, total = len(body.data), len(pull.view)
        if body.why:
            pull.fail(body.why)
        elif body.size != total:
            pull.fail(f"it has {body.size} bytes there, and {total} were expected")
        elif body.offset != at or size > total - at or (not size and at < total):
            pull.fail("a piece came that was not asked for")
        else:
            pull.view[at : at + size] = body.data
            pull.moved_at = clock.now()

    def _answer(self, node: str, asked: PieceAsked) -> Piece:
        source = self._open_source(node, asked.name)
        if source is None or isinstance(source, str):
            why = source or "the node does not have it (any more)"
            return Piece(asked.pull, asked.offset, 0, b"", why)
        view, release = source
        try:
            with view.cast("B") as data:
                end = min(asked.offset + min(asked.length, links.CHUNK_BYTES), len(data))
                piece = bytes(data[max(0, asked.offset) : max(0, end)])
                return Piece(asked.pull, asked.offset, len(data), piece)
        finally:
            release()

    def forget(self, pull: Pull) -> None:
        """It is over; what still comes of it is not looked at."""
        for number, (_, other, _) in list(self._pulls.items()):
            if other is pull:
                del self._pulls[number]

    def of(self, node: str) -> list[Pull]:
        """All that are on their way from ``node``."""
        return [pull for asker, pull, _ in self._pulls.values() if asker == node]
