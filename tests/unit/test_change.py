"""What `update` asks for, with its places (spec/change.py), and the files of the cgroup for it (plan/change.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pyruntime.errors import ConfigError, Error, UsageError
from pyruntime.plan.change import change_steps, merge
from pyruntime.plan.resources import WriteCgroup, WriteCgroupFirst, WriteCgroupUnless
from pyruntime.spec.change import Change, from_file, from_options, size
from tests.support.random_configs import block, odd_resources

MIB = 1 << 20


def writes(before: dict[str, Any], change: dict[str, Any]) -> list[tuple[str, str]]:
    """(file, value) of every write, the first choice where there are several."""
    after = merge(before, change)  # type: ignore[arg-type]
    found = []
    for step in change_steps(after, change):  # type: ignore[arg-type]
        if isinstance(step, WriteCgroup | WriteCgroupUnless):
            found.append((step.file, step.value))
        elif isinstance(step, WriteCgroupFirst):
            found.append(step.choices[0])
    return found


FULL: dict[str, Any] = {
    "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB},
    "cpu": {"shares": 512, "quota": 50000, "period": 200000, "burst": 10000, "cpus": "0"},
    "pids": {"limit": 20},
    "unified": {"memory.high": "60M"},
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"pids": {"limit": 30}}, [("pids.max", "30")]),
        ({"memory": {"limit": 80 * MIB}}, [("memory.swap.max", str(16 * MIB)), ("memory.max", str(80 * MIB))]),
        ({"memory": {"swap": -1}}, [("memory.swap.max", "max"), ("memory.max", str(64 * MIB))]),
        ({"memory": {"limit": -1}}, [("memory.swap.max", "max"), ("memory.max", "max")]),
        ({"memory": {"reservation": -1}}, [("memory.low", "max")]),
        ({"cpu": {"quota": -1}}, [("cpu.max", "max 200000")]),
        ({"cpu": {"period": 100000}}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"shares": 1024}}, [("cpu.weight", "100")]),
        ({"cpu": {"idle": 1}}, [("cpu.idle", "1")]),
        ({"cpu": {"burst": 0}}, [("cpu.max.burst", "0")]),
        ({"cpu": {"cpus": "1"}}, [("cpuset.cpus", "1")]),
        ({"unified": {"memory.oom.group": "1"}}, [("memory.oom.group", "1")]),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]},
         [("hugetlb.2MB.max", "0"), ("hugetlb.2MB.rsvd.max", "0")]),
        ({"blockIO": {"weight": 10}}, [("io.bfq.weight", "10")]),
        ({"devices": [{"allow": False, "access": "rwm"}]}, []),
    ],
)  # fmt: skip
def test_what_is_written(change: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """What is asked for, and what is in the same file or computed with it; nothing else."""
    assert writes(FULL, change) == expected


def test_the_burst_is_written_before_and_after_the_quota() -> None:
    """Whichever of the two is to be higher, one of the orders is the kernel's."""
    files = [file for file, _ in writes(FULL, {"cpu": {"quota": 80000, "burst": 60000}})]
    assert files == ["cpu.max.burst", "cpu.max", "cpu.max.burst"]


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ({"pids": {"limit": 30}}, {**FULL, "pids": {"limit": 30}}),
        ({"memory": {"limit": -1}}, {**FULL, "memory": {"limit": -1, "reservation": 32 * MIB}}),
        ({"cpu": {"idle": 1}}, {**FULL, "cpu": {**{k: v for k, v in FULL["cpu"].items() if k != "shares"}, "idle": 1}}),
        ({"unified": {"pids.max": "9"}}, {**FULL, "unified": {"memory.high": "60M", "pids.max": "9"}}),
        ({"devices": [], "network": {}}, FULL),
    ],
)
def test_what_is_remembered(change: dict[str, Any], after: dict[str, Any]) -> None:
    untouched = json.dumps([FULL, change])
    assert merge(FULL, change) == after  # type: ignore[arg-type]
    assert json.dumps([FULL, change]) == untouched


def test_entries_of_devices_are_replaced_one_by_one() -> None:
    def entry(minor: int, rate: int) -> dict[str, int]:
        return {"major": 8, "minor": minor, "rate": rate}

    before = {"blockIO": {"throttleReadBpsDevice": [entry(0, 1), entry(0, 2), entry(16, 3)]}}
    change = {"blockIO": {"throttleReadBpsDevice": [entry(0, 9), entry(32, 4)]}}
    after: dict[str, Any] = merge(before, change)  # type: ignore
    assert after["blockIO"]["throttleReadBpsDevice"] == [entry(0, 9), entry(16, 3), entry(32, 4)]
    assert writes(before, change) == [("io.max", "8:0 rbps=9"), ("io.max", "8:32 rbps=4")]


