"""linux.resources -> cgroup files: the values, their order, and the places in config.json they come from.

Expected values are worked out by hand from cgroup-v2.rst, or are those of runc's own tests (opencontainers/cgroups).
"""

from __future__ import annotations

from typing import Any

import pytest

from pyruntime.errors import ConfigError, UnsupportedError
from pyruntime.plan import resources
from pyruntime.plan.resources import cgroup_path, needed_controllers, resource_steps
from pyruntime.plan.step import CGROUP, Step

PLACE = "config.json#/linux/resources"


def steps_for(limits: dict[str, Any], cgroup: str = "/web") -> list[Step]:
    return resource_steps({"resources": limits}, cgroup)  # type: ignore[typeddict-item]


def writes(limits: dict[str, Any]) -> list[tuple[str, str]]:
    """(file, value) of every write, the first choice where there are several."""
    found = []
    for step in steps_for(limits):
        if isinstance(step, resources.WriteCgroup | resources.WriteCgroupUnless):
            found.append((step.file, step.value))
        elif isinstance(step, resources.WriteCgroupFirst):
            found.append(step.choices[0])
    return found


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ({}, []),
        ({"limit": 0, "reservation": 0, "swap": 0}, []),
        ({"limit": None, "swap": None}, []),
        ({"limit": 4096}, [("memory.max", "4096")]),
        ({"limit": -1}, [("memory.swap.max", "max"), ("memory.max", "max")]),
        ({"limit": -1, "swap": 8192}, [("memory.swap.max", "8192"), ("memory.max", "max")]),
        ({"limit": 4096, "swap": 4096}, [("memory.swap.max", "0"), ("memory.max", "4096")]),
        ({"limit": 4096, "swap": 10240}, [("memory.swap.max", "6144"), ("memory.max", "4096")]),
        ({"limit": 4096, "swap": -1}, [("memory.swap.max", "max"), ("memory.max", "4096")]),
        ({"swap": -1}, [("memory.swap.max", "max")]),
        ({"reservation": 2048}, [("memory.low", "2048")]),
        ({"reservation": -1}, [("memory.low", "max")]),
        ({"limit": 1 << 50, "reservation": 1}, [("memory.max", str(1 << 50)), ("memory.low", "1")]),
    ],
)
def test_memory(memory: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert writes({"memory": memory}) == expected


@pytest.mark.parametrize(
    ("memory", "key", "sentence"),
    [
        ({"swap": 4096}, "swap", "without memory limit"),
        ({"limit": 0, "swap": 4096}, "swap", "without memory limit"),
        ({"limit": 8192, "swap": 4096}, "swap", "should be >= memory limit"),
        ({"limit": -2, "swap": 4096}, "limit", "invalid memory value: -2"),
    ],
)
def test_memory_that_contradicts_itself(memory: dict[str, int], key: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        steps_for({"memory": memory})
    assert caught.value.where == f"{PLACE}/memory/{key}"


def test_absence_of_swap_is_accepted_only_where_it_changes_nothing() -> None:
    def kind(memory: dict[str, int]) -> type[Step]:
        return next(type(step) for step in steps_for({"memory": memory}) if "swap.max" in step.text())

    assert kind({"limit": 5, "swap": 5}) is resources.WriteCgroupUnless
    assert kind({"swap": -1}) is resources.WriteCgroupUnless
    assert kind({"limit": 5, "swap": 6}) is resources.WriteCgroup


def test_check_before_update_comes_before_the_limits_and_only_with_one() -> None:
    kinds = [type(step) for step in steps_for({"memory": {"limit": 5, "checkBeforeUpdate": True}})]
    assert kinds.index(resources.CheckMemoryUsage) < kinds.index(resources.WriteCgroup)
    assert resources.CheckMemoryUsage not in map(type, steps_for({"memory": {"limit": -1, "checkBeforeUpdate": True}}))


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(0, 0), (1, 1), (2, 1), (3, 2), (1024, 100), (262143, 10000), (262144, 10000), (262145, 10000)],
)
def test_cpu_shares_to_weight(shares: int, weight: int) -> None:
    """The cases of opencontainers/cgroups:utils_test.go:/^func TestConvertCPUSharesToCgroupV2Value/."""
    assert resources.cpu_weight(shares) == weight


