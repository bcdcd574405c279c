"""`_native.pyi` is the manual of the native module; here it is held against the binary.

Everything in the binary is in the manual and the other way round, with the same kind, and the
parameters have the same names, order and kinds where the binary tells them. nanobind prints one
signature per overload in its docstring; that is what is compared.
"""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from shoal import _native
from shoal._runtime import refs  # adds to the class of refs
from tests.tidy.sources import ROOT, FunctionNode

assert refs.ObjectRef is _native.ObjectRef
STUB = ast.parse((ROOT / "src/shoal/_native.pyi").read_text(encoding="utf-8"))
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
# What nanobind and Python add to every class or module.
OURS_ONLY = re.compile(r"^__(?!await__|reduce__|hash__|eq__|init__).*__$")


def stub_members(node: ast.ClassDef) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for child in node.body:
        if isinstance(child, FunctionNode):
            found[child.name] = child
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            found[child.target.id] = child
    return found


def is_error(node: ast.ClassDef) -> bool:
    return any(
        ast.unparse(base).endswith("Error") or ast.unparse(base) == "Exception"
        for base in node.bases
    )


def test_module_has_what_the_manual_says() -> None:
    described = set(CLASSES)
    for node in STUB.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            described.add(node.target.id)
            assert isinstance(getattr(_native, node.target.id), int), node.target.id
        elif isinstance(node, FunctionNode):
            described.add(node.name)
    real = {name for name in vars(_native) if not name.startswith("_")}
    assert real == described, (
        f"only in binary: {real - described}; only in manual: {described - real}"
    )


@pytest.mark.parametrize("name", [n for n, node in CLASSES.items() if not is_error(node)])
def test_class_has_the_members_of_the_manual(name: str) -> None:
    binary = getattr(_native, name)
    real = {member for member in vars(binary) if not OURS_ONLY.match(member)}
    described = set(stub_members(CLASSES[name])) - {"__buffer__"}  # binaries have it from 3.12 on
    # A class that cannot be made from Python still shows an __init__ that raises.
    real.discard("__init__" if "__init__" not in described else "")
    assert real == described, (
        f"only in binary: {real - described}; only in manual: {described - real}"
    )


@pytest.mark.parametrize("name", [n for n, node in CLASSES.items() if is_error(node)])
def test_errors_have_the_bases_of_the_manual(name: str) -> None:
    for base in CLASSES[name].bases:
        assert ast.unparse(base) in [c.__name__ for c in getattr(_native, name).__mro__]


def methods() -> list[tuple[str, FunctionNode]]:
    found = []
    for name, node in CLASSES.items():
        for child in node.body:
            if not isinstance(child, FunctionNode) or child.name.startswith("__"):
                continue
            if not any(ast.unparse(d) == "property" for d in child.decorator_list):
                found.append((name, child))
    return found


@pytest.mark.parametrize(("owner", "node"), methods(), ids=lambda v: getattr(v, "name", v))
def test_parameters_are_those_of_the_manual(owner: str, node: FunctionNode) -> None:
    member = getattr(getattr(_native, owner), node.name)
    written = getattr(member, "__func__", member)
    if inspect.isfunction(written):  # in Python: see ``_runtime/refs.py``
        spec = node.args
        assert list(inspect.signature(written).parameters) == [arg.arg for arg in spec.args]
        return
    text = member.__doc__ or ""
    first = text.splitlines()[0] if text else ""
    if not first.startswith(node.name + "("):
        pytest.fail(f"{owner}.{node.name} shows no signature: {first!r}")
    # Only names and their order count: cut the result, and what is no Python in the defaults.
    parameters = re.sub(r"<[^>]*>", "None", first.split(" -> ")[0])
    parsed = ast.parse(f"def {parameters}: ...").body[0]
    assert isinstance(parsed, ast.FunctionDef)

    def names(function: FunctionNode) -> list[str]:
        spec = function.args
        return [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]

    shown, described = names(parsed), names(node)
    assert len(shown) == len(described), f"{shown} in the binary"
    for real, name in zip(shown, described, strict=True):
        # nanobind calls a parameter that can be given by position only `arg`, `arg0`, ...
        assert real == name or re.fullmatch(r"arg\d*", real), f"{shown} in the binary"
