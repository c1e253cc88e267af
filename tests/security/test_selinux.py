"""`process.selinuxLabel` and `linux.mountLabel`, where SELinux enforces a policy. See plan/selinux.py.

The names are those of Fedora's container-selinux, which scripts/lib/guest-selinux.conf has for the test VM as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.runtime import identify
from tests.support.terminal import Terminal, finish, on_terminal

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2", "selinux")

LABEL = "system_u:system_r:container_t:s0:c1,c2"
OTHER_LABEL = "system_u:system_r:container_t:s0:c3"
FILE_LABEL = "system_u:object_r:container_file_t:s0:c1,c2"
OTHER_FILE_LABEL = "system_u:object_r:container_file_t:s0:c3"
UNKNOWN = "system_u:system_r:no_such_type_t:s0"
SHOW = "tr '\\0' '\\n' < /proc/self/attr/current"


def label_of(path: Path | str) -> str:
    return os.getxattr(path, "security.selinux").rstrip(b"\0").decode()


def label_of_process(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")


@pytest.fixture
def container(container: Container) -> Container:
    """One whose image a confined program may use."""
    for directory, directories, files in os.walk(container.rootfs):
        for name in (".", *directories, *files):
            os.setxattr(os.path.join(directory, name), "security.selinux", FILE_LABEL.encode(), follow_symlinks=False)
    return container


@pytest.fixture
def labelled(container: Container) -> Container:
    """A container whose program and mounts have labels."""
    container.process["selinuxLabel"] = LABEL
    container.linux["mountLabel"] = FILE_LABEL
    return container


class TestProcess:
    @pytest.mark.parametrize("forbidden", [True, False])
    def test_the_program_has_it(self, labelled: Container, forbidden: bool) -> None:
        labelled.process["noNewPrivileges"] = forbidden
        assert labelled.output(SHOW) == LABEL

    def test_without_one_it_has_the_runtimes(self, container: Container) -> None:
        container.process["selinuxLabel"] = ""
        assert container.output(SHOW) == label_of_process(os.getpid())

    def test_a_plain_user_has_it(self, labelled: Container) -> None:
        labelled.process["user"] = {"uid": 7, "gid": 7}
        assert labelled.output(SHOW) == LABEL

    @pytest.mark.needs("userns")
    def test_in_a_user_namespace(self, labelled: Container) -> None:
        labelled.map_root_to(100000)
        assert labelled.output(SHOW) == LABEL

    @pytest.mark.needs("libseccomp")
    @pytest.mark.parametrize("forbidden", [True, False])
    def test_beside_a_seccomp_filter(self, labelled: Container, forbidden: bool) -> None:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
        labelled.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
        labelled.process["noNewPrivileges"] = forbidden
        assert labelled.output(f"{SHOW}; grep Seccomp: /proc/self/status") == f"{LABEL}\nSeccomp:\t2"

    def test_after_create_and_start(self, labelled: Container) -> None:
        labelled.process["args"] = ["sleep", "1000"]
        assert labelled.create().status == 0
        pid = labelled.pid()
        assert label_of_process(pid) == label_of_process(os.getpid()), "what waits is not the program yet"
        assert labelled.start().status == 0
        wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\0", "the program")
        assert label_of_process(pid) == LABEL

    def test_no_descriptor_is_left(self, labelled: Container) -> None:
        labelled.script("for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do test -L /proc/$$/fd/$fd && echo $fd; done")
        assert labelled.run().stdout == "0\n1\n2\n"


@pytest.mark.needs("keyrings", "gcc")
class TestSessionKeyring:
    """It belongs to the container's user namespace, so that only a program inside may look at it."""

    @pytest.fixture
    def container(self, container: Container, program: Callable[[str], Path]) -> Container:
        container.add_program("bin/keyring", program("keyring"))
        os.setxattr(container.rootfs / "bin/keyring", "security.selinux", FILE_LABEL.encode())
        return container

    @pytest.mark.parametrize("mapped", [pytest.param(True, marks=pytest.mark.needs("userns")), False])
    def test_it_has_the_programs(self, labelled: Container, mapped: bool) -> None:
        if mapped:
            labelled.map_root_to(100000)
        assert labelled.output("keyring") == f"keyring {LABEL}"

    @pytest.mark.parametrize("mapped", [pytest.param(True, marks=pytest.mark.needs("userns")), False])
    def test_an_exec_finds_the_containers(self, labelled: Container, mapped: bool) -> None:
        if mapped:
            labelled.map_root_to(100000)
        labelled.run_sleeping()
        assert labelled.exec_output("keyring") == f"keyring {LABEL}"

    def test_an_exec_with_another_label_finds_it_as_well(self, labelled: Container) -> None:
        labelled.run_sleeping()
        assert labelled.exec_output("keyring", "--process-label", OTHER_LABEL) == f"keyring {LABEL}"

    def test_without_a_label(self, container: Container) -> None:
        assert container.output("keyring") == f"keyring {label_of_process(os.getpid())}"


