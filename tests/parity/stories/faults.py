"""Fault tolerance and cancellation."""

import os
import pickle
import tempfile
import time

import ray
from telling import caught, tell


@ray.remote(max_restarts=1)
class Phoenix:
    def __init__(self):
        self.n = 0

    def add(self):
        self.n += 1
        return self.n

    def crash(self):
        os._exit(1)

    def was_restarted(self):
        return ray.get_runtime_context().was_current_actor_reconstructed


def until(call, seconds=30):
    """What ``call`` returns once it raises nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except ray.exceptions.RayActorError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def story_restart():
    """A restarted actor begins anew: its constructor runs again."""
    phoenix = Phoenix.remote()
    before = ray.get([phoenix.add.remote(), phoenix.was_restarted.remote()])
    first = caught(lambda: ray.get(phoenix.crash.remote()), ray.exceptions.RayActorError)
    after = until(lambda: ray.get(phoenix.add.remote()))
    return before, first, after, ray.get(phoenix.was_restarted.remote())


def story_restarts_are_counted():
    phoenix = Phoenix.remote()
    caught(lambda: ray.get(phoenix.crash.remote()))
    until(lambda: ray.get(phoenix.add.remote()))
    caught(lambda: ray.get(phoenix.crash.remote()))
    return caught(lambda: ray.get(phoenix.add.remote()), ray.exceptions.ActorDiedError)


def story_calls_are_retried():
    """max_task_retries: the call that was running is run again after the restart."""
    folder = tempfile.mkdtemp()

    @ray.remote(max_restarts=2, max_task_retries=2)
    class Retried:
        def work(self):
            tries = len(os.listdir(folder))
            open(os.path.join(folder, str(tries)), "w").close()
            if tries < 2:
                os._exit(1)
            return tries

    return ray.get(Retried.remote().work.remote(), timeout=50)


def story_kill_that_lets_it_restart():
    phoenix = Phoenix.remote()
    ray.get(phoenix.add.remote())
    ray.kill(phoenix, no_restart=False)
    deadline = time.monotonic() + 40
    while not until(lambda: ray.get(phoenix.was_restarted.remote(), timeout=30)):
        if time.monotonic() > deadline:
            return "not restarted"
        time.sleep(0.05)
    return ray.get(phoenix.add.remote(), timeout=30)


def story_kill_does_not_restart():
    phoenix = Phoenix.remote()
    ray.get(phoenix.add.remote())
    ray.kill(phoenix)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # Ray kills some time later
        if error := caught(lambda: ray.get(phoenix.add.remote()), ray.exceptions.ActorDiedError):
            return error
    return []


def story_retry_of_a_method():
    """retry_exceptions of a method, with max_task_retries."""
    folder = tempfile.mkdtemp()

    @ray.remote(max_task_retries=3)
    class Flaky:
        @ray.method(retry_exceptions=[ConnectionError])
        def work(self):
            tries = len(os.listdir(folder))
            open(os.path.join(folder, str(tries)), "w").close()
            if tries < 2:
                raise ConnectionError
            return tries

    return ray.get(Flaky.remote().work.remote(), timeout=50)


def story_retries_run_out():
    """After the last retry the error is that of a crash."""
    folder = tempfile.mkdtemp()

    @ray.remote(max_retries=1)
    def crash():
        open(os.path.join(folder, str(os.getpid())), "w").close()
        os._exit(1)

    raised = caught(
        lambda: ray.get(crash.remote()), ray.exceptions.WorkerCrashedError, ray.exceptions.RayError
    )
    return raised, len(os.listdir(folder))


def story_cancel_a_running_task():
    """cancel interrupts Python code with KeyboardInterrupt; get raises TaskCancelledError."""

    @ray.remote
    def busy(started):
        open(started, "w").close()
        deadline = time.monotonic() + 50
        while time.monotonic() < deadline:
            time.sleep(0.01)

    started = os.path.join(tempfile.mkdtemp(), "started")
    ref = busy.remote(started)
    deadline = time.monotonic() + 30
    while not os.path.exists(started) and time.monotonic() < deadline:
        time.sleep(0.05)
    ray.cancel(ref)
    return caught(
        lambda: ray.get(ref, timeout=30),
        ray.exceptions.TaskCancelledError,
        ray.exceptions.RayError,
    )


def story_cancel_a_waiting_task():
    """A task that has not started never will."""
    mark = os.path.join(tempfile.mkdtemp(), "mark")

    @ray.remote(num_cpus=2)
    def hold():
        time.sleep(50)

    @ray.remote(num_cpus=2)
    def write():
        open(mark, "w").close()

    holder = hold.remote()
    ref = write.remote()
    ray.cancel(ref)
    raised = caught(lambda: ray.get(ref, timeout=30), ray.exceptions.TaskCancelledError)
    ray.cancel(holder, force=True)
    return raised, os.path.exists(mark)


def story_cancel_by_force():
    @ray.remote(max_retries=0)
    def stubborn(started):
        open(started, "w").close()
        while True:
            try:
                time.sleep(50)
            except KeyboardInterrupt:
                pass

    started = os.path.join(tempfile.mkdtemp(), "started")
    ref = stubborn.remote(started)
    deadline = time.monotonic() + 30
    while not os.path.exists(started) and time.monotonic() < deadline:
        time.sleep(0.05)
    ray.cancel(ref, force=True)
    return caught(
        lambda: ray.get(ref, timeout=30),
        (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError),
    )


def story_cancel_what_has_ended():
    """Nothing happens: the value stays."""
    ref = ray.remote(lambda: 5).remote()
    ray.get(ref)
    ray.cancel(ref)
    return ray.get(ref)


def story_cancel_with_children():
    """recursive=True cancels the tasks that it started too."""
    folder = tempfile.mkdtemp()

    @ray.remote(num_cpus=0.5)
    def child():
        open(os.path.join(folder, "started"), "w").close()
        time.sleep(50)
        return "done"

    @ray.remote(num_cpus=0.5)
    def parent(box):
        ref = child.remote()
        ray.get(box.put.remote([ref]))
        return ray.get(ref)

    @ray.remote(num_cpus=0)
    class Box:
        def __init__(self):
            self.refs = None

        def put(self, refs):
            self.refs = refs

        def get(self):
            return self.refs

    box = Box.remote()
    ref = parent.remote(box)
    deadline = time.monotonic() + 30
    while not os.path.exists(os.path.join(folder, "started")) and time.monotonic() < deadline:
        time.sleep(0.05)
    ray.cancel(ref, recursive=True)
    (of_child,) = ray.get(box.get.remote())
    return (
        caught(lambda: ray.get(ref, timeout=30), ray.exceptions.TaskCancelledError),
        caught(lambda: ray.get(of_child, timeout=30), ray.exceptions.GetTimeoutError),
    )


def story_cancel_of_an_async_call():
    """A coroutine of an actor is cancelled; the actor lives on."""
    import asyncio

    @ray.remote
    class Patient:
        async def wait(self):
            await asyncio.sleep(50)

        async def ping(self):
            return "alive"

    patient = Patient.remote()
    ray.get(patient.ping.remote())
    ref = patient.wait.remote()
    time.sleep(0.5)
    ray.cancel(ref)
    return (
        caught(lambda: ray.get(ref, timeout=30), ray.exceptions.TaskCancelledError),
        ray.get(patient.ping.remote(), timeout=30),
    )


def story_cancel_of_a_call_by_force():
    @ray.remote
    class Plain:
        def work(self):
            return 1

    ref = Plain.remote().work.remote()
    return caught(lambda: ray.cancel(ref, force=True), ValueError)


def story_cancel_of_something_else():
    return caught(lambda: ray.cancel(1), TypeError)


def story_is_canceled():
    """A plain method asks whether its call was cancelled, and ends by itself."""

    @ray.remote
    class Asking:
        seen = False

        def work(self, started):
            open(started, "w").close()
            deadline = time.monotonic() + 40
            while time.monotonic() < deadline and not self.seen:
                self.seen = ray.get_runtime_context().is_canceled()
                time.sleep(0.02)

        def saw(self):
            return self.seen

    asking = Asking.remote()
    started = os.path.join(tempfile.mkdtemp(), "started")
    ref = asking.work.remote(started)
    deadline = time.monotonic() + 20
    while not os.path.exists(started) and time.monotonic() < deadline:
        time.sleep(0.05)
    ray.cancel(ref)
    raised = caught(lambda: ray.get(ref, timeout=50), ray.exceptions.TaskCancelledError)
    return raised, ray.get(asking.saw.remote(), timeout=50)


def story_errors_pickle():
    """Errors of tasks pickle, and travel inside values."""

    @ray.remote
    def fail():
        raise KeyError("k")

    @ray.remote
    def fetch(refs):
        try:
            ray.get(refs[0])
        except KeyError as error:
            copy = pickle.loads(pickle.dumps(error))
            return isinstance(copy, KeyError), isinstance(copy, ray.exceptions.RayTaskError)

    return ray.get(fetch.remote([fail.remote()]))


if __name__ == "__main__":
    tell(globals())
