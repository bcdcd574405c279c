"""Every error that Shoal raises, on one page, by whose fault it is.

::

    ShoalError
    |-- TaskError              your code raised; also an instance of the class of what it raised
    |-- TaskCancelledError     you cancelled it
    |   `-- DeadlineExceededError  ... or its time was over                  (TimeoutError)
    |-- LostError              the world: something died, is gone, is full or is late
    |   |-- WorkerCrashedError     a process died in a task
    |   |   |-- OutOfMemoryError       ... which used too much memory
    |   |   `-- PoisonTaskError        ... in the same task, again and again
    |   |-- ActorError             a call can not reach its actor
    |   |   |-- ActorDiedError         ... ever again
    |   |   |   |-- ActorOutOfMemoryError   ... it used too much memory
    |   |   |   `-- ActorGroupRemovedError  ... its placement group was removed
    |   |   `-- ActorUnavailableError  ... now: it is being started again
    |   |-- ObjectLostError        a value is gone
    |   |   `-- ObjectNotRebuiltError  ... its task cannot make it again
    |   |       |-- RebuildsUsedUpError    ... it has run as often as it may
    |   |       |-- LineageDroppedError    ... how it was made was forgotten
    |   |       `-- ReplayDiffersError     ... its generator yielded fewer items this time
    |   |-- ObjectStoreFullError   there is no room for a value              (MemoryError)
    |   |-- GetTimeoutError        it takes longer than you wanted to wait   (TimeoutError)
    |   |-- ChannelError           a channel gives or takes nothing
    |   |   |-- ChannelClosedError     ... ever again: it was closed
    |   |   `-- ChannelTimeoutError    ... in time: a timeout of get, too       (TimeoutError)
    |   |-- CollectiveError        a group's rank died, left or disagrees    (RuntimeError)
    |   |   `-- CollectiveTimeoutError  a rank did not come in time          (TimeoutError)
    |   |-- JobEndedError          the program that asked for it has ended
    |   |-- UnschedulableError     nothing here can ever run it
    |   |-- GroupRemovedError      its placement group was removed
    |   |-- RuntimeEnvSetupError   its environment could not be made
    |   `-- SessionLostError       the node daemon died                      (ConnectionError)
    |-- UsageError             misuse; each is also the builtin class that fits
    |   |-- OptionError            an option or argument is wrong            (Value-, TypeError)
    |   |-- NotARefError           get or wait of something that is no ref   (Type-, ValueError)
    |   |-- NotReplayableError     a failed task that debug can not run again (LookupError)
    |   |-- SerializationError     a value can not travel                    (TypeError)
    |   |-- MessageTooLargeError   a value is larger than its channel        (ValueError)
    |   |-- ActorAlreadyExistsError  the name belongs to another actor       (ValueError)
    |   |-- ActorNotFoundError     no living actor has that name             (ValueError)
    |   |-- GroupAlreadyExistsError  the name belongs to another group       (ValueError)
    |   |-- GroupNotFoundError     there is no such placement group          (ValueError)
    |   |-- GraphError             a graph that can not be built or run so  (ValueError)
    |   |-- GraphCapacityError     too many executions of a compiled graph  (RuntimeError)
    |   |-- GraphEndedError        a compiled graph after its teardown      (RuntimeError)
    |   |-- NotInActorError        code outside of actors asks for its actor (RuntimeError)
    |   |-- SessionEndedError      after shutdown                            (RuntimeError)
    |   |-- SessionExistsError     a second init                             (RuntimeError)
    |   |-- ForkedProcessError     a handle used in a forked child           (RuntimeError)
    |   |-- NotSupportedError      it is not there yet                       (NotImplementedError)
    |   |-- PendingCallsLimitError an actor's max_pending_calls              (RuntimeError)
    |   `-- PendingTasksLimitError too many unfinished tasks                 (RuntimeError)
    `-- InternalError          our bug

An error is built from facts. They are attributes (declared in the class, with their defaults),
travel as a typed record (``to_record``, ``from_record``: msgpack of ``[class name, fields]``, so
that a daemon can make one without pickle) or by pickle, and the message is made from them where it
is read. ``ray`` of a class lists the names under which programs written for Ray catch it.

Invariants:

1. This package imports nothing of ours and neither pickle nor cloudpickle: daemons may load it.
2. ``from_record`` never fails: an unknown class becomes ``InternalError``, an unknown field is kept
   in ``facts``; the two ends of a connection may differ by a version.
3. A ``TaskError`` is never an instance of ``SystemExit`` or ``KeyboardInterrupt``: ``get`` of a
   task that called ``sys.exit`` must not end the program that asked.
4. Every class calls itself ``shoal.errors.X``, whichever file it stands in.
"""

