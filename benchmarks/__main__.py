"""`python -m benchmarks SUITE ...`: run suites, write Markdown and JSON, print the tables.

python -m benchmarks core classic       everything, about half an hour on two cores
python -m benchmarks core --quick       a short look: one round of short windows
python -m benchmarks core --only C11,C12 --no-peers --no-competitors
python -m benchmarks classic            four whole programs, each written four times
python -m benchmarks limits             only what the machine can do
python -m benchmarks publish            put the last results into the README and docs/
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cases import SUITES, suite
from benchmarks.limits import all_limits
from benchmarks.protocol import QUICK, Plan, run_cases
from benchmarks.publish import publish
from benchmarks.report import markdown

RESULTS = Path(__file__).with_name("results")


def is_meant(case_id: str, begin: str) -> bool:
    """`C15` means C15 and C15-1MiB, `C1` does not mean them, `A` means every A."""
    rest = case_id.removeprefix(begin)
    return case_id.startswith(begin) and not (begin[-1].isdigit() and rest[:1].isdigit())


def run_suite(name: str, options: argparse.Namespace) -> bool:
    """Run one suite and write what it measured; whether ours answered everywhere."""
    cases = suite(name)
    if options.only:
        wanted = options.only.split(",")
        cases = [case for case in cases if any(is_meant(case.id, begin) for begin in wanted)]
    if not cases:
        return True
    plan = QUICK if options.quick else Plan()
    plan = replace(plan, peers=options.peers, competitors=options.competitors)
    results = run_cases(cases, plan, options.peers_python)
    RESULTS.mkdir(exist_ok=True)
    failures = [measured["failures"] for measured in results["cases"]]
    if options.update:
        results = updated(json.loads((RESULTS / f"{name}.json").read_text()), results)
        cases = suite(name)
    table = markdown(cases, results)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table)
    print(table)
    ours = ("shoal", "need", "neighbours")
    return not any(side in failed for failed in failures for side in ours)


def updated(last: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The last run's results with the sides that were measured again; it says which."""
    rows = {measured["id"]: measured for measured in last["cases"]}
    for measured in found["cases"]:
        row = rows.setdefault(measured["id"], {"id": measured["id"], "sides": {}, "failures": {}})
        row["sides"].update(measured["sides"])
        for side in measured["sides"]:
            row["failures"].pop(side, None)
        row["failures"].update(measured["failures"])
    again = {
        "cases": [measured["id"] for measured in found["cases"]],
        "sides": sorted({side for measured in found["cases"] for side in measured["sides"]}),
        "load": found["load"],
    }
    return {**last, "cases": list(rows.values()), "again": [*last.get("again", []), again]}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = argparse.BooleanOptionalAction
    parser.add_argument(
        "--update", action="store_true", help="into the last run's results, which keep the rest"
    )
    parser.add_argument("what", nargs="+", choices=[*SUITES, "limits", "publish"])
    parser.add_argument("--quick", action="store_true", help="one round of short windows")
    parser.add_argument("--only", metavar="IDS", help="cases whose ids begin so, with commas")
    parser.add_argument("--peers", action=flag, default=True, help="measure the peers too")
    parser.add_argument(
        "--competitors",
        action=flag,
        default=True,
        help="measure ours also with a busy process per core",
    )
    parser.add_argument(
        "--peers-python", type=Path, metavar="PATH", help="an environment that has the peers"
    )
    options = parser.parse_args()
    answered = []
    for what in options.what:
        if what == "limits":
            for name, (value, unit) in all_limits().items():
                print(f"{name:20} {value:10.4g} {unit}")
        elif what == "publish":
            publish(RESULTS)
        else:
            answered.append(run_suite(what, options))
    if not all(answered):
        sys.exit("a case of ours failed")


if __name__ == "__main__":
    main()
