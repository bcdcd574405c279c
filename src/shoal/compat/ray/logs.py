"""``ray.util.state.get_log`` and ``list_logs``: what workers have printed, under names of files.

Ray has a file per worker and stream; here the lines of both stand in one file as records. So the
names are made up: ``worker-<index>-<pid>.out`` means the lines of stdout of that process.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import shoal
from shoal import state
from shoal._runtime.log_records import LogLine
from shoal.compat.ray.states import RayStateApiException

_SUFFIXES = {"out": "stdout", "err": "stderr"}
_NAME = re.compile(r"worker-(\d+)-(\d+)\.(out|err)")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: int = 30,
) -> dict[str, list[str]]:
    """Names that ``get_log`` takes, in groups: ``worker_out`` and ``worker_err``.

    Only processes that have printed something have names.

    Args:
        address: Means nothing: it is the session of this program.
        node_id: The node; there is one.
        node_ip: Means nothing.
        glob_filter: Names must match it, such as ``"*.err"``.
        timeout: Means nothing.

    Raises:
        RayStateApiException: there is no such node.

    Example:
        >>> list_logs()
        {'worker_out': [], 'worker_err': []}
    """
    _check_node(node_id)
    found = {}
    for suffix in _SUFFIXES:
        names = {f"{_process(each.file)}.{suffix}" for each in state.log_files()}
        matching = fnmatch.filter(sorted(names), glob_filter or "*")
        found[f"worker_{suffix}"] = matching
    return found


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: int = 30,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str | None = "strict",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
) -> Iterator[str | bytes]:
    """Yield what was printed, line by line, each with its end.

    Also of tasks that run side by side in one actor: here each line knows its task.

    Args:
        address: Means nothing: it is the session of this program.
        node_id: The node; there is one.
        node_ip: Means nothing.
        filename: One of ``list_logs``.
        actor_id: The lines of this actor.
        task_id: The lines of this task.
        pid: The lines of this process.
        follow: Goes on with what is printed from now on, until the session ends.
        tail: Only so many lines from the end; -1: all.
        timeout: Means nothing.
        suffix: ``"out"`` or ``"err"``: the stream.
        encoding: None yields bytes.
        errors: As for ``str.encode``.
        submission_id: There is no job server: refused.
        attempt_number: Of the task, from 0.
        _interval: Means nothing.
        filter_ansi_code: Leaves out escapes that change colours and move the cursor.

    Raises:
        RayStateApiException: it is not said of what, or there is no such file or node.

    Example:
        >>> list(get_log(pid=4711))
        []
    """
    _check_node(node_id)
    wanted: dict[str, Any] = {}
    if filename is not None:
        match = _NAME.fullmatch(filename)
        known = list_logs()
        if match is None or filename not in known["worker_out"] + known["worker_err"]:
            raise RayStateApiException(
                f"there is no log {filename!r}: list_logs() has the names of those there are"
            )
        wanted = {"worker": int(match[1]), "pid": int(match[2])}
        suffix = match[3]
    elif actor_id is not None:
        wanted = {"actor": actor_id}
    elif task_id is not None:
        wanted = {"task": task_id, "attempt": attempt_number + 1}
    elif pid is not None:
        wanted = {"pid": pid}
    elif submission_id is not None:
        raise RayStateApiException("there is no job server, and so there are no submission ids")
    else:
        raise RayStateApiException("say of what: filename, actor_id, task_id or pid")
    if suffix not in _SUFFIXES:
        raise RayStateApiException(f"suffix must be 'out' or 'err', not {suffix!r}")
    wanted["stream"] = _SUFFIXES[suffix]
    read = state.follow_logs if follow else state.logs
    lines = read(tail=None if tail < 0 else tail, **wanted)
    return _texts(lines, filter_ansi_code, encoding, errors)


def _texts(
    lines: Iterable[LogLine],
    without_colours: bool,
    encoding: str | None,
    errors: str | None,
) -> Iterator[str | bytes]:
    for line in lines:
        text = _COLOURS.sub("", line.text) if without_colours else line.text
        yield text + "\n" if encoding is not None else (text + "\n").encode(errors=errors or "")


def _process(file: str) -> str:
    """``worker-3-4711`` of the name of a segment."""
    return os.path.splitext(file)[0].rpartition("-")[0]


def _check_node(node_id: str | None) -> None:
    here = shoal.get_runtime_context().get_node_id()
    if node_id is not None and node_id != here:
        raise RayStateApiException(f"there is no node {node_id}: this session has {here} only")
