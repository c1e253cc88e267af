"""launch/console.py against real devpts mounts and real sockets."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyruntime.errors import ConfigError, KernelError, ProtocolError, UsageError
from pyruntime.launch import console


@pytest.fixture
def root_fd() -> Iterator[int]:
    """The host's root, whose /dev/pts is a devpts as good as any."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def pty(root_fd: int) -> Iterator[tuple[int, int]]:
    pair = console.open_pty(root_fd)
    yield pair
    for fd in pair:
        os.close(fd)


def open_fds() -> set[str]:
    return {
        f"{fd}->{os.readlink(f'/proc/self/fd/{fd}')}"
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    }


def run_isolated(script: str, *arguments: str) -> None:
    """Run Python in a mount namespace of its own; an assertion in it fails the test."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_both_ends_are_one_terminal(pty: tuple[int, int]) -> None:
    master_fd, slave_fd = pty
    os.write(slave_fd, b"hello\n")
    assert os.read(master_fd, 100) == b"hello\r\n"
    assert os.ttyname(slave_fd) == f"/dev/pts/{console.pty_number(master_fd)}"


def test_neither_end_survives_an_exec_nor_becomes_our_terminal(pty: tuple[int, int]) -> None:
    assert not any(os.get_inheritable(fd) for fd in pty)
    # Only a session leader without a terminal would get one by opening: make one and look.
    script = (
        "import os; os.setsid(); from pyruntime.launch import console\n"
        "console.open_pty(os.open('/', os.O_PATH))\n"
        "try: os.open('/dev/tty', os.O_RDWR)\n"
        "except OSError as error: assert error.errno == 6, error\n"
        "else: raise SystemExit('a terminal was acquired by opening')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_window_size(pty: tuple[int, int]) -> None:
    master_fd, slave_fd = pty
    console.set_window_size(master_fd, 33, 77)
    assert os.get_terminal_size(slave_fd) == (77, 33)
    console.set_window_size(master_fd, 65535, 65535)
    assert os.get_terminal_size(slave_fd) == (65535, 65535)


@pytest.mark.parametrize(("rows", "columns"), [(65536, 1), (1, 65536), (-1, 1), (2**32, 2**32)])
def test_window_size_out_of_range(pty: tuple[int, int], rows: int, columns: int) -> None:
    with pytest.raises(ConfigError, match="65535"):
        console.set_window_size(pty[0], rows, columns)


def test_window_size_of_no_terminal() -> None:
    with open("/dev/null") as null, pytest.raises(KernelError, match="TIOCSWINSZ") as caught:
        console.set_window_size(null.fileno(), 1, 1)
    assert caught.value.errno == errno.ENOTTY


# What an image may put where the devpts is looked for. Each is refused before anything of it is opened for reading.


def test_no_dev_pts(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    before = open_fds()
    with pytest.raises(KernelError, match="type devpts on /dev/pts"):
        console.open_pty(fd)
    assert open_fds() == before
    os.close(fd)


def test_dev_pts_is_an_ordinary_directory_with_a_fifo_in_it(tmp_path: Path) -> None:
    (tmp_path / "dev/pts").mkdir(parents=True)
    os.mkfifo(tmp_path / "dev/pts/ptmx")  # opening it would wait for ever
    fd = os.open(tmp_path, os.O_PATH)
    before = open_fds()
    with pytest.raises(ConfigError, match="not a devpts"):
        console.open_pty(fd)
    assert open_fds() == before
    os.close(fd)


@pytest.mark.parametrize("link", ["dev", "dev/pts"])
def test_a_symbolic_link_on_the_way(tmp_path: Path, link: str) -> None:
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to("/" + link)
    fd = os.open(tmp_path, os.O_PATH)
    with pytest.raises(KernelError) as caught:
        console.open_pty(fd)
    assert caught.value.errno == errno.ELOOP
    os.close(fd)


@pytest.mark.needs("root")
def test_ptmx_covered_by_a_mount(tmp_path: Path) -> None:
    """CVE-2025-52565's kin: what lies over `ptmx` is not the multiplexer."""
    script = """
import os, subprocess, sys
from pyruntime.errors import KernelError
from pyruntime.launch import console
root = sys.argv[1]
os.makedirs(root + "/dev/pts")
subprocess.run(["mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", root + "/dev/pts"], check=True)
fd = os.open(root, os.O_PATH)
master_fd, slave_fd = console.open_pty(fd)  # a fresh instance counts from 0
assert console.pty_number(master_fd) == 0
assert os.path.samestat(os.stat(root + "/dev/pts/0"), os.fstat(slave_fd))
subprocess.run(["mount", "--bind", "/dev/null", root + "/dev/pts/ptmx"], check=True)
try:
    console.open_pty(fd)
except KernelError as error:
    assert error.errno == 18, error  # EXDEV
else:
    raise SystemExit("a covered ptmx was opened")
subprocess.run(["umount", root + "/dev/pts/ptmx"], check=True)
# The slave's name covered with something else: the peer is taken from the master all the same.
subprocess.run(["mount", "--bind", "/dev/null", root + "/dev/pts/0"], check=True)
peer_fd = console.open_peer(master_fd)
assert os.isatty(peer_fd)
"""
    run_isolated(script, str(tmp_path))


