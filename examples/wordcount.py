"""Program 14 and the job of `make demo`: words of a whole directory tree, by tasks and actors.

    python examples/wordcount.py [DIR]

Two jobs over the same files, each done three times (plain loop, Shoal, `multiprocessing`) with the
results compared:

* *word counts*: one task per group of files; the program adds up what is ready while others count;
* *prefix counts*: every word counts for each of its beginnings. The documents are streamed
  to actors, which keep the counts while more documents arrive and can be asked at any time: the
  line under the bar shows the most common longer beginnings so far.

Without DIR it reads the source of Python's standard library and what documentation the machine has.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import os
import re
import sysconfig
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import shoal

ENDINGS = {".py", ".txt", ".rst", ".md", ".pyi", ".html", ""}
SKIPPED = {"site-packages", "__pycache__", ".git", ".venv", "node_modules"}
WORD = re.compile(r"[a-z]{1,20}")
GROUP = 16  # files per task, so that a result is worth its way
PENDING_PER_ACTOR = 16  # documents on their way to one actor
DEFAULT_LIMIT_MB = 60


# ---- the work itself: the same functions in all three versions


def words_of(path: str) -> list[str]:
    return WORD.findall(Path(path).read_text(encoding="utf-8", errors="replace").lower())


def count_words(path: str) -> Counter[str]:
    return Counter(words_of(path))


def count_group(paths: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(words_of(path))
    return counts


def groups_of(paths: list[str]) -> list[list[str]]:
    return [paths[i : i + GROUP] for i in range(0, len(paths), GROUP)]


def add_prefixes(counts: Counter[str], path: str) -> None:
    for word, n in count_words(path).items():
        for end in range(1, len(word) + 1):
            counts[word[:end]] += n


def merged(parts: list[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


@dataclass
class Outcome:
    """What one version of both jobs found, and how long it took."""

    words: Counter[str]
    prefixes: Counter[str]
    words_s: float
    prefixes_s: float
    calls: int = 0

    @property
    def total_s(self) -> float:
        return self.words_s + self.prefixes_s


# ---- with Shoal

count_task = shoal.remote(count_group)


@shoal.remote
class PrefixCounter:
    """Keeps the counts of the documents that were streamed to it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, path: str) -> None:
        add_prefixes(self.counts, path)

    def popular(self, n: int) -> list[tuple[str, int]]:
        longer = ((prefix, count) for prefix, count in self.counts.items() if len(prefix) > 3)
        return heapq.nlargest(n, longer, key=lambda row: row[1])

    def all(self) -> Counter[str]:
        return self.counts


def words_with_tasks(paths: list[str], progress: Progress) -> Counter[str]:
    sizes = {count_task.remote(group): len(group) for group in groups_of(paths)}
    bar = progress.add_task("words", total=len(paths), note="")
    total: Counter[str] = Counter()
    for ref in shoal.as_completed(list(sizes)):
        total.update(shoal.get(ref))  # while the others count
        progress.advance(bar, sizes[ref])
    return total


def prefixes_with_actors(paths: list[str], progress: Progress, n: int) -> Counter[str]:
    counters = [PrefixCounter.remote() for _ in range(n)]
    bar = progress.add_task("prefixes", total=len(paths), note="")
    pending: dict[shoal.ObjectRef, int] = {}
    loads = [0] * n  # documents that each actor still has to count
    asked_at = time.monotonic()

    def take(limit: int) -> None:
        """Wait until at most `limit` documents are under way."""
        while len(pending) > limit:
            ready, _ = shoal.wait(list(pending), num_returns=len(pending) - limit)
            for ref in ready:
                loads[pending.pop(ref)] -= 1
            shoal.get(ready)
            progress.advance(bar, len(ready))

    for path in paths:
        free = loads.index(min(loads))
        pending[counters[free].add.remote(path)] = free
        loads[free] += 1
        take(n * PENDING_PER_ACTOR)
        if time.monotonic() - asked_at > 1.0:
            tops = shoal.get([counter.popular.remote(3) for counter in counters])
            note = " ".join(sorted({f"{prefix}-" for top in tops for prefix, _ in top}))
            progress.update(bar, note=note)
            asked_at = time.monotonic()
    take(0)
    return merged(shoal.get([counter.all.remote() for counter in counters]))


def with_shoal(paths: list[str], cores: int, console: Console) -> Outcome:
    columns = [
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    ]
    with Progress(*columns, console=console) as progress:
        start = time.perf_counter()
        shoal.init(num_cpus=cores)
        words = words_with_tasks(paths, progress)
        middle = time.perf_counter()
        prefixes = prefixes_with_actors(paths, progress, cores)
        end = time.perf_counter()
    calls = len(paths) + len(groups_of(paths)) + cores
    shoal.shutdown()
    return Outcome(words, prefixes, middle - start, end - middle, calls)


# ---- serially, and with multiprocessing


