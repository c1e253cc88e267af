"""Spec -> Steps for everything that can be seen below `/` of the container.

Read beside runc:libcontainer/specconv/spec_linux.go:/^func parseMountOptions/ and
runc:libcontainer/rootfs_linux.go:/^func prepareRootfs/.
"""

from __future__ import annotations

from pyruntime.errors import ConfigError, UnsupportedError
from pyruntime.linux import constants as c
from pyruntime.plan.step import NAMESPACES, ROOTFS, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyruntime.spec.types import Device, Mount, Spec

# Every mount option that is not handed to the filesystem (config.md#mounts): (flags to set, flags to clear).
OPTIONS: dict[str, tuple[int, int]] = {
    "async": (0, c.MS_SYNCHRONOUS),
    "atime": (0, c.MS_NOATIME),
    "bind": (c.MS_BIND, 0),
    "defaults": (0, 0),
    "dev": (0, c.MS_NODEV),
    "diratime": (0, c.MS_NODIRATIME),
    "dirsync": (c.MS_DIRSYNC, 0),
    "exec": (0, c.MS_NOEXEC),
    "iversion": (c.MS_I_VERSION, 0),
    "lazytime": (c.MS_LAZYTIME, 0),
    "loud": (0, c.MS_SILENT),
    "mand": (c.MS_MANDLOCK, 0),
    "noatime": (c.MS_NOATIME, 0),
    "nodev": (c.MS_NODEV, 0),
    "nodiratime": (c.MS_NODIRATIME, 0),
    "noexec": (c.MS_NOEXEC, 0),
    "noiversion": (0, c.MS_I_VERSION),
    "nolazytime": (0, c.MS_LAZYTIME),
    "nomand": (0, c.MS_MANDLOCK),
    "norelatime": (0, c.MS_RELATIME),
    "nostrictatime": (0, c.MS_STRICTATIME),
    "nosuid": (c.MS_NOSUID, 0),
    "nosymfollow": (c.MS_NOSYMFOLLOW, 0),
    "rbind": (c.MS_BIND | c.MS_REC, 0),
    "relatime": (c.MS_RELATIME, 0),
    "remount": (c.MS_REMOUNT, 0),
    "ro": (c.MS_RDONLY, 0),
    "rw": (0, c.MS_RDONLY),
    "silent": (c.MS_SILENT, 0),
    "strictatime": (c.MS_STRICTATIME, 0),
    "suid": (0, c.MS_NOSUID),
    "symfollow": (0, c.MS_NOSYMFOLLOW),
    "sync": (c.MS_SYNCHRONOUS, 0),
}

# Each of these is a mount(2) call of its own, after the mount exists. See mount(2), "Changing the propagation type".
PROPAGATION: dict[str, int] = {
    "private": c.MS_PRIVATE,
    "rprivate": c.MS_PRIVATE | c.MS_REC,
    "shared": c.MS_SHARED,
    "rshared": c.MS_SHARED | c.MS_REC,
    "slave": c.MS_SLAVE,
    "rslave": c.MS_SLAVE | c.MS_REC,
    "unbindable": c.MS_UNBINDABLE,
    "runbindable": c.MS_UNBINDABLE | c.MS_REC,
}

# What covers a directory that is to be hidden. See tmpfs(5).
EMPTY_TMPFS = "nr_blocks=1,nr_inodes=1"

# For the whole tree below a mount, by mount_setattr(2): (attributes to set, attributes to clear). The access times are
# one field of the mask, not bits, so that choosing one clears the field first.
_ATIME = c.MOUNT_ATTR__ATIME

DATA_MAX = 4096  # the kernel copies a page of options, and cuts what is longer without a word
RECURSIVE: dict[str, tuple[int, int]] = {
    "rro": (c.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, c.MOUNT_ATTR_RDONLY),
    "rnosuid": (c.MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, c.MOUNT_ATTR_NOSUID),
    "rnodev": (c.MOUNT_ATTR_NODEV, 0),
    "rdev": (0, c.MOUNT_ATTR_NODEV),
    "rnoexec": (c.MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, c.MOUNT_ATTR_NOEXEC),
    "rnodiratime": (c.MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, c.MOUNT_ATTR_NODIRATIME),
    "rrelatime": (c.MOUNT_ATTR_RELATIME, _ATIME),
    "rnoatime": (c.MOUNT_ATTR_NOATIME, _ATIME),
    "ratime": (c.MOUNT_ATTR_RELATIME, _ATIME),
    "rstrictatime": (c.MOUNT_ATTR_STRICTATIME, _ATIME),
    "rnorelatime": (c.MOUNT_ATTR_STRICTATIME, _ATIME),
    "rnostrictatime": (c.MOUNT_ATTR_RELATIME, _ATIME),
    "rnosymfollow": (c.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, c.MOUNT_ATTR_NOSYMFOLLOW),
}

