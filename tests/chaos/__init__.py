"""Faults on purpose, and who judges what came of them.

``tests/torture`` asks whether node memory survives deaths; this package asks whether promises made
to people survive them: what was acknowledged is there, nothing was done twice, nothing hangs. The
letters (G1, L2, ...) are those of the table of faults that the project promises to survive.

Three roles, never in one hand:

* a *load* (``loads``) knows nothing of faults. It writes down what it asked and what it was told.
* a *fault* is injected from outside, at times drawn from a seed that a failure prints.
* an *oracle* (``oracle``) reads afterwards what really happened, from files that the workers
  themselves have synced, and compares: lost, doubled, out of order, never asked for. After each
  case ``audit`` looks whether node memory, processes, descriptors and files are as before.

Rules for new cases:

1. Wait for conditions with generous limits, never for durations; the seed decides what is done, not
   whether the test is right.
2. Judge by what was acknowledged. What nobody was told may have happened or not; it must not have
   happened twice.
3. Small in the suite (a few faults, seconds); the same code with more of them is
   ``make chaos T=600`` (``__main__``), which prints the figures of ``docs/reliability.md``.

===================  =====================================================================
``stores``           a control store without a daemon, and a client that repeats its requests
``failing_io.cpp``   makes writes, syncs, truncations and forks of a process fail, tear or kill
``moving_clock.cpp`` lets the wall clock jump and drift
``loads``            L2: actors that append unique ids to synced files
``test_store``       G1, G3, G5 on the store alone: thousands of operations a second
``test_sessions``    G1, G2, G4 and L2 in sessions of ``shoal start``
``test_processes``   W1 to W3, A1 to A3 and R1 in one such session
``test_values``      R2 and S1 to S4: large values, and the disk below them
``audit``            what each case ends with
``test_clock``       C1 in a session that sees such a clock
``test_limits``      F1 and F3 (``strangers`` sends what nobody should), F4
``head``             G1 with all that is written down, and L2; read again by another session
``work``             real programs, compared with the serial run
``faults``           kills, stops, a full disk, changed files and memory pressure, from one seed
``soak``             these programs under these faults
``recovery``         how long it takes until work goes on after a death (C26)
``nodes``            the same programs on four nodes of a network (``make chaos-cluster``)
``node_faults``      kills, power cuts, stops and partitions of those nodes
===================  =====================================================================
"""
