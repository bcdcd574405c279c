"""A pull that has failed keeps nothing: its memory is free for others at once.

No peer is needed for that: nobody answers over a link that has none.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from shoal._runtime.daemon_loop import Loop
from shoal._runtime.links.bulk import Bulk, BulkLimits, BulkWays
from shoal._runtime.links.door import Refusals
from shoal._runtime.links.handshake import Contexts
from shoal._runtime.links.mailbox import Mailbox

LONG_S = 20.0


class Done:
    """Hears how the pull has ended, and holds what it was for."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def __call__(self, why_not: str) -> None:
        self._said.append(why_not)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """As in a daemon nobody looks for garbage."""
    gc.disable()
    yield Loop()
    gc.enable()


def made(loop: Loop, give_up_s: float) -> Bulk:
    contexts = Contexts(None)  # type: ignore[arg-type]  # nobody is dialled
    ways = BulkWays(
        lambda node: ("", False), lambda node, body: None, lambda node, name: None, Refusals()
    )
    return Bulk(loop, Mailbox(loop), contexts, ways, BulkLimits(give_up_s=give_up_s))


def pulled(bulk: Bulk, said: list[str]) -> weakref.ref[Done]:
    done = Done(said)
    bulk.pull("n", b"value", memoryview(bytearray(100)), done, False)
    return weakref.ref(done)


def test_of_a_lost_node(loop: Loop) -> None:
    said: list[str] = []
    bulk = made(loop, LONG_S)
    gone = pulled(bulk, said)
    assert gone() is not None
    bulk.forget("n")
    assert said == ["node n is lost"]
    assert gone() is None, "its alarm, which is long after this, keeps it"


def test_of_a_node_that_says_nothing(loop: Loop) -> None:
    said: list[str] = []
    gone = pulled(made(loop, 0.02), said)
    loop.call_later(0.2, loop.stop)
    loop.run()
    assert said[0].startswith("nothing came for 0.02 s")
    assert gone() is None, "it is in a cycle"
