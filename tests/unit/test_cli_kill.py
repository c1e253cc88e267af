"""Signals as people and engines write them (runc:kill.go:/^func parseSignal/)."""

from __future__ import annotations

import signal

import pytest

from pyruntime.cli.kill import signal_number
from pyruntime.errors import UsageError


@pytest.mark.parametrize("text", ["TERM", "SIGTERM", "sigterm", "term", "SigTerm", "15", "015"])
def test_one_signal_in_each_spelling(text: str) -> None:
    assert signal_number(text) == signal.SIGTERM


@pytest.mark.parametrize("name", [member.name for member in signal.Signals])
def test_every_name_that_the_system_has(name: str) -> None:
    assert signal_number(name) == signal.Signals[name]
    assert signal_number(name.removeprefix("SIG").lower()) == signal.Signals[name]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("RTMIN", signal.SIGRTMIN),
        ("RTMIN+1", signal.SIGRTMIN + 1),
        ("sigrtmin+30", signal.SIGRTMIN + 30),
        ("SIGRTMAX-1", signal.SIGRTMAX - 1),
        ("0", 0),
        ("64", 64),
    ],
)
def test_real_time_signals_and_numbers(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "FOO",
            "SIG",
            "SIGFOO",
            "65",
            "-1",
            "-9",
            "1.5",
            "9 ",
            " 9",
            "1_0",
            "٩",
            "99999999999999999999",
            "TERM+1",
        ),
        *("RTMIN+", "RTMIN+31", "RTMIN+-1", "RTMAX-31", "RTMIN-1", "_DFL", "SIG_BLOCK", "SIGSIGTERM", "nal", "TERM\n"),
    ],
)
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(UsageError, match="no such signal"):
        signal_number(text)
