"""The shell of the node daemon: it sees, tells the machine, and does what the machine says.

All that is decided is decided by ``_core.node.NodeMachine``, which knows no socket, clock or
process. The shell turns bells, frames, deaths and timers into events and performs the commands
that come back, in their order; what a command's outcome is comes back as an event in the same
round (see ``_core.events``)::

    loop -> post(event) -> machine.step(now, event) -> [command] -> perform_<command> ->
    post(event) ...

One thread. ``post`` never nests: an event that arises while another is worked off waits for its
turn.

The end of a session (its owner died or called ``shutdown``, ``shoal stop``, SIGTERM): every
process is told, workers are killed, then everything that descends from us or carries the
session's id, then the directory goes. The zygote is last: should we be killed on the way, it does
the rest.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from shoal._base import clock, config, environment, ids, records
from shoal._core import commands, events
from shoal._core.events import AnyEvent
from shoal._core.node import NodeMachine
from shoal._native import Memory, become_subreaper
from shoal._proto import forking, frames, messages
from shoal._runtime import (
    daemon_lineage,
    descendants,
    launch,
    log_budget,
    machine_facts,
    registry,
    session_dir,
    worker_logs,
)
from shoal._runtime.daemon_away import Whereabouts
from shoal._runtime.daemon_door import Door
from shoal._runtime.daemon_lines import Lines
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.daemon_members import Members
from shoal._runtime.daemon_memory import NodeMemory, Warming
from shoal._runtime.daemon_process_memory import ProcessMemories
from shoal._runtime.daemon_processes import KIND_DRIVER, Processes
from shoal._runtime.daemon_sights import Sights
from shoal._runtime.daemon_spill import Spiller
from shoal._runtime.daemon_store import StoreLink
from shoal._runtime.daemon_zygote import ZygoteLink
from shoal._runtime.strays import Strays

if TYPE_CHECKING:
    from shoal._runtime.daemon_cluster import ClusterNode, Ports
    from shoal._runtime.daemon_environments import EnvironmentPlaces

ACROSS = get_args(commands.Across)
END_S = 2.0
"""Time for what belongs to the session to be gone after SIGKILL."""


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def performers(kinds: Iterable[type], *parts: object) -> dict[type, Callable[[Any], None]]:
    """Return, for each command, the ``perform_<command>`` of the part that has it."""
    found = {}
    for kind in kinds:
        name = f"perform_{_snake(kind.__name__)}"
        (found[kind],) = [getattr(part, name) for part in parts if hasattr(part, name)]
    return found


class Daemon:
    """Everything of one node daemon, and the round of events and commands."""

    def __init__(
        self,
        settings: launch.NodeSettings,
        memory: Memory,
        listening: socket.socket,
        zygote: tuple[int, int],
        ports: Ports | None = None,
    ) -> None:
        self._settings, self._memory = settings, memory
        self._begun_at, self._loop = clock.now(), Loop()
        self._pending: deque[AnyEvent] = deque()
        self._is_stepping = self._is_ending = False
        self._alarm: Timer | None = None
        self._node = node_config(settings, memory)
        self._machine = NodeMachine(self._node)
        logs = log_budget.of_node(settings, environment.read(), self._loop.call_later)
        self._lines = Lines()
        self._processes = Processes(self._loop, memory, logs, self.post, self._lines.forward)
        most = daemon_lineage.budget_of(settings.lineage_bytes, memory.capacity_bytes)
        self._lost = daemon_lineage.LostValues(self._loop, memory, most, self.post)
        self._spiller = Spiller(self._loop, memory, self._machine, settings, self.post)
        given_up = self._lost.given_up
        self._spiller.lost, self._spiller.evict = self._lost.lost, given_up.evict
        self._spiller.lost_beside, self._spiller.given_up = self._lost.lost_beside, given_up.keys
        self._warming = Warming(self._loop, memory, self._spiller.headroom, self._spiller.make_room)
        self._lost.make_room, self._lost.first = self._warming.make_room, self._spiller.look
        self._spiller.wake = self._warming.wake
        self._spiller.make_stub = given_up.make_stub = self._warming.make_stub
        self._node_memory = NodeMemory(memory, self.post, self._warming.make_room, self._lost.look)
        self._node_memory.environment_of = self._machine.environment_of
        self._environments: EnvironmentPlaces | None = None

        def tell(text: str) -> None:
            self._door.tell_drivers(messages.Notice(text))

        self._store: StoreLink | None = None
        if self._node.has_store_process:
            self._store = _store_of(self._loop, settings, ports, self.post, tell)
        self._places = Whereabouts(memory, self._spiller, self._lost)
        sights = Sights(memory, self.post, self._pid_of, self._places)
        limit_bytes = environment.read().memory_bytes
        memories = ProcessMemories(memory, self.post, self._processes, limit_bytes)
        self._perform = performers(
            [kind for kind in get_args(commands.AnyCommand) if kind not in ACROSS],
            *(self, self._processes, self._node_memory, self._spiller, sights, memories),
        )
        listeners = self._processes.listeners(self._no_zygote, self._known_pids)
        place = (settings.session, settings.directory)
        self._zygote = ZygoteLink(self._loop, place, zygote, listeners)
        memories.zygote_pid = lambda: self._zygote.pid
        memories.drivers = lambda: [p.pid for p in self._processes if p.kind == KIND_DRIVER]
        setup = _zygote_setup(self._node, self._processes.groups.path)
        self._zygote.set_up(setup, memory.fd, memory.eventfd)
        self._door = Door(self._loop, listening, self._node, self._processes, self.post)
        self._processes.use(self._zygote, self._door.let_in)
        self._lines.connection_of = self._door.connection
        self._strays = Strays(self._loop, self._machine.tables.jobs.running, self._known_pids)
        self._strays.end_groups = self._processes.groups.end_left
        self._door.add_table("session", lambda _: [self._session_row()])
        self._door.add_table("story", self._story)
        self._door.add_table("memory", self._memory_rows)
        self._door.add_table("holders", self._spiller.holders)
        self._door.add_table("logs", lambda _: worker_logs.rows(logs[1], self._processes))
        self._members = Members(self._machine, self._door, lambda: memory.usage()[0])
        self._cluster: ClusterNode | None = None
        if ports is not None:
            self._join(ports, tell)
        self._watch()
        self.post(events.Began())

    def _join(self, ports: Ports, tell: Callable[[str], None]) -> None:
        """Take part in a cluster."""
        from shoal._runtime.bridge.lending import stays_here
        from shoal._runtime.daemon_abroad import Abroad, Ways
        from shoal._runtime.daemon_cluster import ClusterNode
        from shoal._runtime.daemon_lease import Leases

        def bring_back(key: int) -> None:
            if not self._lost.want(key):
                self._spiller.bring_back(key)

        def end(why: str) -> None:
            self.post(events.StopAsked(why))

        self._cluster = ClusterNode(self._loop, ports, self._members, end, tell)
        self._cluster.kill_workers = self._processes.kill_all
        self._cluster.look = self._look_at_workers
        leases = Leases(self._memory, self.post)
        self._cluster.lease_set = leases.set
        ways = Ways(self._warming.make_room, bring_back, self._lost.gone)
        place = (self._loop, self._memory, self._machine, self._cluster)
        abroad = Abroad(*place, self.post, ways)
        self._node_memory.abroad = abroad
        self._spiller.came_back, self._lost.made_again = abroad.came_home, abroad.made_again
        self._places.abroad, self._places.stays = abroad, stays_here
        abroad.seen.show_lines, self._lines.send_home = self._lines.show, abroad.seen.send_lines
        parts = (abroad.actors, abroad.actors.callers, abroad.names, abroad.groups, abroad.homes)
        self._perform |= performers(ACROSS, *parts, leases)

    def _look_at_workers(self) -> None:
        workers = tuple(self._machine.tables.scheduler.held.by_worker)
        if workers:
            self._node_memory.perform_look(commands.Look(workers=workers))

    def _watch(self) -> None:
        os.set_blocking(self._memory.eventfd, False)
        self._loop.watch(self._memory.eventfd, self._bell_ready)
        waker, wakee = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakee, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._loop.watch(waker, lambda _: self._signalled(os.read(waker, 4096)))
        # A child may have ended before there was a handler.
        self._loop.call_later(0.0, lambda: self._signalled(b""))
        if self._settings.owner_pid:
            self._watch_owner(self._settings.owner_pid, self._settings.owner_start_time)
        self._warming.start()
        lost = self._lost
        lost.jobs = lambda: self._machine.tables.jobs.running
        lost.behind.processes = lambda: [process.index for process in self._processes]
        lost.behind.tell = lambda index, news: self.perform_notify(commands.Notify(index, news))

    def _watch_owner(self, pid: int, start_time: int) -> None:
        def gone(_: int = 0) -> None:
            if owner >= 0:
                self._loop.unwatch(owner)
                os.close(owner)
            self.post(events.StopAsked("the program that started the session has ended"))

        owner = -1
        try:
            owner = os.pidfd_open(pid)
        except OSError:
            pass
        else:
            self._loop.watch(owner, gone)
        if not session_dir.is_alive(pid, start_time):
            self._loop.call_later(0.0, gone)

    def run(self) -> None:
        """Serve until the session has ended."""
        self._loop.run()

    # ---- events and commands
    def post(self, event: AnyEvent) -> None:
        """Tell the machine, now or when it is done with what it is told already."""
        self._pending.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        while self._pending:
            self._loop.guard(self._step, self._pending.popleft())
        self._is_stepping = False

    def _step(self, event: AnyEvent) -> None:
        self._warming.work_was_done()
        if isinstance(event, events.ProcessDied):
            self._spiller.sweep()
            self._strays.look_soon(self._zygote.pid)
            self._lost.given_up.sweep()
        for command in self._machine.step(clock.now(), event):
            self._loop.guard(self._perform[type(command)], command)
        if (abroad := self._node_memory.abroad) is not None:
            abroad.looked(event.queues if isinstance(event, events.Looked) else ())

    def perform_reply(self, command: commands.Reply) -> None:
        if self._door.answered(command.index, command.body):
            return
        connection = self._door.connection(command.index)
        if connection is not None:
            body: Any = command.body
            fds: tuple[int, ...] = ()
            if isinstance(body, messages.Welcome):
                body = msgspec.structs.replace(body, daemon_pid=os.getpid())
                fds = (self._memory.fd, self._memory.eventfd)
            connection.send(command.request, body, fds)

    def perform_notify(self, command: commands.Notify) -> None:
        if (connection := self._door.connection(command.index)) is not None:
            connection.send(0, command.body)  # type: ignore[arg-type]

    def perform_set_alarm(self, command: commands.SetAlarm) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(command.at, lambda: self.post(events.AlarmRang()))

    def perform_warn(self, command: commands.Warn) -> None:
        print(command.text, file=sys.stderr, flush=True)

    def perform_write_store(self, command: commands.WriteStore) -> None:
        assert self._store is not None, "only a started session has a store of its own"
        self._store.write(command)

    def perform_build_environment(self, command: commands.BuildEnvironment) -> None:
        if self._environments is None:
            from shoal._runtime.daemon_environments import EnvironmentPlaces

            directory = self._settings.directory
            self._environments = EnvironmentPlaces(self._loop, directory, self.post)
            self._processes.interpreter = self._environments.interpreter
        self._environments.build(command.environment)

    def perform_drop_environment(self, command: commands.DropEnvironment) -> None:
        if self._environments is not None:
            self._environments.drop(command.key)

    # ---- what is seen
    def _bell_ready(self, _: int) -> None:
        try:
            os.read(self._memory.eventfd, 8)
        except BlockingIOError:
            return
        self._node_memory.bell_rang()
        self._warming.bell_rang()

    def _signalled(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            self.post(events.StopAsked("the node daemon was told to end (SIGTERM)"))
        for pid, status in descendants.reap(self._processes.worker_pids).items():
            if pid == self._zygote.pid:
                if not self._is_ending:
                    self._zygote.ended()
            elif self._store is not None and pid == self._store.pid:
                if not self._is_ending:
                    self._store.ended(status)
            elif self._environments is None or not self._environments.ended(pid):
                self._processes.ended(pid, status)

    def _pid_of(self, index: int) -> int:
        process = self._processes.get(index)
        return 0 if process is None else process.pid

    def _known_pids(self) -> frozenset[int]:
        store = {self._store.pid} if self._store is not None else set()
        makers = self._environments.pids() if self._environments is not None else frozenset()
        return self._processes.pids() | makers | store

    def _no_zygote(self) -> None:
        last = launch.startup_failure(self._settings)
        self.post(events.StopAsked(f"no worker can be started; the last lines of the log:\n{last}"))

    def _story(self, about: str) -> list[dict[str, object]]:
        from shoal._runtime import daemon_told

        return daemon_told.story(self._memory, self._machine, about)

    def _memory_rows(self, _: str) -> list[dict[str, object]]:
        from shoal._runtime import daemon_told

        directory = self._settings.directory
        where = self._places.text
        return daemon_told.memory_rows(self._memory, self._machine, directory, clock.now(), where)

    def _session_row(self) -> dict[str, object]:
        """What ``GetTable("session")`` shows: this process, for people and for tests."""
        in_use, populated, capacity = self._memory.usage()
        groups = self._processes.groups
        return {
            "session": self._settings.session,
            "directory": self._settings.directory,
            "started": self._settings.started,
            "pid": os.getpid(),
            "zygote_pid": self._zygote.pid,
            "store_pid": self._store.pid if self._store is not None else 0,
            "name": self._settings.name,
            "store": {} if self._store is None else self._store.row(self._machine.tables.mirror),
            "spilling": self._spiller.row(),
            "processes_memory": {**self._machine.tables.memory.row(), **groups.row()},
            "uptime_s": clock.now() - self._begun_at,
            "python": sys.version.split()[0],
            "memory_used_bytes": in_use,
            "memory_populated_bytes": populated,
            "memory_capacity_bytes": capacity,
            "modules": sorted(sys.modules),
            "lineage": {**self._lost.row(), "bytes": self._memory.lineage_bytes},
            "tables": {
                **{name: len(table) for name, table in self._processes.tables.items()},
                "looked_at": self._processes.lookers.waiting,
                **self._loop.sizes(),
                **self._door.sizes(),
            },
        }

    # ---- the end
    def perform_end_session(self, command: commands.EndSession) -> None:
        if self._is_ending:
            return
        self._is_ending = True
        ends = messages.SessionEnds(command.reason)
        self._door.tell_all(ends)
        self._processes.kill_all()
        self._loop.call_later(0.0, self._end)

    def _end(self) -> None:
        self._door.close()
        since = session_dir.process_start_time(os.getpid()) or 0
        session, zygote = self._settings.session, frozenset({self._zygote.pid})
        has_journal = self._store is not None and bool(self._settings.kept)
        if self._cluster is not None:
            store = frozenset() if self._store is None else frozenset({self._store.pid})
            descendants.end_all(session, zygote | store, END_S, since)
            self._cluster.close(has_journal=has_journal)
        if self._store is not None and has_journal:
            self._store.finish()
        descendants.end_all(session, zygote, END_S, since)
        self._processes.groups.end()
        directory = self._settings.directory
        self._spiller.close()
        self._lost.close()
        registry.unregister(os.path.dirname(directory), self._settings.session)
        session_dir.remove(directory)
        is_driven = any(session_dir.is_alive(*driver) for driver in self._door.drivers)
        indexes = [process.index for process in self._processes]
        if not is_driven and not self._processes.lookers.is_anybody_left(indexes):
            # Who lives may look at arrays that it has; its own end gives them back.
            self._memory.punch()
        # Last, so that it would have done all this, had we been killed on the way.
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if self._zygote.pid:
                os.kill(self._zygote.pid, signal.SIGKILL)
                os.waitpid(self._zygote.pid, 0)
        self._loop.stop()


def node_config(settings: launch.NodeSettings, memory: Memory) -> config.NodeConfig:
    """Return what the machine is told once: the settings, completed by what this machine has."""
    visible = environment.inherited_variables().get("CUDA_VISIBLE_DEVICES")
    cores = machine_facts.usable_cores()
    cpus = settings.num_cpus if settings.num_cpus is not None else max(1, math.floor(cores))
    gpus = settings.num_gpus
    if gpus is None:
        gpus = machine_facts.gpu_count(visible)
    total = {"CPU": float(cpus)}
    if gpus:
        total["GPU"] = float(gpus)
    usable = machine_facts.usable_memory_bytes()
    total["memory"] = float(max(0, usable - memory.capacity_bytes))
    total["object_store_memory"] = float(memory.capacity_bytes)
    # Names by which programs ask for this very node, and for the one that a session began on.
    total[f"node:{machine_facts.address()}"] = 1.0
    joined = settings.membership
    if joined is None or joined.is_head:
        total["node:__internal_head__"] = 1.0
    is_driver = joined is not None and joined.is_driver
    gpu_ids = tuple(visible.split(",")) if visible else ()
    seen = environment.read()
    return config.NodeConfig(
        session=settings.session,
        directory=settings.directory,
        node_id=NODE_ID,
        total={} if is_driver else total | settings.resources,
        cores=max(1, math.ceil(cores)),
        gpu_ids=gpu_ids if len(gpu_ids) == gpus else (),
        started=settings.started,
        has_store_process=settings.started and (joined is None or joined.is_head),
        python=sys.executable,
        node_name=joined.node_name if joined is not None else os.uname().nodename,
        labels=settings.labels,
        in_cluster=joined is not None,
        is_driver=is_driver,
        memory_bytes=seen.memory_bytes or usable,
        memory_threshold=seen.memory_threshold,
        memory_refresh_s=seen.memory_refresh_s,
    )


NODE_ID = ids.new_node_id()
MEMORY_SHARE = 0.3
MEMORY_LEAST_BYTES = 64 << 20


def make_memory(settings: launch.NodeSettings) -> Memory:
    """Make node memory, as large as asked for or ``MEMORY_SHARE`` of what this machine lets us
    use."""
    capacity = settings.object_store_memory
    if capacity is None:
        share = int(machine_facts.usable_memory_bytes() * MEMORY_SHARE)
        capacity = max(MEMORY_LEAST_BYTES, share)
    cores = max(1, math.ceil(machine_facts.usable_cores()))
    return Memory.create(capacity, cores, NODE_ID)


def _fail(listening: socket.socket, directory: str, error: Exception) -> int:
    """Tell whoever waits for the session why there is none, and leave nothing."""
    text = f"the session could not be started: {error}"
    print(text, file=sys.stderr, flush=True)
    listening.settimeout(END_S)
    try:
        waiting, _ = listening.accept()
        waiting.sendall(
            frames.encode(1, messages.Failure(records.pack("UsageError", message=text)))
        )
    except OSError:
        pass
    session_dir.remove(directory)
    return 1


def run(directory: str, listener_fd: int, zygote: tuple[int, int]) -> int:
    """Run the daemon of the session in ``directory`` until it ends; returns the exit code."""
    descendants.set_process_name("shoal-node")
    listening = socket.socket(fileno=listener_fd)
    try:
        with open(os.path.join(directory, session_dir.SETTINGS_NAME), "rb") as file:
            settings = msgspec.json.decode(file.read(), type=launch.NodeSettings)
        ports = _open_ports(settings)
        memory = make_memory(settings)
    except (OSError, ValueError, MemoryError, RuntimeError) as error:
        return _fail(listening, directory, error)
    _raise_descriptor_limit()
    daemon = Daemon(settings, memory, listening, zygote, ports)
    become_subreaper()
    descendants.set_oom_score(-900)
    if settings.started:
        start_time = session_dir.process_start_time(os.getpid()) or 0
        entry = registry.Entry(settings.session, directory, os.getpid(), start_time)
        registry.register(os.path.dirname(directory), entry)
    daemon.run()
    return 0


def _store_of(
    loop: Loop,
    settings: launch.NodeSettings,
    ports: Ports | None,
    post: Callable[[AnyEvent], None],
    tell: Callable[[str], None],
) -> StoreLink:
    """The link to the control store, which it starts."""
    kept = settings.kept or os.path.join(settings.directory, session_dir.STORE_DIRECTORY)
    port = None if ports is None else ports.store
    return StoreLink(loop, settings.directory, kept, post, tell, port)


def _zygote_setup(node: config.NodeConfig, groups: str) -> forking.Setup:
    """What the zygote tells every worker."""
    socket_path = os.path.join(node.directory, session_dir.SOCKET_NAME)
    welcome = messages.Welcome(
        node.session, node.directory, node.node_id, -1, 0, "", dict(node.total),
        daemon_pid=os.getpid(),
    )  # fmt: skip
    return forking.Setup(socket_path, welcome, groups, has_lease=node.in_cluster)


def _open_ports(settings: launch.NodeSettings) -> Ports | None:
    """What a node of a cluster listens at."""
    if settings.membership is None:
        return None
    from shoal._runtime.daemon_cluster import Ports

    return Ports(settings.membership)


def _raise_descriptor_limit() -> None:
    """A worker costs four descriptors; the soft limit of 1,024 is for programs that use
    ``select``."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
