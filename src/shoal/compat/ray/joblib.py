"""``ray.util.joblib``: our backend under the name that programs written for Ray select."""

from __future__ import annotations

from shoal.util.joblib import register_shoal


def register_ray() -> None:
    """Make ``joblib.parallel_backend("ray")`` known."""
    register_shoal("ray")
