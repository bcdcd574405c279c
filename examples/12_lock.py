"""`lock`: read-modify-write of something outside Shoal loses no update, even if a holder is killed.

The shared thing here is a number in a file. A killed holder gives the lock back by its
death; its own update is lost with it, nobody else's.
"""

import os
import signal
import tempfile
from pathlib import Path

import shoal

TASKS = 40
shoal.init(num_cpus=4)


@shoal.remote
def increment(path: str) -> None:
    with shoal.lock("number"):
        value = int(Path(path).read_text())
        Path(path).write_text(str(value + 1))


@shoal.remote(max_retries=0)
def die_while_holding() -> None:
    with shoal.lock("number"):
        os.kill(os.getpid(), signal.SIGKILL)


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "number"
    path.write_text("0")
    refs = [increment.remote(str(path)) for _ in range(TASKS // 2)]
    victim = die_while_holding.remote()
    refs += [increment.remote(str(path)) for _ in range(TASKS // 2)]
    shoal.get(refs, timeout=60)
    try:
        shoal.get(victim, timeout=60)
    except shoal.errors.WorkerCrashedError as error:
        print(f"as intended: {type(error).__name__}")
    else:
        raise AssertionError("the holder should have been killed")
    total = int(path.read_text())

print(total)
assert total == TASKS
