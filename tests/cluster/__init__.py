"""Several nodes on one machine: their network, what goes wrong with it, and what is left of it.

``test_proxy``        the fault proxy in front of real TCP programs
``test_net_cluster``  networks in namespaces, with real programs: partitions, loss, resets, slow
                      lines, delays, and what a killed test leaves behind
``test_capture``      what goes over such a network, and whether anybody could read it
``test_cluster``      daemons of several nodes, each with its memory and directory
``talker``            the program that talks TCP and UDP in them
``loads``             programs with a known result, for whatever cluster a test has

Namespaces need root or user namespaces; a test that has neither is skipped with what is missing,
which fails the run unless ``tests/tidy/exceptions.toml`` lists it. The proxy needs nothing. What
decides (what a proxy does to bytes, rules of filters, streams in packets) is tested in
``tests/unit``.

After every test ``conftest`` looks around: no namespace, interface, rule or process may be left.
"""
