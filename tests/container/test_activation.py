"""Descriptors that a container is handed on purpose (LISTEN_FDS, --preserve-fds), and those that it lets go of."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.leftovers import Leftovers
from tests.support.runtime import DEFAULT_TIMEOUT, Result
from tests.support.terminal import DescriptorSocket

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

# What the program holds, and what it was told. The shell's own descriptor for the listing is gone by the readlink.
LOOK = "(for fd in /proc/$$/fd/*; do readlink $fd > /dev/null && echo ${fd##*/}; done); env | grep ^LISTEN_ | sort"


def activated(container: Container, *flags: str, env: str = "LISTEN_PID=$$ LISTEN_FDS=2", count: int = 2) -> Result:
    """`run` by who has opened `count` descriptors from 3 on, with variables that may name its own PID, as systemd does.

    The shell becomes the runtime, so $$ is the PID of both.
    """
    container.write()
    opened = " ".join(f"{fd}</dev/null" for fd in range(3, 3 + count))
    command = [container.runtime.command, "--root", str(container.runtime.root), "run", *flags]
    done = subprocess.run(
        ["sh", "-c", f'{env} exec "$0" "$@" {opened}', *command, "-b", str(container.path), container.id],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=container.runtime.environment,
        timeout=DEFAULT_TIMEOUT,
        text=True,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def looking(container: Container) -> Container:
    container.script(LOOK)
    return container


def test_listen_fds_are_the_containers(looking: Container) -> None:
    """LISTEN_PID is 1: that is what the program's own PID is for the program (sd_listen_fds(3))."""
    result = activated(looking)
    assert result.status == 0, result
    assert result.stdout.split() == ["0", "1", "2", "3", "4", "LISTEN_FDS=2", "LISTEN_PID=1"]


def test_preserved_ones_come_after_them(looking: Container) -> None:
    result = activated(looking, "--preserve-fds", "1", count=4)
    assert result.stdout.split() == ["0", "1", "2", "3", "4", "5", "LISTEN_FDS=2", "LISTEN_PID=1"], result


@pytest.mark.parametrize(
    "env",
    [
        "LISTEN_PID=1 LISTEN_FDS=2",
        "LISTEN_FDS=2",
        "LISTEN_PID= LISTEN_FDS=2",
        "LISTEN_PID=$$",
        "LISTEN_PID=$$ LISTEN_FDS=0",
        pytest.param("LISTEN_PID=$$ LISTEN_FDS=-2", marks=pytest.mark.only_pyruntime("runc 1.1 panics")),
        "LISTEN_PID=$$ LISTEN_FDS=x",
    ],
)
def test_those_meant_for_another_are_not(looking: Container, env: str) -> None:
    """An environment is inherited by whom it does not concern, which is what LISTEN_PID is for."""
    result = activated(looking, env=env)
    assert result.stdout.split() == ["0", "1", "2"], result


@pytest.mark.only_pyruntime("runc drops the names")
def test_their_names_are_passed_on(looking: Container) -> None:
    result = activated(looking, env="LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:admin")
    assert result.stdout.split()[-3:] == ["LISTEN_FDNAMES=web:admin", "LISTEN_FDS=2", "LISTEN_PID=1"], result


@pytest.mark.only_pyruntime("runc says which of its own descriptors could not be copied")
@pytest.mark.parametrize(
    ("env", "flags", "place"),
    [
        ("LISTEN_PID=$$ LISTEN_FDS=3", [], "$LISTEN_FDS: descriptor 5"),
        ("LISTEN_PID=$$ LISTEN_FDS=9999999", [], "$LISTEN_FDS: descriptor 5"),
        ("LISTEN_PID=$$ LISTEN_FDS=2", ["--preserve-fds", "1"], "--preserve-fds: descriptor 5"),
    ],
)
def test_what_is_not_open_is_told(
    looking: Container, leftovers: Leftovers, env: str, flags: list[str], place: str
) -> None:
    result = activated(looking, *flags, env=env)
    assert (result.status, result.stdout) == (1, "")
    assert f"{place} is to be preserved and is not open" in result.stderr
    assert leftovers.found() == []


@pytest.mark.only_pyruntime("runc hands over whatever has the number by then")
def test_a_descriptor_of_the_runtimes_own_is_not_the_callers(looking: Container, tmp_path: Path) -> None:
    looking.write()
    log = str(tmp_path / "log")
    words = ["--log", log, "run", "--preserve-fds", "1", "-b", str(looking.path), looking.id]
    result = looking.runtime(*words)
    assert result.status == 1
    assert "--preserve-fds: descriptor 3 is to be preserved and is not open" in result.stderr


