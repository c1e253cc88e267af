"""`--systemd-cgroup`: the container's cgroup as a scope. Read beside runc:docs/systemd.md and its cgroups.bats.

On a machine that systemd manages: scripts/test boots such a VM for this folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers
from tests.support.runtime import Runtime, identify

from .units import properties, systemctl, units_named

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2", "systemd")

TOP = Path("/sys/fs/cgroup")


@pytest.fixture
def driver(driver: Runtime) -> Runtime:
    """The runtime under test, which is to ask systemd for cgroups."""
    driver.options = ["--systemd-cgroup"]
    return driver


@pytest.fixture
def leftovers(leftovers: Leftovers, marker: str, monkeypatch: pytest.MonkeyPatch) -> Leftovers:
    """What is left, scopes included. (Slices end by themselves, some time after the last unit in them.)"""
    look = leftovers._look

    def look_at_units() -> list[str]:
        slices = f"/{marker}.slice", f"/{marker}-in.slice", f"/{marker}-in-it.slice"
        found = [line for line in look() if not line.endswith(slices)]
        return found + [f"unit {name}" for name in units_named(marker) if not name.endswith(".slice")]

    monkeypatch.setattr(leftovers, "_look", look_at_units)
    return leftovers


@pytest.fixture
def unit(container: Container, marker: str) -> str:
    """The container's scope, in a slice of the test's own."""
    container.linux["cgroupsPath"] = f"{marker}.slice:prefix:{marker}"
    return f"prefix-{marker}.scope"


@pytest.fixture
def cgroup(unit: str, marker: str) -> Path:
    """Where the container's cgroup is to be."""
    return TOP / f"{marker}.slice" / unit


def inside(cgroup: Path) -> list[int]:
    return [int(word) for word in (cgroup / "cgroup.procs").read_text().split()]


class TestPlace:
    """cgroupsPath is slice:prefix:name."""

    def test_slice_and_unit(self, container: Container, unit: str, cgroup: Path) -> None:
        container.run_sleeping()
        assert inside(cgroup) == [container.pid()]
        shown = properties(unit)
        assert shown["ActiveState"] == "active"
        assert shown["Transient"] == shown["Delegate"] == "yes"
        assert shown["ControlGroup"] == "/" + str(cgroup.relative_to(TOP))

    def test_a_slice_in_a_slice(self, container: Container, marker: str) -> None:
        container.linux["cgroupsPath"] = f"{marker}-in-it.slice:p:{marker}"
        container.drop_namespace("cgroup")
        expected = f"/{marker}.slice/{marker}-in.slice/{marker}-in-it.slice/p-{marker}.scope"
        assert container.output("cat /proc/self/cgroup").splitlines()[-1] == f"0::{expected}"

    def test_no_slice_means_the_systems(self, container: Container, marker: str) -> None:
        container.linux["cgroupsPath"] = f":p:{marker}"
        container.run_sleeping()
        assert inside(TOP / "system.slice" / f"p-{marker}.scope") == [container.pid()]

    def test_no_path_means_the_id(self, container: Container) -> None:
        container.run_sleeping()
        unit = f"{identify().name}-{container.id}.scope"
        assert inside(TOP / "system.slice" / unit) == [container.pid()]

    def test_the_containers_own_view(self, container: Container, unit: str) -> None:
        """The process is in the scope before its cgroup namespace is made."""
        assert container.output("cat /proc/self/cgroup").splitlines()[-1] == "0::/"

    @pytest.mark.parametrize("path", ["/a/path", "a:b", "a.slice:b:c:d", "a/b.slice:p:n", "a--b.slice:p:n", "x:p:n"])
    def test_another_form(self, container: Container, refused: Refused, path: str) -> None:
        container.linux["cgroupsPath"] = path
        result = refused("config.json#/linux/cgroupsPath")
        assert "expected cgroupsPath to be of format" in result.stderr or "invalid slice name" in result.stderr

    @pytest.mark.parametrize("name", ["a+b", "a b", "x.slice"])
    def test_no_name_of_a_scope(self, container: Container, refused: Refused, marker: str, name: str) -> None:
        container.linux["cgroupsPath"] = f":{marker}:{name}"
        refused("config.json#/linux/cgroupsPath")

    @pytest.mark.only_pyruntime("runc makes a cgroup whose name has the colons")
    def test_the_form_without_the_option(self, container: Container, unit: str, refused: Refused) -> None:
        container.runtime.options = []
        refused("config.json#/linux/cgroupsPath")


