"""``python -m tests.parity.on_nodes [file ...]``: the stories once more, on a cluster of three.

A program written for one machine runs unchanged: each story joins the cluster instead of starting
a session of its own, and comes out as on one machine, but for those in ``ALONE``. Its node has two
CPUs and all else that stories ask for; what needs more than two CPUs at once crosses.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shoal.testing import Cluster
from tests.parity.record import HERE, OUTCOMES, expected, play

ALONE = {
    "context.cluster_resources": "three nodes have more",
    "context.list_nodes": "there are three",
    "context.nodes": "there are three",
    "placement.bundles_reserve": "three nodes have more than the group holds",
    "placement.node_affinity_hard_and_gone": "a node of that id might join: it waits (S-13)",
    "tasks.more_than_there_is": "another node might be added: it waits, as with Ray",
}
"""Stories that tell of one machine."""


@contextmanager
def three_nodes() -> Iterator[Cluster]:
    """What the stories are played on."""
    with Cluster() as cluster:
        cluster.add_node(
            num_cpus=2,
            num_gpus=2,
            resources={"licence": 2, "accelerator_type:A100": 1},
            labels={"zone": "a", "kind": "test"},
        )
        cluster.add_node(num_cpus=2)
        cluster.add_node(num_cpus=2)
        yield cluster


def differences(cluster: Cluster, file: str, folder: Path) -> dict[str, tuple[Any, Any]]:
    """What was expected of which story of a file, and what came out, where that differs."""
    wanted = {n: o for n, o in expected(file).items() if f"{file}.{n}" not in ALONE}
    environment = {**os.environ, "STORY_ADDRESS": cluster.address, "COLUMNS": "120"}
    command = [sys.executable, "-m", "shoal", "run", "--as-ray"]
    told, said = play(command, HERE / "stories" / f"{file}.py", list(wanted), environment, folder)
    if not told:
        raise RuntimeError(f"{file}: no outcome\n{said[-4000:]}")
    return {n: (o, told.get(n)) for n, o in wanted.items() if told.get(n) != o}


def main() -> int:
    """Play all files, or those named."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.on_nodes")
    parser.add_argument("files", nargs="*", help="names of files of stories, without .py")
    chosen = parser.parse_args().files or sorted(path.stem for path in OUTCOMES.glob("*.json"))
    wrong = 0
    with three_nodes() as cluster, tempfile.TemporaryDirectory() as folder:
        for file in chosen:
            found = differences(cluster, file, Path(folder))
            print(f"{file}: {len(expected(file))} stories, {len(found)} differ", flush=True)
            for name, (before, now) in found.items():
                print(f"  {name}: {before} on one machine, {now} on three", flush=True)
            wrong += len(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
