"""Every limit and default with its unit, in one frozen record, so that a test can hand another one
to any machine."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Times in seconds, sizes in bytes, counts without unit."""

    # ---- attaching workers to queues (PROTOCOL W3)
    recheck_s: float = 0.001
    """A queue with a worker gets another only if this long after the first look ..."""
    recheck_most_s: float = 0.010
    """(doubling up to this while tasks keep moving)"""
    quick_task_s: float = 0.000_05
    """... its workers needed longer than this per task."""
    settle_s: float = 0.020
    """How long a worker may need to take up its queue before the queue counts as stuck."""
    # ---- fairness (RULES S-3)
    fair_s: float = 0.050
    reserve_s: float = 1.0
    revoke_poll_s: float = 0.001
    tiny_processes_least: int = 32
    """Processes of classes under 1/8 CPU: at least this many, or ``tiny_processes_per_core``."""
    tiny_processes_per_core: int = 8
    # ---- infeasible requests (RULES S-13)
    infeasible_s: float = 1.0
    queue_idle_s: float = 10.0
    queues_most: int = 1000
    """Scheduling classes that have a queue at once; node memory has room for 1,023."""
    queues_kept: int = 256
    """Queues of scheduling classes that stay however long they are idle."""
    # ---- worker processes
    workers_most: int = 4000
    starting_most: int = 8
    prestart_most: int = 8
    fork_timeout_s: float = 10.0
    join_timeout_s: float = 30.0
    start_backoff_s: float = 0.05
    start_backoff_most_s: float = 2.0
    idle_worker_s: float = 10.0
    """A worker without a queue, or idle in one, for this long may be trimmed."""
    leave_s: float = 30.0
    """How long a worker may take to leave before SIGKILL (RULES A-13)."""
    housekeeping_s: float = 1.0
    # ---- actors
    restart_backoff_s: float = 0.05
    """Before the second life in a row that was short; there is no pause before the first."""
    restart_backoff_most_s: float = 10.0
    restart_quiet_s: float = 60.0
    """An incarnation that lived this long starts the back-off anew,"""
    restart_quiet_times: float = 20.0
    """or so many times the pause that would come: restarts then cost next to nothing."""
    tombstones_most: int = 10_000
    group_tombstones_most: int = 1000
    # ---- cancelling (RULES Q-3)
    cancel_s: float = 0.6
    """How long a task that was asked to end may run on before its process is killed."""
    # ---- crashes (RULES L-4)
    poison_workers: int = 3
    crash_memory_most: int = 10_000
    stderr_lines_most: int = 20
    # ---- the rest
    story_most: int = 20_000
    jobs_ended_most: int = 1000
    kv_value_bytes_most: int = 64 << 20
    record_bytes_most: int = 64 << 20
    """Of a detached actor's class and arguments: more is not kept for another session."""


LEASE_LEAST_S = 2.0
"""Shorter ones would end on machines that are merely busy."""
LEASE_MOST_S = 300.0
DRIVER_LEASES = 6.0
"""How many leases of others the lease of a node lasts that only has a driver."""


class LeaseTimes(msgspec.Struct, frozen=True):
    """When a node may do what, and when others may act on its silence (RULES section 3). All on
    BOOTTIME; a lease counts from the moment at which its renewal was sent.

    Those of a cluster whose leases last another time are made by ``lease_times`` where the control
    store begins. A node hears how long its lease lasts when it is admitted, and takes the times
    that depend on it in proportion (``_core.members.lease``)."""

    renew_s: float = 1.0
    answer_s: float = 1.0
    """A renewal that is unanswered for so long is repeated over a fresh connection."""
    row_s: float = 0.1
    """A renewal comes so early if there is news of what is free (RULES S-12)."""
    cautious_s: float = 5.0
    """No new at-most-once start on a node whose lease is older."""
    lease_s: float = 10.0
    """Named and restartable actors are ended on a node whose lease is older,"""
    ended_s: float = 1.0
    """within so long,"""
    takeover_s: float = 11.0
    """and the store may start them elsewhere; a store acts on no death before so long after it
    first served."""
    driver_lease_s: float = 60.0
    """``DRIVER_LEASES`` of them: of a node that only has a driver: it runs nothing for others."""
    store_lost_s: float = 600.0
    """A node that has not heard of any store for so long ends everything."""
    late_s: float = 1.0
    """Whose own alarm comes later than this was stopped, and renews before it starts anything."""
    join_retry_s: float = 1.0
    repeat_s: float = 1.0
    """What is unanswered is said again."""
    place_retry_s: float = 0.1
    place_retry_most_s: float = 1.0
    """Pauses between tries to place what has been refused."""
    # ---- amounts
    candidates_most: int = 32
    """Nodes per class in the answer to a renewal (RULES S-12)."""
    orders_most: int = 64
    """Orders in one message."""
    facts_most: int = 256
    dead_members_most: int = 1000
    """Dead nodes that are remembered by name."""


