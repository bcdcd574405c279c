"""Runtime environments: what stands around a task's code, made where it runs.

::

    runtime_env={...}                       a program or a task says what it needs
      -> given       is every field known and well-formed?
      -> resolving   files are copied into the session, lists read, what is inherited merged:
                     one ``Environment`` (see ``_proto.environments``), named by its content
      -> the daemon  asks ``places`` whether all of it is there; if not, runs ``build``
      -> build       a child process: ``fetching``, ``archives``, ``installing`` put it there
      -> applying    a worker takes it over before any user code is loaded

1. A daemon makes nothing itself and loads nothing of it: making is a child process with a time
   limit, which may be killed at any moment.
2. Whatever is kept is written beside its place and renamed when it is complete; a place that
   exists is complete. Who makes one holds its lock, who uses one shares it (``places``).
3. What is installed is shared by all sessions of a user. Files that tasks may write to, such as a
   working directory, are the session's own.
4. An environment never brings its own Shoal (RULES E-2).
"""

from __future__ import annotations


class SetupFailure(Exception):
    """An environment can not be made or taken over."""

    def __init__(self, step: str, text: str, output: list[str] | None = None) -> None:
        super().__init__(step, text, output or [])
        self.step = step
        """The field of the environment."""
        self.text = text
        self.output = output or []
        """The last lines of the tool that failed."""
