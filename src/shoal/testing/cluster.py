"""A cluster of several nodes on one machine, for tests: each node is a daemon of its own.

Owns: the nodes it has started, their directories, and that nothing of them is left. A node has its
own daemon, its own node memory and its own directory, as if it were a machine; what they share is
this machine's address. ``NetCluster`` gives each an address and a network of its own.

::

    <tmp>/shoal-clusters-<uid>/<mark>/          one cluster (``leftovers``)
      node-1/  session-<id>/ sessions/ ...      SHOAL_DIR of the first node: the driver's
      node-2/  ...

The driver (the test) is attached to the first node, as people know it from Ray's ``Cluster``.

Invariants:

1. A node is what ``shoal start`` starts and ``shoal stop`` ends: nothing here knows how daemons
   begin or what they do. The first one is the head and listens; each later one is told its join
   line on standard input. Which words start one is said in one function, ``start_words``.
2. Every process of a node carries the mark of the cluster and the name of the node; whoever removes
   a node looks for it, and a process that is left is an error, after it was ended.
3. ``kill_daemon`` ends one process, ``kill_node`` all of a node at once: a lost machine.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shoal
from shoal._base import environment
from shoal._base.config import LeaseTimes
from shoal._runtime import registry, session_dir
from shoal._runtime.driver import SessionContext
from shoal._runtime.observer import Observer
from shoal.testing import leftovers
from shoal.testing.polling import wait_until
from shoal.testing.starting import program

STORE_BYTES = 150 << 20
"""Of each node, unless said otherwise: as in Ray's ``Cluster``."""
USUAL_S = LeaseTimes().lease_s
COMMAND_S = 60.0
END_S = 15.0


class ClusterError(RuntimeError):
    """A node did not start, or did not end as it should; the text says what was seen."""


@dataclass(frozen=True)
class NodeOptions:
    """What a node has."""

    num_cpus: float = 1
    num_gpus: float = 0
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    object_store_memory: int = STORE_BYTES

    def words(self) -> list[str]:
        """As options of ``shoal start``."""
        # The command knows names of resources from JSON, and labels with commas between them.
        resources = ", ".join(f'"{name}": {amount}' for name, amount in self.resources.items())
        labels = ",".join(f"{name}={value}" for name, value in self.labels.items())
        return [
            *("--num-cpus", f"{self.num_cpus:g}", "--num-gpus", f"{self.num_gpus:g}"),
            *("--object-store-memory", str(self.object_store_memory)),
            *(["--resources", f"{{{resources}}}"] if resources else []),
            *(["--labels", labels] if labels else []),
        ]


