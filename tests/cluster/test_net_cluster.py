"""Networks in namespaces, with real programs in them, and clusters on such networks.

Each fault is shown by what programs see, in both directions, and again after the healing. Tests run
once with the rights of root and once in a user namespace, where there is either.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shoal
from shoal.testing import Faults, Host, NetCluster, Network, NetworkError, leftovers, networks
from shoal.testing.polling import wait_until
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity
from tests.cluster.conftest import LEASE_S, RUN, what_there_is
from tests.cluster.programs import Program, talker

PORT = 7000
SHORT_S = 0.4
LONG_S = 60.0
TIMED_OUT = {"TimeoutError", "timeout"}


@contextmanager
def talking(a: Host, b: Host) -> Iterator[tuple[Program, Program]]:
    """A server on ``b``, and a client on ``a`` that is connected to it."""
    with talker("serve", PORT, enter=b.enter) as server:
        with talker("talk", b.ip, PORT, enter=a.enter) as client:
            assert client.ask("connect", LONG_S)["error"] == ""
            assert client.ask("say", "hello", LONG_S)["error"] == ""
            server.wait_for(heard="hello")
            yield client, server


def two(network: Network) -> tuple[Host, Host]:
    return network.add_host("a"), network.add_host("b")


def test_hosts_have_addresses_of_their_own(network: Network) -> None:
    a, b = two(network)
    assert a.ip != b.ip
    for host in (a, b):
        shown = host.run(["ip", "-o", "-4", "address"])
        assert host.ip in shown and shown.count("inet ") == 2, "its own and the loopback's"
    with talking(a, b):
        with talker("serve", PORT, enter=a.enter):
            pass  # the same port on another host is another port


def test_a_partition_stops_everything_and_its_end_brings_it(network: Network) -> None:
    a, b = two(network)
    with talking(a, b) as (client, server):
        network.partition("a", "b")
        assert client.ask("say", "held", SHORT_S)["error"] in TIMED_OUT
        assert not server.has_said(heard="held")
        with talker("talk", b.ip, PORT, enter=a.enter) as other:
            error = other.ask("connect", SHORT_S)["error"]
            assert error in TIMED_OUT, "nothing answers, also no refusal"
        network.heal()
        assert client.ask("listen", len("held"), LONG_S)["error"] == ""
        assert server.has_said(heard="held")
        with talker("talk", b.ip, PORT, enter=a.enter) as other:
            assert other.ask("connect", LONG_S)["error"] == ""


@pytest.mark.parametrize("cut", [("a", "b"), ("b", "a")])
def test_one_way_is_one_way(network: Network, cut: tuple[str, str]) -> None:
    a, b = two(network)
    with talking(a, b) as (client, server):
        network.cut(*cut)
        assert client.ask("say", "word", SHORT_S)["error"] in TIMED_OUT
        if cut == ("b", "a"):
            server.wait_for(heard="word")  # it got there; its echo did not come back
        else:
            assert not server.has_said(heard="word")
        network.heal("a", "b")
        assert client.ask("listen", len("word"), LONG_S)["error"] == ""
        assert server.has_said(heard="word")


def test_a_third_host_hears_both_sides_of_a_partition(network: Network) -> None:
    a, b = two(network)
    c = network.add_host("c")
    network.partition("a", "b")
    for left, right in ((a, c), (b, c), (c, a), (c, b)):
        with talking(left, right):
            pass
    network.isolate("c")
    with talker("serve", PORT, enter=c.enter):
        for host in (a, b):
            with talker("talk", c.ip, PORT, enter=host.enter) as client:
                assert client.ask("connect", SHORT_S)["error"] in TIMED_OUT
    network.heal("c")
    with talking(a, c), talker("talk", b.ip, PORT, enter=a.enter) as client:
        error = client.ask("connect", SHORT_S)["error"]
        assert error in TIMED_OUT, "the other partition is still there"


def test_loss_is_random_and_tcp_survives_it(network: Network) -> None:
    a, b = two(network)
    network.lose("a", "b", 0.3)
    # Datagrams to somebody whose card is not known yet are kept in a short queue.
    with talker("serve", PORT, enter=b.enter), talker("talk", b.ip, PORT, enter=a.enter) as client:
        assert client.ask("connect", LONG_S)["error"] == ""
        assert client.ask("bulk", 100_000)["error"] == ""
        with talker("hear", PORT, enter=b.enter) as hearer:
            said = a.run([sys.executable, "-E", "-S", *shout(b, 2000)])
            assert "2000" in said
            heard = hearer.ask("count")["count"]
            assert 1200 < heard < 1600, f"{heard} of 2000 have arrived"
            network.heal()
            a.run([sys.executable, "-E", "-S", *shout(b, 500)])
            assert hearer.ask("count")["count"] == heard + 500


def shout(to: Host, count: int) -> list[str]:
    talker_path = Path(__file__).with_name("talker.py")
    return [str(talker_path), "shout", to.ip, str(PORT), str(count)]


def test_resets_end_connections(network: Network) -> None:
    a, b = two(network)
    with talking(a, b) as (client, _server):
        network.reset("a", "b", per_s=1000)
        assert client.ask("say", "word", LONG_S)["error"] == "ConnectionResetError"
        network.heal()
        assert client.ask("connect", LONG_S)["error"] == ""
        assert client.ask("say", "word", LONG_S)["error"] == ""


def test_a_line_has_a_speed(network: Network) -> None:
    a, b = two(network)
    with talking(a, b) as (client, _server):
        fast = client.ask("bulk", 600_000)
        network.limit("b", 1_000_000.0)
        slow = client.ask("bulk", 600_000)
        network.heal()
        again = client.ask("bulk", 600_000)
    assert [each["error"] for each in (fast, slow, again)] == ["", "", ""]
    assert slow["took_s"] > 0.4 and fast["took_s"] < slow["took_s"] > again["took_s"]


def test_delays_of_each_way_and_each_pair(slow_network: Network) -> None:
    network = slow_network
    a, b = two(network)
    c = network.add_host("c")
    with talking(a, b) as (client, _server), talking(a, c) as (other, _other_server):
        network.delay("a", "b", Faults(delay_s=0.1))
        assert client.ask("say", "one", LONG_S)["took_s"] >= 0.1
        network.delay("b", "a", Faults(delay_s=0.15))
        assert client.ask("say", "both", LONG_S)["took_s"] >= 0.25
        assert min(other.ask("say", "none", LONG_S)["took_s"] for _ in range(20)) < 0.1
        network.heal()
        assert min(client.ask("say", "none", LONG_S)["took_s"] for _ in range(20)) < 0.1
    with talking(b, a) as (client, _server):
        network.delay("a", "b", Faults(delay_s=0.1))
        assert client.ask("say", "from the other side", LONG_S)["took_s"] >= 0.1


def test_a_host_without_power_says_nothing(network: Network) -> None:
    a, b = two(network)
    with talking(a, b) as (client, server):
        network.isolate("b")
        server.kill()
        assert client.ask("say", "word", SHORT_S)["error"] in TIMED_OUT
        # With the host goes its kernel, which would say goodbye for its programs.
        network.remove_host("b")
        network.heal()
        assert client.ask("listen", 4, SHORT_S)["error"] in TIMED_OUT


def test_hosts_come_and_go(network: Network) -> None:
    a, b = two(network)
    network.cut("b", "a")
    network.remove_host("b")
    with pytest.raises(NetworkError, match="already"):
        network.add_host("a")
    again = network.add_host("b")
    assert again.ip != b.ip
    with talking(again, a):
        pass


def test_cuts_need_no_iptables(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "has_iptables", lambda: False)
    test_one_way_is_one_way(network, ("b", "a"))
    network.remove_host("a")
    network.remove_host("b")
    test_a_partition_stops_everything_and_its_end_brings_it(network)
    with pytest.raises(NetworkError, match="iptables"):
        network.lose("a", "b", 0.5)
    with pytest.raises(NetworkError, match="iptables"):
        Network(proxied=True)


def test_what_is_missing_is_said(
    need_network: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    need_network()
    with Network() as network:
        two(network)
        with pytest.raises(NetworkError, match="proxied=True"):
            network.delay("a", "b", Faults(delay_s=1.0))
    monkeypatch.setattr(networks, "found_rights", lambda: "")
    with pytest.raises(NetworkError, match="What to do: be root"):
        Network()
    monkeypatch.setattr(networks, "has_tool", lambda name: name != "ip")
    assert "apt-get install iproute2" in networks.why_not()


# ---- leftovers


def test_namespaces_of_this_run_are_seen_and_those_of_another_are_not(
    need_network: Callable[[], None],
) -> None:
    """Also of what has no parent here any more; the look around can fail."""
    need_network()
    hold = [*networks.UNSHARE[networks.found_rights()], "sh", "-c", "echo held; exec cat"]
    before = what_there_is()["network namespaces"]
    for run, is_seen in ((os.environ[RUN], True), ("1-1", False)):
        with subprocess.Popen(
            hold,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**networks.variables(), RUN: run},
            start_new_session=True,
        ) as holder:
            assert holder.stdin is not None and holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            made = str(os.stat(f"/proc/{holder.pid}/ns/net").st_ino)
            assert (made in what_there_is()["network namespaces"] - before) == is_seen
            holder.stdin.close()


def test_a_network_goes_with_its_maker(need_network: Callable[[], None]) -> None:
    """Killed, not closed: nothing is left, without anybody who cleans up."""
    need_network()
    ours = f"{RUN}={os.environ[RUN]}"
    before = leftovers.network_namespaces(ours)
    code = """
        import sys
        from shoal.testing import Network, networks
        network = Network(proxied=networks.has_iptables())
        a, b = network.add_host("a"), network.add_host("b")
        network.partition("a", "b")
        print("made", flush=True)
        sys.stdin.read()
    """
    with _python(code) as process:
        made = leftovers.network_namespaces(ours) - before
        assert len(made) >= 3, "a switch and two hosts"
        process.kill()
        process.wait()
    assert wait_until(lambda: not leftovers.network_namespaces(ours) & made, LONG_S)


def test_what_a_killed_test_has_left_is_removed_by_the_next(
    need_network: Callable[[], None],
) -> None:
    need_network()
    code = """
        import sys
        from shoal.testing import NetCluster
        cluster = NetCluster(1)
        print(cluster.mark, flush=True)
        sys.stdin.read()
    """
    with _python(code) as process:
        mark = _first_line(process)
        assert leftovers.processes(mark) and not leftovers.is_orphaned(mark)
        leftovers.remove()
        assert leftovers.processes(mark), "its maker lives: nobody touches it"
        process.kill()
        process.wait()
    assert leftovers.is_orphaned(mark) and leftovers.processes(mark)
    assert mark in leftovers.remove()
    assert not leftovers.processes(mark) and not (leftovers.root() / mark).exists()


def test_only_marked_processes_are_ended() -> None:
    mark = f"{os.getpid()}-1-1"
    words = [sys.executable, "-S", "-c", "import time; print(1, flush=True); time.sleep(600)"]
    started = []
    for carried in (mark, f"{mark}/node-1", f"{mark}0", ""):
        environment = {**os.environ, leftovers.VARIABLE: carried}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
    try:
        assert leftovers.end(mark) == sorted(process.pid for process in started[:2])
        assert [process.poll() for process in started[2:]] == [None, None]
        assert all(process.wait(LONG_S) == -signal.SIGKILL for process in started[:2])
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def _python(code: str) -> Iterator[subprocess.Popen[str]]:
    """A program that waits after its first line, until it is killed or its input ends."""
    words = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            if not code.count("mark"):
                assert _first_line(process) == "made"
            yield process
        finally:
            process.kill()


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# ---- clusters


@shoal.remote
def where() -> str:
    """What a worker sees of the network it is in."""
    return subprocess.run(
        ["ip", "-o", "-4", "address"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("rights", ["root", "user"])
def test_each_node_is_in_a_network_of_its_own(
    rights: str, need_network: Callable[[str], None]
) -> None:
    need_network(rights)
    with NetCluster(2, Network(rights=rights)) as cluster:  # type: ignore[arg-type]
        for node in cluster.nodes:
            with shoal.init(node.address):
                here = Affinity(shoal.get_runtime_context().get_node_id(), soft=False)
                seen = shoal.get(where.options(scheduling_strategy=here).remote(), timeout=LONG_S)
            others = [each.ip for each in cluster.nodes if each is not node]
            assert node.ip in seen and not any(ip in seen for ip in others)


def test_a_node_without_power_is_gone_at_once(need_network: Callable[[], None]) -> None:
    need_network()
    with NetCluster(2, lease_s=LEASE_S) as cluster:
        a, b = cluster.nodes
        cluster.power_off(b)
        assert not b.is_alive() and not b.processes() and a.is_alive()
        cluster.remove_node(b)
        begun = time.monotonic()
        cluster.wait_for_nodes()
        assert time.monotonic() - begun < LONG_S
        cluster.add_node("later")
        assert [node.name for node in cluster.nodes] == ["node-1", "later"]


DRIVER = """
import sys

