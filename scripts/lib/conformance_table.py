"""docs/conformance.md: which test of runtime-tools passes where with which runtime, and why ours fail."""

from __future__ import annotations

import json
from typing import Any

from scripts.lib.conformance_reasons import REASONS
from scripts.lib.steps import CHECKOUT, cache_path, say

PAGE = CHECKOUT / "docs/conformance.md"
PLACES = ("host", "VM")
RUNTIMES = ("pyruntime", "runc", "crun")
COLUMNS = [(runtime, place) for runtime in RUNTIMES for place in PLACES]

HEAD = """\
# Conformance

The validation suite of runtime-tools ({suite}, Debian's source), each test a program of its own, as
`sudo scripts/conformance runtime-tools --write` ran it on a host (kernel {kernel}, cgroup v2 with hardly a
controller), and with `--vm` in the test VM, whose cgroups have all of them. A test passes if each of its results does.
The script wrote this page; the reasons are kept in `scripts/lib/conformance_reasons.py`.

Where a runtime cannot start a container at all, as crun 1.8 on that host, only tests that want an error pass.

"""


def write(place: str, results: dict[str, Any]) -> None:
    """Keep a place's results, and write the page from all that are kept."""
    kept = {name: cache_path() / f"conformance-{name}.json" for name in PLACES}
    kept[place].write_text(json.dumps(results))
    places = {name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()}
    PAGE.write_text(page(places))
    say(f"wrote {PAGE}; still to run: {[name for name in PLACES if name not in places] or 'nothing'}")


def page(places: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    some = next(iter(places.values()))
    kernel = places.get("host", {}).get("kernel") or "not run"
    lines = [HEAD.format(suite=some["suite"], kernel=kernel)]
    for place, results in places.items():
        lines.append(f"- {place}: " + ", ".join(results["versions"].values()) + "\n")
    lines.append(
        "\n| Test | " + " | ".join(f"{runtime}, {place}" for runtime, place in COLUMNS) + " | Why ours fails |\n"
    )
    lines.append("| --- |" + " --- |" * len(COLUMNS) + " --- |\n")
    tests = sorted({test for results in places.values() for test in results["tests"]})
    lines += [row(test, places) for test in tests]
    totals = [str(sum(outcome(places, test, *column) == "pass" for test in tests)) for column in COLUMNS]
    lines.append(f"| **of {len(tests)} pass** | " + " | ".join(totals) + " | |\n")
    return "".join(lines)


def outcome(places: dict[str, dict[str, Any]], test: str, runtime: str, place: str) -> str:
    """A test's outcome, or "-" where it was not run."""
    verdict = places.get(place, {}).get("tests", {}).get(test, {}).get(runtime)
    return str(verdict[0]) if verdict else "-"


def row(test: str, places: dict[str, dict[str, Any]]) -> str:
    """The table's line for a test. A failure of ours without a known reason shows what the test said."""
    cells = [outcome(places, test, *column) for column in COLUMNS]
    why = ""
    if "fail" in cells[: len(PLACES)]:
        said = [reason for place in places.values() for reason in place["tests"][test]["pyruntime"][1]]
        why = REASONS.get(test) or "not looked into: " + said[0].replace("|", "\\|").replace("\n", " ")
    shown = [f"**{cell}**" if cell == "fail" else cell for cell in cells]
    return f"| {test} | " + " | ".join(shown) + f" | {why} |\n"
