"""``ray.util.multiprocessing``: our pool with the names that Ray gives some of its arguments."""

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

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """``Pool.apply``, whose last argument has another name in the standard library."""
        return super().apply(func, args or (), kwargs)

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        callback: Callable[[Any], None] | None = None,
        error_callback: Callable[[Any], None] | None = None,
    ) -> multiprocessing.AsyncResult:
        """``Pool.apply_async``; the same."""
        return super().apply_async(func, args or (), kwargs, callback, error_callback)


__all__ = ["JoinableQueue", "Pool", "TimeoutError"]