IDLE = pytest.mark.runc_since("1.2", "before, cpu.idle is not known")
OOM = pytest.mark.runc_since("1.4", "before, systemd is not told of memory.oom.group")


class TestLimits:
    """They are the unit's properties and in the cgroup's files."""

    @pytest.mark.parametrize(
        ("resources", "file", "content", "name", "shown"),
        [
            ({"memory": {"limit": 64 << 20}}, "memory.max", str(64 << 20), "MemoryMax", str(64 << 20)),
            ({"memory": {"reservation": 8 << 20}}, "memory.low", str(8 << 20), "MemoryLow", str(8 << 20)),
            (
                {"memory": {"limit": 1 << 26, "swap": 1 << 27}},
                "memory.swap.max",
                "67108864",
                "MemorySwapMax",
                "67108864",
            ),
            ({"pids": {"limit": 20}}, "pids.max", "20", "TasksMax", "20"),
            ({"pids": {"limit": 1}}, "pids.max", "1", "TasksMax", "1"),
            ({"pids": {"limit": -1}}, "pids.max", "max", "TasksMax", "infinity"),
            ({"cpu": {"quota": 50000, "period": 200000}}, "cpu.max", "50000 200000", "CPUQuotaPerSecUSec", "250ms"),
            ({"cpu": {"quota": 50000, "period": 200000}}, "cpu.max", "50000 200000", "CPUQuotaPeriodUSec", "200ms"),
            ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset.cpus", "0", "AllowedCPUs", "0"),
            ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset.mems", "0", "AllowedMemoryNodes", "0"),
            pytest.param({"cpu": {"idle": 1}}, "cpu.idle", "1", "CPUWeight", "idle", marks=IDLE),
            ({"unified": {"memory.high": "50331648"}}, "memory.high", "50331648", "MemoryHigh", "50331648"),
            pytest.param(
                {"unified": {"memory.oom.group": "1"}}, "memory.oom.group", "1", "OOMPolicy", "kill", marks=OOM
            ),
            ({"unified": {"cpu.weight": "42"}}, "cpu.weight", "42", "CPUWeight", "42"),
        ],
    )
    @pytest.mark.needs("cpu", "cpuset", "memory", "pids")
    def test_a_limit(
        self,
        container: Container,
        unit: str,
        cgroup: Path,
        resources: dict[str, object],
        file: str,
        content: str,
        name: str,
        shown: str,
    ) -> None:
        container.linux["resources"] = resources
        container.run_sleeping()
        assert (cgroup / file).read_text().strip() == content
        assert properties(unit)[name] == shown

    @pytest.mark.needs("cpu")
    def test_shares(self, container: Container, unit: str, cgroup: Path) -> None:
        """What weight they mean has changed in runc, but both say the same."""
        container.linux["resources"] = {"cpu": {"shares": 4096}}
        container.run_sleeping()
        assert (cgroup / "cpu.weight").read_text().strip() == properties(unit)["CPUWeight"] != "100"

    @pytest.mark.needs("misc")
    def test_a_controller_that_systemd_does_not_know(self, container: Container, unit: str, cgroup: Path) -> None:
        container.linux["resources"] = {"unified": {"misc.max": ""}}  # which limits nothing
        container.run_sleeping()
        assert "misc" in (cgroup / "cgroup.controllers").read_text().split()

    @pytest.mark.needs("memory", "pids", "cpu")
    def test_limits_outlive_a_reload(self, container: Container, unit: str, cgroup: Path) -> None:
        resources = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}, "cpu": {"quota": 50000, "period": 200000}}
        container.linux["resources"] = resources
        container.run_sleeping()
        systemctl("daemon-reload")
        assert (cgroup / "memory.max").read_text().strip() == str(64 << 20)
        assert (cgroup / "pids.max").read_text().strip() == "20"
        assert (cgroup / "cpu.max").read_text().strip() == "50000 200000"

    @pytest.mark.needs("cpu")
    @pytest.mark.runc_since("1.3", "before, systemd was told of a rounded quota, and the file had the exact one")
    def test_a_quota_is_whole_percents(self, container: Container, unit: str, cgroup: Path) -> None:
        container.linux["resources"] = {"cpu": {"quota": 12345, "period": 100000}}
        container.run_sleeping()
        assert (cgroup / "cpu.max").read_text().strip() == "13000 100000"
        systemctl("daemon-reload")
        assert (cgroup / "cpu.max").read_text().strip() == "13000 100000"

    @pytest.mark.needs("memory")
    def test_a_limit_that_the_kernel_refuses(self, container: Container, unit: str, refused: Refused) -> None:
        container.linux["resources"] = {"cpu": {"cpus": "9999"}}
        refused("config.json#/linux/resources/cpu/cpus")

    def test_accounting(self, container: Container, unit: str) -> None:
        container.run_sleeping()
        shown = properties(unit)
        names = ("CPU", "IO", "Memory", "Tasks")
        assert {name: shown[f"{name}Accounting"] for name in names} == dict.fromkeys(names, "yes")