def test_a_socket_works_from_inside(container: Container) -> None:
    container.script("cat <&3 > /tmp/got")
    container.config["root"]["readonly"] = False
    ours, theirs = socket.socketpair()
    with ours, theirs:
        container.write()

        def place() -> None:
            os.dup2(theirs.fileno(), 3)

        process = container.runtime.spawn(
            *("run", "--preserve-fds", "1", "-b", str(container.path), container.id),
            preexec_fn=place,
            close_fds=False,
        )
        theirs.close()
        ours.send(b"through the socket")
        ours.shutdown(socket.SHUT_WR)
        process.communicate(timeout=DEFAULT_TIMEOUT)
    assert process.returncode == 0
    assert container.read("tmp/got") == "through the socket"


def nobody_writes(read_fd: int) -> bool:
    """Whether the pipe's end is there now: no process holds its other end."""
    return bool(select.select([read_fd], [], [], 0)[0]) and os.read(read_fd, 1) == b""


@pytest.fixture
def sleeper(container: Container) -> Container:
    container.process["args"] = ["sleep", "1000"]
    return container


@pytest.mark.parametrize("how", ["run", "create"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_detached_containers_output_ends_with_it(sleeper: Container, how: str, stream: str) -> None:
    """conmon and the shim read it to its end: nobody else may hold it open, and the container must."""
    read_fd, write_fd = os.pipe()
    try:
        other = {"stdout": "stderr", "stderr": "stdout"}[stream]
        streams = {stream: write_fd, other: subprocess.DEVNULL}
        done = sleeper.run_detached(**streams) if how == "run" else sleeper.create(**streams)
        os.close(write_fd)
        assert done.status == 0
        assert not nobody_writes(read_fd)
        if how == "create":
            assert sleeper.start().status == 0
            assert not nobody_writes(read_fd)
        assert sleeper.kill("KILL").status == 0
        wait_until(lambda: nobody_writes(read_fd), "the end of the pipe")
    finally:
        os.close(read_fd)


def test_a_detached_containers_input_is_the_callers(container: Container) -> None:
    """Nothing reads it before the program does, and its end is the caller's to make."""
    container.config["root"]["readonly"] = False
    container.script("cat > /tmp/got; touch /tmp/done")
    read_fd, write_fd = os.pipe()
    assert container.create(stdin=read_fd).status == 0
    os.close(read_fd)
    os.write(write_fd, b"first ")
    assert container.start().status == 0
    os.write(write_fd, b"second")
    os.close(write_fd)
    wait_until((container.rootfs / "tmp/done").exists, "the end of its input")
    assert container.read("tmp/got") == "first second"


def test_start_holds_nothing_of_its_own_caller_open(sleeper: Container) -> None:
    """What `start` is given is not the container's: that got its streams at `create`."""
    assert sleeper.create().status == 0
    read_fd, write_fd = os.pipe()
    try:
        result = sleeper.runtime("start", sleeper.id, stdin=subprocess.DEVNULL, stdout=write_fd, stderr=write_fd)
        os.close(write_fd)
        assert result.status == 0
        assert nobody_writes(read_fd)
    finally:
        os.close(read_fd)


@pytest.mark.runc_since("1.2", "--pidfd-socket")
@pytest.mark.parametrize("how", ["run", "create"])
def test_pidfd_socket(sleeper: Container, scratch: Path, how: str) -> None:
    """An engine that holds the pidfd can't be fooled by a PID that another process has got."""
    with DescriptorSocket(scratch / "pidfd.sock") as listener:
        flags = ["--pidfd-socket", str(listener.path)]
        done = sleeper.run_detached(*flags) if how == "run" else sleeper.create(*flags)
        assert done.status == 0
        message, pidfd = listener.receive_descriptor()
    try:
        assert message == "standard"
        assert f"Pid:\t{sleeper.pid()}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        sleeper.wait_for("stopped")
    finally:
        os.close(pidfd)


@pytest.mark.runc_since("1.2", "--pidfd-socket")
def test_a_pidfd_socket_that_is_not_there(sleeper: Container, scratch: Path, leftovers: Leftovers) -> None:
    result = sleeper.run_detached("--pidfd-socket", str(scratch / "missing"))
    assert result.status == 1
    assert "missing" in result.stderr
    assert leftovers.found() == []


@pytest.mark.parametrize("verb", ["run", "create"])
def test_a_pid_file_is_replaced(sleeper: Container, tmp_path: Path, verb: str) -> None:
    """Renamed into place, so that a reader never sees half a number, nor an old one once the verb has returned."""
    (tmp_path / "pid").write_text("1234567890")
    flags = ["--pid-file", str(tmp_path / "pid")]
    assert (sleeper.run_detached(*flags) if verb == "run" else sleeper.create(*flags)).status == 0
    assert (tmp_path / "pid").read_text() == str(sleeper.pid())


def test_a_relative_pid_file(sleeper: Container, tmp_path: Path) -> None:
    assert sleeper.run_detached("--pid-file", "pid", cwd=tmp_path).status == 0
    assert (tmp_path / "pid").read_text() == str(sleeper.pid())