# Where a container finds the socket to which it tells its readiness. See sd_notify(3).
NOTIFY_SOCKET = "/run/notify/notify.sock"

# config.md#linux-mount-options: the mapping of this mount, or of the whole tree.
IDMAP = ("idmap", "ridmap")

# runtime-spec, config-linux.md#default-devices: name -> (major, minor), all of them character devices of mode 0666.
DEFAULT_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}

# config-linux.md#dev-symbolic-links; ptmx because each container has a devpts of its own.
DEV_SYMLINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}


class RootPropagation(Step):
    """Cut or keep the exchange of mounts with the host (config-linux.md#rootfs-mount-propagation)."""

    phase = ROOTFS
    why = "a mount made for the container must not appear on the host"

    flags: int

    def text(self) -> str:
        what = "every mount" if self.flags & c.MS_REC else "the mount at /"
        return f"make {what} {flag_names(self.flags)}"


class BindRoot(Step):
    """Make the root file system a mount point of its own: pivot_root(2) demands one."""

    phase = ROOTFS
    why = "pivot_root takes a mount point only, and read-only or propagation are properties of a mount"

    rootfs: str

    def text(self) -> str:
        return f"bind {self.rootfs} onto itself, with what is mounted below"


class MountFilesystem(Step):
    """One entry of `mounts` that is not a bind (config.md#mounts)."""

    phase = ROOTFS
    why = "the container sees no file system but those that config.json names"

    source: str
    target: str
    fstype: str
    flags: int
    data: str
    propagation: tuple[int, ...]
    recursive: tuple[int, int]
    copy_up: bool

    def text(self) -> str:
        data = f" with {self.data}" if self.data else ""
        copy = ", filled with what it hides" if self.copy_up else ""
        return f"mount {self.fstype} on {self.target} {flag_names(self.flags)}{data}{copy}{_attributes(self)}"


class BindMount(Step):
    """One entry of `mounts` that shows a part of the host's tree (mount(2), "Creating a bind mount")."""

    phase = ROOTFS
    why = "a file or directory of the host is wanted inside"

    source: str
    target: str
    flags: int
    clear: int
    propagation: tuple[int, ...]
    recursive: tuple[int, int]

    def text(self) -> str:
        return f"bind {self.source} on {self.target} {flag_names(self.flags)}{_attributes(self)}"


class MapMount(Step):
    """The ID mapping of a bind mount, from its own keys or from the container's user namespace (config.md#mounts).

    Done before the clone, by who has the rights; BindMount of the same place then attaches what was mapped.
    """

    phase = NAMESPACES
    why = "files have other owners in the container than on the host"

    source: str
    with_submounts: bool  # rbind: the mounts below are shown, too
    whole_tree: bool  # ridmap: they are mapped, too
    uid: tuple[tuple[int, int, int], ...]  # (first on disk, first as seen by the host, how many)
    gid: tuple[tuple[int, int, int], ...]
    namespace_path: str  # of a user namespace to take the mapping from; "": from uid and gid

    def text(self) -> str:
        ranges = (f"{kind} {_ranges(mappings)}" for kind, mappings in (("uid", self.uid), ("gid", self.gid)))
        how = f"as in {self.namespace_path}" if self.namespace_path else " and ".join(ranges)
        return f"map the owners of {self.source}{' and below' if self.whole_tree else ''}: {how}"


class MountCgroup(Step):
    """A mount of type `cgroup`: the container's own part of the v2 hierarchy (config-linux.md#cgroups-path)."""

    phase = ROOTFS
    why = "the container sees its own cgroup and none of the host's"

    target: str
    flags: int
    propagation: tuple[int, ...]
    recursive: tuple[int, int]
    own_view: bool  # whether the container has a cgroup namespace, new or joined

    def text(self) -> str:
        what = "the container's cgroup" if self.own_view else "the cgroup hierarchy"
        return f"mount {what} on {self.target} {flag_names(self.flags)}{_attributes(self)}"


