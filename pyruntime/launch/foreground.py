"""`run` in the foreground: the runtime stands in for the container's init towards its caller.

Whoever signals, waits for or types at the runtime means the container. So every signal is blocked from the start, read
from one signalfd and passed on; the children are reaped; the terminal, if one is asked for, is copied; and the exit
status is the container's.

    caller ---signals---> signalfd --+                 +--> pidfd_send_signal(init)
    kernel ---SIGCHLD---> signalfd --+--> one poll() --+--> waitpid(-1): init? then its status
    stdin  ------bytes---------------+                 +--> the pty's master (relay.py)
    master ------bytes---------------+                 +--> stdout
    container ---READY=1-------------+                 +--> $NOTIFY_SOCKET (notify.py)

SIGTSTP, SIGTTIN and SIGTTOU are passed on, too, and do not stop the runtime, as with runc; SIGCONT is passed on and
makes the terminal raw again, which the shell had meanwhile. SIGHUP is left alone under nohup(1).

Read beside runc:signals.go and runc:tty.go.
"""

from __future__ import annotations

import _struct
import posix
import select

from pyruntime.errors import Error, UnsupportedError
from pyruntime.linux import syscalls
from pyruntime.linux.constants import SFD_CLOEXEC, SFD_NONBLOCK
from pyruntime.report import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from pyruntime.launch.notify import NotifySocket
    from pyruntime.launch.relay import Relay
    from pyruntime.launch.terminal import HostTerminal
else:
    import _signal

_SIGINFO = _struct.Struct("=IiiI112x")  # struct signalfd_siginfo: ssi_signo, ssi_errno, ssi_code, ssi_pid. signalfd(2)
_UNBLOCKABLE = {_signal.SIGKILL, _signal.SIGSTOP}
_ABANDON = {_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM}


