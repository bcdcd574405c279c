"""The ``shoal`` command.

``shoal run`` must start as fast as Python itself, and ``shoal stop`` takes no options, so they are
recognised here, before the parser of the other commands (cyclopts: 90 ms) is imported.
"""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run ``shoal <arguments>`` (default: the process's own) and return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["run"]:
        from shoal.cli import program

        return program.run(words[1:])
    if words == ["stop"]:
        from shoal.cli import stopping

        return stopping.run()
    from shoal.cli import app

    return app.run(words)