class RemountReadonly(Step):
    """Close a mount that had to be writable while the runtime filled it."""

    phase = ROOTFS
    why = "device nodes and copied files had to be written before"

    target: str
    flags: int

    def text(self) -> str:
        return f"remount {self.target} read-only"


class CreateDevice(Step):
    """A device node below /dev or elsewhere (config-linux.md#devices)."""

    phase = ROOTFS
    why = "programs expect it; the device rules of the cgroup say what may be opened"

    path: str
    kind: str  # "c", "b" or "p"
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    bind: bool  # show the host's node, where mknod(2) is not allowed

    def text(self) -> str:
        number = "" if self.kind == "p" else f" {self.major}:{self.minor}"
        how = "bind the host's" if self.bind else "make"
        return f"{how} {self.path} {self.kind}{number} mode {self.mode:04o} owner {self.uid}:{self.gid}"


class LinkDevices(Step):
    """The symbolic links that /dev has on every system (config-linux.md#dev-symbolic-links)."""

    phase = ROOTFS
    why = "shells open /dev/fd, programs open /dev/stdin and /dev/ptmx"

    links: dict[str, str]

    def text(self) -> str:
        return "link in /dev: " + ", ".join(f"{name} -> {to}" for name, to in self.links.items())


class MakeWorkingDirectory(Step):
    """Make `process.cwd` where the image has none, as the user expects of a working directory (config.md#process)."""

    phase = ROOTFS
    why = "a working directory that the image lacks is made, as runc does"

    path: str

    def text(self) -> str:
        return f"make sure that {self.path} is a directory"


class ReadonlyPath(Step):
    """An entry of `linux.readonlyPaths` (config-linux.md#readonly-paths)."""

    phase = ROOTFS
    why = "these files configure the host's kernel"

    path: str

    def text(self) -> str:
        return f"make {self.path} read-only, if it exists"


class MaskPath(Step):
    """An entry of `linux.maskedPaths` (config-linux.md#masked-paths)."""

    phase = ROOTFS
    why = "these files tell about the host, or harm it"

    path: str
    data: str  # the options of the tmpfs, if it is a directory

    def text(self) -> str:
        return f"hide {self.path}, if it exists"


class ReadonlyRoot(Step):
    """`root.readonly` (config.md#root)."""

    phase = ROOTFS
    why = "root.readonly asks for it"

    def text(self) -> str:
        return "make the root mount read-only"


class SharedRoot(Step):
    """`rootfsPropagation` of the kinds that can't be set before pivot_root."""

    phase = ROOTFS
    why = "pivot_root refuses a shared root, so it is shared only now"

    flags: int

    def text(self) -> str:
        return f"make the new root {flag_names(self.flags)}"


class PivotRoot(Step):
    """Exchange the host's root for the container's and let go of the host's (pivot_root(2), "pivot_root(".", ".")")."""

    phase = ROOTFS
    why = "unlike chroot it leaves no way back: the host's root is unmounted from this namespace"

    no_pivot: bool

    def text(self) -> str:
        return "move the root mount over / and chroot" if self.no_pivot else "pivot_root into the root file system"


def _ranges(mappings: tuple[tuple[int, int, int], ...]) -> str:
    return ", ".join(f"{first}..{first + size - 1} to {outside}" for first, outside, size in mappings)


def flag_names(flags: int) -> str:
    """The names of MS_* bits as in mount(2), joined by "|"."""
    return c.flag_names(flags, "MS_") if flags else "-"


def _attributes(step: MountFilesystem | BindMount | MountCgroup) -> str:
    """What is changed after the mount exists, for a person."""
    parts = [f"then {flag_names(flags)}" for flags in step.propagation]
    if names := _recursive_names(*step.recursive):
        parts.append("then for the whole tree " + " ".join(names))
    return "".join(f", {part}" for part in parts)


def _recursive_names(attr_set: int, attr_clear: int) -> list[str]:
    """The options that amount to these attributes; of those that mean the same access times, the first."""
    found: dict[tuple[int, int], str] = {}
    for name, (on, off) in RECURSIVE.items():
        chosen = attr_clear & _ATIME and attr_set & _ATIME == on if off == _ATIME else attr_set & on or attr_clear & off
        if chosen:
            found.setdefault((on, off), name)
    return list(found.values())


