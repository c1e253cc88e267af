"""The caller's terminal while a container's terminal is shown in it: raw mode, size, job control, and the way back.

Raw mode must end on every way out, and SIGKILL is one. So a guardian process is forked before raw mode begins. It holds
a pipe and the terminal, nothing else; when the pipe ends without a farewell, the runtime is dead, and the guardian
restores the terminal, unless someone else (the shell) has set its modes by then.

The mode is fully raw, output too, as with ssh and crun: the container's terminal has done its processing, and a second
would garble what full-screen programs write. (runc keeps OPOST here and takes ONLCR from the container's terminal.)
Where the output goes elsewhere, to a file or a pipe, it is as with runc: lines end in a line feed alone.

Read beside runc:tty.go, which has no guardian, github.com/containerd/console:tc_unix.go and termios(3).
"""

from __future__ import annotations

import posix
import termios
from errno import EIO
from fcntl import ioctl

from pyruntime.errors import KernelError, UnsupportedError
from pyruntime.launch.console import receive_master
from pyruntime.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any

    Modes = list[Any]  # what termios.tcgetattr gives: four words of flags, two speeds, the control characters
else:
    import _signal

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6
_STDIN, _STDOUT = 0, 1


def receive_terminal(socket_fd: int) -> int:
    """The master of the container's terminal, which is to be shown on our stdin and stdout; the caller's to close.

    Raises ProtocolError. Companion: runc:tty.go:/^func .*recvtty/.
    """
    master_fd, _name = receive_master(socket_fd)
    if not posix.isatty(_STDOUT):
        modes = termios.tcgetattr(master_fd)
        modes[_OFLAG] &= ~termios.ONLCR
        termios.tcsetattr(master_fd, termios.TCSANOW, modes)
    return master_fd


class HostTerminal:
    """The terminal that the caller sits at.

    Raw mode is for a caller whose input comes from the terminal. With `echo ls | pyruntime run web` it stays as it is,
    so that Ctrl-C goes on to interrupt (runc sets it raw then, too).
    """

    __slots__ = ("_fd", "_guardian_pid", "_original", "_owned", "_pipe_fd", "_raw")

    def __init__(self) -> None:
        """Find the terminal. Raises UnsupportedError when there is none, neither as stdin, stdout, stderr nor /dev/tty.

        Companion: runc:tty.go:/^func .*initHostConsole/.
        """
        self._owned = False
        self._guardian_pid = 0
        self._pipe_fd = -1
        self._original: Modes = []
        self._raw: Modes = []
        for fd in (0, 1, 2):
            if posix.isatty(fd):
                self._fd = fd
                return
        try:
            self._fd = posix.open("/dev/tty", posix.O_RDWR | posix.O_NOCTTY | posix.O_CLOEXEC)
        except OSError as error:
            raise UnsupportedError(
                f"process.terminal is true, but there is no terminal to show it in: /dev/tty: {error.strerror}",
                where="config.json#/process/terminal",
                hint="run it under `ssh -tt` or `script -e -c`, set it to false, or use -d with --console-socket",
            ) from None
        self._owned = True

    def size(self) -> bytes | None:
        """The struct winsize, None where the terminal has no size or is gone. See ioctl_tty(2)."""
        try:
            size: bytes = ioctl(self._fd, termios.TIOCGWINSZ, bytes(8))
        except OSError:
            return None  # hung up: SIGHUP tells that story
        return size if any(size[:4]) else None

    def copy_size(self, master_fd: int) -> None:
        """Give the container's terminal the size of this one; the kernel tells its programs by SIGWINCH."""
        size = self.size()
        if size is not None:
            ioctl(master_fd, termios.TIOCSWINSZ, size)

    def in_foreground(self) -> bool:
        """Whether we may read and set the terminal; always so where it is not our controlling one (no job control)."""
        try:
            return posix.tcgetpgrp(self._fd) == posix.getpgrp()
        except OSError:
            return True

    def wait_for_foreground(self, stop_signal: int) -> bool:
        """In the background, stop the job until the shell's `fg`, as the kernel does where signals are not blocked.

        `stop_signal` is SIGTTOU or SIGTTIN, which must be blocked. True: we are in the foreground. False: the job can't
        be stopped because no shell would continue it (an orphaned process group, setpgid(2)).
        """
        for _ in range(2):  # `bg` continues us in the background: once more, as a reader would be stopped again
            if self.in_foreground():
                return True
            posix.kill(0, stop_signal)
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {stop_signal})  # here we stop
            _signal.pthread_sigmask(_signal.SIG_BLOCK, {stop_signal})
        return self.in_foreground()

    def enter_raw_mode(self) -> None:
        """Make stdin raw if it is a terminal and ours to set; the guardian first.

        May be called again after a stop; the modes to go back to are those of the first call. The caller has blocked
        SIGTTOU. Raises KernelError.
        """
        if not posix.isatty(_STDIN) or not self.wait_for_foreground(_signal.SIGTTOU):
            return
        if not self._guardian_pid:
            self._original = _modes(_STDIN)
            self._raw = raw_modes(self._original)
            if not posix.isatty(_STDOUT):  # what is on the screen is not the container's, but other programs'
                self._raw[_OFLAG] = self._original[_OFLAG]
            self._guardian_pid, self._pipe_fd = _fork_guardian(self._original, self._raw)
        try:
            termios.tcsetattr(_STDIN, termios.TCSANOW, self._raw)
        except termios.error as error:
            if error.args[0] != EIO:  # hung up: SIGHUP tells that story
                raise KernelError(f"tcsetattr({_STDIN}, TCSANOW, raw)", error.args[0]) from None

    def close(self) -> None:
        """Restore the terminal and send the guardian home. It is gone when this returns; a second call does nothing."""
        if self._guardian_pid:
            restore(_STDIN, self._original, self._raw)
            _dismiss(self._guardian_pid, self._pipe_fd)
            self._guardian_pid = 0
        if self._owned:
            posix.close(self._fd)
            self._owned = False


