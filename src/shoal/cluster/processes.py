"""A provider of nodes: processes on this machine.

For trying things out, for tests, and for one large machine that is to look like several. Each node
is what ``shoal start --address`` starts: a node daemon with its own memory, workers and directory::

    <directory>/                    mode 0700
      <request>/                    one instance: its name is its request's id
        instance.json               what it is (made complete under another name, then renamed)
        session-<id>/               the node's session
        sessions/<id>.json          which process it is: (pid, start time)

1. The directory of an instance is made in one step, with its record in it: of several that launch
   the same request one wins, and only that one starts a process. After a kill in between there is a
   directory without a process: it counts as starting for ``BEGINNING_S`` and as ended from then on.
2. An instance is known by its record and its process by (pid, start time): another life of this
   program, or another program, sees the same instances.
3. What has ended keeps its record for ``REMEMBERED_S``, so that a late repetition of its launch
   starts nothing; then it goes.
4. To end one is SIGTERM to its daemon, which ends its whole session; SIGKILL follows, and then the
   zygote of the session ends the rest.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping

import msgspec

from shoal._base import clock, environment
from shoal._runtime import entering, launch, registry, session_dir
from shoal._runtime.launch import Membership
from shoal._runtime.links.keys import JoinLine
from shoal.cluster.provider import (
    ENDED,
    ENDING,
    REQUEST_LABEL,
    RUNNING,
    STARTING,
    TYPE_LABEL,
    Instance,
    NodeType,
    ProviderError,
)

RECORD = "instance.json"
BEGINNING_S = 30.0
REMEMBERED_S = 3600.0
END_S = 5.0
"""From SIGTERM to SIGKILL."""
LOOPBACK, EVERYWHERE = "127.0.0.1:0", "0.0.0.0:0"
"""Where nodes listen: as far as the head does, at any port."""


class Record(msgspec.Struct):
    """What ``instance.json`` says."""

    request: str
    node_type: str
    made_at: float
    """Seconds since 1970: another life must understand it."""
    ending_at: float = 0.0
    ended_at: float = 0.0
    why: str = ""


class ProcessProvider:
    """Starts node processes on this machine and ends them."""

    def __init__(self, directory: str, line: JoinLine | None = None) -> None:
        """Instances are kept in ``directory``; ``line`` says which cluster their nodes join (None:
        each is a session of its own)."""
        self._directory = session_dir.check_root(os.path.abspath(directory))
        self._line = line
        self._launched: dict[str, launch.Launched] = {}
        """Children of this process, which it must wait for."""

    # ---- the interface
    def launch(self, request: str, node_type: NodeType) -> None:
        """Start a node, unless there is or was one for ``request``."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", request):
            raise ProviderError(f"a request must have a simple id, not {request!r}")
        place = os.path.join(self._directory, request)
        record = Record(request, node_type.name, clock.wall())
        if not self._make_place(place, record):
            return
        given = dict(node_type.resources)
        labels = {**node_type.labels, REQUEST_LABEL: request, TYPE_LABEL: node_type.name}
        memory = node_type.options.get("object_store_memory")
        try:
            self._launched[request] = launch.launch(
                place,
                {**environment.inherited_variables(), "SHOAL_DIR": place},
                started=True,
                num_cpus=given.pop("CPU", 0.0),
                num_gpus=given.pop("GPU", 0.0),
                resources=given,
                labels=labels,
                object_store_memory=memory,
                enter=self._enter(labels),
            )
        except OSError as error:
            self._ended(place, record, f"no process could be started: {error}")
            raise ProviderError(f"no process could be started: {error}") from None

    def terminate(self, instance: str) -> None:
        """End the node and everything in it."""
        place = os.path.join(self._directory, instance)
        record = self._record(place)
        if record is None or record.ended_at:
            return
        if not record.ending_at:
            record.ending_at = clock.wall()
            self._write(place, record)
        self._end(place, record)

    def instances(self) -> list[Instance]:
        """Those that live, and those that have ended within ``REMEMBERED_S``."""
        out = []
        for name in sorted(os.listdir(self._directory)):
            place = os.path.join(self._directory, name)
            record = None if name.startswith(".") else self._record(place)
            if record is None:
                self._sweep(place)
                continue
            if record.ended_at and clock.wall() - record.ended_at > REMEMBERED_S:
                shutil.rmtree(place, ignore_errors=True)
                continue
            state = self._state(place, record)
            out.append(Instance(name, name, record.node_type, state, record.why))
        return out

    def close(self) -> None:
        """Instances live on; whoever comes next finds them in the directory."""

    # ---- one instance
    def _enter(self, labels: Mapping[str, str]) -> Callable[[str], Membership] | None:
        line = self._line
        if line is None:
            return None
        listen = LOOPBACK if _is_loopback(line.addresses[0]) else EVERYWHERE
        return lambda directory: entering.enter(directory, line, listen, "", labels)

    def _make_place(self, place: str, record: Record) -> bool:
        """Make the directory of an instance with its record, in one step; False: there is one."""
        making = os.path.join(self._directory, f".{record.request}.{os.getpid()}")
        shutil.rmtree(making, ignore_errors=True)
        try:
            os.mkdir(making, 0o700)
            self._write(making, record)
            os.rename(making, place)
        except OSError as error:
            shutil.rmtree(making, ignore_errors=True)
            if os.path.isdir(place):
                return False
            raise ProviderError(f"{place} cannot be made: {error}") from None
        return True

    def _state(self, place: str, record: Record) -> str:
        if record.ended_at:
            return ENDED
        self._reap(record.request)
        if registry.started_sessions(place):
            if record.ending_at:
                self._end(place, record)
                return ENDING
            return RUNNING
        if record.request in self._launched:
            return ENDING if record.ending_at else STARTING
        age_s = clock.wall() - record.made_at
        is_new = not record.why and not record.ending_at and 0 <= age_s < BEGINNING_S
        if is_new and not self._has_ended_before_it_began(place):
            return STARTING  # begun by another life of this program
        self._ended(place, record, record.why or "its process has ended")
        return ENDED

    def _has_ended_before_it_began(self, place: str) -> bool:
        """Whether a session had begun there and nothing of it is left."""
        names = os.listdir(place)
        return session_dir.REGISTRY in names and not any(map(_is_session, names))

    def _reap(self, request: str) -> None:
        """Take in the end of a child of ours."""
        launched = self._launched.get(request)
        if launched is None:
            return
        try:
            pid, status = os.waitpid(launched.pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = launched.pid, 0
        if not pid:
            return
        del self._launched[request]
        place = os.path.join(self._directory, request)
        record = self._record(place)
        if record is None:
            return
        said = launch.startup_failure(launched.settings).splitlines()
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ""
        last = said[-1] if said and os.WEXITSTATUS(status) else ""
        why = f"its process has ended ({how or last or 'it was told to'})"
        self._ended(place, record, why)

    def _end(self, place: str, record: Record) -> None:
        """Tell its daemon to end, or end it."""
        is_late = clock.wall() - record.ending_at > END_S
        number = signal.SIGKILL if is_late else signal.SIGTERM
        entries = registry.started_sessions(place)
        for pid, start_time in [(entry.pid, entry.start_time) for entry in entries] or [
            (launched.pid, session_dir.process_start_time(launched.pid) or 0)
            for launched in (self._launched.get(record.request),)
            if launched is not None
        ]:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                if session_dir.is_alive(pid, start_time):
                    signal.pidfd_send_signal(pidfd, number)
            except ProcessLookupError:
                pass
            finally:
                os.close(pidfd)

    def _ended(self, place: str, record: Record, why: str) -> None:
        record.ended_at, record.why = clock.wall(), why
        self._write(place, record)
        for name in os.listdir(place):
            if name != RECORD:
                shutil.rmtree(os.path.join(place, name), ignore_errors=True)

    def _sweep(self, place: str) -> None:
        """What a life that was killed had begun to make."""
        name = os.path.basename(place)
        pid = name.rpartition(".")[2]
        is_left = pid.isdecimal() and session_dir.process_start_time(int(pid)) is None
        if name.startswith(".") and is_left:
            shutil.rmtree(place, ignore_errors=True)

    def _record(self, place: str) -> Record | None:
        try:
            with open(os.path.join(place, RECORD), "rb") as file:
                return msgspec.json.decode(file.read(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, place: str, record: Record) -> None:
        path = os.path.join(place, RECORD)
        making = f"{path}.{os.getpid()}"
        fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(record))
        finally:
            os.close(fd)
        os.rename(making, path)


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "localhost:", "[::1]"))


def _is_session(name: str) -> bool:
    return name.startswith("session-")
