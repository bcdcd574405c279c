"""Who has asked the scheduler for something once, and waits: actors and placement groups.

Queues of tasks ask for ever and stand elsewhere. Those of one job that ask for the same stand in
one *crowd*, the oldest first: what does not fit for the first fits for none of them.

1. Who asks stands in one crowd, or among the impossible, which this node can never fulfil.
2. There is no empty crowd.
"""

from __future__ import annotations

from collections.abc import ValuesView

from shoal._core.resources import GPU, Account, Amounts, Target, sum_of, units_of


class Asked:
    """Somebody has asked for something once, and waits."""

    __slots__ = ("amounts", "env", "job", "since", "target", "ticket", "who")

    def __init__(self, who: str, job: int, amounts: Amounts, target: Target, env: str = "") -> None:
        self.who = who
        """Id of the actor or group."""
        self.job = job
        self.amounts = amounts
        self.target = target
        self.env = env
        """Key of the runtime environment that its process is to have."""
        self.since = 0.0
        self.ticket = 0


class ActorAsk(Asked):
    """An actor (or its next incarnation) waits for a worker and what it will hold."""

    __slots__ = ()

    @property
    def actor_id(self) -> str:
        """Whose ask it is."""
        return self.who


class GroupAsk(Asked):
    """A placement group waits for its bundles; ``amounts`` is their sum."""

    __slots__ = ("bundles",)

    def __init__(self, who: str, job: int, bundles: tuple[Amounts, ...], target: Target) -> None:
        super().__init__(who, job, sum_of(bundles), target)
        self.bundles = bundles


Crowd = dict[str, Asked]
"""Asks of one job for the same, by who asks, the oldest first."""


class Asks:
    """All of them."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.by_who: dict[str, Asked] = {}
        self.impossible: Crowd = {}
        """Asks that this node can never fulfil."""
        self.crowds: dict[tuple[object, ...], Crowd] = {}
        self._tickets = 0

    def __len__(self) -> int:
        return len(self.by_who)

    def values(self) -> ValuesView[Asked]:
        """Everybody who asks."""
        return self.by_who.values()

    def add_actor(self, now: float, ask: ActorAsk, place: Amounts) -> None:
        """An actor needs a worker: ``ask.amounts`` is what it will hold, ``place`` what the node
        must own (RULES S-18)."""
        room = ask.target.room
        self._enter(now, ask, room.can_ever(ask.amounts) and room.can_ever(place))

    def add_group(self, now: float, ask: GroupAsk) -> None:
        """A group needs its bundles."""
        is_possible = bool(ask.target.room.accounts) and self.can_ever(ask.bundles)
        self._enter(now, ask, is_possible)

    def can_ever(self, bundles: tuple[Amounts, ...]) -> bool:
        """Whether the empty node could have all of them at once."""
        account, amounts = self._account, sum_of(bundles)
        if not account.can_ever(amounts) or not units_of(amounts, GPU):
            return account.can_ever(amounts)
        # Shares of one id do not come from two.
        gpus = Account({GPU: len(account.gpus)})
        shares = [tuple(row for row in bundle if row[0] == GPU) for bundle in bundles]
        return gpus.take_all(shares) is not None

    def _enter(self, now: float, ask: Asked, is_possible: bool) -> None:
        self._tickets += 1
        ask.since, ask.ticket = now, self._tickets
        self.by_who[ask.who] = ask
        if is_possible:
            self.crowds.setdefault(_crowd_of(ask), {})[ask.who] = ask
        else:
            self.impossible[ask.who] = ask

    def remove(self, ask: Asked) -> None:
        """It has what it asked for, or does not ask any more."""
        del self.by_who[ask.who]
        if self.impossible.pop(ask.who, None) is not None:
            return
        crowd = self.crowds[_crowd_of(ask)]
        del crowd[ask.who]
        if not crowd:
            del self.crowds[_crowd_of(ask)]

    def validate(self) -> None:
        """Assert the invariants."""
        crowds = {who for crowd in self.crowds.values() for who in crowd}
        assert crowds | set(self.impossible) == set(self.by_who)
        assert not crowds & set(self.impossible) and all(self.crowds.values())
        for key, crowd in self.crowds.items():
            tickets = [ask.ticket for ask in crowd.values()]
            assert tickets == sorted(tickets)
            assert all(_crowd_of(ask) == key for ask in crowd.values())


def _crowd_of(ask: Asked) -> tuple[object, ...]:
    """What asks of one crowd have in common."""
    bundles = ask.bundles if isinstance(ask, GroupAsk) else None
    return (ask.job, ask.amounts, bundles, ask.target, ask.env)
