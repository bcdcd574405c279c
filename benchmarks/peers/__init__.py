"""The peers' own environment; nothing of it is ever a dependency of Shoal."""
