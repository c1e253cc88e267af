"""`process.scheduler`, `ioPriority`, `execCPUAffinity`, labels, `linux.memoryPolicy` and `intelRdt`.

What the container's process got is asked of the kernel from outside, so that the image needs no tools.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container
from tests.support.fixtures import Refused

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2"),
    pytest.mark.runc_since("1.2", "scheduler and ioPriority"),
]


@pytest.fixture
def started(container: Container) -> Callable[[], int]:
    """Start the container in the background; its process's PID on the host."""

    def start() -> int:
        container.process["args"] = ["sleep", "1000"]
        result = container.run_detached()
        assert result.status == 0, result
        return container.pid()

    return start


class TestScheduler:
    """config.md#linux-process, sched_setattr(2)."""

    @pytest.mark.parametrize(
        ("policy", "number", "nice"),
        [("SCHED_OTHER", os.SCHED_OTHER, 5), ("SCHED_OTHER", os.SCHED_OTHER, -5),
         ("SCHED_BATCH", os.SCHED_BATCH, 19), ("SCHED_IDLE", os.SCHED_IDLE, 0)],
    )  # fmt: skip
    def test_fair_ones(
        self, container: Container, started: Callable[[], int], policy: str, number: int, nice: int
    ) -> None:
        container.process["scheduler"] = {"policy": policy, "nice": nice}
        pid = started()
        assert os.sched_getscheduler(pid) == number
        assert os.getpriority(os.PRIO_PROCESS, pid) == nice

    @pytest.mark.needs("realtime")
    @pytest.mark.parametrize(("policy", "number"), [("SCHED_FIFO", os.SCHED_FIFO), ("SCHED_RR", os.SCHED_RR)])
    def test_real_time_ones(self, container: Container, started: Callable[[], int], policy: str, number: int) -> None:
        container.process["scheduler"] = {"policy": policy, "priority": 10}
        pid = started()
        assert os.sched_getscheduler(pid) == number
        assert os.sched_getparam(pid).sched_priority == 10

    def test_a_deadline(self, container: Container, started: Callable[[], int]) -> None:
        times = {"runtime": 1_000_000, "deadline": 300_000_000, "period": 400_000_000}
        container.process["scheduler"] = {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"], **times}
        pid = started()
        assert os.sched_getscheduler(pid) == 6 | os.SCHED_RESET_ON_FORK
        told = subprocess.run(["chrt", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
        assert "1000000/300000000/400000000" in told

    @pytest.mark.needs("realtime")
    def test_reset_on_fork(self, container: Container) -> None:
        """What the program starts runs as everybody else; field 41 of /proc/PID/stat is the policy."""
        flags = ["SCHED_FLAG_RESET_ON_FORK"]
        container.process["scheduler"] = {"policy": "SCHED_RR", "priority": 1, "flags": flags}
        assert container.output("cut -d ' ' -f 41 /proc/$$/stat; cut -d ' ' -f 41 /proc/self/stat; :") == "2\n0"

    @pytest.mark.only_pyruntime("runc sets it from inside, where a user namespace has no CAP_SYS_NICE of the host's")
    @pytest.mark.needs("userns", "realtime")
    def test_real_time_in_a_user_namespace(self, container: Container, started: Callable[[], int]) -> None:
        container.map_root_to(100000)
        container.process["scheduler"] = {"policy": "SCHED_FIFO", "priority": 3}
        assert os.sched_getscheduler(started()) == os.SCHED_FIFO

    @pytest.mark.parametrize(
        ("scheduler", "key"),
        [({"policy": "SCHED_OTHER", "nice": 20}, "/nice"), ({"policy": "SCHED_OTHER", "priority": 1}, "/priority"),
         ({"policy": "SCHED_FIFO", "priority": 100}, "/priority"), ({"policy": "SCHED_NONE"}, "/policy"),
         ({"policy": "SCHED_RR", "priority": 1, "runtime": 5}, "/runtime"), ({"policy": "SCHED_ISO"}, "/policy"),
         ({"policy": "SCHED_DEADLINE", "runtime": 9000, "deadline": 5000, "period": 9000}, ""),
         ({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NONE"]}, "/flags/0")],
    )  # fmt: skip
    def test_refused(self, container: Container, refused: Refused, scheduler: dict[str, Any], key: str) -> None:
        container.process["scheduler"] = scheduler
        refused(f"config.json#/process/scheduler{key}")


class TestIoPriority:
    """config.md#linux-process, ioprio_set(2)."""

    @pytest.mark.parametrize(
        ("kind", "priority", "told"),
        [("IOPRIO_CLASS_RT", 0, "realtime: prio 0"), ("IOPRIO_CLASS_BE", 7, "best-effort: prio 7"),
         ("IOPRIO_CLASS_IDLE", 0, "idle")],
    )  # fmt: skip
    def test_each_class(
        self, container: Container, started: Callable[[], int], kind: str, priority: int, told: str
    ) -> None:
        container.process["ioPriority"] = {"class": kind, "priority": priority}
        said = subprocess.run(["ionice", "-p", str(started())], capture_output=True, text=True, check=True).stdout
        assert said.strip() == told

    @pytest.mark.parametrize(
        ("value", "key"),
        [({"class": "IOPRIO_CLASS_BE", "priority": 8}, "/priority"), ({"class": "BE", "priority": 1}, "/class"),
         ({"class": "IOPRIO_CLASS_BE", "priority": -1}, "/priority")],
    )  # fmt: skip
    def test_refused(self, container: Container, refused: Refused, value: dict[str, Any], key: str) -> None:
        container.process["ioPriority"] = value
        refused(f"config.json#/process/ioPriority{key}")


@pytest.mark.runc_since("1.3", "execCPUAffinity")
class TestExecCpuAffinity:
    """config.md#linux-process: "This setting is not applicable to the container's init process"."""

    def test_the_first_process_keeps_the_callers(self, container: Container, started: Callable[[], int]) -> None:
        container.process["execCPUAffinity"] = {"initial": "0", "final": "0"}
        assert os.sched_getaffinity(started()) == os.sched_getaffinity(0)

    @pytest.mark.parametrize("value", ["a", "3-1", "0-", "-1", "0-99999999"])
    @pytest.mark.parametrize("key", ["initial", "final"])
    def test_refused(self, container: Container, refused: Refused, key: str, value: str) -> None:
        container.process["execCPUAffinity"] = {key: value}
        refused(f"config.json#/process/execCPUAffinity/{key}")


@pytest.mark.runc_since("1.4", "memoryPolicy")
class TestMemoryPolicy:
    """config-linux.md#memory-policy, set_mempolicy(2); /proc/PID/numa_maps shows the policy of each mapping."""

    @pytest.mark.needs("numa")
    @pytest.mark.parametrize(
        ("policy", "shown"),
        [({"mode": "MPOL_BIND", "nodes": "0"}, "bind:0"), ({"mode": "MPOL_INTERLEAVE", "nodes": "0"}, "interleave:0"),
         ({"mode": "MPOL_BIND", "nodes": "0-3", "flags": ["MPOL_F_STATIC_NODES"]}, "bind=static:0"),
         ({"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}, "prefer=relative:0"),
         ({"mode": "MPOL_PREFERRED"}, "local"), ({"mode": "MPOL_LOCAL"}, "local"),
         ({"mode": "MPOL_DEFAULT"}, "default"), ({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}, "prefer (many):0")],
    )  # fmt: skip
    def test_each_mode(self, container: Container, policy: dict[str, Any], shown: str) -> None:
        container.linux["memoryPolicy"] = policy
        assert container.output("cat /proc/$$/numa_maps").splitlines()[0].partition(" ")[2].startswith(shown)

    @pytest.mark.needs("numa")
    def test_a_node_that_is_not_there(self, container: Container, refused: Refused) -> None:
        container.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "63", "flags": ["MPOL_F_STATIC_NODES"]}
        refused("config.json#/linux/memoryPolicy")

    @pytest.mark.parametrize(
        ("policy", "key"),
        [({"mode": "MPOL_BIND"}, ""), ({"mode": "MPOL_LOCAL", "nodes": "0"}, "/nodes"), ({"mode": "MPOL_X"}, "/mode"),
         ({"mode": "MPOL_BIND", "nodes": "0..1"}, "/nodes"), ({"mode": "MPOL_LOCAL", "flags": ["X"]}, "/flags/0")],
    )  # fmt: skip
    def test_refused(self, container: Container, refused: Refused, policy: dict[str, Any], key: str) -> None:
        container.linux["memoryPolicy"] = policy
        refused(f"config.json#/linux/memoryPolicy{key}")


def test_a_personality_flag_is_a_warning(container: Container) -> None:
    """The specification has none so far; runc warns as well."""
    container.linux["personality"] = {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}
    container.process["args"] = ["echo", "fine"]
    result = container.run()
    assert (result.status, result.stdout) == (0, "fine\n")
    assert "personality" in result.stderr


class TestWhatThisHostLacks:
    """A label or a group that would be left out in silence would be a hole."""

    @pytest.mark.skipif("selinuxfs" in Path("/proc/filesystems").read_text(), reason="SELinux is on")
    def test_a_process_label(self, container: Container, refused: Refused) -> None:
        container.process["selinuxLabel"] = "system_u:system_r:container_t:s0"
        assert "selinux" in refused("config.json#/process/selinuxLabel").stderr.lower()

    @pytest.mark.only_pyruntime("runc mounts without the label")
    @pytest.mark.skipif("selinuxfs" in Path("/proc/filesystems").read_text(), reason="SELinux is on")
    def test_a_mount_label(self, container: Container, refused: Refused) -> None:
        container.linux["mountLabel"] = "system_u:object_r:container_file_t:s0"
        assert "SELinux is disabled" in refused("config.json#/linux/mountLabel").stderr

    @pytest.mark.skipif(" - resctrl " in Path("/proc/self/mountinfo").read_text(), reason="resctrl is mounted")
    def test_cache_allocation(self, container: Container, refused: Refused) -> None:
        container.linux["intelRdt"] = {"closID": "gold", "l3CacheSchema": "L3:0=f"}
        assert "Intel RDT" in refused("config.json#/linux/intelRdt").stderr
