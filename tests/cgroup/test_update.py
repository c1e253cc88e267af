"""`update ID`: limits of a container that is there (runc:update.go). Most need a v2 hierarchy with controllers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cgroup.test_limits import MIB, cgroup_of
from tests.support.container import Container, wait_until
from tests.support.runtime import Result, identify

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

Update = Callable[..., Result]


@pytest.fixture
def limited(container: Container) -> Callable[..., Path]:
    """Start a container with these resources; gives its cgroup directory."""

    def start(**resources: Any) -> Path:
        container.linux["resources"] |= resources
        container.run_sleeping()
        return cgroup_of(container.pid())

    return start


@pytest.fixture
def update(container: Container) -> Update:
    """Update the container; options, or resources as keywords, which go through standard input. It must succeed."""

    def call(*options: str, status: int = 0, **resources: Any) -> Result:
        if resources:
            result = container.runtime("update", "-r", "-", container.id, stdin=json.dumps(resources))
        else:
            result = container.runtime("update", *options, container.id)
        assert result.status == status, result
        assert result.stdout == "" or identify().name == "runc"  # whose parser prints its help there
        return result

    return call


def says(path: Path, file: str) -> str:
    return (path / file).read_text().strip()


def place_in(result: Result, place: str) -> None:
    """Whether an error names the place that it is about; only pyruntime is asked for it, in one line."""
    assert result.stderr
    if identify().name == "pyruntime":
        (line,) = result.lines()
        assert place in line


@pytest.mark.needs("memory", "cpu", "cpuset", "pids")
@pytest.mark.parametrize(
    ("options", "file", "value"),
    [
        (("--memory", "50M"), "memory.max", str(50 * MIB)),
        (("--memory", "-1"), "memory.max", "max"),
        (("--memory-reservation=33554432",), "memory.low", str(32 * MIB)),
        (("--pids-limit", "12345"), "pids.max", "12345"),
        (("--pids-limit", "-1"), "pids.max", "max"),
        (("--cpu-period", "50000"), "cpu.max", "40000 50000"),
        (("--cpu-quota", "60000"), "cpu.max", "60000 200000"),
        (("--cpu-quota", "-1"), "cpu.max", "max 200000"),
        (("--cpu-quota", "5000", "--cpu-period=10000"), "cpu.max", "5000 10000"),
        (("--cpuset-cpus", "0"), "cpuset.cpus", "0"),
        (("--cpuset-mems", "0"), "cpuset.mems", "0"),
        pytest.param(("--cpu-burst", "20000"), "cpu.max.burst", "20000", marks=pytest.mark.runc_since("1.2", "burst")),
        pytest.param(("--cpu-idle", "1"), "cpu.idle", "1", marks=pytest.mark.runc_since("1.2", "idle")),
        pytest.param(
            ("--cpu-share", "1024"), "cpu.weight", "100", marks=pytest.mark.runc_since("1.4", "the formula of today")
        ),
    ],
)
def test_options(limited: Callable[..., Path], update: Update, options: list[str], file: str, value: str) -> None:
    path = limited(
        memory={"limit": 64 * MIB, "swap": 64 * MIB}, pids={"limit": 20}, cpu={"quota": 40000, "period": 200000}
    )
    update(*options)
    assert says(path, file) == value


@pytest.mark.needs("memory", "cpu", "pids")
def test_what_is_not_named_stays(limited: Callable[..., Path], update: Update) -> None:
    path = limited(
        memory={"limit": 64 * MIB, "reservation": 16 * MIB},
        pids={"limit": 20},
        cpu={"quota": 40000, "period": 200000, "shares": 2048},
        unified={"memory.high": "50331648"},
    )
    files = ("memory.max", "memory.low", "memory.high", "pids.max", "cpu.max", "cpu.weight")
    before = {file: says(path, file) for file in files}
    update("--pids-limit", "33")
    assert {file: says(path, file) for file in files} == before | {"pids.max": "33"}


@pytest.mark.needs("memory", "cpu", "pids")
@pytest.mark.only_pyruntime("runc forgets the quota where an update names neither quota nor period")
def test_later_updates_know_of_earlier_ones(limited: Callable[..., Path], update: Update) -> None:
    path = limited(memory={"limit": 64 * MIB})
    update("--cpu-quota", "40000")
    update("--memory-swap", "96M")
    update("--pids-limit", "9")
    update("--cpu-period", "200000")
    update("--memory", "80M")
    assert says(path, "cpu.max") == "40000 200000"
    assert says(path, "memory.max") == str(80 * MIB)
    assert says(path, "memory.swap.max") == str(16 * MIB)


@pytest.mark.needs("memory")
@pytest.mark.parametrize(("first", "second"), [((30, 50), (60, 80)), ((60, 80), (30, 50)), ((60, 60), (60, 200))])
def test_memory_and_swap_go_up_and_down(
    limited: Callable[..., Path], update: Update, first: tuple[int, int], second: tuple[int, int]
) -> None:
    path = limited(memory={"limit": first[0] * MIB, "swap": first[1] * MIB})
    for memory, swap in (second, first, second):
        update("--memory", f"{memory}M", "--memory-swap", f"{swap}M")
        assert says(path, "memory.max") == str(memory * MIB)
        assert says(path, "memory.swap.max") == str((swap - memory) * MIB)


@pytest.mark.needs("cpu")
@pytest.mark.runc_since("1.2", "burst")
def test_quota_and_burst_go_up_and_down(limited: Callable[..., Path], update: Update) -> None:
    path = limited(cpu={"quota": 20000, "burst": 10000})
    for quota, burst in ((50000, 40000), (10000, 5000), (90000, 90000)):
        update("--cpu-quota", str(quota), "--cpu-burst", str(burst))
        assert (says(path, "cpu.max"), says(path, "cpu.max.burst")) == (f"{quota} 100000", str(burst))


@pytest.mark.needs("memory", "pids")
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_resources(
    limited: Callable[..., Path], update: Update, container: Container, scratch: Path, source: str
) -> None:
    path = limited(pids={"limit": 20})
    wanted = {"memory": {"limit": 48 * MIB}, "pids": {"limit": 7}, "unified": {"memory.high": "33554432"}}
    if source == "stdin":
        update(**wanted)
    else:
        (scratch / "limits.json").write_text(json.dumps(wanted))
        update("--resources", str(scratch / "limits.json"))
    assert [says(path, file) for file in ("memory.max", "memory.high", "pids.max")] == [str(48 * MIB), "33554432", "7"]


@pytest.mark.needs("io", "vm")
@pytest.mark.runc_since("1.4", "limits of devices")
def test_block_io(limited: Callable[..., Path], update: Update) -> None:
    device = os.stat("/").st_dev
    major, minor = os.major(device), os.minor(device)
    name = {"major": major, "minor": minor}
    path = limited(blockIO={"throttleReadBpsDevice": [name | {"rate": 485760}, name | {"rate": 485760}]})
    update(blockIO={"throttleWriteIOPSDevice": [name | {"rate": 900}]})
    assert says(path, "io.max") == f"{major}:{minor} rbps=485760 wbps=max riops=max wiops=900"
    update(blockIO={"throttleReadBpsDevice": [name | {"rate": 9000000}]})
    assert says(path, "io.max") == f"{major}:{minor} rbps=9000000 wbps=max riops=max wiops=900"


@pytest.mark.needs("hugetlb")
@pytest.mark.only_pyruntime("runc passes hugepageLimits over")
def test_huge_pages(limited: Callable[..., Path], update: Update) -> None:
    path = limited()
    update(hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MIB}])
    assert says(path, "hugetlb.2MB.max") == str(4 * MIB)


@pytest.mark.needs("pids")
@pytest.mark.parametrize("status", ["created", "running", "paused"])
def test_in_each_state(container: Container, update: Update, status: str) -> None:
    container.process["args"] = ["sleep", "1000"]
    assert (container.create() if status == "created" else container.run_detached()).status == 0
    if status == "paused":
        assert container.runtime("pause", container.id).status == 0
    update("--pids-limit", "30")
    assert says(cgroup_of(container.pid()), "pids.max") == "30"
    assert container.state()["status"] == status
    if status == "created":
        assert container.start().status == 0
        assert says(cgroup_of(container.pid()), "pids.max") == "30"


def test_a_stopped_container(container: Container, update: Update) -> None:
    assert container.run_detached().status == 0
    container.wait_for("stopped")
    assert "container not running" in update("--pids-limit", "30", status=1).stderr


def test_a_container_that_is_not_there(container: Container, update: Update) -> None:
    container.runtime.root.mkdir()
    assert "does not exist" in update("--pids-limit", "30", status=1).stderr


def test_nothing_asked_for(limited: Callable[..., Path], update: Update) -> None:
    limited()
    assert update().stderr == ""
    update(memory={}, cpu={"shares": 0})


@pytest.mark.needs("pids")
def test_device_rules_stay(limited: Callable[..., Path], update: Update, container: Container) -> None:
    """Those of the container's own are not told of; others are, for they are not changed."""
    limited()
    update(pids={"limit": 30}, devices=[{"allow": True, "type": "b", "access": "rwm"}])
    assert container.exec_script("mknod /disk b 7 0 && cat /disk").status != 0
    assert container.exec_output("head -c 1 /dev/zero | wc -c") == "1"


