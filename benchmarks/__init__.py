"""Benchmarks of Shoal against its peers and the machine's limits; see `benchmarks/README.md`."""
