"""The first of several attempts wins; the others are cancelled. A deadline ends what takes long."""

import time

import shoal


@shoal.remote(num_cpus=0.1)
def search(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


refs = [search.remote(seconds) for seconds in (60, 0.01, 60)]
(first,), others = shoal.wait(refs)
for ref in others:
    shoal.cancel(ref)
print(shoal.get(first))
assert shoal.get(first) == 0.01

try:
    shoal.get(search.options(timeout_s=0.2).remote(60))
except shoal.errors.DeadlineExceededError as error:
    print(sorted(error.stages_s))
    assert error.stage == "running"
