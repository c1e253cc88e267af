"""`linux.intelRdt`, on a stand-in for resctrl (tests/support/resctrl.py): no test machine has a CPU with Intel RDT.

How it is refused where there is no resctrl: test_attributes.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from pyruntime.plan.build import build
from tests.support import resctrl
from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.injection import killed_at, spawn, weakened
from tests.support.leftovers import Leftovers
from tests.support.runtime import Runtime

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2", "fuse"),
    pytest.mark.only_pyruntime("others take none but the kernel's own resctrl"),
]

PLACE = "config.json#/linux/intelRdt"
ALL_OF_IT = "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n"


class Mount(NamedTuple):
    """The stand-in, as the test reaches it."""

    path: Path
    code: str  # for tests.support.resctrl.launcher
    server_pid: int

    def groups(self) -> set[str]:
        """All groups but the default one, and the monitoring groups as "group/mon_groups/name"."""
        found = {path.parent.name for path in self.path.glob("*/tasks")}
        return found | {str(path.parent.relative_to(self.path)) for path in self.path.glob("**/mon_groups/*/tasks")}

    def members(self, group: str) -> list[int]:
        return [int(line) for line in (self.path / group / "tasks").read_text().split()]

    def schemata(self, group: str) -> str:
        return (self.path / group / "schemata").read_text()

    def make(self, group: str, *lines: str) -> None:
        """Make a group as an administrator does."""
        (self.path / group).mkdir()
        for line in lines:
            (self.path / group / "schemata").write_text(f"{line}\n")


@pytest.fixture
def mount(scratch: Path, marker: str) -> Iterator[Mount]:
    point = scratch / "resctrl"
    point.mkdir()
    with resctrl.mounted(point, marker) as pid:
        yield Mount(Path(f"/proc/{pid}/root{point}"), resctrl.entering(pid, marker), pid)


@pytest.fixture
def driver(runtime: str, scratch: Path, marker: str, mount: Mount) -> Runtime:
    """The runtime under test, by a launcher that lets it find the stand-in."""
    command = resctrl.launcher(scratch / "pyruntime", Path(runtime).parent / "library", mount.code)
    return Runtime(str(command), scratch / "state", marker)


@pytest.fixture
def sleeping(container: Container) -> Callable[..., int]:
    """Have the container run with this `intelRdt`; its PID."""

    def start(**wanted: Any) -> int:
        container.linux["intelRdt"] = wanted
        container.run_sleeping()
        return container.pid()

    return start


class TestItsOwnGroup:
    """Without closID: it is named by the container, and ends with it."""

    def test_it_has_what_was_asked_for(self, container: Container, mount: Mount, sleeping: Callable[..., int]) -> None:
        pid = sleeping(l3CacheSchema="L3:0=f0", memBwSchema="MB:0=20;1=70")
        assert mount.groups() == {container.id}
        assert mount.schemata(container.id) == "    MB:0=20;1=70\n    L3:0=f0;1=fffff\n"
        assert mount.members(container.id) == [pid]
        assert container.delete("--force").status == 0
        assert mount.groups() == set()

    def test_nothing_asked_for_is_written(
        self, container: Container, mount: Mount, sleeping: Callable[..., int]
    ) -> None:
        pid = sleeping()
        assert (mount.schemata(container.id), mount.members(container.id)) == (ALL_OF_IT, [pid])

    def test_the_process_is_in_it_before_it_runs(self, container: Container, mount: Mount) -> None:
        container.linux["intelRdt"] = {"schemata": ["L3:0=f"]}
        assert container.create().status == 0
        assert mount.members(container.id) == [container.pid()]
        assert container.delete().status == 0
        assert mount.groups() == set()

    def test_it_ends_with_a_run_in_the_foreground(self, container: Container, mount: Mount) -> None:
        container.linux["intelRdt"] = {"schemata": ["L3:0=f"], "enableMonitoring": True}
        assert container.output("echo ran") == "ran"
        assert mount.groups() == set()

    def test_what_is_written_last_prevails(
        self, container: Container, mount: Mount, sleeping: Callable[..., int]
    ) -> None:
        sleeping(l3CacheSchema="L3:0=f", memBwSchema="MB:0=20", schemata=["MB:0=50;1=40", "L3:0=ff", "L3:1=1"])
        assert mount.schemata(container.id) == "    MB:0=50;1=40\n    L3:0=ff;1=1\n"

    def test_one_that_was_there_stays(self, container: Container, mount: Mount, sleeping: Callable[..., int]) -> None:
        mount.make(container.id, "L3:0=1")
        sleeping(schemata=["L3:1=f"])
        assert mount.schemata(container.id) == "    MB:0=100;1=100\n    L3:0=1;1=f\n"
        assert container.delete("--force").status == 0
        assert mount.groups() == {container.id}

    def test_one_that_was_there_is_as_before(self, container: Container, mount: Mount, refused: Refused) -> None:
        mount.make(container.id, "L3:0=1")
        container.linux["intelRdt"] = {"schemata": ["L3:0=f", "L3:1=f0f"]}
        refused(f"{PLACE}/schemata/1")
        assert mount.schemata(container.id) == "    MB:0=100;1=100\n    L3:0=1;1=fffff\n"

    def test_it_is_unmounted_meanwhile(self, container: Container, mount: Mount, sleeping: Callable[..., int]) -> None:
        sleeping()
        subprocess.run(
            ["nsenter", "-m", "-t", str(mount.server_pid), "umount", "-l", "--", mount_point(mount)], check=True
        )
        result = container.delete("--force")
        assert result.status == 0, result
        assert f"the container's resctrl group {container.id} is gone" in result.stderr


def mount_point(mount: Mount) -> str:
    """The path of the mount in its own namespace."""
    return f"/{mount.path.relative_to(f'/proc/{mount.server_pid}/root')}"


class TestASharedGroup:
    """closID: others may be in it, so it outlives the container and is not changed once it is there."""

    def test_it_is_made_and_stays(self, container: Container, mount: Mount, sleeping: Callable[..., int]) -> None:
        pid = sleeping(closID="gold", schemata=["L3:0=f"])
        assert (mount.groups(), mount.members("gold")) == ({"gold"}, [pid])
        assert container.delete("--force").status == 0
        assert mount.groups() == {"gold"}

    @pytest.mark.parametrize(
        "wanted",
        [
            {},
            {"l3CacheSchema": "L3:0=7f0"},
            {"l3CacheSchema": "L3:1=0001F;0=07f0;", "schemata": ["MB:0=20"]},
            {"memBwSchema": "MB:0=15"},  # which the kernel has rounded
        ],
    )
    def test_one_that_is_there(self, mount: Mount, sleeping: Callable[..., int], wanted: dict[str, Any]) -> None:
        mount.make("gold", "L3:0=7f0;1=1f", "MB:0=15")
        before = mount.schemata("gold")
        pid = sleeping(closID="gold", **wanted)
        assert (mount.schemata("gold"), mount.members("gold")) == (before, [pid])

    @pytest.mark.parametrize(
        ("wanted", "place", "has"),
        [
            ({"l3CacheSchema": "L3:0=7f0;1=f"}, "/l3CacheSchema", "L3:0=7f0;1=1f"),
            ({"memBwSchema": "MB:0=30"}, "/memBwSchema", "MB:0=20;1=100"),
            ({"schemata": ["L3:0=7f0", "MB:0=10"]}, "/schemata/1", "MB:0=20;1=100"),
            ({"schemata": ["L3:2=7f0"]}, "/schemata/0", "L3:0=7f0;1=1f"),
            ({"schemata": ["L3:0=xyz"]}, "/schemata/0", "L3:0=7f0;1=1f"),
        ],
    )
    def test_one_that_is_there_with_another_part(
        self, container: Container, mount: Mount, refused: Refused, wanted: dict[str, Any], place: str, has: str
    ) -> None:
        mount.make("gold", "L3:0=7f0;1=1f", "MB:0=20")
        before = mount.schemata("gold")
        container.linux["intelRdt"] = {"closID": "gold", "enableMonitoring": True, **wanted}
        assert f"the resctrl group gold is there and has {has}, not " in refused(PLACE + place).stderr
        assert (mount.groups(), mount.schemata("gold")) == ({"gold"}, before)

    def test_it_must_be_there_where_no_part_is_said(self, container: Container, mount: Mount, refused: Refused) -> None:
        container.linux["intelRdt"] = {"closID": "gold"}
        assert "resctrl has no group 'gold'" in refused(f"{PLACE}/closID").stderr
        assert mount.groups() == set()

    @pytest.mark.parametrize("name", ["info", "schemata", "mon_groups"])
    def test_what_is_no_group(self, container: Container, mount: Mount, refused: Refused, name: str) -> None:
        container.linux["intelRdt"] = {"closID": name, "schemata": ["L3:0=f"]}
        assert "is no group of resctrl" in refused(f"{PLACE}/closID").stderr
        assert mount.groups() == set()

    def test_the_default_one(self, container: Container, mount: Mount, sleeping: Callable[..., int]) -> None:
        pid = sleeping(closID="/", enableMonitoring=True)
        assert mount.members("") == mount.members(f"mon_groups/{container.id}") == [pid]
        assert container.delete("--force").status == 0
        assert mount.groups() == set()
        assert mount.schemata("") == ALL_OF_IT

    def test_two_containers(self, new_container: Callable[[], Container], mount: Mount) -> None:
        containers = [new_container(), new_container()]
        for each in containers:
            each.linux["intelRdt"] = {"closID": "gold", "schemata": ["L3:0=f"], "enableMonitoring": True}
            each.run_sleeping()
        assert sorted(mount.members("gold")) == sorted(each.pid() for each in containers)
        assert mount.groups() == {"gold", *(f"gold/mon_groups/{each.id}" for each in containers)}
        assert containers[0].delete("--force").status == 0
        assert mount.members(f"gold/mon_groups/{containers[1].id}") == [containers[1].pid()]


class TestMonitoring:
    """enableMonitoring: the container has a monitoring group of its own, wherever its group comes from."""

    @pytest.mark.parametrize("closid", ["", "gold"])
    def test_it_is_made_and_removed(
        self, container: Container, mount: Mount, sleeping: Callable[..., int], closid: str
    ) -> None:
        pid = sleeping(closID=closid, schemata=["L3:0=f"], enableMonitoring=True)
        group = closid or container.id
        monitor = f"{group}/mon_groups/{container.id}"
        assert mount.groups() == {group, monitor}
        assert mount.members(group) == mount.members(monitor) == [pid]
        assert container.delete("--force").status == 0
        assert mount.groups() == ({closid} if closid else set())

    def test_another_containers(self, container: Container, mount: Mount, refused: Refused) -> None:
        mount.make("gold")
        (mount.path / "gold/mon_groups" / container.id).mkdir()
        container.linux["intelRdt"] = {"closID": "gold", "enableMonitoring": True}
        assert "is there already" in refused(f"{PLACE}/enableMonitoring").stderr
        assert mount.groups() == {"gold", f"gold/mon_groups/{container.id}"}


class TestWhatTheKernelRefuses:
    """Its words are shown, and what was made is removed."""

    @pytest.mark.parametrize(
        ("wanted", "place", "told"),
        [
            ({"schemata": ["L3:0=f", "L3:1=f0f"]}, "/schemata/1", "The mask f0f has non-consecutive 1-bits"),
            ({"memBwSchema": "MB:0=5"}, "/memBwSchema", "MB value 5 out of range [10,100]"),
            ({"l3CacheSchema": "L3:7=f"}, "/l3CacheSchema", "EINVAL"),
            ({"schemata": ["L2:0=f"]}, "/schemata/0", "resctrl of this host has no 'L2' (it has L3, MB)"),
        ],
    )
    @pytest.mark.parametrize("closid", ["", "gold"])
    def test_a_part(
        self, container: Container, mount: Mount, refused: Refused, closid: str, wanted: Any, place: str, told: str
    ) -> None:
        container.linux["intelRdt"] = {"closID": closid, "enableMonitoring": True, **wanted}
        assert told in refused(PLACE + place).stderr
        assert mount.groups() == set()

    def test_more_groups_than_there_can_be(self, container: Container, mount: Mount, refused: Refused) -> None:
        for name in range(1, resctrl.GROUPS):
            mount.make(str(name))
        container.linux["intelRdt"] = {}
        assert "ENOSPC: No space left on device (resctrl says: Out of CLOSIDs)" in refused(PLACE).stderr
        assert len(mount.groups()) == resctrl.GROUPS - 1

    def test_more_monitors_than_there_can_be(self, container: Container, mount: Mount, refused: Refused) -> None:
        others = [mount.path / "mon_groups" / str(number) for number in range(2 * resctrl.MONITORS)]
        for path in others[: resctrl.GROUPS + resctrl.MONITORS - 2]:
            path.mkdir()
        before = mount.groups()
        container.linux["intelRdt"] = {"enableMonitoring": True}
        assert "Out of RMIDs" in refused(f"{PLACE}/enableMonitoring").stderr
        assert mount.groups() == before


@pytest.mark.parametrize("closid", ["", "gold"])
def test_a_start_that_fails_later(container: Container, mount: Mount, refused: Refused, closid: str) -> None:
    container.linux["intelRdt"] = {"closID": closid, "schemata": ["L3:0=f"], "enableMonitoring": True}
    container.process["args"] = ["/no/such/program"]
    refused("config.json#/process/args")
    assert mount.groups() == set()


def test_a_group_that_others_have_come_into_stays(container: Container, mount: Mount) -> None:
    """A start that fails has made it, but it is not its own any more."""
    container.linux["intelRdt"] = {"closID": "gold", "schemata": ["L3:0=f"]}
    hook = container.path / "hook"
    hook.write_text(f"#!/bin/sh\necho {os.getpid()} > {mount.path}/gold/tasks\nexit 1\n")
    hook.chmod(0o755)
    container.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    result = container.run()
    assert (result.status, mount.groups()) == (1, {"gold"}), result
    assert mount.members("gold") == [os.getpid()]


class TestExec:
    """What enters the container is in its groups, too."""

    @pytest.mark.parametrize("closid", ["", "gold", "/"])
    def test_it_joins(self, container: Container, mount: Mount, sleeping: Callable[..., int], closid: str) -> None:
        mount.make("gold")
        pid = sleeping(closID=closid, enableMonitoring=True)
        file = container.path / "pid"
        result = container.exec_detached("sleep", "1000", flags=["--pid-file", str(file)])
        assert result.status == 0, result
        expected = sorted([pid, int(file.read_text())])
        group = "." if closid == "/" else closid or container.id
        assert sorted(mount.members(group)) == expected
        assert sorted(mount.members(f"{group}/mon_groups/{container.id}")) == expected

    def test_the_group_was_removed(self, container: Container, mount: Mount, sleeping: Callable[..., int]) -> None:
        sleeping()
        (mount.path / container.id).rmdir()
        result = container.exec("echo", "ran")
        assert (result.status, result.stdout) == (0, "ran\n")
        assert "the container's resctrl group was removed" in result.stderr


class TestUpdate:
    """`update` changes the group's part, or nothing."""

    def test_both(self, container: Container, mount: Mount, sleeping: Callable[..., int]) -> None:
        sleeping(l3CacheSchema="L3:0=f;1=3")
        words = ("--l3-cache-schema", "L3:0=ff", "--mem-bw-schema", "MB:1=30")
        result = container.runtime("update", *words, container.id)
        assert (result.status, result.stderr) == (0, "")
        assert mount.schemata(container.id) == "    MB:0=100;1=30\n    L3:0=ff;1=3\n"

    @pytest.mark.parametrize(
        ("schema", "told"),
        [("MB:0=5", "EINVAL: Invalid argument (resctrl says: MB value 5 out of range [10,100])"),
         ("L3:0=f", "must begin with 'MB:'")],
    )  # fmt: skip
    def test_a_part_that_cannot_be(
        self, container: Container, mount: Mount, sleeping: Callable[..., int], schema: str, told: str
    ) -> None:
        sleeping(l3CacheSchema="L3:0=f")
        words = ("--l3-cache-schema", "L3:0=ff", "--mem-bw-schema", schema)
        result = container.runtime("update", *words, container.id)
        assert result.status == 1
        assert f"{container.id}: --mem-bw-schema: " in result.stderr
        assert told in result.stderr
        assert mount.schemata(container.id) == "    MB:0=100;1=100\n    L3:0=f;1=fffff\n"

    def test_a_resource_that_the_host_lacks(self, container: Container, sleeping: Callable[..., int]) -> None:
        sleeping()
        result = container.runtime("update", "--l3-cache-schema", "L2:0=f", container.id)
        assert "--l3-cache-schema: resctrl of this host has no 'L2'" in result.stderr

    def test_a_container_without_a_group(self, container: Container) -> None:
        container.run_sleeping()
        result = container.runtime("update", "--mem-bw-schema", "MB:0=50", container.id)
        assert result.status == 1
        assert "--mem-bw-schema: config.json has asked for no part of the caches" in result.stderr


