"""The words that start a module of this package as a program of its own."""

from __future__ import annotations

import sys


def program(module: str, *words: str) -> list[str]:
    """``python -m module words``, with this interpreter; ``-P`` keeps the working directory off its
    path."""
    return [sys.executable, "-P", "-m", module, *words]
