"""Metrics as Prometheus reads them: text, or pages at a port of this machine.

Read straight from the files of the sessions (``_runtime/metric_files.py``): no process of a session
is disturbed. Every sample has the label ``session``, and those of a gauge ``worker_pid``, the
process that set it.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from shoal._runtime import metric_files
from shoal._runtime.metric_files import Definition, Reading

ADDRESS = "127.0.0.1"

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class _Sessions(Collector):
    def __init__(self, find: Callable[[], Sequence[str]]) -> None:
        self._find = find

    def collect(self) -> Iterable[Family]:
        """Families of all sessions."""
        return families(self._find())

    def describe(self) -> Iterable[Family]:
        """None: what there is changes, and registering must not read it."""
        return []


def families(sockets: Sequence[str]) -> list[Family]:
    """One family per name, over the sessions that have these sockets."""
    found: dict[str, tuple[Definition, Family]] = {}
    for socket in sockets:
        directory = os.path.dirname(socket)
        session = os.path.basename(directory).removeprefix("session-")
        for row in metric_files.read(directory):
            what = row.definition
            if what.name not in found:
                found[what.name] = what, _family(what)
            first, family = found[what.name]
            if first.is_like(what):
                _add(family, row, session)
            else:
                print(
                    f"shoal: {what.name!r} is a {first.kind} in one process and something else in"
                    " another: only the first is shown",
                    file=sys.stderr,
                )
    return [family for _, family in found.values()]


def _family(what: Definition) -> Family:
    labels: list[str] = []
    for key in what.tag_keys:
        label = _label(key)
        while label in labels:  # two keys that differ in what Prometheus does not allow
            label += "_"
        labels.append(label)
    labels.append("session")
    # Its own checks of names are ours already.
    if what.kind == "counter":
        return CounterMetricFamily(what.name, what.description, labels=labels)
    if what.kind == "gauge":
        return GaugeMetricFamily(what.name, what.description, labels=[*labels, "worker_pid"])
    return HistogramMetricFamily(what.name, what.description, labels=labels)


def _label(key: str) -> str:
    """A tag's key as a label: what Prometheus does not allow becomes ``_``."""
    label = re.sub(r"\W|^(?=\d)", "_", key, flags=re.ASCII)
    is_taken = label in ("session", "worker_pid", "le") or label.startswith("__")
    return f"exported_{label}" if is_taken else label


def _add(family: Family, row: Reading, session: str) -> None:
    values = [*row.values, session]
    if isinstance(family, HistogramMetricFamily):
        counts = itertools.accumulate(row.cells[:-1])
        bounds = [*(repr(bound) for bound in row.definition.boundaries), "+Inf"]
        family.add_metric(values, list(zip(bounds, counts)), row.cells[-1])
    elif isinstance(family, GaugeMetricFamily):
        family.add_metric([*values, str(row.pid)], row.cells[0])
    else:
        family.add_metric(values, row.cells[0])


def text(sockets: Sequence[str]) -> str:
    """What Prometheus would read now."""
    registry = CollectorRegistry()
    registry.register(_Sessions(lambda: sockets))
    return exposition.generate_latest(registry).decode()


def serve(find: Callable[[], Sequence[str]], port: int) -> None:
    """Answer at ``port`` of this machine until Ctrl-C or SIGTERM.

    Raises:
        OSError: the port is taken.
    """
    stop = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # before the threads, which inherit it
    registry = CollectorRegistry()
    registry.register(_Sessions(find))
    server, thread = exposition.start_http_server(port, ADDRESS, registry)
    print(f"Metrics are at http://{ADDRESS}:{server.server_port}/metrics", flush=True)
    signal.sigwait(stop)
    server.shutdown()
    thread.join()
    server.server_close()