@pytest.mark.needs("memory")
@pytest.mark.runc_since("1.2", "checkBeforeUpdate")
def test_less_memory_than_is_in_use(limited: Callable[..., Path], update: Update) -> None:
    path = limited(memory={"limit": 64 * MIB})
    for wanted in ({"limit": 1024}, {"limit": 1024, "swap": 2048}):
        told = update(memory=wanted | {"checkBeforeUpdate": True}, status=1)
        place_in(told, "stdin#/memory/checkBeforeUpdate")
        assert "rejecting memory" in told.stderr
    assert says(path, "memory.max") == str(64 * MIB)


@pytest.mark.needs("memory")
def test_the_limit_is_in_force(container: Container, update: Update) -> None:
    """A container that has outgrown its new limit is ended by the kernel, as with runc."""
    container.linux["resources"]["memory"] = {"limit": 128 * MIB, "swap": 128 * MIB}
    container.script("data=$(head -c 40000000 /dev/zero | tr '\\0' x); touch /full; while :; do sleep 1; done")
    container.config["root"]["readonly"] = False
    assert container.run_detached().status == 0
    wait_until((container.rootfs / "full").exists, "the container to use its memory")
    container.runtime("update", "--memory", "8M", "--memory-swap", "8M", container.id)
    container.wait_for("stopped")


