"""Metrics of one's own: counters, gauges and histograms, usable in drivers, tasks and actors.

An update is a store into this process's own memory, with no message to anybody; the figures outlive
the process (``_runtime/metric_files.py`` says where they stand). ``shoal.state.metrics()`` adds
them up over the session, and ``shoal metrics`` prints them for Prometheus.

Invariants:

1. Metrics of one name in one process are one metric: they count into the same cells. A second one
   of another kind, other tags or other boundaries is an error.
2. Without a session, updates are kept in this process, and go into its next session with the first
   update there. A session that ends takes its figures along; the next one begins at zero.
3. Updates of several threads are all counted. A signal handler that updates a metric while its
   thread does the same may cost one of the two updates, and never blocks.
"""

from __future__ import annotations

import math
import os
import re
import threading
import warnings
import weakref
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

from shoal._runtime import metric_files
from shoal._runtime import session as sessions
from shoal._runtime.metric_files import Definition

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class _Books:
    """Where this process counts: in the file of its session, or in its own memory."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.metrics: weakref.WeakSet[Metric] = weakref.WeakSet()
        self._attached: metric_files.Book | None = None
        self._own = metric_files.Book()

    def cells(self, what: Definition, values: tuple[str, ...]) -> tuple[memoryview[float], bool]:
        """(the words of a series, whether they stay where they are)."""
        session = sessions.current_or_none()
        if self._attached is None and session is not None:
            self._attach(session)
        book = self._attached or self._own
        return book.cells(what, values), book is self._attached

    def _attach(self, session: sessions.Session) -> None:
        try:
            book = metric_files.Book(session.directory)
            book.take(self._own)
        except OSError as error:
            text = f"metrics are kept in this process only, and nobody sees them: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=5)
            return
        self._attached, self._own = book, metric_files.Book()
        session.on_end(self)

    def reset(self) -> None:
        """The session has ended: what is counted from now on belongs to the next one."""
        with self.lock:
            self.forget()

    def in_child(self) -> None:
        """A forked child must not count into its parent's cells, and what was counted is not its
        own; another thread of the parent may have had the lock."""
        self.lock = threading.RLock()
        self._own = metric_files.Book()
        self.forget()

    def forget(self) -> None:
        """Let go of the file, and have each metric look for its cells again."""
        if self._attached is not None:
            self._attached.close()
            self._attached = None
        for metric in list(self.metrics):
            metric._cells.clear()


_books = _Books()
os.register_at_fork(after_in_child=_books.in_child)


class Metric:
    """What counters, gauges and histograms have in common."""

    _kind = ""

    def __init__(
        self,
        name: str,
        description: str = "",
        tag_keys: Sequence[str] | None = None,
        boundaries: Sequence[float] = (),
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError("a metric needs a name")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no name of a metric: letters, digits, '_' and ':', no digit first"
            )
        keys = () if tag_keys is None else tag_keys
        if not isinstance(keys, tuple | list):
            raise TypeError(f"tag_keys must be a tuple of strings, not {keys!r}")
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(f"keys of tags must be strings, not {key!r}")
        if len(set(keys)) < len(keys):
            raise ValueError(f"a key stands twice in tag_keys: {keys!r}")
        self._definition = Definition(
            self._kind, name, str(description), tuple(keys), tuple(map(float, boundaries))
        )
        self._default_tags: dict[str, str] = {}
        self._cells: dict[Any, memoryview[float]] = {}
        """Words of the series that were found, by the tags as they were given."""
        with _books.lock:
            for other in list(_books.metrics):
                if other._definition.name == name and not other._definition.is_like(
                    self._definition
                ):
                    raise ValueError(
                        f"this process has a metric {name!r} of another kind, other tags or other"
                        f" boundaries: {other.info}"
                    )
            _books.metrics.add(self)

    def set_default_tags(self, default_tags: Mapping[str, str]) -> Any:
        """Set values of tags for updates that do not give them; returns the metric itself.

        Raises:
            ValueError: a key is not among the metric's ``tag_keys``.
            TypeError: a value is no string.

        Example:
            >>> from shoal.util.metrics import Counter
        >>> reads = Counter("reads", tag_keys=("disk",)).set_default_tags({"disk": "a"})
            >>> reads.inc()
        """
        self._check(default_tags)
        with _books.lock:
            self._default_tags = dict(default_tags)
            self._cells.clear()
        return self

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, keys and default values of tags.

        Example:
            >>> from shoal.util.metrics import Counter
        >>> Counter("reads", "Reads of a disk").info["description"]
            'Reads of a disk'
        """
        what = self._definition
        return {
            "name": what.name,
            "description": what.description,
            "tag_keys": what.tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def _find(self, tags: Mapping[str, str] | None) -> memoryview[float]:
        """The cells for these tags; the lock is held."""
        given = {} if tags is None else tags
        if given:
            self._check(given)
        final = {**self._default_tags, **given}
        keys = self._definition.tag_keys
        missing = [key for key in keys if key not in final]
        if missing:
            name = self._definition.name
            raise ValueError(f"metric {name!r} needs a value for the tags {', '.join(missing)}")
        values = tuple(final[key] for key in keys)
        cells, is_lasting = _books.cells(self._definition, values)
        if is_lasting:
            self._cells[None if tags is None else tuple(tags.items())] = cells
        return cells

    def _check(self, tags: Mapping[str, str]) -> None:
        if not isinstance(tags, Mapping):
            raise TypeError(f"tags must be a dict of strings, not {tags!r}")
        for key, value in tags.items():
            if key not in self._definition.tag_keys:
                keys = ", ".join(self._definition.tag_keys) or "none"
                raise ValueError(
                    f"metric {self._definition.name!r} has no tag {key!r}; its tag_keys: {keys}"
                )
            if not isinstance(value, str):
                raise TypeError(f"values of tags must be strings: {key} is {value!r}")

    def __reduce__(self) -> Any:
        what = self._definition
        given: tuple[Any, ...] = (what.name, what.description, what.tag_keys)
        if what.boundaries:
            given = (what.name, what.description, what.boundaries, what.tag_keys)
        return _rebuild, (type(self), given, self._default_tags)


def _rebuild(kind: type[Metric], given: tuple[Any, ...], default_tags: dict[str, str]) -> Metric:
    metric = kind(*given)
    return metric.set_default_tags(default_tags) if default_tags else metric


def _real(value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"the value of a metric must be a number, not {value!r}")
    return float(value)


class Counter(Metric):
    """A count that only grows; it does not go back when a process that has counted ends.

    Args:
        name: Letters, digits, ``_`` and ``:``. Prometheus shows it as ``NAME_total``.
        description: What it counts.
        tag_keys: Keys of the tags; each combination of their values is counted by itself.

    Raises:
        ValueError: the name is none, or this process has another metric of that name.
        TypeError: ``tag_keys`` is no tuple of strings.

    Example:
        >>> from shoal.util.metrics import Counter
        >>> pages = Counter("pages", "Pages that were read", tag_keys=("disk",))
        >>> pages.inc(tags={"disk": "a"})
        >>> pages.inc(2.5, tags={"disk": "a"})
    """

    _kind = "counter"

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add ``value``.

        Args:
            value: A finite number above 0.
            tags: Values of tags, beside or instead of the default ones.

        Raises:
            TypeError: the value is no number, or a tag's value no string.
            ValueError: the value is not above 0; a tag is unknown or missing.
        """
        if value.__class__ is not float:
            value = _real(value)
        if not 0.0 < value < math.inf:
            raise ValueError(f"a counter grows: the value must be above 0 and finite, not {value}")
        with _books.lock:
            cells = self._cells.get(None if tags is None else tuple(tags.items()))
            if cells is None:
                cells = self._find(tags)
            cells[0] += value


class Gauge(Metric):
    """A value that goes up and down; each living process has its own.

    Args:
        name: Letters, digits, ``_`` and ``:``.
        description: What it shows.
        tag_keys: Keys of the tags; each combination of their values is a gauge by itself.

    Raises:
        ValueError: the name is none, or this process has another metric of that name.
        TypeError: ``tag_keys`` is no tuple of strings.

    Example:
        >>> from shoal.util.metrics import Gauge
        >>> depth = Gauge("queue_depth", "Items that wait")
        >>> depth.set(3)
    """

    _kind = "gauge"

    def set(self, value: float | None, tags: Mapping[str, str] | None = None) -> None:
        """Set the value; None changes nothing.

        Args:
            value: A number.
            tags: Values of tags, beside or instead of the default ones.

        Raises:
            TypeError: the value is no number, or a tag's value no string.
            ValueError: a tag is unknown or missing.
        """
        if value is None:
            return
        if value.__class__ is not float:
            value = _real(value)
        with _books.lock:
            cells = self._cells.get(None if tags is None else tuple(tags.items()))
            if cells is None:
                cells = self._find(tags)
            cells[0] = value


class Histogram(Metric):
    """How many observed values fell into which bucket, and their sum.

    Args:
        name: Letters, digits, ``_`` and ``:``.
        description: What is observed.
        boundaries: Upper bounds of the buckets, inclusive, above 0 and growing; one more bucket has
            what is above the last.
        tag_keys: Keys of the tags; each combination of their values is a histogram by itself.

    Raises:
        ValueError: the boundaries are none, not above 0 or not growing; or as for ``Counter``.
        TypeError: ``tag_keys`` is no tuple of strings.

    Example:
        >>> from shoal.util.metrics import Histogram
        >>> latency = Histogram("latency_s", "Seconds per request", boundaries=[0.01, 0.1, 1.0])
        >>> latency.observe(0.05)
    """

    _kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: Sequence[str] | None = None,
    ) -> None:
        if boundaries is None or len(boundaries) == 0:
            raise ValueError('a histogram needs boundaries: Histogram("x", boundaries=[1.0, 2.0])')
        bounds = [_real(bound) for bound in boundaries]
        if not all(0 < bound < math.inf for bound in bounds):
            raise ValueError(f"boundaries must be above 0 and finite: {list(boundaries)}")
        if any(b <= a for a, b in pairwise(bounds)):
            raise ValueError(f"boundaries must grow: {list(boundaries)}")
        super().__init__(name, description, tag_keys, bounds)
        self._bounds = bounds

    @property
    def boundaries(self) -> list[float]:
        """Upper bounds of the buckets."""
        return list(self._bounds)

    @property
    def info(self) -> dict[str, Any]:
        """As that of the others, with ``boundaries``."""
        return {**super().info, "boundaries": self.boundaries}

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Count ``value`` in its bucket.

        Args:
            value: A finite number.
            tags: Values of tags, beside or instead of the default ones.

        Raises:
            TypeError: the value is no number, or a tag's value no string.
            ValueError: the value is not finite; a tag is unknown or missing.
        """
        if value.__class__ is not float:
            value = _real(value)
        if not math.isfinite(value):
            raise ValueError(f"a histogram observes finite values, not {value}")
        with _books.lock:
            cells = self._cells.get(None if tags is None else tuple(tags.items()))
            if cells is None:
                cells = self._find(tags)
            cells[bisect_left(self._bounds, value)] += 1.0
            cells[-1] += value


__all__ = ["Counter", "Gauge", "Histogram", "Metric"]
