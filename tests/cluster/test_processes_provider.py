"""The provider of node processes on this machine, with real processes."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from shoal._runtime import registry, session_dir
from shoal._runtime.observer import Observer
from shoal.cluster import Instance, NodeType, ProviderError
from shoal.cluster.processes import ProcessProvider
from shoal.cluster.provider import ENDED, ENDING, RUNNING, STARTING

NODE = NodeType(
    name="small",
    resources={"CPU": 1, "licence": 2},
    labels={"zone": "a"},
    options={"object_store_memory": 64 << 20},
)
DEADLINE_S = 30.0


def until(what: Callable[[], object]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, f"{what} has not come"
        time.sleep(0.02)


def states(provider: ProcessProvider) -> dict[str, str]:
    return {each.request: each.state for each in provider.instances()}


@pytest.fixture
def provider(tmp_path: pathlib.Path) -> Iterator[ProcessProvider]:
    made = ProcessProvider(str(tmp_path / "nodes"))
    yield made
    for instance in made.instances():
        made.terminate(instance.instance)
    until(lambda: set(states(made).values()) <= {ENDED})
    until(lambda: left_of(tmp_path) == [])  # the zygote of one that was killed ends the rest


def left_of(directory: pathlib.Path) -> list[str]:
    """Processes that name the directory in their arguments or environment."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if int(pid) != os.getpid() and str(directory).encode() in command + variables:
            found.append(command.decode(errors="replace"))
    return found


def test_a_node_comes_and_goes(provider: ProcessProvider, tmp_path: pathlib.Path) -> None:
    assert provider.instances() == []
    provider.launch("r-1", NODE)
    assert states(provider) in ({"r-1": STARTING}, {"r-1": RUNNING})
    until(lambda: states(provider) == {"r-1": RUNNING})
    (entry,) = registry.started_sessions(str(tmp_path / "nodes" / "r-1"))
    with Observer(entry.socket_path) as observer:
        (row,) = observer.table("nodes")
        total, labels = row["total"], row["labels"]
    assert isinstance(total, dict) and (total["CPU"], total["licence"]) == (1.0, 2.0)
    assert isinstance(labels, dict) and labels["zone"] == "a"
    assert labels["shoal.io/request"] == "r-1" and labels["shoal.io/node-type"] == "small"

    provider.terminate("r-1")
    assert states(provider) in ({"r-1": ENDING}, {"r-1": ENDED})
    until(lambda: states(provider) == {"r-1": ENDED})
    provider.terminate("r-1")
    provider.terminate("never was")
    assert os.listdir(tmp_path / "nodes" / "r-1") == ["instance.json"]


def test_a_repeated_launch_makes_no_second_node(provider: ProcessProvider) -> None:
    for _ in range(3):
        provider.launch("r-1", NODE)
    until(lambda: states(provider) == {"r-1": RUNNING})
    provider.launch("r-1", NODE)
    assert len(provider.instances()) == 1
    provider.terminate("r-1")
    until(lambda: states(provider) == {"r-1": ENDED})
    provider.launch("r-1", NODE)
    assert states(provider) == {"r-1": ENDED}, "a late repetition starts nothing"


def test_a_killed_node_is_seen(provider: ProcessProvider, tmp_path: pathlib.Path) -> None:
    provider.launch("r-1", NODE)
    until(lambda: states(provider) == {"r-1": RUNNING})
    (entry,) = registry.started_sessions(str(tmp_path / "nodes" / "r-1"))
    os.kill(entry.pid, signal.SIGKILL)
    until(lambda: states(provider) == {"r-1": ENDED})
    (instance,) = provider.instances()
    assert isinstance(instance, Instance) and "signal 9" in instance.why
    until(lambda: left_of(tmp_path) == [])


def test_a_stopped_node_is_killed(
    provider: ProcessProvider, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.cluster.processes.END_S", 0.5)
    provider.launch("r-1", NODE)
    until(lambda: states(provider) == {"r-1": RUNNING})
    (entry,) = registry.started_sessions(str(tmp_path / "nodes" / "r-1"))
    os.kill(entry.pid, signal.SIGSTOP)
    provider.terminate("r-1")
    until(lambda: states(provider) == {"r-1": ENDED})


OTHER_LIFE = """
import sys
from shoal.cluster.processes import ProcessProvider
from shoal.cluster import NodeType
provider = ProcessProvider(sys.argv[1])
provider.launch("r-1", NodeType(name="small", resources={"CPU": 1},
                                options={"object_store_memory": 64 << 20}))
print("launched", flush=True)
sys.stdin.read()
"""


def test_another_life_finds_what_there_is(
    provider: ProcessProvider, tmp_path: pathlib.Path
) -> None:
    """The program that launched it is killed: its node goes on, and is found and ended by ours."""
    command = [sys.executable, "-c", OTHER_LIFE, str(tmp_path / "nodes")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"launched\n"
        other.kill()
    assert states(provider) in ({"r-1": STARTING}, {"r-1": RUNNING})
    until(lambda: states(provider) == {"r-1": RUNNING})
    provider.launch("r-1", NODE)
    assert len(registry.started_sessions(str(tmp_path / "nodes" / "r-1"))) == 1


def test_a_life_that_was_killed_while_it_launched(
    provider: ProcessProvider, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory with a record and no process: it counts as starting, and then as ended."""
    monkeypatch.setattr("shoal.cluster.processes.BEGINNING_S", 0.5)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shoal._runtime.launch.launch", killed)
        with pytest.raises(KeyboardInterrupt):
            provider.launch("r-1", NODE)
    assert states(provider) == {"r-1": STARTING}
    until(lambda: states(provider) == {"r-1": ENDED})
    provider.launch("r-1", NODE)
    assert states(provider) == {"r-1": ENDED}
    session_dir.check_root(str(tmp_path / "nodes"))


def test_what_cannot_be_meant_is_refused(provider: ProcessProvider) -> None:
    for name in ("", "../r-1", "a/b", ".hidden", "x" * 200):
        with pytest.raises(ProviderError, match="simple id"):
            provider.launch(name, NODE)
    assert provider.instances() == []


def test_no_more_processes_is_a_clear_error(
    provider: ProcessProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_spawn", full)
        with pytest.raises(ProviderError, match="no process could be started"):
            provider.launch("r-1", NODE)
    assert states(provider) == {"r-1": ENDED}
