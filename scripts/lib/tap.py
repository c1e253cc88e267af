"""What a test program said in the Test Anything Protocol."""

from __future__ import annotations

import re
from typing import NamedTuple

RESULT = re.compile(r"^(not )?ok\b\s*(\d+)?[\s-]*(.*?)\s*(?:#\s*(SKIP|TODO)\b\s*(.*))?$", re.IGNORECASE)
COMPLAINT = re.compile(r'^\s+\{.*"error":"(.*?)(?:\\n|")', re.MULTILINE)
PLAN = re.compile(r"^1\.\.(\d+)")


class Verdict(NamedTuple):
    """Of a whole program: "pass", "skip" (nothing but skips) or "fail", with what failed."""

    outcome: str
    reasons: list[str]


def judge(output: str, status: int | None) -> Verdict:
    """Judge a program by its output and exit status; None: it had to be ended."""
    passed = skipped = 0
    planned: int | None = None
    failures = []
    for line in output.splitlines():
        if plan := PLAN.match(line):
            planned = int(plan[1])
        elif result := RESULT.match(line):
            bad, _number, what, directive, _why = result.groups()
            if directive is not None:  # a TODO is known to fail
                skipped += 1
            elif bad:
                failures.append(what or "a result without a name")
            else:
                passed += 1
    total = passed + skipped + len(failures)
    if not planned and total == 0 and status == 0:
        # Some tests of runtime-tools give no result when all is well, and write details without a result otherwise.
        return Verdict("fail", [complaint[1][:200]]) if (complaint := COMPLAINT.search(output)) else Verdict("pass", [])
    if status is None:
        failures.append("hangs")
    elif status:
        failures.append(f"ends with status {status}: {last_words(output)}")
    elif planned is None or planned != total or not total:
        failures.append(f"{total} results of {planned} planned: {last_words(output)}")
    if failures:
        return Verdict("fail", failures)
    return Verdict("pass" if passed else "skip", [])


def last_words(output: str) -> str:
    """The last line that is no result, for a program that broke off."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not RESULT.match(line)]
    said = [line for line in lines if not re.match(r"TAP version|1\.\.|---$|\.\.\.$|exit status", line)]
    return (said or lines or ["it said nothing"])[-1][:200]
