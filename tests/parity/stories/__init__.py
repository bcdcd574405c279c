"""Programs for Ray; see `tests/parity`."""
