"""The packet filter of one host of a test's network, as a text for ``iptables-restore``: pure.

Owns: what is wrong with what a host hears from each other one, and the rules that make it so. The
whole filter is written at once, so rules can neither pile up nor be forgotten.

What each rule does to a packet that arrives from a faulty sender, in this order: a cut drops it, a
loss drops it sometimes, a reset answers it with RST (the receiver's program is not told: it learns
of it when it sends). The host's own proxy takes what programs want to connect to; the proxy's own
packets carry a mark, and go out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class FaultsOfWay:
    """What is wrong with packets from one host to another."""

    is_cut: bool = False
    loss: float = 0.0
    resets_per_s: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss is a share from 0 to 1, not {self.loss!r}")
        if not 0 <= self.resets_per_s <= 10_000:
            raise ValueError(f"resets_per_s is from 0 to 10,000, not {self.resets_per_s!r}")


@dataclass
class FaultsOfHost:
    """By the ip of who sends."""

    by_sender: dict[str, FaultsOfWay] = field(default_factory=dict)

    def change(self, ip: str, **changes: object) -> None:
        """Other faults of what comes from ``ip``; those not named stay."""
        now = self.by_sender.get(ip, FaultsOfWay())
        self.by_sender[ip] = replace(now, **changes)  # type: ignore[arg-type]

    def forget(self, ip: str) -> bool:
        """Nothing is wrong any more with what comes from ``ip``; whether something was."""
        return self.by_sender.pop(ip, None) is not None


def filter_text(faults: FaultsOfHost, net: str, proxy_port: int, mark: int) -> str:
    """What ``iptables-restore`` reads; ``proxy_port`` 0: there is no proxy."""
    lines = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
    for ip, way in sorted(faults.by_sender.items()):
        lines += (f"-A INPUT -s {ip} {rule}" for rule in _rules(way))
    lines.append("COMMIT")
    if proxy_port:
        redirect = f"-m mark ! --mark {mark} -j REDIRECT --to-ports {proxy_port}"
        lines += [
            "*nat",
            ":PREROUTING ACCEPT [0:0]",
            ":INPUT ACCEPT [0:0]",
            ":OUTPUT ACCEPT [0:0]",
            ":POSTROUTING ACCEPT [0:0]",
            f"-A OUTPUT -o eth0 -p tcp -d {net} {redirect}",
            "COMMIT",
        ]
    return "\n".join(lines) + "\n"


def _rules(way: FaultsOfWay) -> list[str]:
    rules = []
    if way.is_cut:
        rules.append("-j DROP")
    if way.loss:
        rules.append(f"-m statistic --mode random --probability {way.loss:.6f} -j DROP")
    if way.resets_per_s:
        limit = f"-m limit --limit {way.resets_per_s}/second --limit-burst 1"
        rules.append(f"-p tcp {limit} -j REJECT --reject-with tcp-reset")
    return rules
