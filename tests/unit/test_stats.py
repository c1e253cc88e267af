"""cgroup/stats.py: files of the kernel as `runc events` shows them. The texts are those of the test VM, shortened."""

from __future__ import annotations

from typing import Any

import pytest

from pyruntime.cgroup import stats
from pyruntime.cli.events import duration
from pyruntime.errors import UsageError

CPU = """\
usage_usec 310000
user_usec 20000
system_usec 290000
nice_usec 0
nr_periods 61
nr_throttled 60
throttled_usec 5670000
nr_bursts 0
burst_usec 0
"""
PRESSURE = """\
some avg10=43.06 avg60=9.00 avg300=1.94 total=6010000
full avg10=42.27 avg60=8.89 avg300=1.90 total=5870000
"""
NO_PRESSURE = """\
some avg10=0.00 avg60=0.00 avg300=0.00 total=0
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""
FELT = {
    "some": {"avg10": 43.06, "avg60": 9, "avg300": 1.94, "total": 6010000},
    "full": {"avg10": 42.27, "avg60": 8.89, "avg300": 1.9, "total": 5870000},
}


def test_cpu() -> None:
    assert stats.cpu(CPU, PRESSURE) == {
        "usage": {"total": 310000000, "kernel": 290000000, "user": 20000000},
        "throttling": {"periods": 61, "throttledPeriods": 60, "throttledTime": 5670000000},
        "psi": FELT,
    }


def test_cpu_without_the_controller() -> None:
    counted = stats.cpu("usage_usec 10\nuser_usec 0\nsystem_usec 10\n", "")
    assert counted == {"usage": {"total": 10000, "kernel": 10000, "user": 0}}
    assert stats.cpu("usage_usec 0\nuser_usec 0\nsystem_usec 0\n", "") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [(PRESSURE, FELT), (NO_PRESSURE, {}), ("", None), (PRESSURE.splitlines()[0], {"some": FELT["some"]})],
)
def test_pressure(text: str, expected: dict[str, Any] | None) -> None:
    """Known and 0 is not the same as unknown, for which there is no key."""
    assert stats.pressure(text) == expected
    assert stats.block_io("", text) == ({} if expected is None else {"psi": expected})


def test_numbers_are_printed_as_go_prints_them() -> None:
    felt = stats.pressure(PRESSURE)
    assert felt is not None
    assert [type(value) for value in felt["some"].values()] == [float, int, float, int]


RAW = "anon 110592\nfile 9646080\nactive_anon 0\npgfault 802\n"


def test_memory() -> None:
    counted = stats.memory(RAW, ("10002432\n", "67108864\n", "10203136\n"), ("4096\n", "1048576\n"), NO_PRESSURE)
    assert counted == {
        "cache": 9646080,
        "usage": {"limit": 67108864, "usage": 10002432, "max": 10203136, "failcnt": 0},
        "swap": {"limit": 68157440, "usage": 10006528, "failcnt": 0},
        "raw": {"anon": 110592, "file": 9646080, "active_anon": 0, "pgfault": 802},
        "psi": {},
    }
    assert list(counted["raw"]) == ["active_anon", "anon", "file", "pgfault"]


@pytest.mark.parametrize(
    ("own", "swap", "limits"),
    [
        (("5\n", "max\n", ""), ("0\n", "max\n"), (2**64 - 1, 2**64 - 1)),
        (("5\n", "max\n", ""), ("0\n", "7\n"), (2**64 - 1, 2**64 - 1)),
        (("5\n", "7\n", ""), ("0\n", "max\n"), (7, 2**64 - 1)),
        (("5\n", "7\n", ""), ("", ""), (7, 7)),
    ],
)
def test_limits_of_memory(own: tuple[str, str, str], swap: tuple[str, str], limits: tuple[int, int]) -> None:
    """Without a limit it is the greatest number; a kernel that cannot swap has none of it."""
    counted = stats.memory(RAW, own, swap, "")
    assert (counted["usage"]["limit"], counted["swap"]["limit"]) == limits
    assert counted["swap"]["usage"] == 5


def test_memory_without_the_controller() -> None:
    assert stats.memory("", ("", "", ""), ("", ""), "") == {}


@pytest.mark.parametrize(
    ("current", "maximum", "expected"),
    [("2\n", "20\n", {"current": 2, "limit": 20}), ("2\n", "max\n", {"current": 2}), ("3", "", {"current": 3})],
)
def test_pids(current: str, maximum: str, expected: dict[str, int]) -> None:
    assert stats.pids(current, maximum) == expected


def test_block_io() -> None:
    first = "98:0 rbytes=9723904 wbytes=8396800 rios=456 wios=259 dbytes=0 dios=0 cost.usage=5"
    assert stats.block_io(f"{first}\n8:16 rbytes=0 rios=0\n8:32\n", "") == {
        "ioServiceBytesRecursive": [
            {"major": 98, "op": "Read", "value": 9723904},
            {"major": 98, "op": "Write", "value": 8396800},
            {"major": 8, "minor": 16, "op": "Read"},
        ],
        "ioServicedRecursive": [
            {"major": 98, "op": "Read", "value": 456},
            {"major": 98, "op": "Write", "value": 259},
            {"major": 8, "minor": 16, "op": "Read"},
        ],
    }


def test_huge_pages() -> None:
    assert stats.huge_pages("4194304\n", "max 3\n") == {"usage": 4194304, "failcnt": 3}
    assert stats.huge_pages("0\n", "max 0\n") == {"failcnt": 0}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("100ms", 0.1), ("1m30s", 90), ("1.5h", 5400), (".5s", 0.5), ("+2s", 2), ("1us", 1e-6), ("1µs", 1e-6),
     ("7ns", 7e-9), ("1h1m1s1ms", 3661.001)],
)  # fmt: skip
def test_intervals(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-1s", "5", "s", "5x", "5s5", "1..5s", "1 s", "five", "٣s", "5ss", "."]
)
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--interval: duration interval must be greater than 0"):
        duration(text)
