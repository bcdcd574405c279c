"""Shells: everything that touches sockets, processes, files, clocks and node memory.

What is decided stands in ``_core``; a shell turns what it sees into events, feeds them to a pure
machine and performs the commands that come back.
"""
