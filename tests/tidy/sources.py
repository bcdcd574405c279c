"""Reads the project's own files once, for the rules in this folder.

Owns: which files there are (what git tracks or would track), their parsed form, and the list
of exceptions. A rule finds *violations*, each with a place that does not change when lines move
(`path`, or `path::Class.method`), and hands them to `judge`, which takes away those that the list
of exceptions allows. An exception that allows nothing any more is itself an error: the list can
only shrink by hand, but never rot.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import gc
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXCEPTIONS_FILE = Path(__file__).with_name("exceptions.toml")
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Violation:
    """One broken rule: where (stable under edits elsewhere) and what is wrong."""

    where: str
    what: str


@dataclass(frozen=True)
class Exempt:
    """One line of exceptions.toml; `where` may hold `*` wildcards."""

    rule: str
    where: str
    reason: str


@dataclass(frozen=True)
class PythonFile:
    """One parsed module."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """Dotted name for files under src, e.g. `shoal._core.pool`; the path for others."""
        if not self.path.startswith("src/"):
            return self.path
        name = self.path.removeprefix("src/").rsplit(".", 1)[0].replace("/", ".")
        return name.removesuffix(".__init__")


@functools.cache
def files() -> tuple[str, ...]:
    """Paths from the root of everything that is, or would be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode == 0:
        names = result.stdout.splitlines()
    else:  # an unpacked archive without git
        skip = {".venv", ".venv-peers", ".venv-parity", "build", "dist", "__pycache__", ".git"}
        names = [
            str(path.relative_to(ROOT))
            for path in ROOT.rglob("*")
            if path.is_file() and not skip & set(path.relative_to(ROOT).parts)
        ]
    return tuple(sorted(name for name in set(names) if (ROOT / name).is_file()))


@functools.cache
def text_of(path: str) -> str:
    """The text of one file."""
    return (ROOT / path).read_text(encoding="utf-8")


_parsed: dict[str, PythonFile] = {}


def python_files(*prefixes: str) -> tuple[PythonFile, ...]:
    """Parsed modules (`.py`) under the given folders, all of them without any."""
    paths = [path for path in files() if path.endswith(".py")]
    chosen = [path for path in paths if not prefixes or path.startswith(prefixes)]
    if new := [path for path in chosen if path not in _parsed]:
        _parse(new)
    return tuple(_parsed[path] for path in chosen)


def _parse(paths: list[str]) -> None:
    """Parse each once. The trees stay for good, so no collection walks through them again and
    again: that took longer than all the rules, here and in every test that runs after them."""
    gc.collect()
    gc.disable()
    try:
        for path in paths:
            text = text_of(path)
            _parsed[path] = PythonFile(path, text, ast.parse(text, path))
    finally:
        gc.freeze()
        gc.enable()


@functools.cache
def nodes(path: str) -> tuple[ast.AST, ...]:
    """Every node of one parsed module, each before what it holds."""
    return tuple(ast.walk(_parsed[path].tree))


def native_files() -> list[str]:
    """Paths of our C and C++ files."""
    return [path for path in files() if path.endswith((".cpp", ".hpp", ".c", ".h"))]


def functions(tree: ast.Module) -> Iterator[tuple[str, FunctionNode, bool]]:
    """(qualified name, node, whether it is a method) of every function, nested ones too."""

    def visit(
        node: ast.AST, prefix: str, in_class: bool
    ) -> Iterator[tuple[str, FunctionNode, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FunctionNode):
                yield prefix + child.name, child, in_class
                yield from visit(child, f"{prefix}{child.name}.", False)
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}{child.name}.", True)
            else:
                yield from visit(child, prefix, in_class)

    return visit(tree, "", False)


def classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Every class, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def imports(file: PythonFile) -> Iterator[tuple[str, ast.stmt]]:
    """(absolute dotted name, statement) of each import; `from a import b` gives `a.b`."""
    package = file.module if file.path.endswith("__init__.py") else file.module.rpartition(".")[0]
    for node in nodes(file.path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                above = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{above}.{base}" if base else above
            for alias in node.names:
                yield f"{base}.{alias.name}", node


@functools.cache
def exempts() -> tuple[Exempt, ...]:
    """The list of exceptions, in the order of the file."""
    table = tomllib.loads(EXCEPTIONS_FILE.read_text(encoding="utf-8"))
    found = []
    for rule, rows in table.items():
        for where, reason in rows.items():
            assert isinstance(reason, str) and len(reason) > 15, f"{rule} {where} needs a reason"
            found.append(Exempt(rule, where, reason))
    return tuple(found)


def judge(rule: str, violations: Iterable[Violation]) -> None:
    """Fail with every violation that no exception covers, and every exception that covers none."""
    allowed = [exempt for exempt in exempts() if exempt.rule == rule]
    used: set[str] = set()
    broken = []
    for violation in violations:
        for exempt in allowed:
            if fnmatch.fnmatchcase(violation.where, exempt.where):
                used.add(exempt.where)
                break
        else:
            broken.append(f"{violation.where}: {violation.what}")
    stale = [
        f"{e.where}: this exception is not needed any more" for e in allowed if e.where not in used
    ]
    assert not broken and not stale, f"rule '{rule}':\n  " + "\n  ".join(broken + stale)
