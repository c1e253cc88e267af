"""cgroup/systemd.py without systemd: what a version that knows less is asked for. With it: tests/systemd."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pyruntime.cgroup.systemd import Placeholder, _with_what_is_known
from pyruntime.errors import SystemdError

Property = tuple[str, str, Any]
LIMITS: list[Property] = [("MemoryMax", "t", 1), ("OOMPolicy", "s", "kill"), ("MemoryZSwapMax", "t", 2)]
READ_ONLY = "org.freedesktop.DBus.Error.PropertyReadOnly"


class OldSystemd:
    """Answers as systemd does to properties that it does not know: it names the first."""

    def __init__(self, *known: str, error: str = READ_ONLY) -> None:
        self.known = known
        self.error = error
        self.calls = 0

    def ask(self, limits: list[Property]) -> str:
        self.calls += 1
        for name, _, _ in limits:
            if name not in self.known:
                raise SystemdError(f"Cannot set property {name}, or unknown property.", self.error)
        return " ".join(name for name, _, _ in limits)


@pytest.mark.parametrize(
    ("known", "calls"), [(["MemoryMax", "OOMPolicy", "MemoryZSwapMax"], 1), (["MemoryMax"], 3), ([], 4)]
)
def test_what_is_not_known_is_left_out(known: list[str], calls: int) -> None:
    systemd = OldSystemd(*known)
    assert _with_what_is_known(systemd.ask, LIMITS) == " ".join(known)
    assert systemd.calls == calls


def test_another_refusal_is_told() -> None:
    systemd = OldSystemd(error="org.freedesktop.DBus.Error.InvalidArgs")
    with pytest.raises(SystemdError, match="MemoryMax"):
        _with_what_is_known(systemd.ask, LIMITS)
    assert systemd.calls == 1


def test_an_unknown_property_of_the_users_is_told() -> None:
    systemd = OldSystemd("MemoryMax", "OOMPolicy", "MemoryZSwapMax")

    def ask(limits: list[Property]) -> str:
        return systemd.ask([("Foo", "b", True), *limits])

    with pytest.raises(SystemdError, match="Foo"):
        _with_what_is_known(ask, LIMITS)


def test_a_placeholder_leaves_nothing() -> None:
    """Neither a process nor a descriptor."""
    before = set(os.listdir("/proc/self/fd"))
    placeholder = Placeholder()
    assert os.waitpid(placeholder.pid, os.WNOHANG) == (0, 0), "it does not wait"
    placeholder.end()
    with pytest.raises(ProcessLookupError):
        os.kill(placeholder.pid, 0)
    assert set(os.listdir("/proc/self/fd")) == before
