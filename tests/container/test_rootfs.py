"""The root file system: read-only or not, its propagation, devices, links, masked and read-only paths.

Spec: config.md#root; config-linux.md#default-devices, #devices, #masked-paths, #readonly-paths,
#rootfs-mount-propagation.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.fixtures import Refused
from tests.support.leftovers import host_mounts

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

# A character device that no driver serves: opening it says whether the cgroup lets the request through.
ALLOWED, DENIED = "No such device or address", "Operation not permitted"


def test_readonly(container: Container) -> None:
    assert "Read-only file system" in container.run_script("touch /file").stderr
    assert "ro" in container.mount_at("/").options


def test_writable(container: Container) -> None:
    container.config["root"]["readonly"] = False
    assert container.output("echo x > /file && cat /file") == "x"
    assert container.read("file") == "x\n"


def test_a_readonly_root_leaves_the_hosts_writable(container: Container) -> None:
    assert container.run().status == 0
    (container.rootfs / "still-writable").touch()


def test_the_root_is_the_root(container: Container) -> None:
    """No way up: pivot_root(2) has replaced the old root, and .. of / is /."""
    container.add_file("here", "")
    assert container.output("cd /../../..; ls here; ls -di / /.. | cut -d/ -f1 | sort -u | wc -l").split() == [
        "here",
        "1",
    ]


def test_nothing_of_the_bundle_is_visible(container: Container) -> None:
    assert str(container.path) not in container.output("cat /proc/self/mountinfo").replace(str(container.rootfs), "")
    assert container.output("ls -A /").split() == sorted(os.listdir(container.rootfs))


@pytest.mark.parametrize("path", ["./rootfs", "rootfs/", "../bundle0/rootfs", "rootfs/../rootfs"])
def test_spellings_of_the_root(container: Container, path: str) -> None:
    container.config["root"]["path"] = path
    assert container.output("echo here") == "here"


def test_a_bundle_through_a_symlink(container: Container, scratch: Path) -> None:
    (scratch / "link").symlink_to(container.path)
    container.script("echo here")
    container.write()
    assert container.runtime("run", "-b", str(scratch / "link"), container.id).stdout == "here\n"


SINCE_PROPAGATION = pytest.mark.runc_since("1.2", "before, the root mount was private whatever was asked")


@pytest.mark.parametrize(
    ("propagation", "groups"),
    [("", set()), ("private", set()), ("rprivate", set()),
     pytest.param("shared", {"shared"}, marks=SINCE_PROPAGATION),
     pytest.param("rshared", {"shared"}, marks=SINCE_PROPAGATION),
     pytest.param("unbindable", {"unbindable"}, marks=SINCE_PROPAGATION)],
)  # fmt: skip
def test_propagation_of_a_private_rootfs(container: Container, propagation: str, groups: set[str]) -> None:
    if propagation:
        container.linux["rootfsPropagation"] = propagation
    assert container.mount_at("/").peer_groups == groups


@pytest.fixture
def shared_rootfs(container: Container) -> Iterator[Container]:
    """A container whose root file system is a shared mount on the host, as on any systemd machine."""
    subprocess.run(["mount", "--bind", container.rootfs, container.rootfs], check=True)
    subprocess.run(["mount", "--make-shared", container.rootfs], check=True)
    yield container
    while any(mount.point.startswith(str(container.rootfs)) for mount in host_mounts()):
        subprocess.run(["umount", "--recursive", "--lazy", container.rootfs], check=True)


@pytest.mark.parametrize("propagation", ["slave", "rslave", "private", "rprivate"])
def test_propagation_of_a_shared_rootfs(shared_rootfs: Container, propagation: str) -> None:
    """runc makes the parent private, whereby a slave has no master left; what counts is that it isn't shared."""
    shared_rootfs.linux["rootfsPropagation"] = propagation
    assert "shared" not in shared_rootfs.mount_at("/").peer_groups


@pytest.mark.parametrize("propagation", ["", "slave", "private", "shared", "unbindable"])
def test_mounts_inside_do_not_appear_on_the_host(shared_rootfs: Container, propagation: str) -> None:
    if propagation:
        shared_rootfs.linux["rootfsPropagation"] = propagation
    before = len(host_mounts())
    shared_rootfs.add_mount("/mnt", "tmpfs")
    assert shared_rootfs.run().status == 0
    assert len([mount for mount in host_mounts() if mount.point.startswith(str(shared_rootfs.rootfs))]) == 1, before


def test_unknown_propagation(container: Container, refused: Refused) -> None:
    container.linux["rootfsPropagation"] = "sideways"
    refused("config.json#/linux/rootfsPropagation")


