"""Whose memory counts as a worker's, where there are no cgroups to say so."""

from __future__ import annotations

import os
import subprocess
import threading

from shoal._runtime import daemon_process_memory


def test_what_any_thread_has_started_is_the_process_s_own() -> None:
    found: list[subprocess.Popen[bytes]] = []
    is_started, may_end = threading.Event(), threading.Event()

    def start() -> None:
        found.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
        is_started.set()
        may_end.wait(60)

    thread = threading.Thread(target=start)
    thread.start()
    assert is_started.wait(60)
    (child,) = found
    assert child.pid in daemon_process_memory.children_of(os.getpid())
    may_end.set()
    thread.join()
    child.communicate()
    assert child.pid not in daemon_process_memory.children_of(os.getpid())
    assert daemon_process_memory.children_of(child.pid) == [], "it is gone"
