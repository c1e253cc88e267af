"""Symlinks of the image that point out of it: whatever they are for, the host behind them stays untouched.

One test class a kind of attack, named by its CVEs. Each ends either in a refusal or inside the container.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers, host_mounts
from tests.support.terminal import ConsoleSocket

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


@pytest.fixture
def outside(scratch: Path) -> Iterator[Path]:
    """A directory of the host's that a symlink of the image points to; it must look the same after the test."""
    path = scratch / "outside"
    (path / "empty").mkdir(parents=True)
    (path / "secret").write_text("secret of the host\n")
    yield path
    found = sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))
    assert found == ["empty", "secret"], "the host's directory has been written to"
    assert (path / "secret").read_text() == "secret of the host\n"
    assert not [mount for mount in host_mounts() if mount.point.startswith(str(path))]


def spellings(outside: Path) -> list[str]:
    """Ways to name a directory of the host's in a symlink."""
    return [str(outside), "../" * 20 + str(outside).lstrip("/"), f"/proc/1/root{outside}", f"/proc/self/root{outside}"]


SPELLINGS = range(4)


class TestMountTargets:
    """CVE-2021-30465, CVE-2024-45310: a mount's target resolves to the host's."""

    @pytest.mark.parametrize("spelling", SPELLINGS)
    @pytest.mark.parametrize("below", ["", "/new", "/empty"])
    def test_a_file_system(self, container: Container, outside: Path, spelling: int, below: str) -> None:
        (container.rootfs / "link").symlink_to(spellings(outside)[spelling])
        container.add_mount(f"/link{below}", "tmpfs")
        result = container.run_script(f"cat /link/secret; grep -c {outside} /proc/self/mountinfo")
        assert "secret of the host" not in result.stdout

    @pytest.mark.parametrize("spelling", SPELLINGS)
    def test_a_file_on_a_missing_target(
        self, container: Container, outside: Path, scratch: Path, spelling: int
    ) -> None:
        """CVE-2025-24965 is the same with what is written afterwards."""
        (scratch / "source").write_text("source\n")
        (container.rootfs / "link").symlink_to(spellings(outside)[spelling])
        (container.rootfs / "file").symlink_to(spellings(outside)[spelling] + "/planted")
        container.add_bind(scratch / "source", "/link/new/file")
        container.add_bind(scratch / "source", "/file")
        container.run_script("cat /link/new/file")

    @pytest.mark.parametrize("nested", [1, 3])
    def test_links_to_links(self, container: Container, outside: Path, nested: int) -> None:
        previous = str(outside)
        for number in range(nested):
            (container.rootfs / f"link{number}").symlink_to(previous)
            previous = f"../../link{number}"
        container.add_mount(f"/link{nested - 1}/new", "tmpfs")
        container.run()

    def test_a_mount_that_brings_a_link_with_it(self, container: Container, outside: Path, scratch: Path) -> None:
        """The volume that the first mount brings has a symlink on the way of the second: the core of CVE-2021-30465."""
        volume = scratch / "volume"
        volume.mkdir()
        (volume / "link").symlink_to("/")
        (volume / "out").symlink_to("../" * 20 + str(outside).lstrip("/"))
        container.add_bind(volume, "/mnt")
        container.add_mount("/mnt/link/etc", "tmpfs")
        container.add_mount("/mnt/out/new", "tmpfs")
        container.run_script("ls /etc")

    @pytest.mark.runc_since("1.2", "the fix of CVE-2024-45310; before, a directory may be made on the host")
    def test_a_link_that_is_swapped_meanwhile(self, container: Container, outside: Path, leftovers: Leftovers) -> None:
        """The race itself: another process flips a directory of the image and a symlink, as fast as it can."""
        (container.rootfs / "real").mkdir()
        (container.rootfs / "swap").symlink_to("../" * 20 + str(outside).lstrip("/"))
        flip = (
            "import os, sys\nos.chdir(sys.argv[1])\nprint(flush=True)\n"
            "while True:\n os.rename('real', 'x'); os.rename('swap', 'real'); os.rename('x', 'swap')\n"
        )
        flipper = subprocess.Popen([sys.executable, "-c", flip, container.rootfs], stdout=subprocess.PIPE)
        assert flipper.stdout is not None
        flipper.stdout.readline()
        container.add_mount("/real/a", "tmpfs")
        container.add_mount("/real/b", "tmpfs")
        container.linux["devices"] = [{"path": "/real/device", "type": "c", "major": 1, "minor": 3}]
        try:
            for _ in range(15):
                assert container.run().status in (0, 1)
        finally:
            flipper.kill()
            flipper.communicate()
        assert leftovers.found() == []