class TestDevices:
    """The rules hold, whether systemd can be told them or not."""

    def test_told(self, container: Container, unit: str) -> None:
        container.run_sleeping()
        shown = properties(unit)
        assert shown["DevicePolicy"] == "strict"
        allowed = [line.partition("=")[2] for line in systemctl("show", unit).splitlines() if "DeviceAllow=" in line]
        assert "/dev/char/1:3 rwm" in allowed

    @pytest.mark.parametrize(
        "allowed",
        [
            {"type": "c", "major": 1, "minor": 11, "access": "rw"},
            {"type": "c", "minor": 11, "access": "rw"},  # which systemd has no words for
        ],
    )
    def test_in_force(self, container: Container, unit: str, allowed: dict[str, object]) -> None:
        container.grant("CAP_MKNOD")
        deny = {"allow": False, "access": "rwm"}
        container.linux["resources"] = {"devices": [deny, {"allow": True, **allowed}]}
        script = "mknod /dev/a c 1 11 && mknod /dev/b c 1 12 && : </dev/a && ! (: </dev/b) && : </dev/null && echo well"
        assert container.output(script) == "well"

    def test_in_force_after_a_reload(self, container: Container, unit: str) -> None:
        container.grant("CAP_MKNOD")
        container.run_sleeping()
        systemctl("daemon-reload")
        assert container.exec_output("mknod /dev/b c 1 11; : </dev/null && ! (: </dev/b) && echo well") == "well"


class TestAnnotations:
    """org.systemd.property.NAME."""

    def test_properties(self, container: Container, unit: str) -> None:
        container.config["annotations"] = {
            "org.systemd.property.TimeoutStopUSec": "uint64 123456789",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.RuntimeMaxSec": "uint64 7200",
        }
        container.run_sleeping()
        shown = properties(unit)
        assert shown["TimeoutStopUSec"] == "2min 3.456789s"
        assert shown["CollectMode"] == "inactive-or-failed"
        assert shown["RuntimeMaxUSec"] == "2h"

    @pytest.mark.parametrize("value", ["abc", "'abc'", "uint64 -1", ""])
    def test_no_time(self, container: Container, unit: str, refused: Refused, value: str) -> None:
        container.config["annotations"] = {"org.systemd.property.TimeoutStopSec": value}
        refused("config.json#/annotations/org.systemd.property.TimeoutStopSec")

    @pytest.mark.parametrize(("name", "value"), [("NoSuchThing", "true"), ("CollectMode", "'nonsense'")])
    def test_refused_by_systemd(self, container: Container, unit: str, refused: Refused, name: str, value: str) -> None:
        container.config["annotations"] = {f"org.systemd.property.{name}": value}
        assert name in refused("config.json#/annotations").stderr


