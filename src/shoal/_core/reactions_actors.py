"""What follows from what happens to actors; the edges are numbered in ``actors``."""

from __future__ import annotations

import msgspec

from shoal._base.typed_ids import actor_id as make_actor_id
from shoal._core import causes, placement, reactions_memory, resources
from shoal._core import commands as do
from shoal._core.actors import GONE, Actor, ActorRecord, Asking, Constructing, Ending, Living
from shoal._core.answers import (
    Commands,
    await_group,
    begin_job,
    draining,
    homes,
    job_row,
    label_worker,
    lease,
    never_runs,
    refuse,
    shifting,
    want_environment,
)
from shoal._core.asks import ActorAsk
from shoal._core.events import (
    Looked,
    ProcessDied,
    QueueCreated,
    Requested,
    RunningTask,
    ValuesRead,
)
from shoal._core.resources import Target, parse
from shoal._core.store import PutRecord, PutRow
from shoal._core.tables import ActorTicket, NodeTables, RecordTicket
from shoal._core.tasks import has_retry_left
from shoal._proto import messages as m


def actor_row(t: NodeTables, actor: Actor, reply: do.Reply | None = None) -> Commands:
    """Bring the actor's row up to date."""
    if actor.home is not None:  # its home has the row
        node, key = actor.home
        if actor.moves:
            told: Commands = draining().tell_home(actor)
            return told
        return [do.TellHome(node, key, actor.state, actor.pid, actor.restarts, actor.cause)]
    return t.write(PutRow("actors", actor.actor_id, actor.row()), reply)


# ---- making
def on_create_actor(t: NodeTables, now: float, event: Requested, body: m.CreateActor) -> Commands:
    """Edge 1, or the actor that has the name already."""
    spec = body.spec
    job = t.job_of(event.index)
    if job is None:
        return refuse(event, causes.job_ended(0, "the caller belongs to no job"))
    try:
        parse(spec.place), parse(spec.hold)
    except resources.AmountError as error:
        return refuse(event, causes.usage(str(error)))
    if waits := await_group(t, event, placement.group_of(spec.strategy)):
        return waits
    target = placement.resolve(t, spec.strategy)
    if isinstance(target, bytes):
        return refuse(event, target)
    namespace = spec.namespace or job.namespace
    if spec.name:
        other = t.actors.named(namespace, spec.name)
        if other is not None and isinstance(other.phase, Ending):
            # The name is free when that process has been reaped (K-8).
            t.name_waiters.setdefault((namespace, spec.name), []).append(event)
            return []
        if other is not None and spec.get_if_exists:
            return [do.Reply(event.index, event.request, other.describe(created=False))]
        if other is not None:
            return refuse(event, causes.name_taken(spec.name, namespace))
        if t.config.in_cluster and (namespace, spec.name) not in t.claimed:
            ticket = t.new_ticket()
            t.name_asks[ticket] = event, namespace
            return [do.ClaimName(ticket, namespace, spec.name)]
    out: Commands = []
    if spec.detached:
        # A root of its own: what it does outlives the driver that made it.
        job = begin_job(t, now, job.config)
    actor_id = make_actor_id(t.config.node_id, spec.arguments, job.number)
    if spec.detached:
        job.root_actor = actor_id
        out += job_row(t, job)
    actor = Actor(actor_id, t.actors.share(spec), job.number, namespace, now)
    actor.env, making = want_environment(t, now, job, body.environment)
    out += making
    t.actors.add(actor)
    t.tell(now, actor_id, f"created by process {event.index} as {spec.class_name}")
    out += t.adopt(spec.arguments)
    if spec.detached:
        out += t.adopt(spec.function)
    for _ in ("", *spec.groups):
        ticket = t.new_ticket()
        t.tickets[ticket] = ActorTicket(actor_id, event.index, event.request)
        out.append(do.NewQueue(ticket, do.QUEUE_ACTOR, job.number))
    return out