class TestProcAndSys:
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867: /proc or /sys of the image is a symlink."""

    @pytest.mark.parametrize("name", ["proc", "sys"])
    @pytest.mark.parametrize("target", ["/tmp", "tmp/fake", "/", "/dev", "../../../../tmp"])
    def test_a_symlink(self, container: Container, refused: Refused, name: str, target: str) -> None:
        (container.rootfs / name).rmdir()
        (container.rootfs / name).symlink_to(target)
        place = {"proc": 0, "sys": 5}[name]
        refused(f"config.json#/mounts/{place}")

    def test_a_fake_proc_of_the_image(self, container: Container) -> None:
        """Files below /proc of the image are covered by the real one, and never written to."""
        container.add_file("proc/self/attr/exec", "")
        container.add_file("proc/sys/net/ipv4/ip_unprivileged_port_start", "")
        container.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "80"}
        assert container.output("cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "80"
        assert container.read("proc/sys/net/ipv4/ip_unprivileged_port_start") == ""

    @pytest.mark.parametrize("fstype", ["tmpfs", "bind"])
    def test_another_file_system_as_proc(
        self, container: Container, refused: Refused, scratch: Path, fstype: str
    ) -> None:
        """CVE-2019-16884: security labels would be written to a file of the attacker's choice."""
        (scratch / "fake").mkdir()
        if fstype == "tmpfs":
            container.mounts[0].update(type="tmpfs", source="tmpfs")
        else:
            container.mounts[0].update(type="bind", source=str(scratch / "fake"), options=["bind"])
        refused("config.json#/mounts/0")

    def test_a_volume_over_proc(self, container: Container, refused: Refused, scratch: Path) -> None:
        (scratch / "fake").mkdir()
        container.add_bind(scratch / "fake", "/proc")
        refused("config.json#/mounts/7")

    def test_a_link_to_proc_as_target(self, container: Container, refused: Refused, scratch: Path) -> None:
        """The check must be of where the target is, not of what it is called."""
        (scratch / "fake").mkdir()
        (container.rootfs / "link").symlink_to("/proc")
        container.add_bind(scratch / "fake", "/link/self")
        refused("config.json#/mounts/7")


class TestWorkingDirectory:
    """CVE-2024-21626: a descriptor of the host's, reached as /proc/self/fd/N, becomes the working directory."""

    @pytest.mark.parametrize("number", range(3, 13))
    def test_a_descriptor(self, container: Container, number: int) -> None:
        container.process["cwd"] = f"/proc/self/fd/{number}"
        result = container.run_script("pwd; ls -a ../../../../../../../..")
        assert result.status != 0 or set(result.stdout.split()) >= {"bin", "mnt"}, result
        assert "boot" not in result.stdout.split()

    @pytest.mark.parametrize("number", [3, 5, 7, 8, 9])
    def test_a_descriptor_through_a_symlink(self, container: Container, number: int) -> None:
        (container.rootfs / "link").symlink_to(f"/proc/self/fd/{number}/")
        container.process["cwd"] = "/link"
        result = container.run_script("pwd; ls -a ../../../../../../../..")
        assert "boot" not in result.stdout.split()

    @pytest.mark.parametrize("number", [3, 6, 9])
    def test_a_descriptor_below_the_programs_name(self, container: Container, number: int) -> None:
        container.process["args"] = [f"/proc/self/fd/{number}/../../../../../../bin/true"]
        result = container.run()
        assert result.status != 0 or "boot" not in result.stdout

    def test_a_symlink_out(self, container: Container, outside: Path) -> None:
        container.config["root"]["readonly"] = False
        (container.rootfs / "link").symlink_to(outside)
        container.process["cwd"] = "/link/new"
        assert "secret" not in container.run_script("ls ..").stdout


