"""What all rows of the protocols have in common."""

import msgspec


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all rows: an array with the name of its kind first."""