class ParsedOptions:
    """The options of one mount, sorted by the kernel interface that takes them."""

    __slots__ = ("clear", "copy_up", "data", "flags", "idmap", "propagation", "recursive")

    def __init__(self, options: list[str], where: str) -> None:
        self.flags = self.clear = 0
        self.copy_up = False
        self.idmap = ""
        attr_set = attr_clear = 0
        data = []
        propagation = []
        for option in options:
            if option in OPTIONS:
                on, off = OPTIONS[option]
                self.flags = self.flags & ~off | on
                self.clear = self.clear & ~on | off
            elif option in PROPAGATION:
                propagation.append(PROPAGATION[option])
            elif option in RECURSIVE:
                on, off = RECURSIVE[option]
                attr_set = attr_set & ~off | on
                attr_clear = attr_clear & ~(on & ~_ATIME) | off
            elif option == "tmpcopyup":
                self.copy_up = True
            elif option in IDMAP:
                self.idmap = option
            else:
                data.append(option)
        self.data = ",".join(data)
        if len(self.data.encode("utf-8", "surrogateescape")) >= DATA_MAX:
            raise ConfigError(f"longer than the {DATA_MAX - 1} bytes that mount(2) takes", where=f"{where}/options")
        self.propagation = tuple(propagation)
        self.recursive = (attr_set, attr_clear)


def root_steps(spec: Spec, rootfs: str) -> list[Step]:
    """The steps that come before the mounts of config.json."""
    wanted = spec.get("linux", {}).get("rootfsPropagation", "")
    flags = PROPAGATION[wanted] if wanted else c.MS_SLAVE | c.MS_REC
    return [
        RootPropagation("config.json#/linux/rootfsPropagation" if wanted else "config.json#/root", flags),
        BindRoot("config.json#/root/path", rootfs),
    ]


def mount_steps(spec: Spec, bundle_path: str) -> Iterator[Step]:
    """One step for each entry of `mounts`, in the order of config.json (config.md#mounts demands it).

    Raises ConfigError for options that can't be combined.
    """
    kinds = {namespace["type"] for namespace in spec.get("linux", {}).get("namespaces", ())}
    for index, mount in enumerate(spec.get("mounts", ())):
        yield _mount_step(mount, f"config.json#/mounts/{index}", bundle_path, own_view="cgroup" in kinds)


def notify_steps(path: str) -> Iterator[Step]:
    """Show the container the directory of its readiness socket, if there is one. runc:notify_socket.go"""
    if path:
        flags = c.MS_BIND | c.MS_NOSUID | c.MS_NOEXEC | c.MS_NODEV | c.MS_RDONLY
        yield BindMount("$NOTIFY_SOCKET", path, NOTIFY_SOCKET.rpartition("/")[0], flags, 0, (), (0, 0))


def mapping_steps(spec: Spec, mounts: list[Step]) -> Iterator[Step]:
    """One step for each of the `mounts` (as from mount_steps) that is idmapped.

    runc:libcontainer/specconv/spec_linux.go:/^func createLibcontainerMount/
    """
    for step, mount in zip(mounts, spec.get("mounts", ()), strict=True):
        wanted = [option for option in mount.get("options", ()) if option in IDMAP]
        if isinstance(step, BindMount) and (wanted or mount.get("uidMappings")):
            own = mount if mount.get("uidMappings") else spec.get("linux", {})
            joined = [each.get("path", "") for each in spec["linux"].get("namespaces", ()) if each["type"] == "user"]
            path = joined[0] if joined and own is not mount else ""
            uid, gid = (_mappings(own.get(key, ())) if not path else () for key in ("uidMappings", "gidMappings"))
            whole = "ridmap" in wanted[-1:]
            yield MapMount(step.where, step.source, bool(step.flags & c.MS_REC), whole, uid, gid, path)


def _mappings(mappings: Any) -> tuple[tuple[int, int, int], ...]:
    return tuple((each["containerID"], each["hostID"], each["size"]) for each in mappings)