@pytest.mark.needs("memory", "pids")
@pytest.mark.only_pyruntime("runc means to, but what it puts back is what it has just changed in place")
def test_all_or_nothing(limited: Callable[..., Path], update: Update) -> None:
    path = limited(memory={"limit": 64 * MIB}, pids={"limit": 20})
    told = update("--memory", "32M", "--pids-limit", "10", "--cpuset-cpus", "4000", status=1)
    place_in(told, "--cpuset-cpus: write(")
    assert (says(path, "memory.max"), says(path, "pids.max")) == (str(64 * MIB), "20")
    update("--pids-limit", "11")
    assert (says(path, "memory.max"), says(path, "pids.max")) == (str(64 * MIB), "11")


@pytest.mark.needs("memory", "cpu", "pids", "io", "vm")
@pytest.mark.only_pyruntime("runc puts back only what config.json has")
def test_what_the_container_did_not_have_is_put_back_as_well(limited: Callable[..., Path], update: Update) -> None:
    """Also where it takes an order: cpu.idle takes the weight with it, and a burst may never exceed its quota."""
    path = limited(cpu={"shares": 2048})
    device = os.stat("/").st_dev
    name = {"major": os.major(device), "minor": os.minor(device)}
    files = ("memory.max", "memory.low", "pids.max", "cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle", "io.max")
    before = {file: says(path, file) for file in files}
    told = update(
        memory={"limit": 32 * MIB, "reservation": MIB}, pids={"limit": 9},
        cpu={"idle": 1, "quota": 50000, "burst": 40000},
        blockIO={"throttleReadBpsDevice": [name | {"rate": 1000000}]},
        unified={"memory.oom.group": "1", "memory.high": "much"}, status=1,
    )  # fmt: skip
    place_in(told, "stdin#/unified/memory.high: write(")
    assert {file: says(path, file) for file in files} == before
    assert says(path, "memory.oom.group") == "0"