class TestDevices:
    """What stands in /dev."""

    @pytest.mark.parametrize(
        ("name", "numbers"),
        [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")],
    )
    def test_default_device(self, container: Container, name: str, numbers: str) -> None:
        assert (
            container.output(f"stat -c '%F %t:%T %a %u %g' /dev/{name}") == f"character special file {numbers} 666 0 0"
        )

    def test_they_work(self, container: Container) -> None:
        script = "echo x > /dev/null; head -c 2 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c; echo x > /dev/full"
        result = container.run_script(script)
        assert result.stdout.split() == ["2", "2"]
        assert "No space left" in result.stderr

    @pytest.mark.parametrize(
        ("name", "target"),
        [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
         ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")],
    )  # fmt: skip
    def test_default_link(self, container: Container, name: str, target: str) -> None:
        assert container.output(f"readlink /dev/{name}") == target

    def test_no_other_names(self, container: Container) -> None:
        names = set(container.output("ls /dev").split())
        default = {"null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "ptmx"}
        assert names - default <= {"pts", "shm", "mqueue", "core", "console"}
        assert default <= names

    @pytest.mark.parametrize(("kind", "shown"), [("c", "character"), ("u", "character"), ("b", "block")])
    def test_own_device(self, container: Container, kind: str, shown: str) -> None:
        device = {"path": "/dev/own", "type": kind, "major": 240, "minor": 77, "fileMode": 0o640, "uid": 3, "gid": 4}
        container.linux["devices"] = [device]
        expected = f"{shown} special file f0:4d 640 3 4"
        assert container.output("stat -c '%F %t:%T %a %u %g' /dev/own") == expected

    def test_own_fifo(self, container: Container) -> None:
        container.linux["devices"] = [{"path": "/dev/own", "type": "p", "fileMode": 0o600}]
        assert container.output("stat -c '%F %a' /dev/own") == "fifo 600"

    def test_own_device_in_a_new_directory(self, container: Container) -> None:
        container.linux["devices"] = [{"path": "/dev/a/b/own", "type": "c", "major": 240, "minor": 1}]
        assert container.output("stat -c %t:%T /dev/a/b/own") == "f0:1"

    def test_a_mode_is_not_cut_by_the_callers_umask(self, container: Container) -> None:
        container.linux["devices"] = [{"path": "/dev/own", "type": "c", "major": 240, "minor": 1, "fileMode": 0o666}]
        container.script("stat -c %a /dev/own /dev/null")
        result = container.run(preexec_fn=lambda: os.umask(0o077))
        assert result.stdout.split() == ["666", "666"]

    def test_a_device_without_access_rights_is_denied(self, container: Container) -> None:
        container.linux["devices"] = [{"path": "/dev/own", "type": "c", "major": 240, "minor": 77, "fileMode": 0o666}]
        assert DENIED in container.run_script(": < /dev/own").stderr

    @pytest.mark.parametrize(
        ("rule", "read", "write"),
        [({"allow": True, "type": "c", "major": 240, "minor": 77, "access": "rwm"}, ALLOWED, ALLOWED),
         ({"allow": True, "type": "c", "major": 240, "access": "r"}, ALLOWED, DENIED),
         ({"allow": True, "type": "c", "access": "w"}, DENIED, ALLOWED),
         ({"allow": True, "type": "c", "major": 240, "minor": 78, "access": "rwm"}, DENIED, DENIED),
         ({"allow": True, "type": "c", "major": 241, "access": "rwm"}, DENIED, DENIED),
         ({"allow": True, "type": "b", "major": 240, "minor": 77, "access": "rwm"}, DENIED, DENIED),
         ({"allow": True, "access": "rwm"}, ALLOWED, ALLOWED)],
    )  # fmt: skip
    def test_rules(self, container: Container, rule: dict[str, object], read: str, write: str) -> None:
        container.linux["devices"] = [{"path": "/dev/own", "type": "c", "major": 240, "minor": 77, "fileMode": 0o666}]
        container.linux["resources"]["devices"].append(rule)
        assert read in container.run_script(": < /dev/own").stderr
        assert write in container.run_script("exec 3>> /dev/own").stderr

    def test_a_part_of_a_wider_rule_cannot_be_taken_back(self, container: Container, refused: Refused) -> None:
        """The list has the semantics of cgroup v1, whose kernel could not either: refused rather than half obeyed.

        runc:opencontainers/cgroups/devices/emulator.go
        """
        wide = {"allow": True, "type": "c", "major": 240, "access": "rwm"}
        narrow = {"allow": False, "type": "c", "major": 240, "minor": 77, "access": "w"}
        container.linux["resources"]["devices"] += [wide, narrow]
        refused("config.json#/linux/resources/devices/2")

    def test_mknod_is_allowed_and_opening_is_not(self, container: Container) -> None:
        container.grant("CAP_MKNOD")
        container.add_mount("/mnt", "tmpfs")
        result = container.run_script("mknod /mnt/x c 240 9 && echo made; : < /mnt/x")
        assert result.stdout == "made\n"
        assert DENIED in result.stderr

    def test_devices_without_any_rule(self, container: Container) -> None:
        """No resources at all still means a container, not a host's device access."""
        del container.linux["resources"]
        container.linux["devices"] = [{"path": "/dev/own", "type": "c", "major": 240, "minor": 77, "fileMode": 0o666}]
        result = container.run_script(": < /dev/null && echo null; : < /dev/own")
        assert result.stdout == "null\n"
        assert DENIED in result.stderr

    def test_an_own_device_in_place_of_a_default_one(self, container: Container) -> None:
        container.linux["devices"] = [{"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o600}]
        assert container.output("stat -c '%t:%T %a' /dev/full") == "1:7 600"

    def test_without_a_dev_mount_the_images_dev_is_used(self, container: Container) -> None:
        container.config["mounts"] = [
            mount for mount in container.mounts if not mount["destination"].startswith("/dev")
        ]
        container.config["root"]["readonly"] = False
        assert container.output("stat -c '%t:%T' /dev/null") == "1:3"


class TestMasks:
    """maskedPaths and readonlyPaths."""

    def test_a_masked_file_reads_empty(self, container: Container) -> None:
        container.add_file("etc/secret", "secret\n", 0o777)
        container.linux["maskedPaths"].append("/etc/secret")
        assert container.output("cat /etc/secret; stat -c %F /etc/secret") == "character special file"

    def test_a_masked_directory_is_empty_and_readonly(self, container: Container) -> None:
        container.add_file("etc/secret/file", "secret\n")
        container.config["root"]["readonly"] = False
        container.linux["maskedPaths"].append("/etc/secret")
        result = container.run_script("ls -A /etc/secret; echo x > /etc/secret/new")
        assert result.stdout == ""
        assert "Read-only file system" in result.stderr

    @pytest.mark.parametrize("path", ["/proc/keys", "/proc/timer_list"])
    def test_the_default_masks(self, container: Container, path: str) -> None:
        assert container.output(f"cat {path}") == ""

    def test_a_missing_path_is_passed_over(self, container: Container) -> None:
        container.linux["maskedPaths"].append("/no/such/file")
        container.linux["readonlyPaths"].append("/no/such/directory")
        assert container.output("ls /no 2>/dev/null; echo fine") == "fine"

    def test_readonly_directory(self, container: Container) -> None:
        container.config["root"]["readonly"] = False
        container.linux["readonlyPaths"].append("/etc")
        result = container.run_script("echo x > /tmp/x && echo x > /etc/x")
        assert "Read-only file system" in result.stderr
        assert container.read("tmp/x") == "x\n"

    def test_readonly_file(self, container: Container) -> None:
        container.config["root"]["readonly"] = False
        container.add_file("etc/file", "kept\n")
        container.linux["readonlyPaths"].append("/etc/file")
        assert "Read-only file system" in container.run_script("echo x > /etc/file").stderr
        assert container.read("etc/file") == "kept\n"

    def test_readonly_paths_keep_their_other_flags(self, container: Container) -> None:
        """In a user namespace the kernel forbids dropping nosuid, nodev and noexec in the remount."""
        (entry,) = [mount for mount in container.mounts if mount["destination"] == "/proc"]
        entry["options"] = ["nosuid", "noexec", "nodev"]
        assert {"ro", "nosuid", "noexec", "nodev"} <= container.mount_at("/proc/sys").options

    def test_proc_sys_is_readonly(self, container: Container) -> None:
        container.grant("CAP_SYS_ADMIN", "CAP_NET_ADMIN")
        assert "Read-only file system" in container.run_script("echo 1 > /proc/sys/net/ipv4/ip_forward").stderr

    def test_without_masks_nothing_is_covered(self, container: Container) -> None:
        container.linux["maskedPaths"] = container.linux["readonlyPaths"] = []
        assert not [mount for mount in container.mounts_inside() if mount.point.startswith("/proc/")]

    def test_masks_through_a_symlink_stay_inside(self, container: Container) -> None:
        container.add_file("etc/real", "secret\n", 0o666)
        (container.rootfs / "etc/link").symlink_to("/etc/real")
        container.linux["maskedPaths"].append("/etc/link")
        assert container.output("cat /etc/real") == ""
