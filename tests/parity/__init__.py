"""User stories of Ray's core documentation, told once each, on Ray 2.60 and on Shoal.

``stories/*.py`` are programs as their authors would write them, with ``import ray``; each function
``story_*`` is one documented behaviour and returns an outcome that JSON can say. ``record.py`` runs
them on the real Ray, in an environment of its own, and writes ``outcomes/*.json``, which are
committed. ``test_parity.py`` runs the same files with ``shoal run --as-ray`` and compares.

A difference is a bug, or stands in ``differences.toml`` with our outcome and the line of
``docs/from-ray.md`` that tells it. A story whose feature is not there yet stands in
``waiting.toml`` with the reason; it is not collected, and the test says how many wait.

A story depends on nothing that may come out one way or the other: no times, ids or orders that are
not promised.
"""
