"""Tasks: remote functions, their arguments, results, errors and options."""

import os
import tempfile
import time

import numpy as np
import ray
from telling import caught, tell


@ray.remote
def square(x):
    return x * x


@ray.remote
def add(x, y=10):
    return x + y


@ray.remote
def fail(text="no"):
    raise KeyError(text)


def story_many_tasks():
    """Calls return at once and run in parallel; get gives values in the order of the list."""
    return ray.get([square.remote(i) for i in range(20)])


def story_refs_as_arguments():
    """A ref that is an argument arrives as its value; one inside a list stays a ref."""

    @ray.remote
    def kinds(direct, nested, *, named):
        return isinstance(direct, int), isinstance(nested[0], ray.ObjectRef), ray.get(nested), named

    one, two, three = (ray.put(i) for i in (1, 2, 3))
    return ray.get(kinds.remote(one, [two], named=three))


def story_chain():
    """Tasks that depend on tasks are submitted before anything has run."""
    ref = square.remote(2)
    for _ in range(3):
        ref = add.remote(ref, y=1)
    return ray.get(ref)


def story_nested_tasks():
    """A task starts tasks and gets their results."""

    @ray.remote
    def outer(n):
        return sum(ray.get([square.remote(i) for i in range(n)]))

    return ray.get(outer.remote(5))


def story_nested_refs_returned():
    """A task returns refs of tasks it started; who holds them gets the values."""

    @ray.remote
    def outer():
        return [square.remote(3), square.remote(4)]

    refs = ray.get(outer.remote())
    return [isinstance(ref, ray.ObjectRef) for ref in refs], ray.get(refs)


def story_several_returns():
    """num_returns splits the result into as many refs."""

    @ray.remote(num_returns=3)
    def three():
        return 1, "two", [3]

    a, b, c = three.remote()
    return ray.get([c, a, b])


def story_no_return():
    """num_returns=0 gives None instead of a ref."""

    @ray.remote(num_returns=0)
    def nothing():
        return None

    return nothing.remote() is None


def story_wrong_number_of_returns():
    """A result of another length is an error at get."""

    @ray.remote(num_returns=2)
    def three():
        return 1, 2, 3

    a, b = three.remote()
    return caught(lambda: ray.get(a), ValueError), caught(lambda: ray.get(b), ValueError)


def story_keyword_arguments():
    return ray.get([add.remote(1), add.remote(1, 2), add.remote(y=5, x=4)])


def story_wrong_arguments():
    """A call that does not fit the signature fails where it is made."""
    return caught(lambda: add.remote(), TypeError), caught(lambda: add.remote(1, 2, 3), TypeError)


def story_calling_directly():
    """A remote function is not called like a function."""
    return caught(lambda: square(3), TypeError)


def story_error_is_of_its_class():
    """What a task raised is raised at get, as its class and as RayTaskError, with the cause."""
    ref = fail.remote("why")
    try:
        ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        return (
            isinstance(error, KeyError),
            isinstance(error, ray.exceptions.RayError),
            type(error.cause).__name__,
            error.cause.args,
        )
    return None


def story_error_of_users_class():
    class Odd(Exception):
        def __init__(self, code):
            super().__init__(f"code {code}")
            self.code = code

    @ray.remote
    def odd():
        raise Odd(7)

    try:
        ray.get(odd.remote())
    except Odd as error:
        return error.cause.code, str(error.cause)
    return None


def story_error_of_an_argument():
    """A task whose argument failed fails with the same error, without running."""
    ref = add.remote(fail.remote())
    return caught(lambda: ray.get(ref), KeyError, ray.exceptions.RayTaskError)


def story_error_in_nested_task():
    @ray.remote
    def outer():
        return ray.get(fail.remote())

    return caught(lambda: ray.get(outer.remote()), KeyError, ray.exceptions.RayTaskError)


def story_caught_in_the_task():
    """A task catches the error of a task it started."""

    @ray.remote
    def outer():
        try:
            ray.get(fail.remote())
        except KeyError:
            return "caught"

    return ray.get(outer.remote())


def story_get_timeout():
    @ray.remote
    def slow():
        time.sleep(30)

    ref = slow.remote()
    try:
        return caught(
            lambda: ray.get(ref, timeout=0.1), ray.exceptions.GetTimeoutError, TimeoutError
        )
    finally:
        ray.cancel(ref, force=True)


def story_more_than_there_is():
    """A task that asks for more than the cluster has waits."""
    ref = square.options(num_cpus=64).remote(2)
    return caught(lambda: ray.get(ref, timeout=3), ray.exceptions.GetTimeoutError)


def story_get_with_timeout_zero():
    """timeout=0 looks: it gives what is there."""
    ref = ray.put(1)
    return ray.get(ref, timeout=0)


def story_get_of_something_else():
    return (
        caught(lambda: ray.get(1), ValueError),
        caught(lambda: ray.get([1]), TypeError),
        caught(lambda: ray.get([]), Exception),
    )


