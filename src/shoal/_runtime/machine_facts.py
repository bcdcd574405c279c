"""What this machine has, as far as this process may use it: cores, memory, GPUs.

Containers lie: ``os.cpu_count`` and ``MemTotal`` are the host's. What holds is the tightest limit
of all cgroups that enclose us (v1 and v2, also both at once), the affinity mask, and what is
really free.

``Headroom`` answers "how many bytes may be populated now?" (PROTOCOL B1: a full memfd is not
ENOSPC but the kernel's OOM killer): the least, over ``MemAvailable`` and every enclosing cgroup,
of limit minus usage. Page cache that the kernel can drop at once (``inactive_file``) counts as
free.
"""

from __future__ import annotations

import os
import re
import socket

import msgspec

RESERVE = 0.2
"""Of all memory is left to the processes themselves, at most ``RESERVE_MOST_BYTES``: values that
nobody has asked for again must not take what those who run need to go on."""
RESERVE_MOST_BYTES = 128 << 20
_NO_LIMIT = 1 << 60
_READ_BYTES = 1 << 16
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Group(msgspec.Struct, frozen=True):
    """One cgroup directory that limits us, and in which of the two layouts."""

    path: str
    is_v2: bool


def _read(path: str) -> str:
    """What a file of the kernel's says. Not with ``open``, which takes five times as long: a start
    reads 60 of them."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    parts = []
    try:
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
    except OSError:
        return ""
    finally:
        os.close(fd)
    return os.fsdecode(b"".join(parts)).strip()


def _number(text: str) -> int:
    return int(text) if text.isdigit() else _NO_LIMIT


def enclosing_groups(controller: str) -> list[Group]:
    """Return the cgroups that enclose this process for ``controller`` (memory, cpu), innermost
    first."""
    inside: dict[str, str] = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(",") if names else ["v2"]:
            inside[name] = path
    groups = []
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, mount_point = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            place = inside.get("v2")
        elif kind == "cgroup" and controller in options.split(","):
            place = inside.get(controller)
        else:
            continue
        if place is None:
            continue
        # In a cgroup namespace or a bind mount the mount's root is somewhere in the host's tree.
        relative = os.path.relpath(place, root)
        relative = "" if relative == "." or relative.startswith("..") else relative
        while True:
            groups.append(Group(os.path.join(mount_point, relative), kind == "cgroup2"))
            if not relative:
                break
            relative = os.path.dirname(relative)
    return groups


def usable_cores() -> float:
    """Return how many cores this process may use: affinity, cut by the tightest CPU quota."""
    cores = float(len(os.sched_getaffinity(0)))
    for group in enclosing_groups("cpu"):
        if group.is_v2:
            quota, _, period = _read(f"{group.path}/cpu.max").partition(" ")
        else:
            quota = _read(f"{group.path}/cpu.cfs_quota_us")
            period = _read(f"{group.path}/cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            cores = min(cores, int(quota) / int(period))
    return cores


def usable_memory_bytes() -> int:
    """Return the memory that this process and its like may use in all."""
    return _usable(_memory_limits())


def _memory_limits() -> list[tuple[Group, int]]:
    """The groups around us that limit memory, and their limits in bytes."""
    limited = []
    for group in enclosing_groups("memory"):
        name = "memory.max" if group.is_v2 else "memory.limit_in_bytes"
        limit = _number(_read(f"{group.path}/{name}"))
        if limit < _NO_LIMIT:  # v1 writes "no limit" as a number just below 2^63
            limited.append((group, limit))
    return limited


def _usable(limited: list[tuple[Group, int]]) -> int:
    return min([_meminfo("MemTotal"), *(limit for _, limit in limited)])


def gpu_count(visible: str | None) -> int:
    """Return the number of NVIDIA GPUs, or of those that ``CUDA_VISIBLE_DEVICES`` (``visible``)
    leaves."""
    try:
        present = sum(re.fullmatch(r"nvidia\d+", name) is not None for name in os.listdir("/dev"))
    except OSError:
        return 0
    if visible is None:
        return present
    return min(
        present, len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    )


def _meminfo(field: str) -> int:
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    return _NO_LIMIT


def _droppable_fields(group: Group) -> tuple[str, ...]:
    names = ("inactive_file", "active_file", "slab_reclaimable")
    return names if group.is_v2 else tuple("total_" + name for name in names[:2])


class Pressure:
    """How much of the node's memory is in use: of the limit that is nearest to being reached, the
    machine's or that of a group around us. What the kernel can drop does not count."""

    def __init__(self) -> None:
        self._limited = _memory_limits()

    def used_and_limit(self) -> tuple[int, int]:
        """Return both in bytes."""
        fields = {}
        for line in _read("/proc/meminfo").splitlines()[:8]:
            name, _, value = line.partition(":")
            fields[name] = int(value.split()[0]) << 10
        limit = fields.get("MemTotal", _NO_LIMIT)
        found = [(max(0, limit - fields.get("MemAvailable", limit)), limit)]
        for group, limit in self._limited:
            name = "memory.current" if group.is_v2 else "memory.usage_in_bytes"
            used = int(_read(f"{group.path}/{name}") or 0)
            wanted = _droppable_fields(group)
            for line in _read(f"{group.path}/memory.stat").splitlines():
                name, _, value = line.partition(" ")
                used -= int(value) if name in wanted else 0
            found.append((max(0, used), limit))
        return max(found, key=lambda pair: pair[0] / max(1, pair[1]))


