"""Values of a node that is being drained: they come here before it leaves.

::

    results of ours that stay there       come home
    values of its own that we have refs   their bytes come here, and then they are *adopted*: what
    to (made by tasks that ran there)     this node sends from then on calls them its own

So when the node has left, nobody misses anything: no task has to be run again, and no reader gets
an error. Each node that has such refs does this for itself when it hears of the drain; the node
that leaves waits until all have (``Bridging.left_behind``).

1. At most ``AT_ONCE`` values come for this at a time: they need memory here, and others read too.
2. The lifetime object of an actor that is called from here is not adopted: its actor is where its
   home is, and that may move (``daemon_homes``).
3. An adopted value stays what it was for who has told us of it: there is one slot, with two names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from shoal._native import Memory
from shoal._runtime.bridge.around import Surroundings
from shoal._runtime.bridge.proxies import Proxies

AT_ONCE = 8
PUMP_S = 0.05


class Leaving:
    """Nodes that are being drained, as another one sees them.

    ``need`` pulls a value, ``pulls`` says how many are on their way.
    """

    def __init__(
        self,
        memory: Memory,
        proxies: Proxies,
        around: Surroundings,
        need: Callable[[int], None],
        pulls: Callable[[], int],
    ) -> None:
        self._memory = memory
        self._proxies = proxies
        self._around = around
        self._need = need
        self._pulls = pulls
        self.nodes: set[str] = set()
        self._waiting: deque[int] = deque()
        self._is_pumping = False

    def begin(self, node: str, stays: Iterable[int]) -> None:
        """That node is being drained; the results of ours that stay there."""
        if node in self.nodes:
            return
        self.nodes.add(node)
        for key in [k for k, home in self._proxies.homes().items() if home[0] == node]:
            self.settled(key)
        for key in stays:
            self.fetch(key)

    def end(self, node: str) -> None:
        """It is gone."""
        self.nodes.discard(node)

    def settled(self, key: int) -> None:
        """A proxy has its value, here or elsewhere."""
        name = self._proxies.proxy_name(key) if self.nodes else None
        if name is None or name.node not in self.nodes:
            return
        if self._memory.is_elsewhere(key):
            self.fetch(key)
        elif not self._memory.unsealed([key]) and not self._proxies.is_lifetime(key):
            self._proxies.adopted.add(key)

    def fetch(self, key: int) -> None:
        """It is to come here, in its turn."""
        self._waiting.append(key)
        self._pump()

    def _pump(self) -> None:
        while self._waiting and self._pulls() < AT_ONCE:
            self._need(self._waiting.popleft())
        if self._waiting and not self._is_pumping:
            self._is_pumping = True
            self._around.call_later(PUMP_S, self._pump_again)

    def _pump_again(self) -> None:
        self._is_pumping = False
        self._pump()
