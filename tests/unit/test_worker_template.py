"""What the zygote makes for all workers, and that a rehearsal leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

PREAMBLE = """
import os, signal, sys, threading
from shoal._runtime import context, session
from shoal._runtime.worker_template import Template

def seen():
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "variables": dict(os.environ),
        "paths": list(sys.path),
        "streams": (id(sys.stdout), id(sys.__stdout__), id(sys.stderr), id(sys.__stderr__)),
        "main": id(sys.modules["__main__"]),
        "threads": threading.active_count(),
        "facts": dict(vars(context.process)),
        "session": session.current_or_none(),
        "directory": os.getcwd(),
    }
"""


def run(program: str, **variables: str) -> str:
    """Run ``program`` in a process of its own: it plays the zygote."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(program)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_rehearsal_leaves_nothing() -> None:
    out = run(
        """
        template = Template()
        before = seen()
        template.rehearse()
        after = seen()
        for name in before:
            if before[name] != after[name]:
                print(name, before[name], after[name])
        """
    )
    assert out == ""


def test_variables_that_all_workers_share_are_set_once_and_not_for_exec_d_ones() -> None:
    out = run(
        """
        from shoal._proto import forking, messages
        template = Template()
        welcome = messages.Welcome("s", "/nowhere", b"", -1, 0, "", {})
        template.prepare(forking.Setup("/nowhere/node.sock", welcome), (-1, -1))
        print(os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"])
        print(os.environ["SHOAL_SOCKET"], repr(os.environ["CUDA_VISIBLE_DEVICES"]))
        print("OMP_NUM_THREADS" in template.variables, template.variables["MKL_NUM_THREADS"])
        print("OMP_NUM_THREADS" in template.prepared.variables)
        print("MKL_NUM_THREADS" in template.prepared.variables)
        """,
        MKL_NUM_THREADS="7",
    )
    assert out.splitlines() == ["1 7", "/nowhere/node.sock ''", "False 7", "True", "False"]


def test_a_forked_worker_has_what_it_was_given_and_nothing_else() -> None:
    out = run(
        """
        import threading
        from shoal._native import fork_worker
        (read, write), (kept, _) = os.pipe(), os.pipe()

        def is_open(fd):
            try:
                os.fstat(fd)
            except OSError:
                return False
            return True

        pid = fork_worker((write, write), [kept], "shoal-worker-1", 300)
        if pid == 0:
            os.write(1, b"one\\n")
            os.write(2, b"two\\n")
            descriptors = [fd for fd in range(64) if is_open(fd)]
            with open("/proc/self/comm") as comm, open("/proc/self/oom_score_adj") as score:
                facts = comm.read().strip(), score.read().strip(), os.getsid(0) == os.getpid()
            threading.main_thread()._set_native_id()
            native = threading.main_thread().native_id == os.getpid()
            os.write(1, repr((facts, native, descriptors == [0, 1, 2, kept])).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        print(os.read(read, 1000).decode())
        """
    )
    *lines, facts = out.strip().splitlines()
    assert lines == ["one", "two"]
    assert facts == "(('shoal-worker-1', '300', True), True, True)"


def test_a_fork_that_is_refused_says_why() -> None:
    out = run(
        """
        import resource
        from shoal._native import fork_worker
        if os.getuid() == 0:
            os.setuid(65534)  # limits do not hold for root
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            if fork_worker((1, 2), [], "shoal-worker-1", 300) == 0:
                os._exit(0)
        except OSError as error:
            print(error.strerror)
        """
    )
    assert out.strip() == os.strerror(11)