class TestDev:
    """CVE-2026-41579, CVE-2026-47766: the image's /dev, or a name in it, is a symlink."""

    @pytest.mark.runc_since(
        "1.3", "the fix of CVE-2026-41579; Debian 12's runc makes the links in the host's directory"
    )
    @pytest.mark.parametrize("spelling", SPELLINGS)
    @pytest.mark.parametrize("mounted", [True, False])
    def test_dev_is_a_symlink(self, container: Container, outside: Path, spelling: int, mounted: bool) -> None:
        container.config["root"]["readonly"] = False
        (container.rootfs / "dev").rmdir()
        (container.rootfs / "dev").symlink_to(spellings(outside)[spelling])
        if not mounted:
            container.config["mounts"] = [m for m in container.mounts if not m["destination"].startswith("/dev")]
        container.run()

    @pytest.mark.parametrize("name", ["null", "zero", "fd", "stdin", "ptmx", "console", "pts", "shm", "mqueue", "core"])
    def test_names_in_it_are_symlinks(self, container: Container, outside: Path, name: str) -> None:
        """Without a tmpfs on /dev the image's own directory is filled."""
        container.config["root"]["readonly"] = False
        container.config["mounts"] = [m for m in container.mounts if not m["destination"].startswith("/dev")]
        (container.rootfs / "dev" / name).symlink_to(outside / "planted")
        container.run()

    def test_a_device_of_the_config_through_a_symlink(self, container: Container, outside: Path) -> None:
        (container.rootfs / "link").symlink_to(outside)
        container.linux["devices"] = [{"path": "/link/device", "type": "c", "major": 1, "minor": 3}]
        container.run()

    @pytest.mark.needs("userns")
    def test_a_bound_device_through_a_symlink(self, container: Container, outside: Path) -> None:
        container.map_root_to(100000)
        container.config["mounts"] = [m for m in container.mounts if not m["destination"].startswith("/dev")]
        (container.rootfs / "dev/null").symlink_to(outside / "secret")
        container.run()


SINCE_VERIFIED = pytest.mark.runc_since("1.2.8", "the fix of CVE-2025-31133")


class TestNullDevice:
    """CVE-2025-31133, CVE-2025-62161: what covers a masked path must be the real /dev/null."""

    @pytest.mark.parametrize(
        "kind",
        ["symlink", "directory"] + [pytest.param(kind, marks=SINCE_VERIFIED) for kind in ("file", "device", "fifo")],
    )
    def test_a_false_null(self, container: Container, outside: Path, kind: str) -> None:
        """The image's own /dev is used, and its null is another thing."""
        container.config["root"]["readonly"] = False
        container.config["mounts"] = [m for m in container.mounts if not m["destination"].startswith("/dev")]
        null = container.rootfs / "dev/null"
        if kind == "file":
            null.write_text("planted\n")
        elif kind == "symlink":
            null.symlink_to("/proc/sysrq-trigger")
        elif kind == "directory":
            null.mkdir()
        elif kind == "fifo":
            os.mkfifo(null)
        else:
            os.mknod(null, 0o020666, os.makedev(1, 5))
        container.add_file("etc/masked", "secret\n")
        container.linux["maskedPaths"] = ["/etc/masked", "/proc/keys"]
        result = container.run_script("stat -c '%t:%T %F' /etc/masked /proc/keys; head -qc 99 /etc/masked /proc/keys")
        if result.status == 0:
            assert result.stdout.splitlines() == ["1:3 character special file"] * 2

    def test_a_mask_on_a_symlink_of_the_image(self, container: Container, outside: Path) -> None:
        (container.rootfs / "etc/link").symlink_to(outside / "secret")
        container.linux["maskedPaths"].append("/etc/link")
        container.linux["readonlyPaths"].append("/etc/link")
        assert container.run().status in (0, 1)
        assert (outside / "secret").read_text() == "secret of the host\n"

    def test_a_readonly_path_that_is_a_link_to_the_root(self, container: Container) -> None:
        container.config["root"]["readonly"] = False
        (container.rootfs / "etc/link").symlink_to("/tmp")
        container.linux["readonlyPaths"].append("/etc/link")
        assert "Read-only file system" in container.run_script("touch /tmp/x").stderr


