"""Find the cgroup v2 hierarchy and make a container's cgroup in it, with the controllers that its limits need.

    /sys/fs/cgroup                       cgroup.controllers       what can be had at all
      mygroup/                           cgroup.subtree_control   what the parent hands down to its children
        web/                             cgroup.procs, memory.max, ...

Only a start imports this; what exists is handled by cgroup/manager.py.

Read beside opencontainers/cgroups:fs2/create.go and :fs2/defaultpath.go.
"""

from __future__ import annotations

import errno
import posix

from pyruntime.cgroup.manager import Cgroup, read_text
from pyruntime.errors import Error, ExistsError, KernelError, StateError, UnsupportedError
from pyruntime.linux import proc

# Controllers that count threads one by one; the others work on whole processes (cgroup-v2.rst, "Threads").
_THREADED = frozenset(("cpu", "cpuset", "perf_event", "pids"))
PATH_KEY = "config.json#/linux/cgroupsPath"


class Hierarchy:
    """The cgroup v2 hierarchy as it is mounted here: the first of /sys/fs/cgroup, /sys/fs/cgroup/unified, elsewhere.

    `path` is the mount point, "" if there is none: a plan can be made without; `create` will raise it. To look for it
    means to read all mounts, so who needs it twice passes it on. See cgroups(7).
    """

    __slots__ = ("_top", "path")

    def __init__(self) -> None:
        found = dict(proc.mounts("cgroup2"))  # a later mount at the same place covers the earlier one
        # By preference, not by order: what is mounted below /sys/fs/cgroup may be covered by a later mount on top.
        places = [path for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", *found) if path in found]
        self.path = places[0] if places else ""
        # The cgroup that is to be seen there, as from our own cgroup namespace: a part of the tree in a container that
        # shares its host's.
        self._top = found[self.path].rstrip("/") if places else ""

    def cgroup_of(self, pid: int | str = "self") -> str:
        """A process's cgroup, as a path below the mount point ("/" if it cannot be seen from there, or is none).

        Raises FileNotFoundError or ProcessLookupError if the process is gone.
        Companion: opencontainers/cgroups:fs2/defaultpath.go:/^func parseCgroupFile/.
        """
        for line in proc.read_file(f"/proc/{pid}/cgroup").split(b"\n"):
            if line.startswith(b"0::") and self.path:
                path = line[3:].decode(errors="surrogateescape").removesuffix(" (deleted)")
                inside = path.startswith(f"{self._top}/") and not path.startswith("/..")
                return path[len(self._top) :] if inside else "/"
        return "/"

    def path_of(self, cgroup: str) -> str:
        """The directory of a cgroup on the host; "" if there is no hierarchy."""
        return self.path.rstrip("/") + cgroup if self.path else ""


def find_v2() -> str:
    """Where the cgroup v2 hierarchy is mounted. Raises UnsupportedError, with the remedy, where there is none."""
    path = Hierarchy().path
    if not path:
        raise UnsupportedError(
            "no cgroup v2 hierarchy is mounted",
            hint="mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    return path


def create(root_path: str, path: str, needed: dict[str, str]) -> Cgroup:
    """Make the cgroup `path` ("/mygroup/web") below `root_path` (from `find_v2`), with the missing ones above it.

    `needed` are the controllers that limits need, each with the place in config.json. They are checked before
    anything is made: UnsupportedError names controller, key and remedy. The other controllers are enabled where that
    works, so that the container can be counted. ExistsError: the cgroup has processes already. StateError: it is
    frozen. KernelError: the tree is not writable. When any is raised, what was made is removed again.
    Companion: opencontainers/cgroups:fs2/create.go:/^func CreateCgroupPath/.
    """
    there = available(root_path, needed)
    directory = root_path.rstrip("/")
    cgroup = Cgroup(directory + path)
    try:
        for part in path.strip("/").split("/"):
            _hand_down(directory, there, needed)
            directory = f"{directory}/{part}"
            if _make(directory):
                cgroup.made.append(directory)
        if cgroup.path not in cgroup.made:
            refuse_used(cgroup)
        refuse_frozen(cgroup)
        _fit_type(cgroup, needed)
    except Error:
        cgroup.remove_made()
        raise
    return cgroup


def hand_down(root_path: str, path: str, needed: dict[str, str]) -> None:
    """Enable the controllers that limits need, and no others, for a cgroup that is there. Raises UnsupportedError."""
    directory = root_path.rstrip("/")
    for part in path.strip("/").split("/"):
        _hand_down(directory, list(needed), needed)
        directory = f"{directory}/{part}"


def available(directory: str, needed: dict[str, str]) -> list[str]:
    """The controllers of a cgroup, or of the whole hierarchy, once it is sure that all that are needed are among them.

    `needed` as for `create`. Raises UnsupportedError.
    """
    there = read_text(f"{directory}/cgroup.controllers").split()
    for controller, where in needed.items():
        if controller not in there:
            raise UnsupportedError(
                f"needs the cgroup controller {controller!r}, and the v2 hierarchy at {directory} has only: "
                f"{' '.join(there) or 'none'}",
                where=where,
                hint=_why_missing(controller),
            )
    return there


def _hand_down(directory: str, available: list[str], needed: dict[str, str]) -> None:
    """Enable the controllers for the children of `directory`: by one write if that works, else one by one."""
    switch = f"{directory}/cgroup.subtree_control"
    enabled = read_text(switch).split()
    missing = [name for name in available if name not in enabled]
    if not missing:
        return
    try:
        proc.write_file(switch, " ".join(f"+{name}" for name in missing).encode())
    except KernelError as error:  # one of them cannot be had here; the others still can
        # EBUSY: `directory` has processes. Thread-wise controllers could be enabled even so, but that would turn it
        # into a threaded domain, where children can have no others: not done to it unless a limit needs just that.
        wanted = [name for name in missing if name in needed] if error.errno == errno.EBUSY else missing
        for name in sorted(wanted, key=_THREADED.__contains__):
            _hand_down_one(directory, name, needed.get(name))


def _hand_down_one(directory: str, controller: str, where: str | None) -> None:
    """Enable one controller; that it cannot be is an error only if some limit, at `where`, needs it."""
    try:
        proc.write_file(f"{directory}/cgroup.subtree_control", f"+{controller}".encode())
    except KernelError as error:
        if where is not None:
            message = f"cannot enable the cgroup controller {controller!r} below {directory}: {error.message}"
            hint = _hand_down_hint(directory, controller, error.errno or 0)
            raise UnsupportedError(message, where=where, hint=hint) from None


def _make(directory: str) -> bool:
    """mkdir(2); whether it was not there before."""
    try:
        posix.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    except OSError as error:
        number = error.errno or errno.EIO
        raise KernelError(f"mkdir({directory!r}, 0755)", number, hint=_MAKE_HINTS.get(number, "")) from None
    return True


def refuse_used(cgroup: Cgroup) -> None:
    """A cgroup with processes would be limited, killed and counted with the container's."""
    if pids := cgroup.pids(recursive=True):
        raise ExistsError(
            f"container's cgroup is not empty: {len(pids)} process(es) found",
            where=PATH_KEY,
            hint=f"see {cgroup.path}/cgroup.procs; each container needs a cgroup of its own",
        )


def refuse_frozen(cgroup: Cgroup) -> None:
    """A child born into a frozen cgroup would stop before its first instruction, and the start would hang."""
    if "frozen 1" in cgroup.read("cgroup.events"):
        hint = f"thaw {cgroup.path}, or the one above it: echo 0 > .../cgroup.freeze"
        raise StateError("container's cgroup unexpectedly frozen", where=PATH_KEY, hint=hint)


def _fit_type(cgroup: Cgroup, needed: dict[str, str]) -> None:
    """A cgroup below a threaded one is of no use until it is threaded, too; then only some controllers work."""
    kind = cgroup.read("cgroup.type").strip()
    if kind == "domain":
        return
    for controller, where in needed.items():
        if controller not in _THREADED:
            message = f"the cgroup {cgroup.path} is of type {kind!r}, where the controller {controller!r} cannot work"
            hint = "a cgroup above it is threaded: choose another cgroupsPath"
            raise UnsupportedError(message, where=where, hint=hint)
    if kind == "domain invalid":
        for directory in cgroup.made or [cgroup.path]:
            proc.write_file(f"{directory}/cgroup.type", b"threaded")


_NOT_OWNER = "making cgroups needs root, or a subtree that was delegated to this user"
_REMOVED = "the cgroup above was removed meanwhile"
_MAKE_HINTS = {
    errno.EACCES: _NOT_OWNER,
    errno.EPERM: _NOT_OWNER,
    errno.EROFS: "the cgroup file system is mounted read-only here: inside a container?",
    errno.EAGAIN: "cgroup.max.descendants or cgroup.max.depth of a cgroup above is reached",
    errno.ENOENT: _REMOVED,
    errno.ENODEV: _REMOVED,
    errno.EINVAL: "the name of a cgroup cannot hold a line break",
}


def _hand_down_hint(directory: str, controller: str, number: int) -> str:
    if number == errno.EBUSY:
        return (
            f"{directory} has processes of its own, so it cannot hand {controller!r} down: move them into a cgroup "
            "below it, or choose a cgroupsPath elsewhere"
        )
    if number == errno.ENOENT:
        return f"a cgroup above does not hand it down: echo +{controller} > {directory}/../cgroup.subtree_control"
    if number in (errno.EACCES, errno.EPERM):
        return f"only the owner of {directory} may; under systemd: Delegate={controller} on the unit or slice"
    if number == errno.EINVAL and controller == "cpu":
        return "real-time processes outside of the root cgroup keep the kernel from enabling it (CONFIG_RT_GROUP_SCHED)"
    if number == errno.EOPNOTSUPP:
        return f"{directory} is threaded, or lies below a cgroup that is"
    return ""


def _why_missing(controller: str) -> str:
    """Where a controller is that the v2 hierarchy lacks, and how to get it. See cgroups(7), /proc/cgroups."""
    v1_name = {"io": "blkio"}.get(controller, controller)
    for line in read_text("/proc/self/cgroup").splitlines():
        hierarchy, names, _path = line.split(":", 2)
        if hierarchy != "0" and v1_name in names.split(","):
            return (
                f"cgroup v1 holds {v1_name!r} on this host: boot with systemd.unified_cgroup_hierarchy=1 or "
                f"cgroup_no_v1={v1_name}, or remove the key"
            )
    for line in read_text("/proc/cgroups").splitlines():
        if line.split()[0] == v1_name and line.split()[3:] == ["0"]:
            return f"the kernel was booted with it switched off: cgroup_enable={v1_name}, or remove the key"
    return "the kernel was built without it, or the cgroup above does not hand it down; or remove the key"
