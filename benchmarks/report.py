"""Renders measured cases as Markdown: figures of ours, and ratios to the best peer and the limit.

Only ratios mean anything on another machine; the absolute figures are there to make them checkable.
"""

from __future__ import annotations

from typing import Any

from benchmarks.case import Case
from benchmarks.limits import rates
from benchmarks.protocol import OURS

NAMES = {"shoal": "Shoal", "ray": "Ray", "multiprocessing": "mp.Pool", "executor": "Executor"}
PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def rate(value: float) -> str:
    """1234567 -> `1.23 M`."""
    for size, prefix in PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """0.00123 -> `1.23 ms`."""
    if seconds is None:
        return "unknown"
    for size, unit in TIMES:
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def ratio(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f} x" if value >= 10 else f"{value:.2g} x"


def row(case: Case, measured: dict[str, Any], limit_rates: dict[str, float]) -> list[str]:
    sides, failures = measured["sides"], measured["failures"]
    question = f"{case.question} ({case.unit}/s)"
    ours = sides.get(OURS)
    if ours is None:
        return [case.id, question, f"failed: {failures.get(OURS, '')}", *["–"] * 8]
    peers = {side: found["median"] for side, found in sides.items() if side != OURS}
    best = max(peers, key=lambda side: peers[side]) if peers else None
    limit = limit_rates.get(case.limit) if case.limit else None
    ray = peers.get("ray")
    spread = f"{rate(ours['median'])} ({rate(ours['p10'])}–{rate(ours['p90'])})"
    latency = f"{duration(ours['p50_s'])} / {duration(ours['p99_s'])}" if "p50_s" in ours else "–"
    cpu = [duration(sides[s]["cpu_s_per_operation"]) for s in (OURS, "ray") if s in sides]
    verdict = "–"
    if case.floor is not None:
        reached = [
            name for name in ("floor", "aim") if ours["median"] >= (getattr(case, name) or 0)
        ]
        verdict = reached[-1] if reached else f"below the floor ({rate(case.floor)})"
    return [
        case.id,
        question,
        spread,
        latency,
        ratio(ours["median"] / ray if ray else None),
        f"{NAMES.get(best, best)} {rate(peers[best])}" if best else "–",
        ratio(ours["median"] / peers[best] if best else None),
        f"{case.limit} {ratio(ours['median'] / limit)}" if limit else "–",
        " / ".join(cpu),
        " / ".join(f"{sides[s]['pss_bytes'] / 1e6:.0f}" for s in (OURS, "ray") if s in sides),
        verdict,
    ]


HEADINGS = [
    "id",
    "work (unit counted)",
    "Shoal, median (p10–p90)",
    "p50 / p99",
    "ours / Ray",
    "best peer",
    "ours / best peer",
    "ours / limit",
    "CPU per operation, ours / Ray",
    "PSS in MB, ours / Ray",
    "reached",
]


def markdown(cases: list[Case], results: dict[str, Any]) -> str:
    """The whole table with what is needed to read it."""
    by_id = {case.id: case for case in cases}
    limit_rates = rates({name: (value, unit) for name, (value, unit) in results["limits"].items()})
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for measured in results["cases"]:
        if measured["id"] in by_id:
            cells = row(by_id[measured["id"]], measured, limit_rates)
            lines.append("| " + " | ".join(cells) + " |")
    for measured in results["cases"]:
        for side, why in measured["failures"].items():
            lines += ["", f"{measured['id']}: a run of {side} failed ({why})."]
    machine, versions, plan = results["machine"], results["versions"], results["plan"]
    limits = ", ".join(f"{name} {v:.3g} {unit}" for name, (v, unit) in results["limits"].items())
    installed = ", ".join(f"{name} {number}" for name, number in versions.items())
    load = results["load"]
    lines += [
        "",
        f"Measured {results['date']} on {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gb']} GB, Linux {machine['kernel']}; {installed}; "
        f"{plan['rounds']} rounds of {plan['windows']} windows of {plan['window_s']} s; "
        f"load average {load['before'][0]:.1f} before, {load['after'][0]:.1f} after. "
        f"Limits of the machine in the same run: {limits}.",
    ]
    return "\n".join(lines) + "\n"


def short_markdown(cases: list[Case], results: dict[str, Any]) -> str:
    """The few columns that the README shows."""
    chosen = (0, 1, 2, 3, 4, 6)
    by_id = {case.id: case for case in cases}
    limit_rates = rates({name: (value, unit) for name, (value, unit) in results["limits"].items()})
    lines = [
        "| " + " | ".join(HEADINGS[i] for i in chosen[1:]) + " |",
        "|" + "---|" * (len(chosen) - 1),
    ]
    for measured in results["cases"]:
        if measured["id"] in by_id:
            cells = row(by_id[measured["id"]], measured, limit_rates)
            lines.append("| " + " | ".join(cells[i] for i in chosen[1:]) + " |")
    return "\n".join(lines) + "\n"
