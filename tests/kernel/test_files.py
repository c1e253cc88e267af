"""The wrappers that open, make and close files."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from pyruntime.errors import Error, KernelError
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from tests.kernel.child import closes_on_exec, in_child


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with a file, and a link that would lead out of it."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "secret").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "root" / "link").symlink_to("../../secret")
    return tmp_path / "root"


def test_openat2_keeps_a_link_inside_the_root(tree: Path) -> None:
    root_fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    fd = syscalls.openat2(root_fd, "link", c.O_RDONLY, resolve=c.RESOLVE_IN_ROOT)
    assert os.read(fd, 100) == b"inside"
    assert closes_on_exec(fd)
    os.close(fd)
    os.close(root_fd)


@pytest.mark.parametrize(
    ("path", "resolve", "expected"),
    [
        ("link", "RESOLVE_NO_SYMLINKS", errno.ELOOP),
        ("link", "RESOLVE_BENEATH", errno.EXDEV),
        ("../secret", "RESOLVE_BENEATH", errno.EXDEV),
        ("none", "RESOLVE_IN_ROOT", errno.ENOENT),
    ],
)
def test_openat2_refuses(tree: Path, path: str, resolve: str, expected: int) -> None:
    root_fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    with pytest.raises(KernelError) as caught:
        syscalls.openat2(root_fd, path, c.O_PATH, resolve=getattr(c, resolve))
    os.close(root_fd)
    assert caught.value.errno == expected
    told = f"openat2(dirfd={root_fd}, path='{path}', flags=O_CLOEXEC|O_PATH, resolve={resolve}): "
    assert str(caught.value).startswith(told + errno.errorcode[expected])


def test_openat2_creates_with_the_mode(tree: Path) -> None:
    fd = syscalls.openat2(c.AT_FDCWD, bytes(tree / "new"), c.O_CREAT | c.O_EXCL | c.O_WRONLY, 0o600)
    os.close(fd)
    assert stat.S_IMODE((tree / "new").stat().st_mode) == 0o600


def test_a_nul_in_a_path_is_refused(tree: Path) -> None:
    """The kernel would stop reading there, and open "secret"."""
    for path in (f"{tree}/secret\0.txt", bytes(tree / "secret") + b"\0.txt"):
        with pytest.raises(Error, match="contains a NUL"):
            syscalls.openat2(c.AT_FDCWD, path, c.O_RDONLY)


def test_close_range_closes_and_marks() -> None:
    def body() -> None:
        first, second = os.open("/", os.O_PATH), os.open("/", os.O_PATH)
        for fd in (first, second):
            os.set_inheritable(fd, True)
        syscalls.close_range(first, first, c.CLOSE_RANGE_CLOEXEC)
        assert closes_on_exec(first)
        assert not closes_on_exec(second)
        syscalls.close_range(second, 2**32 - 1)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(second)

    # The pipe of in_child is below: it was opened before.
    in_child(body)


def test_memfd_create_makes_a_file_that_can_be_sealed() -> None:
    fd = syscalls.memfd_create("pyruntime", c.MFD_ALLOW_SEALING)
    assert closes_on_exec(fd)
    os.write(fd, b"text")
    fcntl.fcntl(fd, c.F_ADD_SEALS, c.F_SEAL_WRITE | c.F_SEAL_SHRINK)
    with pytest.raises(PermissionError):
        os.write(fd, b"more")
    assert fcntl.fcntl(fd, c.F_GET_SEALS) == c.F_SEAL_WRITE | c.F_SEAL_SHRINK
    os.close(fd)


@pytest.mark.needs("CAP_MKNOD")
def test_mknodat_makes_the_device_that_was_asked_for(tmp_path: Path) -> None:
    def body() -> None:
        os.umask(0)
        directory_fd = os.open(tmp_path, os.O_PATH)
        syscalls.mknodat(directory_fd, "null", c.S_IFCHR | 0o666, os.makedev(1, 3))
        syscalls.mknodat(directory_fd, "big", c.S_IFBLK | 0o600, os.makedev(0xABC, 0x12345))
        syscalls.mknodat(directory_fd, "fifo", c.S_IFIFO | 0o600, 0)

    in_child(body)
    null, big = (tmp_path / "null").stat(), (tmp_path / "big").stat()
    assert (null.st_mode, null.st_rdev) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (big.st_mode, os.major(big.st_rdev), os.minor(big.st_rdev)) == (stat.S_IFBLK | 0o600, 0xABC, 0x12345)
    assert (tmp_path / "fifo").is_fifo()


def test_fstatfs_type_tells_the_file_system() -> None:
    for path, magic in (("/proc", c.PROC_SUPER_MAGIC), ("/sys", c.SYSFS_MAGIC), ("/proc/self/ns/net", c.NSFS_MAGIC)):
        fd = os.open(path, os.O_RDONLY)
        assert syscalls.fstatfs_type(fd) == magic
        os.close(fd)


def test_signalfd4_reads_a_blocked_signal() -> None:
    def body() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, 64})
        fd = syscalls.signalfd4(-1, 1 << signal.SIGUSR1 - 1 | 1 << 63, c.SFD_NONBLOCK)
        assert closes_on_exec(fd)
        with pytest.raises(BlockingIOError):
            os.read(fd, 128)
        for number in (signal.SIGUSR1, 64):
            os.kill(os.getpid(), number)
            assert int.from_bytes(os.read(fd, 128)[:4], "little") == number

    in_child(body)


def test_ioctl_and_socket_reach_the_kernel() -> None:
    fd = syscalls.socket(c.AF_INET, c.SOCK_DGRAM)
    assert closes_on_exec(fd)
    with pytest.raises(KernelError, match="ioctl") as caught:
        syscalls.ioctl(fd, c.TIOCGWINSZ)
    assert caught.value.errno == errno.ENOTTY
    os.close(fd)


def test_a_socket_that_is_bound_and_listens_can_be_connected_to(tmp_path: Path) -> None:
    fd = syscalls.socket(c.AF_UNIX, c.SOCK_STREAM)
    with pytest.raises(KernelError, match=r"bind\(sockfd=\d+, addr='x{108}'\)") as caught:
        syscalls.bind(fd, "x" * 108)
    assert caught.value.errno == errno.EINVAL
    syscalls.bind(fd, str(tmp_path / "socket"))
    syscalls.listen(fd, 1)
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(tmp_path / "socket"))
    os.close(fd)


def test_socketpair_connects_its_two_ends() -> None:
    one, other = syscalls.socketpair(c.AF_UNIX, c.SOCK_STREAM)
    assert closes_on_exec(one)
    assert closes_on_exec(other)
    os.write(one, b"there")
    os.write(other, b"and back")
    assert (os.read(other, 100), os.read(one, 100)) == (b"there", b"and back")
    os.close(one)
    assert os.read(other, 100) == b""
    os.close(other)


@pytest.mark.needs("root")
def test_bpf_reads_the_attributes() -> None:
    """An array map of one int: its descriptor comes back, and one of an unknown kind is refused."""
    bpf_map_type_array = 2
    fd = syscalls.bpf(c.BPF_MAP_CREATE, b"".join(n.to_bytes(4, "little") for n in (bpf_map_type_array, 4, 4, 1)))
    assert closes_on_exec(fd)
    assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:bpf-map"
    os.close(fd)
    with pytest.raises(KernelError, match=r"bpf\(cmd=BPF_MAP_CREATE"):
        syscalls.bpf(c.BPF_MAP_CREATE, bytes(ctypes.sizeof(ctypes.c_int) * 4))
