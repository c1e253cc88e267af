"""`exec` enters a container whose processes may be hostile: what they can see of the newcomer, and make it do.

CVE-2016-9962, CVE-2019-5736, CVE-2024-21626, CVE-2022-29162 and CVE-2026-30892, each as an attack.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.terminal import Terminal, finish, on_terminal

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")
EXECUTIONS = 25  # each is a chance for the attacker


@pytest.fixture
def hostile(container: Container, program: Callable[[str], Path]) -> Container:
    """An image that the attacker may write to, with the attacking programs, whose root may do much."""
    container.config["root"]["readonly"] = False
    for name in ("attack", "trace"):
        container.add_program(name, program(name))
    container.grant("CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN")
    return container


def attack(container: Container, command: str, execute: Callable[[], None]) -> set[str]:
    """What the attacking command saw of several executions."""
    container.script(f"{command} > /seen & exec sleep 1000")
    assert container.run_detached().status == 0
    wait_until((container.rootfs / "seen").exists, "the attacker")
    for _ in range(EXECUTIONS):
        execute()
    (container.rootfs / "stop").touch()
    return set(container.read("seen").splitlines())


@pytest.mark.needs("gcc")
class TestNewcomer:
    """What a process of the container can get from the one that enters."""

    @pytest.mark.only_pyruntime("a tracer can stop runc's init in the container, and its exec waits for ever then")
    @pytest.mark.parametrize("mapped", [False, pytest.param(True, marks=pytest.mark.needs("userns"))])
    def test_a_tracer(self, hostile: Container, mapped: bool) -> None:
        """CVE-2016-9962: stopped half-way, it holds no descriptor of the host's, and nothing of the caller's."""
        hostile.runtime.environment["CALLERS_SECRET"] = "hunter2"
        if mapped:
            hostile.map_root_to(100000)

        def execute() -> None:
            assert hostile.exec("usleep", "3000").status == 0

        seen = attack(hostile, "/trace", execute)
        assert "exe /bin/busybox" in seen, "the control: nobody was ever stopped"
        assert "VULNERABLE secret" not in seen
        allowed = ("exe /bin/busybox", "exe /memfd:", "cwd /", "fd socket:", "fd pipe:")
        others = {line for line in seen if not line.startswith(allowed)}
        assert others == set()
        assert {line for line in seen if line.startswith("cwd ")} == {"cwd /"}
        assert not any("python" in line for line in seen)

    def test_a_watcher(self, hostile: Container) -> None:
        """CVE-2019-5736: what the newcomer was executed from cannot be written, by whoever may look at it."""

        def execute() -> None:
            assert hostile.exec("usleep", "3000").status == 0

        seen = attack(hostile, "/attack watch", execute)
        harmed = {line for line in seen if line.startswith("VULNERABLE")}
        assert harmed, "the control: the program itself can be written"
        assert all(line.endswith(("/attack", "/bin/busybox")) for line in harmed), harmed


@pytest.mark.needs("gcc")
class TestEntryPoint:
    """CVE-2019-5736: an entry point that leads to the runtime's own executable."""

    @pytest.fixture
    def running(self, hostile: Container) -> Container:
        for name in ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"):
            hostile.add_program(name, hostile.rootfs / "attack")
        hostile.run_sleeping()
        return hostile

    def unharmed(self, container: Container, *words: str) -> None:
        result = container.exec(*words)
        assert "VULNERABLE" not in result.stdout + result.stderr, result
        assert len(container.exec_output("ps -o pid").splitlines()) <= 4, "something of it stays"

    @pytest.mark.parametrize("words", [[], ["-c", "print('VULNERABLE')"], ["/evil.py"], ["init"]])
    def test_it_is_named(self, running: Container, words: list[str]) -> None:
        running.add_file("evil.py", "print('VULNERABLE')\n")
        self.unharmed(running, "/proc/self/exe", *words)

    @pytest.mark.parametrize("interpreter", ["/proc/self/exe", "/proc/self/exe self", "/link"])
    def test_it_is_a_scripts_interpreter(self, running: Container, interpreter: str) -> None:
        (running.rootfs / "link").symlink_to("/proc/self/exe")
        running.add_file("bin/script", f"#!{interpreter}\n", 0o755)
        self.unharmed(running, "script")

    @pytest.mark.parametrize(
        "target", ["/proc/self/exe", "/proc/thread-self/exe", *(f"/proc/self/fd/{n}" for n in range(3, 10))]
    )
    def test_it_is_linked_to(self, running: Container, target: str) -> None:
        (running.rootfs / "bin/linked").symlink_to(target)
        self.unharmed(running, "linked")


