"""Renders measured cases as Markdown: figures of ours, and ratios to the best peer and the limit.

Only ratios mean anything on another machine; the absolute figures are there to make them checkable.
"""

from __future__ import annotations

from typing import Any

from benchmarks.case import Case, Share
from benchmarks.protocol import SHOAL, TOO_LATE
from benchmarks.verdict import CPU_LIMIT, NO_PEERS, Row, Run

NAMES = {
    "shoal": "Shoal",
    "ray": "Ray",
    "multiprocessing": "mp.Pool",
    "executor": "Executor",
    "dask": "Dask",
}
PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
PLACES = ("alone", "neighbours")


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


def size(n_bytes: float) -> str:
    """12345678 -> `12.3 MB`."""
    return f"{rate(n_bytes)}B" if n_bytes >= 1e3 else f"{n_bytes:.3g} B"


def figure(case: Case, value: float | None) -> str:
    """A value of the case, with the unit of its quantity."""
    if value is None:
        return "–"
    return {"rate": rate, "time": duration, "bytes": size}[case.quantity](value)


def ratio(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f} x" if value >= 10 else f"{value:.2g} x"


def question(case: Case) -> str:
    return f"{case.question} ({case.unit}/s)" if case.quantity == "rate" else case.question


def spread(case: Case, found: dict[str, Any]) -> str:
    low, high = figure(case, found["p10"]), figure(case, found["p90"])
    return f"{figure(case, found['median'])} ({low}–{high})"


def against_need(row: Row, place: str) -> str:
    """CPU as a multiple of the need; in bold where it is over the limit."""
    found = row.of_need(place)
    if found is None:
        return "–"
    return f"**{found:.2g}**" if found > CPU_LIMIT else f"{found:.2g}"


def mark(case: Case, wanted: float | Share | None) -> str:
    """A floor or an aim as it was asked for."""
    if not isinstance(wanted, Share):
        return figure(case, wanted)
    return f"{wanted.factor:.2g} x {wanted.limit or NAMES.get(wanted.side, wanted.side)}"


def cells(row: Row) -> dict[str, str]:
    """Every column of one row, by its heading."""
    case, ours, beside = row.case, row.side(SHOAL), row.side("neighbours")
    if ours is None:
        failed = f"failed: {row.measured['failures'].get(SHOAL, '')}"
        return {
            "id": case.id,
            "work (unit counted)": question(case),
            "Shoal": failed,
            "Shoal, median (p10–p90)": failed,
        }
    best = row.best_peer()
    peers = row.peers()
    ray = row.side("ray")
    cpu = [duration(found["cpu_s_per_operation"]) for found in (ours, ray) if found]
    pss = [f"{found['pss_bytes'] / 1e6:.0f}" for found in (ours, ray) if found]
    latency = f"{duration(ours['p50_s'])} / {duration(ours['p99_s'])}" if "p50_s" in ours else "–"
    none = ", ".join(
        f"{NAMES.get(side, side)}: {why}"
        for side, why in row.measured["failures"].items()
        if side not in peers and side not in NO_PEERS and why.startswith(TOO_LATE)
    )
    against_limit = ratio(row.better(ours["median"], row.limit()))
    return {
        "id": case.id,
        "work (unit counted)": question(case),
        "Shoal": figure(case, ours["median"]),
        "Shoal, median (p10–p90)": spread(case, ours),
        "p50 / p99": latency,
        "with neighbours": figure(case, beside["median"]) if beside else "–",
        "floor; aim": f"{mark(case, case.floor)}; {mark(case, case.aim)}" if case.floor else "–",
        "reached": " / ".join(row.reached(place) for place in PLACES),
        "ours / Ray": ratio(row.better(ours["median"], peers.get("ray"))),
        "best peer": f"{NAMES.get(best, best)} {figure(case, peers[best])}"
        if best
        else none or "–",
        "ours / best peer": ratio(row.better(ours["median"], peers[best]) if best else None),
        "ours / limit": against_limit,
        "CPU per operation, ours / Ray": " / ".join(cpu),
        "CPU / need": " / ".join(against_need(row, place) for place in PLACES),
        "PSS in MB, ours / Ray": " / ".join(pss),
    }


WHOLE = (
    "id",
    "work (unit counted)",
    "Shoal, median (p10–p90)",
    "p50 / p99",
    "with neighbours",
    "floor; aim",
    "reached",
    "ours / Ray",
    "best peer",
    "ours / best peer",
    "ours / limit",
    "CPU per operation, ours / Ray",
    "CPU / need",
    "PSS in MB, ours / Ray",
)
SHORT = (
    "work (unit counted)",
    "Shoal",
    "with neighbours",
    "reached",
    "ours / Ray",
    "ours / best peer",
    "ours / limit",
    "CPU / need",
)


def table(headings: tuple[str, ...], rows: list[dict[str, str]]) -> list[str]:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for row in rows:
        lines.append("| " + " | ".join(row.get(heading, "–") for heading in headings) + " |")
    return lines


