"""Node memory as the daemon uses it: queues, tasks and objects for the machine, and warm pages.

``NodeMemory`` performs the machine's commands about queues, tasks and objects; each is one or a few
native calls that return at once, and their outcome is an event.

``Warming`` backs memory, with huge pages where the kernel has them: what is asked for at once, a
reserve in idle moments. Only the daemon does that, in steps, each after a look at the headroom
(``machine_facts``): a full memfd is not an error but the kernel's OOM killer. It sleeps when
nothing is wanted; the bell (a process has asked for extents) wakes it. Between two steps
everything else that is ready goes first, and what nobody waits for takes at most ``SHARE`` of
a core that nobody else wants, or ``SHARE_OF_BUSY`` where there is none: the reserve is made once,
0.1 s of CPU for 1 GiB, and spares a first large value tens of times that. Where memory is slower
to make (a virtual machine that has to get it first), busy cores give ``BUSY_CPU_S`` and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from shoal._base import clock
from shoal._core import commands, events
from shoal._core.events import AnyEvent, QueueState, RunningAttempt, WorkerState
from shoal._native import FLAG_ACTOR, FORMAT_PICKLE, QUEUE_ACTOR, QUEUE_CLASS, Memory, ObjectRef
from shoal._proto.environments import Environment
from shoal._runtime import recorded
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.machine_facts import Headroom, IdleCores

if TYPE_CHECKING:
    from shoal._runtime.daemon_abroad import Abroad

STEP_BYTES = 16 << 20
LARGE_STEP_BYTES = 128 << 20
"""Where there is four times as much: each step waits for a bit of work on every core."""
WARM_UP_S = 0.5
"""What starts a session needs the cores first."""
COLLAPSE_AFTER_S = 1.0
"""Huge pages are not made while the session is still starting."""
RETRY_S = 1.0
"""After a step for which there was no headroom."""
SHARE = 0.5
SHARE_OF_BUSY = 0.05
BUSY_CPU_S = 0.3
BUSY_STEP_BYTES = 32 << 20
QUIET_S = 0.25
"""The daemon has had nothing else to do for so long."""
BUSY_S = 0.1
BUSY_MOST_S = 5.0
"""Until the next look whether the daemon is quiet, doubling."""
CHAIN_PASSES = 8
PUT_S = 0.0
"""Nobody waits inside the daemon: room has been made, or there is none."""
OURS = 0
"""Process index of the daemon: of a task, another node has it."""
_QUEUE_FIELD = 7
"""Of ``Memory.sight``."""
STAGES = ("held", "queued", "running")
"""What ``task_state`` numbers from 1."""
_KINDS = {commands.QUEUE_CLASS: QUEUE_CLASS, commands.QUEUE_ACTOR: QUEUE_ACTOR}


class NodeMemory:
    """Performs commands on node memory; ``post`` takes the events that answer them."""

    def __init__(
        self,
        memory: Memory,
        post: Callable[[AnyEvent], None],
        make_room: Callable[[], None],
        look: Callable[[list[int]], None],
    ) -> None:
        """``make_room`` warms memory before the daemon writes a record: nobody would answer if it
        waited for memory itself. ``look`` is shown what was in the inbox: spilled values are wanted
        back through it."""
        self._memory = memory
        self.environment_of: Callable[[int], Environment | None] = lambda queue: None
        """What the tasks of a queue run in."""
        self._post = post
        self._make_room = make_room
        self._is_raw = False
        self.abroad: Abroad | None = None
        """What is done with other nodes."""
        self._put: dict[int, ObjectRef[object]] = {}
        """Made by ``PutValues``, until the machine has taken its own hold."""
        self._proxies: dict[int, ObjectRef[object]] = {}
        """Objects of other nodes that the machine holds: the daemon's own hold on those is the
        bridge's, which gives it back when nobody else has any."""
        self._look = look

    def bell_rang(self) -> None:
        """Read what the bell may have been rung for; the machine looks at the rest itself."""
        inbox = self._memory.inbox()
        # The inbox has slots of spilled values too, and a slot may be another task's by now.
        gone = {
            key for key in inbox if self._memory.handles(key) == 0 and self._memory.is_adopted(key)
        }
        self._look(inbox)
        if self.abroad is not None:
            gone = {key for key in gone if not self.abroad.is_proxy(key)}
            self.abroad.inbox(inbox)
        self._post(events.BellRang(tuple(gone), tuple(self._memory.drain_dead())))

    # ---- values that outlive this node
    def perform_read_values(self, command: commands.ReadValues) -> None:
        self._read_raw()
        values: list[bytes | None] = []
        for key in command.keys:
            try:
                values.append(msgspec.msgpack.encode(self._memory.load_key(key)))
            except (KeyError, ValueError, RuntimeError, TypeError):
                values.append(None)  # it has gone, or is an error
        self._post(events.ValuesRead(command.ticket, tuple(values)))

    def perform_put_values(self, command: commands.PutValues) -> None:
        keys: list[int] = []
        for value in command.values:
            self._make_room()
            data, buffers = msgspec.msgpack.decode(value, type=tuple[bytes, list[bytes]])
            try:
                ref = self._memory.put(FORMAT_PICKLE, data, buffers, (), PUT_S)
            except (MemoryError, TimeoutError):
                keys = []
                break
            self._put[ref.key] = ref
            keys.append(ref.key)
        self._post(events.ValuesPut(command.ticket, tuple(keys)))

    def _read_raw(self) -> None:
        """From now on what this process loads is what is written, never what it means."""
        if self._is_raw:
            return
        self._is_raw = True
        self._memory.set_hooks(
            loads=lambda data, buffers=(): (bytes(data), [bytes(part) for part in buffers]),
            error=lambda *_: ValueError("an error"),
            help=None,
            future=_unused,
            wait=_unused,
            escaped=_unused,
        )

    # ---- queues
    def perform_new_queue(self, command: commands.NewQueue) -> None:
        kind = _KINDS[command.kind]
        queue, generation = self._memory.new_queue(kind, command.job)
        if self.abroad is not None:
            self.abroad.outgoing.queue_made(queue)
            self.abroad.incoming.queue_made(queue)
        self._post(events.QueueCreated(command.ticket, queue, generation))

    def perform_sift_queues(self, command: commands.SiftQueues) -> None:
        found = set(self._memory.queues_of_recipes())
        spare = tuple(queue for queue in command.queues if queue not in found)
        needed = tuple(queue for queue in command.queues if queue in found)
        self._post(events.QueuesSifted(spare, needed))

    def perform_free_queue(self, command: commands.FreeQueue) -> None:
        is_freed = self._memory.free_queue(command.queue)
        self._post(events.QueueFreed(command.queue, is_freed))

    def perform_kill_queue(self, command: commands.KillQueue) -> None:
        if self._memory.queue_state(command.queue)[0]:
            self._make_room()
        # A call that comes in between is answered as well, by a record that is cut if need be.
        self._memory.kill_queue(command.queue, command.record)

    def perform_set_hungry(self, command: commands.SetHungry) -> None:
        if self._memory.set_hungry(command.queue, command.on):
            self._post(events.Looked(queues=(self._queue_state(command.queue),)))

    def perform_set_starving(self, command: commands.SetStarving) -> None:
        self._memory.set_starving(command.on)

    def perform_assign(self, command: commands.Assign) -> None:
        self._memory.assign(command.index, command.queue)

    def perform_look(self, command: commands.Look) -> None:
        queues = tuple(self._queue_state(queue) for queue in command.queues)
        workers = tuple(
            WorkerState(index, *self._memory.process_state(index)) for index in command.workers
        )
        self._post(events.Looked(queues, workers))

    def _queue_state(self, queue: int) -> QueueState:
        entries, takes, _ = self._memory.queue_state(queue)
        if self.abroad is not None:  # what was lent says nothing of how fast workers here are
            takes = max(0, takes - self.abroad.outgoing.lent_from(queue))
        return QueueState(queue, entries, takes)

    # ---- tasks and objects
    def perform_requeue(self, command: commands.Requeue) -> None:
        is_done = self._memory.requeue(command.key, command.charged, command.front)
        if command.ticket:
            self._post(events.Requeued(command.ticket, is_done))

    def perform_fail(self, command: commands.Fail) -> None:
        self._make_room()
        sight = self._memory.sight(command.key)
        environment = None if sight is None else self.environment_of(sight[_QUEUE_FIELD])
        record = recorded.keep(self._memory, command.key, environment)
        self._memory.fail(command.key, command.record, () if record is None else (record,))

    def perform_cancel_tasks(self, command: commands.CancelTasks) -> None:
        self._make_room()
        rows = self._memory.cancel(
            command.key, command.is_recursive, command.held, command.queued, command.is_late
        )
        tasks = tuple(
            RunningAttempt(key, attempt, worker, bool(flags & FLAG_ACTOR))
            for key, attempt, worker, flags in rows
        )
        self._post(events.FoundRunning(command.ticket, tasks, command.is_second_look))
        if (abroad := self.abroad) is None:
            return
        for key in [task.key for task in tasks if task.worker == OURS]:
            is_forced = key == command.key and command.is_forced
            abroad.outgoing.cancel(key, command.is_recursive, is_forced, command.is_late)

    def perform_look_at_task(self, command: commands.LookAtTask) -> None:
        state = self._memory.task_state(command.key)
        if state is not None:
            number, _, _, _, *seconds = state
            stages = dict(zip(STAGES, seconds[:number]))
            self._post(events.TaskLooked(command.key, STAGES[number - 1], stages))

    def perform_sift_tasks(self, command: commands.SiftTasks) -> None:
        ended = tuple(key for key in command.keys if self._memory.task_state(key) is None)
        self._post(events.TasksSifted(ended))

    def perform_end_children(self, command: commands.EndChildren) -> None:
        self._make_room()
        for _ in range(CHAIN_PASSES):
            # A child that waits for another holds it: the next pass sees that nobody does now.
            if not self._memory.end_children(command.parents, command.record):
                return

    def perform_fail_queued(self, command: commands.FailQueued) -> None:
        self._make_room()
        self._memory.fail_queued(command.queue, command.record)

    def perform_end_job_tasks(self, command: commands.EndJobTasks) -> None:
        self._make_room()
        self._memory.end_job(command.job, command.record)
        if self.abroad is not None:
            self.abroad.end_job(command.job)

    def perform_note_retryable(self, command: commands.NoteRetryable) -> None:
        assert self.abroad is not None, "only other nodes send tasks"
        self.abroad.note_may_run_again(command.key)

    def perform_adopt(self, command: commands.Adopt) -> None:
        key = command.key
        if self.abroad is not None and self.abroad.is_proxy(key):
            ref = self._memory.ref(key)
            if ref is not None:
                self._proxies[key] = ref
            is_held = ref is not None
        else:
            is_held = self._memory.adopt(key)
        if not is_held:
            self._post(events.AdoptFailed(key))
        self._put.pop(key, None)

    def perform_release(self, command: commands.Release) -> None:
        if command.key in self._proxies:
            del self._proxies[command.key]
        else:
            self._memory.release(command.key)