class TestConsole:
    """CVE-2025-52565: /dev/pts/N or /dev/console of the image leads elsewhere when the terminal is bound."""

    @pytest.fixture
    def console(self, scratch: Path) -> Iterator[ConsoleSocket]:
        with ConsoleSocket(scratch / "console.sock") as listening:
            yield listening

    @pytest.mark.parametrize("name", ["dev/console", "dev/pts", "dev/ptmx", "dev/pts/ptmx", "dev/pts/0"])
    @pytest.mark.parametrize("mounted", [True, False])
    def test_a_symlink(
        self, container: Container, console: ConsoleSocket, outside: Path, name: str, mounted: bool
    ) -> None:
        container.config["root"]["readonly"] = False
        container.process["terminal"] = True
        if not mounted:
            container.config["mounts"] = [m for m in container.mounts if not m["destination"].startswith("/dev")]
        path = container.rootfs / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(outside / "secret")
        container.script("echo written > /dev/console")
        container.create("--console-socket", str(console.path))
        if (container.runtime.root / container.id).exists():
            container.start()

    def test_a_file_in_the_place_of_the_console(
        self, container: Container, console: ConsoleSocket, outside: Path
    ) -> None:
        container.process["terminal"] = True
        container.add_file("dev/console", "planted\n")
        container.script("stat -c %F /dev/console; sleep 1000")
        assert container.run_detached("--console-socket", str(console.path)).status == 0
        _, terminal = console.receive()
        with terminal:
            terminal.read_until("character special file")
        assert (container.rootfs / "dev/console").read_text() == "planted\n"


class TestCopyUp:
    """tmpcopyup reads the image: a symlink in it is copied, not followed."""

    def test_a_link_in_the_directory(self, container: Container, outside: Path) -> None:
        (container.rootfs / "var/lib").mkdir()
        (container.rootfs / "var/lib/link").symlink_to(outside / "secret")
        (container.rootfs / "var/lib/directory").symlink_to(outside)
        container.add_mount("/var/lib", "tmpfs", "tmpcopyup")
        result = container.run_script("cat /var/lib/link; ls /var/lib/directory/; readlink /var/lib/link")
        assert result.stdout == f"{outside}/secret\n"

    def test_the_directory_is_a_link(self, container: Container, outside: Path) -> None:
        (container.rootfs / "var/lib").symlink_to(outside)
        container.add_mount("/var/lib", "tmpfs", "tmpcopyup")
        assert "secret" not in container.run_script("find / -xdev -name secret").stdout

    @pytest.mark.only_pyruntime("runc waits for the FIFO's writer")
    def test_a_fifo_and_a_device_in_the_directory(self, container: Container) -> None:
        """Opening a FIFO would wait for ever, and reading a device never ends."""
        (container.rootfs / "var/lib").mkdir()
        os.mkfifo(container.rootfs / "var/lib/fifo")
        os.mknod(container.rootfs / "var/lib/zero", 0o020666, os.makedev(1, 5))
        container.add_mount("/var/lib", "tmpfs", "tmpcopyup")
        result = container.run_script("ls /var/lib")
        assert result.status in (0, 1)


def test_sysctls_are_written_to_the_containers_own_proc(
    container: Container, new_container: Callable[[], Container], scratch: Path
) -> None:
    """CVE-2025-52881: a write meant for a sysctl, redirected to another file of procfs."""
    container.config["root"]["readonly"] = False
    (container.rootfs / "link").symlink_to("/proc/sysrq-trigger")
    container.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "81"}
    host = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    assert container.output("cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "81"
    assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == host