def on_actor_queue(t: NodeTables, now: float, ticket: ActorTicket, event: QueueCreated) -> Commands:
    """A queue of it exists; with the last one, calls may wait there from now on."""
    actor = t.actors.find(ticket.actor_id)
    if actor is None or (actor.is_dead and not actor.has_handles):
        return [do.FreeQueue(event.queue)]
    if not actor.queue:
        actor.queue, actor.generation = event.queue, event.generation
    else:
        actor.group_queues.append((event.queue, event.generation))
    t.actor_queues[event.queue] = actor.actor_id
    if len(actor.group_queues) < len(actor.spec.groups):
        return []
    if ticket.index < 0:  # of a former session, or of another node: nobody waits for it
        return [] if actor.is_dead else actor_row(t, actor) + ask_worker(t, now, actor)
    reply = do.Reply(ticket.index, ticket.request, actor.describe())
    if actor.is_dead:
        return actor_row(t, actor, reply) + _kill_queues(actor, actor.cause)
    if actor.spec.detached and t.config.is_driver and homes().gives_away(t, actor):
        return list(homes().born(t, now, actor, reply))
    if actor.spec.detached and t.mirror.has_process:
        return _read_record(t, actor, reply) + ask_worker(t, now, actor)
    return actor_row(t, actor, reply) + ask_worker(t, now, actor)


def _read_record(t: NodeTables, actor: Actor, reply: do.Reply) -> Commands:
    """It is acknowledged once the store has what it can be made from again (A-14)."""
    ticket = t.new_ticket()
    t.tickets[ticket] = RecordTicket(actor.actor_id, reply)
    return [do.ReadValues(ticket, (actor.spec.function, actor.spec.arguments))]


def on_values_read(t: NodeTables, now: float, event: ValuesRead) -> Commands:
    """Its class and its constructor's arguments, as they stand in node memory."""
    ticket = t.tickets.pop(event.ticket, None)
    if not isinstance(ticket, RecordTicket):
        return []
    actor = t.actors.find(ticket.actor_id)
    if actor is None or actor.is_dead:
        if actor is None:
            return [] if ticket.reply is None else [ticket.reply]
        return actor_row(t, actor, ticket.reply)
    record = ActorRecord(
        spec=actor.spec,
        job=actor.job,
        namespace=actor.namespace,
        config=t.jobs.running[actor.job].config,
        environment=t.environments.get(actor.env),
        values=[value or b"" for value in event.values],
    )
    if why := _cannot_return(t, record):
        record = msgspec.structs.replace(record, values=[], why=why)
        text = f"actor {actor.spec.class_name} ends with this session for good: {why}"
        t.tell(now, actor.actor_id, text)
    out = t.write(PutRecord(actor.actor_id, msgspec.msgpack.encode(record)))
    return out + actor_row(t, actor, ticket.reply)


def _cannot_return(t: NodeTables, record: ActorRecord) -> str:
    if record.spec.holds_refs:
        return "its constructor's arguments hold refs or handles, which end with the session"
    if not all(record.values):
        return "its class or its constructor's arguments could not be read"
    size_bytes = sum(len(value) for value in record.values)
    if size_bytes > t.limits.record_bytes_most:
        return f"its class and arguments have {size_bytes} bytes, more than are kept on disk"
    trees = () if record.environment is None else record.environment.trees()
    if any(not tree.uri for tree in trees):
        return "its runtime environment has files that were copied into the session"
    return ""


def ask_worker(t: NodeTables, now: float, actor: Actor, *, is_settled: bool = False) -> Commands:
    """Put it in the scheduler's line; it ends if its environment has failed. With SPREAD it is
    asked first whose turn it is, unless that ``is_settled``."""
    if failure := t.environments.failure(actor.env):
        return end_with(t, now, actor, failure, is_gentle=False)
    if t.lease.is_over and lease().is_leased(t, actor):
        lease().put_off(t, now, actor)
        return []
    hold, place = parse(actor.spec.hold), parse(actor.spec.place)
    target = placement.resolve(t, actor.spec.strategy)
    assert isinstance(target, Target), "an actor ends with its group"
    if target.spreads and t.others and not is_settled:
        return [do.SpreadActor(actor.actor_id)]
    if t.elsewhere is not None:
        target = shifting().now_of(t, hold, target)
    ask = ActorAsk(actor.actor_id, actor.job, hold, target, actor.env)
    t.scheduler.asks.add_actor(now, ask, place)
    return []