def _unused(*_: object) -> None:
    raise RuntimeError("the daemon loads nothing and waits for nothing")


class Warming:
    """Keeps enough memory warm; does nothing, and costs nothing, while nothing changes."""

    def __init__(
        self, loop: Loop, memory: Memory, headroom: Headroom, make_room: Callable[[], bool]
    ) -> None:
        """``make_room`` is asked first where somebody asks for memory: whether others leave it, who
        then calls ``wake``."""
        self._others_leave = make_room
        self._loop = loop
        self._memory = memory
        self._headroom = headroom
        self._is_scheduled = False
        self._is_pausing = False
        self._busy_s = BUSY_S
        self._share = SHARE
        self._busy_cpu_s = 0.0
        self._worked_at = 0.0
        self._cores = IdleCores(clock.now())
        self._collapse_at = clock.now() + COLLAPSE_AFTER_S

    def start(self) -> None:
        """Back the first extent in the first idle moment; the rest is for after the start-up."""
        self._loop.call_when_idle(self._first_step)
        self._pause(WARM_UP_S)

    def _first_step(self) -> None:
        self._memory.populate(STEP_BYTES, STEP_BYTES)

    def wake(self) -> None:
        """Something may be wanted: look in the next idle moment."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_when_idle(self._idle_step)

    def work_was_done(self) -> None:
        """The daemon has something else to do: what nobody waits for can wait."""
        self._worked_at = clock.now()

    def bell_rang(self) -> None:
        """A process that waits for memory has rung, maybe."""
        if self._memory.is_asked_for_memory:
            self._step()

    def _step(self) -> None:
        now, begun = clock.now(), clock.cpu()
        is_asked = self._memory.is_asked_for_memory
        if is_asked and self._others_leave():
            return
        is_busy = not is_asked and not self._cores.is_one_free(now)
        is_spent = is_busy and self._busy_cpu_s >= BUSY_CPU_S
        if not is_asked and (is_spent or now < self._worked_at + QUIET_S):
            self._pause(self._busy_s)
            self._busy_s = min(2 * self._busy_s, BUSY_MOST_S)
            return
        self._busy_s = BUSY_S
        free = self._headroom.bytes_for_values()
        budget = max(STEP_BYTES, min(LARGE_STEP_BYTES, free // 4))
        self._share = SHARE_OF_BUSY if is_busy else SHARE
        if is_busy:
            budget = min(budget, BUSY_STEP_BYTES)
        populated, is_wanted = self._memory.populate(budget, free)
        if is_wanted and populated:
            if is_asked:
                self.wake()
            else:
                self._pause_after(begun)
        elif is_wanted:
            self._pause(RETRY_S)
        elif (pause_s := self._collapse_at - clock.now()) > 0:
            self._pause(pause_s)
        else:
            self._collapse()

    def make_room(self) -> None:
        """Have an extent ready for what the daemon itself is about to write."""
        free = self._headroom.bytes_free()
        self._memory.populate(STEP_BYTES, self._headroom.for_values(free))
        self._memory.ready_extent(self._headroom.for_daemon(free))

    def make_stub(self) -> None:
        """The same, while others may have asked for memory: they go on waiting."""
        self._memory.ready_extent(self._headroom.for_daemon(self._headroom.bytes_free()))

    def _idle_step(self) -> None:
        self._is_scheduled = False
        self._step()

    def _collapse(self) -> None:
        begun = clock.cpu()
        if self._memory.collapse(1):
            self._collapse_at = self._pause_after(begun)

    def _pause_after(self, begun: float) -> float:
        """What nobody waits for takes its share of a core; when the next step may be."""
        cpu_s = clock.cpu() - begun
        if self._share < SHARE:
            self._busy_cpu_s += cpu_s
        pause_s = cpu_s * (1 / self._share - 1)
        self._pause(pause_s)
        return clock.now() + pause_s

    def _pause(self, delay_s: float) -> None:
        if not self._is_pausing:
            self._is_pausing = True
            self._loop.call_later(delay_s, self._go_on)

    def _go_on(self) -> None:
        self._is_pausing = False
        self.wake()