class TestWorkingDirectory:
    """CVE-2024-21626: a working directory that is reached through a descriptor of the runtime's."""

    @pytest.mark.parametrize("number", range(3, 16))
    @pytest.mark.parametrize("linked", [False, True])
    def test_a_descriptor(self, container: Container, scratch: Path, number: int, linked: bool) -> None:
        (scratch / "secret").write_text("hunter2")
        container.config["root"]["readonly"] = False
        container.run_sleeping()
        target = f"/proc/self/fd/{number}"
        if linked:  # as an image's WORKDIR has it
            (container.rootfs / "place").symlink_to(target)
        result = container.exec_script(
            f"cat ../../../../../../../..{scratch}/secret", "--cwd", "/place" if linked else target
        )
        assert "hunter2" not in result.stdout
        assert result.status != 0

    def test_a_descriptor_of_the_inits(self, container: Container, scratch: Path) -> None:
        """What the init has open is the container's own: a way around, not out."""
        container.script("exec 5</tmp; exec sleep 1000")
        assert container.run_detached().status == 0
        wait_until(lambda: "sleep" in container.exec_output("ps"), "the init")
        result = container.exec("pwd", flags=["--cwd", "/proc/1/fd/5"])
        assert (result.status, result.stdout) in ((0, "/tmp\n"), (255, "")), result


class TestImage:
    """Files of the image that the newcomer meets."""

    @pytest.mark.only_pyruntime("runc opens a FIFO and waits for its writer")
    @pytest.mark.parametrize("name", ["passwd", "group"])
    def test_a_fifo(self, container: Container, name: str) -> None:
        os.mkfifo(container.rootfs / "etc" / name)
        container.run_sleeping()
        assert container.exec_output("echo fine", "-u", "7") == "fine"

    @pytest.mark.only_pyruntime("runc's exec needs a sound procfs in the container, and refuses without")
    def test_a_procfs_that_was_covered(self, container: Container) -> None:
        """CVE-2019-16884 and its like: a root with CAP_SYS_ADMIN has put its own files where the kernel's were."""
        fakes = "self/attr/apparmor/exec self/attr/exec self/fd/3 self/task/x self/setgroups sys/kernel/cap_last_cap"
        container.grant("CAP_SYS_ADMIN")
        container.script(
            "mount -t tmpfs none /proc && cd /proc && "
            f"for f in {fakes} thread-self/attr/exec; do mkdir -p $(dirname $f); : > $f; done; "
            ": > done; exec sleep 1000"
        )
        assert container.run_detached().status == 0
        wait_until(lambda: container.exec("test", "-e", "/proc/done").status == 0, "the init")
        assert container.exec_output("id -u", "-u", "7", "-g", "8", "--cap", "CAP_KILL") == "7"
        with Terminal.open() as screen:
            process = container.runtime.spawn("exec", "-t", container.id, "tty", **on_terminal(screen))
            screen.read_until("/dev/pts/0\r\n")
            assert finish(process) == 0
        assert container.exec_output("find /proc -type f -size +0") == "", "something was written into a fake file"

    @pytest.mark.only_pyruntime("runc's terminal has no such guard before 1.2.8")
    def test_a_devpts_that_was_covered(self, container: Container) -> None:
        """CVE-2025-52565: what the terminal is made from must be the kernel's."""
        container.grant("CAP_SYS_ADMIN")
        container.script("mount -t tmpfs none /dev/pts && : > /dev/pts/ptmx && exec sleep 1000")
        assert container.run_detached().status == 0
        wait_until(lambda: container.exec("test", "-f", "/dev/pts/ptmx").status == 0, "the init")
        with Terminal.open() as screen:
            process = container.runtime.spawn("exec", "-t", container.id, "tty", **on_terminal(screen))
            screen.close_slave()
            assert "--tty: /dev/pts in the container is not a devpts" in screen.read_all()
            assert finish(process) == 255


class TestCredentials:
    def test_no_capability_is_inheritable(self, container: Container) -> None:
        """CVE-2022-29162: an executable with inheritable file capabilities would raise them."""
        container.run_sleeping()
        for flags in ([], ["--cap", "CAP_NET_RAW"], ["-u", "1000", "--cap", "CAP_NET_RAW"]):
            told = container.exec_output("grep -E 'Cap(Inh|Amb)' /proc/self/status", *flags)
            assert told.split() == ["CapInh:", "0" * 16, "CapAmb:", "0" * 16]

    @pytest.mark.parametrize("user", ["4294967296", "8589934592", " 0", "+0", "-0", "0x0", "٠", "1:4294967296", "1: 0"])
    @pytest.mark.only_pyruntime("runc cuts at 32 bits, and reads what Atoi reads")
    def test_a_user_that_would_be_root(self, container: Container, user: str) -> None:
        """CVE-2026-30892."""
        container.process["user"] = {"uid": 1000, "gid": 1000}
        container.run_sleeping()
        result = container.exec("id", flags=["--user", user])
        assert (result.status, result.stdout) == (255, "")
        assert "--user: " in result.stderr

    def test_what_was_dropped_stays_dropped(self, container: Container) -> None:
        container.process["capabilities"] = {}
        container.run_sleeping()
        told = container.exec_output("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status; mount -t tmpfs none /mnt 2>&1 || :")
        assert told.split()[:6] == ["CapPrm:", "0" * 16, "CapEff:", "0" * 16, "CapBnd:", "0" * 16]
        assert "ermission" in told or "not permitted" in told


def test_signals_of_the_callers_are_not_inherited(container: Container) -> None:
    """Python ignores SIGPIPE and SIGXFSZ; a caller under nohup ignores SIGHUP."""
    container.run_sleeping()
    words = ["nohup", container.runtime.command, "--root", str(container.runtime.root), "exec", container.id]
    show = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]  # not by a shell, which has a mind of its own
    done = subprocess.run([*words, *show], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]
