"""Idmapped mounts: `uidMappings`, `gidMappings` and the options `idmap` and `ridmap` of a mount (config.md#mounts)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import mountinfo
from tests.support.container import Container
from tests.support.fixtures import Refused

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2", "userns", "idmap"),
    pytest.mark.runc_since("1.2", "idmapped mounts with a mapping of their own"),
]

HOST_ID = 100000
SHOW = "stat -c %u:%g /mnt/file"


@pytest.fixture
def source(scratch: Path) -> Iterator[Path]:
    """A tmpfs on the host with a file of 3:4, and another tmpfs below with a file of 5:6."""
    path = scratch / "source"
    path.mkdir()
    below = path / "below"
    mounted = []
    try:
        for at, name, owner in ((path, "file", (3, 4)), (below, "other", (5, 6))):
            at.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", str(at)], check=True)
            mounted.append(at)
            (at / name).touch()
            os.chown(at / name, *owner)
        yield path
    finally:
        for at in reversed(mounted):
            subprocess.run(["umount", str(at)], check=True)


def add(container: Container, source: Path, *options: str, own: tuple[int, int] | None = None) -> None:
    """Bind `source` to /mnt. `own`: to what IDs the mount maps those from 0 on, of users and of groups."""
    container.add_bind(source, "/mnt", *options)
    if own is not None:
        for key, first in zip(("uidMappings", "gidMappings"), own, strict=True):
            container.mounts[-1][key] = [{"containerID": 0, "hostID": first, "size": 100}]


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_its_own_mapping(container: Container, source: Path, option: str) -> None:
    add(container, source, option, own=(1000, 2000))
    assert container.output(SHOW) == "1003:2004"


def test_what_is_written_belongs_to_the_mapped_back(container: Container, source: Path) -> None:
    source.chmod(0o777)
    add(container, source, "idmap", own=(1000, 1000))
    container.process["user"] = {"uid": 1007, "gid": 1008}
    container.output("touch /mnt/new")
    status = (source / "new").stat()
    assert (status.st_uid, status.st_gid) == (7, 8)


def test_the_containers_mapping(container: Container, source: Path) -> None:
    container.map_root_to(HOST_ID)
    add(container, source, "rbind", "idmap")
    assert container.output(f"{SHOW}; stat -c %u:%g /mnt") == "3:4\n0:0"


def test_without_it_the_files_are_nobodys(container: Container, source: Path) -> None:
    container.map_root_to(HOST_ID)
    add(container, source, "rbind")  # only with what is below: a user namespace may not uncover what that hides
    assert container.output(SHOW) == "65534:65534"


def test_another_mapping_than_the_containers(container: Container, source: Path) -> None:
    container.map_root_to(HOST_ID)
    add(container, source, "rbind", "idmap", own=(HOST_ID + 10, HOST_ID + 20))
    assert container.output(SHOW) == "13:24"


@pytest.mark.only_pyruntime(
    "runc copies the tree from inside, where a user namespace may not uncover what a mount hides"
)
def test_without_the_mounts_below_in_a_user_namespace(container: Container, source: Path) -> None:
    container.map_root_to(HOST_ID)
    add(container, source, "idmap")
    assert container.output(f"{SHOW}; ls /mnt/below") == "3:4"


@pytest.mark.parametrize(("option", "below"), [("idmap", "5:6"), ("ridmap", "1005:2006")])
def test_a_whole_tree(container: Container, source: Path, option: str, below: str) -> None:
    add(container, source, "rbind", option, own=(1000, 2000))
    assert container.output(f"{SHOW}; stat -c %u:%g /mnt/below/other") == f"1003:2004\n{below}"


def test_the_other_options_hold(container: Container, source: Path) -> None:
    add(container, source, "idmap", "ro", "noexec", own=(1000, 1000))
    assert container.output("touch /mnt/new 2> /dev/null || echo read-only") == "read-only"
    (entry,) = [line for line in container.output("cat /proc/self/mountinfo").splitlines() if " /mnt " in line]
    assert "noexec" in entry


def test_two_mounts_with_mappings_of_their_own(container: Container, source: Path) -> None:
    add(container, source, "idmap", own=(1000, 1000))
    add(container, source, "idmap", own=(2000, 2000))
    container.mounts[-1]["destination"] = "/tmp"
    assert container.output("stat -c %u /mnt/file /tmp/file") == "1003\n2003"


def test_a_file(container: Container, source: Path) -> None:
    container.add_file("etc/mapped")
    add(container, source / "file", "idmap", own=(1000, 2000))
    container.mounts[-1]["destination"] = "/etc/mapped"
    assert container.output("stat -c %u:%g /etc/mapped") == "1003:2004"


def test_a_joined_user_namespace(container: Container, source: Path) -> None:
    """Its mapping is taken, as config.json has none."""
    holder = subprocess.Popen(["unshare", "--user", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout
        holder.stdout.readline()
        for kind in ("uid", "gid"):
            Path(f"/proc/{holder.pid}/{kind}_map").write_text(f"0 {HOST_ID} 1000\n")
        container.map_root_to(HOST_ID)
        container.set_namespace("user", f"/proc/{holder.pid}/ns/user")
        del container.linux["uidMappings"], container.linux["gidMappings"]
        add(container, source, "rbind", "idmap")
        assert container.output(SHOW) == "3:4"
    finally:
        holder.kill()
        holder.communicate()


def test_nothing_is_left_on_the_host(container: Container, source: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    add(container, source, "idmap", own=(1000, 1000))
    container.process["args"] = ["sleep", "1000"]
    assert container.run_detached().status == 0
    assert Path("/proc/self/mountinfo").read_text() == before
    children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True, check=False).stdout
    assert all(int(pid) != container.pid() for pid in children.split())


@pytest.mark.parametrize("mapped", [False, True], ids=["as root", "in a user namespace"])
def test_a_shared_source_becomes_a_slave(container: Container, source: Path, mapped: bool) -> None:
    """As with any bind: what is mounted inside must not appear on the host."""
    subprocess.run(["mount", "--make-rshared", str(source)], check=True)
    if mapped:
        container.map_root_to(HOST_ID)
    add(container, source, "rbind", own=(HOST_ID, HOST_ID))
    inside = container.mounts_inside()
    assert [mountinfo.find(inside, point).peer_groups for point in ("/mnt", "/mnt/below")] == [{"master"}] * 2


@pytest.mark.parametrize(("wanted", "groups"), [("rshared", {"shared"}), ("rprivate", set()), ("rslave", {"master"})])
def test_the_propagation_that_is_asked_for(container: Container, source: Path, wanted: str, groups: set[str]) -> None:
    subprocess.run(["mount", "--make-rshared", str(source)], check=True)
    container.linux["rootfsPropagation"] = wanted
    add(container, source, "rbind", own=(HOST_ID, HOST_ID))
    assert container.mount_at("/mnt").peer_groups == groups


@pytest.mark.parametrize("options", [("idmap",), ("rbind", "ridmap")])
def test_no_mapping_at_all(container: Container, scratch: Path, refused: Refused, options: tuple[str, ...]) -> None:
    add(container, scratch, *options)
    refused("config.json#/mounts/7/options")


def test_one_of_two(container: Container, scratch: Path, refused: Refused) -> None:
    add(container, scratch, "idmap", own=(1000, 1000))
    del container.mounts[-1]["gidMappings"]
    refused("config.json#/mounts/7/uidMappings")


def test_not_a_bind(container: Container, refused: Refused) -> None:
    container.add_mount("/mnt", "tmpfs", "idmap")
    container.map_root_to(HOST_ID)
    refused("config.json#/mounts/7")


def test_a_file_system_that_cannot_be_mapped(container: Container, refused: Refused) -> None:
    add(container, Path("/proc/sys"), "idmap", own=(1000, 1000))
    refused("config.json#/mounts/7")


def test_a_source_that_is_not_there(container: Container, scratch: Path, refused: Refused) -> None:
    add(container, scratch / "nowhere", "idmap", own=(1000, 1000))
    refused("config.json#/mounts/7")
