"""What programs of a node want of the store, until it has told them.

1. An ask is repeated, with its number, until it is told; a number is told once.
2. What is *created* here and does not survive the store (anonymous actors, groups) is told to each
   store in a new life (RULES K-7), until it is known to be placed (an actor: from then on the node
   that has it speaks for it) or to be gone.
3. What is *watched* is told too, so that news go on.
"""

from __future__ import annotations

import msgspec

from shoal._core.members import interface as on
from shoal._core.members.actor_table import is_lasting
from shoal._proto import membership as m
from shoal._proto.messages import Failure

NEVER = float("-inf")


class Wish(msgspec.Struct):
    """An ask that is not told."""

    ticket: int
    body: m.AskBody
    store: int = 0
    """The life of the store to which it was first sent."""


class Wishes:
    """All that a node has asked for."""

    def __init__(self) -> None:
        self.open: dict[int, Wish] = {}
        self.sent_at = NEVER
        """When all that is open was last sent."""
        self._actors: dict[str, m.RegisterActor] = {}
        self._groups: dict[str, m.GroupSpec] = {}
        self._watched: dict[str, None] = {}
        self._number = 0

    def ask(self, ticket: int, body: m.AskBody) -> int:
        """A program wants this."""
        self._number += 1
        self.open[self._number] = Wish(ticket, body)
        return self._number

    def messages(self, node: str, epoch: int, store: int, first: int = 0) -> list[m.Ask]:
        """Everything open from number ``first`` on."""
        below = next(iter(self.open), self._number + 1)
        due = [(number, wish) for number, wish in self.open.items() if number >= first]
        for _, wish in due:
            wish.store = wish.store or store
        return [
            m.Ask(node, epoch, store, number, below, wish.body, wish.store) for number, wish in due
        ]

    def told(self, number: int, body: m.ToldBody) -> list[on.NodeCommand]:
        """The store has answered."""
        wish = self.open.pop(number, None)
        if wish is None:
            return []
        match body:
            case m.ActorFacts(actor_id, state):
                if state != "DEAD" and not isinstance(wish.body, m.KillActor):
                    self._watched[actor_id] = None
                asked = wish.body
                is_passing = isinstance(asked, m.RegisterActor) and not is_lasting(asked)
                if is_passing and state == "PENDING":
                    assert isinstance(asked, m.RegisterActor)
                    self._actors[actor_id] = asked
            case m.GroupFacts(group_id, state):
                asked = wish.body
                if isinstance(asked, m.GroupSpec | m.FindGroup) and state != "REMOVED":
                    self._watched[group_id] = None
                    if isinstance(asked, m.GroupSpec) and not asked.detached:
                        self._groups[group_id] = asked
        return [on.AskAnswered(wish.ticket, body)]

    def news(self, facts: m.ActorFacts | m.GroupFacts) -> list[on.NodeCommand]:
        """Something has changed. It also answers whoever still waits to hear of it."""
        commands: list[on.NodeCommand] = []
        if isinstance(facts, m.GroupFacts):
            if facts.state == "REMOVED":
                self._groups.pop(facts.group_id, None)
                self._watched.pop(facts.group_id, None)
            return [on.NewsHeard(facts)]
        for number, wish in list(self.open.items()):
            asked = wish.body
            if isinstance(asked, m.RegisterActor) and asked.actor_id == facts.actor_id:
                commands += self.told(number, facts)
        if facts.state != "PENDING":
            self._actors.pop(facts.actor_id, None)
        if facts.state == "DEAD":
            self._watched.pop(facts.actor_id, None)
        return [*commands, on.NewsHeard(facts)]

    def created(self) -> list[m.RegisterActor | m.GroupSpec]:
        """What a store in a new life has to know."""
        return [*self._actors.values(), *self._groups.values()]

    def watched(self) -> list[str]:
        """Actors and groups whose changes are wanted, or that are asked for."""
        asked = [
            wish.body.actor_id if isinstance(wish.body, m.RegisterActor) else wish.body.group_id
            for wish in self.open.values()
            if isinstance(wish.body, m.RegisterActor | m.GroupSpec)
        ]
        return list(dict.fromkeys([*self._watched, *asked]))

    def clear(self, record: bytes) -> list[on.NodeCommand]:
        """The epoch is over, and whoever has asked with it."""
        commands: list[on.NodeCommand] = [
            on.AskAnswered(wish.ticket, Failure(record)) for wish in self.open.values()
        ]
        self.open.clear()
        self._actors.clear()
        self._groups.clear()
        self._watched.clear()
        return commands

    def validate(self) -> None:
        """Assert what must hold."""
        assert list(self.open) == sorted(self.open)
