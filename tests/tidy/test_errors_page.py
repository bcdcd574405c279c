"""docs/errors.md says what the classes say, and the tree in the docstring is the tree."""

from __future__ import annotations

from shoal import errors
from tests.tidy.errors_page import PAGE, classes, page
from tests.tidy.sources import text_of


def test_the_page_is_the_present_one() -> None:
    assert text_of(PAGE) == page(), "write it again: python -m tests.tidy.errors_page"


def test_the_tree_names_every_class() -> None:
    named = list(classes())
    exported = {
        value for name in errors.__all__ if isinstance(value := getattr(errors, name), type)
    }
    assert set(named) == exported and len(named) == len(exported)