class TestLife:
    """The other verbs, which go by the cgroup."""

    def test_exec(self, container: Container, unit: str, cgroup: Path) -> None:
        container.run_sleeping()
        assert container.exec_output("cat /proc/self/cgroup").splitlines()[-1] == "0::/"
        assert container.exec_detached("sleep", "1000").status == 0
        assert len(inside(cgroup)) == 2

    def test_created_paused_resumed(self, container: Container, unit: str, cgroup: Path) -> None:
        container.process["args"] = ["sleep", "1000"]
        assert container.create().status == 0
        assert container.state()["status"] == "created"
        assert len(inside(cgroup)) == 1
        assert container.start().status == 0
        assert container.runtime("pause", container.id).status == 0
        assert container.state()["status"] == "paused"
        assert "frozen 1" in (cgroup / "cgroup.events").read_text()
        assert container.runtime("resume", container.id).status == 0
        assert str(container.pid()) in container.runtime("ps", container.id).stdout
        assert container.id in container.runtime("list").stdout

    def test_killed_and_deleted(self, container: Container, unit: str, leftovers: Leftovers) -> None:
        container.run_sleeping()
        assert container.kill("KILL").status == 0
        container.wait_for("stopped")
        assert container.delete().status == 0
        assert leftovers.found() == []

    def test_deleted_by_force(self, container: Container, unit: str, leftovers: Leftovers) -> None:
        container.run_sleeping()
        assert container.delete("--force").status == 0
        assert leftovers.found() == []

    def test_paused_and_deleted(self, container: Container, unit: str, leftovers: Leftovers) -> None:
        container.run_sleeping()
        assert container.runtime("pause", container.id).status == 0
        assert container.delete("--force").status == 0
        assert leftovers.found() == []

    def test_stopped_by_systemd(self, container: Container, unit: str, leftovers: Leftovers) -> None:
        """As at a shutdown."""
        container.process["args"] = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
        assert container.run_detached().status == 0
        systemctl("stop", unit)
        container.wait_for("stopped")
        assert container.delete().status == 0
        assert leftovers.found() == []

    @pytest.mark.needs("memory")
    def test_out_of_memory(self, container: Container, unit: str, leftovers: Leftovers) -> None:
        """Systemd calls the unit failed then, and would remember it."""
        container.linux["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
        assert container.run_script("tail /dev/zero").status != 0
        assert leftovers.found() == []

    def test_in_the_foreground(self, container: Container, unit: str, leftovers: Leftovers) -> None:
        assert container.run_script("exit 7").status == 7
        assert leftovers.found() == []

    def test_called_by_who_ignores_its_children(self, container: Container, unit: str, leftovers: Leftovers) -> None:
        """SIGCHLD ignored is inherited, and then there is nobody to wait for."""
        container.script("echo well")
        container.write()
        ignore = ["env", "--ignore-signal=CHLD", container.runtime.command, "--root", str(container.runtime.root)]
        words = [*ignore, "--systemd-cgroup", "create", "--bundle", str(container.path), container.id]
        done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=60)
        assert done.returncode == 0
        assert container.delete("--force").status == 0
        assert leftovers.found() == []

    def test_the_name_is_free_again(self, container: Container, unit: str) -> None:
        for _ in range(5):
            assert container.output("echo well") == "well"

    def test_what_the_container_leaves(self, container: Container, unit: str, leftovers: Leftovers) -> None:
        """Cgroups that it has made, and processes that its init does not take along."""
        container.drop_namespace("pid")
        (entry,) = [entry for entry in container.mounts if entry["destination"] == "/sys/fs/cgroup"]
        entry["options"].remove("ro")
        script = "mkdir -p /sys/fs/cgroup/a/b; sleep 1000 & echo $! > /sys/fs/cgroup/a/b/cgroup.procs; echo well"
        container.script(script)
        assert container.run(stdout=-3, stderr=-3).status == 0
        assert leftovers.found() == []


@pytest.mark.needs("cpu", "memory", "pids")
class TestUpdate:
    """Systemd is told of other limits."""

    def test_limits(self, container: Container, unit: str, cgroup: Path) -> None:
        container.linux["resources"] = {"pids": {"limit": 20}}
        container.run_sleeping()
        options = ["--memory", "67108864", "--pids-limit", "30", "--cpu-quota", "50000", "--cpu-period", "200000"]
        result = container.runtime("update", *options, container.id)
        assert result.status == 0, result
        systemctl("daemon-reload")
        shown = properties(unit)
        names = {"memory.max": "MemoryMax", "pids.max": "TasksMax"}
        for file, value in (("memory.max", "67108864"), ("pids.max", "30")):
            assert (cgroup / file).read_text().strip() == shown[names[file]] == value
        assert (cgroup / "cpu.max").read_text().strip() == "50000 200000"
        assert shown["CPUQuotaPerSecUSec"] == "250ms"

    @IDLE
    def test_idle_no_more(self, container: Container, unit: str, cgroup: Path) -> None:
        container.linux["resources"] = {"cpu": {"idle": 1}}
        container.run_sleeping()
        assert container.runtime("update", "--cpu-idle", "0", "--cpu-share", "2048", container.id).status == 0
        systemctl("daemon-reload")
        assert (cgroup / "cpu.idle").read_text().strip() == "0"
        assert (cgroup / "cpu.weight").read_text().strip() == properties(unit)["CPUWeight"]

    @pytest.mark.only_pyruntime("what runc has told systemd by then, stays")
    def test_refused_by_the_kernel(self, container: Container, unit: str, cgroup: Path) -> None:
        container.linux["resources"] = {"pids": {"limit": 20}}
        container.run_sleeping()
        result = container.runtime("update", "--pids-limit", "30", "--cpu-period", "7", container.id)
        assert result.status == 1, result
        assert (cgroup / "pids.max").read_text().strip() == properties(unit)["TasksMax"] == "20"


