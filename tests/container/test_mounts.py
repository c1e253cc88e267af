"""`mounts`: every option as /proc/self/mountinfo shows it from inside, and every way a target may look.

Spec: config.md#mounts. The kernel keeps some options per mount (`options`) and some per file
system (`super_options`).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import mountinfo
from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.leftovers import host_mounts

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


@pytest.fixture
def outside(scratch: Path) -> Path:
    """A directory of the host's to be bound into the container."""
    path = scratch / "outside"
    (path / "sub").mkdir(parents=True)
    (path / "file").write_text("from the host\n")
    return path


@pytest.fixture
def submount(outside: Path) -> Iterator[Path]:
    """`outside` as a shared mount of its own, with a tmpfs on outside/sub."""
    subprocess.run(["mount", "--bind", outside, outside], check=True)
    subprocess.run(["mount", "--make-shared", outside], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", outside / "sub"], check=True)
    (outside / "sub/deep").write_text("below\n")
    yield outside
    while any(mount.point.startswith(str(outside)) for mount in host_mounts()):
        subprocess.run(["umount", "--recursive", "--lazy", outside], check=True)


PER_MOUNT = [
    (["ro"], {"ro"}),
    (["rw"], {"rw"}),
    (["nosuid"], {"nosuid"}),
    (["nodev"], {"nodev"}),
    (["noexec"], {"noexec"}),
    (["nosuid", "nodev", "noexec", "ro"], {"nosuid", "nodev", "noexec", "ro"}),
    (["noatime"], {"noatime"}),
    (["nodiratime"], {"nodiratime"}),
    (["relatime"], {"relatime"}),
    (["noatime", "nodiratime"], {"noatime", "nodiratime"}),
]


@pytest.mark.parametrize(("options", "expected"), PER_MOUNT, ids=lambda value: ",".join(sorted(value)))
def test_flags_of_a_bind_mount(container: Container, outside: Path, options: list[str], expected: set[str]) -> None:
    """A bind mount takes its flags by a second mount(2), MS_REMOUNT|MS_BIND: easily forgotten."""
    container.add_bind(outside, "/mnt", *options)
    assert expected <= container.mount_at("/mnt").options


@pytest.mark.parametrize(("options", "expected"), PER_MOUNT, ids=lambda value: ",".join(sorted(value)))
def test_flags_of_a_tmpfs(container: Container, options: list[str], expected: set[str]) -> None:
    container.add_mount("/mnt", "tmpfs", *options)
    assert expected <= container.mount_at("/mnt").options


@pytest.mark.parametrize("fresh", ["bind", "tmpfs"])
@pytest.mark.parametrize(
    ("options", "gone"),
    [(["ro", "rw"], "ro"), (["nosuid", "suid"], "nosuid"), (["nodev", "dev"], "nodev"), (["noexec", "exec"], "noexec"),
     (["noatime", "atime"], "noatime"), (["nodiratime", "diratime"], "nodiratime"), (["strictatime"], "relatime"),],
)  # fmt: skip
def test_the_later_option_wins(container: Container, outside: Path, fresh: str, options: list[str], gone: str) -> None:
    if fresh == "bind":
        container.add_bind(outside, "/mnt", *options)
    else:
        container.add_mount("/mnt", "tmpfs", *options)
    assert gone not in container.mount_at("/mnt").options


@pytest.mark.parametrize("flag", ["sync", "dirsync", "lazytime", "iversion", "mand", "loud", "silent"])
def test_flags_of_the_file_system(container: Container, flag: str) -> None:
    """The kernel keeps them in the superblock, and shows only some: `mand` is gone since Linux 5.15."""
    container.add_mount("/mnt", "tmpfs", flag)
    shown = container.mount_at("/mnt").super_options
    if flag in ("sync", "dirsync", "lazytime"):
        assert flag in shown


@pytest.mark.parametrize("pair", [["sync", "async"], ["iversion", "noiversion"], ["mand", "nomand"]])
def test_flags_of_the_file_system_taken_back(container: Container, pair: list[str]) -> None:
    container.add_mount("/mnt", "tmpfs", *pair)
    assert pair[0] not in container.mount_at("/mnt").super_options


@pytest.mark.runc_since("1.2", "nosymfollow")
def test_nosymfollow(container: Container, outside: Path) -> None:
    (outside / "link").symlink_to("file")
    container.add_bind(outside, "/mnt", "nosymfollow")
    result = container.run_script("cat /mnt/file; cat /mnt/link")
    assert result.stdout == "from the host\n"
    assert "Too many levels" in result.stderr


@pytest.mark.runc_since("1.2", "symfollow")
def test_symfollow_takes_nosymfollow_back(container: Container, outside: Path) -> None:
    (outside / "link").symlink_to("file")
    container.add_bind(outside, "/mnt", "nosymfollow", "symfollow")
    assert container.output("cat /mnt/link") == "from the host"


@pytest.mark.only_pyruntime("`defaults` is an option since runc 1.4; before, it was passed on as data")
@pytest.mark.parametrize("fstype", ["bind", "tmpfs"])
def test_defaults_changes_nothing(container: Container, outside: Path, fstype: str) -> None:
    if fstype == "bind":
        container.add_bind(outside, "/mnt", "nosuid", "defaults")
    else:
        container.add_mount("/mnt", "tmpfs", "nosuid", "defaults")
    assert {"rw", "nosuid"} <= container.mount_at("/mnt").options


def test_ro_means_no_write(container: Container, outside: Path) -> None:
    container.add_bind(outside, "/mnt", "ro")
    assert "Read-only file system" in container.run_script("echo x > /mnt/file").stderr
    assert (outside / "file").read_text() == "from the host\n"


def test_rw_reaches_the_host(container: Container, outside: Path) -> None:
    container.add_bind(outside, "/mnt")
    assert container.output("cat /mnt/file; echo from inside > /mnt/file") == "from the host"
    assert (outside / "file").read_text() == "from inside\n"


def test_noexec_means_no_execution(container: Container, outside: Path) -> None:
    script = outside / "program"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    container.add_bind(outside, "/mnt", "noexec")
    assert "Permission denied" in container.run_script("/mnt/program").stderr


def test_bind_without_its_submounts(container: Container, submount: Path) -> None:
    container.add_bind(submount, "/mnt", "bind")
    assert container.output("ls /mnt/sub") == ""


def test_rbind_with_its_submounts(container: Container, submount: Path) -> None:
    container.add_bind(submount, "/mnt", "rbind")
    assert container.output("cat /mnt/sub/deep") == "below"


def test_ro_of_an_rbind_leaves_the_submounts_writable(container: Container, submount: Path) -> None:
    """A trap that the recursive options exist for: `ro` is about the top mount alone."""
    container.add_bind(submount, "/mnt", "rbind", "ro")
    inside = container.mounts_inside()
    assert "ro" in mountinfo.find(inside, "/mnt").options
    assert "rw" in mountinfo.find(inside, "/mnt/sub").options


RECURSIVE = [
    (["rro"], "ro", True),
    (["rnosuid"], "nosuid", True),
    (["rnodev"], "nodev", True),
    (["rnoexec"], "noexec", True),
    (["rnoatime"], "noatime", True),
    (["rnodiratime"], "nodiratime", True),
    (["rnosymfollow"], "nosymfollow", True),
    (["rrelatime"], "relatime", True),
    (["rstrictatime"], "relatime", False),
    (["ro", "rrw"], "ro", False),
    (["nosuid", "rsuid"], "nosuid", False),
    (["nodev", "rdev"], "nodev", False),
    (["noexec", "rexec"], "noexec", False),
    (["nodiratime", "rdiratime"], "nodiratime", False),
    (["noatime", "ratime"], "noatime", False),
    (["rnorelatime"], "noatime", False),
    (["rnostrictatime"], "relatime", True),
    (["rsymfollow"], "nosymfollow", False),
]


@pytest.mark.runc_since("1.2", "recursive options by mount_setattr(2)")
@pytest.mark.parametrize(("options", "flag", "there"), RECURSIVE, ids=str)
def test_recursive_flags(container: Container, submount: Path, options: list[str], flag: str, there: bool) -> None:
    container.add_bind(submount, "/mnt", "rbind", *options)
    inside = container.mounts_inside()
    assert [flag in mountinfo.find(inside, point).options for point in ("/mnt", "/mnt/sub")] == [there, there]


@pytest.mark.parametrize(
    ("option", "groups"),
    [("private", set()), ("rprivate", set()), ("shared", {"shared"}), ("rshared", {"shared"}), ("slave", {"master"}),
     ("rslave", {"master"}), ("unbindable", {"unbindable"}), ("runbindable", {"unbindable"})],
)  # fmt: skip
def test_propagation_of_a_shared_source(container: Container, submount: Path, option: str, groups: set[str]) -> None:
    container.add_bind(submount, "/mnt", "rbind", option)
    inside = container.mounts_inside()
    # The runtime makes everything a slave first, so that a mount shared again may be both.
    peers = [mountinfo.find(inside, point).peer_groups for point in ("/mnt", "/mnt/sub")]
    assert peers[0] - ({"master"} if "shared" in groups else set()) == groups
    if option.startswith("r"):
        assert peers[1] == peers[0]


@pytest.mark.parametrize(
    ("option", "groups"),
    [("private", set()), ("shared", {"shared"}), ("slave", set()), ("unbindable", {"unbindable"})],
)
def test_propagation_of_a_new_file_system(container: Container, option: str, groups: set[str]) -> None:
    """A slave of nothing is private."""
    container.add_mount("/mnt", "tmpfs", option)
    assert container.mount_at("/mnt").peer_groups == groups


def test_a_later_mount_of_the_host_arrives_by_rslave(container: Container, submount: Path) -> None:
    """What a volume plug-in relies on: HostToContainer propagation."""
    container.add_bind(submount, "/mnt", "rbind", "rslave")
    container.process["args"] = ["sleep", "1000"]
    (submount / "late").mkdir()
    assert container.run_detached().status == 0
    subprocess.run(["mount", "-t", "tmpfs", "late", submount / "late"], check=True)
    inside = Path(f"/proc/{container.pid()}/mountinfo")
    wait_until(lambda: "/mnt/late" in inside.read_text(), "the mount to arrive in the container")


def test_a_mount_of_the_container_reaches_the_host_by_rshared(container: Container, submount: Path) -> None:
    (submount / "late").mkdir()
    container.add_bind(submount, "/mnt", "rbind", "rshared")
    container.config["linux"]["rootfsPropagation"] = "shared"
    container.grant("CAP_SYS_ADMIN")
    assert container.output("mount -t tmpfs late /mnt/late && echo done") == "done"
    assert any(mount.point == str(submount / "late") for mount in host_mounts())


def test_tmpfs_data(container: Container) -> None:
    container.add_mount("/mnt", "tmpfs", "nosuid", "size=1m", "mode=0710", "uid=3", "gid=4", "nr_inodes=100")
    mount = container.mount_at("/mnt")
    assert {"size=1024k", "mode=710", "uid=3", "gid=4", "nr_inodes=100"} <= mount.super_options


@pytest.mark.runc_since("1.2", "before, the mount point's own mode won over the option")
def test_mode_and_owner_of_a_tmpfs(container: Container) -> None:
    container.add_mount("/mnt", "tmpfs", "mode=0710", "uid=3", "gid=4")
    assert container.output("stat -c '%a %u %g' /mnt") == "710 3 4"


def test_tmpfs_source_is_its_name(container: Container) -> None:
    container.add_mount("/mnt", "tmpfs", source="my name")
    assert container.mount_at("/mnt").source == "my name"


def test_unknown_data_is_the_file_systems_to_refuse(container: Container, refused: Refused) -> None:
    container.add_mount("/mnt", "tmpfs", "no_such_option=1")
    refused("config.json#/mounts/7")


def test_tmpcopyup(container: Container) -> None:
    """The tmpfs starts with what the image has below it."""
    container.add_file("var/lib/data", "from the image\n", 0o640)
    (container.rootfs / "var/lib/link").symlink_to("data")
    container.add_mount("/var/lib", "tmpfs", "tmpcopyup")
    assert container.output("cat /var/lib/link; stat -c %a /var/lib/data; echo new > /var/lib/data").split("\n") == [
        "from the image",
        "640",
    ]
    assert container.read("var/lib/data") == "from the image\n"


def test_without_tmpcopyup_a_tmpfs_is_empty(container: Container) -> None:
    container.add_file("var/lib/data", "from the image\n")
    container.add_mount("/var/lib", "tmpfs")
    assert container.output("ls /var/lib") == ""


@pytest.mark.only_pyruntime("runc gives the mode of a copied-up tmpfs, but not all that its files have")
def test_tmpcopyup_keeps_owners_times_and_special_bits(container: Container) -> None:
    path = container.add_file("var/lib/deep/er/data", "x", 0o644)
    os.chown(path, 12, 34)
    path.chmod(0o4711)
    os.utime(path, (1000, 2000))
    container.add_mount("/var/lib", "tmpfs", "tmpcopyup")
    assert container.output("stat -c '%a %u %g %Y' /var/lib/deep/er/data") == "4711 12 34 2000"


def test_a_file_on_a_file(container: Container, outside: Path) -> None:
    container.add_file("etc/hosts", "from the image\n")
    container.add_bind(outside / "file", "/etc/hosts")
    assert container.output("cat /etc/hosts") == "from the host"
    assert container.read("etc/hosts") == "from the image\n"


def test_a_file_on_a_missing_target(container: Container, outside: Path) -> None:
    container.add_bind(outside / "file", "/a/new/file")
    assert container.output("cat /a/new/file") == "from the host"


def test_a_directory_on_a_missing_target(container: Container, outside: Path) -> None:
    container.add_bind(outside, "/a/new/directory")
    assert container.output("cat /a/new/directory/file") == "from the host"


def test_a_file_system_on_a_missing_target(container: Container) -> None:
    container.add_mount("/a/new/place", "tmpfs")
    assert container.mount_at("/a/new/place").fstype == "tmpfs"


def test_a_created_target_is_root_owned_and_closed_to_writers(container: Container) -> None:
    container.add_mount("/a/new/place", "tmpfs")
    assert container.output("stat -c '%a %u' /a /a/new") == "755 0\n755 0"


def test_a_device_and_a_fifo_as_source(container: Container, outside: Path) -> None:
    os.mkfifo(outside / "fifo")
    container.add_bind("/dev/null", "/mnt/null")
    container.add_bind(outside / "fifo", "/mnt/fifo")
    container.add_mount("/mnt", "tmpfs")
    container.mounts.insert(7, container.mounts.pop())
    assert container.output("stat -c %F /mnt/null /mnt/fifo; echo x > /mnt/null") == "character special file\nfifo"


def test_types_of_a_bind_mount(container: Container, outside: Path) -> None:
    """The option makes it a bind mount; the type may say bind, none, or nothing."""
    for kind in ("bind", "none"):
        container.add_mount(f"/mnt/{kind}", kind, "bind", source=str(outside))
    container.add_bind(outside, "/mnt/nothing")
    container.add_mount("/mnt", "tmpfs")
    container.mounts.insert(7, container.mounts.pop())
    assert container.output("cat /mnt/*/file") == "\n".join(["from the host"] * 3)


def test_the_source_of_a_bind_is_relative_to_the_bundle(container: Container) -> None:
    (container.path / "beside").write_text("beside config.json\n")
    container.add_bind("beside", "/mnt/file")
    container.config["root"]["readonly"] = False
    assert container.output("cat /mnt/file") == "beside config.json"


def test_the_order_is_kept(container: Container, outside: Path) -> None:
    container.add_mount("/mnt", "tmpfs")
    container.add_bind(outside, "/mnt/inner")
    container.add_mount("/mnt/inner/sub", "tmpfs")
    points = [mount.point for mount in container.mounts_inside() if mount.point.startswith("/mnt")]
    assert points == ["/mnt", "/mnt/inner", "/mnt/inner/sub"]


def test_a_later_mount_covers_an_earlier_one(container: Container, outside: Path) -> None:
    container.add_bind(outside, "/mnt")
    container.add_mount("/mnt", "tmpfs")
    assert container.output("ls /mnt") == ""


def test_a_target_with_dots_stays_inside(container: Container, outside: Path) -> None:
    container.add_bind(outside, "/mnt/../../../../mnt/./x")
    assert container.output("cat /mnt/x/file") == "from the host"


def test_a_relative_target_is_below_the_root(container: Container, outside: Path) -> None:
    container.add_bind(outside, "relative/target")
    assert container.output("cat /relative/target/file") == "from the host"


@pytest.mark.parametrize("link", ["/real", "real", "/../../real", "../real"])
def test_a_target_through_a_symlink_of_the_image(container: Container, outside: Path, link: str) -> None:
    (container.rootfs / "real").mkdir()
    (container.rootfs / "link").symlink_to(link)
    container.add_bind(outside, "/link")
    assert container.output("cat /real/file") == "from the host"


@pytest.mark.parametrize("links", [{"loop": "loop"}, {"loop": "other", "other": "/loop"}])
def test_a_target_that_is_a_looping_symlink(container: Container, refused: Refused, links: dict[str, str]) -> None:
    for name, target in links.items():
        (container.rootfs / name).symlink_to(target)
    container.add_mount("/loop", "tmpfs")
    refused("config.json#/mounts/7")


def test_a_directory_on_a_file(container: Container, outside: Path, refused: Refused) -> None:
    container.add_file("etc/file", "")
    container.add_bind(outside, "/etc/file")
    refused("config.json#/mounts/7")


def test_a_missing_source(container: Container, scratch: Path, refused: Refused) -> None:
    container.add_bind(scratch / "missing", "/mnt")
    result = refused("config.json#/mounts/7")
    assert "missing" in result.stderr


def test_an_unknown_file_system(container: Container, refused: Refused) -> None:
    container.add_mount("/mnt", "nosuchfs")
    result = refused("config.json#/mounts/7")
    assert "nosuchfs" in result.stderr


@pytest.mark.parametrize("target", ["/proc/sys", "/proc/self/attr", "/proc/1", "/proc/bus/../self"])
def test_mounts_below_proc_are_refused(container: Container, outside: Path, refused: Refused, target: str) -> None:
    """CVE-2019-16884, and the reason for the list below. runc:libcontainer/rootfs_linux.go:/^func checkProcMount/"""
    container.add_bind(outside, target)
    refused("config.json#/mounts/7")


@pytest.mark.parametrize("name", ["cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg"])
def test_files_below_proc_that_lxcfs_replaces(container: Container, outside: Path, name: str) -> None:
    container.add_bind(outside / "file", f"/proc/{name}")
    assert container.output(f"cat /proc/{name}") == "from the host"


def test_proc_over_proc(container: Container) -> None:
    container.add_mount("/proc", "proc", "ro")
    container.linux["maskedPaths"] = container.linux["readonlyPaths"] = []
    assert "ro" in container.mount_at("/proc").options


# On a hybrid host runc mounts every v1 hierarchy below a tmpfs; with v2 the mount is the container's cgroup itself.
TO_THE_CGROUP = "cd $(dirname $(find /sys/fs/cgroup -name cgroup.procs | head -n 1))"


@pytest.mark.only_pyruntime("old versions of runc hide the mount below the root, without a word")
@pytest.mark.parametrize("destination", ["/", "/.", "/link-to-root"])
def test_a_mount_over_the_root_is_refused(container: Container, refused: Refused, destination: str) -> None:
    (container.rootfs / "link-to-root").symlink_to("/")
    container.add_mount(destination, "tmpfs")
    refused("config.json#/mounts/7")


def test_the_cgroup_mount_is_read_only(container: Container) -> None:
    container.grant("CAP_DAC_OVERRIDE")
    assert "Read-only file system" in container.run_script(f"{TO_THE_CGROUP} && mkdir below").stderr


def test_the_cgroup_mount_without_a_cgroup_namespace(container: Container) -> None:
    """Then the host's whole hierarchy is shown, as with runc: to be looked at only."""
    container.drop_namespace("cgroup")
    container.grant("CAP_DAC_OVERRIDE")
    result = container.run_script(f"{TO_THE_CGROUP} && mkdir below; find /sys/fs/cgroup -name {container.id}")
    assert "Read-only file system" in result.stderr


def test_the_cgroup_mount_shows_the_containers_own_cgroup_alone(container: Container) -> None:
    """A process of another PID namespace is listed as 0."""
    listed = container.output("find /sys/fs/cgroup -name cgroup.procs -exec cat {} +").split()
    assert "1" in listed
    assert "0" not in listed


def test_a_writable_cgroup_mount(container: Container) -> None:
    """`rw` delegates the container's cgroup to it, as systemd inside needs."""
    (entry,) = [mount for mount in container.mounts if mount["type"] == "cgroup"]
    entry["options"].remove("ro")
    container.grant("CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE")
    assert container.output(f"{TO_THE_CGROUP} && mkdir below && echo made && rmdir below").endswith("made")


def test_devpts_is_a_new_instance(container: Container) -> None:
    assert container.output("ls /dev/pts") == "ptmx"
    assert container.mount_at("/dev/pts").fstype == "devpts"


def test_the_file_systems_of_the_default_spec(container: Container) -> None:
    inside = container.mounts_inside()
    expected = {
        "/proc": "proc",
        "/dev": "tmpfs",
        "/dev/pts": "devpts",
        "/dev/shm": "tmpfs",
        "/dev/mqueue": "mqueue",
        "/sys": "sysfs",
    }
    assert {point: mountinfo.find(inside, point).fstype for point in expected} == expected
    assert {"nosuid", "noexec", "nodev", "ro"} <= mountinfo.find(inside, "/sys").options
    assert "size=65536k" in mountinfo.find(inside, "/dev/shm").super_options


def test_no_mount_of_the_host_is_visible(container: Container) -> None:
    allowed = ("/proc", "/dev", "/sys")
    for mount in container.mounts_inside():
        assert mount.point == "/" or mount.point.startswith(allowed), mount


def test_remount_of_an_earlier_mount(container: Container) -> None:
    container.add_mount("/mnt", "tmpfs", "size=1m")
    container.add_mount("/mnt", "tmpfs", "remount", "ro")
    assert "Read-only file system" in container.run_script("touch /mnt/x").stderr


@pytest.mark.only_pyruntime("runc passes data along with MS_BIND, which the kernel ignores in silence")
def test_data_on_a_bind_mount(container: Container, outside: Path, refused: Refused) -> None:
    container.add_bind(outside, "/mnt", "size=1m")
    result = refused("config.json#/mounts/7")
    assert "size=1m" in result.stderr


def test_many_mounts(container: Container, outside: Path) -> None:
    for number in range(100):
        container.add_bind(outside, f"/mnt/{number}")
    container.mounts.insert(0, {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"})
    assert container.output("cat /mnt/*/file | wc -l") == "100"


def test_overlay_with_its_directories_as_data(container: Container, scratch: Path) -> None:
    for name in ("lower", "upper", "work"):
        (scratch / name).mkdir()
    (scratch / "lower/file").write_text("below\n")
    data = [f"lowerdir={scratch}/lower", f"upperdir={scratch}/upper", f"workdir={scratch}/work"]
    container.add_mount("/mnt", "overlay", *data)
    assert container.output("cat /mnt/file; echo above > /mnt/file") == "below"
    assert (scratch / "upper/file").read_text() == "above\n"


def test_submounts_of_a_bound_proc_stay_hidden(container: Container, new_container: Callable[[], Container]) -> None:
    """/proc of the container is its PID namespace's own, whatever the host has mounted below its /proc."""
    pids = container.output("ls /proc").split()
    assert str(os.getpid()) not in [name for name in pids if name.isdigit()]
