"""Container engines that drive the runtime: Debian's packages in a test VM of their own, and tests/engines there.

With runc in the runtime's place first: a test that runc fails is wrong, or says why.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from scripts.lib import vm
from scripts.lib.engine_reasons import REASONS
from scripts.lib.steps import CHECKOUT, cache_path, die, say

# What each engine takes besides the test VM's own packages, runc and crun among them.
PACKAGES = {"containerd": ["containerd"], "podman": ["podman"], "docker": ["docker.io", "docker-cli"]}
RUNTIMES = ("runc", "pyruntime", "crun")
PAGE = CHECKOUT / "docs/engines.md"
JUNIT, VERSIONS = "junit.xml", "versions"  # what comes back from a VM

Verdict = tuple[str, str]  # "pass", "fail" or "skip", and why
Verdicts = dict[str, Verdict]  # by the test's name


def main(engine: str, arguments: Sequence[str]) -> int:
    """`scripts/conformance ENGINE`: 0 if all tests pass with pyruntime."""
    usage = f"conformance {engine} [--runtime NAME] [--systemd] [--write] [PYTEST ARGUMENTS]"
    parser = argparse.ArgumentParser(prog=f"conformance {engine}", description=__doc__, usage=usage)
    parser.add_argument("--runtime", action="append", default=[], metavar="NAME", choices=RUNTIMES, help="only this")
    parser.add_argument("--systemd", action="store_true", help="systemd manages the VM (nothing is written)")
    parser.add_argument("--write", action="store_true", help="write the results into docs/engines.md")
    options, pytest = parser.parse_known_args(arguments)
    with vm.scratch_folder() as name:
        runtimes = options.runtime or RUNTIMES
        results = {runtime: run(engine, runtime, pytest, Path(name), options.systemd) for runtime in runtimes}
        if options.write and not options.systemd:
            write(engine, results, complete=not pytest)
        verdicts = {runtime: read_junit(path / JUNIT) for runtime, path in results.items()}
    for runtime, row in verdicts.items():
        print(f"{runtime}: {count(row, 'pass')} pass, {count(row, 'fail')} fail")
    return 1 if count(verdicts.get("pyruntime", {}), "fail") else 0


def run(engine: str, runtime: str, pytest: Sequence[str], scratch: Path, systemd: bool) -> Path:
    """Run the engine's tests with one runtime in a VM; gives the folder with JUNIT and VERSIONS."""
    say(f"{engine} with {runtime}")
    machine = vm.find_or_install() or die(vm.HOW_TO_GET_ONE)
    command = in_vm(engine, runtime, pytest)
    result = scratch / runtime
    if systemd:
        command = f"systemctl start dbus.socket dbus.service\n{command}"  # crun, and engines, ask by D-Bus
    process = vm.start(machine, vm.image(PACKAGES[engine]), command, scratch, sys.stdout.buffer, systemd=systemd)
    status = vm.finish(process, scratch, result)
    if not (result / JUNIT).exists():
        die(f"the VM gave no results (status {status})")
    return result


def in_vm(engine: str, runtime: str, pytest: Sequence[str]) -> str:
    """The commands for the VM: say who is there, and run the engine's tests, none of them skipped."""
    programs = [engine] if runtime == "pyruntime" else [engine, runtime]
    chosen = "" if runtime == "pyruntime" else f"RUNTIME={runtime}"
    options = f"-p no:cacheprovider --color=no -q --junitxml=/out/{JUNIT}"
    lines = [f"{program} --version | head -n1 >>/out/{VERSIONS}" for program in programs]
    lines.append(f"export PYRUNTIME_MUST_RUN=all PYTHONDONTWRITEBYTECODE= {chosen}")
    lines.append(f"python3 -m pytest {options} tests/engines/test_{engine}.py {shlex.join(pytest)}")
    return "\n".join(lines)


def read_junit(path: Path) -> Verdicts:
    """What pytest --junitxml wrote; nothing if it did not come to its end."""
    if not path.exists():
        return {}
    verdicts: Verdicts = {}
    for case in ElementTree.parse(path).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        outcome = "pass" if not bad else "skip" if bad[0].tag == "skipped" else "fail"
        why = bad[0].get("message", "").partition("\n")[0] if bad else ""
        verdicts[title(case.get("classname", ""), case.get("name", ""))] = (outcome, why)
    return verdicts


def title(test_class: str, test: str) -> str:
    """A test's name for people: "FailedStart: no such program"."""
    return f"{test_class.rpartition('.Test')[2]}: {test.removeprefix('test_').replace('_', ' ')}"


def count(verdicts: Verdicts, wanted: str) -> int:
    """How many tests have an outcome."""
    return sum(outcome == wanted for outcome, _why in verdicts.values())


def write(engine: str, results: dict[str, Path], *, complete: bool) -> None:
    """Keep the results, and put the table of all that are kept between the engine's two marks in docs/engines.md.

    Those of some tests, if not `complete`, take the place of what is kept of the same.
    """
    kept = cache_path() / f"engines-{engine}.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for runtime, path in results.items():
        before = {} if complete or runtime not in known else known[runtime]["tests"]
        said = (path / VERSIONS).read_text().splitlines()
        known[runtime] = {"versions": said, "tests": before | read_junit(path / JUNIT)}
    kept.write_text(json.dumps(known))
    versions = dict.fromkeys(version for entry in known.values() for version in entry["versions"])
    text = table(list(versions), {runtime: known[runtime]["tests"] for runtime in RUNTIMES if runtime in known})
    pattern = re.compile(f"(<!-- {engine}: .*? -->\n).*?(<!-- {engine} ends -->)", re.DOTALL)
    page, places = pattern.subn(lambda match: match[1] + text + match[2], PAGE.read_text())
    if places != 1:
        die(f"{PAGE} has no place for {engine}")
    PAGE.write_text(page)


def table(versions: Sequence[str], results: dict[str, Verdicts]) -> str:
    """The versions, and a line for each test. "-": the test asks nothing of this runtime."""
    lines = [f"With {', '.join(versions)}.\n\n"]
    lines.append(f"| Test | {' | '.join(results)} | Why not |\n| --- |{' --- |' * len(results)} --- |\n")
    for test in dict.fromkeys(test for verdicts in results.values() for test in verdicts):
        cells = [verdicts.get(test, ("-", ""))[0] for verdicts in results.values()]
        shown = ["**fail**" if cell == "fail" else cell for cell in cells]
        lines.append(f"| {test} | {' | '.join(shown)} | {why(test, results)} |\n")
    passed = [str(count(verdicts, "pass")) for verdicts in results.values()]
    lines.append(f"| **pass** | {' | '.join(passed)} | |\n")
    return "".join(lines)


def why(test: str, results: dict[str, Verdicts]) -> str:
    """The reason that is known for a failure, or what the test said; "" if nobody fails."""
    verdicts = [row[test] for row in results.values() if test in row]
    said = [text for outcome, text in verdicts if outcome == "fail"]
    if not said:
        return ""
    return REASONS.get(test) or f"not looked into: {said[0][:200]}".replace("|", "\\|")
