"""A pipeline of text: sentences stream through a pool of actors that have loaded a model once.

The model is small and real: scikit-learn learns from half of the documentation in Python's standard
library which of its packages a sentence speaks of. The other half is then classified in batches: a
generator reads, `ActorPool` gives each batch to the actor that is free, and never more than two
batches per actor are under way, however long the stream is.

Needs scikit-learn: `pip install '.[examples]'` in a checkout.
"""

import ast
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline

import shoal
from shoal.util import ActorPool
from shoal.util.progress import tqdm

PACKAGES = ("asyncio", "email", "http", "logging", "multiprocessing", "unittest", "xml")
ACTORS = 2
BATCH = 64


def sentences(package: str) -> Iterator[str]:
    """Sentences of the docstrings of ``package``, in a fixed order."""
    for path in sorted(Path(sysconfig.get_path("stdlib"), package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for text in (ast.get_docstring(node) or "").split(". "):
                    if len(text.split()) >= 6:
                        yield " ".join(text.split())


@shoal.remote
class Classifier:
    def __init__(self, model) -> None:
        self.model = model  # came through shared memory, and is unpickled here, once
        self.batches = 0

    def classify(self, texts: list[str]) -> list[str]:
        self.batches += 1
        return self.model.predict(texts).tolist()

    def report(self) -> tuple[int, int]:
        return os.getpid(), self.batches


labelled = [(text, package) for package in PACKAGES for text in sentences(package)]
known, unknown = labelled[::2], labelled[1::2]
model = make_pipeline(TfidfVectorizer(sublinear_tf=True), SGDClassifier(random_state=0))
model.fit([text for text, _ in known], [package for _, package in known])


def batches() -> Iterator[list[str]]:
    for at in range(0, len(unknown), BATCH):
        yield [text for text, _ in unknown[at : at + BATCH]]


shoal.init(num_cpus=ACTORS)
shared = shoal.put(model)
actors = [Classifier.remote(shared) for _ in range(ACTORS)]
pool = ActorPool(actors)
found: list[str] = []
under_way = most = 0
for batch in tqdm(batches(), total=-(-len(unknown) // BATCH), desc="classify", unit="batch"):
    pool.submit(lambda actor, texts: actor.classify.remote(texts), batch)
    under_way += 1
    most = max(most, under_way)
    if under_way == 2 * ACTORS:  # enough for everybody: take a result before the next batch
        found += pool.get_next()
        under_way -= 1
while pool.has_next():
    found += pool.get_next()

right = Counter(
    package for (_, package), said in zip(unknown, found, strict=True) if package == said
)
there = Counter(package for _, package in unknown)
table = Table("package", "sentences", "recognised", "")
for package in PACKAGES:
    share = right[package] / there[package]
    table.add_row(package, str(there[package]), f"{share:.0%}", "█" * round(20 * share))
Console().print(table)
for pid, count in shoal.get([actor.report.remote() for actor in actors]):
    print(f"worker {pid} loaded the model once and classified {count} batches")
print(f"{len(found)} sentences, never more than {most} batches under way")
assert found == model.predict([text for text, _ in unknown]).tolist(), "as in one process"
assert sum(right.values()) > 0.7 * len(found)
assert most <= 2 * ACTORS
