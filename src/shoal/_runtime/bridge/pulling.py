"""Bytes that come here from other nodes.

::

    a proxy that is looked at       WantCopy ---> home
                                             <--- CopySource: there they are, and these refs in them
                                    (bulk transfer, from home or from who has got them from it)
                                    CopyLanded -> home sends others here
    a result that stayed abroad     (bulk transfer) FreeResults -> the node that ran the task

Only somebody who looks makes a value come (its slot comes out of the inbox), or a task of another
node whose argument it is: those come before a worker is given the task (``fetch``). Whoever looks
at the same value meanwhile waits for the same transfer, so each value comes once per node.

Invariants:

1. A value is pulled at most once at a time. Its memory is taken first; where there is none, that is
   tried again, and nothing is asked of anybody before.
2. What is told to home of proxies is what ``_core.copies_here`` says; what it takes for here has
   its bytes in memory, or in a file of this node. It hears how each transfer has ended.
3. A result that stays abroad (``Stays``) is let go there exactly once: when it has come, or when
   its slot here is free.
4. Who is to ask again (``COMING``) does; a pull that fails ``FAILURES_MOST`` times at the home ends
   with an error for its readers.
5. A result that stays abroad is lost if its node is, or if pulling it fails as often there:
   ``Surroundings.lost`` has it made again. What it holds here (refs, the recipe of its task) stands
   in node memory meanwhile, and becomes part of it when it comes.

Those that others come for: sources.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from shoal._base import clock, records
from shoal._core import copy_events as copying
from shoal._core.copies_here import CopiesHere
from shoal._core.remote_ref_events import Send
from shoal._native import Memory, Moving, ObjectRef
from shoal._proto import bridge as rows
from shoal._proto import holds
from shoal._proto.holds import Name
from shoal._runtime.bridge.around import RETRY_S, Surroundings, lost_value
from shoal._runtime.bridge.images import Image, copy_in_parts, open_image
from shoal._runtime.bridge.leaving import Leaving
from shoal._runtime.bridge.proxies import Proxies
from shoal._runtime.bridge.sources import COMING, HomeRow, OfObject, OfResult, Sources

FAILURES_MOST = 5
WAITS_MOST = 4
_SLOT = (1 << 32) - 1


@dataclass(slots=True)
class Stays:
    """A result of ours whose bytes are on the node that ran the task."""

    key: int
    node: str
    number: int
    index: int


@dataclass(slots=True)
class Pull:
    """One value on its way here."""

    failures: int = 0
    waits: int = 0
    """How often in a row it was not there yet."""
    is_asked: bool = False
    """Home was asked where the bytes are."""
    moving: Moving | None = None
    inside: tuple[Name, ...] = ()
    """The refs in it, as home says."""
    kept: tuple[int, int] | None = None
    """This node has the bytes: they are that result, which it keeps for home."""


class Pulling:
    """Values that come."""

    def __init__(self, memory: Memory, proxies: Proxies, around: Surroundings) -> None:
        self._memory = memory
        self._proxies = proxies
        self._around = around
        self._pulls: dict[int, Pull] = {}
        self.stays: dict[int, Stays] = {}
        """By slot."""
        self._awaited: dict[int, list[Callable[[], None]]] = {}
        self.nodes: set[str] = set()
        """Those that live."""
        self._here = CopiesHere()
        self.sources = Sources(memory, proxies, self._here, around)
        self.leaving = Leaving(memory, proxies, around, self.need, lambda: len(self._pulls))
        self.sources.fetch_home = self._fetch_home
        self.sources.stays = lambda key: _place_of(self.stays.get(key & _SLOT))
        proxies.needed = self.need
        proxies.settled = self.settled
        proxies.released = self._released

    # ---- values that come
    def fetch(self, ref: ObjectRef[Any], done: Callable[[], None]) -> None:
        """Call ``done`` once the value is in this node's memory, or is an error."""
        key = ref.key
        if _is_here(self._memory, key):
            done()
            return
        self._awaited.setdefault(key, []).append(done)
        if self._memory.is_elsewhere(key):
            self.need(key)
        elif not self._memory.watch(ref, key):
            self.settled(key)

    def settled(self, key: int) -> None:
        """It has a value or an error now; perhaps elsewhere."""
        self.leaving.settled(key)
        if key not in self._awaited:
            return
        if not _is_here(self._memory, key):
            if self._memory.is_elsewhere(key):
                self.need(key)
            return
        for done in self._awaited.pop(key):
            done()

    def need(self, key: int) -> None:
        """Somebody waits for the bytes."""
        if key not in self._pulls and self._memory.is_elsewhere(key):
            self._pulls[key] = Pull()
            self._begin(key)

    def _begin(self, key: int) -> None:
        pull = self._pulls.get(key)
        if pull is None:
            return
        if not self._memory.is_elsewhere(key):
            self._end(key)
            self.settled(key)
            return
        if pull.moving is None:
            moving = self._memory.begin_restore(key)
            if not isinstance(moving, Moving):
                size = (self._memory.spilled(key) or (0, 0, 0))[1]
                self._around.make_room(size)
                self._around.call_later(RETRY_S, lambda: self._begin(key))
                return
            pull.moving = moving
        name = self._proxies.proxy_name(key)
        stays = self.stays.get(key & _SLOT)
        if name is not None and not pull.is_asked:
            pull.is_asked = True
            self._run(copying.Needed(name))
        elif stays is not None:
            source = OfResult(stays.number, stays.index)
            self._transfer(key, pull, stays.node, source)

    def _transfer(
        self,
        key: int,
        pull: Pull,
        node: str,
        source: OfResult | OfObject,
    ) -> None:
        assert pull.moving is not None, "the memory is taken first"
        view = memoryview(pull.moving)

        def done(why_not: str) -> None:
            view.release()
            name = None if isinstance(source, OfResult) else _name_of(source)
            if self._pulls.get(key) is not pull:  # nobody wants it any more
                if name is not None:
                    self._run(copying.PullEnded(name, node, why_not))
            elif why_not:
                self._failed(key, pull, node, name, why_not)
            else:
                self._landed(key, pull, node, name)

        if isinstance(source, OfObject) and pull.kept is not None and node == source.node:
            kept = self.sources.kept(node, *pull.kept)
            found = open_image(self._memory, kept) if kept else None
            image = found if isinstance(found, Image) else None
            copy_in_parts(image, view, self._around.call_later, done)
            return
        self._around.links.pull(node, msgspec.msgpack.encode(source), view, done)

    def _landed(self, key: int, pull: Pull, node: str, name: Name | None) -> None:
        moving, pull.moving = pull.moving, None
        assert moving is not None, "its bytes have come there"
        refs: list[ObjectRef[Any]] | None = None
        if self._memory.is_elsewhere(key) and name is not None:
            refs = self._proxies.landed(name, pull.inside)
        elif self._memory.is_elsewhere(key) and key & _SLOT in self.stays:
            refs = []  # what it holds stands in its stub
        problem = ""
        if refs is None:
            problem = "it is not wanted any more"
            self._end(key)
        elif not self._memory.end_pull(moving, refs):
            problem = "its bytes were damaged on their way from another node"
            if (stays := self.stays.get(key & _SLOT)) is not None:
                self._gone(stays, problem)
            else:
                self._lose(key, records.pack("InternalError", message=problem))
        else:
            del self._pulls[key]
        if name is not None:
            self._run(copying.PullEnded(name, node, problem))
        if problem:
            return
        self._let_go(key)
        self.settled(key)

    def _failed(self, key: int, pull: Pull, node: str, name: Name | None, why_not: str) -> None:
        # Of others home knows more, and sends to the next.
        is_coming = why_not == COMING
        pull.failures += not is_coming and (name is None or node == name.node)
        pull.waits = min(pull.waits + 1, WAITS_MOST) if is_coming else 0
        if pull.failures >= FAILURES_MOST:
            problem = f"its bytes could not be had from node {node}: {why_not}"
            if (stays := self.stays.get(key & _SLOT)) is not None:
                self._gone(stays, problem)
            else:
                self._lose(key, lost_value(problem))
        if name is not None:
            self._run(copying.PullEnded(name, node, why_not))
        elif key in self._pulls:
            pause = RETRY_S * 2 ** (pull.waits or pull.failures)
            self._around.call_later(pause, lambda: self._begin(key))

    def _gone(self, stays: Stays, problem: str) -> None:
        """A result of ours will not come from where it is."""
        self._pulls.pop(stays.key, None)
        if stays.node in self.nodes:
            self._let_go(stays.key)
        else:
            del self.stays[stays.key & _SLOT]
        if not self._memory.is_elsewhere(stays.key):
            return
        if not self._around.lost(stays.key, problem):
            self._memory.lose(stays.key, lost_value(problem))
        self.settled(stays.key)

    def _lose(self, key: int, record: bytes) -> None:
        self._end(key)
        if self._memory.is_elsewhere(key):
            self._memory.lose(key, record)
        self.settled(key)

    def _end(self, key: int) -> None:
        """It is not pulled any more."""
        name = self._proxies.proxy_name(key)
        if self._pulls.pop(key, None) is not None and name is not None:
            self._run(copying.ProxyGone(name))

    def _released(self, key: int, name: Name) -> None:
        """The proxy goes, and with it the copy: home hears that before it hears of the ref."""
        self._pulls.pop(key, None)
        self._run(copying.ProxyGone(name))

    def _let_go(self, key: int) -> None:
        """The bytes of a result are not needed abroad any more."""
        stays = self.stays.pop(key & _SLOT, None)
        if stays is not None:
            body = rows.FreeResults(stays.number, (stays.index,))
            self._around.links.send(stays.node, body)

    def place_of(self, key: int) -> str:
        """The node that has the bytes of a value; empty: this one."""
        if not self._memory.is_elsewhere(key):
            return ""
        stays = self.stays.get(key & _SLOT)
        if stays is not None and stays.key == key:
            return stays.node
        name = self._proxies.proxy_name(key)
        return "" if name is None else name.node

    def stay(self, stays: Stays) -> None:
        """A result of ours stays on the node that made it, until somebody looks."""
        former = self.stays.get(stays.key & _SLOT)
        if former is not None and former.key != stays.key:  # its slot was free: this is another
            self._pulls.pop(former.key, None)
            self._let_go(former.key)
        self.stays[stays.key & _SLOT] = stays
        if stays.node in self.leaving.nodes:
            self.leaving.fetch(stays.key)

    def stays_as(self, key: int, new: int) -> None:
        """What slot ``new`` has now is what slot ``key`` had, if that stays abroad."""
        stays = self.stays.pop(key & _SLOT, None)
        if stays is not None:
            self._pulls.pop(key, None)
            self.stay(Stays(new, stays.node, stays.number, stays.index))
            self.look(new)

    def look(self, key: int) -> None:
        """A row of the inbox: somebody looks at a result that is abroad, or nobody has it any
        more."""
        stays = self.stays.get(key & _SLOT)
        if stays is None:
            return
        if not self._memory.is_live(stays.key):
            self._pulls.pop(stays.key, None)
            self._let_go(stays.key)
            return
        found = self._memory.spilled(stays.key)
        if found is not None and found[2]:
            self.need(stays.key)

    def sweep(self) -> None:
        """The inbox has lost rows: look at everything."""
        for stays in list(self.stays.values()):
            self.look(stays.key)

    def _fetch_home(self, key: int) -> None:
        """Others come for a result of ours that is abroad."""
        self._awaited.setdefault(key, []).append(lambda: self.sources.came_back(key))
        self.need(key)

    @property
    def is_empty(self) -> bool:
        """Whether nothing comes, stays abroad, or was got from others."""
        return self._here.is_empty and self.sources.is_empty and not (self._pulls or self.stays)

    # ---- rows, and what is decided on them
    def heard(self, node: str, epoch: int, body: holds.CopyBody) -> None:
        """A row about bytes has come."""
        if isinstance(body, HomeRow):
            self.sources.heard(node, body)
            return
        if isinstance(body, holds.CopySource):
            key = self._proxies.key_of(Name(node, epoch, body.key))
            if key is not None and key in self._pulls:
                self._pulls[key].inside, self._pulls[key].kept = body.contained, body.kept
        self._run(copying.CopyHeard(node, body))

    def _run(self, event: copying.Here) -> None:
        for order in self._here.step(clock.now(), event):
            match order:
                case Send(node, body):
                    self._around.links.send(node, body)
                case copying.Pull(name, source):
                    self._perform_pull(name, source)
                case copying.Fail(name, record):
                    key = self._proxies.key_of(name)
                    if key is not None:
                        self._lose(key, record)
                case _:
                    pass  # what landed is shown where it landed, and what nobody wants is gone

    def _perform_pull(self, name: Name, source: str) -> None:
        key = self._proxies.key_of(name)
        pull = None if key is None else self._pulls.get(key)
        if key is None or pull is None or pull.moving is None:
            self._run(copying.PullEnded(name, source, "it is not wanted here any more"))
            return
        self._transfer(key, pull, source, OfObject(name.node, name.epoch, name.key))

    def node_joined(self, node: str, is_driver: bool) -> None:
        """A node that may come, and be come to."""
        self.nodes.add(node)
        self.sources.node_joined(node, is_driver)

    def node_lost(self, node: str) -> None:
        """What others had of it comes no more; what it had of ours is its no more."""
        self.nodes.discard(node)
        self.leaving.end(node)
        self.sources.node_lost(node)
        self._run(copying.NodeGone(node))
        for key in list(self._pulls):
            name = self._proxies.proxy_name(key)
            if name is not None and name.node == node:
                del self._pulls[key]
        for stays in [stays for stays in self.stays.values() if stays.node == node]:
            self._gone(stays, f"node {node}, which had its bytes, is lost")


def _is_here(memory: Memory, key: int) -> bool:
    return not memory.is_elsewhere(key) and not memory.unsealed([key])


def _place_of(stays: Stays | None) -> tuple[str, int, int] | None:
    return None if stays is None else (stays.node, stays.number, stays.index)


def _name_of(source: OfObject) -> Name:
    return Name(source.node, source.epoch, source.key)