def story_wait():
    """wait gives at most num_returns that are ready, and the others."""
    refs = [ray.put(i) for i in range(4)]
    ready, rest = ray.wait(refs, num_returns=2)
    return len(ready), len(rest), sorted(ray.get(ready + rest))


def story_wait_for_the_first():
    @ray.remote
    def sleep(seconds):
        time.sleep(seconds)
        return seconds

    slow, quick = sleep.remote(20), sleep.remote(0)
    ready, rest = ray.wait([slow, quick], num_returns=1, timeout=15)
    ray.cancel(slow, force=True)
    return ready == [quick], rest == [slow]


def story_wait_timeout():
    @ray.remote
    def slow():
        time.sleep(30)

    ref = slow.remote()
    ready, rest = ray.wait([ref], timeout=0.1)
    ray.cancel(ref, force=True)
    return len(ready), len(rest)


def story_wait_of_wrong_things():
    ref = ray.put(1)
    return (
        caught(lambda: ray.wait(ref), TypeError),
        caught(lambda: ray.wait([1]), TypeError),
        caught(lambda: ray.wait([ref, ref]), ValueError),
        caught(lambda: ray.wait([ref], num_returns=2), ValueError),
        caught(lambda: ray.wait([ref], num_returns=0), ValueError),
        ray.wait([]),
    )


def story_retry_after_a_crash():
    """A task whose process dies is tried again, max_retries times."""
    folder = tempfile.mkdtemp()

    @ray.remote(max_retries=2)
    def crash_until(n):
        tries = len(os.listdir(folder))
        open(os.path.join(folder, str(tries)), "w").close()
        if tries < n:
            os._exit(1)
        return tries

    return ray.get(crash_until.remote(2))


def story_no_retry():
    @ray.remote(max_retries=0)
    def crash():
        os._exit(1)

    return caught(lambda: ray.get(crash.remote()), ray.exceptions.WorkerCrashedError)


def story_retry_after_exceptions():
    """retry_exceptions names the classes after which it is tried again."""
    folder = tempfile.mkdtemp()

    def attempt():
        tries = len(os.listdir(folder))
        open(os.path.join(folder, str(tries)), "w").close()
        return tries

    @ray.remote(max_retries=3, retry_exceptions=[ConnectionError])
    def flaky(kind):
        tries = attempt()
        if tries < 2:
            raise kind("again")
        return tries

    first = ray.get(flaky.remote(ConnectionError))
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    return first, caught(lambda: ray.get(flaky.remote(KeyError)), KeyError), len(os.listdir(folder))


def story_options():
    """options() gives the same function with other options; the original keeps its own."""

    @ray.remote(num_cpus=1, max_retries=0)
    def resources():
        return ray.get_runtime_context().get_assigned_resources().get("CPU")

    return ray.get([resources.remote(), resources.options(num_cpus=0.5).remote()])


def story_remote_of_something_remote():
    return caught(lambda: ray.remote(square), TypeError)


def story_wrong_options():
    def plain():
        pass

    return (
        caught(lambda: ray.remote(num_cpu=1)(plain), ValueError),
        caught(lambda: ray.remote(num_cpus=-1)(plain), ValueError),
        caught(lambda: ray.remote(max_retries=-2)(plain), ValueError),
        caught(lambda: square.options(nonsense=1), ValueError),
        caught(lambda: square.options(max_calls=1), ValueError),
    )


def story_globals_and_closures():
    """What a function captures travels with it as it was when it was first sent."""
    factor = 3

    @ray.remote
    def times(x):
        return x * factor

    first = ray.get(times.remote(2))
    factor = 5
    return first, ray.get(times.remote(2))


def story_recursion():
    @ray.remote
    def fibonacci(n):
        if n < 2:
            return n
        return sum(ray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))

    return ray.get(fibonacci.remote(6))


def story_lambda():
    return ray.get(ray.remote(lambda x: x + 1).remote(1))


def story_private_remote():
    """``_remote`` takes the arguments as a list and the options by name."""
    return ray.get(add._remote(args=[1], kwargs={"y": 2}, num_cpus=0.5))


def story_arrays_are_read_only():
    """An array that arrives is shared memory: it cannot be written."""

    @ray.remote
    def write(array):
        array[0] = 1

    ref = ray.put(np.zeros(200_000))
    return caught(lambda: ray.get(write.remote(ref)), ValueError), ray.get(ref).flags.writeable


def story_max_calls():
    """After max_calls of them a worker process ends."""

    @ray.remote(max_calls=1)
    def pid():
        return os.getpid()

    return len({ray.get(pid.remote()) for _ in range(3)})


def story_generator_functions_stream():
    """A generator function gives an iterator of refs."""

    @ray.remote
    def count():
        for i in range(3):
            yield i

    return [ray.get(ref) for ref in count.remote()]


if __name__ == "__main__":
    tell(globals())
