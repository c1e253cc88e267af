"""Groups, capabilities, cgroups and descriptors that must not slip into the container."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers
from tests.support.runtime import Result, identify

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


# By opening, not by `test -w`, which believes that root may do anything.
OPEN_FOR_WRITING = "find /sys/fs/cgroup -name cgroup.procs | while read f; do (: >> $f) && echo VULNERABLE $f; done"


class TestRootless:
    """A caller without any right, in a user namespace of its own (`runc spec --rootless`)."""

    @pytest.fixture
    def rootless(self, container: Container, scratch: Path) -> Callable[[str], Result]:
        """Run a script as nobody, with what `spec --rootless` changes."""
        uid = 65534
        container.map_root_to(uid, size=1)
        container.drop_namespace("network")
        container.drop_namespace("cgroup")
        container.config["mounts"] = [m for m in container.mounts if not m["destination"].startswith("/sys")]
        container.add_mount("/sys", "none", "rbind", "nosuid", "noexec", "nodev", "ro", source="/sys")
        pts = next(m for m in container.mounts if m["type"] == "devpts")
        pts["options"].remove("gid=5")
        del container.linux["resources"]
        container.process["rlimits"] = []
        container.runtime.root.mkdir()
        for path in (container.runtime.root, container.path):
            os.chown(path, uid, uid)

        def run(script: str) -> Result:
            container.script(script)
            return container.run(user=uid, group=uid, extra_groups=[])

        return run

    def test_setgroups_is_denied(self, rootless: Callable[[str], Result]) -> None:
        """CVE-2014-8989: dropping a group would give access that the group was denied."""
        result = rootless("cat /proc/self/setgroups")
        if identify().name == "runc":
            assert (result.status, result.stdout) == (0, "deny\n"), result
        # A runtime that doesn't serve rootless callers says so; one that does, denies.
        assert result.stdout == "deny\n" if result.status == 0 else "VULNERABLE" not in result.stderr, result

    def test_the_hosts_cgroups_are_not_writable(self, rootless: Callable[[str], Result], leftovers: Leftovers) -> None:
        """CVE-2023-25809: /sys is the host's there, and with it /sys/fs/cgroup."""
        result = rootless(OPEN_FOR_WRITING)
        assert "VULNERABLE" not in result.stdout, result
        assert leftovers.found() == []


@pytest.mark.needs("userns")
def test_cgroups_of_a_mapped_root_are_not_writable(container: Container) -> None:
    """CVE-2023-25809 with a root caller: without a cgroup namespace the host's hierarchy is what is mounted."""
    container.map_root_to(100000)
    container.drop_namespace("cgroup")
    result = container.run_script(OPEN_FOR_WRITING)
    assert result.stderr, "the control: there are files, and they were tried"
    assert "VULNERABLE" not in result.stdout


@pytest.mark.needs("userns")
def test_setgroups_of_a_mapped_root(container: Container) -> None:
    """A caller with CAP_SETGID may leave it allowed: the program then really has the groups of the config alone."""
    container.map_root_to(100000)
    container.process["user"] = {"uid": 0, "gid": 0, "additionalGids": [5]}
    assert container.output("id -G") == "0 5"


def test_inheritable_capabilities_are_empty_unless_asked_for(container: Container) -> None:
    """CVE-2022-29162, CVE-2022-27650, CVE-2025-27612: a file's inheritable set would grant them to any user."""
    for name in ("bounding", "permitted", "effective"):
        container.process["capabilities"][name] = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_SETUID"]
    fields = container.status_fields()
    assert fields["CapInh"] == fields["CapAmb"] == "0" * 16


def test_capabilities_of_a_plain_user(container: Container) -> None:
    container.process["user"] = {"uid": 1000, "gid": 1000}
    fields = container.status_fields()
    assert (fields["CapInh"], fields["CapPrm"], fields["CapEff"], fields["CapAmb"]) == ("0" * 16,) * 4


KEEPS_SOME = pytest.mark.only_pyruntime("runc's waiting init has descriptors of its own procfs, closed on exec")


