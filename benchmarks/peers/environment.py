"""Makes .venv-peers and keeps it in step with `requirements.txt`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FOLDER = ROOT / ".venv-peers"


def interpreter() -> Path:
    """The interpreter of the peers' environment, made if it is not there yet."""
    python = FOLDER / "bin" / "python"
    stamp = FOLDER / ".requirements"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("making the peers' environment in .venv-peers ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "-r", REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Version of each peer, as installed."""
    program = (
        "import importlib.metadata as m\n"
        "for name in ('ray', 'loky', 'distributed', 'numpy'): print(name, m.version(name))"
    )
    output = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    return dict(line.split() for line in output.stdout.splitlines())
