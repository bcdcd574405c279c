"""The whole torture: every kind of fault for its share of the time, then one line of JSON.

    python -m tests.torture [--seconds 60] [--seed N] [--only kills,full] [--json FILE]

Each part is a session (or many) of its own and ends with its audit; the first violation ends the
run with a traceback and a non-zero exit code. `docs/reliability.md` says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture import full, group, kills, sessions, stopped
from tests.torture.kills import Say

Part = Callable[[Path, int, float, Say], Any]
PARTS: dict[str, tuple[Part, float]] = {
    "kills": (kills.run, 0.52),
    "tools": (kills.run_tools, 0.2),
    "stopped": (stopped.run, 0.08),
    "full": (full.run, 0.06),
    "group": (group.run, 0.06),
    "sessions": (sessions.run, 0.08),
}
"""Each part and its share of the time; of a few, they share it all."""


def run_part(name: str, seed: int, seconds: float) -> Any:
    part, _ = PARTS[name]
    with tempfile.TemporaryDirectory(prefix="shoal-torture-") as folder:
        return part(Path(folder), seed, seconds, lambda text: print(f"{name}: {text}", flush=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, default=None, help="where the last line goes too")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    begun = time.time()
    names = arguments.only.split(",")
    second = arguments.seconds / sum(PARTS[name][1] for name in names)
    found = {name: run_part(name, arguments.seed, PARTS[name][1] * second) for name in names}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {
        "seed": arguments.seed,
        "seconds_asked": arguments.seconds,
        "seconds": round(time.time() - begun, 1),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "drivers_cpu_s": round(used.ru_utime + used.ru_stime, 1),
        **found,
    }
    line = json.dumps(report)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
