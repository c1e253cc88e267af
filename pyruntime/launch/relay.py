"""Copies bytes between the caller's stdin and stdout and the container's terminal, and never waits for either side.

The supervisor must go on forwarding signals while a slow reader holds up the output, so no call here may block. stdin
and stdout are shared with the caller (often they are one open file description), so O_NONBLOCK may not be set on them:
they are opened a second time through /proc where that is possible, else written in small bits after poll(2) said so.

Each direction holds at most one buffer and reads nothing while that is not empty: a slow side slows the other down.

Read beside runc:tty.go, which has a goroutine per direction, and select_tut(2).
"""

from __future__ import annotations

import posix
import select
import termios
from errno import EIO, EPIPE

from pyruntime.errors import KernelError, errno_name
from pyruntime.launch.console import open_peer
from pyruntime.linux import constants as c
from pyruntime.report import warn

_CHUNK = 1 << 16
_PIPE_BUF = 4096  # POLLOUT on a pipe or socket promises room for so much
# A pty holds less than this after its last writer is gone (the kernel's limit is 64 KiB a direction). More than that
# comes from processes that outlive the container, and might never end.
_DRAIN_LIMIT = 1 << 17
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR | select.POLLNVAL
_WRITABLE = select.POLLOUT | select.POLLHUP | select.POLLERR | select.POLLNVAL
_PTMX = posix.makedev(5, 2)