from __future__ import annotations

from shoal.errors._base import InternalError, ShoalError, from_record, of_ray, to_record
from shoal.errors._lost import (
    ActorDiedError,
    ActorError,
    ActorGroupRemovedError,
    ActorOutOfMemoryError,
    ActorUnavailableError,
    ChannelClosedError,
    ChannelError,
    ChannelTimeoutError,
    CollectiveError,
    CollectiveTimeoutError,
    GetTimeoutError,
    GroupRemovedError,
    JobEndedError,
    LineageDroppedError,
    LostError,
    ObjectLostError,
    ObjectNotRebuiltError,
    ObjectStoreFullError,
    OutOfMemoryError,
    PoisonTaskError,
    RebuildsUsedUpError,
    ReplayDiffersError,
    RuntimeEnvSetupError,
    SessionLostError,
    UnschedulableError,
    WorkerCrashedError,
)
from shoal.errors._task import DeadlineExceededError, TaskCancelledError, TaskError, task_error
from shoal.errors._usage import (
    ActorAlreadyExistsError,
    ActorNotFoundError,
    ForkedProcessError,
    GraphCapacityError,
    GraphEndedError,
    GraphError,
    GroupAlreadyExistsError,
    GroupNotFoundError,
    MessageTooLargeError,
    NotARefError,
    NotInActorError,
    NotReplayableError,
    NotSupportedError,
    OptionError,
    PendingCallsLimitError,
    PendingTasksLimitError,
    SerializationError,
    SessionEndedError,
    SessionExistsError,
    UsageError,
)

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorGroupRemovedError",
    "ActorNotFoundError",
    "ActorOutOfMemoryError",
    "ActorUnavailableError",
    "ChannelClosedError",
    "ChannelError",
    "ChannelTimeoutError",
    "CollectiveError",
    "CollectiveTimeoutError",
    "DeadlineExceededError",
    "ForkedProcessError",
    "GetTimeoutError",
    "GraphCapacityError",
    "GraphEndedError",
    "GraphError",
    "GroupAlreadyExistsError",
    "GroupNotFoundError",
    "GroupRemovedError",
    "InternalError",
    "JobEndedError",
    "LineageDroppedError",
    "LostError",
    "MessageTooLargeError",
    "NotARefError",
    "NotInActorError",
    "NotReplayableError",
    "NotSupportedError",
    "ObjectLostError",
    "ObjectNotRebuiltError",
    "ObjectStoreFullError",
    "OptionError",
    "OutOfMemoryError",
    "PendingCallsLimitError",
    "PendingTasksLimitError",
    "PoisonTaskError",
    "RebuildsUsedUpError",
    "ReplayDiffersError",
    "RuntimeEnvSetupError",
    "SerializationError",
    "SessionEndedError",
    "SessionExistsError",
    "SessionLostError",
    "ShoalError",
    "TaskCancelledError",
    "TaskError",
    "UnschedulableError",
    "UsageError",
    "WorkerCrashedError",
    "from_record",
    "of_ray",
    "task_error",
    "to_record",
]
