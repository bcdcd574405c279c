"""multiprocessing.Pool, joblib and Dask on top of tasks and actors."""

import time

import dask
import dask.array
import joblib
import ray
from ray.util.dask import disable_dask_on_ray, enable_dask_on_ray, ray_dask_get
from ray.util.joblib import register_ray
from ray.util.multiprocessing import Pool, TimeoutError
from telling import caught, tell


def square(x):
    return x * x


def add(x, y):
    return x + y


def fail(x):
    if x == 3:
        raise KeyError(x)
    return x


def wait_and_return(seconds):
    time.sleep(seconds)
    return seconds


def story_map():
    with Pool(processes=2) as pool:
        return (
            pool.map(square, range(10)),
            pool.map(square, range(10), chunksize=3),
            pool.map(square, []),
            pool.starmap(add, [(1, 2), (3, 4)]),
            list(pool.imap(square, range(5))),
            sorted(pool.imap_unordered(square, range(5), chunksize=2)),
        )


def story_apply():
    with Pool(2) as pool:
        later = pool.apply_async(add, (1,), {"y": 5})
        value = later.get(timeout=30)
        return pool.apply(add, (1, 2)), value, later.ready(), later.successful()


def story_async():
    with Pool(2) as pool:
        squares = pool.map_async(square, range(4))
        sums = pool.starmap_async(add, [(1, 2), (3, 4)])
        squares.wait(30)
        return squares.get(), sums.get(30)


def story_timeout():
    with Pool(1) as pool:
        later = pool.apply_async(wait_and_return, (1,))
        return (
            caught(lambda: later.get(timeout=0.1), TimeoutError),
            later.ready(),
            caught(later.successful, ValueError, AssertionError),
            later.get(30),
        )


def story_errors():
    with Pool(2) as pool:
        later = pool.map_async(fail, range(5))
        later.wait(30)
        return (
            caught(lambda: pool.map(fail, range(5)), KeyError),
            caught(lambda: pool.apply(fail, (3,)), KeyError),
            caught(lambda: list(pool.imap(fail, range(5))), KeyError),
            later.successful(),
            pool.map(fail, [1, 2]),
        )


def story_callbacks():
    good, bad = [], []
    with Pool(2) as pool:
        first = pool.apply_async(square, (3,), callback=good.append, error_callback=bad.append)
        second = pool.apply_async(fail, (3,), callback=good.append, error_callback=bad.append)
        third = pool.map_async(square, [1, 2], callback=good.append)
        for each in (first, second, third):
            each.wait(30)
        deadline = time.monotonic() + 20
        while len(good) + len(bad) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    return sorted(map(str, good)), [isinstance(error, KeyError) for error in bad]


def story_initializer():
    def prepare(value):
        import builtins

        builtins.prepared = value

    def ask(_):
        import builtins

        return builtins.prepared

    with Pool(2, initializer=prepare, initargs=("ready",)) as pool:
        return pool.map(ask, range(3))


def story_closed():
    pool = Pool(1)
    pending = pool.map_async(square, [1, 2])
    pool.close()
    refused = caught(lambda: pool.map(square, [1]), ValueError)
    pool.join()
    return refused, pending.get(5)


def story_join_without_close():
    pool = Pool(1)
    refused = caught(pool.join, ValueError)
    pool.terminate()
    return refused


def story_in_a_task():
    @ray.remote(num_cpus=0)
    def work():
        with Pool(1) as pool:
            return pool.map(square, range(3))

    return ray.get(work.remote())


def story_joblib():
    register_ray()
    with joblib.parallel_backend("ray"):
        return joblib.Parallel(n_jobs=2)(joblib.delayed(square)(i) for i in range(5))


def story_joblib_error():
    register_ray()
    with joblib.parallel_backend("ray", n_jobs=2):
        return caught(
            lambda: joblib.Parallel()(joblib.delayed(fail)(i) for i in range(5)), KeyError
        )


def story_dask():
    total = dask.delayed(sum)([dask.delayed(square)(i) for i in range(4)])
    array = dask.array.arange(100, chunks=10)
    return total.compute(scheduler=ray_dask_get), int(array.sum().compute(scheduler=ray_dask_get))


def story_dask_enabled():
    array = dask.array.ones((20, 20), chunks=(10, 10))
    with enable_dask_on_ray():
        inside = float(array.sum().compute())
    enable_dask_on_ray()
    after = float((array + 1).sum().compute())
    disable_dask_on_ray()
    return inside, after, float(array.mean().compute())


def story_dask_error():
    @dask.delayed
    def bad():
        raise KeyError("bad")

    return caught(lambda: bad().compute(scheduler=ray_dask_get), KeyError)


if __name__ == "__main__":
    tell(globals())