def assign(t: NodeTables, now: float, actor_id: str, worker: int, request: int) -> Commands:
    """Edges 2 and 6: a worker has been found."""
    actor = t.actors.living[actor_id]
    process = t.pool.workers[worker]
    job = t.jobs.running[actor.job]
    assert process.binding is not None
    t.actors.assign(actor, worker, process.pid)
    t.tell(now, actor_id, f"incarnation {actor.incarnation} in worker {worker}, pid {process.pid}")
    body = m.Assignment(
        job=job.number,
        config=job.config,
        threads=process.binding.threads,
        gpu_ids=list(process.binding.gpu_ids),
        resources=dict(actor.spec.hold),
        environment=t.environments.get(actor.env),
        actor=actor.describe(),
        group=process.binding.group,
        captures=process.binding.captures,
    )
    out: Commands = [
        label(t, actor, actor.spec.class_name),
        do.Reply(worker, request, body),
    ]
    # Before it has heard of anything: what it takes from now on is the actor's.
    out = reactions_memory.first_look(t, worker, parse(actor.spec.hold)) + out
    if t.config.in_cluster and lease().is_leased(t, actor):
        out.insert(0, do.MarkLeased(worker, process.pid))
    if actor.was_abroad:
        actor.was_abroad = False
        out.append(do.BringHome(tuple(actor.queues)))
    out.append(do.Assign(worker, actor.queue))
    return out + actor_row(t, actor)


def label(t: NodeTables, actor: Actor, text: str) -> do.LabelWorker:
    """Whose output its worker's output is."""
    return label_worker(t.jobs.running[actor.job], actor.worker, text, actor.actor_id)


def fail_infeasible(t: NodeTables, now: float) -> Commands:
    """RULES S-13 for actors."""
    out: Commands = []
    for ask in list(t.scheduler.asks.impossible.values()):
        if not isinstance(ask, ActorAsk) or now < ask.since + t.limits.infeasible_s:
            continue
        actor = t.actors.living[ask.actor_id]
        asked = {**actor.spec.place, **actor.spec.hold}
        what, gone = f"actor {actor.spec.class_name}", placement.gone(t, ask.target)
        if t.config.can_grow and not gone:
            # Asked again with a new wait: one warning in a minute.
            ask.since = now + 60.0
            job = t.jobs.running[actor.job]
            why = never_runs(t, parse(asked), ask.target)
            text = f"{what}, which asks for {asked}, waits: {why}"
            if job.driver >= 0 and why is not None:
                out.append(do.Notify(job.driver, m.Notice(text)))
            continue
        why = gone or ask.target.why
        if ask.target.group:
            why = "no bundle of its placement group has that much"
        record = causes.unschedulable(asked, t.config.total, what, why)
        out += end_with(t, now, actor, record, is_gentle=False)
    return out


# ---- what its worker says
def _own(t: NodeTables, event: Requested, actor_id: str) -> Actor | None:
    actor = t.actors.by_worker.get(event.index)
    return actor if actor is not None and actor.actor_id == actor_id else None


def on_started(t: NodeTables, now: float, event: Requested, body: m.ActorStarted) -> Commands:
    """Edge 3. A worker tells it (request 0) and serves; it does not wait for an answer."""
    out: Commands = []
    if event.request:
        out.append(do.Reply(event.index, event.request, m.Done()))
    actor = _own(t, event, body.actor_id)
    if actor is None or not isinstance(actor.phase, Constructing):
        return out
    t.actors.started(now, actor)
    t.tell(now, actor.actor_id, "alive")
    if body.label:
        out.append(label(t, actor, body.label))
    return out + actor_row(t, actor)


def on_failed(t: NodeTables, now: float, event: Requested, body: m.ActorFailed) -> Commands:
    """Edge 7: the constructor raised; final (A-12)."""
    done = do.Reply(event.index, event.request, m.Done())
    actor = _own(t, event, body.actor_id)
    if actor is None or actor.is_dead:
        return [done]
    record = causes.actor_died(actor.facts(), "constructor", error=body.error, text=body.text)
    return [done, *end_with(t, now, actor, record, is_gentle=True)]


