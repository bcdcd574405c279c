"""The autoscaler on a real head with real node processes: demand brings a node, and it goes."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import looked_around
from tests.cluster.operated import Machine, until

CONFIGURATION = """
idle_timeout_s = 3
patience_s = 0.5

[types.elsewhere]
resources = {CPU = 1, licence = 1}
labels = {zone = "a"}
max = 2

[types.licensed]
resources = {CPU = 1, licence = 1}
labels = {zone = "b"}
max = 2

[types.licensed.options]
object_store_memory = 64_000_000
"""
WANTING = """
import shoal

@shoal.remote(resources={"licence": 1}, label_selector={"zone": "b"})
def needs_one():
    return 1

ref = needs_one.remote()
print("asked", flush=True)
input()
"""


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """The look around comes after the last test: the head lives that long."""
    with looked_around():
        yield


@pytest.fixture(scope="module")
def head(_nothing_is_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("head") / "a")
    made.start("--head", "--listen", "127.0.0.1:0", "--node-name", "first")
    yield made
    made.stop()


def test_demand_brings_a_node_and_its_end_gives_it_back(
    head: Machine, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "scaling.toml"
    file.write_text(CONFIGURATION)
    words = [sys.executable, "-m", "shoal", "autoscale", str(file)]
    words += ["--directory", str(tmp_path / "nodes")]
    with subprocess.Popen(words, env=head.variables, stdout=subprocess.PIPE, text=True) as scaler:
        try:
            wanting = subprocess.Popen(
                [sys.executable, "-c", WANTING],
                env={**head.variables, "SHOAL_ADDRESS": "auto"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert wanting.stdout is not None and wanting.stdout.readline() == "asked\n"
            until(lambda: "asking 1 CPU, 1 licence" in head.shoal("status").stdout)
            until(lambda: len(head.alive()) == 2)
            (name,) = head.alive() - {"first"}
            labels = head.nodes()[name]["labels"]
            assert labels["shoal.io/node-type"] == "licensed"
            wanting.communicate("\n", timeout=30)
            until(lambda: head.alive() == {"first"}, 60)
        finally:
            scaler.send_signal(signal.SIGINT)
            told, _ = scaler.communicate(timeout=30)
    assert "asks for a node of type licensed" in told
    assert "drains node" in told and "Ends; the nodes go on." in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[types]", "nothing could be asked for"),
        ("[types.a]\nmax = 1\nprovidr = 1", "providr"),
        ("provider = 'moon'\n[types.a]\nmax = 1", "no provider 'moon'"),
    ],
)
def test_a_wrong_configuration_is_said(
    head: Machine, tmp_path: pathlib.Path, text: str, said: str
) -> None:
    file = tmp_path / "scaling.toml"
    file.write_text(text)
    done = head.shoal("autoscale", str(file))
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    missing = head.shoal("autoscale", str(tmp_path / "none.toml"))
    assert missing.returncode == 1 and "cannot be read" in missing.stderr
