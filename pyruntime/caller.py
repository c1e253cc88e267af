"""What a start owes its caller, whether it makes a container or enters one.

A file with the process's number, a descriptor of the process, somebody who takes the terminal, descriptors to inherit.

Read beside runc:utils_linux.go:/^func .*runner.*run/.
"""

from __future__ import annotations

import posix

from pyruntime.errors import Error, KernelError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class CallerOptions:
    """What a caller can say about any start: the options of the command line, by their names.

    preserve_fds descriptors are inherited, from 3 on, after listen_fds that a service manager has opened for it.
    """

    console_socket: str = ""
    detach: bool = False
    listen_fds: int = 0
    pid_file: str = ""
    pidfd_socket: str = ""
    preserve_fds: int = 0

    _has_pid_file = False  # written by us, who take it away if the start fails

    def __init__(self, **named: Any) -> None:
        for name in named:
            if callable(getattr(self, name, callable)):
                raise TypeError(f"unknown option {name!r}")
        self.__dict__.update(named)

    def check(self, *, terminal: bool) -> None:
        """Refuse what cannot be given to the caller, before anything is made. Raises UsageError."""
        _check_console(terminal, detach=self.detach, console_socket=self.console_socket)
        _check_preserved(self.listen_fds, self.preserve_fds)

    def connect_console(self) -> int:
        """A descriptor connected to who takes the terminal; -1 if nobody is named. Raises as connect_console_socket."""
        if not self.console_socket:
            return -1
        from pyruntime.launch.console import connect_console_socket

        return connect_console_socket(self.console_socket)

    def announce(self, pid: int, pidfd: int, kind: str) -> None:
        """Tell others of the process: --pid-file, and --pidfd-socket with runc's word for the `kind` of start.

        Raises KernelError; UsageError if there is no such socket.
        """
        if self.pid_file:
            _write_pid_file(self.pid_file, pid)
            self._has_pid_file = True
        if self.pidfd_socket:
            _send_pidfd(self.pidfd_socket, pidfd, kind)

    def withdraw(self) -> None:
        """Take back what `announce` has told, as far as that can be: there will be no process. Raises OSError."""
        if self._has_pid_file:
            posix.unlink(self.pid_file)


def _check_console(terminal: bool, *, detach: bool, console_socket: str) -> None:
    """Whoever leaves must say who takes the terminal. runc:utils_linux.go:/^func .*runner.*checkTerminal/"""
    option = "--console-socket"
    if detach and terminal and not console_socket:
        raise UsageError("cannot allocate tty if pyruntime will detach without setting console socket", where=option)
    if console_socket and not (detach and terminal):
        raise UsageError("cannot use console socket if pyruntime will not detach or allocate tty", where=option)


def _check_preserved(listen_fds: int, preserve_fds: int) -> None:
    """Descriptors that are to be inherited must be there, and the caller's: ours, such as --log, close on exec.

    runc:utils_linux.go:/^func .*runner.*run/
    """
    for fd in range(3, 3 + listen_fds + preserve_fds):
        try:
            is_there = posix.get_inheritable(fd)
        except OSError:
            is_there = False
        if not is_there:
            where = "--preserve-fds" if fd >= 3 + listen_fds else "$LISTEN_FDS"
            raise UsageError(f"descriptor {fd} is to be preserved and is not open", where=where)


def _write_pid_file(path: str, pid: int) -> None:
    """Digits only, and never half of them: written beside and renamed. runc:utils_linux.go:/^func createPidFile/"""
    directory, _, name = path.rpartition("/")
    temporary = f"{directory}/.{name}" if directory else f".{name}"
    try:
        fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o666)
        try:
            posix.write(fd, str(pid).encode())
        finally:
            posix.close(fd)
        posix.rename(temporary, path)
    except OSError as error:
        raise KernelError(f"write {path!r}", error.errno or 0, where="--pid-file") from error


def _send_pidfd(path: str, pidfd: int, kind: str) -> None:
    """Send it with a word: "standard" for a container's process, "setns" for one that enters.

    runc:libcontainer/init_linux.go:/^func setupPidfd/
    """
    from pyruntime.launch.console import connect_console_socket, send_master

    try:
        socket_fd = connect_console_socket(path)
    except Error as error:
        error.where = "--pidfd-socket"
        raise
    try:
        send_master(socket_fd, pidfd, kind)
    finally:
        posix.close(socket_fd)
