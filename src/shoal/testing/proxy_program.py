"""The fault proxy as a program: ``python -m shoal.testing.proxy_program --to 127.0.0.1:5000``.

It says where it listens, then does what it is told, one JSON object per line, and answers each with
one line. It ends with its standard input, so it never outlives whoever started it::

    > {"do": "set", "toward": "down", "faults": {"delay_s": 0.2}, "peer": "10.77.0.2"}
    < {"done": null}
    > {"do": "figures"}
    < {"done": {"accepted": 3, ...}}
    > {"do": "cut", "toward": "both"}     heal, reset, half_open (with "stays") and so on: the
    < {"done": null}                      methods of ``FaultProxy``, with their arguments
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from shoal.testing.lanes import Faults
from shoal.testing.proxy import FaultProxy
from shoal.testing.relays import Address

METHODS = ("set", "cut", "heal", "reset", "half_open", "figures")


def main(words: list[str]) -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="shoal.testing.proxy_program", description=__doc__)
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 0))
    parser.add_argument("--to", type=address, help="default: what iptables has redirected")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mark", type=int, default=0)
    given = parser.parse_args(words)
    try:
        proxy = FaultProxy(given.to, given.listen, seed=given.seed, mark=given.mark)
    except OSError as error:
        print(f"the fault proxy cannot listen at {given.listen}: {error}", file=sys.stderr)
        return 1
    with proxy:
        print(json.dumps({"done": proxy.address}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(proxy, line)), flush=True)
    return 0


def address(text: str) -> Address:
    """The meaning of HOST:PORT."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def answer(proxy: FaultProxy, line: str) -> dict[str, Any]:
    """Do what one line says."""
    try:
        told = json.loads(line)
        method = told.pop("do")
        if method not in METHODS:
            raise ValueError(f"there is no {method!r}; there are {', '.join(METHODS)}")
        if "faults" in told:
            told["faults"] = Faults(**told["faults"])
        return {"done": getattr(proxy, method)(**told)}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
