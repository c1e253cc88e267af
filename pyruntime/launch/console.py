"""The container's terminal: a pty out of its own devpts, and the hand-over of the pty's master to whoever shows it.

The pty is made inside the container, so that /dev/pts/0 exists there and ttyname(3) works. But the image is untrusted:
whatever is found by a name may have been swapped (CVE-2025-52565: a symbolic link as /dev/pts/N). Three guards:

1. the directory is opened first and must be a devpts; only the kernel makes files in one, so `ptmx` in it is the real
   one unless something was mounted over it, which RESOLVE_NO_XDEV refuses;
2. the slave is never opened by name: TIOCGPTPEER gives the peer of the master that we hold;
3. both ends are compared with the device numbers they must have, before anything is done with them.

Read beside runc:libcontainer/console_linux.go, runc:docs/terminals.md and pts(4).
"""

from __future__ import annotations

import _socket
import _struct
import errno
import posix
from fcntl import ioctl

from pyruntime.errors import ConfigError, Error, KernelError, ProtocolError, UsageError
from pyruntime.launch.paths import proc_fd
from pyruntime.launch.perform import performs
from pyruntime.launch.sync import TERMINAL
from pyruntime.linux import constants as c
from pyruntime.linux import proc, syscalls
from pyruntime.plan.join import OpenTerminalInside
from pyruntime.plan.process import OpenTerminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.join import Newcomer
    from pyruntime.launch.rootfs import Rootfs

_PTMX_DEVICE = (5, 2)  # TTYAUX_MAJOR, and the minor that devpts gives it
_SLAVE_MAJOR = 136  # UNIX98_PTY_SLAVE_MAJOR; the minor is the pty's number
_TERMINAL = posix.O_RDWR | posix.O_NOCTTY | posix.O_CLOEXEC
_NO_DEVPTS = "a terminal needs a mount of type devpts on /dev/pts"
_LONGEST_NAME = 4096  # PATH_MAX; what is received with a descriptor is never longer


@performs(OpenTerminal)
def open_terminal(step: OpenTerminal, rootfs: Rootfs) -> None:
    """A pty in the container's devpts: its master for the one outside, its slave for us and as /dev/console.

    runc:libcontainer/init_linux.go:/^func setupConsole/
    """
    master_fd, slave_fd = open_pty(rootfs.root.fd)
    console_fd = rootfs.root.make_file("/dev/console", 0o666)
    syscalls.mount(proc_fd(slave_fd), proc_fd(console_fd), "", c.MS_BIND, "")
    posix.close(console_fd)
    _hand_over(step, master_fd, rootfs)
    become_controlling(slave_fd)


@performs(OpenTerminalInside)
def open_terminal_inside(step: OpenTerminalInside, newcomer: Newcomer) -> None:
    """For `exec`: opened by the parent; /dev/console stays the init's.

    The hop's child will make the terminal its controlling one. runc:libcontainer/setns_init_linux.go
    """
    newcomer.master_fd, slave_fd = open_pty(newcomer.root.fd)
    newcomer.fds.append(slave_fd)
    newcomer.process.terminal_fd = slave_fd
    if not newcomer.process.sees_ids and posix.geteuid() == 0:
        _give_to_inner_root(slave_fd, newcomer.init_pid)
    _resize(step, newcomer.master_fd)
    if newcomer.console_fd >= 0:
        send_master(newcomer.console_fd, newcomer.master_fd, f"/dev/pts/{pty_number(newcomer.master_fd)}")
        posix.close(newcomer.master_fd)
        newcomer.master_fd = -1
    for number in (0, 1, 2):
        newcomer.tape.call(c.SYS_dup3, slave_fd, number, 0)


def _give_to_inner_root(slave_fd: int, pid: int) -> None:
    """A pty belongs to who has opened it; in the container that is nobody, whose files nobody there can give away."""
    for line in proc.read_file(f"/proc/{pid}/uid_map").splitlines():
        inside, outside, _ = map(int, line.split())
        if inside == 0:
            posix.fchown(slave_fd, outside, -1)


def _hand_over(step: OpenTerminal, master_fd: int, rootfs: Rootfs) -> None:
    """Size the terminal, and give its master to who shows it."""
    _resize(step, master_fd)
    name = f"/dev/pts/{pty_number(master_fd)}"
    if rootfs.console_fd >= 0:
        send_master(rootfs.console_fd, master_fd, name)
        posix.close(rootfs.console_fd)
    else:
        rootfs.channel.send(TERMINAL)
        send_master(rootfs.channel.fd, master_fd, name)
    posix.close(master_fd)


