"""linux.cgroupsPath and linux.resources on cgroup v2: the files written, and what the limits do.

Spec: config-linux.md#control-groups. The controllers are real: most tests need a machine, or a VM, whose v2
hierarchy has them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.lib.steps import v2_mount
from tests import capabilities
from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers, cgroups_named

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

MIB = 1 << 20


def cgroup_of(pid: int) -> Path:
    """The host's path of a process's v2 cgroup."""
    (line,) = [line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::")]
    return Path(v2_mount() + line.removeprefix("0::"))


@pytest.fixture
def limited(container: Container) -> Callable[..., Path]:
    """Start a container with these resources; gives its cgroup directory."""

    def start(**resources: Any) -> Path:
        container.linux["resources"] |= resources
        container.process["args"] = ["sleep", "1000"]
        result = container.run_detached()
        assert result.status == 0, result
        return cgroup_of(container.pid())

    return start


@pytest.fixture
def parent() -> Iterator[Path]:
    """A cgroup of the test's own at the top of the v2 hierarchy, for containers to be put below.

    Ask for it before `container`, which then is gone first. Its name is not the test's, for it isn't a leftover.
    """
    path = Path(v2_mount()) / f"parent-{os.getpid()}"
    path.mkdir()
    yield path
    for directory, _, _ in os.walk(path, topdown=False):
        Path(directory).rmdir()


@pytest.mark.needs("memory")
@pytest.mark.parametrize(
    ("memory", "file", "value"),
    [({"limit": 64 * MIB}, "memory.max", str(64 * MIB)),
     ({"limit": -1}, "memory.max", "max"),
     ({"limit": 64 * MIB, "reservation": 32 * MIB}, "memory.low", str(32 * MIB)),
     ({"limit": 64 * MIB, "swap": 96 * MIB}, "memory.swap.max", str(32 * MIB)),
     ({"limit": 64 * MIB, "swap": 64 * MIB}, "memory.swap.max", "0"),
     ({"limit": 64 * MIB, "swap": -1}, "memory.swap.max", "max"),
     ({}, "memory.max", "max")],
)  # fmt: skip
def test_memory(limited: Callable[..., Path], memory: dict[str, int], file: str, value: str) -> None:
    """The config's swap is memory and swap together; the kernel's file is swap alone."""
    assert (limited(memory=memory) / file).read_text().strip() == value


@pytest.mark.needs("memory")
def test_swap_without_a_limit(container: Container, refused: Refused) -> None:
    container.linux["resources"]["memory"] = {"swap": 64 * MIB}
    refused("config.json#/linux/resources/memory")


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("cpu", "file", "value"),
    [({"quota": 50000, "period": 200000}, "cpu.max", "50000 200000"),
     ({"quota": 50000}, "cpu.max", "50000 100000"),
     ({"period": 50000}, "cpu.max", "max 50000"),
     ({"quota": -1, "period": 50000}, "cpu.max", "max 50000"),
     pytest.param({"quota": 50000, "period": 100000, "burst": 20000}, "cpu.max.burst", "20000",
                  marks=pytest.mark.runc_since("1.2", "burst")),
     pytest.param({"idle": 1}, "cpu.idle", "1", marks=pytest.mark.runc_since("1.2", "idle"))],
)  # fmt: skip
def test_cpu(limited: Callable[..., Path], cpu: dict[str, int], file: str, value: str) -> None:
    assert (limited(cpu=cpu) / file).read_text().strip() == value


@pytest.mark.needs("cpu")
@pytest.mark.runc_since("1.4", "the formula by which 1024 shares are the default weight of 100")
@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (0, 100)])
def test_cpu_shares(limited: Callable[..., Path], shares: int, weight: int) -> None:
    """The three fixed points of weight = ceil(10^((L^2 + 125 L) / 612 - 7 / 34)), L = log2(shares)."""
    assert (limited(cpu={"shares": shares}) / "cpu.weight").read_text().strip() == str(weight)


@pytest.mark.needs("cpuset")
def test_cpuset(limited: Callable[..., Path], container: Container) -> None:
    path = limited(cpu={"cpus": "0", "mems": "0"})
    assert (path / "cpuset.cpus").read_text().strip() == "0"
    assert (path / "cpuset.mems").read_text().strip() == "0"
    assert "Cpus_allowed_list:\t0\n" in Path(f"/proc/{container.pid()}/status").read_text()


@pytest.mark.needs("cpuset")
@pytest.mark.parametrize("key", ["cpus", "mems"])
def test_cpuset_that_is_not_there(container: Container, refused: Refused, key: str) -> None:
    container.linux["resources"]["cpu"] = {key: "4000"}
    refused(f"config.json#/linux/resources/cpu/{key}")


@pytest.mark.needs("pids")
@pytest.mark.parametrize(("limit", "value"), [(17, "17"), (-1, "max")])
def test_pids(limited: Callable[..., Path], limit: int, value: str) -> None:
    assert (limited(pids={"limit": limit}) / "pids.max").read_text().strip() == value


@pytest.mark.needs("io")
def test_block_io_weight(limited: Callable[..., Path]) -> None:
    """io.bfq.weight takes the config's own range; io.weight is 1 + (w - 10) * 9999 / 990."""
    path = limited(blockIO={"weight": 505})
    if (path / "io.bfq.weight").exists():
        assert "default 505" in (path / "io.bfq.weight").read_text()
    elif (path / "io.weight").exists():
        assert "default 5000" in (path / "io.weight").read_text()


