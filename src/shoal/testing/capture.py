"""What goes over a network while something happens, and whether it could be read.

Owns: one program that listens (``capture_program``) and its file, which is ordinary pcap. What the
file holds is read by ``packets``.

1. When ``Capture`` has begun, what follows is seen; when it has ended, what came before is written.
2. ``plaintext`` raises if the kernel has dropped a packet: finding nothing in half of the traffic
   proves nothing.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shoal.testing import packets
from shoal.testing.networks import Network, NetworkError, variables
from shoal.testing.packets import Finding, Stream
from shoal.testing.starting import program


class Capture:
    """All packets between hosts of a network, or of the machine itself; a context manager.

    Args:
        path: The file that is written; others may read it too (``tcpdump -r``).
        network: Whose traffic; None: all that this process could see (needs root).

    Raises:
        NetworkError: one may not listen there.

    Example:
        >>> with Network() as network, Capture(path, network) as capture:  # doctest: +SKIP
        ...     ...
        >>> assert not capture.plaintext([b"a secret of mine"])  # doctest: +SKIP
    """

    def __init__(self, path: Path, network: Network | None = None) -> None:
        self.path = path
        self.written = self.dropped = 0
        """Packets, known at the end."""
        enter: Sequence[str] = [] if network is None else network.enter_switch()
        self._process = subprocess.Popen(
            [*enter, *program("shoal.testing.capture_program", str(path))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=variables(),
        )
        if not self._line():
            _, said = self._process.communicate()
            raise NetworkError(f"packets cannot be seen here: {said.strip()[-300:]}")

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what was seen and stop."""
        if self._process.returncode is not None:
            return
        said, wrong = self._process.communicate("")
        if self._process.returncode:
            raise NetworkError(f"the capture has failed: {wrong.strip()[-300:]}")
        told = json.loads(said)
        self.written, self.dropped = told["written"], told["dropped"]

    def streams(self) -> list[Stream]:
        """What each side of each connection has sent."""
        self.close()
        return packets.streams(packets.frames(self.path))

    def plaintext(self, needles: Iterable[bytes]) -> list[Finding]:
        """Which of ``needles`` anybody on the way could have read, and where.

        Raises:
            NetworkError: packets were dropped, so the capture is no proof.
        """
        self.close()
        if self.dropped:
            raise NetworkError(f"the capture is incomplete: {self.dropped} packets were dropped")
        return packets.search(packets.frames(self.path), needles)

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or "null")
