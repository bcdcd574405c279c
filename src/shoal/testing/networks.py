"""Networks of several hosts on one machine, in namespaces: real TCP, real addresses, real faults.

Owns: one switch and its hosts, each a network namespace; their wires, packet filters, line speeds
and proxies. It knows nothing of Shoal: a host runs programs.

::

    switch (a namespace)              host a (a namespace)           host b
    +----------------------+          +-------------------+
    | bridge               |          | eth0 10.77.0.1    |          eth0 10.77.0.2
    |  +- p1 ---- wire ----|----------|- (veth)           |
    |  +- p2 ---- wire ----|--- ...   | lo                |
    +----------------------+          +-------------------+

Nothing of it is in the machine's own namespace: no bridge, no interface, no rule, and no name in
/run/netns. Each namespace is held by a process that reads a pipe from us; when we end, also by
SIGKILL, the pipe ends, the holder ends, and with the last process in it the kernel takes a
namespace apart. So many networks may exist at a time, all with the same addresses.

What can go wrong, and what does it:

===============  ===================================================================================
cut, partition   the receiver's packet filter drops what comes from the sender, in silence; without
                 iptables: the sender's neighbour table names a card that nobody has
loss             the same for a random share of packets: TCP sends them again
resets           it answers packets with a reset instead, at most so many per second
bandwidth        a token bucket at both ends of the host's wire (tc tbf)
delay, jitter    our proxy (the kernels we met have no netem). The host's packet filter
                 hands it every connection that a program there makes, if the network is ``proxied``
===============  ===================================================================================

Needs root, or user namespaces (``unshare -Urn``), and ``ip``; ``why_not()`` says what is missing.
There the right to the network is that of the switch's user namespace, and everything else is the
same.

Invariants:

1. The packet filter of a host is a function of the faults that hold (``filters``), written as a
   whole in one step of the kernel: what was healed leaves no rule.
2. A cut is silent: no error reaches the sender from its own machine, no reset from the other one.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from shoal._base import environment
from shoal.testing.filters import FaultsOfHost, filter_text
from shoal.testing.lanes import Faults
from shoal.testing.starting import program

PREFIX = "10.77.0"
HOSTS_MOST = 200
MARK = 0x5A
"""Of packets of our proxies: they are not redirected a second time."""
NOBODY = "02:00:00:00:00:fe"
"""A card that no host has."""
TBF_BURST_BYTES = 32 << 10
PROXY = "shoal.testing.proxy_program"


class NetworkError(OSError):
    """A network cannot be made, or a fault not be injected; the text says what is missing."""


def found_rights() -> Literal["root", "user", ""]:
    """How namespaces can be made here: ``"root"``, ``"user"`` (user namespaces) or ``""``."""
    if not has_tool("ip") or not has_tool("unshare"):
        return ""
    if can_make("root"):
        return "root"
    return "user" if can_make("user") else ""


UNSHARE = {"root": ["unshare", "-n"], "user": ["unshare", "-Urn"]}


@functools.cache
def can_make(rights: str) -> bool:
    """Whether namespaces can be made with those rights: tried once."""
    words = [*UNSHARE[rights], "ip", "link", "set", "lo", "up"]
    return subprocess.run(words, capture_output=True, env=variables()).returncode == 0


def why_not() -> str:
    """What keeps networks from being made here; empty: nothing.

    Example:
        >>> from shoal.testing import why_not
        >>> has_network = not why_not()
    """
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if not has_tool(tool):
            return f"there is no {tool}. What to do: apt-get install {package}"
    if not found_rights():
        return (
            "neither is this root, nor are there user namespaces (unshare -Urn). What to do: be"
            " root, or sysctl user.max_user_namespaces; shoal.testing.FaultProxy needs neither"
        )
    return ""


@functools.cache
def has_iptables() -> bool:
    """Whether packets can be filtered: without, cuts and line speeds are all there is."""
    return has_tool("iptables-restore")


def has_tool(name: str) -> bool:
    """Whether there is such a program."""
    return shutil.which(name, path=variables()["PATH"]) is not None


class _Namespace:
    """A network namespace that lives as long as its holder, which lives as long as we do."""

    def __init__(self, enter: Sequence[str], unshare: Sequence[str]) -> None:
        hold = ["sh", "-c", "echo held; exec cat >/dev/null"]
        self._holder = subprocess.Popen(
            [*enter, *unshare, *hold],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables(),
            start_new_session=True,  # Ctrl-C is for who made it, who then lets it go in order
        )
        self.pid = self._holder.pid
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"held\n":
            self.close()
            raise NetworkError(f"a network namespace cannot be made: {why_not() or 'see above'}")

    def close(self) -> None:
        """Let it go."""
        for pipe in (self._holder.stdin, self._holder.stdout):
            if pipe is not None:
                pipe.close()
        self._holder.wait()


class Host:
    """One host: ``run`` a program there, and wait for it, or ``begin`` one."""

    def __init__(self, name: str, number: int, enter: list[str], held: _Namespace) -> None:
        self.name = name
        self.ip = f"{PREFIX}.{number}"
        self.enter = enter
        """Words before those of a program: ``[*host.enter, "ip", "address"]``."""
        self.faults = FaultsOfHost()
        self.proxy: Proxy | None = None
        self.port = f"p{number}"
        """Its end of the wire at the switch."""
        self.pid = held.pid
        """Of the process that holds its namespace."""
        self._held = held

    def begin(self, words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program there, with the options of ``subprocess.Popen``."""
        given = options.pop("env", None) or variables()
        return subprocess.Popen([*self.enter, *words], env=given, **options)

    def run(self, words: Sequence[str], **options: Any) -> str:
        """Run a program there and return what it prints.

        Raises:
            NetworkError: it has failed; with what it said.
        """
        return _run([*self.enter, *words], **options)

    def close(self) -> None:
        """End its proxy and let the namespace go; programs that run there keep it."""
        if self.proxy is not None:
            self.proxy.close()
            self.proxy = None
        self._held.close()


