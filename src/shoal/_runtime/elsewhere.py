"""``init("HOST:PORT")``: a program joins a cluster of other machines. And: waiting to be let in.

Whoever drives a cluster from a machine that has no node of it gets one: a daemon of the program's
own, begun and ended with it as ``init()`` does on one machine, which joins as a *driver* (RULES
S-19). It has node memory and links, and no resources: what the program submits runs elsewhere::

    program --unix socket--> its daemon (role driver) ==TLS==> control store, nodes
      `---- values, refs ------'   runs nothing

Where the secret comes from, the first that there is::

    init("shoal-1 HOST:PORT ...")          the whole join line, in place of the address
    init("HOST:PORT", token_file=PATH)     a file with the join line or the token, mode 0600
    SHOAL_TOKEN_FILE=PATH                  the same

1. A secret is never taken from the environment, only the name of its file.
2. A node of that very cluster that was started on this machine is used, and needs no secret: its
   socket is this user's.
3. What begins and is not let in is ended before the error is raised, and the error is one sentence
   about the cause and one about what to do.
"""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

from shoal import errors
from shoal._base import clock
from shoal._runtime import entering, launch, node_spawn, registry
from shoal._runtime.links import keys
from shoal._runtime.observer import Observer

SCHEMES = ("shoal", "ray")
JOIN_S = 30.0
"""How long a node waits to be let in."""
FAILING_S = 3.0
"""A head that cannot be reached for so long is not there, or does not want us."""
LOOK_S = 0.02
NOT_OURS = ("num_cpus", "num_gpus", "resources", "labels")
"""Options of ``init`` that a node of role driver cannot have."""


class NotJoinedError(ConnectionError):
    """A node was begun and did not get in; the text says why."""


def address_of(text: str) -> str:
    """``HOST:PORT`` of the head, out of what a program calls it.

    Raises:
        OptionError: it is none.
    """
    scheme, separator, rest = text.rpartition("://")
    if separator and scheme not in SCHEMES:
        known = " or ".join(f"{each}://" for each in SCHEMES)
        raise errors.OptionError(
            f"{text!r} is not the address of a cluster. What to do: write HOST:PORT, alone or after"
            f" {known}",
            option="address",
        )
    try:
        address = entering.listening(rest.rstrip("/"))
        keys.split_address(address)
    except keys.CredentialsError as error:
        raise errors.OptionError(str(error), option="address") from None
    return address


def is_join_line(text: str) -> bool:
    """Whether it holds a secret, and is no address."""
    return text.startswith(f"{keys.TAG} ")


def credentials(address: str, token_file: str) -> keys.JoinLine | None:
    """What lets this program in; None: nothing was given.

    Raises:
        OptionError: it cannot be used.
    """
    if is_join_line(address):
        return _read("address", address, "")
    if not token_file:
        return None
    where = address_of(address)
    try:
        data = keys.read_private(os.path.expanduser(token_file))
    except keys.CredentialsError as error:
        raise errors.OptionError(str(error), option="token_file") from None
    return _read("token_file", data.decode("ascii", "replace"), where)


def _read(option: str, text: str, address: str) -> keys.JoinLine:
    try:
        return keys.JoinLine.parse(text, address)
    except keys.CredentialsError as error:
        raise errors.OptionError(str(error), option=option) from None


def member_here(root: str, address: str, line: keys.JoinLine | None) -> registry.Entry | None:
    """The session on this machine that is a node of that cluster."""
    where = "" if is_join_line(address) else address_of(address)
    for entry in registry.started_sessions(root):
        try:
            with Observer(entry.socket_path) as observer:
                rows: list[dict[str, Any]] = observer.table("cluster")
            if any(_is_of(row, where, line) for row in rows):
                return entry
        except (OSError, errors.ShoalError, keys.CredentialsError):
            continue  # it ends, or its keys are not to be read: it is not one to be used
    return None


def _is_of(row: dict[str, Any], address: str, line: keys.JoinLine | None) -> bool:
    if line is None:
        return address in (row["address"], row["store_address"])
    token = keys.read_private(os.path.join(row["keys"], keys.TOKEN_NAME))
    return keys.Secret.parse(token.decode("ascii", "replace")) == line.secret


def no_credentials(address: str) -> errors.OptionError:
    """The error of a program that names a cluster, and nothing that lets it in."""
    return errors.OptionError(
        f"joining the cluster at {address_of(address)} needs its token. What to do: name a file"
        " (mode 0600) with the join line that `shoal start --head` printed, as"
        " init(..., token_file=PATH) or in SHOAL_TOKEN_FILE; or give the whole line instead of the"
        " address",
        option="token_file",
    )


def enter(begun: node_spawn.Begun, line: keys.JoinLine) -> launch.Membership:
    """Give the keys to a node of role driver."""
    name = f"{os.uname().nodename}-{os.getpid()}-{begun.session[-4:]}"
    membership = entering.enter(begun.directory, line, "", name, {})
    return msgspec.structs.replace(membership, is_driver=True)


def wait_for_state(launched: launch.Launched, state: str) -> dict[str, Any]:
    """The row of the cluster, once the node is ``state``; else the node is ended.

    Raises:
        NotJoinedError: it came to nothing.
    """
    deadline = clock.now() + JOIN_S
    why = "its daemon does not answer"
    is_there = False
    try:
        while clock.now() < deadline:
            try:
                with Observer(launched.socket_path, deadline - clock.now()) as observer:
                    (row,) = observer.table("cluster")
            except OSError as error:
                why = f"{error}\n{launch.startup_failure(launched.settings)}".strip()
                break
            if row["state"] == state:
                is_there = True
                return row
            why = str(row["why"]) or "the control store has not answered"
            since = row["failing_since"]
            is_failing = isinstance(since, float) and clock.now() - since > FAILING_S
            if row["state"] == "refused" or is_failing:
                break
            time.sleep(LOOK_S)
        else:
            why = f"{why} (waited for {JOIN_S:g} s)"
        raise NotJoinedError(why)
    finally:
        if not is_there:
            launch.give_up(launched)
