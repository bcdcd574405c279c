"""``ray.util.multiprocessing``: our pool with the names that Ray gives two of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from multiprocessing import JoinableQueue, TimeoutError
from typing import Any

from shoal.util import multiprocessing


class Pool(multiprocessing.Pool):
    """``shoal.util.multiprocessing.Pool`` with ``ray_address`` and ``ray_remote_args``."""

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            processes,
            initializer,
            initargs or (),
            maxtasksperchild,
            context,
            ray_address,
            ray_remote_args,
        )


__all__ = ["JoinableQueue", "Pool", "TimeoutError"]
