"""A pipeline in which only some stages use GPUs: the others go on while those wait for theirs.

    prepare (1 CPU)  ->  detect (1 GPU)  ->  summarise (half a GPU)  ->  store (1 CPU)

The two GPUs are declared, so this runs on any machine: Shoal keeps their accounts and tells each
task which ones it has, and the stages wait here where they would compute there. All calls are
submitted at once; the picture shows who ran when, and on what.
"""

import os
import time

import numpy as np
from rich.console import Console
from rich.table import Table

import shoal

ITEMS = 8
COLUMNS = 44
STAGES = ("prepare", "detect", "summarise", "store")
shoal.init(num_cpus=2, num_gpus=2)


def ran(stage: str, item: int, begun: float) -> dict:
    """One line of the log that travels with each item."""
    where = ",".join(f"gpu {i}" for i in shoal.get_gpu_ids()) or "cpu"
    return {
        "stage": stage,
        "item": item,
        "where": where,
        "pid": os.getpid(),
        "from": begun,
        "to": time.monotonic(),
    }


@shoal.remote(num_cpus=1)
def prepare(item: int) -> tuple[np.ndarray, list]:
    begun = time.monotonic()
    image = np.random.default_rng(item).random((200, 200))
    for _ in range(20):  # smooth it
        image = (image + np.roll(image, 1, 0) + np.roll(image, 1, 1)) / 3
    time.sleep(0.02)
    return image, [ran("prepare", item, begun)]


@shoal.remote(num_cpus=0, num_gpus=1)
def detect(item: int, prepared: tuple) -> tuple[np.ndarray, list]:
    begun = time.monotonic()
    image, log = prepared
    time.sleep(0.08)
    return np.argwhere(image > image.mean()), [*log, ran("detect", item, begun)]


@shoal.remote(num_cpus=0, num_gpus=0.5)
def summarise(item: int, detected: tuple) -> tuple[float, list]:
    begun = time.monotonic()
    points, log = detected
    time.sleep(0.04)
    return float(points.mean()), [*log, ran("summarise", item, begun)]


@shoal.remote(num_cpus=1)
def store(item: int, summary: tuple) -> tuple[float, list]:
    begun = time.monotonic()
    value, log = summary
    return value, [*log, ran("store", item, begun)]


def pipeline(item: int) -> shoal.ObjectRef:
    summary = summarise.remote(item, detect.remote(item, prepare.remote(item)))
    return store.remote(item, summary)


results = shoal.get([pipeline(item) for item in range(ITEMS)])
log = [line for _, lines in results for line in lines]
first, last = min(line["from"] for line in log), max(line["to"] for line in log)


def column(at: float) -> int:
    return round((at - first) / (last - first) * (COLUMNS - 1))


table = Table("stage", "where", "items", f"{last - first:.2f} s, a digit is an item at work")
places = {(STAGES.index(line["stage"]), line["where"]) for line in log}
for number, where in sorted(places):
    lines = [line for line in log if (line["stage"], line["where"]) == (STAGES[number], where)]
    cells = ["·"] * COLUMNS
    for line in lines:
        for at in range(column(line["from"]), column(line["to"]) + 1):
            cells[at] = str(line["item"])
    table.add_row(STAGES[number], where, str(len(lines)), "".join(cells))
Console().print(table)

first_on_gpu = min(line["to"] for line in log if line["stage"] == "detect")
prepared = sum(line["to"] < first_on_gpu for line in log if line["stage"] == "prepare")
print(f"{prepared} images were prepared before the first GPU was free again")
on_gpus = [line for line in log if line["where"] != "cpu"]
assert {line["where"] for line in on_gpus} == {"gpu 0", "gpu 1"}
assert {line["stage"] for line in on_gpus} == {"detect", "summarise"}


for one in on_gpus:  # a whole GPU is never shared
    if one["stage"] == "detect":
        others = [other for other in on_gpus if other["where"] == one["where"] and other != one]
        assert not any(o["from"] < one["to"] and one["from"] < o["to"] for o in others)