@pytest.mark.needs("memory", "cpu", "pids")
@pytest.mark.parametrize(
    ("options", "place"),
    [
        (("--memory", "lots"), "--memory: "),
        (("--cpu-quota", "1.5"), "--cpu-quota: "),
        (("--pids-limit", "many"), "--pids-limit: "),
        (("--cpu-quota", "10"), "--cpu-quota: write("),
        (("--cpu-period", "10"), "--cpu-period: write("),
        pytest.param(("--cpu-idle", "2"), "--cpu-idle: ", marks=pytest.mark.runc_since("1.2", "idle")),
        (("--memory-swap", "32M"), "--memory-swap: memory+swap limit should be >= memory limit"),
        pytest.param(
            *(("--memory", "200M"), "config.json#/linux/resources/memory/swap: "),
            marks=pytest.mark.runc_since("1.2", "a limit of swap stays where it is not named"),
        ),
        (("--cpuset-cpus", "nothing"), "--cpuset-cpus: write("),
        (("--resources", "/no/such/file"), "--resources: open("),
    ],
)
def test_bad_values(limited: Callable[..., Path], update: Update, options: list[str], place: str) -> None:
    path = limited(memory={"limit": 64 * MIB, "swap": 128 * MIB}, pids={"limit": 20})
    files = ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    before = {file: says(path, file) for file in files}
    place_in(update(*options, status=1), place)
    assert {file: says(path, file) for file in files} == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"memory": {"limit": "1M"}}'])
def test_bad_resources(limited: Callable[..., Path], container: Container, text: str) -> None:
    limited()
    result = container.runtime("update", "-r", "-", container.id, stdin=text)
    assert result.status == 1
    place_in(result, "stdin")


@pytest.mark.only_pyruntime("runc passes them over in silence")
def test_what_is_ignored_is_told(limited: Callable[..., Path], update: Update, container: Container) -> None:
    limited()
    told = update("--cpu-rt-period", "1000000", "--kernel-memory", "1M").lines()
    assert [line.split(": ")[3] for line in told] == ["--cpu-rt-period", "--kernel-memory"]
    (line,) = update(devices=[{"allow": True, "type": "c", "access": "r"}]).lines()
    assert "stdin#/devices: ignored" in line
    assert update(devices=container.linux["resources"]["devices"]).lines() == []
    result = container.runtime("update", "-r", "-", "--pids-limit", "5", container.id, stdin="{}")
    (line,) = result.lines()
    assert "--pids-limit" in line


@pytest.mark.needs("pids", "memory")
@pytest.mark.only_pyruntime("runc has no lock: of two that read the state at the same time, one is forgotten")
def test_many_at_once(limited: Callable[..., Path], container: Container) -> None:
    limited(memory={"limit": 64 * MIB})
    words = (("--pids-limit", "31"), ("--cpu-quota", "41000"), ("--memory-swap", "71M"), ("--memory-reservation", "7M"))
    calls = [container.runtime.spawn("update", *each, container.id, stdin=subprocess.DEVNULL) for each in words]
    assert [(call.communicate(), call.returncode) for call in calls] == [((b"", b""), 0)] * len(words)
    kept = json.loads((container.runtime.root / container.id / "config.json").read_text())["linux"]["resources"]
    assert kept["pids"] == {"limit": 31}
    assert kept["cpu"] == {"quota": 41000}
    assert {key: kept["memory"][key] for key in ("limit", "swap", "reservation")} == {
        "limit": 64 * MIB, "swap": 71 * MIB, "reservation": 7 * MIB,
    }  # fmt: skip


@pytest.mark.needs("pids")
@pytest.mark.only_pyruntime("its state is not runc's")
def test_a_state_that_cannot_be_written(limited: Callable[..., Path], container: Container, scratch: Path) -> None:
    """The limits are put back, for they could not be remembered."""
    path = limited(pids={"limit": 20})
    top = container.runtime.root / container.id
    words = [container.runtime.command, "--root", str(container.runtime.root), "update", "--pids-limit", "9"]
    script = f'mount --bind {top} {top} && mount -o remount,bind,ro {top} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *words, container.id],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, "EROFS" in done.stderr) == (1, True)
    assert says(path, "pids.max") == "20"


@pytest.mark.only_pyruntime("runc names neither the option nor the remedy")
def test_a_controller_that_is_not_there(limited: Callable[..., Path], update: Update) -> None:
    limited()
    (line,) = update(unified={"nosuch.max": "1"}, status=1).lines()
    assert "stdin#/unified/nosuch.max: needs the cgroup controller 'nosuch'" in line