def raw_modes(modes: Modes) -> Modes:
    """The modes of a terminal that passes every byte on, both ways: cfmakeraw(3)."""
    raw = [*modes[:_CC], list(modes[_CC])]
    raw[_IFLAG] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    raw[_OFLAG] &= ~termios.OPOST
    raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    raw[_CC][termios.VMIN] = 1
    raw[_CC][termios.VTIME] = 0
    return raw


def restore(fd: int, original: Modes, raw: Modes) -> None:
    """Set the original modes if the terminal is still as we made it; otherwise it is someone else's now.

    A terminal that has been hung up needs nothing: that is no error.
    """
    try:
        now = termios.tcgetattr(fd)
        if (now[_IFLAG], now[_OFLAG], now[_LFLAG]) == (raw[_IFLAG], raw[_OFLAG], raw[_LFLAG]):
            termios.tcsetattr(fd, termios.TCSANOW, original)
    except termios.error:
        return


def _modes(fd: int) -> Modes:
    try:
        return termios.tcgetattr(fd)
    except termios.error as error:
        raise KernelError(f"tcgetattr({fd})", error.args[0]) from None


def _fork_guardian(original: Modes, raw: Modes) -> tuple[int, int]:
    """Fork the guardian: (its pid, our end of the pipe)."""
    pipe_fd, our_fd = posix.pipe2(posix.O_CLOEXEC)
    pid = posix.fork()
    if pid == 0:
        try:
            _guard(pipe_fd, original, raw)
        finally:
            posix._exit(0)
    posix.close(pipe_fd)
    return pid, our_fd


def _guard(pipe_fd: int, original: Modes, raw: Modes) -> None:
    """The guardian's life. All signals are blocked already, so that neither Ctrl-Z nor SIGTTOU can stop it.

    A session of its own keeps it out of a `kill -9` of the whole process group. Any other descriptor would keep a pipe,
    the container's terminal or a file system busy after the runtime's death.
    """
    posix.setsid()
    posix.chdir("/")
    posix.dup2(pipe_fd, 1)
    syscalls.close_range(2, 0xFFFFFFFF, 0)
    if not posix.read(1, 1):
        restore(_STDIN, original, raw)


def _dismiss(guardian_pid: int, pipe_fd: int) -> None:
    """Tell the guardian that all is well and wait for its end, lest it touch the terminal that the shell has again."""
    try:
        posix.write(pipe_fd, b".")
    except BrokenPipeError:
        pass  # it was killed; nothing is left for it to do
    posix.close(pipe_fd)
    try:
        posix.waitpid(guardian_pid, 0)
    except ChildProcessError:
        return  # the supervisor's loop had reaped it
