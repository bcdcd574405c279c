"""The commands that begin a node: ``start`` (a session, the head of a cluster, or another node of
one) and ``join``, which takes the join line from its standard input.

Secrets come in through files and standard input, never as an argument, since arguments are seen by
everybody on the machine. What can be wrong is said before anything is started where that can be
known (a file that others can read, an address that is none); the rest, such as a port that is in
use or a head that refuses, ends the node that was begun and is one line here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from shoal import errors
from shoal._base import environment
from shoal._runtime import elsewhere, entering, launch, registry, session_dir
from shoal._runtime.launch import Membership
from shoal._runtime.links import keys
from shoal._runtime.observer import Observer
from shoal.cli import report, values
from shoal.cli.values import CommandError

LINE_BYTES_MOST = 4096
"""More than any join line has."""
FIRST_ANSWER_S = 60.0
"""A session that has just begun may be slow on a busy machine; one that has failed ends at once."""


@Parameter(name="*")
@dataclass
class NodeOptions:
    """What a node has, whatever it is a part of."""

    num_cpus: Annotated[
        float | None,
        Parameter(help="CPUs that tasks may use at a time (default: what this process may use)."),
    ] = None
    num_gpus: Annotated[float | None, Parameter(help="GPUs (default: those present).")] = None
    resources: Annotated[str, Parameter(help="More resources, as JSON: '{\"licence\": 2}'.")] = "{}"
    labels: Annotated[
        str, Parameter(help="Labels of this machine, for label_selector: zone=a,disk=fast.")
    ] = ""
    object_store_memory: Annotated[str, Parameter(help="Such as 2GB or 500MiB.")] = ""
    object_spilling_directory: Annotated[
        str,
        Parameter(
            help="Where values go that have no room: a directory, a URI, several with commas"
            " between them, or none (default: one of the session's own)."
        ),
    ] = ""
    log_bytes: Annotated[
        str,
        Parameter(
            help="What logs of workers may take on disk, such as 500MiB; the oldest go"
            " (default: 256MiB)."
        ),
    ] = ""
    log_age: Annotated[str, Parameter(help="When they go, such as 12h or 7d (default: 7d).")] = ""

    def settings(self) -> dict[str, Any]:
        """The same for ``launch``."""
        return {
            "num_cpus": values.positive("--num-cpus", self.num_cpus),
            "num_gpus": values.positive("--num-gpus", self.num_gpus),
            "resources": values.resources(self.resources),
            "labels": values.labels(self.labels),
            "object_store_memory": values.size(self.object_store_memory),
            "spill": values.places(self.object_spilling_directory),
            "log_bytes": values.size(self.log_bytes, "--log-bytes"),
            "log_age_s": values.time_s(self.log_age, "--log-age"),
        }


DEFAULTS = NodeOptions()


def start(
    *,
    options: NodeOptions = DEFAULTS,
    name: str = "",
    fresh: Annotated[bool, Parameter(negative="")] = False,
    head: Annotated[bool, Parameter(negative="")] = False,
    listen: str = "",
    address: str = "",
    token_file: str = "",
    node_name: str = "",
    lease: str = "",
) -> int:
    """Start a session on this machine that several programs can join, until `shoal stop`.

    It is reached through a unix socket only; nothing listens on the network, unless --listen
    makes it the head of a cluster of several machines, or --address a node of one.

    Parameters
    ----------
    options
        What the node has.
    name
        Keep key-value table, detached actors and groups, and jobs on disk under this name: the next
        session that is started with it goes on from there, also after a crash of the machine.
    fresh
        Throw away what is kept under the name.
    head
        Be the head: hold the cluster's tables, and print the line with which others join.
    listen
        Where other machines reach this one: HOST:PORT (port 0: any). TLS and a token always.
    address
        Join the cluster whose head listens at HOST:PORT.
    token_file
        A file (mode 0600) with the join line or the token; with --head: where to write the line
        instead of printing it.
    node_name
        What people call this node (default: the machine's name).
    lease
        With --head: how long the others wait for a node that is not heard of before they give it up
        (and a second more), such as 30s; each node lets go of its work by then (default: 10s).
    """
    settings = options.settings()
    values.check_name(name, fresh)
    lease_s = values.lease_s(lease)
    if lease and not (head and listen):
        raise CommandError("--lease is for the head of a cluster, which tells it to the nodes")
    if address:
        if head or name:
            raise CommandError("--address joins a cluster: --head and --name are for its head")
        if not token_file:
            raise CommandError(
                f"joining {address} needs the cluster's token.\nWhat to do: give a file with it to"
                " --token-file (mode 0600), or the whole join line to `shoal join`"
            )
        line = _credentials(lambda: keys.read_token_file(token_file, address))
        return _join(line, listen, node_name, settings)
    if listen and not head:
        raise CommandError(
            "--listen is for the head of a cluster and for nodes that join one.\n"
            "What to do: add --head, or --address and --token-file"
        )
    if (token_file or node_name) and not (head and listen):
        raise CommandError("--token-file and --node-name are for clusters: see --head and --listen")
    if token_file and os.path.lexists(token_file):
        raise CommandError(f"{token_file} exists: the new cluster's token is not written over it")
    root = _free_root()
    if fresh:
        session_dir.forget_kept(root, name)
    found: Callable[[str], Membership] | None = None
    if listen:
        kept = os.path.join(session_dir.kept(root, name), entering.KEYS) if name else ""
        checked = _credentials(lambda: entering.listening(listen))
        found = lambda directory: entering.found(  # noqa: E731
            kept or directory, checked, node_name, settings["labels"], lease_s
        )
    launched = _launch(root, settings, found, name)
    _print_started(launched)
    if listen:
        return _print_join_line(launched, token_file)
    print("Programs join it with shoal.init(); `shoal status` shows it, `shoal stop` ends it.")
    return 0


def join(
    *, options: NodeOptions = DEFAULTS, listen: str = "", address: str = "", node_name: str = ""
) -> int:
    """Make this machine a node of a cluster: reads the join line from standard input.

    Parameters
    ----------
    options
        What the node has.
    listen
        Where other machines reach this one: HOST:PORT (default: it only dials out, as behind NAT).
    address
        Where the head is, if not where the line says.
    node_name
        What people call this node (default: the machine's name).
    """
    settings = options.settings()
    if sys.stdin.isatty():
        print("Paste the join line that `shoal start --head` printed, and press Enter:")
    text = sys.stdin.readline(LINE_BYTES_MOST)
    line = _credentials(lambda: keys.JoinLine.parse(text, address))
    return _join(line, listen, node_name, settings)


# ---- how
def _credentials(read: Callable[[], Any]) -> Any:
    """What ``read`` returns; the errors of keys and addresses are this command's."""
    try:
        return read()
    except (keys.CredentialsError, OSError) as error:
        raise CommandError(str(error)) from None


def _free_root() -> str:
    root = values.root()
    if running := registry.started_sessions(root):
        raise CommandError(
            f"session {running[0].session} is running (pid {running[0].pid}).\n"
            "What to do: join it with init(), end it with `shoal stop`, or set SHOAL_DIR to another"
            " directory for a second one."
        )
    return root


def _launch(
    root: str,
    settings: dict[str, Any],
    enter: Callable[[str], Membership] | None,
    name: str = "",
) -> launch.Launched:
    try:
        return launch.launch(
            root,
            environment.inherited_variables(),
            started=True,
            name=name,
            enter=enter,
            **settings,
        )
    except (keys.CredentialsError, FileExistsError) as error:
        raise CommandError(str(error)) from None


def _first_look(launched: launch.Launched) -> tuple[dict[str, float], dict[str, Any]]:
    """(totals, row of the session); a session that does not answer is given up."""
    try:
        with Observer(launched.socket_path, FIRST_ANSWER_S) as observer:
            total = observer.resources().total
            (row,) = observer.table("session")
            return total, row
    except OSError as error:
        last = launch.startup_failure(launched.settings)
        launch.give_up(launched)
        raise CommandError(f"the session did not start ({error})\n{last}".rstrip()) from None
    except errors.ShoalError as error:  # it has said why and ended
        raise CommandError(str(error)) from None


def _print_started(launched: launch.Launched) -> None:
    total, row = _first_look(launched)
    print(f"Session {launched.settings.session} has started: {report.amounts(total)}.")
    report.print_store(row["store"])


def _print_join_line(launched: launch.Launched, token_file: str) -> int:
    """Say how others join, on the terminal or in a file of our own."""
    membership = launched.settings.membership
    assert membership is not None
    row = _wait_for_state(launched, "listening")
    line = entering.join_line(membership.keys, row["address"]).text()
    _keep(os.path.join(launched.settings.directory, entering.JOIN), line)
    print(f"Other machines reach it at {row['address']} ({row['security']}).")
    if token_file:
        _keep(token_file, line)
        print(f"Its join line is in {token_file}: copy it to another machine and run there")
        print(f"  shoal start --address {row['address']} --token-file {token_file}")
    else:
        print("Run `shoal join` on another machine and paste this line, which holds the secret:\n")
        print(f"{line}\n")
    print("`shoal status` shows the cluster, `shoal stop` ends this node.")
    return 0


def _keep(path: str, line: str) -> None:
    _credentials(lambda: keys.write_private(path, line.encode() + b"\n"))


def _join(line: keys.JoinLine, listen: str, node_name: str, settings: dict[str, Any]) -> int:
    where = _credentials(lambda: entering.listening(listen)) if listen else ""
    root = _free_root()
    enter = lambda directory: entering.enter(  # noqa: E731
        directory, line, where, node_name, settings["labels"]
    )
    launched = _launch(root, settings, enter)
    _print_started(launched)
    row = _wait_for_state(launched, "joined")
    print(f"It is node {row['node_id'][:12]} of the cluster at {row['store_address']}.")
    if not row["address"]:
        print("It only dials out: other nodes reach it through connections that it has made.")
    return 0


def _wait_for_state(launched: launch.Launched, state: str) -> dict[str, Any]:
    """The row of the cluster, once it is ``state``; else the node is ended, and the error says
    why it came to nothing."""
    try:
        return elsewhere.wait_for_state(launched, state)
    except elsewhere.NotJoinedError as error:
        raise CommandError(f"the node did not join: {error}") from None
