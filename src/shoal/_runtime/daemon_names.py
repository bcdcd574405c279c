"""Names of actors in a cluster: unique, and found from every node.

The head's daemon says which node has a name; that node says what the actor is. A node that wants a
name asks the head before it makes the actor; who looks for one that its own node does not have asks
the head, then the node that has it::

    ClaimName   --> NameAsk(claim)   --> head: NameAnswer("" or who has it)
    FindName    --> NameAsk(find)    --> head: NameAnswer(who has it)
                --> ActorAsk         --> that node: ActorAnswer, with a ref to the lifetime object
    ReleaseName --> NameAsk(release) --> head
    TakeName    --> NameAsk(take)    --> head         its actor has another home now

1. On the head ``_owners`` has the names of all nodes; those of a lost node go with it.
2. A head that begins anew hears the names of every node from that node, when it joins.
3. Where there is no head nobody finds anything, and a name is as unique as its node can tell.
4. A claim is answered with an actor that lives, or granted: while the one that has the name ends,
   it waits. A node that is asked for a name that it does not have tells the head so.
5. Who was told of an actor has its lifetime object held for ``HELD_S``, until it holds that itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from shoal._core import commands, events
from shoal._core.actors import GONE
from shoal._core.node import NodeMachine
from shoal._native import ObjectRef
from shoal._proto import bridge as rows
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_loop import Loop

HELD_S = 3.0
AGAIN_S = 0.02
"""Until who has a name is asked again, while its actor begins or ends."""
Key = tuple[str, str]
"""Namespace and name."""


class Names:
    """Names, as one daemon knows them."""

    def __init__(
        self,
        loop: Loop,
        machine: NodeMachine,
        cluster: ClusterNode,
        post: Callable[[events.AnyEvent], None],
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._cluster = cluster
        self._post = post
        self._me = machine.tables.config.node_id.hex()
        self._owners: dict[Key, str] = {}
        self._asked: dict[int, tuple[int, bool, Key, str]] = {}
        """By number: ticket, whether it is a claim, what, and who is to answer."""
        self._numbers = 0
        self._held: dict[int, list[ObjectRef[Any]]] = {}
        self.bridging: Bridging | None = None

    # ---- what the machine wants
    def perform_claim_name(self, command: commands.ClaimName) -> None:
        """Have it, or hear who has."""
        self._ask(command.ticket, True, (command.namespace, command.name))

    def perform_find_name(self, command: commands.FindName) -> None:
        """Hear of the actor that has it."""
        self._ask(command.ticket, False, (command.namespace, command.name))

    def perform_release_name(self, command: commands.ReleaseName) -> None:
        """It is free."""
        key, head = (command.namespace, command.name), self._cluster.rows.head_node()
        if head == self._me:
            self._release(self._me, key)
        elif self.bridging is not None and head:
            self.bridging.send(head, rows.NameAsk(0, rows.RELEASE, *key))

    def perform_take_name(self, command: commands.TakeName) -> None:
        """It comes with its actor."""
        key, head = (command.namespace, command.name), self._cluster.rows.head_node()
        if head == self._me:
            self._take(self._me, key, command.former)
        elif self.bridging is not None and head:
            self.bridging.send(head, rows.NameAsk(0, rows.TAKE, *key, command.former))

    def _ask(self, ticket: int, is_claim: bool, key: Key) -> None:
        head = self._cluster.rows.head_node()
        if head == self._me:
            owner = self._claim(self._me, key) if is_claim else self._owners.get(key, "")
            self._owner_told(ticket, is_claim, key, owner)
        elif self.bridging is None or not head:
            self._post(events.NameAnswered(ticket, None))
        else:
            number = self._note(ticket, is_claim, key, head)
            what = rows.CLAIM if is_claim else rows.FIND
            self.bridging.send(head, rows.NameAsk(number, what, *key))

    def _note(self, ticket: int, is_claim: bool, key: Key, node: str) -> int:
        self._numbers += 1
        self._asked[self._numbers] = (ticket, is_claim, key, node)
        return self._numbers

    def _owner_told(self, ticket: int, is_claim: bool, key: Key, owner: str) -> None:
        if not owner or owner == self._me or self.bridging is None:
            self._post(events.NameAnswered(ticket, None))
            return
        number = self._note(ticket, is_claim, key, owner)
        self.bridging.send(owner, rows.ActorAsk(number, *key))

    # ---- on the head
    def _claim(self, node: str, key: Key) -> str:
        """Who has it already; empty: ``node`` has it now."""
        owner = self._owners.setdefault(key, node)
        return "" if owner == node else owner

    def _release(self, node: str, key: Key) -> None:
        if self._owners.get(key) == node:
            del self._owners[key]

    def _take(self, node: str, key: Key, former: str) -> None:
        if self._owners.get(key, former) == former:
            self._owners[key] = node

    # ---- what other nodes say
    def asked(self, node: str, body: rows.NameAsk) -> None:
        """A node wants a name, looks for one, or has no use for it any more."""
        key = (body.namespace, body.name)
        if body.what == rows.RELEASE:
            self._release(node, key)
            return
        if body.what == rows.TAKE:
            self._take(node, key, body.former)
            return
        owner = self._claim(node, key) if body.what == rows.CLAIM else self._owners.get(key, "")
        if self.bridging is not None and body.number:
            self.bridging.send(node, rows.NameAnswer(body.number, owner))

    def answered(self, node: str, body: rows.NameAnswer) -> None:
        """The head says who has it."""
        ticket, is_claim, key, asked = self._asked.pop(body.number, (0, False, ("", ""), ""))
        if ticket and asked == node:
            self._owner_told(ticket, is_claim, key, body.node)

    def actor_asked(self, node: str, body: rows.ActorAsk) -> None:
        """What an actor of this node is, for who looks for its name."""
        if self.bridging is None:
            return
        actor = self._machine.tables.actors.named(body.namespace, body.name)
        if actor is not None and not actor.is_dead and not actor.queue:  # it is being made
            self._loop.call_later(AGAIN_S, lambda: self.actor_asked(node, body))
            return
        if actor is None or actor.is_dead:
            if actor is None:  # a former head has told of it
                self._give_up((body.namespace, body.name))
            self.bridging.send(node, rows.ActorAnswer(body.number))
            return
        lifetime = self.bridging.proxies.name_of(actor.spec.arguments)
        answer = rows.ActorAnswer(body.number, actor.describe(created=False), lifetime)
        self.bridging.proxies.send(node, answer, rows.names_in(answer))

    def actor_told(self, node: str, body: rows.ActorAnswer, refs: list[ObjectRef[Any]]) -> None:
        """What the actor is that was looked for."""
        ticket, is_claim, key, asked = self._asked.pop(body.number, (0, False, ("", ""), ""))
        if not ticket or asked != node:
            return
        if body.info is None or not refs:
            if is_claim:  # it has just ended: the head will hear so, and give the name away
                self._loop.call_later(AGAIN_S, lambda: self._ask(ticket, True, key))
            else:
                self._post(events.NameAnswered(ticket, None))
            return
        self._held[ticket] = refs
        self._loop.call_later(HELD_S, lambda: self._let_go(ticket))
        spec = msgspec.structs.replace(body.info.spec, arguments=refs[0].key)
        info = msgspec.structs.replace(body.info, spec=spec, created=False, is_elsewhere=True)
        self._post(events.NameAnswered(ticket, info))

    def _give_up(self, key: Key) -> None:
        """This node is believed to have a name that it does not have."""
        namespace, name = key
        is_claimed = any(claims and its == key for _, claims, its, _ in self._asked.values())
        if not is_claimed and key not in self._machine.tables.claimed:
            self.perform_release_name(commands.ReleaseName(namespace, name))

    def _let_go(self, ticket: int) -> None:
        self._held.pop(ticket, None)

    # ---- nodes
    def node_joined(self, node: str) -> None:
        """If it is the head, it is to know the names of this node."""
        if self.bridging is None or node != self._cluster.rows.head_node():
            return
        for key, actor in self._machine.tables.actors.by_name.items():
            if actor.moves == GONE:
                continue
            self.bridging.send(node, rows.NameAsk(0, rows.CLAIM, *key))

    def node_lost(self, node: str) -> None:
        """Its names are free, and what it was asked is not answered."""
        self._owners = {key: owner for key, owner in self._owners.items() if owner != node}
        for number, (ticket, _, _, asked) in list(self._asked.items()):
            if asked == node:
                del self._asked[number]
                self._post(events.NameAnswered(ticket, None))

    def end(self) -> None:
        """The epoch of this node is over."""
        self.bridging = None
        self._owners.clear()
        self._held.clear()
        for ticket, _, _, _ in [*self._asked.values()]:
            self._post(events.NameAnswered(ticket, None))
        self._asked.clear()
