"""docs/conformance-runc.md: what of runc's integration suite passes where, with us and with runc, and why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from scripts.lib.runc_reasons import NOBODY, REASONS, WAITING
from scripts.lib.steps import CHECKOUT, cache_path, say

PAGE = CHECKOUT / "docs/conformance-runc.md"
PLACES = ("host", "VM")
OURS, THEIRS = "pyruntime", "runc"

HEAD = """\
# runc's integration suite

The bats files of runc {suite} (Debian's source) as `sudo scripts/conformance runc --write` ran them against pyruntime
and runc on a host (kernel {kernel}, cgroup v2 with hardly a controller), and with `--vm` in the test VM, whose cgroups
have all of them. The script wrote this page; the reasons are kept in `scripts/lib/runc_reasons.py`.

It is the suite of Debian 13's runc, which is the one in the VM; on the host the same files run against Debian 12's. No
test is changed. The busybox and Debian images that the suite downloads are made here, of Debian's packages, and its
helpers (recvtty, sd-helper, seccompagent) are built with Debian's Go. All runs as root, without systemd.

"""


def write(place: str, results: dict[str, Any]) -> None:
    """Keep a place's results, beside those of runtimes that were not run this time, and write the page."""
    kept = {name: cache_path() / f"conformance-runc-{name}.json" for name in PLACES}
    if kept[place].exists():
        results = merged(json.loads(kept[place].read_text()), results)
    kept[place].write_text(json.dumps(results))
    places = {name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()}
    PAGE.write_text("".join(page(places)))
    say(f"wrote {PAGE}; still to run: {[name for name in PLACES if name not in places] or 'nothing'}")


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new results; of runtimes and tests that they do not have, the old."""
    tests = {name: {**old["tests"].get(name, {}), **row} for name, row in new["tests"].items()}
    return {**new, "versions": {**old["versions"], **new["versions"]}, "tests": {**old["tests"], **tests}}


def page(places: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The page, in parts."""
    some = next(iter(places.values()))
    yield HEAD.format(suite=some["suite"], kernel=places.get("host", {}).get("kernel") or "not run")
    for place, results in places.items():
        yield f"- {place}: " + ", ".join(results["versions"].values()) + "\n"
    tests = sorted({test for results in places.values() for test in results["tests"]})
    yield "\nPassed, of the tests that each file has:\n\n"
    yield from totals(places, [test for test in tests if file_of(test) not in WAITING])
    yield "\n## Files that wait for what is not served yet\n\n"
    yield from totals(places, [test for test in tests if file_of(test) in WAITING])
    yield "\nThey are about " + ", ".join(f"{what} ({name})" for name, what in sorted(WAITING.items()))
    yield ".\nTests of systemd, in any file, are skipped by the suite itself; so is all that needs criu in the VM.\n"
    yield "\n## What runc passes and we do not\n\n| Test | Where | Why |\n| --- | --- | --- |\n"
    yield from differences(places, tests)
    yield "\n## What we pass and runc does not\n\n"
    yield from advantages(places, tests)
    yield "\n## What passes with neither\n\n| Why | Where | Tests |\n| --- | --- | --- |\n"
    yield from barren(places, tests)


def file_of(test: str) -> str:
    """The file of a test."""
    return test.partition(": ")[0]


def outcome(places: dict[str, dict[str, Any]], place: str, test: str, runtime: str) -> str:
    """A test's outcome, or "-" where it was not run."""
    verdict = places.get(place, {}).get("tests", {}).get(test, {}).get(runtime)
    return str(verdict[0]) if verdict else "-"


def totals(places: dict[str, dict[str, Any]], tests: list[str]) -> Iterator[str]:
    """The table by files. What counts for the last column is what runc passes in that place."""
    columns = [(place, runtime) for place in PLACES for runtime in (OURS, THEIRS)]
    yield "| File | Tests | " + " | ".join(f"{runtime}, {place}" for place, runtime in columns)
    yield " | of what runc passes |\n| --- | --- |" + " --- |" * len(columns) + " --- |\n"
    for name in sorted({file_of(test) for test in tests}):
        yield total_row(places, name, [test for test in tests if file_of(test) == name])
    yield total_row(places, "**all**", tests)


def total_row(places: dict[str, dict[str, Any]], name: str, tests: list[str]) -> str:
    """A line of `totals`."""
    cells = [name, str(len(tests))]
    theirs = both = 0
    for place in PLACES:
        rows = [(outcome(places, place, test, OURS), outcome(places, place, test, THEIRS)) for test in tests]
        cells += [str(sum(row[number] == "pass" for row in rows)) for number in (0, 1)]
        theirs += sum(row[1] == "pass" for row in rows)
        both += rows.count(("pass", "pass"))
    share = f"{both} of {theirs}" + (f" ({100 * both // theirs} %)" if theirs else "")
    return f"| {' | '.join(cells)} | {share} |\n"


def differences(places: dict[str, dict[str, Any]], tests: list[str]) -> Iterator[str]:
    """A line for each test that runc passes somewhere where we do not."""
    for test in tests:
        where = [place for place in PLACES if lost(places, place, test)]
        if where and file_of(test) not in WAITING:
            said = places[where[0]]["tests"][test][OURS][1]
            why = REASONS.get(test) or "not looked into: " + "; ".join(said[:2])
            yield f"| {escaped(test)} | {', '.join(where)} | {escaped(why)} |\n"


def lost(places: dict[str, dict[str, Any]], place: str, test: str) -> bool:
    """Whether runc passes a test in a place and we do not."""
    return outcome(places, place, test, THEIRS) == "pass" and outcome(places, place, test, OURS) != "pass"


def advantages(places: dict[str, dict[str, Any]], tests: list[str]) -> Iterator[str]:
    """A line for each test that we pass somewhere where runc does not."""
    for test in tests:
        ahead = [
            place
            for place in PLACES
            if outcome(places, place, test, OURS) == "pass" and outcome(places, place, test, THEIRS) == "fail"
        ]
        if ahead:
            yield f"- {test} ({', '.join(ahead)})\n"


def barren(places: dict[str, dict[str, Any]], tests: list[str]) -> Iterator[str]:
    """Reasons, each with the tests that neither passes for it: the suite's own words for what it skips, or ours."""
    found: dict[str, dict[str, list[str]]] = {}
    for place in PLACES:
        for test in tests:
            outcomes = {outcome(places, place, test, runtime) for runtime in (OURS, THEIRS)}
            if outcomes <= {"skip", "fail"} and file_of(test) not in WAITING:
                found.setdefault(why_barren(places, place, test), {}).setdefault(place, []).append(test)
    for why, by_place in sorted(found.items()):
        rows: dict[str, list[str]] = {}
        for place, names in by_place.items():
            rows.setdefault("; ".join(names), []).append(place)
        for shown, where in rows.items():
            yield f"| {escaped(why)} | {', '.join(where)} | {escaped(shown)} |\n"


def why_barren(places: dict[str, dict[str, Any]], place: str, test: str) -> str:
    """Why a test passes with neither."""
    kind, said = places[place]["tests"][test][THEIRS]
    if kind == "skip":
        return f"skipped: {said[0]}"
    return NOBODY[place].get(test) or "not looked into: " + "; ".join(said[:2])


def escaped(text: str) -> str:
    """The text for a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