def serially(paths: list[str]) -> Outcome:
    start = time.perf_counter()
    words: Counter[str] = Counter()
    for path in paths:
        words.update(words_of(path))
    middle = time.perf_counter()
    prefixes: Counter[str] = Counter()
    for path in paths:
        add_prefixes(prefixes, path)
    return Outcome(words, prefixes, middle - start, time.perf_counter() - middle)


def serve_prefixes(inbox: multiprocessing.Queue[str | None], answer: Connection) -> None:
    """A process that keeps state, by hand: what an actor is without Shoal."""
    counts: Counter[str] = Counter()
    while (path := inbox.get()) is not None:
        add_prefixes(counts, path)
    answer.send(counts)
    answer.close()


def with_multiprocessing(paths: list[str], cores: int) -> Outcome:
    start = time.perf_counter()
    with multiprocessing.Pool(cores) as pool:
        words = merged(list(pool.imap_unordered(count_group, groups_of(paths))))
    middle = time.perf_counter()
    inbox: multiprocessing.Queue[str | None] = multiprocessing.Queue(cores * PENDING_PER_ACTOR)
    ends: list[Connection] = []
    workers = []
    for _ in range(cores):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        ends.append(receiver)
        worker = multiprocessing.Process(target=serve_prefixes, args=(inbox, sender))
        worker.start()
        sender.close()
        workers.append(worker)
    for path in paths:
        inbox.put(path)
    for _ in workers:
        inbox.put(None)
    prefixes = merged([end.recv() for end in ends])
    for worker in workers:
        worker.join()
    return Outcome(words, prefixes, middle - start, time.perf_counter() - middle)


# ---- input and report


def find_files(folders: list[Path], limit_bytes: int) -> list[str]:
    """Text files below `folders`, in a stable order, up to a number of bytes."""
    chosen: list[str] = []
    size = 0
    for top in folders:
        for folder, below, names in os.walk(top):
            below[:] = sorted(name for name in below if name not in SKIPPED)
            for path in (Path(folder, name) for name in sorted(names)):
                is_text = path.suffix.lower() in ENDINGS and path.is_file()
                if not is_text or path.is_symlink() or not os.access(path, os.R_OK):
                    continue
                size += path.stat().st_size
                if size > limit_bytes:
                    return chosen
                chosen.append(str(path))
    return chosen


def default_folders() -> list[Path]:
    folders = [Path(sysconfig.get_path("stdlib")), Path("/usr/share/doc")]
    return [folder for folder in folders if folder.is_dir()]


def report(console: Console, n_files: int, cores: int, rows: dict[str, Outcome]) -> None:
    ours, serial = rows["Shoal"], rows["serial"]
    table = Table(title=f"{ours.words.total():,} words in {n_files:,} files, {cores} cores")
    for heading in ("", "words", "prefixes", "both", "speed-up", "calls/s"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in rows.items():
        rate = f"{row.calls / row.total_s:,.0f}" if row.calls else ""
        times = f"{serial.total_s / row.total_s:.2f} x"
        seconds = [f"{s:.2f} s" for s in (row.words_s, row.prefixes_s, row.total_s)]
        table.add_row(name, *seconds, times, rate)
    console.print(table)
    common = ", ".join(f"{word} {n:,}" for word, n in ours.words.most_common(8))
    console.print(f"most common words: {common}")
    console.print(
        f"{len(ours.words):,} different words and {len(ours.prefixes):,} different beginnings; "
        "the three results are equal"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Count words and word beginnings.")
    parser.add_argument("folder", nargs="?", type=Path, help="a directory tree of text")
    parser.add_argument("--limit-mb", type=float, default=DEFAULT_LIMIT_MB, metavar="MB")
    options = parser.parse_args()
    folders = [options.folder.expanduser()] if options.folder else default_folders()
    paths = find_files(folders, int(options.limit_mb * 1e6))
    if not paths:
        parser.error(f"no text files below {', '.join(map(str, folders))}")

    console = Console()
    cores = max(2, len(os.sched_getaffinity(0)))
    console.print(f"{len(paths):,} files below {', '.join(map(str, folders))}")
    for path in paths:  # whoever is first shall not be the one who waits for the disk
        Path(path).read_bytes()
    busy = os.getloadavg()[0]
    if busy > cores / 2:
        console.print(
            f"[yellow]{busy:.0f} other programs want the {cores} cores: the three versions run one"
            " after another, so their times say little about each other"
        )
    ours = with_shoal(paths, cores, console)
    console.print("the same serially, then with multiprocessing ...")
    rows = {
        "serial": serially(paths),
        "multiprocessing": with_multiprocessing(paths, cores),
        "Shoal": ours,
    }
    for name, row in rows.items():
        assert row.words == ours.words, f"word counts differ: {name}"
        assert row.prefixes == ours.prefixes, f"prefix counts differ: {name}"
    report(console, len(paths), cores, rows)


if __name__ == "__main__":
    main()