class TestExec:
    @pytest.mark.parametrize("terminal", [True, False])
    def test_it_has_the_containers(self, labelled: Container, terminal: bool) -> None:
        labelled.run_sleeping()
        if not terminal:
            assert labelled.exec_output(SHOW) == LABEL
            return
        with Terminal.open() as screen:
            process = labelled.runtime.spawn("exec", "-t", labelled.id, "sh", "-c", SHOW, **on_terminal(screen))
            screen.read_until(f"{LABEL}\r\n")
            assert finish(process) == 0

    def test_by_its_option(self, container: Container) -> None:
        container.run_sleeping()
        assert container.exec_output(SHOW, "--process-label", LABEL) == LABEL

    def test_in_place_of_the_containers(self, labelled: Container) -> None:
        labelled.run_sleeping()
        assert labelled.exec_output(SHOW, "--process-label", OTHER_LABEL) == OTHER_LABEL

    @pytest.mark.parametrize("own", ["", OTHER_LABEL])
    def test_by_a_file(self, labelled: Container, own: str, tmp_path: Path) -> None:
        labelled.run_sleeping()
        process: dict[str, Any] = {"args": ["sh", "-c", SHOW], "cwd": "/", "env": ["PATH=/bin"], "selinuxLabel": own}
        path = tmp_path / "process.json"
        path.write_text(json.dumps(process))
        assert labelled.exec(flags=["--process", str(path)]).stdout == f"{own or LABEL}\n"

    def test_where_only_the_mounts_have_one(self, container: Container) -> None:
        container.linux["mountLabel"] = FILE_LABEL
        container.run_sleeping()
        assert container.exec_output(SHOW) == label_of_process(os.getpid())

    def test_one_that_the_policy_does_not_know(self, container: Container) -> None:
        container.run_sleeping()
        result = container.exec("true", flags=["--process-label", UNKNOWN])
        assert result.status == 255
        if identify().name == "pyruntime":
            assert f"{container.id}: --process-label: write(" in result.stderr
            assert "the policy that is loaded knows no such context" in result.stderr


class TestMounts:
    def test_which_have_it(self, labelled: Container) -> None:
        labelled.add_mount("/run/copied", "tmpfs", "tmpcopyup")
        labelled.add_file("run/copied/file")
        labelled.linux["maskedPaths"] = ["/proc/acpi", "/hidden", "/hidden2"]
        for name in ("hidden", "hidden2"):
            (labelled.rootfs / name).mkdir()
        labelled.run_sleeping()
        root = f"/proc/{labelled.pid()}/root"
        places = "dev dev/null dev/shm dev/pts dev/pts/ptmx dev/mqueue run/copied run/copied/file hidden hidden2"
        found = {name: label_of(f"{root}/{name}") for name in places.split()}
        assert found == dict.fromkeys(places.split(), FILE_LABEL)
        for name in ("proc", "sys"):
            assert label_of(f"{root}/{name}") == label_of(f"/{name}")

    def test_the_program_may_use_them(self, labelled: Container) -> None:
        assert labelled.output("echo fine > /dev/shm/x; cat /dev/shm/x") == "fine"

    @pytest.mark.needs("userns")
    def test_in_a_user_namespace(self, labelled: Container) -> None:
        """A limit of the IPC namespace tells that it is one from the first to the last step."""
        labelled.map_root_to(100000)
        labelled.linux["sysctl"] = {"kernel.msgmax": "4321"}
        labelled.run_sleeping()
        root = f"/proc/{labelled.pid()}/root"
        found = {name: label_of(f"{root}/dev/{name}") for name in ("shm", "pts", "mqueue")}
        assert found == dict.fromkeys(found, FILE_LABEL)
        assert labelled.exec_output("cat /proc/sys/kernel/msgmax") == "4321"

    def test_a_mount_that_is_changed_keeps_it(self, labelled: Container) -> None:
        labelled.add_mount("/dev/shm", "tmpfs", "remount", "size=1m")
        labelled.run_sleeping()
        assert label_of(f"/proc/{labelled.pid()}/root/dev/shm") == FILE_LABEL

    @pytest.mark.only_pyruntime("runc gives both to the kernel, which refuses them")
    def test_a_mounts_own_comes_first(self, labelled: Container) -> None:
        labelled.add_mount("/own", "tmpfs", f'context="{OTHER_FILE_LABEL}"')
        labelled.run_sleeping()
        root = f"/proc/{labelled.pid()}/root"
        assert [label_of(f"{root}/{name}") for name in ("own", "dev/shm")] == [OTHER_FILE_LABEL, FILE_LABEL]

    def test_without_one_they_have_the_hosts(self, container: Container) -> None:
        container.run_sleeping()
        assert label_of(f"/proc/{container.pid()}/root/dev/shm") != FILE_LABEL