class IdleCores:
    """Whether a core has had nothing to do of late: from the kernel's count of idle time, since
    what wants to run at one moment says little about programs that wait and work in turn."""

    LEAST_S = 0.2
    """Between two looks; the kernel counts in hundredths of a second."""

    def __init__(self, now: float, path: str = "/proc/stat") -> None:
        self._path = path
        self._seen = (now, self._idle_s())
        self._wanted = min(0.9, 0.4 * usable_cores())
        self._is_free = False

    def is_one_free(self, now: float) -> bool:
        """The answer for the time since the last look, if that is long enough ago."""
        before, idle_before_s = self._seen
        if now - before >= self.LEAST_S:
            idle_s = self._idle_s()
            self._seen = (now, idle_s)
            self._is_free = (idle_s - idle_before_s) / (now - before) >= self._wanted
        return self._is_free

    def _idle_s(self) -> float:
        with open(self._path, "rb") as file:
            return int(file.readline().split()[4]) / _TICKS_PER_S


class Headroom:
    """How much memory may be taken now; cheap enough to ask before every step."""

    def __init__(self) -> None:
        self._limited = _memory_limits()
        self._reserve_bytes = min(RESERVE_MOST_BYTES, int(RESERVE * _usable(self._limited)))

    def bytes_free(self) -> int:
        """Return the least of what ``MemAvailable`` and every enclosing cgroup leave."""
        free = _meminfo("MemAvailable")
        for group, limit in self._limited:
            name = "memory.current" if group.is_v2 else "memory.usage_in_bytes"
            used = int(_read(f"{group.path}/{name}") or 0)
            free = min(free, limit - used + self._droppable(group))
        return max(0, free)

    def bytes_for_values(self) -> int:
        """Return what of that node memory may take: some is left to the processes."""
        return self.for_values(self.bytes_free())

    def for_values(self, bytes_free: int) -> int:
        """Return the same, where it is known how much is free."""
        return max(0, bytes_free - self._reserve_bytes)

    def for_daemon(self, bytes_free: int) -> int:
        """Return what may be taken for what the daemon has to write: half of what is left."""
        return max(0, bytes_free - self._reserve_bytes // 2)

    @staticmethod
    def _droppable(group: Group) -> int:
        field = "inactive_file" if group.is_v2 else "total_inactive_file"
        for line in _read(f"{group.path}/memory.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == field:
                return int(value)
        return 0


def address() -> str:
    """The address under which other machines reach this one, 127.0.0.1 if there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the kernel says which of its addresses it would send from. The
            # network is the one that is reserved for documentation.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