def _resize(step: OpenTerminal | OpenTerminalInside, master_fd: int) -> None:
    if step.rows or step.columns:
        set_window_size(master_fd, step.rows, step.columns)


def open_pty(rootfs_fd: int) -> tuple[int, int]:
    """Make a pty in the devpts that is mounted below `rootfs_fd` (a directory, O_PATH will do): (master_fd, slave_fd).

    Both are the caller's to close. Raises KernelError for the call that failed, ConfigError if /dev/pts is no devpts.
    Companion: runc:libcontainer/console_linux.go:/^func safeAllocPty/.
    """
    master_fd = _open_ptmx(rootfs_fd)
    try:
        return master_fd, open_peer(master_fd)
    except BaseException:
        posix.close(master_fd)
        raise


def open_peer(master_fd: int) -> int:
    """Unlock the pty and open its slave through the master, in any mount namespace. See TIOCGPTPEER in ioctl_tty(2).

    The descriptor is the caller's to close. Raises KernelError; ProtocolError if `master_fd` is no pty's master.
    """
    number = pty_number(master_fd)
    _ioctl(master_fd, "TIOCSPTLCK", _struct.pack("i", 0))
    slave_fd = _ioctl(master_fd, "TIOCGPTPEER", _TERMINAL)
    try:
        if syscalls.fstatfs_type(slave_fd) != c.DEVPTS_SUPER_MAGIC or _device(slave_fd) != (_SLAVE_MAJOR, number):
            raise ProtocolError(f"the peer of pty {number} is no terminal of a devpts")
    except BaseException:
        posix.close(slave_fd)
        raise
    return slave_fd


def pty_number(master_fd: int) -> int:
    """The N of /dev/pts/N. Raises ProtocolError if `master_fd` is no pty's master."""
    try:
        answer = ioctl(master_fd, c.TIOCGPTN, bytes(4))
    except OSError as error:
        raise ProtocolError(f"descriptor {master_fd} is not the master of a pty: {error.strerror}") from None
    return int(_struct.unpack("I", answer)[0])


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """Set the size of a terminal, in characters, through either end. See TIOCSWINSZ in ioctl_tty(2).

    Raises KernelError; ConfigError where the kernel's 16 bits do not hold the number (runc cuts it).
    """
    if not (0 <= rows <= 0xFFFF and 0 <= columns <= 0xFFFF):
        raise ConfigError(f"a terminal of {rows} rows and {columns} columns: each is at most 65535")
    _ioctl(fd, "TIOCSWINSZ", _struct.pack("HHHH", rows, columns, 0, 0))


def become_controlling(slave_fd: int) -> None:
    """Make the terminal the controlling one of this session, whose leader we must be, and our stdin, stdout and stderr.

    `slave_fd` is taken over: it is closed, unless it is one of the three itself. Raises KernelError; EPERM: not a
    session leader, or one that has a terminal. Companion: runc:libcontainer/console_linux.go:/^func dupStdio/.
    """
    _ioctl(slave_fd, "TIOCSCTTY", 0)
    become_stdio(slave_fd)


def become_stdio(slave_fd: int) -> None:
    """Make the terminal our stdin, stdout and stderr; `slave_fd` is taken over, as by `become_controlling`."""
    for number in (0, 1, 2):
        if number == slave_fd:
            posix.set_inheritable(number, True)  # dup2 onto itself would leave CLOEXEC as it is
        else:
            posix.dup2(slave_fd, number)
    if slave_fd > 2:
        posix.close(slave_fd)


def connect_console_socket(path: str) -> int:
    """Connect to the listener that waits at `--console-socket`: the descriptor, the caller's to close.

    Done before the container is made, so that a wrong path costs nothing. The path may be longer than the 107 bytes
    that unix(7) allows. Raises UsageError: no such file, not a socket; KernelError: nobody listens. Abstract names do
    not exist here: anyone in the network namespace may take one. Companion: runc:utils_linux.go:/^func setupIO/.
    """
    option = "--console-socket"
    try:
        path_fd = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path!r}: {getattr(error, 'strerror', None) or error}", where=option) from None
    try:
        if posix.fstat(path_fd).st_mode & c.S_IFMT != c.S_IFSOCK:
            raise UsageError(f"{path!r} is not a socket", where=option)
        console = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            console.connect(f"/proc/self/fd/{path_fd}")  # the very file that was looked at, however long its name
        except OSError as error:
            console.close()
            number = error.errno or 0
            raise KernelError(f"connect({path!r})", number, where=option, hint=_CONNECT.get(number, "")) from None
    finally:
        posix.close(path_fd)
    return console.detach()