def on_exits(t: NodeTables, now: float, event: Requested, body: m.ActorExits) -> Commands:
    """Edge 7: ``exit_actor``."""
    done = do.Reply(event.index, event.request, m.Done())
    actor = _own(t, event, body.actor_id)
    if actor is None or actor.is_dead:
        return [done]
    return [done, *end_actor(t, now, actor, "exit_actor", is_gentle=True)]


def on_checkpoint(t: NodeTables, now: float, event: Requested, body: m.KeepCheckpoint) -> Commands:
    """State for its next life (A-18): held here, instead of what was kept before."""
    done = do.Reply(event.index, event.request, m.Done())
    actor = _own(t, event, body.actor_id)
    if actor is None or actor.is_dead:
        return [done]
    before, actor.checkpoint = actor.checkpoint, body.key
    out = t.adopt(body.key)
    if before:
        out += t.release(before)
    return [*out, done]


# ---- what others ask
def on_get_actor(t: NodeTables, now: float, event: Requested, body: m.GetActor) -> Commands:
    """By name; one that is ending is not found (A-11)."""
    job = t.job_of(event.index)
    namespace = body.namespace or ("" if job is None else job.namespace)
    actor = t.actors.named(namespace, body.name)
    if actor is None and t.config.in_cluster:
        ticket = t.new_ticket()
        t.name_asks[ticket] = event, namespace
        return [do.FindName(ticket, namespace, body.name)]
    if actor is None or actor.is_dead:
        return refuse(event, causes.actor_not_found(body.name, namespace))
    return [do.Reply(event.index, event.request, actor.describe(created=False))]


def on_describe(t: NodeTables, now: float, event: Requested, body: m.DescribeActor) -> Commands:
    """How it is; the cause if it is dead."""
    actor = t.actors.find(body.actor_id)
    if actor is None:
        return refuse(event, causes.actor_not_found(actor_id=body.actor_id))
    return [do.Reply(event.index, event.request, actor.describe(created=False))]


def on_kill(t: NodeTables, now: float, event: Requested, body: m.KillActor) -> Commands:
    """``kill``: with ``no_restart=False`` it counts as a crash (A-13)."""
    actor = t.actors.find(body.actor_id)
    done = do.Reply(event.index, event.request, m.Done())
    caller = t.callers.get(body.actor_id)
    if caller is not None and (actor is None or actor.was_guest):
        return [do.KillElsewhere(caller.key, not body.no_restart), done]
    if actor is None:
        return refuse(event, causes.actor_not_found(actor_id=body.actor_id))
    if actor.home is not None and not actor.is_dead:  # its home says who knows it
        node, key = actor.home
        t.tell(now, actor.actor_id, "somebody here kills it")
        return [do.EndHosted(node, node, key, may_restart=not body.no_restart), done]
    if actor.is_dead:
        return [done]
    if actor.moves == GONE:
        return [do.KillElsewhere(actor.spec.arguments, not body.no_restart), done]
    if body.no_restart or not t.actors.can_restart(actor):
        record = causes.actor_died(actor.facts(), "killed")
        return end_with(t, now, actor, record, is_gentle=False, reply=done)
    return [*crash(t, now, actor), done]


def crash(t: NodeTables, now: float, actor: Actor) -> Commands:
    """End its process, not the actor."""
    if actor.host:
        home = t.config.node_id.hex()
        return [do.EndHosted(actor.host, home, actor.spec.arguments, may_restart=True)]
    return t.pool.kill(now, actor.worker) if actor.worker >= 0 else []


# ---- the end
def end_actor(t: NodeTables, now: float, actor: Actor, reason: str, is_gentle: bool) -> Commands:
    """Edge 7 for a reason that has no more to say."""
    record = causes.actor_died(actor.facts(), reason)
    return end_with(t, now, actor, record, is_gentle)


