"""Leaves: they import nothing of ours."""