def test_cpu_weight_grows_with_the_shares_and_stays_in_range() -> None:
    weights = [resources.cpu_weight(shares) for shares in range(2, 262145, 37)]
    assert weights == sorted(weights)
    assert weights[0] == 1
    assert weights[-1] <= 10000


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ({"quota": 0, "period": 0, "shares": 0}, []),
        ({"quota": 5000}, [("cpu.max", "5000 100000")]),
        ({"quota": -1}, [("cpu.max", "max 100000")]),
        ({"period": 20000}, [("cpu.max", "max 20000")]),
        ({"quota": 5000, "period": 20000}, [("cpu.max", "5000 20000")]),
        ({"burst": 0}, [("cpu.max.burst", "0")]),
        ({"burst": 7, "period": 20000}, [("cpu.max.burst", "7"), ("cpu.max", "max 20000")]),
        ({"burst": 7, "quota": 5000}, [("cpu.max.burst", "7"), ("cpu.max", "5000 100000"), ("cpu.max.burst", "7")]),
        ({"idle": 0}, [("cpu.idle", "0")]),
        ({"idle": 1, "shares": 1024}, [("cpu.idle", "1"), ("cpu.weight", "100")]),
        ({"cpus": "", "mems": ""}, []),
        ({"cpus": "0-1", "mems": "0"}, [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
    ],
)
def test_cpu(cpu: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert writes({"cpu": cpu}) == expected


def test_only_the_first_of_two_burst_writes_may_fail() -> None:
    bursts = [step for step in steps_for({"cpu": {"burst": 7, "quota": 5000}}) if "burst" in step.where]
    assert [type(step) for step in bursts] == [resources.WriteCgroupUnless, resources.WriteCgroup]


@pytest.mark.parametrize(("limit", "value"), [(5, "5"), (0, "1"), (-1, "max"), (-7, "max")])
def test_pids(limit: int, value: str) -> None:
    assert writes({"pids": {"limit": limit}}) == [("pids.max", value)]


def test_no_pids_limit_is_no_write() -> None:
    assert writes({"pids": {}}) == writes({"pids": {"limit": None}}) == []


@pytest.mark.parametrize(("weight", "scaled"), [(10, "1"), (100, "910"), (500, "4950"), (1000, "10000")])
def test_io_weight_is_scaled_where_there_is_no_bfq(weight: int, scaled: str) -> None:
    step = next(step for step in steps_for({"blockIO": {"weight": weight}}) if "blockIO" in step.where)
    assert isinstance(step, resources.WriteCgroupFirst)
    assert step.choices == [("io.bfq.weight", str(weight)), ("io.weight", scaled)]


@pytest.mark.parametrize("weight", [1, 9, 1001, 65535])
def test_io_weight_out_of_range(weight: int) -> None:
    with pytest.raises(ConfigError, match="from 10 to 1000") as caught:
        steps_for({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": weight}]}})
    assert caught.value.where == f"{PLACE}/blockIO/weightDevice/0/weight"


def test_io_per_device() -> None:
    device = {"major": 8, "minor": 16}
    limits = {
        "weight": 0,
        "weightDevice": [{**device, "weight": 10}, {**device, "leafWeight": 10}, {**device, "weight": 0}],
        "throttleReadBpsDevice": [{**device, "rate": 1}, {"major": 9, "minor": 0, "rate": 2}],
        "throttleWriteBpsDevice": [{**device, "rate": 3}],
        "throttleReadIOPSDevice": [{**device, "rate": 4}],
        "throttleWriteIOPSDevice": [{**device, "rate": 5}],
    }
    steps = [step for step in steps_for({"blockIO": limits}) if "blockIO" in step.where]
    assert [step.where.removeprefix(f"{PLACE}/blockIO/") for step in steps] == [
        "weightDevice/0",
        "weightDevice/2",
        "throttleReadBpsDevice/0",
        "throttleReadBpsDevice/1",
        "throttleWriteBpsDevice/0",
        "throttleReadIOPSDevice/0",
        "throttleWriteIOPSDevice/0",
    ]
    assert steps[0].__dict__["choices"] == [("io.bfq.weight", "8:16 10"), ("io.weight", "8:16 1")]
    assert steps[1].__dict__["choices"] == [("io.bfq.weight", "8:16 0"), ("io.weight", "8:16 default")]
    assert [step.__dict__["value"] for step in steps[2:]] == [
        "8:16 rbps=1",
        "9:0 rbps=2",
        "8:16 wbps=3",
        "8:16 riops=4",
        "8:16 wiops=5",
    ]


def test_hugepages_are_limited_in_use_and_reserved_where_that_is_counted() -> None:
    limits = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": (1 << 64) - 1}]}
    steps = [step for step in steps_for(limits) if "hugepage" in step.where]
    assert [(step.__dict__["file"], step.__dict__.get("accepted")) for step in steps] == [
        ("hugetlb.2MB.max", None),
        ("hugetlb.2MB.rsvd.max", "ENOENT"),
        ("hugetlb.1GB.max", None),
        ("hugetlb.1GB.rsvd.max", "ENOENT"),
    ]
    assert steps[2].__dict__["value"] == "18446744073709551615"


@pytest.mark.parametrize("size", ["../2MB", "2MB/..", "", "2 MB", "2.MB"])
def test_a_page_size_becomes_no_path(size: str) -> None:
    with pytest.raises(ConfigError):
        steps_for({"hugepageLimits": [{"pageSize": size, "limit": 1}]})


def test_rdma() -> None:
    limits = {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "a/b~": {"hcaObjects": 0}, "none": {}}}
    assert writes(limits) == [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"), ("rdma.max", "a/b~ hca_object=0")]
    assert f"{PLACE}/rdma/a~1b~0" in [step.where for step in steps_for(limits)]


def test_unified_is_written_last_and_as_it_is() -> None:
    limits = {"unified": {"memory.high": "5", "cgroup.max.depth": "2"}, "memory": {"limit": 9}}
    assert writes(limits) == [("memory.max", "9"), ("memory.high", "5"), ("cgroup.max.depth", "2")]
    assert needed_controllers(steps_for({"unified": {"cgroup.max.depth": "2"}})) == {}
    assert needed_controllers(steps_for({"unified": {"misc.max": "x"}})) == {"misc": f"{PLACE}/unified/misc.max"}


@pytest.mark.parametrize("file", ["../memory.max", "a/b.c", "/memory.max", "memory", "memory.", ".max", "", "."])
def test_unified_takes_file_names_only(file: str) -> None:
    with pytest.raises(ConfigError, match=r"slashes|CONTROLLER\.PARAMETER") as caught:
        steps_for({"unified": {file: "1"}})
    assert caught.value.where.startswith(f"{PLACE}/unified/")


def test_the_order_is_that_of_runc() -> None:
    limits = {
        "unified": {"memory.high": "1"},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "rdma": {"mlx": {"hcaHandles": 1}},
        "cpu": {"cpus": "0", "shares": 2},
        "blockIO": {"weight": 10},
        "memory": {"limit": 1},
        "pids": {"limit": 1},
    }
    names = []
    for step in steps_for(limits):
        kind = step.__dict__.get("controller") or type(step).__name__
        if kind not in names:
            names.append(kind)
    expected = ["CreateCgroup", "pids", "memory", "io", "cpu", "DevicePolicy", "cpuset", "hugetlb", "rdma"]
    assert names == expected
    assert steps_for(limits)[-1].where == f"{PLACE}/unified/memory.high"


def test_needed_controllers_name_the_first_key_of_each() -> None:
    limits = {"memory": {"limit": 1, "reservation": 1}, "cpu": {"cpus": "0"}}
    assert needed_controllers(steps_for(limits)) == {
        "memory": f"{PLACE}/memory/limit",
        "cpuset": f"{PLACE}/cpu/cpus",
    }


def test_an_empty_config_still_gets_a_cgroup_and_the_device_policy() -> None:
    steps = resource_steps({}, "/web")
    assert [type(step) for step in steps] == [resources.CreateCgroup, resources.DevicePolicy]
    assert all(step.phase == CGROUP for step in steps)


def test_without_a_cgroup_nothing_is_done_but_a_limit_is_refused() -> None:
    assert resource_steps({}, "") == []
    with pytest.raises(UnsupportedError) as caught:
        steps_for({"pids": {"limit": 3}}, cgroup="")
    assert caught.value.where == f"{PLACE}/pids/limit"


def test_every_step_can_describe_itself() -> None:
    limits = {
        "memory": {"limit": 1, "swap": 1, "checkBeforeUpdate": True},
        "blockIO": {"weight": 10},
        "devices": [{"allow": True, "access": "rwm"}, {"allow": False, "type": "c", "major": 8, "access": "r"}],
    }
    for step in steps_for(limits):
        assert step.text()
        assert step.why
        assert step.as_dict()["text"] == step.text()
    assert "devices: allow all but deny c 8:* r" in [step.text() for step in steps_for(limits)]


@pytest.mark.parametrize(
    ("path", "own", "expected"),
    [
        ("", "/", "/web"),
        ("", "/user.slice/session-1.scope", "/user.slice/web"),
        ("", "/init.scope", "/web"),
        ("group", "/a/b", "/a/group"),
        ("group/sub", "/", "/group/sub"),
        ("/group/sub", "/a/b", "/group/sub"),
        ("/group//./sub/", "/", "/group/sub"),
        ("/../../etc", "/", "/etc"),
        ("../../../x", "/a/b", "/a/x"),
        ("a/../../..", "/a/b", "/a/web"),
        ("/docker:a:b", "/", "/docker:a:b"),
        ("a:b", "/", "/a:b"),
    ],
)
def test_cgroup_path(path: str, own: str, expected: str) -> None:
    linux: Any = {"cgroupsPath": path} if path else {}
    assert cgroup_path(linux, "web", own) == expected


@pytest.mark.parametrize("path", ["/", "/..", "/a/.."])
def test_the_root_cgroup_is_nobodys(path: str) -> None:
    with pytest.raises(ConfigError, match="root cgroup"):
        cgroup_path({"cgroupsPath": path}, "web")


@pytest.mark.parametrize("path", ["system.slice:docker:1234", "::web"])
def test_the_systemd_form_is_no_path(path: str) -> None:
    with pytest.raises(ConfigError, match="systemd") as caught:
        cgroup_path({"cgroupsPath": path}, "web")
    assert caught.value.where == "config.json#/linux/cgroupsPath"


CGROUP_MOUNT = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid"]}


def owned(uid: int = 0, cgroup: str = "/web", **changes: Any) -> list[tuple[str, int]]:
    """(place, host's uid) of each step that gives the cgroup away; the container's IDs begin at 1000 of the host's."""
    linux = {
        "namespaces": [{"type": "cgroup"}, {"type": "user"}],
        "uidMappings": [
            {"containerID": 0, "hostID": 1000, "size": 10},
            {"containerID": 10, "hostID": 70000, "size": 10},
        ],
    }
    spec: Any = {
        "process": {"user": {"uid": uid}},
        "mounts": [changes.pop("mount", CGROUP_MOUNT)],
        "linux": linux | changes,
    }
    steps = resources.owner_steps(spec, cgroup)
    return [(step.where, step.uid) for step in steps if isinstance(step, resources.OwnCgroup)]


@pytest.mark.parametrize(("uid", "of_the_host"), [(0, 1000), (9, 1009), (10, 70000), (19, 70009)])
def test_a_writable_cgroup_is_the_users(uid: int, of_the_host: int) -> None:
    assert owned(uid) == [("config.json#/mounts/0", of_the_host)]


def test_without_a_user_namespace_it_is_the_same_user() -> None:
    assert owned(5, namespaces=[{"type": "cgroup"}]) == [("config.json#/mounts/0", 5)]
    assert owned(0, namespaces=[{"type": "cgroup"}]) == [], "root's already"


@pytest.mark.parametrize(
    "changes",
    [
        {"namespaces": [{"type": "user"}]},
        {"namespaces": [{"type": "user"}, {"type": "cgroup", "path": "/proc/1/ns/cgroup"}]},
        {"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}, {"type": "cgroup"}]},
        {"mount": CGROUP_MOUNT | {"options": ["nosuid", "ro"]}},
        {"mount": CGROUP_MOUNT | {"destination": "/mnt"}},
        {"mount": CGROUP_MOUNT | {"source": "/somewhere"}},
        {"cgroup": ""},
    ],
)
def test_a_cgroup_that_stays_roots(changes: Any) -> None:
    assert owned(**changes) == []


def test_the_mount_is_found_however_it_is_written() -> None:
    assert owned(mount=CGROUP_MOUNT | {"destination": "sys/fs/../fs/cgroup/"}) == [("config.json#/mounts/0", 1000)]
    without_options = {key: value for key, value in CGROUP_MOUNT.items() if key != "options"}
    assert owned(mount=without_options) == [("config.json#/mounts/0", 1000)]
