"""``SimCluster``: whole lives of a simulated cluster, one seed each.

A seed is a plan (``plan``: how large the node is, which programs come when, what goes wrong when)
and the chance of everything else. A life has four parts::

    trouble   0 to 6 s       programs come and go, faults strike
    quiet     to 200 s       no more faults: everything must end or wait for what nobody has
    reading   to 204 s       a last program reads what was acknowledged, and ends what is detached
    leaving   to 300 s       everybody has left: nothing may be left, and all agree

After every step of a machine the checkers look at the fakes. The machines are the real ones: the
same classes of ``_core`` as the daemon and the control store construct.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Collection

import msgspec

from shoal._base.config import NodeConfig
from shoal.testing.sim import (
    checkers,
    endings,
    process_memory_checkers,
    stalls,
    store_checkers,
    stories,
    value_checkers,
)
from shoal.testing.sim.faults import FAULTS, Fault, strike
from shoal.testing.sim.store_programs import ClusterProgram, ClusterWorld, Reader

TROUBLE_S = 6.0
QUIET_S = 200.0
READ_S = 204.0
LEAVE_S = 206.0
END_S = 300.0
SHRINK_MOST = 40


class Visit(msgspec.Struct, frozen=True):
    """One program comes."""

    at: float
    name: str
    bursts: int


class Plan(msgspec.Struct, frozen=True):
    """What a seed stands for."""

    seed: int
    cpus: float
    chaos: float
    """How likely a program itself does something bad."""
    visits: tuple[Visit, ...]
    faults: tuple[Fault, ...]
    extents: int = 24
    """How large node memory is."""
    lineage: float = 1e6
    """How much may be kept for making lost values again."""
    memory: int = 0
    """Bytes that processes may have; 0: nobody watches that."""
    has_stall_watches: bool = False
    """Programs ask why they wait."""


class Report(msgspec.Struct, frozen=True):
    """One life that went well.

    Attributes:
        seed: which one.
        steps: events that the machines of the node have answered.
        tasks: tasks and calls that were submitted.
        keys: requests to the key-value table that were answered.
        faults: how often each kind of fault struck.
        virtual_s: virtual seconds that passed.
        values: what happened to values: how often one was read, left for a file, came back, was
            lost, made again or given up, and how often room was refused.
        memory: how often a process was ended for its memory, by the daemon or the kernel, how often
            admission was paused, and how many heavy tasks were admitted.
    """

    seed: int
    steps: int
    tasks: int
    keys: int
    faults: dict[str, int]
    virtual_s: float
    values: dict[str, int] = {}
    memory: dict[str, int] = {}


class SimulationError(AssertionError):
    """A rule was broken in a simulated cluster: which, by whom, and how it came to that.

    Attributes:
        plan: what to run again: ``SimCluster(plan.seed).run()``.
        violation: the rule, and who broke it.
        story: events about whatever the violation names, the last ones first to be read last.
    """

    def __init__(self, plan: Plan, violation: Exception, world: ClusterWorld) -> None:
        self.plan = plan
        self.violation = violation
        self.story = stories.about(world.log, str(violation))
        self._log = tuple(world.log)
        super().__init__(
            f"seed {plan.seed}: {str(violation) or repr(violation)}\n"
            f"found in {stories.place_of(violation)}\n"
            f"run it again: python -m shoal.testing.sim --seed {plan.seed}\n"
            f"what happened to what it names {stories.LEGEND}:\n" + "\n".join(self.story)
        )

    @functools.cached_property
    def full(self) -> list[str]:
        """Every event of the life, one line each."""
        return stories.lines(self._log)


def plan(seed: int, kinds: Collection[str] = tuple(FAULTS)) -> Plan:
    """What ``seed`` stands for, with faults of these kinds only."""
    chance = random.Random(seed)
    visits = tuple(
        Visit(chance.uniform(0.0, TROUBLE_S / 2), f"driver {n}", chance.choice((2, 5, 8)))
        for n in range(chance.choice((1, 2, 3)))
    )
    count = chance.choice((0, 2, 5, 12))
    faults = tuple(
        Fault(chance.uniform(0.0, TROUBLE_S), chance.choice(sorted(kinds)), chance.getrandbits(32))
        for _ in range(count if kinds else 0)
    )
    cpus, chaos = chance.choice((1.0, 2.0, 4.0, 16.0)), chance.choice((0.0, 0.3, 1.0))
    extents, lineage = chance.choice((12, 16, 24, 200)), chance.choice((0.0, 10.0, 1e6, 1e6))
    memory = chance.choice((0, 0, 0, 8 << 30))
    in_time = tuple(sorted(faults, key=lambda fault: fault.at))
    asks = chance.random() < 0.5
    return Plan(seed, cpus, chaos, visits, in_time, extents, lineage, memory, asks)


class SimCluster:
    """A cluster on a virtual clock: its machines are real, everything around them is simulated.

    One node and its control store, with the programs, processes, disks and links that they need.
    The same seed is the same run on every machine, to the last event.

    Args:
        seed: which life.
        faults: kinds of faults that may strike (keys of ``shoal.testing.FAULTS``); default all.

    Example:
        >>> from shoal.testing import SimCluster
        >>> report = SimCluster(seed=7).run()
        >>> report == SimCluster(seed=7).run()
        True
        >>> SimCluster(seed=7, faults=[]).run().faults
        {}
    """

    def __init__(self, seed: int, *, faults: Collection[str] | None = None) -> None:
        kinds = tuple(FAULTS) if faults is None else tuple(faults)
        unknown = [kind for kind in kinds if kind not in FAULTS]
        if unknown:
            known = ", ".join(sorted(FAULTS))
            raise ValueError(f"faults={unknown}: there is no such kind; there are: {known}")
        self.plan = plan(seed, kinds)

    def run(self) -> Report:
        """Live, and check.

        Raises:
            SimulationError: a rule was broken; it says which, and tells the story.
        """
        return run(self.plan)


def run(what: Plan, program: type[ClusterProgram] = ClusterProgram) -> Report:
    """One life of this plan, which may be one of your own.

    Args:
        what: who comes, and what goes wrong.
        program: what everybody who comes does; a subclass of yours is another workload.

    Raises:
        SimulationError: a rule was broken.

    Example:
        >>> from shoal.testing import Fault, Plan, Visit, run
        >>> visits = (Visit(at=0.0, name="driver 0", bursts=5),)
        >>> faults = (Fault(at=0.1, kind="store killed", draw=1),)
        >>> plan = Plan(seed=1, cpus=2.0, chaos=0.0, visits=visits, faults=faults)
        >>> run(plan).faults
        {'store killed': 1}
    """
    world = ClusterWorld(what.seed, _config(what), extents=what.extents, lineage=what.lineage)
    world.has_stall_watches = what.has_stall_watches
    struck: Counter[str] = Counter()
    try:
        _live(world, what, struck, program)
    except Exception as violation:  # a machine that fails on its own breaks a rule, too
        raise SimulationError(what, violation, world) from violation
    asked = sum(history.answered for history in world.histories.values())
    values = {**world.values.counts}
    memory = {**world.rules.counts} if what.memory else {}
    return Report(
        what.seed, world.steps, len(world.tasks), asked, dict(struck), world.now, values, memory
    )


def _config(what: Plan) -> NodeConfig:
    return NodeConfig(
        session="sim",
        directory="/nowhere",
        node_id=b"simulated node 1",
        total={
            "CPU": max(what.cpus, 2.0),
            "GPU": 2.0,
            "disk": 1.0,
            "memory": float(what.memory or 1e9),
        },
        cores=int(what.cpus),
        started=True,
        memory_bytes=what.memory,
    )


def _live(
    world: ClusterWorld, what: Plan, struck: Counter[str], program: type[ClusterProgram]
) -> None:
    programs: list[ClusterProgram] = []

    def arrive(visit: Visit) -> None:
        programs.append(program(world, visit.name, visit.bursts, what.chaos))

    def hit(fault: Fault) -> None:
        struck[fault.kind] += 1
        world.note(f"fault: {fault.kind}")
        strike(world, fault)

    for visit in what.visits:
        world.later(visit.at, functools.partial(arrive, visit))
    for fault in what.faults:
        world.later(fault.at, functools.partial(hit, fault))
    world.run(TROUBLE_S)
    world.run(max(QUIET_S, world.now + QUIET_S - TROUBLE_S))
    quiet_at = world.now
    checkers.check_progress(world)
    store_checkers.check_converged(world)
    value_checkers.check_nobody_waits(world.values)
    for each in programs:
        if each.watch is not None:
            stalls.check_told(world, each.watch)
    # Whoever waits for what will never come (an infeasible request of a started session) ends now.
    for each in programs:
        world.die(each.process, signal=15)
    reader = Reader(world)
    world.run(quiet_at + READ_S - QUIET_S)
    if not reader.is_done:
        raise checkers.Violation("the last program waits for ever")
    for each in programs:
        each.drop_everything()
    world.run(quiet_at + END_S - QUIET_S)
    checkers.check_all_over(world)
    checkers.check_given_back(world)
    endings.check_records(world)
    process_memory_checkers.check_ended_for_memory(world)
    process_memory_checkers.check_nothing_waits(world)
    store_checkers.check_converged(world)
    value_checkers.check_nothing_left(world.values)


def shrink(error: SimulationError, tell: Callable[[str], None] = lambda text: None) -> Plan:
    """The smallest plan found that breaks the same rule: without most faults and programs.

    Args:
        error: what a life has ended with.
        tell: called with a line for each step on the way.

    Example:
        >>> from shoal.testing import SimCluster, SimulationError, shrink
        >>> try:
        ...     report = SimCluster(seed=3).run()
        ... except SimulationError as error:
        ...     print(shrink(error).faults)
    """
    kind = _kind_of(error)
    best, tries = error.plan, 0
    is_smaller = True
    while is_smaller and tries < SHRINK_MOST:
        is_smaller = False
        for smaller in _smaller(best):
            tries += 1
            if tries > SHRINK_MOST:
                break
            try:
                run(smaller)
            except SimulationError as found:
                if _kind_of(found) == kind:
                    best, is_smaller = smaller, True
                    tell(f"{len(best.faults)} faults, {len(best.visits)} programs")
                    break
    return best


def _kind_of(error: SimulationError) -> str:
    """The violation without the numbers in it."""
    return "".join(" " if c.isdigit() else c for c in str(error.violation))[:30]


def _smaller(what: Plan) -> list[Plan]:
    out: list[Plan] = []
    size = len(what.faults)
    while size:
        for start in range(0, len(what.faults), size):
            fewer = what.faults[:start] + what.faults[start + size :]
            out.append(msgspec.structs.replace(what, faults=fewer))
        size //= 2
    for number in range(len(what.visits)):
        fewer_visits = what.visits[:number] + what.visits[number + 1 :]
        out.append(msgspec.structs.replace(what, visits=fewer_visits))
    return out