def lease_times(lease_s: float) -> LeaseTimes:
    """Those of a cluster in which a lease lasts ``lease_s``.

    Between the end of a lease at its holder and what others do then always passes the same time: so
    long the holder may take to end what it had, and that does not depend on the lease.

    Raises:
        ValueError: nobody can keep such a lease.
    """
    if not LEASE_LEAST_S <= lease_s <= LEASE_MOST_S:
        raise ValueError(
            f"a lease lasts from {LEASE_LEAST_S:g} to {LEASE_MOST_S:g} seconds, not {lease_s:g}"
        )
    usual = LeaseTimes()
    share = lease_s / usual.lease_s
    return LeaseTimes(
        renew_s=usual.renew_s * min(1.0, share),
        answer_s=usual.answer_s * min(1.0, share),
        cautious_s=usual.cautious_s * share,
        lease_s=lease_s,
        takeover_s=lease_s + (usual.takeover_s - usual.lease_s),
        driver_lease_s=lease_s * DRIVER_LEASES,
    )


class ForwardingLimits(msgspec.Struct, frozen=True):
    """What a node forwards to others, and when it takes it back (RULES S-11, S-12)."""

    worth_s: float = 0.002
    """What starts here within this time stays: a message there and its way take about as long."""
    tiny_s: float = 0.000_05
    """Shorter tasks stay: forwarding one costs both daemons about that much."""
    ahead_s: float = 0.005
    """So much work is on its way to a node, or waits there, beside what runs: one round trip, and
    what two daemons gather before they write."""
    ahead_most: int = 4096
    """... and at most so many tasks of one class."""
    gain_s: float = 0.050
    """A task moves to a shorter wait only if it is shorter by this, and by half."""
    batch_most: int = 256
    """Tasks in one message."""
    stall_s: float = 1.0
    stall_times: float = 4.0
    """A node is overdue after both: the time, and so many times what was expected."""
    closed_s: float = 0.010
    closed_most_s: float = 1.0
    """Who has sent something back gets nothing for this long, doubling to the second."""
    ask_gap_s: float = 0.1
    """Rows go, and candidates are asked for, at most once in this time (S-12: 10/s) ..."""
    ask_more_gap_s: float = 0.005
    """... or in this, while each answer names as many nodes with room as it may."""
    candidates_most: int = 32
    rows_most: int = 1024
    wishes_most: int = 256
    """Wishes that the control store keeps lists for; others are looked up when asked for."""
    wish_idle_s: float = 10.0
    bytes_per_s: float = 200e6
    """Assumed for values on their way between nodes, until it is measured."""


class NodeConfig(msgspec.Struct, frozen=True):
    """What a node daemon is told once."""

    session: str
    directory: str
    node_id: bytes
    total: dict[str, float]
    """Logical resources: CPU, GPU, memory (bytes), custom names."""
    cores: int
    """Real cores this node may use (cgroup quota)."""
    gpu_ids: tuple[str, ...] = ()
    """One per whole GPU of ``total``; empty: 0, 1, 2, ..."""
    started: bool = False
    """Made by ``shoal start``: others may join, the store is a process of its own."""
    has_store_process: bool | None = None
    """Whether the tables are kept by a process of their own; None: where ``started``."""
    python: str = ""
    """Interpreter that the zygote runs; jobs with another get exec'd workers."""
    node_name: str = ""
    labels: dict[str, str] = {}
    """What ``init(labels=)`` says about this node."""
    memory_bytes: int = 0
    """What there is for everything together; 0: nobody watches it."""
    memory_threshold: float = 0.95
    """Above this share of it somebody has to go."""
    memory_refresh_s: float = 0.25
    """At least so often it is looked at while something runs; 0: nobody watches it."""
    limits: Limits = Limits()
    leases: LeaseTimes = LeaseTimes()
    in_cluster: bool = False
    """Whether there can be other nodes."""
    is_driver: bool = False
    """The node of a program on a machine that has none of the cluster: it runs nothing (S-19)."""

    @property
    def can_grow(self) -> bool:
        """Whether what this node lacks may come with another one (RULES S-13)."""
        return self.started or self.in_cluster
