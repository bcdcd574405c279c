"""Published figures are rendered from what was measured: nobody edits a figure by hand."""

from __future__ import annotations

import json

from benchmarks.publish import KEPT, rendered


def test_published_tables_are_those_of_the_measurement() -> None:
    if not KEPT.exists():
        return  # nothing was published yet, and the documents say so
    for path, text in rendered(json.loads(KEPT.read_text())).items():
        assert path.read_text() == text, f"{path.name}: run `python -m benchmarks publish`"
