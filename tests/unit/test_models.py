"""The protocols of node memory, checked in every interleaving with a death before each step.

`native/model/` holds one small program per protocol, built on the project's own explicit-state
checker (`checker.hpp`). Each program runs the protocol as it is and a handful of deliberately
broken variants, and prints one line for each. The protocol must be searched wholly and have no
violation; every broken variant must have one, or the model does not see what it claims to see. So
the broken variants are the tests of the models.

The configurations here are small enough for every run. Larger ones are a matter of arguments (each
model names them in its first comment), for example with more deaths:

    g++ -O2 -std=c++20 -o /tmp/holds native/model/holds.cpp && /tmp/holds 2 3 3 trace
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "native" / "model"

# How many states the right protocol must at least have, and how many broken variants there are.
# Both guard against a model that has been cut down until it proves nothing.
EXPECTED = {
    "actor": (100_000, 6),
    "blocks": (200_000, 7),
    "channel": (2_000_000, 14),
    "completions": (1_000_000, 8),
    "dependencies": (2_000_000, 17),
    "failing": (340_000, 4),
    "freeing": (140_000, 6),
    "holds": (1_000_000, 5),
    "hungry": (5_000_000, 10),
    "lent": (20_000, 4),
    "inbox": (79_000, 6),
    "lookers": (500, 6),
    "queue": (1_800_000, 11),
    "seal": (1_500, 4),
    "spill": (35_000, 7),
    "stopped": (4_000_000, 4),
}

LINE = re.compile(
    r"(?P<model>\w+) \| (?P<broken>BROKEN )?(?P<name>.+?) \| "
    r"states (?P<states>\d+) terminal (?P<terminal>\d+) violations (?P<violations>\d+)(?P<rest>.*)"
)


@dataclass(frozen=True)
class Variant:
    """One printed line: a protocol, right or broken, and what the search found."""

    name: str
    is_broken: bool
    states: int
    terminal: int
    violations: int
    rest: str


def run_model(name: str, build: Path) -> list[Variant]:
    """Compile one model and run it with its default configuration."""
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler is not None, "the models need a C++20 compiler, as the native module does"
    program = build / name
    source = MODELS / f"{name}.cpp"
    command = [compiler, "-O2", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-o", str(program)]
    subprocess.run([*command, str(source)], check=True, timeout=300)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300, check=False)
    print(done.stdout)
    variants = [
        Variant(
            name=found["name"],
            is_broken=found["broken"] is not None,
            states=int(found["states"]),
            terminal=int(found["terminal"]),
            violations=int(found["violations"]),
            rest=found["rest"],
        )
        for found in map(LINE.fullmatch, done.stdout.splitlines())
        if found is not None and found["model"] == name
    ]
    assert done.returncode == 0, done.stdout + done.stderr
    return variants


def test_every_model_is_expected() -> None:
    assert {path.stem for path in MODELS.glob("*.cpp")} == set(EXPECTED)


@pytest.mark.timeout(400)  # fifteen seconds of one core, on a machine that may have much to do
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_model(name: str, tmp_path: Path) -> None:
    variants = run_model(name, tmp_path)
    least_states, n_broken = EXPECTED[name]
    right = [variant for variant in variants if not variant.is_broken]
    broken = [variant for variant in variants if variant.is_broken]
    assert len(right) == 1 and right[0].violations == 0 and "INCOMPLETE" not in right[0].rest
    assert right[0].states >= least_states and right[0].terminal > 0
    assert len(broken) == n_broken
    for variant in broken:
        assert variant.violations > 0, f"{name}: nobody caught {variant.name!r}"
