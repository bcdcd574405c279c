"""Modules called ``ray`` and ``ray.<anything>`` that hold no code, and the finder that makes them.

A module looks a name up in the table (``names.py``) when it is first asked for, and keeps what it
found. The finder stands first in ``sys.meta_path``, so a real Ray that is installed is never found.

How a missing name is told, which Python does not make easy::

    ray.nonsense                     AttributeError with the hint (hasattr says False)
    import ray.tune                  ModuleNotFoundError with the hint
    from ray.util import nonsense    Python asks for the attribute, drops the error, then looks for
                                     a submodule ray.util.nonsense, because every module here is a
                                     package: the finder raises with the hint
    importlib.util.find_spec("ray.tune")   None: a program that asks first is told no, not raised at

A module and a function may share a name (``ray.util.placement_group`` is both, as in Ray): the
attribute is the function, the import finds the module.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any

from shoal.compat.ray import names

ROOT = "ray"


class Names(types.ModuleType):
    """A module whose names live elsewhere."""

    def __getattr__(self, name: str) -> Any:
        value = _look_up(self.__name__, name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """As always, but an imported submodule does not hide the function of the same name."""
        if isinstance(value, Names) and names.home_of(self.__name__, name) is not None:
            return
        super().__setattr__(name, value)

    def __reduce__(self) -> Any:
        """Travels by name, in functions that use it as a global variable."""
        return importlib.import_module, (self.__name__,)

    def __dir__(self) -> list[str]:
        return sorted({*names.public_names(self.__name__), *self.__dict__})


def _look_up(module: str, name: str) -> Any:
    home = names.home_of(module, name)
    if home is not None:
        try:
            return getattr(importlib.import_module(home), name)
        except (ModuleNotFoundError, AttributeError) as error:
            raise AttributeError(names.missing(f"{module}.{name}")) from error
    constants = names.CONSTANTS.get(module, {})
    if name in constants:
        return constants[name]
    child = f"{module}.{name}"
    if child in names.MODULES:
        return importlib.import_module(child)
    if name.startswith("__"):  # Python itself asks for many that need not exist
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    original = names.DELEGATES.get(module)
    if original is not None:
        return getattr(importlib.import_module(original), name)
    raise AttributeError(names.missing(child), name=name, obj=sys.modules.get(module))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and makes the modules, and answers for the distribution called ray."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of ``ray`` and its modules; raises for those that are not there."""
        if fullname != ROOT and not fullname.startswith(ROOT + "."):
            return None
        if fullname in names.MODULES:
            spec = importlib.machinery.ModuleSpec(fullname, self, is_package=True)
            spec.origin = "shoal.compat.ray"
            return spec
        if _is_only_asked():
            return None
        # Without its name: with it, `from ray.util import x` would drop the text.
        raise ModuleNotFoundError(names.missing(fullname))

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Make an empty module."""
        return Names(spec.name, f"{spec.name}, as Shoal has it.")

    def exec_module(self, module: types.ModuleType) -> None:
        """Give it what Python expects of every module; the rest is looked up when asked for."""
        module.__file__ = __file__
        module.__dict__["__all__"] = names.public_names(module.__name__)

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterable[importlib.metadata.Distribution]:
        """The distribution ``ray``, for ``importlib.metadata``."""
        if context is None or context.name in (None, ROOT):
            yield Described()


class Described(importlib.metadata.Distribution):
    """The distribution that ``importlib.metadata.version("ray")`` finds."""

    def read_text(self, filename: str) -> str | None:
        """Its metadata; it has no other file."""
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: {ROOT}\nVersion: {names.VERSION}\n"

    def locate_file(self, path: Any) -> Any:
        """No file of it exists."""
        raise FileNotFoundError(f"{path}: ray is Shoal's layer here and has no files")


def _is_only_asked() -> bool:
    """Whether ``importlib.util.find_spec`` asks, which wants None for what is not there."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("importlib._boot"):
        frame = frame.f_back
    return frame is not None and frame.f_code is importlib.util.find_spec.__code__


_finder = Finder()


def is_installed() -> bool:
    """Whether this process has the layer."""
    return _finder in sys.meta_path


def is_entry(present: types.ModuleType) -> bool:
    """Whether ``present`` is the folder of ``shoal run --as-ray``, which calls ``install``."""
    where = getattr(present, "__file__", None) or ""
    return isinstance(present, Names) or where.endswith("compat/as_ray/ray/__init__.py")


def install() -> None:
    """Put the finder before all others."""
    sys.meta_path.insert(0, _finder)


def module(name: str) -> types.ModuleType:
    """One module of the layer, imported now."""
    present = sys.modules.get(name)
    if not isinstance(present, Names):
        sys.modules.pop(name, None)
    return importlib.import_module(name)
