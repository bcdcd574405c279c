"""What users see: exported once, documented, typed; each public error raised in some test."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from types import ModuleType

import shoal
import shoal.errors
from tests.tidy.sources import Violation, classes, functions, judge, python_files, text_of

PUBLIC = "src/shoal/__init__.py"


def public_names(module: ModuleType) -> list[str]:
    names: list[str] = list(module.__all__)
    return names


def test_public_names_stand_once_and_exist() -> None:
    counts = Counter(public_names(shoal))
    twice = [name for name, n in counts.items() if n > 1]
    missing = [name for name in counts if not hasattr(shoal, name)]
    assert not twice and not missing, f"twice: {twice}, missing: {missing}"


def test_public_names_cover_what_init_offers() -> None:
    """Nothing public by its spelling stands outside `__all__` (modules aside)."""
    stray = [
        name
        for name in vars(shoal)
        if not name.startswith("_")
        and name not in shoal.__all__
        and not isinstance(getattr(shoal, name), ModuleType)
        and getattr(getattr(shoal, name), "__module__", "").startswith("shoal")
    ]
    assert not stray, f"exported without being in __all__: {stray}"


def test_public_names_are_documented() -> None:
    def find() -> Iterator[Violation]:
        for name in public_names(shoal):
            value = getattr(shoal, name)
            if isinstance(value, str | tuple | int):
                continue
            if not inspect.getdoc(value):
                yield Violation(f"shoal.{name}", "has no docstring")

    judge("public_docs", find())


def test_public_functions_are_typed() -> None:
    def find() -> Iterator[Violation]:
        for name in public_names(shoal):
            value = getattr(shoal, name)
            if not inspect.isfunction(value):
                continue
            signature = inspect.signature(value)
            bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
            if bare or signature.return_annotation is signature.empty:
                yield Violation(f"shoal.{name}", f"lacks types: {bare or 'its result'}")

    judge("public_types", find())


def test_modules_and_public_definitions_have_docstrings() -> None:
    """In src each module says what it owns, and each class and public function what it is for.

    Messages and other rows of data are documented by their fields' names and module.
    """

    def find() -> Iterator[Violation]:
        for file in python_files("src/"):
            if not ast.get_docstring(file.tree):
                yield Violation(file.path, "has no module docstring")
        for file in python_files(
            PUBLIC, "src/shoal/errors/", "src/shoal/state.py", "src/shoal/lowlevel"
        ):
            for name, node, in_class in functions(file.tree):
                hidden = any(part.startswith("_") for part in name.split("."))
                if not hidden and not in_class and "." not in name and not ast.get_docstring(node):
                    yield Violation(f"{file.path}::{name}", "has no docstring")
            for node in classes(file.tree):
                if not node.name.startswith("_") and not ast.get_docstring(node):
                    yield Violation(f"{file.path}::{node.name}", "has no docstring")

    judge("docstrings", find())


def error_classes() -> list[str]:
    return [
        name
        for name, value in vars(shoal.errors).items()
        if isinstance(value, type)
        and issubclass(value, BaseException)
        and value.__module__ == "shoal.errors"
        and not name.startswith("_")
    ]


def test_every_public_error_is_raised_in_some_test() -> None:
    """Looks for the class inside `raises(...)` or an `isinstance` check of a test."""
    text = "\n".join(text_of(file.path) for file in python_files("tests/"))
    seen = set()
    for match in re.finditer(r"(?:raises|isinstance|issubclass)\(([^\n]*(?:\n[^\n]*){0,2})", text):
        seen.update(re.findall(r"\w+", match.group(1)))
    parents = {
        parent.__name__
        for name in error_classes()
        for parent in getattr(shoal.errors, name).__mro__[1:]
    }

    def find() -> Iterator[Violation]:
        for name in error_classes():
            # A family's head is covered by its members.
            if name not in seen and name not in parents:
                yield Violation(f"shoal.errors.{name}", "no test raises it")

    judge("untested_error", find())


def test_every_error_is_part_of_one_tree_and_explains() -> None:
    roots = set()
    for name in error_classes():
        error = getattr(shoal.errors, name)
        assert inspect.getdoc(error), f"{name} has no docstring"
        ours = [c for c in error.__mro__ if c.__module__ == "shoal.errors"]
        roots.add(ours[-1])
    assert len(roots) == 1, f"the errors have several roots: {roots}"


# Words that name nothing: a file or class called so collects whatever fits nowhere else.
EMPTY_WORDS = {"manager", "handler", "helper", "helpers", "wrapper", "common", "misc", "utils"}


def test_names_say_something() -> None:
    def find() -> Iterator[Violation]:
        for file in python_files():
            stem = file.path.rsplit("/", 1)[-1].removesuffix(".py")
            if EMPTY_WORDS & set(stem.split("_")):
                yield Violation(file.path, "the file's name says nothing")
            for node in classes(file.tree):
                words = {word.lower() for word in re.findall(r"[A-Z][a-z]+|[a-z]+", node.name)}
                if EMPTY_WORDS & words:
                    yield Violation(f"{file.path}::{node.name}", "the class's name says nothing")

    judge("empty_names", find())


def test_broad_excepts_are_listed() -> None:
    """`except Exception` belongs to the outermost loop of a process (or to user code's edge)."""

    def find() -> Iterator[Violation]:
        for file in python_files("src/"):
            for name, node, _ in functions(file.tree):
                for child in ast.walk(node):
                    if isinstance(child, ast.ExceptHandler):
                        kind = ast.unparse(child.type) if child.type else "everything"
                        if kind in {"Exception", "BaseException", "everything"}:
                            yield Violation(f"{file.path}::{name}", f"catches {kind}")

    judge("broad_except", {v.where: v for v in find()}.values())
