"""The simulator and the real processes run the same machines, and speak the same language to them.

Read from the sources: which classes of `_core` are constructed where. What the simulator leaves out
is listed here, with the reason, and nothing may stand in the list without need.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterable

from shoal._core import commands, events
from shoal.testing.sim.world import World
from tests.tidy.sources import PythonFile, imports, python_files

ACROSS = "other nodes: unit tests of the machine, real daemons in tests/cluster"
NOT_SIMULATED = {
    **{kind.__name__: ACROSS for kind in typing.get_args(commands.Across)},
    **dict.fromkeys(
        (
            *("NodesChanged", "GuestWanted", "GuestEnded", "CancelAsked", "NoteRetryable"),
            *("ActorSent", "ActorTold", "ActorCame", "ActorEnds", "AbroadLooked"),
            *("CallersGone", "NameAnswered"),
            *("GroupTold", "BundlesWanted", "BundlesOpened", "BundlesUnwanted", "GroupsOver"),
            *("DrainBegun", "ActorMoves", "HomeLeaves", "HomeFound", "ActorGiven"),
            "GivenAway",
            "LeaseSet",
        ),
        ACROSS,
    ),
    "AdoptFailed": "arguments that are gone before they are held: unit tests of the machine",
    "StopAsked": "a session that is asked to end does nothing afterwards: unit tests and scenarios",
    "RemoteRefs": "sim/ref_sites.py is given the class: tests/sim/test_remote_refs.py explores it",
    "Bridge": "lives at random in tests/unit/test_core_bridge.py, node memories in tests/cluster",
    "Link": "lives at random in tests/property/test_link_session.py",
}


def machines() -> dict[str, str]:
    """Every class of `_core` with a `step`: what decides, and nothing else does."""
    found = {}
    for file in python_files("src/shoal/_core/"):
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(child, ast.FunctionDef) and child.name == "step" for child in node.body
            ):
                found[node.name] = file.module
    return found


def constructed(files: Iterable[PythonFile], names: Iterable[str]) -> set[str]:
    """Those of `names`, classes of `_core`, that are called in these files."""
    wanted, found = set(names), set()
    for file in files:
        if not any(name.startswith("shoal._core") for name, _ in imports(file)):
            continue
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                found.update({name} & wanted)
    return found


REAL = [*python_files("src/shoal/_runtime/"), *python_files("src/shoal/cluster/")]
SIMULATED = python_files("src/shoal/testing/sim/")


def test_both_construct_every_machine() -> None:
    every = set(machines())
    assert {"NodeMachine", "StoreMachine"} <= every
    inside = constructed(python_files("src/shoal/_core/"), every)
    run = constructed(REAL, every) | inside
    assert run == every, "a machine that no process runs"
    assert constructed(SIMULATED, every) | inside | (every & set(NOT_SIMULATED)) == every, (
        "a machine is not simulated: plug it into shoal.testing.sim (docs/simulation.md says how),"
        " or list it in NOT_SIMULATED with the reason"
    )


def test_the_simulator_tells_every_event_that_the_daemon_tells() -> None:
    every = {kind.__name__ for kind in typing.get_args(events.AnyEvent)}
    told = constructed(REAL, every)
    assert told == every, "an event that nobody tells"
    missing = told - constructed(SIMULATED, every) - set(NOT_SIMULATED)
    assert not missing, f"the simulator never tells {missing}"


def test_the_simulator_performs_every_command() -> None:
    every = {kind.__name__ for kind in typing.get_args(commands.AnyCommand)}
    missing = {name for name in every if not hasattr(World, f"do_{name.lower()}")}
    assert missing - set(NOT_SIMULATED) == set()


def test_what_is_left_out_is_left_out() -> None:
    kinds = {each.__name__ for each in typing.get_args(events.AnyEvent)} | set(machines())
    needless = constructed(SIMULATED, kinds) & set(NOT_SIMULATED)
    needless |= {name for name in NOT_SIMULATED if hasattr(World, f"do_{name.lower()}")}
    assert not needless, f"{needless} are simulated: take them out of the list"
