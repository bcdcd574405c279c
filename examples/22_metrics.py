"""Metrics of one's own: counted in tasks and the driver, added up over the session."""

import shoal
from shoal.util.metrics import Counter, Histogram

words = Counter("words", "Words that were counted", tag_keys=("language",))
lengths = Histogram("line_length", "Words per line", boundaries=[2, 4, 8])


@shoal.remote
def count(line: str, language: str) -> int:
    found = len(line.split())
    words.inc(found, tags={"language": language})
    lengths.observe(found)
    return found


lines = ["a shoal of fish", "fish", "one fish two fish red fish blue fish and more"]
total = sum(shoal.get([count.remote(line, "en") for line in lines]))
words.inc(tags={"language": "de"})

by_language = {row.tags["language"]: row.value for row in shoal.state.metrics(name="words")}
assert by_language == {"en": total, "de": 1}
(length,) = shoal.state.metrics(name="line_length")
assert length.count == 3 and length.buckets[4.0] == 2
print(by_language, length.buckets)