class TestRefused:
    def test_a_label_that_the_policy_does_not_know(self, container: Container, refused: Refused) -> None:
        container.process["selinuxLabel"] = UNKNOWN
        told = refused("config.json#/process/selinuxLabel: write('/proc/self/attr/keycreate'").stderr
        if identify().name == "pyruntime":
            assert "EINVAL" in told
            assert "the policy that is loaded knows no such context" in told

    def test_the_same_without_a_keyring(self, container: Container, refused: Refused) -> None:
        container.process["selinuxLabel"] = UNKNOWN
        refused("config.json#/process/selinuxLabel: write('/proc/self/attr/exec'", "--no-new-keyring")

    @pytest.mark.only_pyruntime("runc executes it with the program's label")
    def test_beside_a_hook_of_the_image(self, labelled: Container, refused: Refused) -> None:
        labelled.config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
        refused("config.json#/hooks/startContainer/0: ")

    def test_by_create(self, container: Container) -> None:
        container.process["selinuxLabel"] = UNKNOWN
        assert container.create().status != 0
        assert not (container.runtime.root / container.id).exists()

    def test_a_mount_label_that_the_policy_does_not_know(self, container: Container, refused: Refused) -> None:
        container.linux["mountLabel"] = UNKNOWN
        told = refused("config.json#/mounts/1: mount(").stderr
        if identify().name == "pyruntime":
            assert "a SELinux context that the policy does not know" in told

    def test_the_same_of_a_message_queue(self, container: Container, refused: Refused) -> None:
        container.config["mounts"] = [each for each in container.mounts if each["type"] == "mqueue"]
        container.mounts[0]["destination"] = "/queues"
        container.linux.update(mountLabel=UNKNOWN, maskedPaths=[])
        told = refused("config.json#/linux/mountLabel: setxattr('/queues'").stderr
        if identify().name == "pyruntime":
            assert "the policy that is loaded knows no such context" in told

    @pytest.mark.needs("vm")
    def test_a_change_that_the_policy_does_not_allow(self, container: Container, refused: Refused) -> None:
        container.process["selinuxLabel"] = LABEL.replace("container_t", "forbidden_t")
        container.process["noNewPrivileges"] = False
        told = refused("config.json#/process/args/0: execve('true'): EACCES").stderr
        if identify().name == "pyruntime":
            assert "SELinux does not allow the change" in told

    @pytest.mark.needs("vm")
    def test_one_that_noNewPrivileges_forbids(self, container: Container, refused: Refused) -> None:  # noqa: N802
        container.process["selinuxLabel"] = LABEL.replace("container_t", "reluctant_t")
        container.process["noNewPrivileges"] = True
        told = refused("config.json#/process/args/0: execve('true'): EPERM").stderr
        if identify().name == "pyruntime":
            assert "nnp_transition" in told
        container.process["noNewPrivileges"] = False
        assert container.output(SHOW) == container.process["selinuxLabel"]
