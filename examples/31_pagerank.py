"""PageRank: a graph cut into partitions, each kept by an actor; the ranks are one shared array.

Each round, an actor adds up what its pages receive through the links that lead to them. It
reads the ranks of all pages in place: `put` once per round, one copy on the machine, however many
partitions there are. The same computation with plain NumPy gives the same ranks.
"""

from itertools import pairwise

import numpy as np
from rich.console import Console
from rich.table import Table

import shoal

PAGES = 20_000
LINKS = 300_000
PARTITIONS = 3
DAMPING = 0.85
ENOUGH = 1e-9


def web() -> tuple[np.ndarray, np.ndarray]:
    """Links (from, to) of a web in which few pages are linked very often."""
    random = np.random.default_rng(42)
    source = random.integers(0, PAGES, LINKS)
    target = (PAGES * random.random(LINKS) ** 4).astype(np.int64)
    return source, target


@shoal.remote
class Partition:
    """Pages ``first`` to ``last``, and the links that lead to them."""

    def __init__(self, first: int, last: int, source: np.ndarray, target: np.ndarray) -> None:
        mine = (first <= target) & (target < last)
        self.source, self.target = source[mine], target[mine] - first
        self.size = last - first

    def receive(self, given: np.ndarray) -> np.ndarray:
        """What each page here gets if page i gives ``given[i]`` over each of its links."""
        return np.bincount(self.target, weights=given[self.source], minlength=self.size)


source, target = web()
out_links = np.bincount(source, minlength=PAGES)
is_dead_end = out_links == 0


def gives(rank: np.ndarray) -> np.ndarray:
    return np.divide(rank, out_links, out=np.zeros(PAGES), where=~is_dead_end)


def next_rank(rank: np.ndarray, received: np.ndarray) -> np.ndarray:
    lost = rank[is_dead_end].sum() / PAGES  # pages without links give to all
    return (1 - DAMPING) / PAGES + DAMPING * (received + lost)


shoal.init(num_cpus=PARTITIONS)
edges = np.linspace(0, PAGES, PARTITIONS + 1).astype(int)
links = shoal.put(source), shoal.put(target)
partitions = [Partition.remote(int(a), int(b), *links) for a, b in pairwise(edges)]

rank = np.full(PAGES, 1 / PAGES)
changes: list[float] = []
while not changes or changes[-1] > ENOUGH:
    given = shoal.put(gives(rank))
    received = shoal.get([partition.receive.remote(given) for partition in partitions])
    new = next_rank(rank, np.concatenate(received))
    changes.append(float(np.abs(new - rank).sum()))
    rank = new

serial = np.full(PAGES, 1 / PAGES)
for _ in changes:
    received = np.bincount(target, weights=gives(serial)[source], minlength=PAGES)
    serial = next_rank(serial, received)

table = Table("page", "links to it", "rank", "", title="the ten highest")
in_links = np.bincount(target, minlength=PAGES)
for page in np.argsort(-rank)[:10]:
    bar = "█" * round(30 * rank[page] / rank.max())
    table.add_row(str(page), f"{in_links[page]:,}", f"{rank[page]:.5f}", bar)
Console().print(table)
print(f"{len(changes)} rounds over {LINKS:,} links in {PARTITIONS} partitions")
print("change per round:", " ".join(f"{change:.0e}" for change in changes[::4]))
assert np.allclose(rank, serial, rtol=1e-9, atol=0)
assert abs(rank.sum() - 1) < 1e-9
