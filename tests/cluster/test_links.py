"""Links over real sockets: order, resumption, lives, relay, handing over, and large transfers."""

from __future__ import annotations

import array
import gc
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal._core.link import LinkLimits
from shoal._proto import links
from shoal._proto.links import PieceAsked, Relay
from shoal._runtime.links.bulk import BulkLimits
from shoal._runtime.links.bulk_streams import shut
from shoal._runtime.links.door import Arrival, Door, listen_anywhere
from tests.cluster.members import Cluster, Member, until

A, B, C, HEAD = ("aa" * 16, "bb" * 16, "cc" * 16, "dd" * 16)
QUICK = BulkLimits(range_least_bytes=1 << 20, redial_s=0.02, give_up_s=2.0)


@pytest.fixture()
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


def note(number: int, size: int = 20) -> Relay:
    """A message with a number. Any row serves; one for another member is passed on or dropped, so
    these are sent as what `DialBulk` and its like are not: bodies of the owner."""
    return Relay("", "", number.to_bytes(8, "big").ljust(size, b"."))
