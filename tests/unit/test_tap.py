"""What scripts/conformance makes of a test program's output."""

from __future__ import annotations

import pytest

from scripts.lib.tap import judge


def test_all_results_must_be_good() -> None:
    assert judge("TAP version 13\nok 1 - a\nok 2 - b\n1..2\n", 0).outcome == "pass"
    assert judge("ok 1 - a\nnot ok 2 - b\n1..2\n", 0) == ("fail", ["b"])


def test_what_is_known_to_fail_or_does_not_apply_is_no_failure() -> None:
    assert judge("ok 1 - a\nnot ok 2 - b # TODO\nok 3 # SKIP c\n1..3\n", 0).outcome == "pass"


def test_nothing_but_skips_is_no_pass() -> None:
    assert judge("1..1\nok 1 # SKIP no AppArmor\n", 0).outcome == "skip"


@pytest.mark.parametrize("output", ["ok 1 - a\n", "ok 1 - a\n1..2\n"])
def test_a_program_that_breaks_off_has_failed(output: str) -> None:
    assert judge(output, 0).outcome == "fail"


def test_a_test_without_results_complains_in_a_detail() -> None:
    assert judge("TAP version 13\n1..0\n", 0).outcome == "pass"
    assert judge("", 0).outcome == "pass"
    assert judge('TAP version 13\n  ---\n  {"error":"no order\\nRefer to"}\n  ...\n1..0\n', 0) == ("fail", ["no order"])
    assert judge("1..0\n", 1).outcome == "fail"


def test_the_exit_status_counts() -> None:
    assert judge("ok 1 - a\n1..1\npanic: oh\n", 2) == ("fail", ["ends with status 2: panic: oh"])
    assert judge("ok 1 - a\n1..1\n", None) == ("fail", ["hangs"])


def test_a_result_that_a_detail_quotes_does_not_count() -> None:
    quoted = 'ok 1 - a\n  ---\n  {"stdout":"\\nnot ok 2"}\n  not ok 3\n  ...\n1..1\n'
    assert judge(quoted, 0).outcome == "pass"