_CONNECT = {
    errno.ECONNREFUSED: "nobody listens on this socket",
    errno.EPROTOTYPE: "it must be a stream socket",
}


def send_master(socket_fd: int, master_fd: int, name: str) -> None:
    """Send the master with the slave's name ("/dev/pts/0") as one message, the way runc, crun and conmon expect it.

    Both descriptors stay the caller's. Raises KernelError. Companion: runc:internal/cmsg/cmsg.go:/^func SendRawFd/.
    """
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _struct.pack("i", master_fd))]
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, socket_fd)
    try:
        channel.sendmsg([name.encode("utf-8", "surrogateescape")], rights, _socket.MSG_NOSIGNAL)
    except OSError as error:
        hint = "whoever listened on the console socket is gone" if error.errno == errno.EPIPE else ""
        raise KernelError(f"sendmsg({name!r}, SCM_RIGHTS)", error.errno or 0, hint=hint) from None
    finally:
        channel.detach()


def receive_master(socket_fd: int) -> tuple[int, str]:
    """Receive what `send_master` sent: (master_fd, the slave's name). The descriptor is the caller's to close.

    The sender works inside the container by then, so exactly one descriptor is accepted, which must be a pty's master;
    others are closed. Raises ProtocolError, also when the sender is gone.
    Companion: runc:internal/cmsg/cmsg.go:/^func RecvFile/.
    """
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, socket_fd)
    try:
        room = _socket.CMSG_SPACE(4 * 2)  # room for a second one, to notice it
        data, control, flags, _ = channel.recvmsg(_LONGEST_NAME, room, _socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise ProtocolError(f"no terminal came from the container: {error.strerror}") from None
    finally:
        channel.detach()
    if not data:
        raise ProtocolError("the container ended before its terminal was there")
    fds = _descriptors(control)
    try:
        if len(fds) != 1 or flags & _socket.MSG_CTRUNC:
            raise ProtocolError(f"the container sent {len(fds)} descriptors in place of one terminal")
        pty_number(fds[0])
    except Error:
        for fd in fds:
            posix.close(fd)
        raise
    return fds[0], data.decode("utf-8", "surrogateescape")


def _open_ptmx(rootfs_fd: int) -> int:
    """Open dev/pts/ptmx read-write, sure that it is the multiplexer of a devpts and not something that lies there."""
    inside = c.RESOLVE_IN_ROOT | c.RESOLVE_NO_SYMLINKS
    try:
        pts_fd = syscalls.openat2(rootfs_fd, "dev/pts", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC, 0, inside)
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            error.hint = error.hint or _NO_DEVPTS
        raise
    try:
        if syscalls.fstatfs_type(pts_fd) != c.DEVPTS_SUPER_MAGIC:
            raise ConfigError("/dev/pts in the container is not a devpts", hint=_NO_DEVPTS)
        beneath = c.RESOLVE_BENEATH | c.RESOLVE_NO_SYMLINKS | c.RESOLVE_NO_XDEV
        master_fd = syscalls.openat2(pts_fd, "ptmx", _TERMINAL, 0, beneath)
    finally:
        posix.close(pts_fd)
    if _device(master_fd) != _PTMX_DEVICE:
        posix.close(master_fd)
        raise ConfigError("/dev/pts/ptmx in the container is not a pty multiplexer", hint=_NO_DEVPTS)
    return master_fd


def _device(fd: int) -> tuple[int, int] | None:
    """Major and minor of a character device, None for all else: a regular file has an st_rdev too."""
    status = posix.fstat(fd)
    if status.st_mode & c.S_IFMT != c.S_IFCHR:
        return None
    return posix.major(status.st_rdev), posix.minor(status.st_rdev)


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    """All descriptors of a received message."""
    fds: list[int] = []
    for level, kind, data in control:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.extend(fd for (fd,) in _struct.iter_unpack("i", data[: len(data) // 4 * 4]))
    return fds


def _ioctl(fd: int, request: str, argument: int | bytes) -> int:
    """ioctl(2) by the request's name, which a failure tells. A buffer is only read from; the answer is then 0."""
    try:
        answer = ioctl(fd, getattr(c, request), argument)
    except OSError as error:
        raise KernelError(f"ioctl({fd}, {request})", error.errno or 0) from None
    return answer if isinstance(answer, int) else 0