def end_with(
    t: NodeTables,
    now: float,
    actor: Actor,
    record: bytes,
    is_gentle: bool,
    reply: do.Reply | None = None,
) -> Commands:
    """Edge 7: dead for callers from now on; ``is_gentle`` lets running calls finish."""
    worker = actor.worker
    out: Commands = []
    if actor.host:
        home = t.config.node_id.hex()
        out.append(do.EndHosted(actor.host, home, actor.spec.arguments, is_gentle=is_gentle))
    if actor.was_abroad:
        out.append(do.EndCalls(actor.spec.arguments, tuple(actor.queues), record))
    t.actors.end(actor, record)
    t.scheduler.withdraw(actor.actor_id)
    t.tell(now, actor.actor_id, "ends")
    moves = actor.home is not None and bool(actor.moves)
    if not (moves and actor.called_as):
        out += _kill_queues(actor, record)
    if worker >= 0 and is_gentle:
        out += t.pool.leave(now, worker, is_patient=moves)
    elif worker >= 0:
        out += t.pool.kill(now, worker)
    out += actor_row(t, actor, reply)
    if worker < 0:
        out += _buried(t, now, actor)
    return out


def on_worker_died(
    t: NodeTables,
    now: float,
    actor: Actor,
    event: ProcessDied,
    cancelled: dict[int, bytes],
    memory: dict[str, object] | None = None,
) -> Commands:
    """Its process has been reaped: edge 5, or burial. Every running call is answered; those that
    were ``cancelled`` are not tried again. ``memory``: it was ended for that, and what errors
    say."""
    t.scheduler.held.release_actor(now, actor.actor_id)
    may_restart = t.actors.can_restart(actor)
    facts = actor.facts()
    more = {} if memory is None else {"memory": causes.out_of_memory(memory)}
    reason = "out_of_memory" if memory else "crashed"
    if t.lease.is_over and lease().is_leased(t, actor):
        reason = "lease_over"
    out: Commands = []
    if event.running:
        record = causes.worker_crashed(actor.pid, event.code, event.signal, event.stderr, 0, 0)
        out.append(do.EndChildren(tuple(task.key for task in event.running), record))
        told = "restarting" if may_restart else reason
        record = causes.actor_died(facts, told, event, may_have_run=True, **more)
        for task in event.running:
            if task.key in cancelled:
                out.append(do.Fail(task.key, cancelled[task.key]))
            else:
                out.append(_running_call(actor, task, record, may_restart))
    how = f"signal {event.signal}" if event.signal else f"exit code {event.code}"
    t.tell(now, actor.actor_id, f"process {actor.pid} ended: {how}")
    if may_restart and actor.moves and actor.home is None:
        actor.restarts += bool(event.running)  # else it has just done what it was told
        t.actors.stop(now, actor)
        return out + actor_row(t, actor)
    if may_restart:
        t.actors.crash(now, actor)
        return out + actor_row(t, actor)
    if not actor.is_dead:
        record = causes.actor_died(facts, reason, event, **more)
        t.actors.end(actor, record)
        out += _kill_queues(actor, record)
    t.actors.bury(actor, actor.cause)
    return out + actor_row(t, actor) + _buried(t, now, actor)


def _running_call(actor: Actor, task: RunningTask, record: bytes, may_restart: bool) -> do.Command:
    if may_restart and has_retry_left(task):
        return do.Requeue(0, task.key, charged=True, front=True)
    return do.Fail(task.key, actor.cause if actor.is_dead else record)


def _kill_queues(actor: Actor, record: bytes) -> Commands:
    return [do.KillQueue(queue, record) for queue in actor.queues]


def _buried(t: NodeTables, now: float, actor: Actor) -> Commands:
    """A tombstone now: what the daemon held for it goes, and who waits for the name goes on."""
    out: Commands = []
    if actor.spec.detached or actor.was_given:
        out += t.release(actor.spec.function)
    if actor.spec.detached:
        out += t.drop_record(actor.actor_id)
    if actor.checkpoint:
        out += t.release(actor.checkpoint)
        actor.checkpoint = 0
    if actor.home is not None and actor.moves and actor.called_as:
        out += draining().call_home(t, actor)
    if not actor.has_handles:
        out += forget_queue(t, now, actor)
    old = t.actors.expired_tombstone()
    if old is not None:
        out += forget_queue(t, now, old) + t.drop_row("actors", old.actor_id)
    job = t.jobs.running.get(actor.job)
    if job is not None and job.root_actor == actor.actor_id:
        t.ended_roots.append(job)
    if (actor.namespace, actor.spec.name) in t.claimed and actor.spec.name:
        t.claimed.remove((actor.namespace, actor.spec.name))
        out.append(do.ReleaseName(actor.namespace, actor.spec.name))
    if actor.spec.name:
        t.retries += t.name_waiters.pop((actor.namespace, actor.spec.name), [])
    return out


