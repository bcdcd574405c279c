"""``ray.util.rpdb``, ``ray.util.pdb`` and ``ray.util.ray_debugpy``: ``set_trace``.

Ray's variable ``RAY_DEBUG`` is read where ``SHOAL_DEBUGGER`` says nothing (``environment``).
"""

from __future__ import annotations

import pdb
import sys


def set_trace(breakpoint_uuid: object = None) -> None:
    """Stop at the next line of who calls: in a task as ``breakpoint()`` does there, else in pdb.

    Args:
        breakpoint_uuid: Means nothing.
    """
    if sys.breakpointhook is not sys.__breakpointhook__:  # a worker's, or of a debugger's own
        sys.breakpointhook()
        return
    pdb.Pdb().set_trace(sys._getframe().f_back)
