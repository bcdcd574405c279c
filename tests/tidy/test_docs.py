"""Documentation is true: it names files that exist and programs that run.

`tests/scenario/test_examples.py` runs the examples and the README's program; this file checks
names only, so that a renamed module cannot leave a text behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.tidy.sources import ROOT, Violation, files, judge, text_of

# `src/shoal/x.py`, `native/`, `tests/tidy`: in back quotes, with a slash or a known ending.
QUOTED = re.compile(r"`([\w.\-]+(?:/[\w.\-*]+)*/?)`")
ENDINGS = (".py", ".pyi", ".md", ".cpp", ".hpp", ".c", ".toml", ".txt", ".svg", ".json", ".sh")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
TOP = {path.split("/")[0] for path in files() if "/" in path}


def documents() -> list[str]:
    return [path for path in files() if path.endswith(".md")]


def exists(name: str, document: str) -> bool:
    """From the root, beside the document, or inside the package (`_core/pool.py`)."""
    folders = [ROOT, (ROOT / document).parent, ROOT / "src/shoal", ROOT / "native"]
    name = name.rstrip("/")
    if "*" in name:
        return any(any(folder.glob(name)) for folder in folders)
    if any((folder / name).exists() for folder in folders):
        return True
    # A bare file name may mean the only file of that name.
    return "/" not in name and sum(path.endswith("/" + name) for path in files()) >= 1


def test_documents_name_files_that_exist() -> None:
    made = {".venv", ".venv-peers", ".venv-parity", "build", "dist", "benchmarks/results"}

    def find() -> Iterator[Violation]:
        for document in documents():
            text = text_of(document)
            fenced = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
            names = {
                name
                for name in QUOTED.findall(fenced)
                if name.endswith(ENDINGS) or (name.split("/")[0] in TOP and "/" in name)
            }
            names.update(name for name in LINK.findall(fenced) if not name.startswith("http"))
            for name in sorted(names):
                if not exists(name, document) and not any(name.startswith(m) for m in made):
                    yield Violation(document, f"names {name}, which does not exist")

    judge("docs_files", find())


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))

    def find() -> Iterator[Violation]:
        for document in documents():
            for target in re.findall(r"`make ([a-z-]+)", text_of(document)):
                if target not in targets:
                    yield Violation(document, f"names `make {target}`, which does not exist")

    judge("docs_targets", find())


def test_every_page_is_in_the_index() -> None:
    """A page that nothing leads to is a page that nobody reads."""
    index = text_of("docs/README.md")
    pages = [path for path in files() if path.startswith("docs/") and path.endswith(".md")]
    links = set(LINK.findall(index))
    lost = [path for path in pages if path.removeprefix("docs/") not in links]
    assert [path for path in lost if path != "docs/README.md"] == []


def test_every_target_is_documented() -> None:
    text = text_of("Makefile")
    phony = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    assert phony is not None
    bare = [t for t in phony.group(1).split() if not re.search(rf"^{t}:.* ## \S", text, re.M)]
    assert not bare, f"targets without a description: {bare}"


def test_the_tour_is_short() -> None:
    assert text_of("ARCHITECTURE.md").count("\n") < 400
