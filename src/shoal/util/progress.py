"""Progress bars that any task or actor may draw: the driver shows them all.

::

    from shoal.util.progress import tqdm

    @shoal.remote
    def train(epochs):
        for epoch in tqdm(range(epochs), desc="training"):
            ...

The names are those of the ``tqdm`` package, so that a loop needs another import only. Counting is
an addition in memory: reports go at most ten times a second, and only if something has changed. In
a terminal the bars of all processes stand together below what is printed; elsewhere each is a line
of text now and then. A bar whose process dies is closed. Workers of a session with
``init(log_to_driver=False)`` have no bars.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, Generic, TypeVar

from shoal._runtime import bars, bars_board

T = TypeVar("T")

__all__ = ["safe_print", "tqdm", "trange"]


class tqdm(Generic[T]):
    """A progress bar, around an iterable or counted by hand.

    Args:
        iterable: What is iterated over; or how many there will be, for a bar that ``update`` moves.
        desc: What stands before the bar.
        total: How many there will be; from the iterable if that has a length.
        unit: What is counted.
        position: Bars of one process stand in this order.
        flush_interval_s: Seconds between reports of a worker at least; 0.1 if not given.
        leave: Keep the bar's last state on the screen when it ends.
        initial: Where counting begins.
        disable: Count only, show nothing.

    Example:
        >>> from shoal.util.progress import tqdm
        >>> with tqdm(total=10, desc="rows", leave=False) as bar:
        ...     bar.update(4)
        ...     bar.n
        4
    """

    def __init__(
        self,
        iterable: Iterable[T] | int | None = None,
        desc: str | None = None,
        total: float | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
        *,
        leave: bool = True,
        initial: float = 0,
        disable: bool = False,
    ) -> None:
        self._bar: bars.Bar | None = None
        if isinstance(iterable, int):
            iterable, total = None, iterable if total is None else total
        if iterable is not None and not isinstance(iterable, Iterable):
            raise TypeError(f"tqdm needs an iterable or a number, not {iterable!r}")
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        self._iterable: Iterable[T] | None = iterable
        bar = bars.Bar(desc or "", total, unit or "it")
        bar.n = bar.initial = initial
        bar.place = position or 0
        bar.leaves = leave
        if flush_interval_s is not None:
            bar.interval_s = flush_interval_s
        self._place: bars.Place = bars.Nowhere() if disable else _place()
        self._bar = bar
        self._place.open(bar)

    @property
    def n(self) -> float:
        """How many there were."""
        return self._given().n

    @n.setter
    def n(self, value: float) -> None:
        self._given().n = value
        self._changed()

    @property
    def total(self) -> float | None:
        """How many there will be; None if nobody knows."""
        return self._given().total

    @total.setter
    def total(self, value: float | None) -> None:
        self._given().total = value
        self._changed()

    @property
    def desc(self) -> str:
        """What stands before the bar."""
        return self._given().desc

    def update(self, n: float = 1) -> None:
        """Count ``n`` more."""
        bar = self._given()
        bar.n += n
        if not bar.is_dirty:
            self._place.note(bar)

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:
        """Change what stands before the bar."""
        self._given().desc = desc or ""
        self._changed()

    def set_postfix(self, values: Mapping[str, Any] | None = None, **named: Any) -> None:
        """Show ``name=value`` behind the bar, such as a loss."""
        rows = {**(values or {}), **named}
        rows.pop("refresh", None)
        self.set_postfix_str(
            ", ".join(
                f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in rows.items()
            )
        )

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Show ``text`` behind the bar."""
        self._given().note = text
        self._changed()

    def refresh(self) -> None:
        """Nothing to do: bars are drawn by themselves."""

    def reset(self, total: float | None = None) -> None:
        """Begin anew, with another total if one is given."""
        bar = self._given()
        bar.n = bar.initial = 0
        if total is not None:
            bar.total = total
        self._changed()

    def close(self) -> None:
        """End the bar; may be repeated."""
        bar = self._bar
        if bar is not None and not bar.is_closed:
            bar.is_closed = True
            self._place.close(bar)

    def __iter__(self) -> Iterator[T]:
        if self._iterable is None:
            raise TypeError("this bar counts what update() says: it has nothing to iterate over")
        try:
            for item in self._iterable:
                yield item
                self.update()
        finally:
            self.close()

    def __len__(self) -> int:
        total = self._given().total
        if total is None:
            raise TypeError("nobody knows how many there will be: give a total")
        return int(total)

    def __enter__(self) -> tqdm[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a progress bar belongs to its process: make one where the work is done")

    @staticmethod
    def write(*values: Any, **options: Any) -> None:
        """As ``safe_print``."""
        safe_print(*values, **options)

    def _changed(self) -> None:
        bar = self._given()
        if not bar.is_dirty:
            self._place.note(bar)

    def _given(self) -> bars.Bar:
        assert self._bar is not None
        return self._bar


def trange(n: int, **options: Any) -> tqdm[int]:
    """Return ``tqdm(range(n), ...)``.

    Example:
        >>> from shoal.util.progress import trange
        >>> sum(trange(4, leave=False))
        6
    """
    return tqdm(range(n), **options)


def safe_print(*values: Any, **options: Any) -> None:
    """Print as ``print`` does: bars stay whole, as they do with ``print`` itself.

    For code that holds a stream which is older than the bars: it prints to the present one.

    Example:
        >>> from shoal.util.progress import safe_print
        >>> safe_print("loss", 0.5)
        loss 0.5
    """
    builtins.print(*values, **options)


def _place() -> bars.Place:
    return bars.place() or bars_board.board()