class TestEvents:
    """`events --stats` in runc's shape: runc:types/events.go:/^type IntelRdt/."""

    EXPECTED: ClassVar = {
        "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": resctrl.GROUPS},
        "l3_cache_schema_root": "L3:0=fffff;1=fffff",
        "l3_cache_schema": "L3:0=f;1=fffff",
        "mem_bw_info": {"bandwidth_gran": 10, "min_bandwidth": 10, "num_closids": resctrl.GROUPS},
        "mem_bw_schema_root": "MB:0=100;1=100",
        "mem_bw_schema": "MB:0=100;1=100",
        "schemata": ["MB:0=100;1=100", "L3:0=f;1=fffff"],
        "mbm_stats": [{"mbm_total_bytes": 8192}] * 2,
        "cmt_stats": [{"llc_occupancy": 2048}] * 2,
    }

    def test_what_is_counted(self, container: Container, sleeping: Callable[..., int]) -> None:
        sleeping(l3CacheSchema="L3:0=f", enableMonitoring=True)
        told = json.loads(container.runtime("events", "--stats", container.id).stdout)["data"]["intel_rdt"]
        assert told == self.EXPECTED
        assert list(told) == list(self.EXPECTED)

    def test_of_the_whole_group(self, container: Container, mount: Mount, sleeping: Callable[..., int]) -> None:
        mount.make("gold", "L3:0=f")
        sleeping(closID="gold")
        told = json.loads(container.runtime("events", "--stats", container.id).stdout)["data"]["intel_rdt"]
        assert told == {**self.EXPECTED, "cmt_stats": [{"llc_occupancy": 4096}] * 2}

    def test_the_group_was_removed(self, container: Container, mount: Mount, sleeping: Callable[..., int]) -> None:
        sleeping()
        (mount.path / container.id).rmdir()
        assert json.loads(container.runtime("events", "--stats", container.id).stdout)["data"]["intel_rdt"] == {}


