"""Groups of resctrl, the kernel's file system for parts of caches and memory bandwidth: Intel RDT, AMD QoS, Arm MPAM.

    /sys/fs/resctrl/          the default group: all that no other group has
      schemata                what the group may use: "L3:0=7f0;1=1f", bits by cache; "MB:0=20;1=70", per cent
      tasks                   the threads in it; who is started by one is in it, too
      mon_groups/             monitoring groups: their members are counted for themselves
        web/tasks
      info/L3/ info/MB/ ...   what can be limited here, and how finely
      info/last_cmd_status    why the last request was refused, in words
      gold/                   another group, made by mkdir(2), with all of these but info

A group is removed by rmdir(2), whoever is in it: those are in the default group then. How many there can be is up to
the processor, often fewer than 16. Who changes more than one file holds an exclusive flock(2) of the mount point.

Imported only for containers with `linux.intelRdt`; which group is wanted is the plan's matter (plan/resctrl.py).

Read beside the kernel's Documentation/filesystems/resctrl.rst and runc:libcontainer/intelrdt/intelrdt.go.
"""

from __future__ import annotations

import errno
import fcntl
import posix

from pyruntime import report
from pyruntime.errors import ConfigError, Error, ExistsError, KernelError, UnsupportedError
from pyruntime.linux import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FSTYPE = "resctrl"  # a test's stand-in is told by another
_STATUS = "last_cmd_status"


def find() -> str:
    """Where resctrl is mounted. Raises UnsupportedError, with the remedy, where it is not.

    runc:libcontainer/intelrdt/intelrdt.go:/^func findIntelRdtMountpointDir/
    """
    found = [path for path, root in proc.mounts(FSTYPE) if root == "/"]
    if found:
        return found[0]
    if FSTYPE.encode() not in proc.read_file("/proc/filesystems").split():
        raise UnsupportedError(
            "Intel RDT is not enabled: this kernel or CPU has no resctrl",
            hint="it needs a CPU with RDT (or AMD QoS) and CONFIG_X86_CPU_RESCTRL; or remove the key",
        )
    hint = "mount -t resctrl resctrl /sys/fs/resctrl"
    raise UnsupportedError("Intel RDT is not enabled: resctrl is not mounted", hint=hint)


