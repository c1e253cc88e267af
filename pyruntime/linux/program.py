"""Running another program and waiting for it: its input, the last of its output, a time limit, and its end.

    the caller of run                                   the program
      | ---- fork ---------------------------------------> |  a session of its own, default signals, no descriptors
      |                                                    |  stdin: a memfd: nobody waits for a reader
      | <--- report: -errno of a failed execve ----------- |
      | <--- stdout and stderr, in one pipe or in two ---- |  the last of each is kept
      | <--- pidfd: it has ended ------------------------- |

It is over when the program itself has ended. What it leaves running may go on, and may hold the pipes.

Used for hooks and for CNI plugins. Read beside runc:libcontainer/configs/config.go:/^func .*Command.*Run/.
"""

from __future__ import annotations

import _signal
import errno
import posix
import select
import time

from pyruntime.errors import errno_name
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeAlias

    Become: TypeAlias = Callable[[int], NoReturn]

_DRAIN_READS = 16  # at most so many more reads when it has ended: another process may go on writing
_LONG = 3600.0  # seconds, then it is looked again: poll(2) takes milliseconds in 31 bits
_INTERRUPTS = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)


class Output:
    """What has come out of a pipe: its last `limit` bytes. `lost` says whether there were more."""

    __slots__ = ("data", "end_fd", "fd", "limit", "lost")

    def __init__(self, limit: int) -> None:
        """Raises OSError: no more descriptors."""
        self.data = b""
        self.limit = limit
        self.lost = False
        self.fd, self.end_fd = posix.pipe2(posix.O_CLOEXEC)
        posix.set_blocking(self.fd, False)

    def close_end(self) -> None:
        """Close the end that is the program's, in us: so that ours sees the end of it."""
        posix.close(self.end_fd)
        self.end_fd = -1

    def close(self) -> None:
        """Close what is open."""
        for fd in (self.fd, self.end_fd):
            if fd >= 0:
                posix.close(fd)

    def read(self) -> bool | None:
        """Take what is there: whether there was something; None at the end, which no more will follow."""
        try:
            chunk = posix.read(self.fd, 65536)
        except BlockingIOError:
            return False
        both = self.data + chunk
        self.lost |= len(both) > self.limit
        self.data = both[-self.limit :]
        return True if chunk else None

    def drain(self) -> None:
        """Take the last of what was written before the program ended."""
        for _ in range(self.limit // 65536 + _DRAIN_READS):
            if not self.read():
                return


def memfd(name: str, data: bytes) -> int:
    """A descriptor from which these bytes can be read, to be a program's stdin. Raises KernelError, OSError."""
    fd = syscalls.memfd_create(name)
    write_all(fd, data)
    posix.lseek(fd, 0, 0)
    return fd


def interrupts_fd() -> int:
    """A descriptor that is readable when a signal waits that asks us to end: a `run` in the foreground blocks them.

    Raises KernelError.
    """
    return syscalls.signalfd4(-1, sum(1 << (number - 1) for number in _INTERRUPTS))


def end_group(pid: int) -> None:
    """Kill a program with its process group, and reap it. What has left the group goes on."""
    try:
        posix.killpg(pid, _signal.SIGKILL)
    except ProcessLookupError:  # it has not made its own session yet
        posix.kill(pid, _signal.SIGKILL)
    posix.waitpid(pid, 0)


def run(
    become: Become,
    stdin_fd: int,
    stdout: Output,
    stderr: Output | None = None,
    *,
    timeout: float = 0,
    directory_fd: int = -1,
    interrupt_fd: int = -1,
    end: Callable[[int], None] = end_group,
) -> str:
    """Run a program and wait for it: "" if it succeeded, or the end of a sentence about it that says why not.

    become: called in the new process, with a descriptor to report to, to execute the program. stderr: None: it goes
    where stdout goes. timeout: seconds; 0: as long as it takes. directory_fd: where it starts; -1: where we are.
    interrupt_fd: ends it when readable. end: kills what has been started, when it is not to go on, and reaps it.
    The two outputs are the caller's to close. Raises OSError: no more processes or descriptors.
    """
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored, there would be no exit status
    outputs = [output for output in (stdout, stderr) if output is not None]
    report = Output(16)
    try:
        try:
            pid = posix.fork()
            if pid == 0:
                _become(become, (stdin_fd, stdout.end_fd, outputs[-1].end_fd), report.end_fd, directory_fd)
        finally:
            for output in (*outputs, report):
                output.close_end()
        try:
            reason = _watch(pid, outputs, interrupt_fd, timeout)
        except BaseException:
            end(pid)
            raise
        if reason:
            end(pid)
            return reason
        _, status = posix.waitpid(pid, 0)
        report.read()
        return _failed_execve(report.data) or _told(posix.waitstatus_to_exitcode(status))
    finally:
        report.close()


def _become(become: Become, stdio: tuple[int, int, int], report_end: int, directory_fd: int) -> NoReturn:
    """The new process up to execve. It ends with whoever waits for it: what it does has no purpose any more then."""
    number = errno.EIO
    try:
        posix.setsid()
        syscalls.prctl(c.PR_SET_PDEATHSIG, _signal.SIGKILL)
        for signal in range(1, _signal.NSIG):
            if _signal.getsignal(signal) not in (_signal.SIG_DFL, None):
                _signal.signal(signal, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        if directory_fd >= 0:
            posix.fchdir(directory_fd)
        for target, fd in enumerate(stdio):
            posix.dup2(fd, target)
        syscalls.close_range(3, 0xFFFFFFFF, c.CLOSE_RANGE_CLOEXEC)
        become(report_end)
    except OSError as error:
        number = error.errno or number
    finally:
        posix.write(report_end, (-number).to_bytes(4, "little", signed=True))
        posix._exit(127)


def _watch(pid: int, outputs: list[Output], interrupt_fd: int, timeout: float) -> str:
    """Wait for the program, reading what it writes: "", or why it has to end."""
    pidfd = posix.pidfd_open(pid)
    deadline = time.monotonic() + timeout
    poll = select.poll()
    for fd in (pidfd, interrupt_fd, *(output.fd for output in outputs)):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    try:
        while True:
            left = max(0.0, deadline - time.monotonic()) if timeout else _LONG
            ready = dict(poll.poll(min(left, _LONG) * 1000 + 1))
            for output in outputs:
                if output.fd in ready and output.read() is None:
                    poll.unregister(output.fd)
            if pidfd in ready:
                for output in outputs:
                    output.drain()
                return ""
            if interrupt_fd in ready:
                return "was interrupted"
            if left == 0:
                return f"ran for more than its timeout of {timeout} s and was killed"
    finally:
        posix.close(pidfd)


def _failed_execve(report: bytes) -> str:
    """Why the program was not executed; "" if it was."""
    if not report:
        return ""
    # Ours, or that of a hop: see launch/tape.py.
    number = -int.from_bytes(report if len(report) == 4 else report[4:8], "little", signed=True)
    return f"could not be executed: {errno_name(number)}: {posix.strerror(number)}"


def _told(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code} ({(_signal.strsignal(-code) or 'unknown').lower()})"
    return f"failed with exit status {code}" if code else ""