def test_peer_of_what_is_no_master(pty: tuple[int, int]) -> None:
    with pytest.raises(ProtocolError, match="not the master"):
        console.open_peer(pty[1])
    with open("/dev/zero", "rb") as zero, pytest.raises(ProtocolError, match="not the master"):
        console.open_peer(zero.fileno())


def become(code: str) -> subprocess.CompletedProcess[str]:
    script = f"""
import os, sys
from pyruntime.launch import console
master_fd, slave_fd = console.open_pty(os.open("/", os.O_PATH))
pid = os.fork()
if pid == 0:
    os.setsid()
    {code}
    look = "test -t 0 && test -t 1 && test -t 2 && echo via-tty > /dev/tty; ls /proc/self/fd | wc -w"
    os.execlp("sh", "sh", "-c", look)
os.close(slave_fd)
seen = b""
while True:
    try:
        seen += os.read(master_fd, 1000)
    except OSError:
        break
_, status = os.waitpid(pid, 0)
sys.stdout.write(seen.decode())
sys.exit(os.waitstatus_to_exitcode(status))
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_become_controlling() -> None:
    done = become("console.become_controlling(slave_fd)")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert first == "via-tty"
    assert int(second) == 4, "0, 1, 2 and that of ls itself"


def test_become_controlling_where_the_slave_is_stdin_already() -> None:
    done = become("os.dup2(slave_fd, 0, inheritable=False); os.close(slave_fd); console.become_controlling(0)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["via-tty", "4"]


def test_become_controlling_needs_a_session(pty: tuple[int, int]) -> None:
    script = (
        "import os, sys; from pyruntime.launch import console; from pyruntime.errors import KernelError\n"
        "pid = os.fork()\n"
        "if pid: sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "_, slave_fd = console.open_pty(os.open('/', os.O_PATH))\n"
        "try: console.become_controlling(slave_fd)\n"
        "except KernelError as error: sys.exit(0 if error.errno == 1 else 3)\n"
        "sys.exit(2)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


@pytest.mark.needs("root")
def test_own_stdio(tmp_path: Path) -> None:
    target = tmp_path / "out"
    script = (
        "from pyruntime.launch import credentials, tape; made = tape.Tape(); "
        "process = credentials.Process(made, None, 0, 0, -1, rootless=False); "
        "credentials._own_stdio(process, 4711); made.perform()"
    )
    null_before = os.stat("/dev/null").st_uid
    with target.open("w") as out:
        subprocess.run(
            [sys.executable, "-c", script], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, check=True
        )
    assert target.stat().st_uid == 4711
    assert os.stat("/dev/null").st_uid == null_before


# The console socket


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "console.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        yield server, path


def test_one_message_with_the_master_and_the_name(listener: tuple[socket.socket, str], pty: tuple[int, int]) -> None:
    server, path = listener
    fd = console.connect_console_socket(path)
    assert not os.get_inheritable(fd)
    console.send_master(fd, pty[0], "/dev/pts/7")
    os.fstat(fd), os.fstat(pty[0])  # both are still ours
    os.close(fd)
    peer, _ = server.accept()
    with peer:
        data, control, flags, _ = peer.recvmsg(4096, socket.CMSG_SPACE(64))
        assert (data, flags & socket.MSG_CTRUNC) == (b"/dev/pts/7", 0)
        assert len(control) == 1
        fds = array.array("i", control[0][2])
        assert len(fds) == 1
        assert peer.recv(10) == b"", "one message, then the end"
    os.write(pty[1], b"x")
    assert os.read(fds[0], 10) == b"x"
    os.close(fds[0])


def test_a_path_longer_than_sun_path(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(3):
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)
    name = "s" * 200
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        short = tmp_path / "s"
        server.bind(str(short))
        short.rename(deep / name)
        server.listen()
        os.close(console.connect_console_socket(str(deep / name)))
        assert server.accept()[0].recv(1) == b""


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_text(""), "not a socket"),
        (lambda path: path.mkdir(), "not a socket"),
        (os.mkfifo, "not a socket"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
)
def test_what_is_no_socket(tmp_path: Path, make: object, told: str) -> None:
    path = tmp_path / "x"
    make(path)  # type: ignore[operator]
    before = open_fds()
    with pytest.raises(UsageError, match=told) as caught:
        console.connect_console_socket(str(path))
    assert caught.value.where == "--console-socket"
    assert str(path) in str(caught.value)
    assert open_fds() == before


@pytest.mark.parametrize("path", ["", "@abstract", "a\0b", "\0abstract"])
def test_no_abstract_or_empty_names(path: str) -> None:
    with pytest.raises(UsageError):
        console.connect_console_socket(path)


def test_nobody_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "dead")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
    before = open_fds()
    with pytest.raises(KernelError, match="nobody listens") as caught:
        console.connect_console_socket(path)
    assert caught.value.errno == errno.ECONNREFUSED
    assert open_fds() == before


def test_a_datagram_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "dgram"))
        with pytest.raises(KernelError, match="stream socket"):
            console.connect_console_socket(str(tmp_path / "dgram"))


def test_send_to_a_listener_that_left(pty: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(KernelError, match="is gone") as caught:
        console.send_master(ours.fileno(), pty[0], "/dev/pts/0")
    assert caught.value.errno == errno.EPIPE


# Between our own child and parent


def test_send_and_receive(pty: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        console.send_master(theirs.fileno(), pty[0], "/dev/pts/\udce9")
        fd, name = console.receive_master(ours.fileno())
    assert name == "/dev/pts/\udce9"
    assert os.path.sameopenfile(fd, pty[0])
    assert not os.get_inheritable(fd)
    os.close(fd)


def send_fds(channel: socket.socket, fds: list[int]) -> None:
    channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else [])


@pytest.mark.parametrize("count", [0, 2, 3, 100])
def test_only_one_descriptor_is_taken(pty: tuple[int, int], count: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = open_fds()
        send_fds(theirs, [pty[0]] * count)
        with pytest.raises(ProtocolError):
            console.receive_master(ours.fileno())
        assert open_fds() == before


def test_only_a_master_is_taken(pty: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/dev/null") as null:
        before = open_fds()
        for fd in (pty[1], null.fileno(), ours.fileno()):
            send_fds(theirs, [fd])
            with pytest.raises(ProtocolError, match="not the master"):
                console.receive_master(ours.fileno())
        assert open_fds() == before


def test_the_sender_died() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(ProtocolError, match="ended before"):
        console.receive_master(ours.fileno())


def test_new_terminal_has_the_kernels_usual_modes(pty: tuple[int, int]) -> None:
    modes = termios.tcgetattr(pty[1])
    assert modes[1] & termios.OPOST and modes[1] & termios.ONLCR
    assert modes[3] & termios.ICANON and modes[3] & termios.ECHO
    assert stat.S_ISCHR(os.fstat(pty[1]).st_mode)
    assert fcntl.fcntl(pty[1], fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