class Group:
    """The group of one container while it is prepared, under the lock of resctrl from `lock` until `close`.

    keep: called with what the container's record has to say of it, each time before something is made, so that what a
    killed runtime leaves is found. That is:
        group      its name, "" for the default group
        isShared   it is not the container's alone, so it stays when the container is deleted
        made       this start has made it
        monitor    the name of the container's monitoring group in it, "" for none
        before     only if the group was there and is limited anew: the lines of its `schemata`, by resource
    """

    __slots__ = ("_keep", "_lock_fd", "_root_path", "entry")

    def __init__(self, keep: Callable[[dict[str, Any]], None]) -> None:
        self._root_path = ""
        self._lock_fd = -1
        self._keep = keep
        self.entry: dict[str, Any] = {"group": "", "isShared": False, "made": False, "monitor": ""}

    def lock(self) -> None:
        """Find resctrl and wait for its lock. Raises UnsupportedError, KernelError."""
        self._root_path = find()
        self._lock_fd = _lock(self._root_path)

    def close(self) -> None:
        """Let others have the lock."""
        if self._lock_fd >= 0:
            posix.close(self._lock_fd)

    @property
    def path(self) -> str:
        """The directory of the group."""
        return f"{self._root_path}/{self.entry['group']}".rstrip("/")

    def use(self, name: str, *, is_shared: bool, must_exist: bool) -> None:
        """Take the group `name`; make it if it is not there, unless it must exist.

        Raises ConfigError if it must and does not, or if something else has that name; KernelError, with ENOSPC where
        the processor has no group left. runc:libcontainer/intelrdt/intelrdt.go:/^func .*Manager.*Apply/
        """
        self.entry |= {"group": name, "isShared": is_shared}
        exists = _exists(self.path)
        if exists and not _exists(f"{self.path}/tasks"):
            raise ConfigError(f"{self.path} is no group of resctrl")
        if must_exist and not exists:
            hint = "make it before; or say by l3CacheSchema, memBwSchema or schemata what to make"
            raise ConfigError(f"resctrl has no group {name!r}", hint=hint)
        self.entry["made"] = not exists
        if exists and not is_shared:
            self.entry["before"] = schemata(self.path)
        self._keep(self.entry)
        if not exists and not self._make(self.path):
            self.entry["made"] = False
            raise ExistsError(f"somebody else has made {self.path} meanwhile")

    def limit(self, line: str) -> None:
        """Write a line of `schemata`; in a group that others may use, see that it is so already.

        Raises UnsupportedError if the host has no such resource, ConfigError if the group has another part, KernelError
        with the kernel's words. runc:libcontainer/intelrdt/intelrdt.go:/^func .*Manager.*Set/
        """
        resource = _resource(line, self._root_path)
        if self.entry["made"] or not self.entry["isShared"]:
            write_schema(self.path, line)
        else:
            self._compare(line, resource)

    def _compare(self, line: str, resource: str) -> None:
        """What the group has is right if it is so for each cache that the line names. Raises ConfigError."""
        has = schemata(self.path).get(resource, "")
        if not _fits(line, has, self._step(resource)):
            message = f"the resctrl group {self.entry['group'] or '/'} is there and has {has}, not {line}"
            raise ConfigError(message, hint="others may be in it, so it is not changed: use another closID")

    def _step(self, resource: str) -> int:
        """To what multiples the kernel rounds a bandwidth in per cent up; 1 for a cache."""
        try:
            return int(proc.read_file(f"{self._root_path}/info/{resource}/bandwidth_gran"))
        except FileNotFoundError:
            return 1

    def monitor(self, name: str) -> None:
        """Make the monitoring group `name` in the group.

        Raises UnsupportedError if the host cannot monitor, ExistsError; KernelError, with ENOSPC where the processor
        has no monitor left. runc:libcontainer/intelrdt/intelrdt.go:/^func .*Manager.*Apply/
        """
        path = f"{self.path}/mon_groups/{name}"
        if not _exists(f"{self.path}/mon_groups"):
            raise UnsupportedError("resctrl of this host cannot monitor")
        if _exists(path):
            raise ExistsError(f"the monitoring group {path} is there already", hint="another container with this ID?")
        self.entry["monitor"] = name
        self._keep(self.entry)
        if not self._make(path):
            self.entry["monitor"] = ""
            raise ExistsError(f"somebody else has made {path} meanwhile")

    def _make(self, path: str) -> bool:
        """mkdir(2); whether it was not there before."""
        try:
            posix.mkdir(path, 0o755)
        except FileExistsError:
            return False
        except OSError as error:
            raise KernelError(f"mkdir({path!r}, 0755)", error.errno or 0, hint=_why(error)) from None
        return True


def change(entry: dict[str, Any], lines: list[tuple[str, str]], then: Callable[[], None]) -> None:
    """Limit the group of a container that is there by lines of `schemata`, each with its place, and do `then`.

    If any of it fails, what was changed is put back. Raises UnsupportedError, KernelError, and as `then`.
    runc:libcontainer/container_linux.go:/^func .*Container. Set/
    """
    root_path = find()
    path = f"{root_path}/{entry['group']}".rstrip("/")
    lock_fd = _lock(root_path)
    try:
        before = schemata(path)
        try:
            for where, line in lines:
                _change(path, line, where, root_path)
            then()
        except Error:
            _put_back(before, path)
            raise
    finally:
        posix.close(lock_fd)


def _change(path: str, line: str, where: str, root_path: str) -> None:
    try:
        _resource(line, root_path)
        write_schema(path, line)
    except Error as error:
        error.where = where
        raise


def _put_back(before: dict[str, str], path: str) -> None:
    for resource, now in schemata(path).items():
        if now != before.get(resource, now):
            write_schema(path, before[resource])  # which the kernel has had, and so takes


def _resource(line: str, root_path: str) -> str:
    """What a line of `schemata` is about. Raises UnsupportedError if the host does not have it."""
    resource = line.partition(":")[0].strip()
    names = sorted(posix.listdir(f"{root_path}/info"))
    there = [name for name in names if name != _STATUS and name[-4:] != "_MON"]
    if resource not in there:
        hint = f"it has {', '.join(there) or 'nothing to limit'}"
        raise UnsupportedError(f"resctrl of this host has no {resource!r}", hint=hint)
    return resource


def schemata(group_path: str) -> dict[str, str]:
    """The lines of a group's `schemata` by their resources: {"L3": "L3:0=f;1=f"}. Raises OSError as open(2) does."""
    lines = proc.read_file(f"{group_path}/schemata").decode().split("\n")
    return {line.partition(":")[0].strip(): line.strip() for line in lines if line}


