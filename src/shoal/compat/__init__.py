"""Layers under which programs written for other systems run on Shoal, unchanged."""
