"""What nodes tell of themselves, so that others know where there is room: rows and candidates.

::

    node --- NodeRow (with each renewal; on change at most 10/s) ---> store
    node <-- Candidates, one for each wish of its demand, at most 32 rows ---  store

A *wish* is what one scheduling class asks of a node: amounts, and what its labels must be. Nodes
that ask for the same have equal wishes, whatever they call their queues.

All of this is a hint (RULES S-12): a row is as old as its way was long, and the node that it tells
of has the last word. So nothing here is ever needed to be right, only to be bounded.

Amounts are units of 1/10000, as in the accounts (``_core/resources.py``).
"""

from __future__ import annotations

import msgspec

from shoal._proto.messages import LabelRule


class Wish(msgspec.Struct, frozen=True, array_like=True):
    """What a scheduling class asks of a node."""

    amounts: tuple[tuple[str, int], ...] = ()
    """Sorted (name, units) pairs without zeros."""
    labels: tuple[tuple[LabelRule, ...], ...] = ()
    """The node agrees with all rules of one of these; empty: anything."""
    python: str = ""
    """Minor version that the job has, as 3.11; empty: any (RULES E-3)."""
    spreads: bool = False
    """``SPREAD``: nodes are handed out in turn, however full they are."""


class Demand(msgspec.Struct, frozen=True, array_like=True):
    """So many tasks (actors, bundles) wait on this node for ``wish``."""

    wish: Wish
    count: int


class NodeRow(msgspec.Struct, frozen=True, array_like=True):
    """One node as it was when it wrote this."""

    node: str
    """Its node id in hex."""
    epoch: int = 0
    number: int = 0
    """Grows within the epoch: the row with the greater (epoch, number) is the newer one."""
    total: dict[str, int] = {}
    free: dict[str, int] = {}
    """What idle workers hold counts as free (RULES S-2)."""
    gpus: tuple[int, ...] = ()
    """Free units of each GPU id: a fraction comes from one of them (RULES S-9)."""
    wait_s: float = 0.0
    """How long a task that comes now would wait for its turn, as far as the node can tell."""
    demand: tuple[Demand, ...] = ()
    labels: dict[str, str] = {}
    python: str = ""
    pressure: float = 0.0
    """Share of the object store that is in use and could not leave."""
    is_driver: bool = False
    """Runs nothing (RULES S-19)."""
    is_draining: bool = False
    """Takes nothing new."""
    cores: int = 0
    """Of its machine, whatever it declares as CPU."""


class Candidates(msgspec.Struct, frozen=True, array_like=True):
    """What the store knows for one wish: at most 32 rows together."""

    wish: Wish
    ready: tuple[NodeRow, ...] = ()
    """Could start one now."""
    able: tuple[NodeRow, ...] = ()
    """Could start one when something there ends."""
    slots: tuple[int, ...] = ()
    """How many tasks each of the ready has room for, that has not been named to others too."""
    known: int = 0
    """How many nodes there are that could ever run it."""