class Relay:
    """One container terminal, shown on stdin and stdout. `master_fd` is taken over; `close` closes it."""

    __slots__ = (
        "_drain_budget",
        "_from_stdin",
        "_held_fd",
        "_input",
        "_input_open",
        "_is_draining",
        "_last_input",
        "_master_fd",
        "_output",
        "_to_stdout",
    )

    def __init__(self, master_fd: int, stdin_fd: int = 0, stdout_fd: int = 1) -> None:
        self._master_fd = master_fd
        posix.set_blocking(master_fd, False)
        # Programs such as systemd close their terminal and open it again. While we hold the slave, too, the master
        # reports no hang-up in between; the end is then known by the end of the container's init.
        self._held_fd = open_peer(master_fd)
        self._input = _Stream(stdin_fd, posix.O_RDONLY)
        self._output = _Stream(stdout_fd, posix.O_WRONLY)
        self._input_open = True
        self._from_stdin = b""
        self._last_input = b"\n"
        self._to_stdout = b""
        self._is_draining = False
        self._drain_budget = _DRAIN_LIMIT

    @property
    def master_fd(self) -> int:
        """The container's terminal, -1 after `hang_up`."""
        return self._master_fd

    def register(self, poll: select.poll) -> None:
        """Tell `poll` what we wait for now. A descriptor of no use is left out: its hang-up would wake us for ever."""
        if self._master_fd < 0:
            return
        events = 0 if self._to_stdout else select.POLLIN
        if self._from_stdin:
            events |= select.POLLOUT
        elif self._input_open:
            poll.register(self._input.fd, select.POLLIN)
        if events:
            poll.register(self._master_fd, events)
        if self._to_stdout:
            poll.register(self._output.fd, select.POLLOUT)

    def copy(self, ready: dict[int, int]) -> None:
        """Move what can be moved without waiting, as poll(2) found it: {descriptor: events}."""
        if self._to_stdout and ready.get(self._output.fd, 0) & _WRITABLE:
            self._write_stdout()
        if not self._to_stdout and ready.get(self._master_fd, 0) & _READABLE:
            self._read_master()
        if self._input_open and not self._from_stdin and ready.get(self._input.fd, 0) & _READABLE:
            self._read_stdin()
        elif self._from_stdin and self._master_fd >= 0:
            self._write_master()

    def drain(self) -> bool:
        """After the end of the container: move what is left without waiting. True when nothing is left to move."""
        self._input_open = False
        self._from_stdin = b""
        self._is_draining = True
        while self._master_fd >= 0 and not self._to_stdout:
            if self._drain_budget <= 0 or not self._read_master():
                return True
        return self._master_fd < 0

    def resume_input(self) -> None:
        """Read from the terminal again, which others had in the foreground meanwhile."""
        if not self._is_draining and posix.isatty(self._input.fd):
            self._input_open = True

    def hang_up(self) -> None:
        """Close the container's terminal: its foreground processes get SIGHUP, as when someone pulls the plug."""
        for fd in (self._held_fd, self._master_fd):
            if fd >= 0:
                posix.close(fd)
        self._held_fd = self._master_fd = -1
        self._from_stdin = self._to_stdout = b""

    def close(self) -> None:
        """Close all that is ours; stdin and stdout stay open."""
        self.hang_up()
        self._input.close()
        self._output.close()

    def _read_master(self) -> bool:
        """Read from the container and pass on. False when there is nothing to read now."""
        try:
            self._to_stdout = posix.read(self._master_fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != EIO:
                raise
            return self._hold_again()
        if self._is_draining:
            self._drain_budget -= len(self._to_stdout)
        self._write_stdout()
        return True

    def _hold_again(self) -> bool:
        """EIO: a program hung up the terminal (vhangup(2)) and took our slave with it. Take it again, or give up."""
        posix.close(self._held_fd)
        self._held_fd = -1
        try:
            self._held_fd = open_peer(self._master_fd)
        except KernelError:
            self.hang_up()  # it is gone for good: that is all that EIO can mean then
        return False

    def _write_stdout(self) -> None:
        try:
            while self._to_stdout:
                self._to_stdout = self._to_stdout[self._output.write(self._to_stdout) :]
                if self._output.may_block:
                    return  # one bit for each poll
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != EPIPE:
                warn(f"stdout: {errno_name(error.errno or 0)}: so the container's terminal is hung up")
            self.hang_up()

    def _read_stdin(self) -> None:
        try:
            data = posix.read(self._input.fd, _CHUNK if self._input.is_own else _PIPE_BUF)
        except BlockingIOError:
            return
        except OSError:
            # Closed, hung up, or a terminal whose foreground others have (EIO): nothing comes from here for now.
            self._input_open = False
            return
        if data:
            self._from_stdin = data
            self._last_input = data[-1:]
        else:
            self._input_open = False
            self._from_stdin = self._end_of_input()
        self._write_master()

    def _end_of_input(self) -> bytes:
        """What a person would type to end the input: Ctrl-D, twice after an unfinished line (VEOF in termios(3)).

        So `echo hello | pyruntime run cat` ends, as under script(1). (runc says nothing, and cat waits for ever.) A
        terminal as stdin ends only when it is hung up; SIGHUP says so.
        """
        if posix.isatty(self._input.fd):
            return b""
        modes = termios.tcgetattr(self._master_fd)
        eof: bytes = modes[6][termios.VEOF]
        return eof * (2 if modes[3] & termios.ICANON and self._last_input != b"\n" else 1)

    def _write_master(self) -> None:
        try:
            while self._from_stdin:
                self._from_stdin = self._from_stdin[posix.write(self._master_fd, self._from_stdin) :]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != EIO:
                raise
            self._from_stdin = b""  # typed at a terminal that has been hung up


class _Stream:
    """stdin or stdout: a descriptor that does not block, where one can be had."""

    __slots__ = ("fd", "is_own", "may_block")

    def __init__(self, fd: int, flags: int) -> None:
        own_fd = _open_again(fd, flags)
        self.is_own = own_fd is not None
        self.may_block = own_fd is None and not _never_blocks(fd)
        self.fd = fd if own_fd is None else own_fd

    def write(self, data: bytes) -> int:
        """write(2), of as much as will not block."""
        return posix.write(self.fd, data[:_PIPE_BUF] if self.may_block else data)

    def close(self) -> None:
        if self.is_own:
            posix.close(self.fd)
            self.is_own = False


def _open_again(fd: int, flags: int) -> int | None:
    """A non-blocking open file description of the same pipe or terminal, None where there can't be one.

    Not of a regular file, which has its offset in the description and never blocks; not of a pty's master, where
    opening means making another pty; a socket can't be opened.
    """
    try:
        status = posix.fstat(fd)
        kind = status.st_mode & c.S_IFMT
        if kind != c.S_IFIFO and (kind != c.S_IFCHR or status.st_rdev == _PTMX or not posix.isatty(fd)):
            return None
        return posix.open(f"/proc/self/fd/{fd}", flags | posix.O_NONBLOCK | posix.O_NOCTTY | posix.O_CLOEXEC)
    except OSError:
        return None  # another user's pipe or terminal: it works, only that a slow reader delays signals


def _never_blocks(fd: int) -> bool:
    """Whether it is a regular file or /dev/null and the like."""
    try:
        kind = posix.fstat(fd).st_mode & c.S_IFMT
        return kind == c.S_IFREG or (kind == c.S_IFCHR and not posix.isatty(fd))
    except OSError:
        return False  # the caller closed it