def test_the_lock_is_waited_for(container: Container, mount: Mount) -> None:
    """resctrl.rst: who changes several files holds an exclusive flock(2) of the mount point."""
    container.linux["intelRdt"] = {}
    container.process["args"] = ["true"]
    with subprocess.Popen(["flock", str(mount.path), "sh", "-c", "echo; read line"], stdin=-1, stdout=-1) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdout.readline()
        start = container.spawn()
        wait_until(lambda: waits_for_a_lock(start.pid), "the runtime to wait for the lock")
        assert mount.groups() == set()
        holder.stdin.close()
        _, errors = start.communicate(timeout=30)
    assert (start.returncode, errors) == (0, b"")


def waits_for_a_lock(pid: int) -> bool:
    """Whether a process waits in flock(2): proc_locks(5)."""
    return any("->" in line and str(pid) in line.split() for line in Path("/proc/locks").read_text().splitlines())


WEAKEN = """
from pyruntime import creation

creation.build = remembering(creation.build)
if point == "unlock":
    groups.Group.close = weak(groups.Group.close)
"""


class Weak(NamedTuple):
    """The command with a weak point (tests/support/injection.py), and what it starts."""

    container: Container
    runtime: Runtime
    leftovers: Leftovers

    def start(self, point: str, told_fd: int = 0, go_fd: int = 0, **popen: Any) -> subprocess.Popen[bytes]:
        words = ["create", "-b", str(self.container.path), self.container.id]
        return spawn(self.runtime, words, f"{point}:{told_fd}:{go_fd}", **popen)