@pytest.mark.needs("io", "vm")
def test_block_io_throttling(limited: Callable[..., Path]) -> None:
    device = os.stat("/").st_dev
    name = {"major": os.major(device), "minor": os.minor(device)}
    path = limited(blockIO={
        "throttleReadBpsDevice": [name | {"rate": 1000000}], "throttleWriteBpsDevice": [name | {"rate": 2000000}],
        "throttleReadIOPSDevice": [name | {"rate": 100}], "throttleWriteIOPSDevice": [name | {"rate": 200}],
    })  # fmt: skip
    expected = f"{os.major(device)}:{os.minor(device)} rbps=1000000 wbps=2000000 riops=100 wiops=200"
    assert (path / "io.max").read_text().strip() == expected


@pytest.mark.needs("hugetlb")
@pytest.mark.only_pyruntime("runc on a hybrid host looks at the v1 hierarchies alone")
def test_huge_pages(limited: Callable[..., Path]) -> None:
    path = limited(hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MIB}])
    assert (path / "hugetlb.2MB.max").read_text().strip() == str(4 * MIB)
    assert (path / "hugetlb.2MB.rsvd.max").read_text().strip() == str(4 * MIB)


@pytest.mark.needs("hugetlb")
def test_huge_pages_of_an_unknown_size(container: Container, refused: Refused) -> None:
    container.linux["resources"]["hugepageLimits"] = [{"pageSize": "3MB", "limit": 4 * MIB}]
    refused("config.json#/linux/resources/hugepageLimits/0")


@pytest.mark.needs("memory", "pids")
def test_unified(limited: Callable[..., Path]) -> None:
    path = limited(unified={"memory.high": "33554432", "memory.oom.group": "1", "pids.max": "19"})
    assert (path / "memory.high").read_text().strip() == "33554432"
    assert (path / "memory.oom.group").read_text().strip() == "1"
    assert (path / "pids.max").read_text().strip() == "19"


@pytest.mark.needs("memory", "pids")
def test_unified_wins(limited: Callable[..., Path]) -> None:
    """The spec leaves the order open; runc writes `unified` last."""
    assert (limited(pids={"limit": 5}, unified={"pids.max": "19"}) / "pids.max").read_text().strip() == "19"


@pytest.mark.needs("memory")
@pytest.mark.parametrize("file", ["memory.no_such_file", "no_such_controller.max", "../memory.max", "memory.max/x"])
def test_unified_with_a_file_that_is_not_there(container: Container, refused: Refused, file: str) -> None:
    container.linux["resources"]["unified"] = {file: "1"}
    refused("config.json#/linux/resources/unified")


@pytest.mark.needs("memory")
def test_a_value_that_the_kernel_refuses(container: Container, refused: Refused) -> None:
    container.linux["resources"]["unified"] = {"memory.max": "much"}
    result = refused("config.json#/linux/resources/unified/memory.max")
    assert "memory.max" in result.stderr


