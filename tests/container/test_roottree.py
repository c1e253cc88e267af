"""A container without a mount namespace: it is in its caller's, with a root of its own, of which nothing is seen there.

runc makes the mounts in the caller's mount namespace, the machine's own if nobody takes care: it is never run here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.leftovers import Leftovers

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2"),
    pytest.mark.only_pyruntime("runc changes how the host's mounts propagate, and leaves the container's on the host"),
]


@pytest.fixture
def shared(container: Container) -> Container:
    container.drop_namespace("mount")
    return container


def mount_table() -> str:
    return Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def running(shared: Container) -> Container:
    shared.process["args"] = ["sleep", "1000"]
    assert shared.run_detached().status == 0
    return shared


def test_it_is_in_the_callers_mount_namespace(running: Container) -> None:
    assert os.readlink(f"/proc/{running.pid()}/ns/mnt") == os.readlink("/proc/self/ns/mnt")


def test_its_root_is_the_image_with_the_mounts_of_config_json(shared: Container) -> None:
    shared.add_mount("/mnt", "tmpfs", "size=1m")
    script = (
        "ls /; ls /proc/self > /dev/null && touch /mnt/x && echo > /dev/null && readlink /proc/self/exe; echo x > /y"
    )
    result = shared.run_script(script)
    assert result.stdout.split() == [*sorted(os.listdir(shared.rootfs)), "/bin/busybox"]
    assert "Read-only file system" in result.stderr, "root.readonly"


def test_a_working_directory_on_a_mount_below(shared: Container) -> None:
    """It is verified by getcwd(2), which knows what can be reached from the root."""
    shared.add_mount("/mnt", "tmpfs", "size=1m")
    shared.process["cwd"] = "/mnt/made"
    assert shared.output("readlink /proc/self/cwd") == "/mnt/made"


def test_what_is_masked_is_masked(shared: Container) -> None:
    assert shared.output("cat /proc/keys | wc -c; (echo 1 > /proc/sys/vm/drop_caches) 2> /dev/null || echo closed") == (
        "0\nclosed"
    )


def test_the_host_sees_none_of_it(shared: Container) -> None:
    """Neither while it runs nor after: not a mount more, and each propagates as before."""
    before = mount_table()
    shared.process["args"] = ["sleep", "1000"]
    assert shared.create().status == 0
    assert mount_table() == before
    assert shared.start().status == 0
    assert mount_table() == before
    assert os.listdir(shared.rootfs / "proc") == []
    assert shared.delete("--force").status == 0
    assert mount_table() == before


def test_nothing_is_left_of_one_that_was_killed_from_outside(running: Container, leftovers: Leftovers) -> None:
    before = mount_table()
    os.kill(running.pid(), signal.SIGKILL)
    running.wait_for("stopped")
    assert running.delete().status == 0
    assert mount_table() == before
    assert leftovers.found() == []


def test_a_runtime_that_is_killed_while_it_creates(shared: Container, leftovers: Leftovers) -> None:
    shared.process["args"] = ["sleep", "1000"]
    shared.write()
    before = mount_table()
    for step in range(8):
        process = shared.runtime.spawn(
            "create", "-b", str(shared.path), shared.id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda step=step: (shared.runtime.root / shared.id).exists() or step == 0, "the beginning")
        process.kill()
        process.wait()
        assert shared.delete("--force").status == 0
    assert mount_table() == before
    assert leftovers.found() == []


def refused(container: Container, leftovers: Leftovers, told: str) -> None:
    """As the fixture of this name; a warning comes before, too."""
    result = container.run()
    assert result.status == 1
    assert told in result.lines()[-1]
    assert leftovers.found() == []


def test_a_failing_start_leaves_nothing(shared: Container, leftovers: Leftovers) -> None:
    before = mount_table()
    shared.process["args"] = ["/no/such/program"]
    refused(shared, leftovers, "/no/such/program")
    assert mount_table() == before


def test_the_warning_says_what_it_means(shared: Container) -> None:
    result = shared.run()
    assert result.status == 0
    assert "no mount namespace" in result.stderr and "CAP_SYS_ADMIN" in result.stderr


CLIMB = """
import os, sys
os.chdir(sys.argv[1])
os.chroot(".")
os.chroot("tmp")  # the working directory is above the root now
for _ in range(64):
    os.chdir("..")
