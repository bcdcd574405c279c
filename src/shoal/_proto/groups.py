"""Messages about placement groups, between a process and its node daemon.

A bundle that was removed is an empty one: those behind it keep their indexes.
"""

from shoal._proto.base import Message
from shoal._proto.strategies import LabelRule


class CreateGroup(Message, frozen=True):
    """Reserve all bundles or none; ``Done`` once it is known, or as ``WaitGroup`` if ``waits``."""

    group_id: str
    """Chosen by the caller."""
    bundles: list[dict[str, float]]
    """One that was removed is empty: those behind it keep their indexes."""
    strategy: str
    name: str = ""
    namespace: str = ""
    detached: bool = False
    labels: list[tuple[LabelRule, ...]] = []
    """For each bundle what its node must be like; empty: anything."""
    waits: bool = False
    revision: int = 0
    """How often it has been resized."""
    resized_by: str = ""
    """The last time."""


class ResizeGroup(Message, frozen=True):
    """These are its bundles from now on, if ``revision`` is the one behind that of the group; to
    repeat it is harmless. Answered by ``GroupFacts``, which say what it is."""

    group_id: str
    revision: int
    resized_by: str
    """Random: two may want the same, and each wants to know whether it was he."""
    bundles: list[dict[str, float]]
    labels: list[tuple[LabelRule, ...]]


class WaitGroup(Message, frozen=True):
    """Answered when the group has its place, has none any more, or time is up."""

    group_id: str
    timeout_s: float | None
    """None waits for ever."""


class GroupAnswer(Message, frozen=True):
    is_ready: bool


class GetGroup(Message, frozen=True):
    """By id, else by name."""

    group_id: str = ""
    name: str = ""
    namespace: str = ""


class GroupFacts(Message, frozen=True):
    group_id: str
    bundles: list[dict[str, float]]
    labels: list[tuple[LabelRule, ...]] = []
    revision: int = 0
    resized_by: str = ""


class RemoveGroup(Message, frozen=True):
    """Answered by ``Done`` unless it is only told."""

    group_id: str