class Node:
    """One node of a cluster."""

    def __init__(self, name: str, options: NodeOptions, mark: str, place: Path) -> None:
        self.name = name
        self.options = options
        self.mark = f"{mark}/{name}"
        """In the environment of each of its processes."""
        self.directory = str(place / name)
        """Its SHOAL_DIR."""
        self.ip = "127.0.0.1"
        self.enter: list[str] = []
        """Words before those of a program that is to run where the node runs."""
        self._entry: registry.Entry | None = None

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {self.ip})"

    def variables(self) -> dict[str, str]:
        """The environment of a program that uses this node: ``shoal.init("auto")`` finds it."""
        found = environment.inherited_variables()
        for name in (environment.SESSION_VARIABLE, environment.SOCKET_VARIABLE, "SHOAL_ADDRESS"):
            found.pop(name, None)
        return {**found, "SHOAL_DIR": self.directory}

    def command(self, *words: str, marked: bool = False, told: str = "") -> str:
        """Run ``shoal <words>`` at the node and return what it prints.

        Args:
            words: The command and its options.
            marked: Whether what it starts is part of the node.
            told: Its standard input.

        Raises:
            ClusterError: it has failed.
        """
        return self._finish(self._begin(words, marked), words, told)

    def begin_stop(self) -> Callable[[], list[int]]:
        """Begin to stop it as people do; what is returned waits for that, and returns what of the
        node is there after a while: nothing, if all is well."""
        if not self.is_alive():
            return list
        command = self._begin(("stop",), marked=False)

        def finish() -> list[int]:
            self._finish(command, ("stop",), "")
            wait_until(lambda: not self.processes(), END_S)
            return self.processes()

        return finish

    def _begin(self, words: Sequence[str], marked: bool) -> subprocess.Popen[str]:
        variables = self.variables()
        if marked:
            variables[leftovers.VARIABLE] = self.mark
        return subprocess.Popen(
            [*self.enter, *program("shoal", *words)],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _finish(self, command: subprocess.Popen[str], words: Sequence[str], told: str) -> str:
        with command:
            try:
                said, wrong = command.communicate(told, COMMAND_S)
            finally:
                command.kill()  # nothing happens if it has ended
        if command.returncode:
            said = f"{said}{wrong}".strip()
            raise ClusterError(f"shoal {' '.join(words)} has failed at {self.name}: {said}")
        return said

    def find(self) -> None:
        """Learn which session the node has begun."""
        entries = registry.started_sessions(self.directory)
        if len(entries) != 1:
            raise ClusterError(f"{self.name} has {len(entries)} sessions, not one")
        self._entry = entries[0]

    @property
    def entry(self) -> registry.Entry:
        """Its session, and the process of its daemon."""
        if self._entry is None:
            raise ClusterError(f"{self.name} has not started")
        return self._entry

    @property
    def address(self) -> str:
        """What ``shoal.init`` joins the node by."""
        return self.entry.directory

    def is_alive(self) -> bool:
        """Whether its daemon is: exactly that process."""
        return self._entry is not None and session_dir.is_alive(
            self._entry.pid, self._entry.start_time
        )

    def processes(self) -> list[int]:
        """All of them: the daemon, workers, what those have started."""
        return sorted(leftovers.processes(self.mark))

    def observe(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table of its daemon, without becoming a driver.

        Raises:
            OSError: it does not answer.
        """
        with Observer(self.entry.socket_path) as observer:
            return observer.table(table)

    def signal_daemon(self, number: int) -> None:
        """Send the daemon a signal; nothing happens if it is gone."""
        if self.is_alive():
            os.kill(self.entry.pid, number)

    def signal_all(self, number: int) -> None:
        """Send one to all processes of the node, one after the other."""
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


class Cluster:
    """Several nodes; a context manager.

    Args:
        nodes: How many to begin with, each with ``options`` (those of ``add_node``).
        lease_s: How long a node that is not heard of is waited for, as ``shoal start --lease``: a
            test that loses nodes need not wait for the usual one.

    Raises:
        ClusterError: one of them did not start.

    Example:
        >>> with Cluster() as cluster:  # doctest: +SKIP
        ...     head = cluster.add_node(num_cpus=1)
        ...     other = cluster.add_node(num_cpus=2, resources={"licence": 1})
        ...     cluster.connect()
        ...     cluster.remove_node(other)
    """

    def __init__(self, nodes: int = 0, *, lease_s: float = USUAL_S, **options: Any) -> None:
        self.lease_s = lease_s
        """How long its leases last."""
        self._place = leftovers.new_cluster()
        self.mark = self._place.name
        self.nodes: list[Node] = []
        """Those that were added and not removed; the first one is the driver's."""
        self._count = 0
        self._is_connected = False
        with ExitStack() as undo:
            undo.callback(self.shutdown)
            for _ in range(nodes):
                self.add_node(**options)
            undo.pop_all()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    @property
    def head(self) -> Node:
        """The first node.

        Raises:
            ClusterError: there is none.
        """
        if not self.nodes:
            raise ClusterError("the cluster has no node. What to do: add_node() first")
        return self.nodes[0]

    @property
    def address(self) -> str:
        """What ``shoal.init`` joins the cluster by."""
        return self.head.address

    def add_node(self, name: str = "", *, wait: bool = True, **options: Any) -> Node:
        """Start one more node, and ``wait`` until all see it.

        Args:
            name: Of the node; default: ``node-1``, ``node-2`` ...
            wait: False: return as soon as its daemon runs.
            options: Those of ``NodeOptions``.
        """
        self._count += 1
        node = Node(name or f"node-{self._count}", NodeOptions(**options), self.mark, self._place)
        if any(each.name == node.name for each in self.nodes):
            raise ClusterError(f"there is a node {node.name!r} already")
        os.mkdir(node.directory, 0o700)
        with ExitStack() as undo:
            undo.callback(self._clear, node)
            self._put_into_place(node)
            told = self.join_line() if self.nodes else ""
            node.command(*self.start_words(node), marked=True, told=told)
            node.find()
            undo.pop_all()
        self.nodes.append(node)
        if wait:
            self.wait_for_nodes()
        return node

    def start_words(self, node: Node) -> list[str]:
        """How a node is started: the first one is the head, each later one joins it."""
        role = ["join"] if self.nodes else ["start", "--head", "--lease", f"{self.lease_s:g}s"]
        place = ["--listen", f"{node.ip}:0", "--node-name", node.name]
        return [*role, *place, *node.options.words()]

    def join_line(self) -> str:
        """What lets another machine join; it holds the cluster's secret."""
        return Path(self.head.entry.directory, "join").read_text()

    def _put_into_place(self, node: Node) -> None:
        """Before it starts: give it an address."""

    def _take_from_place(self, node: Node) -> None:
        """After it has ended."""

    def remove_node(self, node: Node, gracefully: bool = True) -> None:
        """End a node and everything in it.

        Args:
            node: One of ``nodes``.
            gracefully: As ``shoal stop``; else all its processes are killed at once.

        Raises:
            ClusterError: processes were left; they were ended.
        """
        if node is self.nodes[0]:
            self._disconnect()
        self.nodes.remove(node)
        self._remove(node, node.begin_stop() if gracefully else list)

    def _remove(self, node: Node, stop: Callable[[], list[int]]) -> None:
        """Nothing of it is left, whatever ``stop`` says or raises."""
        left: list[int] = []
        try:
            left = stop()
        finally:
            self._clear(node)
        if left:
            raise ClusterError(f"processes of {node.name} were left after its stop: {left}")

    def _clear(self, node: Node) -> None:
        leftovers.end(node.mark)
        self._take_from_place(node)
        shutil.rmtree(node.directory, ignore_errors=True)

    def kill_daemon(self, node: Node) -> None:
        """SIGKILL to the daemon alone: what it leaves must end by itself."""
        node.signal_daemon(signal.SIGKILL)

    def kill_node(self, node: Node) -> None:
        """SIGKILL to everything of a node, as if its machine had lost power. The node stays in
        ``nodes`` until it is removed."""
        leftovers.end(node.mark)

    def freeze(self, node: Node) -> None:
        """SIGSTOP to everything of a node: a machine that is suspended, or too busy to answer."""
        node.signal_all(signal.SIGSTOP)

    def thaw(self, node: Node) -> None:
        """Let it go on."""
        node.signal_all(signal.SIGCONT)

    def connect(self, **options: Any) -> SessionContext:
        """Attach this process to the first node, as one more driver, with options of ``init``."""
        context = shoal.init(self.head.address, **options)
        self._is_connected = True
        return context

    def _disconnect(self) -> None:
        if self._is_connected:
            self._is_connected = False
            shoal.shutdown()

    def wait_for_nodes(self, timeout_s: float = 30.0) -> None:
        """Until every node sees all that were added and not removed, and no other one.

        Raises:
            TimeoutError: one does not; the text says who sees whom.
        """
        names = {node.name for node in self.nodes}
        views: dict[str, object] = {}

        def all_agree() -> bool:
            views.clear()
            views.update({node.name: _seen_by(node) for node in self.nodes})
            return all(view == names for view in views.values())

        if not wait_until(all_agree, timeout_s):
            shown = "; ".join(f"{name} sees {view or 'nobody'}" for name, view in views.items())
            raise TimeoutError(f"nodes do not agree on {names} after {timeout_s:g} s: {shown}")

    def shutdown(self) -> None:
        """End every node, all at once; repeated, nothing happens.

        Raises:
            ClusterError: processes were left; they were ended.
        """
        self._disconnect()
        failed: list[str] = []
        nodes, self.nodes = self.nodes[::-1], []
        try:
            for node, stop in [(node, node.begin_stop()) for node in nodes]:
                _collect(failed, functools.partial(self._remove, node, stop))
        finally:
            leftovers.end(self.mark)
            shutil.rmtree(self._place, ignore_errors=True)
        if failed:
            raise ClusterError("; ".join(failed))


def _seen_by(node: Node) -> set[str]:
    """Names of the nodes that live, as this one knows it; none if it does not answer."""
    try:
        rows = node.observe("nodes")
    except OSError:
        return set()
    return {str(row["name"]) for row in rows if row.get("state", "ALIVE") == "ALIVE"}


def _collect(failed: list[str], call: Callable[[], None]) -> None:
    """Go on with the next node, whatever is wrong with this one; what it was is told at the end."""
    try:
        call()
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        failed.append(str(error))