class Proxy:
    """A fault proxy that runs as a program in a host."""

    def __init__(self, host: Host, seed: int) -> None:
        words = ["--listen", "0.0.0.0:0", "--seed", str(seed), "--mark", str(MARK)]
        self._process = host.begin(
            program(PROXY, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self._answer()[1])

    def tell(self, do: str, **arguments: Any) -> Any:
        """Call a method of ``FaultProxy`` there."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line or '{"error": "it has ended"}')
        if "error" in answer:
            raise NetworkError(f"the fault proxy says: {answer['error']}")
        return answer["done"]

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


@dataclass(eq=False)
class Network:
    """A switch and its hosts; a context manager.

    Args:
        proxied: Whether connections go through proxies, for delays.
        seed: Of all chance in those.
        rights: ``"root"`` or ``"user"``; default: what there is.

    Raises:
        NetworkError: see ``why_not``.

    Example:
        >>> with Network() as network:  # doctest: +SKIP
        ...     a, b = network.add_host("a"), network.add_host("b")
        ...     a.run(["ping", "-c", "1", b.ip])
        ...     network.cut("a", "b")
    """

    proxied: bool = False
    seed: int = 0
    rights: Literal["root", "user", ""] = ""
    hosts: dict[str, Host] = field(default_factory=dict, init=False)
    _numbers: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        missing = why_not()
        if missing:
            raise NetworkError(f"no network of namespaces can be made: {missing}")
        if self.proxied and not has_iptables():
            raise NetworkError("delays need iptables. What to do: apt-get install iptables")
        self.rights = self.rights or found_rights()
        self._switch = _Namespace([], UNSHARE[self.rights])
        self._run_at(self._enter(self._switch), SWITCH)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_host(self, name: str) -> Host:
        """One more host, with the next address."""
        if name in self.hosts:
            raise NetworkError(f"there is a host {name!r} already")
        self._numbers += 1
        number = self._numbers
        if number > HOSTS_MOST:
            raise NetworkError(f"a network has at most {HOSTS_MOST} hosts in its life")
        at_switch = self._enter(self._switch)
        held = _Namespace(at_switch, ["unshare", "-n"])
        host = Host(name, number, self._enter(held), held)
        with ExitStack() as undo:
            undo.callback(host.close)
            self._run_at(at_switch, WIRE.format(port=host.port, pid=host.pid))
            self._run_at(host.enter, CARD.format(ip=host.ip))
            if self.proxied:
                host.proxy = Proxy(host, self.seed + number)
                self._filter(host)
            undo.pop_all()
        self.hosts[name] = host
        return host

    def remove_host(self, name: str) -> None:
        """Pull its plug: its wire goes, and the namespace with its last process."""
        host = self.hosts.pop(name)
        self._run_at(self._enter(self._switch), f"ip link delete {host.port}")
        host.close()
        for other in list(self.hosts.values()):
            if other.faults.forget(host.ip):
                self._filter(other)

    def close(self) -> None:
        """Let everything go."""
        for host in list(self.hosts.values()):
            host.close()
        self.hosts.clear()
        self._switch.close()

    def enter_switch(self) -> list[str]:
        """Words before those of a program that is to run where all wires meet."""
        return self._enter(self._switch)

    def _enter(self, held: _Namespace) -> list[str]:
        into = ["-n"] if self.rights == "root" else ["-U", "--preserve-credentials", "-n"]
        return ["nsenter", "-t", str(held.pid), *into, "--"]

    def _run_at(self, enter: Sequence[str], script: str) -> None:
        _run([*enter, "sh", "-ec", script])

    # ---- faults
    def cut(self, sender: str, receiver: str) -> None:
        """Nothing that ``sender`` sends reaches ``receiver``; the other way is as before."""
        self._change(sender, receiver, is_cut=True)

    def partition(self, one: str, other: str) -> None:
        """Neither hears the other."""
        self.cut(one, other)
        self.cut(other, one)

    def isolate(self, name: str) -> None:
        """Nobody hears the host, and it hears nobody."""
        for other in [each for each in list(self.hosts) if each != name]:
            self.partition(name, other)

    def lose(self, sender: str, receiver: str, share: float) -> None:
        """A random share of the packets on that way is lost."""
        self._change(sender, receiver, loss=share)

    def reset(self, sender: str, receiver: str, per_s: int) -> None:
        """The sender is told that its connection is reset, so often per second (0: no more)."""
        self._change(sender, receiver, resets_per_s=per_s)

    def limit(self, name: str, bytes_per_s: float) -> None:
        """The line of the host has that speed, each way (0: as fast as it goes)."""
        for enter, card in (
            (self._enter(self._switch), self.hosts[name].port),
            (self.hosts[name].enter, "eth0"),
        ):
            if bytes_per_s:
                bucket = f"tbf rate {int(bytes_per_s * 8)}bit burst {TBF_BURST_BYTES} latency 100ms"
                self._run_at(enter, f"tc qdisc replace dev {card} root {bucket}")
            else:
                self._run_at(enter, f"tc qdisc delete dev {card} root 2>/dev/null || true")

    def delay(self, sender: str, receiver: str, faults: Faults) -> None:
        """What ``sender`` sends to ``receiver`` is late, or whatever else a stream can suffer."""
        source, sink = self.hosts[sender], self.hosts[receiver]
        if source.proxy is None or sink.proxy is None:
            raise NetworkError("delays need a network that is made with proxied=True")
        told = {name: getattr(faults, name) for name in faults.__dataclass_fields__}
        source.proxy.tell("set", toward="up", faults=told, peer=sink.ip)
        sink.proxy.tell("set", toward="down", faults=told, peer=source.ip)

    def heal(self, one: str = "", other: str = "") -> None:
        """No faults any more: between two hosts, of one, or at all."""
        chosen = [self.hosts[name] for name in (one, other) if name]
        hosts = list(self.hosts.values())  # somebody may add one meanwhile
        for host in hosts:
            peers = [peer for peer in hosts if peer is not host]
            if len(chosen) == 2 and host not in chosen:
                continue
            if len(chosen) == 2 or (len(chosen) == 1 and host is not chosen[0]):
                peers = [peer for peer in peers if peer in chosen]
            for peer in peers:
                host.faults.forget(peer.ip)
                self._restore_neighbour(host, peer)
                if host.proxy is not None:
                    host.proxy.tell("heal", peer=peer.ip)
            self._filter(host)
        for name in [one] * bool(one and not other) or (list(self.hosts) if not one else []):
            self.limit(name, 0)

    def _change(self, sender: str, receiver: str, **changes: Any) -> None:
        """Faults of a way stand where packets arrive: there a drop tells the sender nothing."""
        source, sink = self.hosts[sender], self.hosts[receiver]
        if not has_iptables():
            if set(changes) != {"is_cut"}:
                raise NetworkError("this needs iptables. What to do: apt-get install iptables")
            self._run_at(
                source.enter,
                f"ip neigh replace {sink.ip} lladdr {NOBODY} nud permanent dev eth0",
            )
            source.faults.change(sink.ip, **changes)
            return
        sink.faults.change(source.ip, **changes)
        self._filter(sink)

    def _restore_neighbour(self, host: Host, peer: Host) -> None:
        if not has_iptables():
            self._run_at(host.enter, f"ip neigh delete {peer.ip} dev eth0 2>/dev/null || true")

    def _filter(self, host: Host) -> None:
        if has_iptables():
            port = host.proxy.port if host.proxy is not None else 0
            text = filter_text(host.faults, f"{PREFIX}.0/24", port, MARK)
            _run([*host.enter, "iptables-restore"], input=text)


SWITCH = """
ip link set lo up
ip link add bridge type bridge forward_delay 0
ip link set bridge up
"""
WIRE = """
ip link add {port} type veth peer name eth0 netns {pid}
ip link set {port} master bridge
ip link set {port} up
"""
CARD = """
ip link set lo up
ip address add {ip}/24 dev eth0
ip link set eth0 up
"""


def _run(words: Sequence[str], **options: Any) -> str:
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env=options.pop("env", None) or variables(),
        **options,
    )
    if done.returncode:
        said = (done.stderr or done.stdout or "").strip()
        raise NetworkError(f"{' '.join(words)} has failed ({done.returncode}): {said}")
    return str(done.stdout)


def variables() -> dict[str, str]:
    """The environment, with tools of the network on the path: they stand in sbin."""
    found = environment.inherited_variables()
    found["PATH"] = os.pathsep.join([found.get("PATH", ""), "/usr/sbin", "/sbin"])
    found.setdefault("XTABLES_LOCKFILE", "/dev/null")
    return found
