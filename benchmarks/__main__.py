"""`python -m benchmarks SUITE`: run a suite, write Markdown and JSON, print the table.

python -m benchmarks core               everything, about ten minutes on two cores
python -m benchmarks core --quick       a short look: one round of short windows
python -m benchmarks core --only C11,C12 --no-peers
python -m benchmarks classic            program 13: three comparisons with multiprocessing
python -m benchmarks limits             only what the machine can do
python -m benchmarks publish            put the last results into the README and docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.cases import SUITES, suite
from benchmarks.limits import all_limits
from benchmarks.protocol import QUICK, Plan, run_cases
from benchmarks.publish import publish
from benchmarks.report import markdown

RESULTS = Path(__file__).with_name("results")


def run_suite(options: argparse.Namespace) -> None:
    cases = suite(options.what)
    if options.only:
        wanted = options.only.split(",")
        cases = [case for case in cases if any(case.id.startswith(prefix) for prefix in wanted)]
    plan = QUICK if options.quick else Plan()
    if options.no_peers:
        plan = Plan(**{**vars(plan), "peers": False})
    results = run_cases(cases, plan, options.peers_python)
    RESULTS.mkdir(exist_ok=True)
    table = markdown(cases, results)
    (RESULTS / f"{options.what}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"{options.what}.md").write_text(table)
    print(table)
    if any("shoal" in measured["failures"] for measured in results["cases"]):  # type: ignore
        sys.exit("a case of ours failed")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=[*SUITES, "limits", "publish"])
    parser.add_argument("--quick", action="store_true", help="one round of short windows")
    parser.add_argument("--only", metavar="IDS", help="cases whose ids begin so, with commas")
    parser.add_argument("--no-peers", action="store_true", help="only our own side")
    parser.add_argument(
        "--peers-python", type=Path, metavar="PATH", help="an environment that has the peers"
    )
    options = parser.parse_args()
    if options.what == "limits":
        for name, (value, unit) in all_limits().items():
            print(f"{name:20} {value:10.4g} {unit}")
    elif options.what == "publish":
        publish(RESULTS)
    else:
        run_suite(options)


if __name__ == "__main__":
    main()
