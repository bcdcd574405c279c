"""The engine's operations, one question per file."""