def forget_queue(t: NodeTables, now: float, actor: Actor) -> Commands:
    """Nobody can call the dead actor any more."""
    out: Commands = []
    if t.actors.by_key.get(actor.spec.arguments) is actor:
        del t.actors.by_key[actor.spec.arguments]
        out += t.release(actor.spec.arguments)
    for queue in actor.queues:
        if t.actor_queues.pop(queue, None) is not None:
            out.append(do.FreeQueue(queue))
    return out


def on_restarts_due(t: NodeTables, now: float) -> Commands:
    """Edge 4."""
    out: Commands = []
    for actor in t.actors.due(now):
        out += ask_worker(t, now, actor)
    return out


# ---- the last handle
def on_last_handle(t: NodeTables, now: float, key: int) -> Commands:
    """Nobody but the daemon holds the lifetime object (A-4)."""
    actor = t.actors.by_key.get(key)
    if actor is None or actor.home is not None:
        return []
    actor.has_handles = False
    if actor.is_dead:
        return [] if isinstance(actor.phase, Ending) else forget_queue(t, now, actor)
    if actor.spec.detached or actor.drain is not None:
        return []
    t.tell(now, actor.actor_id, "last handle gone: ends when its calls are done")
    t.actors.begin_drain(now, actor)
    return drain_due(t, now)


def on_arguments_lost(t: NodeTables, now: float, key: int) -> Commands:
    """The caller died before the daemon could hold the arguments."""
    t.forget_adopted(key)
    actor = t.actors.by_key.pop(key, None)
    if actor is None:
        return []
    actor.has_handles = False
    if actor.is_dead:
        return forget_queue(t, now, actor)
    return end_actor(t, now, actor, "arguments_lost", is_gentle=False)


def drain_due(t: NodeTables, now: float) -> Commands:
    """Look at actors without handles that are due."""
    queues, workers = [], []
    for actor in t.actors.drains_due(now):
        queues += actor.queues
        if actor.worker >= 0:
            workers.append(actor.worker)
    return [do.Look(tuple(queues), tuple(workers))] if queues else []


def on_looked(t: NodeTables, now: float, event: Looked) -> Commands:
    """End those without handles whose calls are done."""
    depths = {state.index: state.depth for state in event.workers}
    out: Commands = []
    queues = {state.queue: state for state in event.queues}
    for queue in queues:
        actor = t.actors.living.get(t.actor_queues.get(queue, ""))
        if actor is None or actor.drain is None or queue != actor.queue:
            continue
        states = [queues[number] for number in actor.queues if number in queues]
        takes = sum(state.takes for state in states)
        has_calls = any(state.entries for state in states) or len(states) < len(actor.queues)
        if actor.host:  # what two looks there have found is believed
            if has_calls:
                actor.drain.quiet_takes = -1
            else:
                out.append(do.LookAbroad(actor.actor_id, tuple(actor.queues)))
            continue
        is_quiet = not has_calls and depths.get(actor.worker, 0) == 0
        was_quiet = actor.drain.quiet_takes == takes
        actor.drain.quiet_takes = takes if is_quiet else -1
        has_place = isinstance(actor.phase, Living) and actor.worker in depths
        if not is_quiet or not (has_place or isinstance(actor.phase, Asking)):
            continue
        # A call may be between the queue and its worker, or be the one that a crash interrupted.
        if (has_place and was_quiet) or (not has_place and not actor.restarts):
            out += end_actor(t, now, actor, "no_handle", is_gentle=True)
    return out
