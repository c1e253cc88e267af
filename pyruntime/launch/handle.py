"""A container's process as the runtime holds it: by pid, pidfd and channel; and what only its parent may set on it.

Read beside runc:libcontainer/process_linux.go:/^type containerProcess/.
"""

from __future__ import annotations

import posix

from pyruntime.errors import ProtocolError
from pyruntime.launch.perform import performs
from pyruntime.linux import proc, syscalls
from pyruntime.plan.process import RLIMITS, AdjustOomScore, LimitResource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.netdevices import Guests
    from pyruntime.launch.sync import Channel

_SIGKILL = 9
_SIGSYS = 31


class Child:
    """The container's process as its parent holds it: pid, pidfd, the channel, and the terminal's master or -1.

    is_stage: pid is that of the stage which will clone the process, and say so (launch/namespaces.py).
    guests: the host's network devices that have been moved into the container, until its program runs.
    fds: what its root will be built with, where that is ours to build (launch/outside.py).
    """

    __slots__ = ("channel", "fds", "guests", "is_stage", "master_fd", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, channel: Channel, *, is_stage: bool) -> None:
        self.is_stage = is_stage
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.master_fd = -1
        self.guests: Guests | None = None
        self.fds: list[int] = []

    def close(self) -> None:
        """Let go of the descriptors. The process goes on."""
        self.channel.close()
        for fd in (self.pidfd, self.master_fd, *self.fds):
            if fd >= 0:
                posix.close(fd)
        self.pidfd = self.master_fd = -1
        self.fds = []
        self.keep_devices()

    def keep_devices(self) -> None:
        """The host's network devices are the container's from now on: its program runs."""
        if self.guests is not None:
            self.guests.close()
            self.guests = None

    def return_devices(self) -> None:
        """The start has failed: bring the host's network devices back."""
        if self.guests is not None:
            self.guests.bring_back()

    def give_master(self) -> int | None:
        """The terminal's master, if there is one, which is the caller's from now on."""
        master_fd, self.master_fd = self.master_fd, -1
        return master_fd if master_fd >= 0 else None

    def take_over(self, pid: int) -> None:
        """The stage has cloned the process, our child too, and ends. Raises ProtocolError if it is no child of ours.

        With `exec` the number comes over a channel that others in the container may have got hold of by now.
        """
        try:
            if pid == self.pid:
                raise ChildProcessError
            posix.waitid(posix.P_PID, pid, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
            pidfd = posix.pidfd_open(pid)
        except OSError:
            raise ProtocolError(f"process {pid} is not the one that was cloned") from None
        posix.waitpid(self.pid, 0)
        posix.close(self.pidfd)
        self.pid, self.pidfd, self.is_stage = pid, pidfd, False

    def kill(self) -> None:
        """End the process and reap it. Its namespaces end with it."""
        try:
            posix.kill(self.pid, _SIGKILL)  # not reaped yet, so the pid is still its own
        except ProcessLookupError:
            return
        try:
            posix.waitpid(self.pid, 0)
        except ChildProcessError:
            return


@performs(AdjustOomScore)
def adjust_oom_score(step: AdjustOomScore, child: Child) -> None:
    """From outside: the child is not dumpable, and so does not own its files in /proc.

    runc:libcontainer/process_linux.go:/^func .*initProcess.*start/
    """
    proc.write_file(f"/proc/{child.pid}/oom_score_adj", str(step.score).encode())


@performs(LimitResource)
def limit_resource(step: LimitResource, child: Child) -> None:
    """runc:libcontainer/process_linux.go:/^func setupRlimits/"""
    syscalls.prlimit(child.pid, RLIMITS[step.kind], step.soft, step.hard)


def fate(pid: int) -> str:
    """What became of a child that said nothing. See waitid(2). It is not reaped, so that its pid stays its own."""
    try:
        ended = posix.waitid(posix.P_PID, pid, posix.WEXITED | posix.WNOWAIT)
    except ChildProcessError:
        ended = None
    if ended is None:
        return ""
    if ended.si_code == posix.CLD_EXITED:
        return f"with status {ended.si_status}"
    if ended.si_status == _SIGKILL:
        return "it was killed: out of memory in its cgroup, perhaps"
    if ended.si_status == _SIGSYS:
        return "the seccomp profile killed it: what the container's start needs must be allowed"
    return f"by signal {ended.si_status}"
