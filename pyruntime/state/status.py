"""In which state of its life a container is (runtime.md#state), found out anew at every call.

    creating --clone--> creating --child is ready--> created --start--> running --exit--> stopped
                                                                running <--freezer--> paused

Nothing here trusts a status that was written down: the process may have died since. The kernel is asked.

Read beside runc:libcontainer/container_linux.go:/^func .*refreshState/ and runc:libcontainer/state_linux.go.
"""

from __future__ import annotations

import posix

from pyruntime.errors import StateError
from pyruntime.linux import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.state.store import Record, Store

START_SOCKET = "start.sock"  # its presence tells created from running


def status(record: Record, store: Store) -> str:
    """One of "creating", "created", "running", "paused", "stopped". Companion: runc's refreshState."""
    if record["pid"] == 0:
        return "creating"
    if not is_alive(record):
        return "stopped"
    if record["cgroup"] and is_frozen(record["cgroup"]):
        return "paused"
    try:
        posix.stat(store.file_path(START_SOCKET))
    except FileNotFoundError:
        return "running"
    return "created"


def is_alive(record: Record) -> bool:
    """Whether the container's init is there: the same process, not a later one with its pid, and no zombie."""
    pid = record["pid"]
    if pid <= 0:
        return False
    try:
        state, start_time = proc.state_and_start_time(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return start_time == record["startTime"] and state not in ("Z", "X", "x")


def open_init(record: Record) -> int:
    """A pidfd of the container's init, which was compared with the record: the pid may be another's by now.

    Raises StateError if it has ended.
    """
    try:
        pidfd = posix.pidfd_open(record["pid"])
    except ProcessLookupError:
        raise StateError("container not running", where=record["id"]) from None
    if is_alive(record):
        return pidfd
    posix.close(pidfd)
    raise StateError("container not running", where=record["id"])


def is_frozen(cgroup_path: str) -> bool:
    """Whether every process of the cgroup has stopped in the freezer.

    Reads cgroup.events, not cgroup.freeze: that one tells what was asked for, and an ancestor may be the frozen one.
    A cgroup that is gone, or that is no cgroup v2 directory, is not frozen. See cgroup-v2.rst, "Core Interface Files".
    """
    try:
        events_fd = posix.open(f"{cgroup_path}/cgroup.events", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return False
    try:
        return b"frozen 1" in posix.read(events_fd, 4096)
    except OSError:  # ENODEV: removed between open and read
        return False
    finally:
        posix.close(events_fd)
