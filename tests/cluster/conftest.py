"""What every test of this folder gets: a look around before and after it, and networks.

The audit knows nothing of what a test has made: it asks the kernel for network namespaces,
interfaces and rules, and looks at the environment of every process. Of namespaces those count
in which a process is that this run has begun, whoever its parent is by now: each inherits the
variable ``RUN``. So several runs on one machine do not see each other.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoal._runtime import session_dir
from shoal.testing import Network, leftovers, networks
from shoal.testing.polling import wait_until

RUN = "SHOAL_TEST_RUN"
os.environ.setdefault(RUN, f"{os.getpid()}-{session_dir.process_start_time(os.getpid())}")
LEASE_S = 3.0
"""Of clusters in whose tests nodes are lost: who is lost is given up a second later. Some have the
usual one."""
SETTLE_S = 10.0
"""The kernel takes a namespace apart some time after its last process."""


def what_there_is() -> dict[str, set[str]]:
    """Everything that a cluster or a network could leave on this machine."""
    mark = str(os.getpid())
    ours = f"{RUN}={os.environ[RUN]}"
    marked = (
        f"process {pid} of {name}"
        for name in leftovers.marks()
        if name.startswith(mark + "-")
        for pid in leftovers.processes(name)
    )
    return {
        "network namespaces": {str(number) for number in leftovers.network_namespaces(ours)},
        "interfaces": {path.name for path in Path("/sys/class/net").iterdir()},
        "rules": set(_rules()),
        "directories": {path.name for path in leftovers.root().glob(mark + "-*")},
        "processes": set(marked),
    }


def _rules() -> list[str]:
    """Of the machine's own packet filter; counters of packets are no rules."""
    if not networks.has_iptables():
        return []
    done = subprocess.run(
        ["iptables-save"], capture_output=True, text=True, env=networks.variables()
    )
    return [line for line in done.stdout.splitlines() if line.startswith("-A")]


@contextmanager
def looked_around() -> Iterator[None]:
    """Whatever there is more afterwards is an error."""
    before = what_there_is()
    yield
    left: dict[str, set[str]] = {}

    def is_clean() -> bool:
        now = what_there_is()
        left.clear()
        left.update({kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]})
        return not left

    assert wait_until(is_clean, SETTLE_S), f"left after the test: {left}"


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with looked_around():
        yield


@pytest.fixture(params=["root", "user"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A network of each kind that there can be here."""
    yield from _network(request.param, proxied=False)


@pytest.fixture(params=["root", "user"])
def slow_network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """The same with proxies in between."""
    yield from _network(request.param, proxied=True)


def _network(rights: str, proxied: bool) -> Iterator[Network]:
    need_namespaces(rights)
    with Network(proxied=proxied, rights=rights, seed=7) as made:  # type: ignore[arg-type]
        yield made


def need_namespaces(rights: str = "") -> None:
    """Skip a test that cannot run here, with what is missing."""
    if missing := networks.why_not():
        pytest.skip(missing)
    if rights and not networks.can_make(rights):
        pytest.skip(f"network namespaces cannot be made with the rights of {rights!r}")


@pytest.fixture
def need_network() -> Callable[[], None]:
    return need_namespaces
