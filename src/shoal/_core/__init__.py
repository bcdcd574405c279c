"""Decisions: pure, synchronous machines. ``step(now, event) -> [command]``, nothing else.

Nothing in here awaits, reads a clock, draws a random number, opens a socket, reads the environment
or logs; all of that comes in as events and goes out as commands (see ``events`` and ``commands``).
"""
