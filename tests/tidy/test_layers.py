"""Imports go only downwards, stand at the top of their file, and no module is dead.

    _base < _proto < _core < _runtime < public modules < util, cli, ... < libraries

`errors` is a leaf that everybody above `_core` may import; `_native` is a leaf too, but not for the
three deciding or describing layers: they must not need the binary.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.tidy.sources import (
    PythonFile,
    Violation,
    functions,
    imports,
    judge,
    nodes,
    python_files,
)

LAYERS = {
    "_base": 0,
    "_proto": 1,
    "_core": 2,
    "errors": 3,
    "_native": 3,
    "_runtime": 4,
    "runtime_env": 5,
    "state": 5,
    "exceptions": 5,
    "ids": 5,
    "lowlevel": 5,
    "": 6,  # shoal/__init__.py itself
    "testing": 7,
    "util": 7,
    "dag": 8,
    "jobs": 7,
    "cluster": 7,
    "cli": 10,
    "__main__": 11,
    "dashboard": 7,
    "compat": 9,
    "data": 11,
    "train": 11,
    "tune": 11,
    "serve": 11,
    "rl": 11,
}
LEAVES = {"errors", "_native", "_base"}

# What makes a deciding module impure: it would wait, look at the world, or roll dice (DESIGN: time,
# chance and the world come in as events).
IMPURE = {
    "asyncio", "concurrent", "ctypes", "datetime", "fcntl", "glob", "io", "logging", "mmap",
    "multiprocessing", "os", "pathlib", "pickle", "psutil", "random", "secrets", "select",
    "selectors", "shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time",
    "uuid", "uvloop", "warnings",
}  # fmt: skip


def part_of(module: str) -> str | None:
    """The layer's name of `shoal.x.y`; None for what is not ours."""
    parts = module.split(".")
    if parts[0] != "shoal":
        return None
    name = parts[1] if len(parts) > 1 else ""
    return name if name in LAYERS else ""


def under_type_checking(file: PythonFile) -> set[ast.stmt]:
    """Imports that only the type checker sees bind nothing at run time."""
    seen: set[ast.stmt] = set()
    for node in nodes(file.path):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            seen.update(n for n in ast.walk(node) if isinstance(n, ast.stmt))
    return seen


def test_imports_go_downwards() -> None:
    def find() -> Iterator[Violation]:
        for file in python_files("src/"):
            here = part_of(file.module)
            assert here is not None
            if file.path == "src/shoal/__init__.py":
                here = ""
            elif here == "":
                yield Violation(file.path, "is in no layer: add it to LAYERS")
                continue
            typing_only = under_type_checking(file)
            for name, node in imports(file):
                there = part_of(name)
                if there is None or there == here or node in typing_only:
                    continue
                if LAYERS[there] >= LAYERS[here] and not (there in LEAVES and LAYERS[here] > 2):
                    yield Violation(file.path, f"line {node.lineno} imports {name}, a layer above")

    judge("layers", find())


def test_imports_stand_at_the_top() -> None:
    def find() -> Iterator[Violation]:
        for file in python_files("src/", "benchmarks/", "examples/"):
            for name, node, _ in functions(file.tree):
                for child in ast.walk(node):
                    if isinstance(child, ast.Import | ast.ImportFrom):
                        names = ", ".join(alias.name for alias in child.names)
                        base = getattr(child, "module", None)
                        what = f"{base}: {names}" if base else names
                        yield Violation(f"{file.path}::{name}", f"imports {what}")

    # A nested function is visited with its parent too: say it once.
    judge("lazy_import", {(v.where, v.what): v for v in find()}.values())


def test_no_module_is_dead() -> None:
    """Each module of the package is imported by another one, or is an entry with a reason."""
    known = {file.module: file.path for file in python_files("src/")}
    used: set[str] = set()
    for file in python_files("src/"):
        for name, _ in imports(file):
            for candidate in (name, name.rpartition(".")[0]):
                if candidate in known and candidate != file.module:
                    used.add(candidate)
        # `python -m shoal.x` and lazy tables name modules in strings.
        for node in nodes(file.path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                dotted = node.value if node.value.startswith("shoal") else f"shoal.{node.value}"
                if dotted in known and dotted != file.module:
                    used.add(dotted)
    packages = {name for name, path in known.items() if path.endswith("__init__.py")}
    dead = [known[name] for name in known.keys() - used - packages]
    judge("dead_module", (Violation(path, "is imported by nobody") for path in sorted(dead)))


def test_core_is_pure() -> None:
    def find() -> Iterator[Violation]:
        for file in python_files("src/shoal/_core/"):
            for name, node in imports(file):
                if name.split(".")[0] in IMPURE:
                    yield Violation(file.path, f"line {node.lineno} imports {name}")
            for child in nodes(file.path):
                if isinstance(child, ast.AsyncFunctionDef | ast.Await | ast.Global):
                    yield Violation(file.path, f"line {child.lineno}: {type(child).__name__}")
                if isinstance(child, ast.Call) and ast.unparse(child.func) in {"print", "open"}:
                    yield Violation(file.path, f"line {child.lineno}: {ast.unparse(child.func)}")

    judge("core_pure", find())


def test_daemon_side_is_pickle_free() -> None:
    """Neither the deciding nor the describing layers can unpickle anything."""

    def find() -> Iterator[Violation]:
        for file in python_files("src/shoal/_core/", "src/shoal/_proto/", "src/shoal/_base/"):
            for name, node in imports(file):
                if name.split(".")[0] in {"pickle", "cloudpickle", "marshal", "shelve"}:
                    yield Violation(file.path, f"line {node.lineno} imports {name}")

    judge("pickle_free", find())


def calls_of(file: PythonFile, names: set[str]) -> Iterator[tuple[int, str]]:
    """(line, text) of each use of one of `names`, such as `os.environ` or `time.monotonic`."""
    bare = {name.rpartition(".")[2]: name for name in names}
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in nodes(file.path)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in bare
    }
    for node in nodes(file.path):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in names:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Name) and imported.get(node.id) in names:
            yield node.lineno, imported[node.id]


CLOCKS = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter",
    "time.perf_counter_ns", "time.clock_gettime", "time.clock_gettime_ns", "datetime.now",
    "datetime.datetime.now", "datetime.utcnow",
}  # fmt: skip
ENVIRONMENT = {"os.environ", "os.getenv", "os.environb", "os.putenv"}


def test_one_reader_of_the_clock() -> None:
    def find() -> Iterator[Violation]:
        for file in python_files("src/"):
            if file.path != "src/shoal/_base/clock.py":
                for line, what in calls_of(file, CLOCKS):
                    yield Violation(file.path, f"line {line} uses {what}; use _base.clock")

    judge("one_clock", find())


def test_one_reader_of_the_environment() -> None:
    def find() -> Iterator[Violation]:
        for file in python_files("src/"):
            if file.path != "src/shoal/_base/environment.py":
                for line, what in calls_of(file, ENVIRONMENT):
                    yield Violation(file.path, f"line {line} uses {what}; use _base.environment")

    judge("one_environment", find())