def write_schema(group_path: str, line: str) -> None:
    """Limit a group by a line of `schemata`. Raises KernelError with the kernel's words; EINVAL says little."""
    _write(f"{group_path}/schemata", f"{line}\n")


def join(name: str, monitor: str, pid: int) -> None:
    """Put a process into a group, and there into a monitoring group, if `monitor` names one. Raises KernelError.

    In this order: only a member can be monitored. runc:libcontainer/intelrdt/intelrdt.go:/^func WriteIntelRdtTasks/
    """
    group_path = f"{find()}/{name}".rstrip("/")
    _write(f"{group_path}/tasks", str(pid))
    if monitor:
        _write(f"{group_path}/mon_groups/{monitor}/tasks", str(pid))


def remove(entry: dict[str, Any], *, finished: bool) -> None:
    """Take back what a container's start has made, by the `entry` of its record; what is gone already is no error.

    finished: the start has come to its end. Then a group that closID has named stays, since others may count on it
    (config-linux.md#intelrdt); otherwise it goes if nobody is in it: nobody else knows of it yet.
    Raises KernelError. runc:libcontainer/intelrdt/intelrdt.go:/^func .*Manager.*Destroy/
    """
    if not (entry["made"] or entry["monitor"] or "before" in entry):
        return
    try:
        root_path = find()
    except UnsupportedError as error:  # with its mount, all groups have ended
        report.warn(f"the container's resctrl group {entry['group'] or '/'} is gone: {error}")
        return
    path = f"{root_path}/{entry['group']}".rstrip("/")
    lock_fd = _lock(root_path)
    try:
        if entry["monitor"]:
            _remove_directory(f"{path}/mon_groups/{entry['monitor']}")
        if entry["made"] and (not entry["isShared"] or (not finished and _is_unused(path))):
            _remove_directory(path)
        if not finished and "before" in entry and _exists(path):
            _put_back(entry["before"], path)
    finally:
        posix.close(lock_fd)


def _is_unused(path: str) -> bool:
    """Whether a group has no processes, and no container has a monitoring group in it."""
    try:
        return not proc.read_file(f"{path}/tasks") and not posix.listdir(f"{path}/mon_groups")
    except FileNotFoundError:
        return _exists(path)  # where nothing is monitored


def _remove_directory(path: str) -> None:
    try:
        posix.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelError(f"rmdir({path!r})", error.errno or 0, hint=_why(error)) from None


def _lock(root_path: str) -> int:
    """The descriptor that holds resctrl's lock (resctrl.rst, "Locking between applications")."""
    try:
        lock_fd = posix.open(root_path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"open({root_path!r}, O_DIRECTORY)", error.errno or 0) from None
    fcntl.flock(lock_fd, fcntl.LOCK_EX)
    return lock_fd


def _write(path: str, text: str) -> None:
    try:
        proc.write_file(path, text.encode("utf-8", "surrogateescape"))
    except KernelError as error:
        error.hint = _why(error)
        raise


def _why(error: OSError) -> str:
    """What the kernel says of the request that it has just refused, where the errno alone misleads."""
    if error.errno == errno.ENOENT:
        return ""  # a path that is not there was no request
    if error.errno in (errno.EACCES, errno.EROFS):
        return "the groups of resctrl are the host's root's to make"
    try:
        status = proc.read_file(f"{find()}/info/{_STATUS}").decode(errors="replace").strip()
    except (OSError, UnsupportedError):
        return ""
    return f"resctrl says: {status}" if status != "ok" else ""


def _fits(wanted: str, has: str, step: int) -> bool:
    """Whether a line of `schemata` grants what another one asks for. See resctrl.rst, "Schemata files"."""
    try:
        parts, there = _parts(wanted), _parts(has).items()
    except ValueError:  # a typing error, or "uninitialized" for a cache that is locked
        return False
    return parts.items() <= there or {cache: -(-part // step) * step for cache, part in parts.items()}.items() <= there


def _parts(line: str) -> dict[int, int]:
    """ "L3:0=7f0;1=1f" -> {0: 0x7f0, 1: 0x1f}; bandwidths are decimal. Raises ValueError for what is no such line."""
    resource, _, rest = line.partition(":")
    base = 10 if resource.strip() in ("MB", "SMBA") else 16
    return {int(cache): int(part, base) for cache, _, part in (each.partition("=") for each in rest.split(";") if each)}


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
