"""What the options of commands mean: texts in, values out, one clear sentence for what is wrong."""

from __future__ import annotations

import json
import os
import re

from shoal._base import config, environment
from shoal._runtime import session_dir, strategies


class CommandError(Exception):
    """A command cannot do what was asked; the text says why and what to do."""


def root() -> str:
    """The directory of this user's sessions."""
    return session_dir.check_root(environment.read().root)


def check_name(name: str, fresh: bool) -> None:
    if fresh and not name:
        raise CommandError("--fresh needs a --name: a session without one keeps nothing")
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise CommandError(
            f"--name must be of letters, digits, dots, dashes and underscores, 64 at most: {name!r}"
        )


def positive(option: str, value: float | None) -> float | None:
    if value is not None and value < 0:
        raise CommandError(f"{option} must not be negative: {value}")
    return value


def resources(text: str) -> dict[str, float]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    is_right = isinstance(found, dict) and all(
        isinstance(amount, int | float) and not isinstance(amount, bool) and amount >= 0
        for amount in found.values()
    )
    if not is_right:
        raise CommandError(
            f"--resources must be JSON like '{{\"licence\": 2}}' with amounts of 0 or more: {text}"
        )
    return {name: float(amount) for name, amount in found.items()}


def labels(text: str) -> dict[str, str]:
    labels = {}
    for part in filter(None, text.split(",")):
        key, is_given, value = (word.strip() for word in part.partition("="))
        if not is_given or not strategies.is_selector({key: value or "x"}):
            raise CommandError(f"--labels must be like zone=a,disk=fast: {text}")
        labels[key] = value
    return labels


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def places(text: str) -> tuple[str, ...] | None:
    if not text:
        return None
    given = () if text == "none" else tuple(text.split(","))
    for place in given:
        if "://" not in place and not os.path.isabs(place):
            raise CommandError(f"--object-spilling-directory must be an absolute path: {place}")
    return given


def size(text: str, option: str = "--object-store-memory") -> int | None:
    """Bytes of ``2GB``, ``500MiB`` or ``1000000``; None for nothing."""
    if not text:
        return None
    number = text.strip().lower().removesuffix("b")
    digits = number.rstrip("kmgti")
    unit = (_UNITS | _BINARY_UNITS).get(number[len(digits) :])
    try:
        size_bytes = int(float(digits) * (unit or 0))
    except ValueError:
        size_bytes = 0
    if size_bytes <= 0:
        raise CommandError(f"{option} must be a size like 2GB or 500MiB: {text}")
    return size_bytes


_TIMES_S = {"s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def lease_s(text: str) -> float:
    """How long leases last."""
    found = time_s(text, "--lease") or config.LeaseTimes().lease_s
    try:
        return config.lease_times(found).lease_s
    except ValueError as error:
        raise CommandError(f"--lease {text}: {error}") from None


def time_s(text: str, option: str) -> float | None:
    """Seconds of ``30s``, ``10m``, ``12h`` or ``7d``; None for nothing."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower())
    unit = _TIMES_S.get(found.group(2)) if found else None
    if found is None or unit is None or float(found.group(1)) <= 0:
        raise CommandError(f"{option} must be a time like 30s, 10m, 12h or 7d: {text}")
    return float(found.group(1)) * unit
