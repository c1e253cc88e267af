"""CVE-2019-5736: the image must not get the host's runtime or interpreter into its hands through /proc/PID/exe.

pyruntime's executable is the host's Python. An image whose entry point is /proc/self/exe would run it inside the
container, with the image's own loader; and a process of a shared PID namespace sees the executable of every newcomer.
The attacker is tests/support/programs/attack.c, which asks whether it may write and never writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2", "gcc")

LOADERS = ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1", "lib/ld-musl-x86_64.so.1")


@pytest.fixture
def attacker(container: Container, program: Callable[[str], Path]) -> Container:
    """An image with the attacking program, as /attack and as every loader that a dynamic program may ask for."""
    container.config["root"]["readonly"] = False
    for name in ("attack", *LOADERS):
        container.add_program(name, program("attack"))
    return container


def test_the_attacker_sees_a_writable_file(attacker: Container) -> None:
    """The control: an attack that can't succeed anywhere proves nothing."""
    attacker.add_file("etc/prey", "x")
    attacker.process["args"] = ["/attack", "look", "/etc/prey"]
    result = attacker.run()
    assert (result.status, result.stdout) == (7, "VULNERABLE /etc/prey\n")


def test_the_attacker_as_a_loader_is_run(attacker: Container, program: Callable[[str], Path]) -> None:
    """The second control: a dynamic program of the image ends up in the image's loader."""
    attacker.add_program("bin/dynamic", Path("/bin/true").resolve())
    attacker.process["args"] = ["/bin/dynamic"]
    assert attacker.run().stdout == "VULNERABLE /bin/dynamic\n"


def assert_unharmed(container: Container) -> None:
    """Run; the start may fail or the runtime's own bytes may run, but nothing of the host's may be writable."""
    result = container.run()
    assert "VULNERABLE" not in result.stdout + result.stderr, result


def test_entry_point_is_the_runtime_itself(attacker: Container) -> None:
    attacker.process["args"] = ["/proc/self/exe"]
    assert_unharmed(attacker)


def test_entry_point_is_the_runtime_itself_with_arguments(attacker: Container) -> None:
    """As the interpreter it would run a script of the image: `/proc/self/exe /evil.py`."""
    attacker.add_file("evil.py", "open('/evil-ran', 'w')\nprint('VULNERABLE: the interpreter runs the image')\n")
    for words in (["/evil.py"], ["-c", "print('VULNERABLE')"], ["init"], ["-m", "evil"]):
        attacker.process["args"] = ["/proc/self/exe", *words]
        assert_unharmed(attacker)
        assert not (attacker.rootfs / "evil-ran").exists()


@pytest.mark.parametrize("interpreter", ["/proc/self/exe", "/proc/self/exe self", "/link"])
def test_entry_point_is_a_script_for_the_runtime(attacker: Container, interpreter: str) -> None:
    attacker.add_file("bin/script", f"#!{interpreter}\n", 0o755)
    (attacker.rootfs / "link").symlink_to("/proc/self/exe")
    attacker.process["args"] = ["/bin/script"]
    assert_unharmed(attacker)


@pytest.mark.parametrize("target", ["/proc/self/exe", "/proc/thread-self/exe", "/proc/1/exe", "/proc/self/fd/3"])
def test_entry_point_is_a_link_to_the_runtime(attacker: Container, target: str) -> None:
    (attacker.rootfs / "bin/link").symlink_to(target)
    attacker.process["args"] = ["/bin/link"]
    assert_unharmed(attacker)


@pytest.mark.parametrize("number", range(3, 12))
def test_entry_point_is_a_descriptor_of_the_runtimes(attacker: Container, number: int) -> None:
    attacker.process["args"] = [f"/proc/self/fd/{number}"]
    assert_unharmed(attacker)


def test_a_poisoned_preload_list(attacker: Container) -> None:
    """The image's loader obeys it: the runtime must not be what the library is loaded into."""
    attacker.add_file("etc/ld.so.preload", "/lib64/ld-linux-x86-64.so.2\n")
    attacker.process["args"] = ["/proc/self/exe"]
    assert_unharmed(attacker)


@pytest.mark.parametrize("privileged", [False, True])
def test_a_watcher_in_a_shared_pid_namespace(
    attacker: Container, new_container: Callable[[], Container], privileged: bool
) -> None:
    """The exploit as published, with the roles of `exec` played by containers that join the attacker's PID namespace.

    Privileged, it may look at processes that are not dumpable, too: then only a sealed executable helps.
    """
    if privileged:
        attacker.grant("CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN")
    attacker.script("/attack watch > /seen & exec sleep 1000")
    assert attacker.run_detached().status == 0
    wait_until((attacker.rootfs / "seen").exists, "the watcher")
    for _ in range(3):
        for verb in ("create", "run"):
            newcomer = new_container()
            newcomer.set_namespace("pid", f"/proc/{attacker.pid()}/ns/pid")
            newcomer.config["root"]["readonly"] = False
            newcomer.process["args"] = ["usleep", "50000"]
            if verb == "run":
                assert newcomer.run().status == 0
            else:
                assert newcomer.create().status == 0
                assert newcomer.start().status == 0
                newcomer.wait_for("stopped")
    (attacker.rootfs / "stop").touch()
    seen = set((attacker.rootfs / "seen").read_text().splitlines())
    # The control is the containers' own program; it may be read under either container's name for it.
    harmed = {line for line in seen if line.startswith("VULNERABLE")}
    assert f"VULNERABLE {attacker.rootfs}/bin/busybox" in harmed or "VULNERABLE /bin/busybox" in harmed
    assert all(line.endswith(("/attack", "/bin/busybox")) for line in harmed), harmed


def test_what_waits_between_create_and_start(container: Container) -> None:
    """The waiting init runs from something that nobody can write, and shows nothing of the host's.

    runc:libcontainer/exeseal; for pyruntime launch/exeseal.py.
    """
    container.runtime.environment["CALLERS_SECRET"] = "hunter2"
    container.process["args"] = ["sleep", "1000"]
    assert container.create().status == 0
    pid = container.pid()
    assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.only_pyruntime("Debian 12's runc copies itself to a memfd for the whole init; newer ones use an overlay")
def test_the_waiting_init_is_not_the_interpreter(container: Container) -> None:
    container.process["args"] = ["sleep", "1000"]
    assert container.create().status == 0
    executable = os.readlink(f"/proc/{container.pid()}/exe")
    assert executable.startswith("/memfd:"), executable
    assert "python" not in Path(f"/proc/{container.pid()}/maps").read_text()
