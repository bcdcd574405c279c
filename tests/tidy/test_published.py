"""Published figures are rendered from what was measured: nobody edits a figure by hand."""

from __future__ import annotations

import json

from benchmarks.publish import KEPT, rendered


def test_published_tables_and_plots_are_those_of_the_measurement() -> None:
    documents = rendered(json.loads(KEPT.read_text()))
    assert documents, "docs/benchmarks.json holds no suite"
    for path, text in documents.items():
        assert path.read_text() == text, f"{path.name}: run `python -m benchmarks publish`"
