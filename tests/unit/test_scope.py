"""plan/scope.py: what systemd is asked for, instead of a cgroup of our own."""

from __future__ import annotations

from typing import Any

import pytest

from pyruntime.errors import ConfigError
from pyruntime.plan import scope
from pyruntime.plan.resources import CreateCgroup, WriteCgroup, resource_steps
from pyruntime.plan.step import Plan

INFINITY = (1 << 64) - 1


def path(cgroups_path: str, *, users: bool = False) -> str:
    return scope.scope_path({"cgroupsPath": cgroups_path}, "web", users=users)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("system.slice:docker:web", "/system.slice/docker-web.scope"),
        ("a-b-c.slice:p:n", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ("-.slice:p:n", "/p-n.scope"),
        (":p:n", "/system.slice/p-n.scope"),
        ("::", "/system.slice/-.scope"),
        ("", "/system.slice/pyruntime-web.scope"),
        (":_p:n", "/system.slice/__p-n.scope"),
        (":memory.p:n", "/system.slice/_memory.p-n.scope"),
    ],
)
def test_path(given: str, expected: str) -> None:
    assert path(given) == expected


def test_a_users_slice() -> None:
    assert path(":p:n", users=True) == "/user.slice/p-n.scope"


@pytest.mark.parametrize(
    "given",
    [
        *("/web", "a:b", "a.slice:b:c:d", "web"),  # not of three parts
        *("a:p:n", "a/b.slice:p:n", ".slice:p:n", "a--b.slice:p:n", "-a.slice:p:n", "é.slice:p:n"),  # no slice
        *(":p:n+1", ":p/q:n", f":p:{'n' * 250}", ":p:n.slice", ":p:n\n"),  # no scope
    ],
)
def test_no_scope(given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        path(given)
    assert caught.value.where == "config.json#/linux/cgroupsPath"


def asked(linux: dict[str, Any] | None = None, annotations: dict[str, str] | None = None) -> scope.CreateScope:
    """The step that asks, for a container of this `linux.resources`."""
    spec: Any = {"linux": {"resources": linux or {}}, "annotations": annotations or {}}
    plan = Plan(resource_steps(spec["linux"], scope.scope_path(spec["linux"], "web", users=False)))
    scope.ask_systemd(plan, spec, "web", users=False)
    assert [type(step) for step in plan if isinstance(step, CreateCgroup)] == [scope.CreateScope]
    (step,) = [step for step in plan if isinstance(step, scope.CreateScope)]
    return step


def limits(linux: dict[str, Any]) -> dict[str, Any]:
    """The properties that stand for limits, but for the devices, which every container has."""
    found = {name: value for name, _, value in asked(linux).limits}
    assert found.pop("DevicePolicy") == "strict"
    assert ("char-136", "rwm") in found.pop("DeviceAllow")
    return found


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, {}),
        ({"memory": {"limit": 1000, "reservation": 500}}, {"MemoryMax": 1000, "MemoryLow": 500}),
        ({"memory": {"limit": 1000, "swap": 3000}}, {"MemoryMax": 1000, "MemorySwapMax": 2000}),
        ({"memory": {"limit": -1}}, {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
        ({"pids": {"limit": 7}}, {"TasksMax": 7}),
        ({"pids": {"limit": 0}}, {"TasksMax": 1}),
        ({"pids": {"limit": -1}}, {"TasksMax": INFINITY}),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}),
        ({"cpu": {"idle": 1, "shares": 1024}}, {"CPUWeight": 0}),
        ({"cpu": {"idle": 0, "shares": 1024}}, {"CPUWeight": 100}),
        ({"cpu": {"idle": 0}}, {"CPUWeight": INFINITY}),
        ({"cpu": {"quota": 20000, "period": 50000}}, {"CPUQuotaPeriodUSec": 50000, "CPUQuotaPerSecUSec": 400000}),
        ({"cpu": {"period": 50000}}, {"CPUQuotaPeriodUSec": 50000, "CPUQuotaPerSecUSec": INFINITY}),
        ({"cpu": {"quota": 12345}}, {"CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 130000}),
        ({"cpu": {"cpus": "0-2,9", "mems": "1"}}, {"AllowedCPUs": [7, 2], "AllowedMemoryNodes": [2]}),
        ({"cpu": {"cpus": "nonsense"}}, {}),
        ({"cpu": {"cpus": "5-3"}}, {}),
        ({"cpu": {"cpus": "0-99999999999"}}, {}),
        ({"blockIO": {"weight": 10}}, {"IOWeight": 1}),
        ({"unified": {"memory.high": "5000", "memory.min": "max"}}, {"MemoryHigh": 5000, "MemoryMin": INFINITY}),
        ({"unified": {"memory.oom.group": "1"}}, {"OOMPolicy": "kill"}),
        ({"unified": {"memory.zswap.writeback": "0"}}, {"MemoryZSwapWriteback": False}),
        ({"unified": {"cpu.max": "max 1000"}}, {"CPUQuotaPeriodUSec": 1000, "CPUQuotaPerSecUSec": INFINITY}),
        ({"unified": {"cpu.max": "5000"}}, {"CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 50000}),
        ({"unified": {"cpu.max": "5000 0"}}, {}),
        ({"unified": {"cpu.max": "a b c"}}, {}),
        ({"unified": {"pids.max": "0", "memory.max": "0", "cpu.weight": "20000", "hugetlb.2MB.max": "1"}}, {}),
        ({"unified": {"cpu.idle": "1", "cpu.weight": "5"}}, {"CPUWeight": 0}),
    ],
)  # fmt: skip
def test_limits(resources: dict[str, Any], expected: dict[str, Any]) -> None:
    assert limits(resources) == expected


def test_the_file_says_the_rounded_quota_too() -> None:
    steps = resource_steps({"resources": {"cpu": {"quota": 12345}}}, "/web")
    scope.resource_properties(steps)
    (step,) = [step for step in steps if isinstance(step, WriteCgroup)]
    assert step.value == "13000 100000"


def test_device_rules() -> None:
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"}]
    found = {name: value for name, _, value in asked({"devices": rules}).limits}
    assert {("/dev/block/8:0", "r"), ("/dev/char/1:3", "rwm"), ("char-*", "m")} <= set(found["DeviceAllow"])


@pytest.mark.parametrize(
    "rule",
    [
        {"allow": True, "access": "rwm"},  # a list of what is forbidden
        {"allow": True, "type": "c", "minor": 3, "access": "r"},  # any major
    ],
)
def test_device_rules_that_systemd_has_no_words_for(rule: dict[str, Any]) -> None:
    assert asked({"devices": [rule]}).limits == []


def test_annotations() -> None:
    annotations = {
        "org.systemd.property.TimeoutStopUSec": "uint64 5",
        "org.systemd.property.RuntimeMaxSec": "1.5",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.example": "no property",
    }
    assert asked(annotations=annotations).properties == [
        ("TimeoutStopUSec", "t", 5),
        ("RuntimeMaxUSec", "t", 1500000),
        ("CollectMode", "s", "inactive-or-failed"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [("Fo", "5"), ("Foo-Bar", "5"), ("Foo", "abc"), ("TimeoutStopSec", "'5'"), ("TimeoutStopSec", "-5")],
)
def test_annotations_that_are_no_property(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(annotations={f"org.systemd.property.{name}": text})
    assert caught.value.where == f"config.json#/annotations/org.systemd.property.{name}"


def test_text() -> None:
    text = asked({"pids": {"limit": -1}}, {"org.systemd.property.TimeoutStopSec": "2"}).text()
    assert text.startswith("have systemd make the scope pyruntime-web.scope in system.slice: TimeoutStopUSec=2000000, ")
    assert "TasksMax=infinity" in text