os.chroot(".")
print(*sorted(os.listdir("/")))
"""


def test_chroot_does_not_lead_out(running: Container) -> None:
    """What everybody with CAP_SYS_CHROOT knows how to leave a chroot by: but the tree has no parent to climb to."""
    command = [sys.executable, "-I", "-c", CLIMB, f"/proc/{running.pid()}/root"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(os.listdir(running.rootfs))


def test_without_cap_sys_admin_there_is_no_other_way(shared: Container) -> None:
    """To enter the mount namespace that one is in would bring its root."""
    assert shared.output("unshare -m true 2>/dev/null || nsenter -t 1 -m ls / 2>/dev/null || echo kept") == "kept"


def test_exec_finds_the_same_root(running: Container) -> None:
    result = running.runtime("exec", running.id, "/bin/busybox", "ls", "/")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.split() == sorted(os.listdir(running.rootfs))
    seen = running.runtime("exec", running.id, "/bin/busybox", "cat", "/proc/1/cmdline").stdout
    assert seen == "sleep\0001000\0"


def test_without_any_namespace(container: Container) -> None:
    container.linux["namespaces"] = []
    del container.config["hostname"]
    container.mounts[:] = [each for each in container.mounts if each["destination"] not in ("/dev/mqueue", "/sys")]
    container.process["args"] = ["sleep", "1000"]
    assert container.run_detached().status == 0
    pid = container.pid()
    for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
    result = container.runtime("exec", container.id, "/bin/busybox", "ls", "/")
    assert (result.status, result.stdout.split()) == (0, sorted(os.listdir(container.rootfs)))


def test_a_terminal_and_hooks(shared: Container, tmp_path: Path) -> None:
    """A createContainer hook is run where the mounts are: it sees them below the root filesystem."""
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\nls {shared.rootfs}/proc/self > {tmp_path}/seen\n")
    hook.chmod(0o755)
    shared.config["hooks"] = {"createContainer": [{"path": str(hook)}]}
    assert shared.run().status == 0
    assert "status" in (tmp_path / "seen").read_text().split()


@pytest.mark.needs("userns")
def test_not_with_a_user_namespace(shared: Container, leftovers: Leftovers) -> None:
    shared.map_root_to(100000)
    shared.drop_namespace("mount")
    index = len(shared.linux["namespaces"]) - 1
    refused(
        shared,
        leftovers,
        f"config.json#/linux/namespaces/{index}: with a user namespace the container needs a mount namespace",
    )


@pytest.mark.parametrize("kind", ["shared", "rshared", "unbindable"])
def test_not_with_a_root_that_others_shall_see(shared: Container, leftovers: Leftovers, kind: str) -> None:
    shared.linux["rootfsPropagation"] = kind
    refused(shared, leftovers, "config.json#/linux/rootfsPropagation: needs a mount namespace")


def test_not_with_a_mount_that_cannot_be_copied(shared: Container, leftovers: Leftovers) -> None:
    shared.add_mount("/mnt", "tmpfs", "unbindable")
    refused(shared, leftovers, "config.json#/mounts/7/options: an unbindable mount needs a mount namespace")


def test_a_path_to_the_callers_own_is_refused(container: Container, leftovers: Leftovers) -> None:
    """pivot_root(2) in it would move the root of all who are in it: of the host. runc does so.

    The runtime is in a mount namespace of the test's own, in case it is not refused.
    """
    container.set_namespace("mount", "/proc/self/ns/mnt")
    container.write()
    command = ["unshare", "--mount", container.runtime.command, "--root", str(container.runtime.root)]
    done = subprocess.run(
        [*command, "run", "-b", str(container.path), container.id], capture_output=True, text=True, check=False
    )
    index = len(container.linux["namespaces"]) - 1
    assert done.returncode == 1
    assert f"config.json#/linux/namespaces/{index}/path: this is the mount namespace of the host's" in done.stderr