class TestTrouble:
    """What goes wrong leaves neither a unit nor a cgroup."""

    def test_the_unit_is_there_already(
        self, new_container: Callable[[], Container], marker: str, unit: str, container: Container
    ) -> None:
        container.run_sleeping()
        other = new_container()
        other.linux["cgroupsPath"] = container.linux["cgroupsPath"]
        result = other.run()
        assert result.status == 1
        assert "container's cgroup is not empty" in result.stderr
        assert container.state()["status"] == "running"
        assert properties(unit)["ActiveState"] == "active"

    def test_another_services_unit(self, container: Container, marker: str, unit: str, refused: Refused) -> None:
        """It is neither stopped nor used."""
        systemctl_run = ["--quiet", "--scope", f"--unit={unit}", f"--slice={marker}.slice", "sleep", "1000"]
        other = os.spawnvp(os.P_NOWAIT, "systemd-run", ["systemd-run", *systemctl_run])
        try:
            wait_until(lambda: properties(unit)["ActiveState"] == "active", "the other unit")
            container.write()
            result = container.run()
            assert result.status == 1, result
            assert properties(unit)["ActiveState"] == "active"
        finally:
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)

    def test_a_frozen_cgroup(self, container: Container, unit: str, cgroup: Path) -> None:
        """It is refused, and stays as it was."""
        cgroup.mkdir(parents=True)
        (cgroup / "cgroup.freeze").write_text("1")
        try:
            result = container.run()
            assert result.status == 1
            assert "container's cgroup unexpectedly frozen" in result.stderr
            assert "frozen 1" in (cgroup / "cgroup.events").read_text()
        finally:
            cgroup.rmdir()

    def test_a_unit_that_has_failed(self, container: Container, marker: str, unit: str) -> None:
        """It is forgotten, and a new one made."""
        run = ["systemd-run", "--quiet", "--scope", f"--unit={unit}", "--property=RuntimeMaxSec=1ms", "sleep", "1000"]
        os.waitpid(os.spawnvp(os.P_NOWAIT, "systemd-run", run), 0)
        wait_until(lambda: properties(unit)["ActiveState"] == "failed", "the unit to fail")
        assert container.output("echo well") == "well"

    @pytest.mark.only_pyruntime("runc has some other process moved, the one with that PID out there, and kills it")
    def test_from_another_pid_namespace(self, container: Container, unit: str, refused: Refused, scratch: Path) -> None:
        wrapper = scratch / "elsewhere"
        wrapper.write_text(f'#!/bin/sh\nexec unshare --pid --fork --mount-proc {container.runtime.command} "$@"\n')
        wrapper.chmod(0o755)
        container.runtime.command = str(wrapper)
        assert "PID namespace" in refused("--systemd-cgroup").stderr

    def test_no_such_program(self, container: Container, unit: str, refused: Refused) -> None:
        container.process["args"] = ["/no/such/program"]
        refused("config.json#/process/args/0")

    def test_a_failing_hook(self, container: Container, unit: str, refused: Refused) -> None:
        container.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
        refused("config.json#/hooks/createRuntime/0")

    @pytest.mark.only_pyruntime("killed there, runc leaves what nobody finds")
    def test_killed_while_a_hook_runs(
        self, container: Container, unit: str, cgroup: Path, leftovers: Leftovers
    ) -> None:
        container.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]}
        runtime = container.spawn()
        wait_until(lambda: cgroup.exists() and len(inside(cgroup)) == 1, "the hook to run")
        runtime.kill()
        runtime.communicate()
        assert container.delete("--force").status == 0
        assert leftovers.found() == []

    @pytest.mark.only_pyruntime("as it is, runc has nobody in the scope then")
    @pytest.mark.parametrize("after", range(0, 60, 6))
    def test_killed_at_any_time(self, container: Container, unit: str, leftovers: Leftovers, after: int) -> None:
        """So many milliseconds after it has begun."""
        container.process["args"] = ["sleep", "1000"]
        container.write()
        runtime = container.runtime.spawn("create", "-b", str(container.path), container.id, stdout=-3, stderr=-3)
        time.sleep(after / 1000)
        runtime.kill()
        runtime.wait()
        assert container.delete("--force").status == 0
        assert leftovers.found() == []


def test_no_unit_is_left_of_all_these() -> None:
    assert units_named("prefix-") == []
