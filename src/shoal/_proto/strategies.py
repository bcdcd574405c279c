"""Where work may run: plain data that a daemon can read (RULES Z-3).

A part of ``messages``, which exports these names too.
"""

from typing import Union

import msgspec


class Default(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Wherever there is room."""


class Spread(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """On as many nodes as there are."""


class NodeAffinity(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """On that node; ``soft``: else anywhere."""

    node_id: str
    soft: bool = False


class LabelRule(msgspec.Struct, frozen=True, array_like=True):
    """What one label of a node must be."""

    key: str
    operator: str
    """in, not_in, exists or does_not_exist."""
    values: tuple[str, ...] = ()


class NodeLabels(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """On a node that agrees with all of one of ``hard``; if there is one, where ``soft`` holds."""

    hard: tuple[tuple[LabelRule, ...], ...] = ()
    soft: tuple[LabelRule, ...] = ()


class InGroup(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """In a bundle of a placement group; -1: in any."""

    group_id: str
    bundle: int = -1
    captures: bool = False
    """What runs there submits into the group too, unless it says otherwise."""


class GroupReady(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Anywhere, as soon as the group has its place, as of its ``revision``."""

    group_id: str
    revision: int = 0


Strategy = Union[Default, Spread, NodeAffinity, NodeLabels, InGroup, GroupReady]
