"""What every test gets: its own session, no leftovers, and rules for skipping.

* A skipped test fails the run unless `tests/tidy/exceptions.toml` lists it with a reason.
* The list of exceptions is printed at the end of every run that checks them, so that it is read.
* Sessions that a test leaves open are shut down after it: the next test starts from nothing.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterator

import pytest

from tests.tidy.sources import exempts

_unlisted_skips: list[str] = []
_checked_rules: list[str] = []


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """Whatever a test did, it does not hand its session to the next one."""
    yield
    driver = sys.modules.get("shoal._runtime.driver")  # else no session can have been started
    if driver is not None and driver.is_initialized():
        driver.shutdown()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _note_skip(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _note_skip(report.nodeid)


def _note_skip(test: str) -> None:
    listed = [exempt.where for exempt in exempts() if exempt.rule == "skipped_test"]
    if not any(fnmatch.fnmatchcase(test, where) for where in listed):
        _unlisted_skips.append(test)


def pytest_collection_finish(session: pytest.Session) -> None:
    _checked_rules[:] = [item.name for item in session.items if item.path.parent.name == "tidy"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unlisted_skips and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = exempts()
    if rows and _checked_rules:
        terminalreporter.section("exceptions to the rules (tests/tidy/exceptions.toml)")
        for row in rows:
            terminalreporter.line(f"{row.rule}: {row.where}: {row.reason}")
    if _unlisted_skips:
        terminalreporter.section("skipped without being listed: this fails the run", red=True)
        for test in _unlisted_skips:
            terminalreporter.line(test)