@pytest.mark.needs("memory")
def test_out_of_memory(container: Container, leftovers: Leftovers) -> None:
    container.linux["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}
    assert container.run_script("exec tail /dev/zero").status == 137
    assert leftovers.found() == []


@pytest.mark.needs("pids")
def test_a_fork_bomb(container: Container) -> None:
    container.linux["resources"]["pids"] = {"limit": 8}
    result = container.run_script("for n in 1 2 3 4 5 6 7 8 9 10; do sleep 10 & done; echo survived")
    assert "can't fork" in result.stderr
    assert result.status != 0


@pytest.mark.needs("cpu")
def test_a_busy_loop_is_throttled(container: Container) -> None:
    """No time is measured: the kernel counts the periods in which it held the loop back."""
    container.linux["resources"]["cpu"] = {"quota": 5000, "period": 100000}
    container.script("while :; do :; done")
    assert container.run_detached().status == 0
    statistics = cgroup_of(container.pid()) / "cpu.stat"
    wait_until(lambda: "nr_throttled 0\n" not in statistics.read_text(), "the loop to be throttled")


@pytest.mark.needs("memory")
def test_the_limit_holds_from_the_first_instruction(container: Container) -> None:
    """The program is born in its cgroup; nothing of it is charged elsewhere."""
    container.linux["resources"]["memory"] = {"limit": 64 * MIB}
    container.add_mount("/sys/fs/cgroup", "cgroup", "ro")
    assert container.output("cat /sys/fs/cgroup/memory.max") == str(64 * MIB)


class TestPath:
    """Where the cgroup is. In these tests the v2 hierarchy is the only one, or the one that counts."""

    pytestmark = pytest.mark.needs("memory")

    def test_below_the_path_of_the_config(self, parent: Path, container: Container) -> None:
        container.linux["cgroupsPath"] = f"/{parent.name}/deep/er/{container.id}"
        container.process["args"] = ["sleep", "1000"]
        assert container.run_detached().status == 0
        assert cgroup_of(container.pid()) == parent / "deep/er" / container.id

    def test_the_id_is_its_name_without_one(self, container: Container) -> None:
        container.process["args"] = ["sleep", "1000"]
        assert container.run_detached().status == 0
        assert cgroup_of(container.pid()).name == container.id

    def test_dots_stay_below_the_root(self, container: Container) -> None:
        container.linux["cgroupsPath"] = f"/../../../{container.id}"
        container.process["args"] = ["sleep", "1000"]
        assert container.run_detached().status == 0
        assert cgroup_of(container.pid()) == Path(v2_mount()) / container.id

    def test_a_created_container_is_in_it(self, container: Container) -> None:
        assert container.create().status == 0
        pid = container.pid()
        assert str(pid) in (cgroup_of(pid) / "cgroup.procs").read_text().split()
        assert cgroup_of(pid).name == container.id

    def test_an_empty_one_that_is_there_already(self, container: Container, leftovers: Leftovers) -> None:
        (Path(v2_mount()) / container.id).mkdir()
        container.linux["cgroupsPath"] = f"/{container.id}"
        assert container.output("echo fine") == "fine"
        assert leftovers.found() == []

    @pytest.mark.runc_since("1.2", "before, a warning")
    def test_one_with_processes_of_others(self, parent: Path, container: Container) -> None:
        other = subprocess.Popen(["sleep", "1000"])
        try:
            (parent / "inhabited").mkdir()
            (parent / "inhabited" / "cgroup.procs").write_text(str(other.pid))
            container.linux["cgroupsPath"] = f"/{parent.name}/inhabited"
            result = container.run()
            assert result.status == 1
            assert "not empty" in result.stderr or "process" in result.stderr
            assert other.poll() is None, "the refused container has killed a stranger"
            assert (parent / "inhabited").exists()
        finally:
            other.kill()
            other.wait()

    def test_cgroups_of_its_own_are_removed_with_it(self, container: Container, leftovers: Leftovers) -> None:
        """A container with a writable cgroup (systemd inside) makes children: `delete` removes them, deepest first."""
        container.process["args"] = ["sleep", "1000"]
        assert container.run_detached().status == 0
        own = cgroup_of(container.pid())
        (own / "a/b/c").mkdir(parents=True)
        assert container.delete("--force").status == 0
        assert not own.exists()
        assert leftovers.found() == []


class TestFrozen:
    """A frozen cgroup: `pause` is another issue, but an engine or an admin may freeze it by hand."""

    pytestmark = pytest.mark.needs("memory")

    @pytest.fixture
    def frozen(self, container: Container) -> Container:
        container.process["args"] = ["sleep", "1000"]
        assert container.run_detached().status == 0
        path = cgroup_of(container.pid())
        (path / "cgroup.freeze").write_text("1")
        wait_until(lambda: "frozen 1" in (path / "cgroup.events").read_text(), "the cgroup to freeze")
        return container

    def test_its_status_is_paused(self, frozen: Container) -> None:
        assert frozen.state()["status"] == "paused"

    def test_forced_delete(self, frozen: Container, leftovers: Leftovers) -> None:
        assert frozen.delete("--force").status == 0
        assert leftovers.found() == []

    def test_kill(self, frozen: Container) -> None:
        """The kernel lets a fatal signal through to a frozen v2 cgroup."""
        assert frozen.kill("KILL").status == 0
        frozen.wait_for("stopped")


MISSING = [
    (name, resources)
    for name, resources in (
        ("memory", {"memory": {"limit": 64 * MIB}}),
        ("pids", {"pids": {"limit": 9}}),
        ("cpu", {"cpu": {"quota": 50000}}),
        ("cpuset", {"cpu": {"cpus": "0"}}),
        ("io", {"blockIO": {"weight": 100}}),
        ("hugetlb", {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}),
    )
    if capabilities.missing(name)
]

if MISSING:  # a machine with every controller has nothing to refuse

    @pytest.mark.only_pyruntime("runc on a hybrid host takes the v1 controller")
    @pytest.mark.parametrize(("name", "resources"), MISSING)
    def test_a_controller_that_is_not_there(
        container: Container, refused: Refused, name: str, resources: dict[str, Any]
    ) -> None:
        """Named together with the key that asks for it, rather than ignored."""
        container.linux["resources"] |= resources
        result = refused(f"config.json#/linux/resources/{next(iter(resources))}")
        assert name in result.stderr


V1_ONLY: list[dict[str, Any]] = [
    {"memory": {"kernel": MIB}},
    {"memory": {"kernelTCP": MIB}},
    {"memory": {"swappiness": 10}},
    {"memory": {"disableOOMKiller": True}},
    {"memory": {"useHierarchy": True}},
    {"cpu": {"realtimeRuntime": 1000}},
    {"cpu": {"realtimePeriod": 1000}},
    {"blockIO": {"leafWeight": 100}},
    {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 100}]}},
    {"network": {"classID": 7}},
    {"network": {"priorities": [{"name": "eth0", "priority": 1}]}},
]


