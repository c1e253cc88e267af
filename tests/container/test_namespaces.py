"""linux.namespaces: each kind new, shared with the caller, and joined by path; hostname, mappings, offsets, sysctl.

Spec: config-linux.md#namespaces. The inode that /proc/self/ns/KIND links to is a namespace's name.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

PROC_NAMES = {"pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}
JOINABLE = ["pid", "network", "ipc", "uts", "cgroup"]


def host_namespace(name: str, pid: int | str = "self") -> str:
    return os.readlink(f"/proc/{pid}/ns/{name}")


@pytest.fixture
def holder(new_container: Callable[[], Container]) -> Container:
    """A container that runs for long, whose namespaces others join: a pod's pause container."""
    container = new_container()
    container.config["hostname"] = "holder"
    container.process["args"] = ["sleep", "1000"]
    assert container.run_detached().status == 0
    return container


@pytest.mark.parametrize("kind", PROC_NAMES)
def test_new(container: Container, kind: str) -> None:
    name = PROC_NAMES[kind]
    inside = container.output(f"readlink /proc/self/ns/{name}")
    assert inside.startswith(f"{name}:[")
    assert inside != host_namespace(name)


@pytest.mark.parametrize("kind", [kind for kind in PROC_NAMES if kind != "mount"])
def test_shared_with_the_caller_when_not_listed(container: Container, kind: str) -> None:
    container.drop_namespace(kind)
    if kind == "uts":
        del container.config["hostname"]
    if kind == "network":  # sysfs can be mounted by the owner of the network namespace only, and root of the host is
        container.config["mounts"] = [
            entry for entry in container.mounts if not entry["destination"].startswith("/sys")
        ]
    if kind == "ipc":
        container.config["mounts"] = [entry for entry in container.mounts if entry["destination"] != "/dev/mqueue"]
    name = PROC_NAMES[kind]
    assert container.output(f"readlink /proc/self/ns/{name}") == host_namespace(name)


@pytest.mark.parametrize("kind", JOINABLE)
def test_joined_by_path(container: Container, holder: Container, kind: str) -> None:
    name = PROC_NAMES[kind]
    container.set_namespace(kind, f"/proc/{holder.pid()}/ns/{name}")
    if kind == "uts":
        del container.config["hostname"]
    assert container.output(f"readlink /proc/self/ns/{name}") == host_namespace(name, holder.pid())


def test_joined_all_at_once_as_in_a_pod(container: Container, holder: Container) -> None:
    pid = holder.pid()
    for kind in ("network", "ipc", "uts", "pid"):
        container.set_namespace(kind, f"/proc/{pid}/ns/{PROC_NAMES[kind]}")
    del container.config["hostname"]
    names = ("net", "ipc", "uts", "pid")
    inside = container.output("".join(f"readlink /proc/self/ns/{name};" for name in names) + "hostname")
    assert inside.split() == [*(host_namespace(name, pid) for name in names), "holder"]


def test_a_joined_pid_namespace_shows_its_processes(container: Container, holder: Container) -> None:
    container.set_namespace("pid", f"/proc/{holder.pid()}/ns/pid")
    assert "sleep\0" in container.output("echo $$; cat /proc/1/cmdline")


def test_the_holder_outlives_who_joined(container: Container, holder: Container) -> None:
    container.set_namespace("pid", f"/proc/{holder.pid()}/ns/pid")
    assert container.run_script("exit 3").status == 3
    assert holder.state()["status"] == "running"


