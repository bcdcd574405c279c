"""Sizes: a reader can hold one file, one function and one class in mind.

The figures stand in CONTRIBUTING.md. Docstrings do not count as lines of a function: explaining
more must never be what breaks a limit. `self` and `cls` do not count as parameters.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.tidy.sources import (
    FunctionNode,
    Violation,
    classes,
    functions,
    judge,
    native_files,
    python_files,
    text_of,
)

FILE_LINES = 600
FUNCTION_LINES = 70
CLASS_METHODS = 25
PARAMETERS = 7
LINE_COLUMNS = 100


def test_files_are_short() -> None:
    paths = [file.path for file in python_files()] + native_files()
    sizes = {path: text_of(path).count("\n") for path in paths}
    judge(
        "file_lines",
        (Violation(path, f"{n} lines") for path, n in sizes.items() if n > FILE_LINES),
    )


def test_lines_are_short() -> None:
    def find() -> Iterator[Violation]:
        for path in [file.path for file in python_files()] + native_files():
            for number, line in enumerate(text_of(path).splitlines(), 1):
                if len(line) > LINE_COLUMNS:
                    yield Violation(path, f"line {number} has {len(line)} columns")

    judge("line_columns", find())


def lines_without_docstring(node: FunctionNode) -> int:
    """Lines of a function, decorators not counted, less those of its docstring."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def test_functions_are_short() -> None:
    def find() -> Iterator[Violation]:
        for file in python_files():
            for name, node, _ in functions(file.tree):
                n = lines_without_docstring(node)
                if n > FUNCTION_LINES:
                    yield Violation(f"{file.path}::{name}", f"{n} lines")

    judge("function_lines", find())


def test_classes_have_few_methods() -> None:
    def find() -> Iterator[Violation]:
        for file in python_files():
            for node in classes(file.tree):
                n = sum(isinstance(child, FunctionNode) for child in node.body)
                if n > CLASS_METHODS:
                    yield Violation(f"{file.path}::{node.name}", f"{n} methods")

    judge("class_methods", find())


def test_functions_take_few_parameters() -> None:
    def find() -> Iterator[Violation]:
        for file in python_files():
            for name, node, in_class in functions(file.tree):
                spec = node.args
                n = len(spec.posonlyargs) + len(spec.args) + len(spec.kwonlyargs)
                static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
                n -= in_class and not static
                if n > PARAMETERS:
                    yield Violation(f"{file.path}::{name}", f"{n} parameters: make them a record")

    judge("parameters", find())
