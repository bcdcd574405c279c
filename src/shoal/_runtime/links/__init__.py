"""Links: how the nodes of a cluster talk to each other. A tour in reading order.

``_proto/links.py`` draws the bytes, ``_core/link.py`` decides what a session with one peer does,
and ``_core/doorkeeper.py`` who may stand at the door. In this package:

* ``keys.py``: the cluster's secret, certificates and join line, as files and as text;
  ``authority.py`` makes and signs certificates (it alone needs ``cryptography``).
* ``handshake.py``: what both sides prove to each other, and why the order of it is safe.
* ``connection.py``: one TCP connection with TLS 1.3 on the daemon's loop; ``shaking.py`` is its
  beginning, ``mailbox.py`` how threads reach the loop.
* ``door.py``: the one announced port of a node: strangers, purposes, handing connections over.
* ``joining.py``: how a node without a certificate gets one, with nothing but the join line.
* ``peers.py``: ``Peers``, which is what the rest of the daemon sees: send, receive, pull;
  ``connections.py`` its connections, ``relay.py`` those by way of the head.
* ``bulk.py``: large transfers, in threads, straight into and out of node memory:
  ``bulk_streams.py`` has the two ends of one, ``pieces.py`` the way without any.

Nothing here is imported in a session of one machine, and nothing here unpickles anything.
"""
