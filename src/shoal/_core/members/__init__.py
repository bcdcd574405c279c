"""Who is a member of the cluster, and what lives where: two machines that face each other.

``store_side.MembersMachine`` stands in the store's process beside ``StoreMachine``; ``node_side.
MemberMachine`` is a part of each node. Between them go the rows of ``_proto/membership.py``. Both
are ``step(now, event) -> [command]``; their events and commands stand in ``interface``.

==================  ============================================================================
``nodes``           store: epochs, leases, suspicion, declared deaths, the view that nodes get
``placing_actors``  store: which incarnation of an actor is offered to which node; names
``groups``          store: bundles prepared and committed on several nodes
``exchange``        both: orders and facts that are repeated until they have arrived
``lease``           node: joining, renewing, what its lease still lets it do, ending everything
``wishes``          node: what its programs ask of the store
``residents``       node: actors and bundles that it has for the store
``drain``           node: leaving in peace
==================  ============================================================================

What holds for all of it (RULES sections 1, 3, 9):

1. A name has at most one incarnation that lives and may do anything, wherever clocks, networks and
   processes stop and go on: who holds a lease lets go of it before anybody else may take it.
2. What was acknowledged is on disk. What is not lasting is told again by the nodes.
3. The store proposes, a node may refuse; a refusal costs nothing.
4. Nothing here knows how a message travels, and none may be assumed to arrive.
"""