def test_a_check_of_one_update_is_not_remembered() -> None:
    change: dict[str, Any] = {"memory": {"limit": 1, "checkBeforeUpdate": True}}
    assert merge({}, change)["memory"] == {"limit": 1, "checkBeforeUpdate": False}  # type: ignore[arg-type]
    assert len(change_steps(merge({}, change), change)) == 2  # type: ignore[arg-type]
    configured: dict[str, Any] = {"memory": {"checkBeforeUpdate": True}}
    told: dict[str, Any] = {"memory": {"limit": 1, "checkBeforeUpdate": False}}
    assert merge(configured, told)["memory"]["checkBeforeUpdate"] is True  # type: ignore[arg-type]
    assert len(change_steps(merge(configured, told), told)) == 1  # type: ignore[arg-type]
    assert len(change_steps(merge(configured, {"memory": {"limit": 1}}), {"memory": {"limit": 1}})) == 2  # type: ignore[arg-type]


def test_options_and_their_places() -> None:
    change = from_options({"memory": "512M", "cpu_quota": "-1", "cpuset_cpus": "0-1", "pids_limit": ""})
    assert change.given == {"memory": {"limit": 512 * MIB}, "cpu": {"quota": -1, "cpus": "0-1"}}
    assert change.place("config.json#/linux/resources/memory/limit") == "--memory"
    assert change.place("config.json#/linux/resources/memory/swap") == "config.json#/linux/resources/memory/swap"
    assert change.place("elsewhere") == "elsewhere"


def test_a_file_and_its_places(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"cpu": {"quota": 5000, "period": null}, "rdma": {"a/b": {"hcaHandles": 1}}}')
    change = from_file(str(path))
    assert change.given == {"cpu": {"quota": 5000}, "rdma": {"a/b": {"hcaHandles": 1}}}
    assert change.place("config.json#/linux/resources/cpu/quota") == f"{path}#/cpu/quota"
    assert change.place("config.json#/linux/resources/cpu/period") == "config.json#/linux/resources/cpu/period"
    assert change.place("config.json#/linux/resources/rdma/a~1b") == f"{path}#/rdma/a~1b"


@pytest.mark.parametrize(
    ("text", "octets"),
    [("0", 0), ("-1", -1), ("1024", 1024), ("1k", 1024), ("50M", 50 * MIB), ("50mb", 50 * MIB), ("2GiB", 2 << 30),
     ("1.5G", 3 << 29), ("1 T", 1 << 40), ("7b", 7), ("1P", 1 << 50), (".5k", 512)],
)  # fmt: skip
def test_sizes(text: str, octets: int) -> None:
    assert size(text, "--memory") == octets


@pytest.mark.parametrize(
    "text", ["M", "-2", "1_0", " 1", "1e3", "5X", "5kk", "5ibb", "1.2.3", "٣", "0x10", "1bi", "-1M", "9" * 30]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--memory: "):
        size(text, "--memory")


@pytest.mark.parametrize("text", ["", "1.5", "1k", "1_0", " 1", "--1", "٣", "9" * 30])
def test_what_is_no_number(text: str) -> None:
    if text:
        with pytest.raises(UsageError, match=r"^--cpu-quota: "):
            from_options({"cpu_quota": text})
    else:
        assert from_options({"cpu_quota": text}).given == {}


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"memory": {"limit": "1M"}}, "limits#/memory/limit"),
        ({"memory": []}, "limits#/memory"),
        ({"cpu": {"idle": 2}}, "limits#/cpu/idle"),
        ({"blockIO": {"weightDevice": [{"minor": 1}]}}, "limits#/blockIO/weightDevice/0"),
    ],
)
def test_what_is_no_limit(given: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Change(given, "limits").check()
    assert caught.value.where == place


def test_what_asks_for_nothing_is_dropped() -> None:
    change = Change({"memory": {"limit": 0}, "cpu": {"cpus": "", "burst": 0}, "pids": {"limit": 0}, "unified": {}})
    assert change.check() == []
    assert change.resources == {"cpu": {"burst": 0}, "pids": {"limit": 0}}


def test_what_is_ignored_is_told_by_its_place() -> None:
    change = from_options({"cpu_rt_period": "1000", "kernel_memory": "1M"})
    assert [told.partition(":")[0] for told in change.check()] == ["--cpu-rt-period", "--kernel-memory"]
    (told,) = Change({"CPU": {}}, "limits").check()
    assert told == "limits#/CPU: unknown key, ignored (did you mean cpu?)"


def sound(given: Any) -> Change | None:
    """The change, checked; None if there is something wrong with it, which then has its place."""
    change = Change(given, "limits.json")
    try:
        told = change.check()
    except Error as error:
        assert error.where.startswith("limits.json#")
        return None
    assert all(line.startswith("limits.json#") for line in told)
    return change


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=200)
@given(block("Resources") | odd_resources(), odd_resources())
def test_any_change_is_judged(first: Any, second: Any) -> None:
    """And made of any resources that a container may have; made twice, it is as if made once."""
    before, change = sound(first), sound(second)
    if before is None or change is None:
        return
    held = repr([before.resources, change.resources])
    after = merge(before.resources, change.resources)
    assert repr([before.resources, change.resources]) == held
    assert merge(after, change.resources) == after
    try:
        steps = change_steps(after, change.resources)
    except Error as error:
        assert change.place(error.where).startswith(("limits.json#", "config.json#/linux/resources"))
    else:
        assert all(change.place(step.where).startswith(("limits.json#", "config.json#/linux/res")) for step in steps)
