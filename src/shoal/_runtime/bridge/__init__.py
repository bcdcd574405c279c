"""Bridging: another node is made to look as this one, by its daemon. Workers and drivers notice
nothing.

::

    proxies.py    objects of other nodes: a pending slot each, sealed when home has told the value;
                  large values stay where they are until somebody looks (`_core.remote_refs` counts)
    pulling.py    bytes that come
    sources.py    bytes that others come for, and from whom they have them
    lending.py    tasks of ours that other nodes run: taken out of their queues, results put in
    visiting.py   tasks of other nodes that run here, as tasks of the daemon's own
    actors.py     queues of actors that live elsewhere: drained in order
    bridging.py   all of it together, as a daemon has it
    around.py     what it needs of the daemon and of the links

`_core.bridge` decides about tasks; `native/bridge.cpp` draws what stands in node memory.

Invariants: bytes of tasks and values pass as bytes (nothing here loads any); nothing here waits;
what there is no room for is tried again, and everything else goes on meanwhile.
"""