@pytest.fixture
def weak(container: Container, runtime: str, scratch: Path, mount: Mount, leftovers: Leftovers) -> Weak:
    command = weakened(scratch / "weak", Path(runtime).parent / "library", mount.code + WEAKEN)
    return Weak(container, Runtime(str(command), container.runtime.root, container.runtime.marker), leftovers)


STEPS = ("LockGroups", "UseGroup", "LimitGroup", "MonitorGroup", "JoinGroup", "AdjustOomScore", "PivotRoot")


def point_of(weak: Weak, step: str, closid: str) -> str:
    """Write the bundle, and tell the number of the step in its plan, or what is none of its steps."""
    weak.container.linux["intelRdt"] = {"closID": closid, "schemata": ["L3:0=f"], "enableMonitoring": True}
    weak.container.process["oomScoreAdj"] = 500
    weak.container.write()
    steps = build(weak.container.config, "/bundle", weak.container.id, "/web").steps  # type: ignore[arg-type]
    names = [type(each).__name__ for each in steps]
    return str(names.index(step)) if step in names else step


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("closid", ["", "gold"])
def test_a_step_that_fails(weak: Weak, mount: Mount, step: str, closid: str) -> None:
    process = weak.start(point_of(weak, step, closid))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"injected()" in errors
    assert (mount.groups(), weak.leftovers.found()) == (set(), [])


def test_a_group_that_was_there_when_the_runtime_is_killed(weak: Weak, mount: Mount) -> None:
    mount.make(weak.container.id, "L3:0=1")
    assert killed_at(weak.start, point_of(weak, "PivotRoot", ""))
    wait_until(lambda: not weak.leftovers.processes(), "the child to end with its parent")
    assert mount.schemata(weak.container.id) == "    MB:0=100;1=100\n    L3:0=f;1=fffff\n"
    assert weak.container.delete("--force").status == 0
    assert mount.schemata(weak.container.id) == "    MB:0=100;1=100\n    L3:0=1;1=fffff\n"
    assert mount.groups() == {weak.container.id}


@pytest.mark.parametrize("step", [*STEPS, "unlock"])
@pytest.mark.parametrize("closid", ["", "gold"])
def test_a_runtime_that_is_killed(weak: Weak, mount: Mount, step: str, closid: str) -> None:
    assert killed_at(weak.start, point_of(weak, step, closid))
    wait_until(lambda: not weak.leftovers.processes(), "the child to end with its parent")
    result = weak.container.delete("--force")
    assert (result.status, result.stderr) == (0, "")
    assert (mount.groups(), weak.leftovers.found()) == (set(), [])
