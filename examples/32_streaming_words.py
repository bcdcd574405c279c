"""A streaming word count: readers yield batches of lines, counters consume them, memory is bounded.

Reading is faster than counting. A reader is a generator task; with back-pressure it pauses while
two of its batches wait to be taken, so that a few batches are in memory however large the tree of
files is. Without it, the readers run ahead and the whole text waits in memory. Both are done
here, and the most that the object store held is shown. The batches go from readers to
counters as refs: this program never looks into one.
"""

import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

import shoal
from shoal.util.progress import tqdm

READERS = 2
COUNTERS = 2
BATCH_BYTES = 60_000
TEXT_BYTES = 5_000_000
AHEAD = 2  # batches that a reader may have made and nobody has taken
UNDER_WAY = 2  # batches on their way to one counter


@shoal.remote(num_cpus=0)
def read(paths: list[str]) -> Iterator[str]:
    """Yield the text of the files in batches of whole lines."""
    text = ""
    for path in paths:
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines(True):
            text += line
            if len(text) >= BATCH_BYTES:
                yield text
                text = ""
    yield text


@shoal.remote(num_cpus=0)
class WordCounter:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        self.counts.update(re.findall(r"[a-z]{3,}", text.lower()))

    def result(self) -> Counter[str]:
        return self.counts


def some_text() -> list[str]:
    paths, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if size < TEXT_BYTES:
            paths.append(str(path))
            size += path.stat().st_size
    return paths


def stored_bytes() -> int:
    return sum(each.size_bytes for each in shoal.state.objects())


def count(paths: list[str], ahead: int) -> tuple[Counter[str], list[int]]:
    """The counts, and what was in the object store after each batch."""
    reader = read.options(_generator_backpressure_num_objects=ahead)
    streams = [reader.remote(paths[i::READERS]) for i in range(READERS)]
    counters = [WordCounter.remote() for _ in range(COUNTERS)]
    pending: list[shoal.ObjectRef] = []
    stored: list[int] = []
    with tqdm(desc=f"{ahead} ahead" if ahead > 0 else "no limit", unit="batch") as bar:
        while streams:
            stream = streams.pop(0)
            batch = next(stream, None)
            if batch is None:
                continue
            streams.append(stream)  # the readers take turns
            pending.append(counters[len(stored) % COUNTERS].add.remote(batch))
            if len(pending) > UNDER_WAY * COUNTERS:
                _, pending = shoal.wait(pending, num_returns=1)
            del batch  # the counter has it now: its memory is free once it is counted
            stored.append(stored_bytes())
            bar.update()
    total: Counter[str] = Counter()
    for part in shoal.get([counter.result.remote() for counter in counters]):
        total.update(part)
    return total, stored


shoal.init(num_cpus=2)
paths = some_text()
words, bounded = count(paths, AHEAD)
same, unbounded = count(paths, -1)

console = Console()
table = Table("ahead by", "batches", "most", "memory, batch by batch")
height = max(unbounded)
for name, stored in (("2 each", bounded), ("any", unbounded)):
    picture = "".join("▁▂▃▄▅▆▇█"[min(7, 8 * size // height)] for size in stored[::3])
    table.add_row(name, str(len(stored)), f"{max(stored) / 1e6:.1f} MB", picture)
console.print(table)
print("most frequent:", ", ".join(f"{word} {n:,}" for word, n in words.most_common(6)))
assert words == same
most = READERS * (AHEAD + 1) + (UNDER_WAY + 1) * COUNTERS
assert max(bounded) < most * (BATCH_BYTES + 20_000), "back-pressure keeps memory bounded"
assert max(unbounded) > 2 * max(bounded)
