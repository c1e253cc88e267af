"""What bats, the test runner of runc's integration suite, says of each test of a file (bats(1), --tap)."""

from __future__ import annotations

import re

from scripts.lib.tap import PLAN, Verdict

RESULT = re.compile(r"(?P<bad>not )?ok \d+ (?P<name>.*?)(?: # (?P<note>skip|timeout)\b *(?P<why>.*))?")


def judge(output: str, status: int | None) -> dict[str, Verdict]:
    """A verdict by test, in the file's order. The reasons are the failed command and what was printed, or why skipped.

    What bats said outside of its tests, and tests that it promised and did not run, fail under the name "(file)".
    """
    verdicts: dict[str, Verdict] = {}
    planned: int | None = None
    reasons: list[str] = []  # of the last result; at first, of the file
    before = reasons
    for line in output.splitlines():
        if plan := PLAN.match(line):
            planned = int(plan[1])
        elif result := RESULT.fullmatch(line):
            reasons = []
            verdicts[unique(result["name"], verdicts)] = verdict(result, reasons)
        else:
            reasons.append(line.removeprefix("#").removeprefix(" "))
    if planned != len(verdicts):
        ending = "hangs" if status is None else f"ended with status {status}"
        verdicts["(file)"] = Verdict("fail", [f"{len(verdicts)} of {planned} tests were run: {ending}", *before])
    return verdicts


def complete(output: str) -> bool:
    """Whether every test has its result; bats itself ends only when nobody holds its output any more."""
    lines = output.splitlines()
    planned = [int(plan[1]) for line in lines if (plan := PLAN.match(line))]
    return planned == [sum(RESULT.fullmatch(line) is not None for line in lines)]


def verdict(result: re.Match[str], reasons: list[str]) -> Verdict:
    """The verdict on a test, whose `reasons` are to follow."""
    if result["bad"]:
        if result["note"]:
            reasons.append(f"timeout {result['why']}")
        return Verdict("fail", reasons)
    return Verdict("skip", [result["why"] or ""]) if result["note"] else Verdict("pass", [])


def unique(name: str, taken: dict[str, Verdict]) -> str:
    """The name, numbered if the file has another test of that name."""
    number = sum(known == name or known.startswith(f"{name} (") for known in taken)
    return f"{name} ({number + 1})" if name in taken else name
