"""What a driver of the torture makes of an answer: right, a named loss, or the end of the test."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import shoal
from shoal._runtime import cluster
from shoal.errors import GetTimeoutError, LostError, ObjectStoreFullError, TaskError


class Answers:
    """Counts answers; whatever is neither right nor a loss that was named raises."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self.counts: Counter[str] = Counter()

    def get(self, ref: Any) -> Any:
        """The value, or its error."""
        return shoal.get(ref, timeout=self.patience_s)

    def answer(self, ref: Any) -> Any:
        """The value, or None if the error names a loss."""
        try:
            value = self.get(ref)
        except GetTimeoutError:
            # A wait without end is no loss: say what there is.
            for table in ("queues", "workers", "actors"):
                print(table, *cluster.table(table), sep="\n  ", file=sys.stderr)
            tasks = [task for task in shoal.state.tasks() if not task.ended_s]
            print("tasks", *tasks, sep="\n  ", file=sys.stderr)
            raise
        except LostError as error:
            assert str(error), "an error says what was lost"
            self.counts["full" if isinstance(error, ObjectStoreFullError) else "lost"] += 1
            return None
        except TaskError as error:
            # A task that got a lost argument, or whose own child was lost, reports that.
            assert isinstance(error, LostError) or isinstance(error.cause, LostError), error
            is_full = isinstance(error.cause, ObjectStoreFullError)
            self.counts["full" if is_full else "lost"] += 1
            return None
        self.counts["answered"] += 1
        return value

    def check(self, ref: Any, value: bytes) -> None:
        found = self.answer(ref)
        assert found is None or found == value, f"{ref}: {len(found)} bytes, not the {len(value)}"

    def ends(self, ref: Any, expected: type[Exception]) -> None:
        """It fails as it was told to, or with a loss that was there before."""
        try:
            shoal.get(ref, timeout=self.patience_s)
        except expected:
            self.counts["ended"] += 1
        except (LostError, TaskError) as error:
            assert not isinstance(error, GetTimeoutError), "it goes on"
            assert isinstance(error, LostError) or isinstance(error.cause, LostError), error
            self.counts["lost"] += 1