@pytest.mark.parametrize("when", [pytest.param("created", marks=KEEPS_SOME), "running"])
def test_descriptors_as_the_host_sees_them(container: Container, when: str) -> None:
    """CVE-2016-9962, CVE-2024-21626: no directory, regular file or device of the host's is open in the container."""
    container.process["args"] = ["sleep", "1000"]
    assert (container.create() if when == "created" else container.run_detached()).status == 0
    folder = Path(f"/proc/{container.pid()}/fd")
    for entry in folder.iterdir():
        status = entry.stat()
        target = os.readlink(entry)
        assert not stat.S_ISDIR(status.st_mode), target
        assert not stat.S_ISBLK(status.st_mode), target
        if stat.S_ISREG(status.st_mode):
            assert target.startswith(("/memfd:", "anon_inode:", str(container.runtime.root.parent / "stderr"))), target


def test_a_neighbour_of_the_same_user_learns_nothing(
    container: Container, new_container: Callable[[], Container]
) -> None:
    """In a shared PID namespace the init that waits for `start` is visible.

    Its environment, maps and descriptors are not the neighbour's business as long as they are the runtime's.
    """
    for one in (container, second := new_container()):
        one.process["user"] = {"uid": 7, "gid": 7}
    container.process["args"] = ["sleep", "1000"]
    assert container.run_detached().status == 0
    second.set_namespace("pid", f"/proc/{container.pid()}/ns/pid")
    second.runtime.environment["CALLERS_SECRET"] = "hunter2"
    assert second.create().status == 0
    third = new_container()
    third.process["user"] = {"uid": 7, "gid": 7}
    third.set_namespace("pid", f"/proc/{container.pid()}/ns/pid")
    script = "for p in /proc/[0-9]*; do cat $p/environ $p/maps; ls -l $p/fd $p/cwd $p/root $p/exe; done 2>/dev/null"
    text = third.run_script(script).stdout
    assert "sleep" in text or "busybox" in text, "the control: the neighbour's own processes are visible"
    assert "hunter2" not in text
    assert str(container.runtime.root) not in text


def test_no_abstract_socket(container: Container) -> None:
    """A name in the abstract namespace belongs to whoever shares the network namespace."""
    container.process["args"] = ["sleep", "1000"]
    container.drop_namespace("network")
    container.config["mounts"] = [m for m in container.mounts if not m["destination"].startswith("/sys")]
    assert container.create().status == 0
    names = [line.split()[7] for line in Path("/proc/net/unix").read_text().splitlines()[1:] if len(line.split()) > 7]
    assert not [name for name in names if name.startswith("@") and (container.id in name or "pyruntime" in name)]


class TestAbsurdSizes:
    """CVE-2021-43784: a length that overflows the message between the parent and the child. Also: no hang."""

    def test_a_long_namespace_path(self, container: Container, refused: Refused) -> None:
        container.set_namespace("network", "/proc/" + "x" * 70000)
        refused("config.json#/linux/namespaces/5")

    @pytest.mark.needs("userns")
    def test_many_mappings(self, container: Container, refused: Refused) -> None:
        """The kernel takes 340 lines."""
        container.map_root_to(100000)
        container.linux["uidMappings"] = [{"containerID": n, "hostID": 100000 + n, "size": 1} for n in range(5000)]
        refused("config.json#/linux/uidMappings")

    def test_a_megabyte_of_environment(self, container: Container) -> None:
        container.process["env"] += [f"V{number}={'x' * 10000}" for number in range(100)]
        assert container.output("env | wc -c").strip().isdigit()

    def test_a_megabyte_of_annotations(self, container: Container) -> None:
        container.config["annotations"] = {f"key{number}": "x" * 1000 for number in range(1000)}
        container.process["args"] = ["sleep", "1000"]
        assert container.create().status == 0
        assert container.state()["annotations"] == container.config["annotations"]

    @pytest.mark.only_pyruntime("runc lets the kernel cut it off")
    def test_a_long_mount_option(self, container: Container, refused: Refused) -> None:
        """mount(2) takes a page of data."""
        container.add_mount("/mnt", "tmpfs", "size=" + "1" * 70000)
        refused("config.json#/mounts/7")

    def test_a_long_target(self, container: Container, refused: Refused) -> None:
        container.add_mount("/mnt/" + "x" * 300, "tmpfs")
        refused("config.json#/mounts/7")

    @pytest.mark.only_pyruntime("runc fails where the kernel does, and in its words")
    def test_a_huge_hostname(self, container: Container, refused: Refused) -> None:
        container.config["hostname"] = "x" * 100000
        refused("config.json#/hostname")
