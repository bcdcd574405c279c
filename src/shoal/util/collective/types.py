"""Words of collective operations: how values are combined, and what carries them."""

from __future__ import annotations

from enum import Enum


class ReduceOp(Enum):
    """How the values of the ranks are combined, element by element, in the order of the ranks."""

    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3
    AVERAGE = 4
    """The sum divided by the number of ranks; of floating and complex numbers only."""
    AVG = 4
    """The same, as Ray's graphs call it."""


class Backend(str):
    """Name of what can carry a group; all but NCCL mean shared memory here.

    ``Backend("gloo")`` is ``Backend.GLOO``; a name that is none of these raises ``ValueError``.
    """

    __slots__ = ()

    SHM = "SHM"
    GLOO = "GLOO"
    TORCH_GLOO = "TORCH_GLOO"
    NCCL = "NCCL"

    def __new__(cls, name: str) -> Backend:
        """The backend of this name, in any case of letters."""
        known = (cls.SHM, cls.GLOO, cls.TORCH_GLOO, cls.NCCL)
        if name.upper() not in known:
            raise ValueError(f"there is no backend {name!r}; there are {', '.join(known)}")
        return super().__new__(cls, name.upper())
