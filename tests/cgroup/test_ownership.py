"""Who owns the container's cgroup. Spec: config-linux.md#cgroup-ownership."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.lib.steps import v2_mount
from tests.support.container import Container

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2", "userns"),
    pytest.mark.only_pyruntime("runc gives the cgroup away with the systemd driver only"),
]

HOST_ID = 100000


@pytest.fixture
def delegated(container: Container) -> Container:
    """A container with a user and a cgroup namespace, whose /sys/fs/cgroup can be written to."""
    container.map_root_to(HOST_ID)
    (entry,) = [entry for entry in container.mounts if entry["destination"] == "/sys/fs/cgroup"]
    entry["options"].remove("ro")
    return container


def cgroup_of(container: Container) -> Path:
    container.process["args"] = ["sleep", "1000"]
    result = container.run_detached()
    assert result.status == 0, result
    lines = Path(f"/proc/{container.pid()}/cgroup").read_text().splitlines()
    (own,) = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    return Path(v2_mount() + own)


def owners(directory: Path) -> dict[str, int]:
    """The owner of a cgroup, by ".", and of each of its files."""
    return {".": directory.stat().st_uid} | {file.name: file.stat().st_uid for file in directory.iterdir()}


def test_the_delegated_files_and_no_others(delegated: Container) -> None:
    given = {".", *Path("/sys/kernel/cgroup/delegate").read_text().split()}
    found = owners(cgroup_of(delegated))
    assert {"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} <= given
    assert found == {name: HOST_ID if name in given else 0 for name in found}


def test_the_container_makes_cgroups_of_its_own(delegated: Container) -> None:
    script = "cd /sys/fs/cgroup && mkdir below && echo $$ > below/cgroup.procs && cat /proc/self/cgroup"
    assert "0::/below" in delegated.output(script).splitlines()


def test_its_limits_stay_the_hosts(delegated: Container) -> None:
    assert delegated.output("echo 1 > /sys/fs/cgroup/cgroup.freeze || echo refused") == "refused"


def test_the_user_of_the_process_is_the_owner(delegated: Container) -> None:
    delegated.process["user"] = {"uid": 7, "gid": 7}
    assert owners(cgroup_of(delegated))["cgroup.procs"] == HOST_ID + 7


def test_without_a_user_namespace(container: Container) -> None:
    (entry,) = [entry for entry in container.mounts if entry["destination"] == "/sys/fs/cgroup"]
    entry["options"].remove("ro")
    container.process["user"] = {"uid": 7, "gid": 7}
    assert owners(cgroup_of(container))["."] == 7


@pytest.mark.parametrize("what", ["read-only", "the caller's cgroup namespace"])
def test_not_given_away(delegated: Container, what: str) -> None:
    if what == "read-only":
        delegated.mounts[-1]["options"].append("ro")
    else:
        delegated.drop_namespace("cgroup")
    assert set(owners(cgroup_of(delegated)).values()) == {0}
