"""How often per second does a compiled graph run: an echo, a chain of four, four at once?

Both systems are asked with the same code and the same buffers. The values are arrays of bytes: they
are written into a channel once per hand-over and read in place, so a shape needs so many copies and
so many hand-overs, on however many cores there are:

=================  ==========  =======  ==========================================================
shape              hand-overs  copies   floor
=================  ==========  =======  ==========================================================
echo               2           2        1 B: given. 1 MiB: a copy at 8 GB/s takes 130 us, so 4 k/s.
                                        10 MiB does not fit into a cache: 4 GB/s, 200 /s.
chain of 4         5           5        2/5 of the echo's for values. 1 B: five processes share the
                                        cores, so four of five hand-overs wake a sleeper, 10 us each
                                        on two cores: 15 k/s.
scatter-gather     8           5        the values of the chain. 1 B: one write wakes four, and
                                        four are read: 10 k/s.
=================  ==========  =======  ==========================================================

What the calls themselves need is measured with the same code in one process, which reads what it
has written and never waits.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

ROOM = 4096
"""Bytes of a message beside those of the array."""


def echo(actors: list[Any], inp: Any) -> Any:
    return actors[0].echo.bind(inp)


def chain(actors: list[Any], inp: Any) -> Any:
    for actor in actors:
        inp = actor.echo.bind(inp)
    return inp


def scatter(actors: list[Any], inp: Any) -> list[Any]:
    return [actor.echo.bind(inp) for actor in actors]


@preparation
def running(side: str, shape: Callable[..., Any], size: int) -> Iterator[Step]:
    with cluster(side, num_cpus=8) as api:
        dag = importlib.import_module(f"{api.__name__}.dag")

        @api.remote
        class Echo:
            def echo(self, value: Any) -> Any:
                return value

        actors = [Echo.remote() for _ in range(1 if shape is echo else 4)]
        with dag.InputNode() as inp:
            end = shape(actors, inp)
        graph = dag.MultiOutputNode(end) if shape is scatter else end
        value = b"x" if size == 1 else np.arange(size, dtype=np.uint8)
        compiled = (PlayedByHand if side == "need" else compiled_by_name)(graph, size + ROOM)

        def step() -> int:
            api.get(compiled.execute(value))
            return 1

        yield step
        compiled.teardown()


def compiled_by_name(graph: Any, size: int) -> Any:
    return graph.experimental_compile(_buffer_size_bytes=size)


class PlayedByHand:
    """A compiled echo whose actor's loop is run here, between ``execute`` and ``get``."""

    def __init__(self, graph: Any, size: int) -> None:
        compiled = importlib.import_module("shoal.dag.compiled")
        loop = importlib.import_module("shoal.dag.loop")
        made = importlib.import_module("shoal.dag.plan").plan(graph)
        make = importlib.import_module("shoal.lowlevel").channel
        channels = [make(size, slots=compiled.SLOTS) for _ in made.lines]
        self._graph = compiled.CompiledDAG(made, compiled.Options(), channels, [], [])
        (part,) = made.parts
        lines = dict(enumerate(channels))
        program = loop.Program(os.getpid(), part.steps, part.places, lines, {})
        self._step = loop.Loop(program).bound(part.steps[0], lambda value: value)
        self.teardown = self._graph.teardown

    def execute(self, value: Any) -> Any:
        ref = self._graph.execute(value)
        self._step()
        return ref


SHAPES: dict[str, tuple[Callable[..., Any], str]] = {
    "": (echo, "echo"),
    "-chain": (chain, "chain of 4"),
    "-scatter": (scatter, "scatter-gather of 4"),
}
SIZES = {"": (1, "1 B"), "-1MiB": (1 << 20, "1 MiB"), "-10MiB": (10 << 20, "10 MiB")}
FLOORS: dict[str, tuple[float, float | None]] = {
    "": (60e3, 150e3),
    "-1MiB": (4e3, None),
    "-10MiB": (200, None),
    "-chain": (15e3, None),
    "-chain-1MiB": (1.6e3, None),
    "-chain-10MiB": (80, None),
    "-scatter": (10e3, None),
    "-scatter-1MiB": (1.6e3, None),
    "-scatter-10MiB": (80, None),
}


def case(name: str, shape: Callable[..., Any], what: str, size: int, how_much: str) -> Case:
    is_first = not name
    floor, aim = FLOORS[name]

    def prepare(side: str) -> AbstractContextManager[Step]:
        return running(side, shape, size)

    return Case(
        id=f"C19{name}",
        question=f"compiled graph, {what}, {how_much}",
        unit="execution",
        sides=CLUSTERS,
        prepare=prepare,
        floor=floor,
        aim=aim,
        limit="spin" if is_first else None,
        least="two hand-overs between cores" if is_first else "",
        need=Need("the same code in one process, which never waits", side="need")
        if is_first
        else None,
        smaller=f"C19{name.replace('-10MiB', '-1MiB')}" if name.endswith("-10MiB") else "",
        is_latency=True,
        # One window each: what has one number needs no spread, and there are nine of them.
        has_neighbours=is_first,
        max_windows=2 if is_first else 1,
        max_peer_windows=2 if is_first else 1,
    )


CASES = [
    case(f"{shape}{size}", make, what, n, how_much)
    for shape, (make, what) in SHAPES.items()
    for size, (n, how_much) in SIZES.items()
]