class Foreground:
    """Make it before the container is cloned, so that no signal is lost; `close` it on every way out.

    `original_mask` is the set of signals that were blocked before. The child must not keep ours: all is blocked in it.
    """

    __slots__ = (
        "_exit_status",
        "_host",
        "_init_pid",
        "_is_abandoned",
        "_notify",
        "_pidfd",
        "_relay",
        "_signal_fd",
        "original_mask",
    )

    def __init__(self, *, terminal: bool = False) -> None:
        """Block the signals, and find the caller's terminal if the container is to have one.

        Raises UnsupportedError where there is no terminal, or this is not the main thread, before anything was changed;
        KernelError.
        """
        self._host: HostTerminal | None = None
        self._relay: Relay | None = None
        self._notify: NotifySocket | None = None
        self._init_pid = self._pidfd = -1
        self._exit_status: int | None = None
        self._is_abandoned = False
        if terminal:
            # Imported only here, for termios and its users cost more than all of the rest; both now, so that nothing
            # is left to import while a container runs.
            from pyruntime.launch import relay  # noqa: F401
            from pyruntime.launch.terminal import HostTerminal

            self._host = HostTerminal()
        try:  # An inherited SIG_IGN would let the kernel reap init, and its status would be lost.
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        except ValueError:
            raise UnsupportedError("only the main thread can stay with a container in the foreground") from None
        taken = _signal.valid_signals() - _UNBLOCKABLE
        if _signal.getsignal(_signal.SIGHUP) == _signal.SIG_IGN:
            taken.discard(_signal.SIGHUP)
        mask = sum(1 << (number - 1) for number in taken)
        self._signal_fd = syscalls.signalfd4(-1, mask, SFD_CLOEXEC | SFD_NONBLOCK)
        self.original_mask: set[int] = set(_signal.pthread_sigmask(_signal.SIG_BLOCK, taken))

    def size_terminal(self, master_fd: int) -> None:
        """Give the container's terminal the size of the caller's, before a program can ask for it."""
        if self._host is not None:
            self._host.copy_size(master_fd)

    def supervise(self, pid: int, pidfd: int, master_fd: int | None = None, notify: NotifySocket | None = None) -> int:
        """Stay until the container's init has ended: its exit status, 128 + n for signal n.

        `pid` must be our child. `pidfd` and `notify`, by which the container tells its readiness, stay the caller's;
        `master_fd`, the container's terminal, is taken over. All children are reaped, also those that come to us as the
        subreaper. The terminal is as before when this returns or raises; after an error init may still run.
        Companion: runc:signals.go:/^func .*forward/.
        """
        self._init_pid, self._pidfd, self._notify = pid, pidfd, notify
        if master_fd is not None:
            from pyruntime.launch.relay import Relay

            self._relay = Relay(master_fd)
        try:
            self._look_for_init()
            if self._host is not None and self._relay is not None:
                self._host.copy_size(self._relay.master_fd)
                self._host.enter_raw_mode()
            return self._loop()
        finally:
            if self._relay is not None:
                self._relay.close()
            if self._host is not None:
                self._host.close()

    def close(self) -> None:
        """Unblock the signals. A second call does nothing.

        Where the start failed, those that came meanwhile have their usual effect now. Where the container ran, they
        were meant for it and came too late: dropped, or a second Ctrl-C would replace its exit status by ours.
        """
        if self._signal_fd < 0:
            return
        if self._exit_status is not None:
            while self._read_signals():
                continue
        posix.close(self._signal_fd)
        self._signal_fd = -1
        if self._host is not None:
            self._host.close()
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.original_mask)

    def _loop(self) -> int:
        """Wait for whatever comes first and serve it, until init has ended and what it wrote is delivered."""
        relay, notify = self._relay, self._notify
        while True:
            if self._exit_status is not None and (self._is_abandoned or relay is None or relay.drain()):
                return self._exit_status
            poll = select.poll()
            poll.register(self._signal_fd, select.POLLIN)
            if relay is not None:
                relay.register(poll)
            if notify is not None and notify.fd >= 0:
                poll.register(notify.fd, select.POLLIN)
            ready = dict(poll.poll())
            if self._signal_fd in ready:
                self._take_signals()
            if relay is not None:
                relay.copy(ready)
            if notify is not None:
                notify.serve(posix.getpid())

    def _take_signals(self) -> None:
        """Serve the signals that are waiting."""
        for number, _, _, sender_pid in _SIGINFO.iter_unpack(self._read_signals()):
            if number == _signal.SIGCHLD:
                self._reap()
            elif number == _signal.SIGWINCH:
                self._follow_size()
            elif number == _signal.SIGPIPE and sender_pid == posix.getpid():
                continue  # our own write to a pipe without a reader; the error told us already
            else:
                self._forward(number)

    def _read_signals(self) -> bytes:
        """Some struct signalfd_siginfo, none where nothing is waiting."""
        try:
            return posix.read(self._signal_fd, _SIGINFO.size * 32)
        except BlockingIOError:
            return b""

    def _forward(self, number: int) -> None:
        """Pass a signal on to init."""
        if self._exit_status is not None:
            # Only a reader who does not read keeps us here.
            self._is_abandoned = self._is_abandoned or number in _ABANDON
            return
        try:
            _signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return  # it has just ended; its SIGCHLD is on the way
        except OSError as error:
            warn(f"signal {number} could not be passed on to the container's init: {error.strerror}")
        if number == _signal.SIGCONT and self._host is not None and self._relay is not None:
            self._follow_size()
            self._host.enter_raw_mode()
            self._relay.resume_input()

    def _follow_size(self) -> None:
        """Give the container's terminal the new size of the caller's."""
        if self._host is not None and self._relay is not None and self._relay.master_fd >= 0:
            self._host.copy_size(self._relay.master_fd)

    def _look_for_init(self) -> None:
        """Make sure that init is our child, or there would be no end to the waiting. It may have ended already."""
        try:
            pid, status = posix.waitpid(self._init_pid, posix.WNOHANG)
        except ChildProcessError:
            raise Error(f"process {self._init_pid} is not our child: its exit status can't be known") from None
        self._note_exit(pid, status)

    def _reap(self) -> None:
        """Collect every child that has ended: init, orphans of the container, the terminal's guardian."""
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._note_exit(pid, status)

    def _note_exit(self, pid: int, status: int) -> None:
        if pid == self._init_pid:
            code = posix.waitstatus_to_exitcode(status)
            self._exit_status = code if code >= 0 else 128 - code
