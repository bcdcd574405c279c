"""Where a task, an actor or a group goes when there are several nodes: one policy per file.

Each policy is a few functions over rows (``shoal._proto.views``): no table, no clock, no chance but
given dice, and nobody is asked. Who keeps the rows and acts on the answers is elsewhere:
``_core/forwarding.py`` for what a node submits, ``_core/hosting.py`` for what it runs for others,
the control store for actors and groups.

================== =======================================================================
file               the question it answers
================== =======================================================================
``view``           what fits on the node of this row, now or ever? which rows are known?
``local_first``    how much of a queue stays here, and how much is for others (RULES S-11)?
``argument_bytes`` does a task go to where its arguments are?
``spread``         whose turn is it, for a task that asks for SPREAD?
``affinity``       which node is meant, and what if it is not there?
``labels``         which nodes agree with a label selector?
``pack``           which node do bundles fill first?
``spread_groups``  which nodes do the bundles of a placement group go to?
``actors``         which node is an actor offered to?
``candidates``     which 32 nodes does the control store name to who asks?
``choices``        the last three, as the members of the control store ask for them
``recall``         what is taken back from a node that does not get on?
``dice``, ``ring``  chance from a seed; nodes in turn, or at random
================== =======================================================================

What they have in common: the cost of a decision does not grow with the number of nodes. Two nodes
at random are compared, not all (Mitzenmacher's power of two choices: the longest queue of n is
log log n instead of log n); only groups and the rare scan for a scarce resource look at every row.
"""