def _mount_step(mount: Mount, where: str, bundle_path: str, *, own_view: bool) -> Step:
    options = ParsedOptions(mount.get("options", []), where)
    target = "/" + mount["destination"].lstrip("/")
    fstype = mount.get("type", "")
    source = mount.get("source", "")
    if fstype == "bind" or options.flags & c.MS_BIND:
        if options.data:
            raise ConfigError(f"a bind mount takes no file system options: {options.data!r}", where=f"{where}/options")
        if options.copy_up:
            raise ConfigError("tmpcopyup is for tmpfs, not for a bind mount", where=f"{where}/options")
        if not source:
            raise ConfigError("a bind mount needs a source", where=f"{where}/source")
        if not source.startswith("/"):
            source = f"{bundle_path}/{source}"
        flags = options.flags | c.MS_BIND
        return BindMount(where, source, target, flags, options.clear, options.propagation, options.recursive)
    if not fstype and not options.flags & c.MS_REMOUNT:
        raise ConfigError("a mount that is no bind needs a type", where=f"{where}/type")
    if options.copy_up and fstype != "tmpfs":
        raise ConfigError(f"tmpcopyup is for tmpfs, not for {fstype}", where=f"{where}/options")
    if fstype in ("cgroup", "cgroup2"):
        if options.data:  # they are properties of the whole hierarchy, and it is mounted already
            raise UnsupportedError(
                f"a cgroup mount takes no file system options: {options.data!r}", where=f"{where}/options"
            )
        return MountCgroup(where, target, options.flags, options.propagation, options.recursive, own_view)
    return MountFilesystem(
        where,
        source,
        target,
        fstype,
        options.flags,
        options.data,
        options.propagation,
        options.recursive,
        options.copy_up,
    )


def device_steps(spec: Spec) -> Iterator[Step]:
    """The default devices, those of `linux.devices`, and the links; none where a bind mount covers /dev.

    A device of config.json replaces the default one of the same path.
    """
    if any(_is_dev(mount) and _is_bind(mount) for mount in spec.get("mounts", ())):
        return
    linux = spec.get("linux", {})
    bind = any(namespace["type"] == "user" for namespace in linux.get("namespaces", ()))
    asked = {device["path"]: (index, device) for index, device in enumerate(linux.get("devices", ()))}
    for name, (major, minor) in DEFAULT_DEVICES.items():
        path = f"/dev/{name}"
        if path not in asked:
            yield CreateDevice("config.json#/linux/devices", path, "c", major, minor, 0o666, 0, 0, bind)
    for path, (index, device) in asked.items():
        yield _device_step(device, path, f"config.json#/linux/devices/{index}", bind)
    yield LinkDevices("config.json#/linux/devices", DEV_SYMLINKS)


def _device_step(device: Device, path: str, where: str, bind: bool) -> Step:
    kind = "c" if device["type"] == "u" else device["type"]
    numbers = device.get("major", 0), device.get("minor", 0)
    mode = device.get("fileMode", 0o666) & 0o7777
    bind = bind and kind != "p"  # anyone may make a FIFO, and the host has none to show
    return CreateDevice(where, path, kind, *numbers, mode, device.get("uid", 0), device.get("gid", 0), bind)


def closing_steps(spec: Spec, mounts: list[Step], change_root: Step) -> Iterator[Step]:
    """What must come after all `mounts` (as from mount_steps) and devices, up to the change of the root and beyond."""
    linux = spec.get("linux", {})
    for step in mounts:
        if isinstance(step, MountFilesystem) and step.flags & c.MS_RDONLY and _was_filled(step):
            yield RemountReadonly(step.where, step.target, step.flags)
    if spec["root"].get("readonly"):
        yield ReadonlyRoot("config.json#/root/readonly")
    for index, path in enumerate(linux.get("readonlyPaths", ())):
        yield ReadonlyPath(f"config.json#/linux/readonlyPaths/{index}", path)
    for index, path in enumerate(linux.get("maskedPaths", ())):
        yield MaskPath(f"config.json#/linux/maskedPaths/{index}", path, EMPTY_TMPFS)
    yield change_root
    wanted = PROPAGATION.get(linux.get("rootfsPropagation", ""), 0)
    if wanted & (c.MS_SHARED | c.MS_UNBINDABLE):
        yield SharedRoot("config.json#/linux/rootfsPropagation", wanted)


def _was_filled(step: MountFilesystem) -> bool:
    """Whether it was mounted writable, for what we put there: see launch/rootfs.py."""
    return step.fstype == "tmpfs" or step.target.rstrip("/") == "/dev"


def _is_dev(mount: Mount) -> bool:
    return "/" + mount["destination"].strip("/") == "/dev"


def _is_bind(mount: Mount) -> bool:
    return mount.get("type") == "bind" or any(option in ("bind", "rbind") for option in mount.get("options", ()))
