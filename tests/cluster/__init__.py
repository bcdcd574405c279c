"""Several nodes on one machine: their network, what goes wrong with it, and what is left of it.

``test_proxy``        the fault proxy in front of real TCP programs
``test_lanes``        what it does to bytes, on a clock of the test's own
``test_net_cluster``  networks in namespaces: partitions, loss, resets, slow lines, leftovers
``test_capture``      what goes over such a network, and whether anybody could read it
``test_cluster``      daemons of several nodes, each with its memory and directory
``loads``             programs with a known result, for whatever cluster a test has

Namespaces need root or user namespaces; a test that has neither is skipped with what is missing,
which fails the run unless ``tests/tidy/exceptions.toml`` lists it. The proxy needs nothing.
"""