@pytest.mark.only_pyruntime("runc passes them over in silence on v2")
@pytest.mark.parametrize("resources", V1_ONLY, ids=str)
def test_what_only_v1_had_is_a_warning(container: Container, resources: dict[str, Any]) -> None:
    """No key is ignored in silence: the warning names it, and the container runs."""
    container.linux["resources"] |= resources
    result = container.run_script("echo fine")
    assert result.stdout == "fine\n"
    ((group, keys),) = resources.items()
    assert next(iter(keys)) in result.stderr, group


@pytest.mark.only_pyruntime("runc takes the v1 hierarchies where there are any")
def test_a_cgroup_that_cannot_be_written(container: Container, leftovers: Leftovers) -> None:
    """As in a container without a cgroup of its own: the whole hierarchy is read-only."""
    container.write()
    top = v2_mount()
    words = [container.runtime.command, "--root", str(container.runtime.root), "run", "-b", str(container.path)]
    script = f'mount -o remount,bind,ro {top} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *words, container.id],
        capture_output=True, text=True, timeout=60, check=False, env=container.runtime.environment,
    )  # fmt: skip
    assert done.returncode == 1
    assert "EROFS" in done.stderr
    assert "cgroup" in done.stderr
    assert leftovers.found() == []


def test_a_failed_start_leaves_no_cgroup(container: Container) -> None:
    """crun often leaves one."""
    fault: dict[str, Any]
    for fault in ({"args": ["/no/such"]}, {"cwd": "relative"}, {"args": []}):
        container.process.update(fault)
        assert container.run().status == 1
        assert cgroups_named(container.id) == []
