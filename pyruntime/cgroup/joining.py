"""The cgroup in which a process starts that enters a container.

Read beside runc:libcontainer/process_linux.go:/^func .*setnsProcess.*prepareCgroupFD/.
"""

from __future__ import annotations

import errno
import posix

from pyruntime.errors import KernelError, SystemdError, UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Result = TypeVar("Result")

_OPTION = "--cgroup"
# The container's cgroup is gone, or has handed controllers down, so that only those below it can hold processes.
_ELSEWHERE = (errno.ENOENT, errno.ENODEV, errno.EBUSY)


def start_in(path: str, init_pid: int, start: Callable[[int], Result]) -> Result:
    """Call `start` with a descriptor of the container's cgroup, or of its init's if that has moved. Raises as `start`.

    runc:libcontainer/process_linux.go:/^func .*setnsProcess.*initProcessCgroupPath/
    """
    try:
        return _start_in(path, start)
    except KernelError as error:
        if error.errno not in _ELSEWHERE or not (elsewhere := _cgroup_of(init_pid)):
            raise
    return _start_in(elsewhere, start)


def start_below(path: str, names: str, start: Callable[[int], Result]) -> Result:
    """Call `start` with a descriptor of the cgroup `names` below the container's, and of no other."""
    try:
        return _start_in(path + names, start)
    except KernelError as error:
        error.where = _OPTION
        raise


def below(given: Sequence[str]) -> str:
    """What --cgroup names, as "" or "/A/B", which does not climb. Raises UsageError; UnsupportedError for cgroup v1."""
    if len(given) > 1:
        raise UsageError(f"one path is enough on cgroup v2, not {len(given)}", where=_OPTION)
    if ":" in given[0]:
        raise UnsupportedError(f"{given[0]!r}: controllers are named on cgroup v1 only", where=_OPTION)
    names: list[str] = []
    for name in given[0].split("/"):
        if name == ".." and not names:
            message = f"{given[0]} is not a sub cgroup path"  # as runc says it
            raise UsageError(message, where=_OPTION, hint="it leaves the container's cgroup")
        if name == "..":
            names.pop()
        elif name not in ("", "."):
            names.append(name)
    return "".join(f"/{name}" for name in names)


def _start_in(path: str, start: Callable[[int], Result]) -> Result:
    flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        cgroup_fd = posix.open(path, flags)
    except OSError as error:
        raise KernelError(f"open the cgroup {path!r}", error.errno or 0) from None
    try:
        return start(cgroup_fd)
    except KernelError as error:
        if error.errno != errno.EACCES or ".scope" not in path or not _is_taken_in():
            raise
        return start(cgroup_fd)
    finally:
        posix.close(cgroup_fd)


def _is_taken_in() -> bool:
    """Whether the service manager of this user has us among its own now, from where we may start what it makes."""
    from pyruntime.cgroup import systemd  # of a scope of a user's alone
    from pyruntime.cgroup.creation import find_v2

    try:
        systemd.come_below(systemd.root_path(find_v2().rstrip("/"), users=True))
    except (SystemdError, UnsupportedError):
        return False
    return True


def _cgroup_of(pid: int) -> str:
    """The host path of a process's cgroup, "" if there is none to be seen."""
    from pyruntime.cgroup.creation import Hierarchy  # rare

    hierarchy = Hierarchy()
    try:
        path = hierarchy.cgroup_of(pid)
    except OSError:
        return ""
    return hierarchy.path_of(path) if path != "/" else ""
