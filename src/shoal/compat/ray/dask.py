"""``ray.util.dask``: our scheduler under Ray's names."""

from __future__ import annotations

from typing import Any

import dask.base

from shoal.util.dask import (
    ShoalDaskCallback,
    disable_dask_on_shoal,
    enable_dask_on_shoal,
    shoal_dask_get,
    shoal_dask_get_sync,
)

ray_dask_get = shoal_dask_get
ray_dask_get_sync = shoal_dask_get_sync
disable_dask_on_ray = disable_dask_on_shoal


def enable_dask_on_ray(shuffle: str | None = "tasks", use_shuffle_optimization: bool = True) -> Any:
    """Make the scheduler what Dask uses; shuffles need no optimization of their own."""
    return enable_dask_on_shoal(shuffle)


def ray_dask_persist(*args: Any, **kwargs: Any) -> Any:
    """``dask.persist`` that leaves the results in the store."""
    kwargs.setdefault("scheduler", shoal_dask_get)
    return dask.base.persist(*args, **kwargs)


class RayDaskCallback(ShoalDaskCallback):
    """``ShoalDaskCallback`` with ``ray_`` before each name: ``_ray_presubmit`` and so on."""

    prefix = "ray_"
