"""Which tests run here, which do not and why, and which runtime the black-box tests drive.

`@pytest.mark.needs("root", "memory")`: the test is skipped where a capability (capabilities.py) is missing.

PYRUNTIME_MUST_RUN=root,cgroup2,...  a missing one of these (or of "all") fails the test instead, as does any other skip
PYRUNTIME_DEFER=FILE                 tests whose gaps are all in PYRUNTIME_ELSEWHERE=cpu,memory,... are not run but
                                     listed in FILE, each with its gaps: scripts/test runs them where those are none
PYRUNTIME_REPORT=FILE                what passed, failed and was skipped, as JSON (scripts/test adds the places up)
RUNTIME=runc                         the runtime under test; without it the one of this checkout
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType

import pytest

from scripts.lib.environment import checkout_launcher
from tests import capabilities

HANGS = 120  # seconds that no test takes, in the VM either
GAPS = pytest.StashKey[dict[str, str]]()


def must_run() -> set[str]:
    """The capabilities whose absence is a failure; "all" stands for every one."""
    return {name for name in os.environ.get("PYRUNTIME_MUST_RUN", "").split(",") if name}


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and refuse a misspelt switch, which would skip in silence."""
    config.addinivalue_line("markers", "needs(*capabilities): what the machine must be able to do, see capabilities.py")
    if unknown := sorted(name for name in must_run() if name != "all" and not capabilities.known(name)):
        known = ", ".join(capabilities.PROBES)
        raise pytest.UsageError(f"PYRUNTIME_MUST_RUN names {', '.join(unknown)}; there is {known}")


def gaps_of(item: pytest.Item) -> dict[str, str]:
    """The capabilities that a test needs and this machine lacks, each with the reason."""
    names = [name for mark in item.iter_markers("needs") for name in mark.args]
    if unknown := [name for name in names if not capabilities.known(name)]:
        raise pytest.UsageError(f"{item.nodeid} needs {', '.join(unknown)}, which capabilities.py cannot probe")
    return {name: reason for name in names if (reason := capabilities.missing(name))}


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Probe what the collected tests ask for, and at once hand over what another place has to run."""
    for item in items:
        item.stash[GAPS] = gaps_of(item)
    if path := os.environ.get("PYRUNTIME_DEFER"):
        elsewhere = set(os.environ.get("PYRUNTIME_ELSEWHERE", "").split(","))
        deferred = [item for item in items if item.stash[GAPS] and item.stash[GAPS].keys() <= elsewhere]
        part = Path(f"{path}.part")
        part.write_text("".join(f"{item.nodeid}\t{','.join(item.stash[GAPS].keys())}\n" for item in deferred))
        part.rename(path)
        config.hook.pytest_deselected(items=deferred)
        items[:] = [item for item in items if item not in deferred]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs are not met, or fail it where they had to be."""
    gaps = item.stash[GAPS]
    if not gaps:
        return
    told = "; ".join(f"needs {name}: {reason}" for name, reason in gaps.items())
    if must_run() & {"all", *gaps}:
        pytest.fail(f"PYRUNTIME_MUST_RUN: {told}", pytrace=False)
    pytest.skip(told)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A hang fails its test and lets the others run: a container that nobody ends may keep a pipe open for ever."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"{item.nodeid} hangs: not done after {HANGS} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANGS)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


UNEXPLAINED = "PYRUNTIME_MUST_RUN: skipped without the `needs` marker, so nobody would notice that it never runs: "


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under PYRUNTIME_MUST_RUN a test that skips by itself fails: only `needs` is an accepted reason."""
    report = yield
    if report.skipped and must_run() and not item.stash[GAPS] and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = UNEXPLAINED + str(report.longrepr)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself while it is imported."""
    report = yield
    if report.skipped and must_run():
        report.outcome = "failed"
        report.longrepr = UNEXPLAINED + str(report.longrepr)
    return report


def skipped_by_reason(reporter: pytest.TerminalReporter) -> dict[str, list[str]]:
    """Reason -> the tests that were not run for it."""
    reasons: dict[str, list[str]] = {}
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    return reasons


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what did not run and why; a skip nobody reads is a test nobody has."""
    reasons = skipped_by_reason(terminalreporter)
    if reasons:
        terminalreporter.section("not run here")
        for reason, tests in sorted(reasons.items()):
            terminalreporter.line(f"{len(tests):4} {reason}")
            for test in tests[:3]:
                terminalreporter.line(f"       {test}")
            if tests[3:]:
                terminalreporter.line(f"       and {len(tests) - 3} more")
    if path := os.environ.get("PYRUNTIME_REPORT"):
        counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
        Path(path).write_text(json.dumps({**counts, "reasons": reasons}))


@pytest.fixture(scope="session")
def runtime() -> Iterator[str]:
    """The path of the runtime under test: $RUNTIME, or this checkout's own."""
    if chosen := os.environ.get("RUNTIME"):
        path = shutil.which(chosen)
        if path is None:
            pytest.fail(f"RUNTIME={chosen} is not to be found", pytrace=False)
        yield path
    else:
        with tempfile.TemporaryDirectory(prefix="pyruntime-tests-") as folder:  # not pytest's, which is root's alone
            os.chmod(folder, 0o755)
            yield str(checkout_launcher(Path(folder), sys.executable))
