"""A backend for joblib: scikit-learn, and whatever else uses ``joblib.Parallel``, on Shoal.

::

    from shoal.util.joblib import register_shoal

    register_shoal()
    with joblib.parallel_backend("shoal"):
        search.fit(X, y)

Calls run on the processes of one ``PoolExecutor``, which is kept for the next ``Parallel`` as
joblib's own backend keeps its. Arrays of ``LARGE_BYTES`` and more are put into the store once per
``Parallel`` call, wherever in the arguments they stand, and every process reads them in place
(read-only, as the memory maps of joblib's own backend are).

Inside a process, nested ``Parallel`` calls run in threads, and below those one after the other;
``parallel_backend("shoal")`` there gives processes.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import threading
from collections import ChainMap
from concurrent.futures import Future
from typing import Any

import cloudpickle
from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)
from joblib.parallel import register_parallel_backend

import shoal
from shoal import lowlevel
from shoal._base import environment
from shoal.util.executor import PoolExecutor

LARGE_BYTES = 100_000
"""Arrays of at least this size are put into the store once instead of travelling with each call."""

NAME = "shoal"


def register_shoal(name: str = NAME) -> None:
    """Make ``joblib.parallel_backend("shoal")`` known.

    Args:
        name: Another name for it.

    Example:
        >>> import joblib
        >>> from shoal.util.joblib import register_shoal
        >>> register_shoal()
        >>> with joblib.parallel_backend("shoal", n_jobs=2):
        ...     joblib.Parallel()(joblib.delayed(abs)(x) for x in [-1, 2])
        [1, 2]
    """
    register_parallel_backend(name, ShoalBackend)


class LargeArrays:
    """The arrays of one ``Parallel`` call that are in the store."""

    def __init__(self) -> None:
        self._refs: dict[Any, tuple[Any, Any]] = {}
        """By what makes two arrays the same memory; with the array, so that it stays so."""

    def ref(self, array: Any) -> Any:
        """The ref of ``array``, which is put if it was not."""
        where = array.__array_interface__
        key = (where["data"][0], where["typestr"], array.shape, array.strides)
        found = self._refs.get(key)
        if found is None:
            found = self._refs[key] = (array, shoal.put(array))
        return found[1]


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles a call; large arrays become refs beside the pickle."""

    def __init__(self, stream: io.BytesIO, arrays: LargeArrays) -> None:
        self.refs: list[Any] = []
        numpy = sys.modules.get("numpy")
        if numpy is not None:  # a method that is asked about every object costs more than pickling
            # No method of this: a cycle would keep the arrays.
            reduce = functools.partial(_reduce_array, arrays, self.refs)
            own = {numpy.ndarray: reduce}
            self.dispatch_table = ChainMap(own, cloudpickle.Pickler.dispatch_table)
        super().__init__(stream, 5)  # reads the table


def _reduce_array(arrays: LargeArrays, refs: list[Any], array: Any) -> Any:
    if array.nbytes < LARGE_BYTES or array.dtype.hasobject:
        return array.__reduce_ex__(5)
    refs.append(arrays.ref(array))
    return _large_array, (len(refs) - 1,)


_loading = threading.local()


def _large_array(place: int) -> Any:
    """In a process: the array that is so many-th among the refs of what is loaded."""
    return shoal.get(_loading.refs[place])


def _call(data: bytes, refs: list[Any]) -> Any:
    """In a process: run what was packed."""
    _loading.refs = refs
    try:
        call = pickle.loads(data)
    finally:
        _loading.refs = None
    refs.clear()  # the arrays go with the call, before its results are there
    return call()


def _prepare(threads: dict[str, str]) -> None:
    """In a process, once: libraries that are loaded later make so many threads."""
    environment.change(threads)
    register_shoal()


class ShoalBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """What joblib calls; ``joblib.parallel_backend("shoal", remote_args={...})`` gives options."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **kw: Any
    ) -> None:
        self._remote_args = kw.pop("remote_args", None) or kw.pop("ray_remote_args", None)
        super().__init__(
            nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **kw
        )
        self._executor: PoolExecutor | None = None
        self._arrays = LargeArrays()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many processes ``n_jobs`` means: -1 all CPUs of the session, -2 all but one, ..."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            cpus = int(shoal.cluster_resources().get("CPU", 1))
            return max(cpus + 1 + n_jobs, 1)
        return int(n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Any = None,
        require: Any = None,
        **kw: Any,
    ) -> int:
        """Get ready for a ``Parallel`` call; the number of its processes."""
        size = self.effective_n_jobs(n_jobs)
        if size == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        # A process has one thread for each CPU that it holds, and at least one, unless told so.
        told = self.inner_max_num_threads is not None
        threads = self._prepare_worker_env(size) if told else {}
        self._executor = _executor(size, threads, self._remote_args)
        return size

    def submit(self, func: Any, callback: Any = None) -> Future[Any]:
        """Run one batch of calls."""
        assert self._executor is not None
        stream = io.BytesIO()
        packer = _Packer(stream, self._arrays)
        packer.dump(func)
        future = self._executor.submit(_call, stream.getvalue(), packer.refs)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch."""
        return out.result()

    def stop_call(self) -> None:
        """A ``Parallel`` call is over: what it has put goes."""
        self._arrays = LargeArrays()

    def terminate(self) -> None:
        """The processes stay, for the next one."""
        self._executor = None
        self._arrays = LargeArrays()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """One call has raised: end what runs and what waits."""
        if self._executor is not None:
            _forget(self._executor)
            self._executor = None
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def __reduce__(self) -> Any:
        """Nested backends travel with calls; processes and arrays do not."""
        return _restore, (self.nesting_level, self.inner_max_num_threads, self._remote_args)


def _restore(level: int | None, threads: int | None, remote_args: Any) -> ShoalBackend:
    return ShoalBackend(level, threads, remote_args=remote_args)


class _Kept:
    """The executor of the last ``Parallel`` call, for the next one that is like it."""

    executor: PoolExecutor | None = None
    like: Any = None


def _executor(size: int, threads: dict[str, str], remote_args: Any) -> PoolExecutor:
    like = (lowlevel.memory(), size, threads, remote_args)
    if _Kept.executor is None or _Kept.like != like or _Kept.executor.is_broken:
        if _Kept.executor is not None:
            _Kept.executor.shutdown(wait=False)
        _Kept.executor = PoolExecutor(
            size, initializer=_prepare, initargs=(threads,), remote_args=remote_args
        )
        _Kept.like = like
    return _Kept.executor


def _forget(executor: PoolExecutor) -> None:
    executor.kill_workers()
    if _Kept.executor is executor:
        _Kept.executor = _Kept.like = None
