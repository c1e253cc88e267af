"""startContainer hooks are programs of the image that run beside the waiting runtime: what could they get hold of?

The interpreter (CVE-2019-5736), the runtime's descriptors (CVE-2024-21626), and the caller's environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container
from tests.support.runtime import Result

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2", "gcc")

LOADERS = ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1", "lib/ld-musl-x86_64.so.1")
EVERYTHING = ("CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN")


@pytest.fixture
def attacker(container: Container, program: Callable[[str], Path]) -> Container:
    """An image with the attacking program, also as every loader. Its exit status 7 fails the hook, and is told."""
    container.config["root"]["readonly"] = False
    for name in ("attack", *LOADERS):
        container.add_program(name, program("attack"))
    container.add_program("bin/dynamic", Path("/bin/true").resolve())
    return container


def run_hook(container: Container, path: str, *args: str) -> Result:
    hook: dict[str, Any] = {"path": path, "args": [path, *args], "env": ["PATH=/bin"]}
    container.config["hooks"] = {"startContainer": [hook]}
    return container.run()


def test_the_attacker_sees_a_writable_file(attacker: Container) -> None:
    """The controls: an attack that can't succeed anywhere, or whose success nobody is told, proves nothing."""
    attacker.add_file("etc/prey", "x")
    assert "VULNERABLE /etc/prey" in run_hook(attacker, "/attack", "look", "/etc/prey").stderr
    assert "VULNERABLE /bin/dynamic" in run_hook(attacker, "/bin/dynamic").stderr


@pytest.mark.parametrize("path", ["/proc/self/exe", "/proc/thread-self/exe", "/link", "/bin/script", "/proc/self/fd/3"])
@pytest.mark.parametrize("privileged", [False, True])
def test_a_hook_that_is_the_runtime_itself(attacker: Container, path: str, privileged: bool) -> None:
    if privileged:
        attacker.grant(*EVERYTHING)
    (attacker.rootfs / "link").symlink_to("/proc/self/exe")
    attacker.add_file("bin/script", "#!/proc/self/exe\n", 0o755)
    result = run_hook(attacker, path)
    assert "VULNERABLE" not in result.stdout + result.stderr, result


def test_a_hook_that_has_the_runtime_run_a_script(attacker: Container) -> None:
    attacker.add_file("evil.py", "open('/evil-ran', 'w')\n", 0o755)
    for words in (["/evil.py"], ["-c", "open('/evil-ran', 'w')"], ["-m", "evil"]):
        run_hook(attacker, "/proc/self/exe", *words)
        assert not (attacker.rootfs / "evil-ran").exists()


@pytest.mark.parametrize("privileged", [False, True])
def test_the_waiting_runtime_can_not_be_written(attacker: Container, privileged: bool) -> None:
    """Privileged, the hook may look at a process that is not dumpable: then only a sealed executable helps."""
    if privileged:
        attacker.grant(*EVERYTHING)
    result = run_hook(attacker, "/attack", "look", "/proc/1/exe")
    assert "VULNERABLE" not in result.stdout + result.stderr, result


@pytest.mark.only_pyruntime("runc 1.1 leaves its exec.fifo open, in a directory of the host's, and has the environment")
@pytest.mark.parametrize("verb", ["create", "run"])
def test_what_a_privileged_hook_sees_of_the_runtime(attacker: Container, verb: str) -> None:
    """No descriptor that leads to a file of the host's, and nothing of the caller's environment."""
    attacker.grant(*EVERYTHING)
    attacker.runtime.environment["CALLERS_SECRET"] = "hunter2"
    script = "for fd in /proc/1/fd/*; do echo ${fd##*/} $(readlink $fd); done > /fds; cat /proc/1/environ > /environ"
    attacker.config["hooks"] = {
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]
    }
    if verb == "create":
        assert attacker.create().status == 0
        assert attacker.start().status == 0
    else:
        assert attacker.run().status == 0
    links = dict(line.split(" ", 1) for line in attacker.read("fds").splitlines())
    assert {"0", "1", "2"} <= links.keys(), "not seen at all"
    strange = {fd: to for fd, to in links.items() if int(fd) > 2 and to.startswith("/") and "memfd:" not in to}
    assert not strange
    assert "hunter2" not in attacker.read("environ")


@pytest.mark.only_pyruntime("it is about how Python waits")
def test_what_waits_between_create_and_start(container: Container) -> None:
    """Seen from the host, where root may do anything but write through that mount."""
    container.config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    container.runtime.environment["CALLERS_SECRET"] = "hunter2"
    assert container.create().status == 0
    pid = container.pid()
    assert b"\0create\0" in Path(f"/proc/{pid}/cmdline").read_bytes(), "the control: it has not hopped yet"
    # Asked, not opened: ETXTBSY would come first, which is over when the process ends.
    assert os.access("/proc/self/exe", os.W_OK), "the control"
    assert not os.access(f"/proc/{pid}/exe", os.W_OK)
    assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                first, last = (int(part, 16) for part in span.split("-"))
                memory.seek(first)
                assert b"hunter2" not in memory.read(last - first), line
