"""The container's cgroup on a real v2 hierarchy: made with its controllers, filled, refused, killed, removed.

Most of it needs controllers that hybrid hosts keep on v1: it runs in the VM (scripts/test).
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyruntime.cgroup import creation, manager
from pyruntime.cgroup.manager import Cgroup
from pyruntime.errors import Error, KernelError, StateError, UnsupportedError
from pyruntime.launch import limits
from pyruntime.plan.resources import resource_steps
from pyruntime.state.status import is_frozen

pytestmark = pytest.mark.needs("root", "cgroup2")

PLACE = "config.json#/linux/resources"
Enter = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def root_path() -> str:
    return creation.find_v2()


@pytest.fixture
def top(root_path: str) -> Iterator[str]:
    """A path below the hierarchy for this test alone; whatever it leaves there is killed and removed."""
    path = f"/pyruntime-test-{os.getpid()}"
    yield path
    leftover = Cgroup(root_path + path)
    leftover.kill()
    leftover.remove()


@pytest.fixture
def enter() -> Iterator[Enter]:
    """Starts a command in a cgroup."""
    started = []

    def start(cgroup_path: str, *command: str) -> subprocess.Popen[bytes]:
        script = 'echo 0 > "$0/cgroup.procs" && echo && exec "$@"'
        words = ["sh", "-c", script, cgroup_path, *(command or ("sleep", "60"))]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n", "could not enter the cgroup"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def make(path: str, resources: dict[str, Any] | None = None) -> Cgroup:
    """What a start does: plan, make, fill. Fails as a start does."""
    steps = resource_steps({"cgroupsPath": path, "resources": resources or {}}, path)  # type: ignore[typeddict-item]
    cgroup = limits.make_cgroup(steps)
    assert cgroup is not None
    try:
        limits.fill_cgroup(steps, cgroup)
    except Error:
        cgroup.undo()
        raise
    return cgroup


# --- making and taking back ---


def test_parents_are_made_and_taken_back(root_path: str, top: str) -> None:
    cgroup = make(f"{top}/a/b")
    assert cgroup.path == f"{root_path}{top}/a/b"
    assert cgroup.made == [f"{root_path}{top}", f"{root_path}{top}/a", f"{root_path}{top}/a/b"]
    cgroup.undo()
    assert not os.path.exists(root_path + top)


def test_what_was_there_before_stays(root_path: str, top: str) -> None:
    os.mkdir(root_path + top)
    os.mkdir(f"{root_path}{top}/web")
    make(f"{top}/web").undo()
    assert os.path.isdir(f"{root_path}{top}/web")
    make(f"{top}/other").undo()
    assert os.listdir(root_path + top).count("other") == 0


def test_undo_kills_what_came_into_an_empty_one(root_path: str, top: str, enter: Enter) -> None:
    os.makedirs(f"{root_path}{top}/web")
    cgroup = make(f"{top}/web")
    process = enter(cgroup.path)
    cgroup.undo()
    assert process.wait() == -signal.SIGKILL
    assert cgroup.exists()


def test_a_parent_that_another_container_uses_stays(root_path: str, top: str) -> None:
    first, second = make(f"{top}/a"), make(f"{top}/b")
    first.undo()
    assert second.exists()
    assert not first.exists()


def test_a_missing_controller_is_refused_before_anything_is_made(root_path: str, top: str) -> None:
    with pytest.raises(UnsupportedError, match=r"'nonesuch'.*or remove the key") as caught:
        make(f"{top}/a", {"unified": {"nonesuch.max": "1"}})
    assert caught.value.where == f"{PLACE}/unified/nonesuch.max"
    assert not os.path.exists(root_path + top)


def test_a_failed_write_leaves_nothing_behind(root_path: str, top: str) -> None:
    with pytest.raises(KernelError) as caught:
        make(f"{top}/a/b", {"unified": {"cgroup.max.depth": "nonsense"}})
    assert caught.value.errno == errno.EINVAL
    assert "cgroup.max.depth" in str(caught.value)
    assert "nonsense" in str(caught.value)
    assert not os.path.exists(root_path + top)


def test_a_name_that_mkdir_refuses(root_path: str, top: str) -> None:
    with pytest.raises(KernelError, match=r"mkdir.*EINVAL.*line break") as caught:
        make(f"{top}/a\nb")
    assert caught.value.where == "config.json#/linux/cgroupsPath"
    assert not os.path.exists(root_path + top)


def test_the_depth_limit_above_is_explained(root_path: str, top: str) -> None:
    os.mkdir(root_path + top)
    Path(root_path + top, "cgroup.max.depth").write_text("1")
    with pytest.raises(KernelError, match=r"EAGAIN.*cgroup\.max\.d"):
        make(f"{top}/a/b")
    assert not os.path.exists(f"{root_path}{top}/a")


def test_a_cgroup_with_processes_is_refused_and_left_alone(root_path: str, top: str, enter: Enter) -> None:
    os.makedirs(f"{root_path}{top}/web/below")
    process = enter(f"{root_path}{top}/web/below")
    with pytest.raises(StateError, match=r"not empty: 1 process") as caught:
        make(f"{top}/web")
    assert caught.value.where == "config.json#/linux/cgroupsPath"
    assert process.poll() is None


def test_a_frozen_parent_is_refused(root_path: str, top: str) -> None:
    os.mkdir(root_path + top)
    Path(root_path + top, "cgroup.freeze").write_text("1")
    with pytest.raises(StateError, match="frozen"):
        make(f"{top}/web")
    assert not os.path.exists(f"{root_path}{top}/web")


def test_rootless_without_wishes_runs_without_a_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "_make", lambda path: (_ for _ in ()).throw(KernelError("mkdir", errno.EACCES)))
    assert limits.make_cgroup(resource_steps({}, "/web"), rootless=True) is None
    with pytest.raises(KernelError):
        limits.make_cgroup(resource_steps({}, "/web"), rootless=False)
    with pytest.raises(KernelError):
        limits.make_cgroup(resource_steps({"cgroupsPath": "/web"}, "/web"), rootless=True)


@pytest.mark.needs("memory", "pids")
def test_controllers_reach_the_container(top: str) -> None:
    cgroup = make(f"{top}/a/b", {"memory": {"limit": 1 << 20}})
    assert {"memory", "pids"} <= set(cgroup.read("cgroup.controllers").split())


@pytest.mark.needs("memory")
def test_a_parent_with_processes_of_its_own_is_explained(root_path: str, top: str, enter: Enter) -> None:
    os.mkdir(root_path + top)
    enter(root_path + top)
    with pytest.raises(UnsupportedError, match=r"'memory'.*processes of its own") as caught:
        make(f"{top}/web", {"memory": {"limit": 1 << 20}})
    assert caught.value.where == f"{PLACE}/memory/limit"
    assert not os.path.exists(f"{root_path}{top}/web")
    make(f"{top}/web").undo()  # without a limit nothing is lost
    assert Path(root_path + top, "cgroup.type").read_text() == "domain\n"  # and the parent is as it was


@pytest.mark.needs("memory", "pids")
def test_below_a_threaded_cgroup_only_threaded_controllers_work(root_path: str, top: str, enter: Enter) -> None:
    os.mkdir(root_path + top)
    Path(root_path + top, "cgroup.type").write_text("threaded")
    with pytest.raises(UnsupportedError, match="'memory'") as caught:
        make(f"{top}/web", {"memory": {"limit": 1 << 20}})
    assert caught.value.where == f"{PLACE}/memory/limit"
    assert not os.path.exists(f"{root_path}{top}/web")
    cgroup = make(f"{top}/web", {"pids": {"limit": 5}})
    assert cgroup.read("cgroup.type") == "threaded\n"
    assert cgroup.read("pids.max") == "5\n"


# --- limits ---


@pytest.mark.needs("memory", "cpu", "cpuset", "io", "pids")
@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"memory": {"limit": 1 << 24}}, {"memory.max": "16777216", "memory.swap.max": "max"}),
        ({"memory": {"limit": 1 << 24, "swap": 1 << 24}}, {"memory.max": "16777216", "memory.swap.max": "0"}),
        ({"memory": {"limit": 1 << 24, "swap": 1 << 25}}, {"memory.swap.max": "16777216"}),
        ({"memory": {"limit": -1, "swap": -1}}, {"memory.max": "max", "memory.swap.max": "max"}),
        ({"memory": {"limit": 1 << 24, "swap": -1}}, {"memory.swap.max": "max"}),
        ({"memory": {"reservation": 1 << 20, "checkBeforeUpdate": True, "limit": 1 << 24}}, {"memory.low": "1048576"}),
        ({"cpu": {"shares": 1024}}, {"cpu.weight": "100"}),
        ({"cpu": {"shares": 2}}, {"cpu.weight": "1"}),
        ({"cpu": {"shares": 262144}}, {"cpu.weight": "10000"}),
        ({"cpu": {"quota": 50000}}, {"cpu.max": "50000 100000"}),
        ({"cpu": {"quota": -1}}, {"cpu.max": "max 100000"}),
        ({"cpu": {"period": 50000}}, {"cpu.max": "max 50000"}),
        ({"cpu": {"quota": 5000, "period": 10000, "burst": 2000}}, {"cpu.max": "5000 10000", "cpu.max.burst": "2000"}),
        ({"cpu": {"burst": 2000}}, {"cpu.max.burst": "2000"}),
        ({"cpu": {"idle": 1}}, {"cpu.idle": "1"}),
        ({"cpu": {"cpus": "0", "mems": "0"}}, {"cpuset.cpus": "0", "cpuset.mems": "0"}),
        ({"pids": {"limit": 7}}, {"pids.max": "7"}),
        ({"pids": {"limit": 0}}, {"pids.max": "1"}),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}),
        ({"unified": {"memory.high": "16777216", "cgroup.max.depth": "3"}}, {"memory.high": "16777216"}),
        ({"unified": {"cpu.max": "max 20000\n5000 10000\n"}}, {"cpu.max": "5000 10000"}),
    ],
)
def test_limits_reach_the_kernel(top: str, resources: dict[str, Any], expected: dict[str, str]) -> None:
    cgroup = make(f"{top}/web", resources)
    assert {file: cgroup.read(file).strip() for file in expected} == expected


@pytest.mark.needs("io")
def test_io_limits_of_a_disk(top: str) -> None:
    disk = next((path for path in Path("/sys/block").iterdir() if int((path / "size").read_text())), None)
    assert disk is not None, "a machine without a block device"
    major, minor = map(int, (disk / "dev").read_text().split(":"))
    device = {"major": major, "minor": minor}
    cgroup = make(
        f"{top}/web",
        {
            "blockIO": {
                "throttleReadBpsDevice": [{**device, "rate": 1000}],
                "throttleWriteBpsDevice": [{**device, "rate": 2000}],
                "throttleReadIOPSDevice": [{**device, "rate": 30}],
                "throttleWriteIOPSDevice": [{**device, "rate": 40}],
            }
        },
    )
    assert cgroup.read("io.max") == f"{major}:{minor} rbps=1000 wbps=2000 riops=30 wiops=40\n"


@pytest.mark.needs("io")
def test_io_weight_is_written_to_whichever_file_is_there(top: str) -> None:
    cgroup = make(f"{top}/web", {"blockIO": {"weight": 500}})
    files = {name: cgroup.read(name).strip() for name in os.listdir(cgroup.path) if name.endswith("weight")}
    assert files.get("io.bfq.weight", files.get("io.weight")) in ("default 500", "500", "default 4950")


@pytest.mark.needs("hugetlb")
def test_huge_pages(top: str) -> None:
    cgroup = make(f"{top}/web", {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]})
    assert cgroup.read("hugetlb.2MB.max") == "4194304\n"
    assert cgroup.read("hugetlb.2MB.rsvd.max") == "4194304\n"


@pytest.mark.needs("hugetlb")
def test_a_page_size_that_the_machine_lacks_names_those_it_has(top: str) -> None:
    with pytest.raises(KernelError, match=r"huge pages of .*2MB") as caught:
        make(f"{top}/web", {"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]})
    assert caught.value.where == f"{PLACE}/hugepageLimits/0"


@pytest.mark.needs("memory", "cpu", "cpuset", "io", "pids", "rdma")
@pytest.mark.parametrize(
    ("resources", "key", "number", "hint"),
    [
        ({"cpu": {"idle": 1, "shares": 1024}}, "cpu/shares", errno.EINVAL, "has no weight"),
        ({"cpu": {"idle": 2}}, "cpu/idle", errno.EINVAL, "0 or 1"),
        ({"cpu": {"quota": 10}}, "cpu/quota", errno.EINVAL, "microseconds"),
        ({"cpu": {"period": 10}}, "cpu/period", errno.EINVAL, "microseconds"),
        (
            {"cpu": {"quota": 5000, "period": 10000, "burst": 9000}},
            "cpu/quota",
            errno.EINVAL,
            "burst at most the quota",
        ),
        ({"cpu": {"cpus": "9999"}}, "cpu/cpus", errno.ERANGE, "cpu/possible"),
        ({"cpu": {"cpus": "x"}}, "cpu/cpus", errno.EINVAL, "a list such as"),
        ({"cpu": {"mems": "99999"}}, "cpu/mems", errno.ERANGE, "memory node"),
        ({"pids": {"limit": 1 << 40}}, "pids/limit", errno.EINVAL, "4194304"),
        ({"memory": {"limit": -5}}, "memory/limit", errno.EINVAL, "number of bytes"),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 4095, "minor": 1, "rate": 1}]}},
            "blockIO/throttleReadBpsDevice/0",
            errno.ENODEV,
            "whole disk",
        ),
        (
            {"blockIO": {"weightDevice": [{"major": 4095, "minor": 1, "weight": 10}]}},
            "blockIO/weightDevice/0",
            errno.ENODEV,
            "whole disk",
        ),
        ({"rdma": {"nonesuch": {"hcaHandles": 1}}}, "rdma/nonesuch", errno.ENODEV, "infiniband"),
        ({"unified": {"memory.nonesuch": "1"}}, "unified/memory.nonesuch", errno.ENOENT, "memory.max"),
    ],
)
def test_a_refusal_tells_key_file_value_and_cause(
    root_path: str, top: str, resources: dict[str, Any], key: str, number: int, hint: str
) -> None:
    with pytest.raises(KernelError) as caught:
        make(f"{top}/web", resources)
    error = caught.value
    assert error.where == f"{PLACE}/{key}"
    assert error.errno == number
    assert hint in error.hint
    assert f"{root_path}{top}/web/" in str(error)
    assert not os.path.exists(root_path + top)


@pytest.mark.needs("pids")
def test_a_pids_limit_holds(top: str, enter: Enter) -> None:
    cgroup = make(f"{top}/web", {"pids": {"limit": 2}})
    process = enter(cgroup.path, "sh", "-c", "sleep 0 & sleep 0 & sleep 0 & wait; :")
    process.wait()
    assert "max 0" not in cgroup.read("pids.events").splitlines()


@pytest.mark.needs("memory")
def test_a_limit_below_the_usage_is_rejected_when_asked_to(top: str, enter: Enter) -> None:
    cgroup = make(f"{top}/web", {"memory": {"limit": 1 << 26}})
    enter(cgroup.path)
    assert int(cgroup.read("memory.current")) > 1
    for key in ("limit", "swap"):
        memory = {"limit": 1, "swap": -1} if key == "limit" else {"limit": -1, "swap": 1}
        steps = resource_steps({"resources": {"memory": {**memory, "checkBeforeUpdate": True}}}, "/web")  # type: ignore[typeddict-item]
        with pytest.raises(StateError, match="rejecting memory") as caught:
            limits.fill_cgroup(steps, cgroup)
        assert caught.value.where == f"{PLACE}/memory/checkBeforeUpdate"
    assert cgroup.read("memory.max") == f"{1 << 26}\n"


# --- ending ---


def test_kill_reaches_everyone_below(root_path: str, top: str, enter: Enter) -> None:
    cgroup = make(f"{top}/web")
    os.makedirs(f"{cgroup.path}/a/b")
    processes = [enter(cgroup.path), enter(f"{cgroup.path}/a/b")]
    assert sorted(cgroup.pids(recursive=True)) == sorted(process.pid for process in processes)
    assert cgroup.pids() == [processes[0].pid]
    cgroup.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    cgroup.remove()
    assert not cgroup.exists()


def test_kill_without_cgroup_kill(top: str, enter: Enter) -> None:
    """As on kernels before 5.14."""
    cgroup = make(f"{top}/web")
    processes = [enter(cgroup.path), enter(cgroup.path, "sh", "-c", "while :; do sleep 0.01; done")]
    cgroup._kill_one_by_one()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2


def test_a_paused_container_can_be_killed(top: str, enter: Enter) -> None:
    cgroup = make(f"{top}/web")
    process = enter(cgroup.path)
    cgroup.freeze()
    assert is_frozen(cgroup.path)
    cgroup.kill()
    assert process.wait() == -signal.SIGKILL


def test_thawing_below_a_frozen_cgroup_says_so(root_path: str, top: str, enter: Enter) -> None:
    """The engine's own group may be the frozen one: then the container can't go on by itself."""
    cgroup = make(f"{top}/web")
    process = enter(cgroup.path)
    above = Cgroup(root_path + top)
    above.freeze()
    assert is_frozen(cgroup.path)
    with pytest.raises(StateError, match=r"stays frozen.*above"):
        cgroup.thaw()
    above.thaw()
    assert not is_frozen(cgroup.path)
    assert process.poll() is None


def test_freezing_what_is_gone_is_an_error(root_path: str, top: str) -> None:
    with pytest.raises(KernelError, match="ENOENT"):
        Cgroup(f"{root_path}{top}/none").freeze()


def test_a_signal_for_all_leaves_a_paused_container_paused(top: str, enter: Enter) -> None:
    cgroup = make(f"{top}/web")
    process = enter(cgroup.path, "sh", "-c", 'trap "exit 7" TERM; echo; while :; do :; done')
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    cgroup.freeze()
    cgroup.signal(signal.SIGTERM)
    assert is_frozen(cgroup.path)
    assert process.poll() is None
    cgroup.thaw()
    assert process.wait() == 7


def test_a_signal_for_all_reaches_all_and_thaws(top: str, enter: Enter) -> None:
    cgroup = make(f"{top}/web")
    os.mkdir(f"{cgroup.path}/below")
    processes = [enter(cgroup.path), enter(f"{cgroup.path}/below")]
    cgroup.signal(signal.SIGTERM)
    assert [process.wait() for process in processes] == [-signal.SIGTERM] * 2
    assert cgroup.read("cgroup.freeze") == "0\n"


def test_remove_waits_for_the_dying(top: str, enter: Enter) -> None:
    cgroup = make(f"{top}/web")
    os.makedirs(f"{cgroup.path}/a/b")
    for _ in range(10):
        enter(f"{cgroup.path}/a/b")
    cgroup.kill()
    cgroup.remove()
    assert not cgroup.exists()


def test_remove_names_those_who_stay(top: str, enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "_REMOVE_SECONDS", 0.01)
    cgroup = make(f"{top}/web")
    os.mkdir(f"{cgroup.path}/below")
    process = enter(f"{cgroup.path}/below")
    with pytest.raises(KernelError, match=f"EBUSY.*inside: {process.pid}"):
        cgroup.remove()
    assert process.poll() is None


def test_remove_of_a_tree_deeper_than_a_path_may_be(top: str) -> None:
    """A container with a writable cgroup file system can make one, relative to its working directory."""
    cgroup = make(f"{top}/web")
    name = "x" * 200
    directory_fd = os.open(cgroup.path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir(name, dir_fd=directory_fd)
        below_fd = os.open(name, os.O_RDONLY, dir_fd=directory_fd)
        os.close(directory_fd)
        directory_fd = below_fd
    os.close(directory_fd)
    before = os.listdir("/proc/self/fd")
    cgroup.remove()
    assert not cgroup.exists()
    assert os.listdir("/proc/self/fd") == before


def test_a_cgroup_that_is_gone_is_no_error(root_path: str, top: str) -> None:
    cgroup = Cgroup(f"{root_path}{top}/none")
    assert not cgroup.exists()
    cgroup.kill()
    cgroup.signal(signal.SIGTERM)
    cgroup.thaw()
    cgroup.remove()
    assert cgroup.pids(recursive=True) == []
    assert cgroup.wait_for("populated 0", 1)


def test_waiting_ends_when_the_event_comes_or_the_time_is_up(top: str, enter: Enter) -> None:
    cgroup = make(f"{top}/web")
    process = enter(cgroup.path)
    assert not cgroup.wait_for("populated 0", 0.01)
    process.kill()
    assert cgroup.wait_for("populated 0", 30)


def test_a_descriptor_of_the_cgroup_takes_a_clone(top: str) -> None:
    from pyruntime.linux.clone import clone3

    cgroup = make(f"{top}/web")
    cgroup_fd = cgroup.open_fd()
    pid, pidfd = clone3(0, cgroup_fd=cgroup_fd)
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.close(cgroup_fd)
    os.close(pidfd)
    assert cgroup.pids() == [pid]
    cgroup.kill()
    os.waitpid(pid, 0)
