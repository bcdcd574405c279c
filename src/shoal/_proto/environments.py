"""A runtime environment as it travels: what a worker needs before it runs anybody's code.

The driver (or the task that asks) makes an ``Environment`` out of what its user wrote: local files
are copied into the session and named by their content, requirement files are read, what is
inherited is merged. So nobody after it looks at the user's disk, and two environments are the same
exactly if their keys are. Daemons move it and never load the ``hook``.
"""

from collections.abc import Iterator

import msgspec

DEFAULT_SETUP_TIMEOUT_S = 600.0
CONDA = "conda:"
"""Begins the name of an interpreter that an environment brings; the digest or its path follows."""


class Tree(msgspec.Struct, frozen=True, omit_defaults=True):
    """Files that stand in one directory of the session, ``packages/<digest>``."""

    digest: str
    uri: str = ""
    """Where the node gets the archive; empty: whoever made this has put the files there."""
    wheel: str = ""
    """Name of the one file in it, to be installed."""


class Packages(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is installed beside the interpreter's own packages."""

    digest: str
    requirements: list[str] = []
    """Lines of a requirements file."""
    options: list[str] = []
    """More arguments of the installing tool."""
    field: str = "uv"
    """Which field asked for them: pip or uv."""
    version: str = ""
    """Which uv is to install them, such as "==0.13.9"; "": the one that is there."""
    is_checked: bool = False
    """Fail if what is installed lacks something, or does not fit together."""


class Conda(msgspec.Struct, frozen=True, omit_defaults=True):
    """An interpreter of its own: an existing environment's name, or the file of one to make."""

    digest: str
    name: str = ""
    file: str = ""


class Environment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that a worker takes over. Only ``key`` decides whether two are the same."""

    key: str = ""
    """Hash of all that makes a difference to a worker; "" has nothing."""
    env_vars: dict[str, str] = {}
    working_dir: Tree | None = None
    py_modules: list[Tree] = []
    packages: Packages | None = None
    conda: Conda | None = None
    hook: bytes = b""
    """A pickled function without arguments, to be called before everything else."""
    hook_name: str = ""
    """The same as ``module.name``."""
    setup_timeout_s: float = DEFAULT_SETUP_TIMEOUT_S
    """For making it; negative: no limit."""
    is_eager: bool = True
    """Make it when the job begins, not when the first task asks for it."""
    given: str = "{}"
    """JSON of what the user wrote, merged, without the values of ``env_vars``."""

    def __repr__(self) -> str:
        # It is printed in errors and logs, and values of env_vars are nobody's business (K-11).
        return f"Environment({self.key!r}, {self.given})"

    def has_to_be_made(self) -> bool:
        """Whether a node has to do something before its workers can have it."""
        is_bare = self.packages is None and self.conda is None
        return not is_bare or any(tree.uri or tree.wheel for tree in self.trees())

    def trees(self) -> Iterator[Tree]:
        """All directories of files that it names."""
        if self.working_dir is not None:
            yield self.working_dir
        yield from self.py_modules
