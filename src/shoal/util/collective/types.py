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


class Backend:
    """Names of what can carry a group; all but NCCL mean shared memory here."""

    SHM = "SHM"
    GLOO = "GLOO"
    TORCH_GLOO = "TORCH_GLOO"
    NCCL = "NCCL"
