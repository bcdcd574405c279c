"""No function that is made inside of another one names itself, where processes live for long.

Such a function is in a cycle with its own closure. What it holds goes only when garbage is
collected, and a daemon collects seldom: values and whole pulls have stayed in node memory so.
Make it a method, and hand it on as ``lambda: self._again(...)``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.tidy.sources import FunctionNode, Violation, judge, python_files


def test_no_function_keeps_itself() -> None:
    judge("cycles", _of_itself())


def _of_itself() -> Iterator[Violation]:
    for file in python_files("src/shoal/_runtime"):
        yield from named_by_themselves(file.path, file.tree)


def named_by_themselves(path: str, tree: ast.AST) -> Iterator[Violation]:
    for outer in ast.walk(tree):
        if not isinstance(outer, FunctionNode):
            continue
        for inner in ast.walk(outer):
            if inner is outer or not isinstance(inner, FunctionNode):
                continue
            names = (node for part in inner.body for node in ast.walk(part))
            if any(isinstance(node, ast.Name) and node.id == inner.name for node in names):
                yield Violation(f"{path}::{outer.name}.{inner.name}", "it names itself")


def test_one_is_seen() -> None:
    again, once = "    def again():\n        f(again)\n", "    def once():\n        f(again)\n"
    text = f"def out():\n{again}{once}"
    (found,) = named_by_themselves("x.py", ast.parse(text))
    assert found.where == "x.py::out.again"
