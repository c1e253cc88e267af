"""Readiness: what the container tells us by a socket, we tell the service manager that started us. See sd_notify(3).

    systemd ($NOTIFY_SOCKET)       pyruntime                              container (/run/notify/notify.sock)
      |                              | <---------------- READY=1 ----------- |
      | <------- READY=1 ----------- |
      | <------- MAINPID=1234 ------ |  who is to be watched from now on: the container's init if we are about to leave
      | <------- BARRIER=1 --------- |  with the writing end of a pipe
      | -------- closes it --------> |  all of the above has been read: who sent it may end

The container reaches our socket only, in a directory that is all it sees, and READY=1 is all that is passed on.
Without a private socket systemd would have to take messages from any process of the container's.

Imported only where NOTIFY_SOCKET is set. Read beside runc:notify_socket.go.
"""

from __future__ import annotations

import posix
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, socket
from _struct import pack
from select import POLLIN, poll

from pyruntime.errors import KernelError, errno_name
from pyruntime.report import warn

SOCKET_NAME = "notify.sock"
READY = b"READY=1"
_LONGEST_MESSAGE = 4096  # as in runc and systemd
_SEND_SECONDS = 5.0  # how long a service manager that does not read may hold us up
_BARRIER_SECONDS = 30.0


class NotifySocket:
    """The socket that a container tells of its readiness, and the service manager's, which is told of it."""

    __slots__ = ("_host", "_socket")

    def __init__(self, directory_path: str, host_address: str) -> None:
        """Listen in `directory_path`; anyone may write to the socket there. `host_address` is $NOTIFY_SOCKET.

        Raises KernelError if ours can't be made. That the other can't be reached is told: the container runs even so.
        """
        self._socket = _listen(directory_path)
        self._host: socket | None = None
        host = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        try:
            # An "@" stands for the NUL byte of an abstract address, as in sd_notify(3).
            host.connect("\0" + host_address[1:] if host_address[0] == "@" else host_address)
        except OSError as error:
            host.close()
            _complain(f"connect({host_address!r})", error)
            return
        host.settimeout(_SEND_SECONDS)
        self._host = host

    @property
    def fd(self) -> int:
        """Our socket, to be polled; -1 when there is nothing to wait for any more."""
        return self._socket.fileno() if self._host is not None else -1

    def close(self) -> None:
        """Close both. A second call does nothing."""
        self._socket.close()
        if self._host is not None:
            self._host.close()
            self._host = None

    def serve(self, main_pid: int, *, leaving: bool = False) -> None:
        """Read what the container has sent, without waiting. Once it is ready, tell so, and close.

        main_pid: who is the service from now on. leaving: wait until the service manager has read it.
        """
        if self._host is None or not self._is_ready():
            return
        try:
            self._host.send(READY + b"\n")
            self._host.send(b"MAINPID=%d\n" % main_pid)
            _send_barrier(self._host, _BARRIER_SECONDS if leaving else 0)
        except OSError as error:
            _complain("send(READY=1)", error)
        self.close()

    def wait(self, pid: int, pidfd: int) -> None:
        """Wait until the container's init, `pid`, is ready and that has been told, or until it has ended."""
        while self.fd >= 0:
            poller = poll()
            poller.register(self.fd, POLLIN)
            poller.register(pidfd, POLLIN)
            ended = any(fd == pidfd for fd, _ in poller.poll())
            self.serve(pid, leaving=True)  # also when it has ended: it may have been ready
            if ended:
                return

    def _is_ready(self) -> bool:
        """Whether one of the messages that are waiting says so. Any line may: sd_notify(3)."""
        while True:
            try:
                message = self._socket.recv(_LONGEST_MESSAGE)
            except BlockingIOError:
                return False
            if READY in message.split(b"\n"):
                return True


def _listen(directory_path: str) -> socket:
    """Bound through a descriptor: unix(7) takes 107 bytes of a path."""
    own = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        directory_fd = posix.open(directory_path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        try:
            path = f"/proc/self/fd/{directory_fd}/{SOCKET_NAME}"
            own.bind(path)
            posix.chmod(path, 0o777)
        finally:
            posix.close(directory_fd)
    except OSError as error:
        own.close()
        raise KernelError(f"bind({directory_path + '/' + SOCKET_NAME!r})", error.errno or 0) from error
    own.setblocking(False)
    return own


def _send_barrier(host: socket, seconds: float) -> None:
    """Send the end of a pipe, and wait until whoever reads the messages comes to it and closes it.

    See sd_notify(3), sd_notify_barrier. Companion: runc:notify_socket.go:/^func sdNotifyBarrier/.
    """
    read_fd, write_fd = posix.pipe2(posix.O_CLOEXEC)
    try:
        try:
            host.sendmsg([b"BARRIER=1"], [(SOL_SOCKET, SCM_RIGHTS, pack("i", write_fd))])
        finally:
            posix.close(write_fd)
        poller = poll()
        poller.register(read_fd, POLLIN)
        if seconds and not poller.poll(seconds * 1000):
            warn(f"NOTIFY_SOCKET: nobody has confirmed the container's readiness within {seconds:.0f} seconds")
    finally:
        posix.close(read_fd)


def _complain(call: str, error: OSError) -> None:
    name = errno_name(error.errno) if error.errno else "timed out"
    warn(f"NOTIFY_SOCKET: {call}: {name}: so the service manager does not learn when the container is ready")
