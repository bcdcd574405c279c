"""How a node is told which cluster it belongs to: its keys on disk, and where everybody is.

``shoal start --head --listen`` founds a cluster: a secret and a certificate in the directory of its
session (or of its name, if it has one: then the same join line holds for the next life of the
head). Whoever joins keeps what the join line says in the directory of its own session, which goes
with it. Both are written before the daemon is told anything, by the command of the user, and the
daemon is only told where they are: no secret is in an argument, a variable or ``settings.json``.

``--listen 0.0.0.0:PORT`` listens everywhere, and announces the address by which this machine
reaches others. Nothing here opens a socket that stays.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from shoal._base.config import LeaseTimes
from shoal._runtime import machine_facts
from shoal._runtime.launch import Membership
from shoal._runtime.links import keys

KEYS = "keys"
"""The directory of keys, in that of the session or of the name."""
JOIN = "join"
"""File with the join line, in the directory of the head's session."""
EVERYWHERE = ("0.0.0.0", "::", "")
DEFAULT_PORT = 6380
USUAL_S = LeaseTimes().lease_s


def listening(text: str) -> str:
    """The address that ``--listen`` names, ``HOST:PORT``; the port may be left out, or 0.

    Raises:
        CredentialsError: it is none.
    """
    bare = text.rpartition("]")[2] if text.startswith("[") else text
    address = text if ":" in bare else f"{text}:{DEFAULT_PORT}"
    is_any_port = address.endswith(":0")
    host, _ = keys.split_address(f"{address[:-1]}1" if is_any_port else address)
    if not host:
        raise keys.CredentialsError(f"{text!r} names no host")
    return address


def found(
    directory: str,
    address: str,
    node_name: str,
    labels: Mapping[str, str],
    lease_s: float = USUAL_S,
) -> Membership:
    """Make the keys of a new cluster, or use those that are kept, for its head.

    Raises:
        CredentialsError: ``cryptography`` is not installed, or the directory is open to others.
    """
    place = directory if os.path.basename(directory) == KEYS else os.path.join(directory, KEYS)
    if not os.path.lexists(os.path.join(place, keys.TOKEN_NAME)):
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        keys.new_cluster(place, announced(address, 1))
    return Membership(
        is_head=True,
        keys=place,
        listen=address,
        node_name=node_name or _machine(labels),
        lease_s=lease_s,
    )


def enter(
    directory: str, line: keys.JoinLine, listen: str, node_name: str, labels: Mapping[str, str]
) -> Membership:
    """Keep what a join line says, for a node that joins."""
    place = os.path.join(directory, KEYS)
    keys.join(place, line)
    return Membership(
        is_head=False,
        keys=place,
        listen=listen,
        addresses=line.addresses,
        node_name=node_name or _machine(labels),
    )


def _machine(labels: Mapping[str, str]) -> str:
    """What a node is called that nobody named: the machine, and for nodes that an autoscaler asked
    for, the request: there are several on one machine."""
    request = labels.get("shoal.io/request", "")
    name = os.uname().nodename
    return f"{name}-{request}" if request else name


def announced(address: str, port: int) -> str:
    """The address that others are told: ``address`` with its real port, and a host that means
    something elsewhere."""
    host, _, given = address.rpartition(":")
    if host.strip("[]") in EVERYWHERE:
        host = machine_facts.address()
    return f"{host}:{given if given != '0' else port}"


def join_line(place: str, address: str) -> keys.JoinLine:
    """The line with which others join, out of the keys of the one who founded the cluster."""
    credentials = keys.Credentials(place, keys.STORE)
    return keys.JoinLine((address,), credentials.secret, credentials.fingerprint)
