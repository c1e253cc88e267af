"""NOTIFY_SOCKET: a container tells its readiness, and the runtime passes it on to a service manager (sd_notify(3))."""

from __future__ import annotations

import array
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container import Container, quiet, wait_until
from tests.support.leftovers import Leftovers
from tests.support.runtime import DEFAULT_TIMEOUT
from tests.support.terminal import finish

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


# Verbs that wait for a container which ends without a word.
FORSAKEN = [
    pytest.param("run -d", marks=pytest.mark.only_pyruntime("runc waits for ever, since the zombie is its own child")),
    "start",
]
barrier = pytest.mark.runc_since("1.2", "BARRIER=1")


class Manager:
    """A service manager: its socket, and what has been told it. `$NOTIFY_SOCKET` of the runtime is `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEFAULT_TIMEOUT)
        self.socket.bind(str(path))

    def receive(self) -> tuple[str, list[int]]:
        """The next message, and the descriptors that came with it."""
        message, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(4))
        fds = array.array("i")
        for _level, _kind, payload in ancillary:
            fds.frombytes(payload)
        return message.decode().rstrip("\n"), list(fds)


@pytest.fixture
def manager(scratch: Path) -> Iterator[Manager]:
    manager = Manager(scratch / "manager.sock")
    yield manager
    manager.socket.close()


@pytest.fixture
def managed(container: Container, manager: Manager) -> Container:
    """A container that says nothing by itself, and whose runtime has a service manager."""
    container.runtime.environment["NOTIFY_SOCKET"] = str(manager.path)
    container.process["args"] = ["sleep", "1000"]
    return container


def say(container: Container, text: str) -> None:
    """Send a message as the container's program would: to the socket that it finds at the path in NOTIFY_SOCKET."""
    wait_until(lambda: container.runtime("state", container.id).status == 0, "the container")
    wait_until(lambda: container.state()["status"] == "running", "it to run")
    path = f"/proc/{container.pid()}/root/run/notify/notify.sock"
    wait_until(lambda: os.path.exists(path), "its socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(path)
        sender.send(text.encode())


def spawned(container: Container, *words: str) -> subprocess.Popen[bytes]:
    """A verb that waits for the container, which keeps its output open."""
    container.write()
    return container.runtime.spawn(*words, container.id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def started(container: Container, how: str) -> subprocess.Popen[bytes]:
    if how == "run -d":
        return spawned(container, "run", "-d", "-b", str(container.path))
    assert container.create().status == 0
    return spawned(container, "start")


@barrier
@pytest.mark.parametrize("how", ["run -d", "start"])
def test_ready_is_passed_on_with_the_pid_and_a_barrier(managed: Container, manager: Manager, how: str) -> None:
    """Who is about to leave waits until the manager has read all: it would ask for the sender's cgroup in vain."""
    process = started(managed, how)
    say(managed, "READY=1")
    assert manager.receive() == ("READY=1", [])
    assert manager.receive() == (f"MAINPID={managed.pid()}", [])
    message, fds = manager.receive()
    assert (message, len(fds)) == ("BARRIER=1", 1)
    assert process.poll() is None
    os.close(fds[0])
    assert finish(process) == 0
    assert managed.state()["status"] == "running"


@barrier
def test_in_the_foreground_the_runtime_is_the_service(managed: Container, manager: Manager) -> None:
    process = spawned(managed, "run", "-b", str(managed.path))
    say(managed, "READY=1")
    assert manager.receive() == ("READY=1", [])
    assert manager.receive() == (f"MAINPID={process.pid}", [])
    message, fds = manager.receive()
    assert (message, len(fds)) == ("BARRIER=1", 1)
    os.close(fds[0])
    assert managed.kill("KILL").status == 0
    assert finish(process) == 137


@pytest.mark.parametrize("how", FORSAKEN)
def test_nothing_is_told_by_who_ends_without(managed: Container, manager: Manager, how: str) -> None:
    process = started(managed, how)
    say(managed, "STATUS=half way")
    assert process.poll() is None
    assert managed.kill("KILL").status == 0
    assert finish(process) == 0
    manager.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.receive()


@pytest.mark.only_pyruntime("runc looks at the first line only, and passes that on as it is")
def test_ready_in_any_line_and_nothing_else(managed: Container, manager: Manager) -> None:
    process = started(managed, "run -d")
    say(managed, "READY=10\nMAINPID=1\nSTATUS=fine\n")
    say(managed, "STATUS=up\nREADY=1\nMAINPID=1\n")
    assert manager.receive() == ("READY=1", [])
    assert manager.receive() == (f"MAINPID={managed.pid()}", [])
    os.close(manager.receive()[1][0])
    assert finish(process) == 0


@pytest.mark.parametrize("how", FORSAKEN)
def test_what_the_container_sees(managed: Container, manager: Manager, how: str) -> None:
    managed.config["root"]["readonly"] = False
    managed.script(
        "(echo $NOTIFY_SOCKET; ls /run/notify) > /tmp/log; echo > /run/notify/x; touch /tmp/done; sleep 1000"
    )
    process = started(managed, how)
    wait_until((managed.rootfs / "tmp/done").exists, "the program")
    assert managed.read("tmp/log") == "/run/notify/notify.sock\nnotify.sock\n"
    assert not (managed.runtime.root / managed.id / "notify/x").exists(), "the container can write on the host"
    assert managed.kill("KILL").status == 0
    assert finish(process) == 0
    assert managed.delete() == (0, "", "")


@barrier
@pytest.mark.needs("userns")
def test_a_mapped_root_may_write_to_it(managed: Container, manager: Manager) -> None:
    managed.map_root_to(100000)
    process = started(managed, "run -d")
    say(managed, "READY=1")
    assert manager.receive() == ("READY=1", [])
    assert os.stat(f"/proc/{managed.pid()}/root/run/notify/notify.sock").st_mode & 0o777 == 0o777
    manager.receive()
    os.close(manager.receive()[1][0])
    assert finish(process) == 0


@pytest.mark.parametrize("how", ["create", FORSAKEN[0]])
def test_nothing_is_left(managed: Container, manager: Manager, leftovers: Leftovers, how: str) -> None:
    managed.process["args"] = ["true"]
    if how == "create":
        assert managed.create().status == 0
    else:
        assert finish(started(managed, how)) == 0
        managed.wait_for("stopped")
    assert managed.delete("--force") == (0, "", "")
    assert leftovers.found() == []


def test_a_failing_start_leaves_nothing(managed: Container, leftovers: Leftovers) -> None:
    managed.process["args"] = ["/no/such/program"]
    assert managed.run_detached().status != 0
    assert leftovers.found() == []


@pytest.mark.only_pyruntime("runc says nothing, and waits until the container ends")
def test_a_manager_that_is_gone_is_told_and_the_container_runs(managed: Container, manager: Manager) -> None:
    manager.socket.close()
    result = managed.run_detached()
    assert result.status == 0
    assert "warning" in result.stderr and "NOTIFY_SOCKET: connect" in result.stderr and "ECONNREFUSED" in result.stderr
    assert managed.state()["status"] == "running"


@pytest.mark.only_pyruntime("runc refuses, and the container stays created")
def test_a_start_with_a_manager_that_the_create_had_not(managed: Container) -> None:
    del managed.runtime.environment["NOTIFY_SOCKET"]
    assert managed.create().status == 0
    environment = managed.runtime.environment | {"NOTIFY_SOCKET": "/nowhere"}
    result = quiet(managed.runtime, "start", managed.id, env=environment)
    assert result.status == 0
    assert "NOTIFY_SOCKET was not set at `create`" in result.stderr
    assert managed.state()["status"] == "running"


@barrier
def test_start_of_a_running_one_does_not_take_its_socket(managed: Container, manager: Manager) -> None:
    process = started(managed, "start")
    wait_until(lambda: managed.state()["status"] == "running", "the start")
    assert managed.start().status == 1
    say(managed, "READY=1")
    assert manager.receive() == ("READY=1", [])
    manager.receive()
    os.close(manager.receive()[1][0])
    assert finish(process) == 0


@barrier
def test_an_abstract_address(managed: Container, marker: str) -> None:
    """An "@" stands for the NUL byte (sd_notify(3))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{marker}")
        manager.settimeout(DEFAULT_TIMEOUT)
        managed.runtime.environment["NOTIFY_SOCKET"] = f"@{marker}"
        process = started(managed, "run -d")
        say(managed, "READY=1")
        assert manager.recv(100) == b"READY=1\n"
        assert manager.recv(100) == b"MAINPID=%d\n" % managed.pid()
        assert manager.recv(100) == b"BARRIER=1"  # whose descriptor was not asked for, and so is closed
        assert finish(process) == 0