import shoal

shoal.init(sys.argv[1], token_file=sys.argv[2])

@shoal.remote
def where(data):
    return shoal.get_runtime_context().get_node_id(), data[::-1]

data = bytes(range(256)) * 8192
found = shoal.get([where.remote(data), where.remote(shoal.put(data))], timeout=30)
nodes = {row["NodeID"]: row["NodeManagerAddress"] for row in shoal.nodes()}
assert [back for _, back in found] == [data[::-1]] * 2
print(*sorted(nodes.values()), {node for node, _ in found} <= set(nodes))
"""


def test_a_program_on_a_machine_without_a_node(need_network: Callable[[], None]) -> None:
    """It reaches the head from a network of its own, and nobody could reach it."""
    need_network()
    with NetCluster(2, num_cpus=1) as cluster:
        host = cluster.network.add_host("driver")
        token_file = Path(cluster.head.directory, "token")
        token_file.write_text(cluster.join_line())
        token_file.chmod(0o600)
        address = cluster.join_line().split()[1]
        place = Path(cluster.head.directory, "elsewhere")
        place.mkdir(mode=0o700)
        variables = {**cluster.head.variables(), "SHOAL_DIR": str(place)}
        words = [sys.executable, "-c", DRIVER, address, str(token_file)]
        program = host.begin(
            words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        said, wrong = program.communicate(timeout=2 * LONG_S)
        assert said.split() == [*sorted(node.ip for node in cluster.nodes), "True"], wrong
        assert not list(place.glob("session-*"))

        def states() -> list[str]:
            rows = cluster.head.observe("members")
            return [row["state"] for row in rows if row["role"] == "driver"]

        assert wait_until(lambda: states() == ["DEAD"], LONG_S), "it has said that it leaves"