@pytest.fixture
def unshared() -> Iterator[Callable[..., int]]:
    """Start a process in namespaces of its own, as an engine's pinned ones; gives its PID."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> int:
        # `exec sleep` in the shell, so that the PID is that of the process inside.
        process = subprocess.Popen(
            ["unshare", *flags, "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        started.append(process)
        return process.pid

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_joined_mount_namespace(container: Container, unshared: Callable[..., int]) -> None:
    pid = unshared("--mount", "--propagation", "private")
    name = host_namespace("mnt", pid)
    container.set_namespace("mount", f"/proc/{pid}/ns/mnt")
    assert container.output("readlink /proc/self/ns/mnt") == name


def test_a_bind_mounted_network_namespace(container: Container, scratch: Path, unshared: Callable[..., int]) -> None:
    """`ip netns` and CNI pin namespaces by a bind mount; the path is then no link in /proc."""
    pin = scratch / "pin"
    pin.touch()
    source = f"/proc/{unshared('--net')}/ns/net"
    name = os.readlink(source)
    subprocess.run(["mount", "--bind", source, str(pin)], check=True)
    try:
        container.set_namespace("network", str(pin))
        assert container.output("readlink /proc/self/ns/net") == name
    finally:
        subprocess.run(["umount", str(pin)], check=True)


@pytest.mark.needs("userns")
class TestUser:
    """New user namespaces with mappings (config-linux.md#user-namespace-mappings)."""

    @pytest.fixture(autouse=True)
    def mapped(self, container: Container) -> None:
        container.map_root_to(100000)

    def test_the_maps(self, container: Container) -> None:
        container.linux["gidMappings"] = [
            {"containerID": 0, "hostID": 100000, "size": 10},
            {"containerID": 10, "hostID": 200000, "size": 5},
        ]
        uid_map, *gid_map = container.output("cat /proc/self/uid_map /proc/self/gid_map").splitlines()
        assert uid_map.split() == ["0", "100000", "65536"]
        assert [line.split() for line in gid_map] == [["0", "100000", "10"], ["10", "200000", "5"]]

    def test_another_user_namespace_than_the_hosts(self, container: Container) -> None:
        assert container.output("readlink /proc/self/ns/user") != host_namespace("user")

    def test_root_inside_is_nobody_outside(self, container: Container) -> None:
        container.config["root"]["readonly"] = False
        assert container.output("touch /tmp/mine; stat -c %u /tmp/mine; id -u; id -G") == "0\n0\n0"
        status = (container.rootfs / "tmp/mine").stat()
        assert (status.st_uid, status.st_gid) == (100000, 100000)

    def test_the_process_as_the_host_sees_it(self, container: Container) -> None:
        container.process["args"] = ["sleep", "1000"]
        container.process["user"] = {"uid": 7, "gid": 8}
        assert container.run_detached().status == 0
        assert os.stat(f"/proc/{container.pid()}").st_uid == 100007

    def test_another_user_and_groups(self, container: Container) -> None:
        container.process["user"] = {"uid": 5, "gid": 6, "additionalGids": [7, 8]}
        assert container.output("id -u; id -g; id -G") == "5\n6\n6 7 8"

    def test_all_namespaces_belong_to_it(self, container: Container) -> None:
        """Root inside may change its own hostname only if the UTS namespace was made inside the user namespace."""
        container.grant("CAP_SYS_ADMIN", "CAP_NET_ADMIN")
        assert container.output("hostname changed && hostname; ip link set lo down && echo down") == "changed\ndown"

    def test_default_devices_are_bound_from_the_host(self, container: Container) -> None:
        """mknod(2) is not allowed there, so that the host's own nodes are bind-mounted."""
        assert container.output(
            "stat -c '%t:%T %F' /dev/null /dev/tty; echo x > /dev/null; head -c 3 /dev/zero | od -An -tx1"
        ) == ("1:3 character special file\n5:0 character special file\n 00 00 00")

    def test_console_of_a_mapped_root_and_its_mounts(self, container: Container) -> None:
        inside = {mount.point: mount for mount in container.mounts_inside()}
        assert inside["/proc"].fstype == "proc"
        assert inside["/sys"].fstype == "sysfs"
        assert inside["/dev/pts"].fstype == "devpts"

    @pytest.mark.parametrize("joined", [False, True], ids=["new", "joined"])
    def test_a_bind_of_what_only_the_hosts_root_may_reach(
        self, container: Container, new_container: Callable[[], Container], scratch: Path, joined: bool
    ) -> None:
        """As engines keep the files that they give to a container: in a directory which is closed to all others."""
        closed = scratch / "closed"
        (closed / "directory").mkdir(parents=True)
        (closed / "directory/file").write_text("first\n")
        (closed / "file").write_text("second\n")
        closed.chmod(0o700)
        if joined:
            container.process["args"] = ["sleep", "1000"]
            assert container.run_detached().status == 0
            pid, container = container.pid(), new_container()
            container.map_root_to(100000)
            container.set_namespace("user", f"/proc/{pid}/ns/user")
            container.set_namespace("network", f"/proc/{pid}/ns/net")
        container.add_bind(closed / "directory", "/mnt", "ro")
        container.add_bind(closed / "file", "/tmp/file", "ro", "rprivate")
        assert container.output("cat /mnt/file /tmp/file") == "first\nsecond"
        assert container.mount_at("/tmp/file").options >= {"ro"}

    def test_a_bind_of_what_is_not_there(self, container: Container, scratch: Path, refused: Refused) -> None:
        (scratch / "closed").mkdir(mode=0o700)
        container.add_bind(scratch / "closed/missing", "/mnt")
        assert "no such file" in refused("config.json#/mounts/7").stderr.lower()

    @pytest.mark.runc_since("1.2", "a joined user namespace without mappings of its own")
    def test_joined_by_path(self, container: Container, new_container: Callable[[], Container]) -> None:
        container.process["args"] = ["sleep", "1000"]
        assert container.run_detached().status == 0
        pid = container.pid()
        second = new_container()
        second.map_root_to(100000)
        second.set_namespace("user", f"/proc/{pid}/ns/user")
        del second.linux["uidMappings"], second.linux["gidMappings"]
        second.set_namespace("network", f"/proc/{pid}/ns/net")
        names = second.output("readlink /proc/self/ns/user; readlink /proc/self/ns/net; cat /proc/self/uid_map")
        user, network, uid_map = names.splitlines()
        assert (user, network) == (host_namespace("user", pid), host_namespace("net", pid))
        assert uid_map.split() == ["0", "100000", "65536"]

    def test_a_user_that_is_not_mapped(self, container: Container, refused: Refused) -> None:
        container.process["user"] = {"uid": 70000, "gid": 0}
        refused("config.json#/process/user")


@pytest.mark.needs("timens")
@pytest.mark.runc_since("1.2", "time namespaces")
class TestTime:
    """Time namespaces and their offsets (config-linux.md#timeOffsets)."""

    def test_new(self, container: Container) -> None:
        container.set_namespace("time")
        assert container.output("readlink /proc/self/ns/time") != host_namespace("time")

    def test_offsets(self, container: Container) -> None:
        container.set_namespace("time")
        container.linux["timeOffsets"] = {
            "monotonic": {"secs": 172800, "nanosecs": 5},
            "boottime": {"secs": 604800},
        }
        lines = container.output("cat /proc/self/timens_offsets; cat /proc/uptime").splitlines()
        assert lines[0].split() == ["monotonic", "172800", "5"]
        assert lines[1].split() == ["boottime", "604800", "0"]
        assert float(lines[2].split()[0]) > 604800

    def test_negative_offset(self, container: Container) -> None:
        container.set_namespace("time")
        container.linux["timeOffsets"] = {"boottime": {"secs": -1}}
        assert container.output("cat /proc/self/timens_offsets").split()[3:] == ["boottime", "-1", "0"]

    def test_joined_by_path(self, container: Container, new_container: Callable[[], Container]) -> None:
        container.set_namespace("time")
        container.process["args"] = ["sleep", "1000"]
        assert container.run_detached().status == 0
        second = new_container()
        second.set_namespace("time", f"/proc/{container.pid()}/ns/time")
        assert second.output("readlink /proc/self/ns/time") == host_namespace("time", container.pid())


def test_the_program_is_init_of_its_pid_namespace(container: Container) -> None:
    assert container.output("echo $$; echo /proc/[0-9]*").split() == ["1", "/proc/1"]


def test_hostname(container: Container) -> None:
    container.config["hostname"] = "web-1.example"
    assert container.output("hostname; cat /proc/sys/kernel/hostname") == "web-1.example\nweb-1.example"


@pytest.mark.runc_since("1.2", "domainname")
def test_domainname(container: Container) -> None:
    container.config["domainname"] = "example.org"
    assert container.output("cat /proc/sys/kernel/domainname") == "example.org"


def test_hostname_of_the_host_is_left_alone(container: Container) -> None:
    before = os.uname().nodename
    container.config["hostname"] = "other"
    assert container.run().status == 0
    assert os.uname().nodename == before


def test_loopback_is_up_in_a_new_network_namespace(container: Container) -> None:
    links = container.output("ip -o addr show; ip -o link show lo")
    assert "inet 127.0.0.1/8" in links
    assert "LOOPBACK,UP" in links
    assert container.output("ls /sys/class/net") in ("lo", "lo\n", "lo\nsit0")


def test_loopback_carries_a_packet(container: Container) -> None:
    # The listener's stdin stays open: at its end it would close the connection before the packet is there.
    listen = "sleep 9 | nc -l -p 9 > /tmp/got & "
    script = listen + "until echo ping | nc 127.0.0.1 9 && grep ping /tmp/got; do usleep 10000; done"
    container.config["root"]["readonly"] = False
    assert container.output(script).splitlines()[-1] == "ping"


@pytest.mark.parametrize(
    ("name", "value"),
    [("net.ipv4.ip_unprivileged_port_start", "80"), ("net/ipv4/ping_group_range", "5\t9"),
     ("kernel.shm_rmid_forced", "1"),
     ("kernel.msgmax", "16384"), ("fs.mqueue.msg_max", "12")],
)  # fmt: skip
def test_sysctl(container: Container, name: str, value: str) -> None:
    container.linux["sysctl"] = {name: value.replace("\t", " ")}
    assert container.output(f"cat /proc/sys/{name.replace('.', '/')}") == value


@pytest.mark.parametrize(
    ("name", "dropped"),
    [("vm.overcommit_memory", ""), ("kernel.panic", ""), ("kernel.hostname", ""), ("net.ipv4.ip_forward", "network"),
     ("kernel.shmmax", "ipc"), ("../../self/oom_score_adj", ""), ("net.../../kernel.panic", ""), ("", "")],
)  # fmt: skip
def test_sysctl_that_is_not_the_namespaces_own(container: Container, refused: Refused, name: str, dropped: str) -> None:
    container.drop_namespace(dropped)
    container.linux["sysctl"] = {name: "1"}
    refused("config.json#/linux/sysctl")


@pytest.mark.parametrize("kind", ["network", "mount", "pid", "ipc", "uts", "cgroup"])
@pytest.mark.parametrize("path", ["/no/such/namespace", "/proc/self/status", "/proc"])
def test_joining_what_is_no_namespace(container: Container, refused: Refused, kind: str, path: str) -> None:
    container.set_namespace(kind, path)
    container.config.pop("hostname")
    refused("config.json#/linux/namespaces/5")


def test_joining_a_namespace_of_another_kind(
    container: Container, unshared: Callable[..., int], refused: Refused
) -> None:
    container.set_namespace("network", f"/proc/{unshared('--uts')}/ns/uts")
    refused("config.json#/linux/namespaces/5")


def test_a_cgroup_namespace_shows_a_root(container: Container) -> None:
    paths = {line.rpartition(":")[2] for line in container.output("cat /proc/self/cgroup").splitlines()}
    assert paths == {"/"}


def test_ipc_objects_stay_inside(container: Container) -> None:
    """The System V tables of a new IPC namespace are empty: only the heading."""
    assert len(container.output("cat /proc/sysvipc/shm").splitlines()) == 1


def test_the_container_ends_when_its_init_ends(container: Container, leftovers: Leftovers) -> None:
    assert container.run_script("sleep 1000 & exit 0").status == 0
    wait_until(lambda: leftovers.processes() == [], "the orphan to die with its PID namespace")
