"""Writes docs/errors.md from the classes: ``python -m tests.tidy.errors_page``.

``test_errors_page.py`` fails when the page says something else than the classes do.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from shoal import errors
from tests.tidy.sources import ROOT

PAGE = "docs/errors.md"

HEAD = """# Errors

Every error of Shoal is a class of `shoal.errors`. This page is written from them.

A task error is an instance of `TaskError` *and* of the class of what the task raised, so
`except KeyError` works as if the function had been called here. `error.cause` is that exception,
`error.remote_traceback` shows the frames of user code, one paragraph per task if tasks were nested,
with process, node and attempt; it is printed as a note. What an exception was raised from, and its
notes, stand there too.

```python
import shoal


@shoal.remote
def look_up(table, key):
    return table[key]


try:
    shoal.get(look_up.remote({}, "missing"))
except KeyError as error:
    assert isinstance(error, shoal.errors.TaskError)
    print(error.task, error.attempt)  # look_up 1
    print(error.remote_traceback)  # in look_up (attempt 1, pid ..., node ...): ...
```

An exception that can not be pickled, or whose class can not be subclassed, arrives as a plain
`TaskError` that says so. All errors pickle, and keep their facts as attributes.

## The tree

"""


def tree() -> str:
    """The picture in the package's docstring."""
    found = re.search(r"::\n\n(.*?)\n\n[A-Z]", errors.__doc__ or "", re.S)
    assert found is not None
    return inspect.cleandoc("\n" + found.group(1))


def classes() -> Iterator[type[errors.ShoalError]]:
    """In the order of the tree."""
    for name in re.findall(r"\w+Error", tree()):
        if hasattr(errors, name) and isinstance(getattr(errors, name), type):
            yield getattr(errors, name)


def row(cls: type[errors.ShoalError]) -> str:
    said = " ".join((inspect.getdoc(cls) or "").split()).replace("``", "`")
    facts = ", ".join(f"`{name}`" for name in cls._defaults)
    own = vars(cls).get("ray", ())
    names = ", ".join(f"`{name}`" for name in own)
    parts = [f"### {cls.__name__}", "", said]
    if cls.advice:
        parts += ["", f"What to do: {cls.advice}"]
    if facts:
        parts += ["", f"Facts: {facts}."]
    if names:
        parts += ["", f"Programs for Ray catch it as {names}."]
    return "\n".join(parts) + "\n"


def page() -> str:
    """The whole page."""
    rows = {cls.__name__: row(cls) for cls in classes()}
    return HEAD + "```\n" + tree() + "\n```\n\n## Each of them\n\n" + "\n".join(rows.values())


if __name__ == "__main__":
    (ROOT / PAGE).write_text(page())
