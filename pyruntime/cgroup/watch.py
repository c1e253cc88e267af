"""Waiting for what happens in a cgroup: a process killed for want of memory, the last process gone.

The kernel tells of a change of memory.events and cgroup.events by POLLPRI (cgroup-v2.rst), so nobody has to look again
and again. Read beside runc:libcontainer/notify_v2_linux.go, which has inotify(7) for it.
"""

from __future__ import annotations

import errno
import posix
from select import POLLPRI, poll

from pyruntime.cgroup.stats import numbers
from pyruntime.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cgroup.manager import Cgroup

_GONE = (errno.ENOENT, errno.ENODEV)
_LONGEST_WAIT = 2**31 - 1  # milliseconds, poll(2)


class Watch:
    """Two files of a cgroup, open. To be closed. What has happened before is no news."""

    __slots__ = ("_events_fd", "_kills", "_memory_fd", "_poll")

    def __init__(self, cgroup: Cgroup) -> None:
        """Raises KernelError if the cgroup is gone."""
        self._events_fd = self._memory_fd = -1
        self._poll = poll()
        try:
            self._events_fd = self._open(f"{cgroup.path}/cgroup.events")
            try:
                self._memory_fd = self._open(f"{cgroup.path}/memory.events")
            except KernelError as error:
                if error.errno not in _GONE:
                    raise
            self._kills = self._oom_kills()
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> int:
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError as error:
            raise KernelError(f"open({path!r}, O_RDONLY)", error.errno or 0) from None
        self._poll.register(fd, POLLPRI)
        return fd

    def close(self) -> None:
        """Close what is open."""
        for fd in (self._events_fd, self._memory_fd):
            if fd >= 0:
                posix.close(fd)
        self._events_fd = self._memory_fd = -1

    def sees_memory(self) -> bool:
        """Whether the cgroup has the memory controller, without which nobody is killed on its behalf."""
        return self._memory_fd >= 0

    def wait(self, seconds: float) -> None:
        """Return when something has happened since `is_populated` and `has_killed` were asked, or after that time."""
        self._poll.poll(min(max(seconds, 0) * 1000, _LONGEST_WAIT))

    def has_killed(self) -> bool:
        """Whether the kernel has killed a process for want of memory since this was asked last."""
        before, self._kills = self._kills, self._oom_kills()
        return self._kills > before

    def is_populated(self) -> bool:
        """Whether there are processes in the cgroup, or below; not if it is gone."""
        return numbers(self._read(self._events_fd)).get("populated", 0) != 0

    def _oom_kills(self) -> int:
        """How many were killed; as before if the cgroup is gone."""
        text = self._read(self._memory_fd) if self.sees_memory() else ""
        return numbers(text)["oom_kill"] if text else getattr(self, "_kills", 0)

    def _read(self, fd: int) -> str:
        """The content, which the next poll starts from; "" if the cgroup is gone."""
        try:
            return posix.pread(fd, 4096, 0).decode()
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return ""
