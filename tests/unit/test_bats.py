"""What scripts/conformance makes of the output of bats."""

from __future__ import annotations

from scripts.lib import bats

SAID = """\
1..4
ok 1 runc exec
not ok 2 runc exec --user # of a kind
# (in test file tests/integration/exec.bats, line 8)
#   `[ "$status" -eq 0 ]' failed
#
ok 3 runc events # skip test requires root
not ok 4 runc exec
# the second of that name
"""


def test_each_test_has_its_verdict() -> None:
    assert bats.judge(SAID, 1) == {
        "runc exec": ("pass", []),
        "runc exec --user # of a kind": (
            "fail",
            ["(in test file tests/integration/exec.bats, line 8)", '  `[ "$status" -eq 0 ]\' failed', ""],
        ),
        "runc events": ("skip", ["test requires root"]),
        "runc exec (2)": ("fail", ["the second of that name"]),
    }


def test_a_file_that_breaks_off() -> None:
    verdicts = bats.judge(SAID.replace("1..4", "1..5"), None)
    assert verdicts["(file)"] == ("fail", ["4 of 5 tests were run: hangs"])


def test_a_file_that_does_not_begin() -> None:
    verdicts = bats.judge("helpers.bash: line 3: no such thing\n", 1)
    said = ["0 of None tests were run: ended with status 1", "helpers.bash: line 3: no such thing"]
    assert verdicts == {"(file)": ("fail", said)}


def test_it_is_complete_with_its_last_result() -> None:
    assert bats.complete(SAID)
    assert not bats.complete(SAID.partition("not ok 4")[0])
    assert not bats.complete("")