def circumstances(results: dict[str, Any]) -> str:
    """Date, machine, versions and limits: what is needed to read the table."""
    machine, versions, plan = results["machine"], results["versions"], results["plan"]
    installed = ", ".join(f"{name} {number}" for name, number in versions.items())
    load = results["load"]
    return (
        f"Measured {results['date']} on {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gb']} GB, Linux {machine['kernel']}; {installed}; "
        f"{plan['rounds']} turns of {plan['windows']} windows of {plan['window_s']} s; "
        f"load average {load['before'][0]:.1f} before, {load['after'][0]:.1f} after."
        + "".join(
            f" Measured again afterwards ({', '.join(again['sides'])}):"
            f" {', '.join(again['cases'])}; load average {again['load']['before'][0]:.1f} before,"
            f" {again['load']['after'][0]:.1f} after."
            for again in results.get("again", [])
        )
    )


def limit_figure(value: float, unit: str) -> str:
    return duration(value / 1e6) if unit == "us" else f"{value:.3g} {unit}"


def limits_table(results: dict[str, Any]) -> list[str]:
    """What the machine could do at best in the same run."""
    alone, beside = (results["limits"].get(place, {}) for place in PLACES)
    rows = []
    for name, (value, unit) in alone.items():
        other = beside.get(name)
        rows.append(
            {
                "limit": name,
                "alone": limit_figure(value, unit),
                "with neighbours": limit_figure(*other) if other else "–",
            }
        )
    return table(("limit", "alone", "with neighbours"), rows)


def run_of(cases: list[Case], results: dict[str, Any]) -> Run:
    return Run({case.id: case for case in cases}, results)


def failures(run: Run) -> list[str]:
    lines = []
    for row in run.rows():
        for side, why in row.measured["failures"].items():
            lines += ["", f"{row.case.id}: a run of {NAMES.get(side, side)} failed ({why})."]
    return lines


def markdown(cases: list[Case], results: dict[str, Any]) -> str:
    """The whole table with what is needed to read it."""
    run = run_of(cases, results)
    lines = table(WHOLE, [cells(row) for row in run.rows()])
    missing = [case.id for case in cases if run.row(case.id) is None]
    if missing:
        lines += ["", f"Not measured in this run: {', '.join(missing)}."]
    lines += [*failures(run), "", circumstances(results), "", *limits_table(results)]
    return "\n".join(lines) + "\n"


def short_markdown(cases: list[Case], results: dict[str, Any]) -> str:
    """Every case in the few columns that the README shows."""
    lines = table(SHORT, [cells(row) for row in run_of(cases, results).rows()])
    return "\n".join([*lines, "", circumstances(results)]) + "\n"


def least_markdown(cases: list[Case], results: dict[str, Any]) -> str:
    """What the hardware must do at least for each case, and how far ours is from it."""
    rows = []
    for row in run_of(cases, results).rows():
        if row.case.least:
            ours = row.median(SHOAL)
            rows.append(
                {
                    "id": row.case.id,
                    "at least": f"{row.case.least} (`{row.case.limit}`)",
                    "limit": per_operation(row.case, row.limit()),
                    "Shoal": per_operation(row.case, ours),
                    "ours / limit": ratio(row.better(ours, row.limit())),
                }
            )
    return "\n".join(table(("id", "at least", "limit", "Shoal", "ours / limit"), rows)) + "\n"


def per_operation(case: Case, value: float | None) -> str:
    """As a time where a rate of single operations says little."""
    if value is None or case.quantity != "rate":
        return figure(case, value)
    return f"{figure(case, value)} GB/s" if case.unit == "GB" else duration(1.0 / value)


def needs_markdown(cases: list[Case], results: dict[str, Any]) -> str:
    """What is taken for the CPU time that each case's calls need."""
    rows = []
    for row in run_of(cases, results).rows():
        if row.case.need is not None:
            used = row.side(SHOAL)
            rows.append(
                {
                    "id": row.case.id,
                    "the need is that of": row.case.need.why,
                    "need": duration(row.need_s()),
                    "used alone": duration(used["cpu_s_per_operation"] if used else None),
                    "CPU / need, alone / with neighbours": cells(row).get("CPU / need", "–"),
                }
            )
    headings = tuple(rows[0]) if rows else ()
    return "\n".join(table(headings, rows)) + "\n"


def peers_markdown(cases: list[Case], results: dict[str, Any]) -> str:
    """Every side of every case that has peers."""
    rows, sides = [], ["shoal"]
    for row in run_of(cases, results).rows():
        peers = row.peers()
        if peers:
            sides += [side for side in peers if side not in sides]
            shown = {NAMES.get(side, side): figure(row.case, peers[side]) for side in peers}
            shown["Shoal"] = figure(row.case, row.median(SHOAL))
            rows.append({"id": row.case.id, **shown})
    return "\n".join(table(("id", *(NAMES.get(side, side) for side in sides)), rows)) + "\n"
