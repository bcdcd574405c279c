"""A simulated node and its control store."""
