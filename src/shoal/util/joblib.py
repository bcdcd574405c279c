"""A backend for joblib: scikit-learn, and whatever else uses ``joblib.Parallel``, on Shoal.

::

    from shoal.util.joblib import register_shoal

    register_shoal()
    with joblib.parallel_backend("shoal"):
        search.fit(X, y)

Calls run on the processes of one ``PoolExecutor``, which is kept for the next ``Parallel`` as
joblib's own backend keeps its. Arrays of ``LARGE_BYTES`` and more are put into the store once per
``Parallel`` call, wherever in the arguments they stand, and every process reads them in place
(read-only from ``max_nbytes`` on, as the memory maps of joblib's own backend are; smaller ones, and
all with ``mmap_mode="c"``, are copies that a call may write to, copied page by page). A
``numpy.memmap`` stays one: who writes to it writes to the file.
Refs among the arguments are counted like those of any call.

A ``Parallel`` call, or a ``with Parallel(...)``, has its processes to itself: another one that
runs beside it, in a thread or as a generator, neither ends nor narrows them.

Inside a process, nested ``Parallel`` calls run in threads, and below those one after the other;
``parallel_backend("shoal")`` there gives processes.
"""

from __future__ import annotations

import functools
import importlib
import io
import math
import mmap
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

    def __init__(self, writable_below: float = 0) -> None:
        self.writable_below = writable_below
        """Arrays of fewer bytes are a copy of each call, which may write to it."""
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
    """Pickles a call; large arrays become refs beside the pickle, as refs do."""

    def __init__(self, stream: io.BytesIO, arrays: LargeArrays) -> None:
        self.refs: list[Any] = []
        # A method that is asked about every object costs more than pickling. No method of this: a
        # cycle would keep the arrays.
        own: dict[type, Any] = {shoal.ObjectRef: functools.partial(_reduce_ref, self.refs)}
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            own[numpy.ndarray] = functools.partial(_reduce_array, arrays, self.refs)
            own[numpy.memmap] = functools.partial(_reduce_map, own[numpy.ndarray])
        self.dispatch_table = ChainMap(own, cloudpickle.Pickler.dispatch_table)
        super().__init__(stream, 5)  # reads the table


def _reduce_ref(refs: list[Any], ref: Any) -> Any:
    refs.append(ref)
    return _ref, (len(refs) - 1,)


def _reduce_array(arrays: LargeArrays, refs: list[Any], array: Any) -> Any:
    mapped = None if array.base is None else _mapped(array)
    if mapped is not None:
        return _reduce_mapped(array, mapped)
    if array.nbytes < LARGE_BYTES or array.dtype.hasobject:
        return array.__reduce_ex__(5)
    refs.append(arrays.ref(array))
    return _large_array, (len(refs) - 1, array.nbytes < arrays.writable_below)


def _reduce_map(reduce: Any, array: Any) -> Any:
    """What NumPy computes of a mapped file is one only in name."""
    mapped = _mapped(array)
    if mapped is not None:
        return _reduce_mapped(array, mapped)
    return reduce(array.view(sys.modules["numpy"].ndarray))


def _mapped(array: Any) -> Any:
    """The ``numpy.memmap`` that ``array`` is a view of, if what it shows stands in a file."""
    if array.size == 0 or array.dtype.hasobject:
        return None
    while array is not None:
        base = getattr(array, "base", None)
        if type(base) is mmap.mmap:  # mode "c" may show what no file has
            is_file = getattr(array, "filename", None) and getattr(array, "mode", "c") != "c"
            return array if is_file else None
        array = base
    return None


def _reduce_mapped(array: Any, mapped: Any) -> Any:
    low, high = sys.modules["numpy"].lib.array_utils.byte_bounds(array)
    first = array.__array_interface__["data"][0] - low
    begin = mapped.offset + low - mapped.__array_interface__["data"][0]
    where = (str(mapped.filename), "r" if mapped.mode == "r" else "r+", begin, high - low)
    return _map_file, (type(array), where, first, array.dtype, array.shape, array.strides)


def _map_file(
    cls: Any, where: tuple[str, Any, int, int], first: int, dtype: Any, shape: Any, strides: Any
) -> Any:
    """In a process: the same view of the same file."""
    numpy = importlib.import_module("numpy")
    name, mode, begin, nbytes = where
    whole = numpy.memmap(name, "u1", mode, begin, nbytes)
    return numpy.ndarray.__new__(cls, shape, dtype, whole, first, strides)


_loading = threading.local()


def _ref(place: int) -> Any:
    """In a process: the ref that is so many-th among those of what is loaded."""
    return _loading.refs[place]


def _large_array(place: int, is_writable: bool) -> Any:
    """In a process: the array that is so many-th among the refs of what is loaded."""
    array = shoal.get(_loading.refs[place])
    return lowlevel.writable(array) if is_writable else array


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
        self._like: Any = None
        self._writable_below: float = 0
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
        self._release()
        self._like = (lowlevel.memory(), size, threads, self._remote_args)
        self._executor = _take(self._like)
        self._writable_below = _writable_below(**kw)
        self._arrays = LargeArrays(self._writable_below)
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
        self._arrays = LargeArrays(self._writable_below)

    def terminate(self) -> None:
        """The processes stay, for the next one."""
        self._release()
        self._arrays = LargeArrays(self._writable_below)
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """One call has raised: end what runs and what waits."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.kill_workers()
        if ensure_ready:
            self.configure(
                n_jobs=self.parallel.n_jobs,
                parallel=self.parallel,
                max_nbytes=self._writable_below,
            )

    def _release(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            _keep(executor, self._like)

    def __reduce__(self) -> Any:
        """Nested backends travel with calls; processes and arrays do not."""
        return _restore, (self.nesting_level, self.inner_max_num_threads, self._remote_args)


def _writable_below(
    mmap_mode: str | None = "r", max_nbytes: float | None = 1 << 20, **_: Any
) -> float:
    """Below how many bytes calls may write to large arrays: to copies, nobody else sees it."""
    if mmap_mode not in (None, "r", "c"):
        raise ValueError(
            f"mmap_mode={mmap_mode!r}: calls do not write to each other's arrays here. Pass a"
            " numpy.memmap of a file, which stays one, or mmap_mode='c' for a copy in each call"
        )
    return math.inf if mmap_mode != "r" or max_nbytes is None else max_nbytes


def _restore(level: int | None, threads: int | None, remote_args: Any) -> ShoalBackend:
    return ShoalBackend(level, threads, remote_args=remote_args)


class _Kept:
    """The executor of the last ``Parallel`` call, for the next one that is like it."""

    lock = threading.Lock()
    executor: PoolExecutor | None = None
    like: Any = None


def _take(like: Any) -> PoolExecutor:
    """An executor for one user: the kept one, if it is like that and nobody has it."""
    with _Kept.lock:
        executor, kept_like = _Kept.executor, _Kept.like
        _Kept.executor = _Kept.like = None
    if executor is not None:
        if kept_like == like and not executor.is_broken:
            return executor
        executor.shutdown(wait=False)
    _, size, threads, remote_args = like
    return PoolExecutor(size, initializer=_prepare, initargs=(threads,), remote_args=remote_args)


def _keep(executor: PoolExecutor, like: Any) -> None:
    """Its user has gone: it is the kept one now."""
    with _Kept.lock:
        former, _Kept.executor = _Kept.executor, executor
        _Kept.like = like
    if former is not None:
        former.shutdown(wait=False)
