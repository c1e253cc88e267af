"""What performing the ROOTFS steps means, and why so. One function a step.

The subject of all of them is a Rootfs: the container's future root, held by a descriptor. Every target is opened once
and mounted on by its descriptor, because the image may swap a directory for a symbolic link meanwhile (CVE-2021-30465,
CVE-2024-45310).

Read beside runc:libcontainer/rootfs_linux.go.
"""

from __future__ import annotations

import errno
import posix

from pyruntime.cgroup.creation import find_v2
from pyruntime.errors import ConfigError, Error, KernelError
from pyruntime.launch import treecopy
from pyruntime.launch.paths import O_PATH, Root, is_null, proc_fd
from pyruntime.launch.perform import performs
from pyruntime.linux import constants as c
from pyruntime.linux import files, proc, syscalls
from pyruntime.plan.mounts import (
    EMPTY_TMPFS,
    BindMount,
    BindRoot,
    CreateDevice,
    LinkDevices,
    MakeWorkingDirectory,
    MaskPath,
    MountCgroup,
    MountFilesystem,
    PivotRoot,
    ReadonlyPath,
    ReadonlyRoot,
    RemountReadonly,
    RootPropagation,
    SharedRoot,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.launch.hookpoints import HookPoints
    from pyruntime.launch.labels import Label
    from pyruntime.launch.sync import Channel
    from pyruntime.launch.tape import Tape

_NODE_TYPES = {"c": c.S_IFCHR, "b": c.S_IFBLK, "p": c.S_IFIFO}

# A mount inside procfs would let the image fake what the runtime and the container's own tools trust. These files are
# what lxcfs replaces with true figures for the container; runc:libcontainer/rootfs_linux.go:/^func checkProcMount/.
LXCFS_FILES = (
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
)

_ST_RELATIME = 4096  # statvfs(3); the only bit of it that differs from mount(2)'s
_ATIMES = c.MS_NOATIME | c.MS_RELATIME | c.MS_STRICTATIME | c.MS_NODIRATIME
# In a mount that a user namespace inherited, these can't be taken away. See mount_namespaces(7).
_LOCKED = c.MS_RDONLY | c.MS_NOSUID | c.MS_NODEV | c.MS_NOEXEC | _ATIMES


class Rootfs:
    """The root file system while it is built.

    `cgroup_path` is the container's cgroup on the host, "" for none. `console_fd` and `channel` are where the master of
    a terminal goes: to a connected --console-socket, or to the parent where that is -1.
    """

    __slots__ = (
        "ask_for_source",
        "cgroup_path",
        "channel",
        "console_fd",
        "home_fd",
        "hooks",
        "label",
        "mask_fd",
        "path",
        "root",
        "tape",
        "trees",
    )

    root: Root  # set when the root has become a mount point
    home_fd: int  # the mount namespace to return to, for a container that is to have none of its own: roottree.py

    def __init__(self, path: str, cgroup_path: str, console_fd: int, channel: Channel) -> None:
        self.path = path
        self.cgroup_path = cgroup_path
        self.console_fd = console_fd
        self.channel = channel
        self.hooks: HookPoints | None = None
        self.mask_fd = -1  # an empty read-only tmpfs, once one is mounted
        self.trees: dict[str, int] = {}  # detached mounts that the parent has mapped, by their place in config.json
        self.ask_for_source: Callable[[Channel, str], int] | None = None  # launch/sources.py
        self.label: Label | None = None  # what the hop shall ask for, if there is a profile or a label
        self.tape: Tape | None = None  # of a hop that is there before the root is, and does what only it can do


@performs(RootPropagation)
def cut_propagation(step: RootPropagation, rootfs: Rootfs) -> None:
    """Change the propagation of all mounts, and cut that of the mount which holds the root file system.

    pivot_root(2) refuses a root whose parent mount is shared.
    runc:libcontainer/rootfs_linux.go:/^func prepareRoot\\(/
    """
    # What is unbindable could not be bound as the root; SharedRoot makes it so when it is.
    early = c.MS_SLAVE | c.MS_REC if step.flags & c.MS_UNBINDABLE else step.flags
    syscalls.mount("", "/", "", early, "")
    path = rootfs.path
    # EINVAL: not a mount point, so look above.
    while syscalls.mount("", path, "", c.MS_PRIVATE, "", expected=(errno.EINVAL,) if path != "/" else ()):
        path = path.rstrip("/").rpartition("/")[0] or "/"


@performs(BindRoot)
def bind_root(step: BindRoot, rootfs: Rootfs) -> None:
    """runc:libcontainer/rootfs_linux.go:/^func prepareRoot\\(/"""
    syscalls.mount(step.rootfs, step.rootfs, "", c.MS_BIND | c.MS_REC, "")
    rootfs.root = Root(step.rootfs)


@performs(MountFilesystem)
def mount_filesystem(step: MountFilesystem, rootfs: Rootfs) -> None:
    """runc:libcontainer/rootfs_linux.go:/^func .*mountPropagate/"""
    if step.flags & c.MS_REMOUNT:
        return _remount(step, rootfs)
    data = step.data
    if step.fstype in ("proc", "sysfs"):
        target_fd = _open_kernel_directory(step.target, rootfs)
    else:
        target_fd, existed = _open_directory(step.target, rootfs)
        _check_target(target_fd, step.target, rootfs)
        if step.fstype == "tmpfs" and existed:
            # A tmpfs takes over the mode of what it hides, such as 1777 of /tmp; its own options may still differ.
            data = ",".join(filter(None, (f"mode={posix.fstat(target_fd).st_mode & 0o7777:04o}", data)))
    # Written to by the runtime before it may become read-only; RemountReadonly closes it.
    late = c.MS_RDONLY if step.fstype == "tmpfs" or step.target.rstrip("/") == "/dev" else 0
    source = step.source or step.fstype
    hidden_fd = target_fd if step.copy_up else -1
    try:
        if step.where in rootfs.trees:
            _attach(rootfs.trees[step.where], target_fd)
        else:
            syscalls.mount(source, proc_fd(target_fd), step.fstype, step.flags & ~late, data)
        _finish(step, rootfs, hidden_fd)
    finally:
        posix.close(target_fd)
    return None


@performs(BindMount)
def bind_mount(step: BindMount, rootfs: Rootfs) -> None:
    """A bind takes no other flag when it is made: they need a remount. See mount(2), "Creating a bind mount".

    runc:libcontainer/rootfs_linux.go:/^func mountToRootfs/
    """
    mapped = step.where in rootfs.trees
    source_fd = rootfs.trees.pop(step.where) if mapped else _open_source(step, rootfs)
    try:
        target_fd = _open_like(posix.fstat(source_fd).st_mode, step.target, rootfs)
        try:
            _check_target(target_fd, step.target, rootfs, source_fd)
            if mapped:
                _attach(source_fd, target_fd)
            else:
                syscalls.mount(proc_fd(source_fd), proc_fd(target_fd), "", step.flags & (c.MS_BIND | c.MS_REC), "")
        finally:
            posix.close(target_fd)
    finally:
        posix.close(source_fd)
    with_flags = step.flags & ~(c.MS_BIND | c.MS_REC | c.MS_REMOUNT)
    if with_flags or step.clear:
        _change_flags(step, rootfs, with_flags)
    _finish(step, rootfs)


@performs(MountCgroup)
def mount_cgroup(step: MountCgroup, rootfs: Rootfs) -> None:
    """Bind what a mount of type cgroup2 would show, which would have the kernel wait for 8 ms (an RCU grace period).

    With a cgroup namespace that is the container's own cgroup, without one the whole hierarchy.
    runc:libcontainer/rootfs_linux.go:/^func mountCgroupV2/
    """
    target_fd, _ = _open_directory(step.target, rootfs)
    _check_target(target_fd, step.target, rootfs)
    target = proc_fd(target_fd)
    try:
        source = rootfs.cgroup_path if step.own_view and rootfs.cgroup_path else find_v2()
        syscalls.mount(source, target, "", c.MS_BIND, "")
        flags = step.flags & ~c.MS_REC | c.MS_BIND | c.MS_REMOUNT
        _use(rootfs.root.open(step.target), lambda fd: syscalls.mount("", proc_fd(fd), "", flags, ""))
    finally:
        posix.close(target_fd)
    _finish(step, rootfs)


@performs(RemountReadonly)
def remount_readonly(step: RemountReadonly, rootfs: Rootfs) -> None:
    """MS_BIND limits the change to this mount and its flags, which a user namespace may do too.

    runc:libcontainer/rootfs_linux.go:/^func remountReadonly/
    """
    flags = step.flags | c.MS_REMOUNT | c.MS_BIND | c.MS_RDONLY
    _use(rootfs.root.open(step.target), lambda fd: syscalls.mount("", proc_fd(fd), "", flags, ""))


@performs(CreateDevice)
def create_device(step: CreateDevice, rootfs: Rootfs) -> None:
    """A node that exists already is left as it is: a bind mount or the image may have brought it.

    runc:libcontainer/rootfs_linux.go:/^func createDeviceNode/
    """
    parent_fd, name = rootfs.root.open_parent(step.path)
    try:
        if step.bind:
            return _bind_device(step, parent_fd, name)
        try:
            number = posix.makedev(step.major, step.minor)
            syscalls.mknodat(parent_fd, name, _NODE_TYPES[step.kind] | step.mode, number)
        except KernelError as error:
            if error.errno == errno.EEXIST:
                return None
            if error.errno == errno.EPERM and step.kind != "p":  # the runtime itself is in a user namespace
                return _bind_device(step, parent_fd, name)
            raise
        node_fd = posix.open(name, O_PATH | posix.O_NOFOLLOW, dir_fd=parent_fd)
        return _use(node_fd, lambda fd: _own_device(step, fd))
    finally:
        posix.close(parent_fd)


@performs(LinkDevices)
def link_devices(step: LinkDevices, rootfs: Rootfs) -> None:
    """runc:libcontainer/rootfs_linux.go:/^func setupDevSymlinks/ and setupPtmx. Links that exist are kept, but ptmx."""
    dev_fd = rootfs.root.make_directories("/dev")
    try:
        for name, to in step.links.items():
            if name == "core" and not files.exists("/proc/kcore"):
                continue
            if name == "ptmx":  # the image's own node would be the host's ptmx
                _unlink(name, dev_fd)
            try:
                posix.symlink(to, name, dir_fd=dev_fd)
            except FileExistsError:
                continue
    finally:
        posix.close(dev_fd)


@performs(MakeWorkingDirectory)
def make_working_directory(step: MakeWorkingDirectory, rootfs: Rootfs) -> None:
    """runc:libcontainer/rootfs_linux.go:/^func prepareRootfs/, its end."""
    posix.close(rootfs.root.make_directories(step.path))


@performs(ReadonlyPath)
def readonly_path(step: ReadonlyPath, rootfs: Rootfs) -> None:
    """runc:libcontainer/rootfs_linux.go:/^func readonlyPath/"""
    found = rootfs.root.find(step.path)
    if found is None:
        return
    _use(found, lambda fd: syscalls.mount(proc_fd(fd), proc_fd(fd), "", c.MS_BIND | c.MS_REC, ""))
    keep = c.MS_NOSUID | c.MS_NODEV | c.MS_NOEXEC
    mounted_fd = rootfs.root.open(step.path)
    flags = c.MS_BIND | c.MS_REMOUNT | c.MS_RDONLY | posix.fstatvfs(mounted_fd).f_flag & keep
    _use(mounted_fd, lambda fd: syscalls.mount("", proc_fd(fd), "", flags, ""))


@performs(MaskPath)
def mask_path(step: MaskPath, rootfs: Rootfs) -> None:
    """Cover a file with the host's /dev/null, verified, and a directory with an empty read-only tmpfs.

    The container's own /dev/null may be anything (CVE-2025-31133). All directories share the first tmpfs, for a mount
    costs more than a bind. runc:libcontainer/rootfs_linux.go:/^func maskPaths/
    """
    found = rootfs.root.find(step.path)
    if found is None:
        return
    try:
        if posix.fstat(found).st_mode & c.S_IFMT != c.S_IFDIR:
            null_fd = posix.open("/dev/null", O_PATH)
            _verify_null(null_fd)
            _use(null_fd, lambda fd: syscalls.mount(proc_fd(fd), proc_fd(found), "", c.MS_BIND, ""))
        elif rootfs.mask_fd >= 0:
            syscalls.mount(proc_fd(rootfs.mask_fd), proc_fd(found), "", c.MS_BIND, "")
        else:
            syscalls.mount("tmpfs", proc_fd(found), "tmpfs", c.MS_RDONLY, step.data)
            rootfs.mask_fd = rootfs.root.open(step.path)
    finally:
        posix.close(found)


@performs(ReadonlyRoot)
def readonly_root(_step: ReadonlyRoot, rootfs: Rootfs) -> None:
    """runc:libcontainer/rootfs_linux.go:/^func setReadonly/"""
    keep = _flags_of(rootfs.root.fd) & _LOCKED & ~c.MS_RDONLY
    syscalls.mount("", proc_fd(rootfs.root.fd), "", c.MS_BIND | c.MS_REMOUNT | c.MS_RDONLY | keep, "")


@performs(PivotRoot)
def pivot_root(step: PivotRoot, rootfs: Rootfs) -> None:
    """pivot_root(".", ".") stacks the old root on the new one, where it is unmounted without a directory for it.

    See pivot_root(2). runc:libcontainer/rootfs_linux.go:/^func pivotRoot/ and msMoveRoot for --no-pivot.
    """
    posix.fchdir(rootfs.root.fd)
    if step.no_pivot:
        _remove_full_mounts(rootfs)
        syscalls.mount(".", "/", "", c.MS_MOVE, "")
        posix.chroot(".")
    else:
        host_fd = posix.open("/", O_PATH | posix.O_DIRECTORY)
        syscalls.pivot_root(".", ".")
        posix.fchdir(host_fd)
        # Slave, so that the unmount does not travel to the host; private would keep mounts of others busy.
        syscalls.mount("", ".", "", c.MS_SLAVE | c.MS_REC, "")
        syscalls.umount2(".", c.MNT_DETACH)
        posix.close(host_fd)
    posix.chdir("/")
    let_go(rootfs)


def let_go(rootfs: Rootfs) -> None:
    """Close what the root was built with, unless that has been done."""
    if rootfs.mask_fd >= 0:
        posix.close(rootfs.mask_fd)
        rootfs.mask_fd = -1
    if hasattr(rootfs, "root"):
        rootfs.root.close()
        del rootfs.root


def _remove_full_mounts(rootfs: Rootfs) -> None:
    """Take the host's procfs and sysfs out of this mount namespace, where --no-pivot leaves them beside the new root.

    As long as one shows all of itself, the kernel lets a user namespace inside mount another (mount_too_revealing() in
    its fs/namespace.c), so that maskedPaths mask nothing. runc:libcontainer/rootfs_linux.go:/^func msMoveRoot/
    """
    inside = posix.readlink(proc_fd(rootfs.root.fd)).rstrip("/") + "/"
    full = [path for path, shown in proc.mounts("proc") + proc.mounts("sysfs") if shown == "/"]
    for path in full:
        if not path.startswith(inside):
            try:
                syscalls.mount("", path, "", c.MS_SLAVE | c.MS_REC, "")  # the unmount must not travel to the host
            except KernelError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL):  # it went with one that it was mounted in
                    raise
            else:
                _unmount_or_cover(path)


def _unmount_or_cover(path: str) -> None:
    """A user namespace cannot unmount what it inherited, but hide it."""
    try:
        syscalls.umount2(path, c.MNT_DETACH)
    except KernelError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        syscalls.mount("tmpfs", path, "tmpfs", c.MS_RDONLY, EMPTY_TMPFS)


@performs(SharedRoot)
def share_root(step: SharedRoot, _rootfs: Rootfs) -> None:
    """runc:libcontainer/rootfs_linux.go:/^func prepareRootfs/"""
    syscalls.mount("", "/", "", step.flags, "")


def _verify_null(fd: int) -> None:
    if not is_null(fd):
        raise Error("/dev/null of the host is not the null device")


def _use(fd: int, use: Callable[[int], object]) -> None:
    """Call `use(fd)` and close fd, whatever happens."""
    try:
        use(fd)
    finally:
        posix.close(fd)


def _attach(mount_fd: int, target_fd: int) -> None:
    """Give a detached mount its place. See move_mount(2)."""
    syscalls.move_mount(mount_fd, "", target_fd, "", c.MOVE_MOUNT_F_EMPTY_PATH | c.MOVE_MOUNT_T_EMPTY_PATH)


def _open_source(step: BindMount, rootfs: Rootfs) -> int:
    try:
        return posix.open(step.source, O_PATH)
    except PermissionError:
        if rootfs.ask_for_source is None:
            raise
        return rootfs.ask_for_source(rootfs.channel, step.where)


def _open_directory(target: str, rootfs: Rootfs) -> tuple[int, bool]:
    """The directory to mount on, made where missing, and whether it was there. A file is fine if it is there."""
    found = rootfs.root.find(target)
    if found is not None:
        return found, True
    return rootfs.root.make_directories(target), False


def _open_kernel_directory(target: str, rootfs: Rootfs) -> int:
    """The target of procfs or sysfs, which must be no link: /proc -> /tmp would have the runtime trust a fake.

    CVE-2019-19921, CVE-2023-27561, CVE-2023-28642.
    """
    try:
        return rootfs.root.open(target, O_PATH | posix.O_DIRECTORY, resolve=c.RESOLVE_NO_SYMLINKS)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return rootfs.root.make_directories(target)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise ConfigError(
                f"{target} must be mounted on ordinary directory; in the root file system it is a link or a file"
            ) from error
        raise


def _open_like(mode: int, target: str, rootfs: Rootfs) -> int:
    """What a bind of something of this mode covers, made where missing: a directory, or else an empty file.

    A link to nothing is covered itself: what it names is made nowhere, and whoever opens it finds the mount. (Images
    made for systemd-resolved have such an /etc/resolv.conf.)
    """
    if mode & c.S_IFMT == c.S_IFDIR:
        return _open_directory(target, rootfs)[0]
    try:
        return rootfs.root.make_file(target)
    except FileExistsError:
        return rootfs.root.open(target, O_PATH | posix.O_NOFOLLOW)


def _check_target(target_fd: int, target: str, rootfs: Rootfs, source_fd: int = -1) -> None:
    """Refuse a mount over the root itself, which would be hidden below it, and one on or below procfs (CVE-2019-16884).

    lxcfs's files may be mounted there, and procfs itself. Asked of the descriptor, so that a link into /proc makes no
    difference. runc:libcontainer/rootfs_linux.go:/^func checkProcMount/
    """
    status, root = posix.fstat(target_fd), posix.fstat(rootfs.root.fd)
    if (status.st_dev, status.st_ino) == (root.st_dev, root.st_ino):
        raise ConfigError(f"{target} is the root file system itself; only what is below it can be a mount's place")
    inside = syscalls.fstatfs_type(target_fd) == c.PROC_SUPER_MAGIC
    named = target == "/proc" or target.startswith("/proc/")
    if not (inside or named) or target in LXCFS_FILES:
        return
    if target == "/proc" and source_fd >= 0 and syscalls.fstatfs_type(source_fd) == c.PROC_SUPER_MAGIC:
        return
    raise ConfigError(f"{target} is inside /proc, where only procfs and files such as {LXCFS_FILES[0]} may be mounted")


def _finish(step: MountFilesystem | BindMount | MountCgroup, rootfs: Rootfs, hidden_fd: int = -1) -> None:
    """What can be done to a mount only after it exists: fill it, recursive attributes, propagation."""
    if hidden_fd < 0 and not step.propagation and step.recursive == (0, 0):
        return
    mounted_fd = rootfs.root.open(step.target)
    try:
        if hidden_fd >= 0:
            treecopy.copy_up(hidden_fd, mounted_fd)
        if step.recursive != (0, 0):
            syscalls.mount_setattr(mounted_fd, "", c.AT_EMPTY_PATH | c.AT_RECURSIVE, *step.recursive)
        for flags in step.propagation:
            syscalls.mount("", proc_fd(mounted_fd), "", flags, "")
    finally:
        posix.close(mounted_fd)


def _remount(step: MountFilesystem, rootfs: Rootfs) -> None:
    mounted_fd = rootfs.root.open(step.target)
    _use(mounted_fd, lambda fd: syscalls.mount(step.source, proc_fd(fd), step.fstype, step.flags, step.data))


def _change_flags(step: BindMount, rootfs: Rootfs, wanted: int) -> None:
    """Give a bind its flags; where the source's own are locked, keep those and add ours.

    Raises ConfigError where that would not be what was asked for.
    """
    mounted_fd = rootfs.root.open(step.target)
    change = c.MS_BIND | c.MS_REMOUNT | wanted
    try:
        syscalls.mount("", proc_fd(mounted_fd), "", change, "")
    except KernelError as error:
        locked = _flags_of(mounted_fd) & _LOCKED
        if error.errno != errno.EPERM or not locked:
            raise
        if locked & step.clear or (wanted & _ATIMES and wanted & _ATIMES != locked & _ATIMES):
            raise ConfigError(
                f"the flags of {step.source} are locked by the mount that a user namespace inherited"
            ) from error
        syscalls.mount("", proc_fd(mounted_fd), "", change | locked, "")
    finally:
        posix.close(mounted_fd)


def _flags_of(fd: int) -> int:
    """The flags of the mount that fd is on, as MS_* bits; ST_* bits agree but for relatime. See statvfs(3)."""
    bits = posix.fstatvfs(fd).f_flag
    same = c.MS_RDONLY | c.MS_NOSUID | c.MS_NODEV | c.MS_NOEXEC | c.MS_NOATIME | c.MS_NODIRATIME
    return bits & same | (c.MS_RELATIME if bits & _ST_RELATIME else 0)


def _own_device(step: CreateDevice, fd: int) -> None:
    """Set the mode, which the umask has cut, and the owner; by /proc, for O_PATH takes neither fchmod nor fchown."""
    status = posix.fstat(fd)
    if status.st_mode & c.S_IFMT != _NODE_TYPES[step.kind]:
        raise Error(f"{step.path} is not the device that was made a moment ago")
    posix.chmod(proc_fd(fd), step.mode)
    posix.chown(proc_fd(fd), step.uid, step.gid)


def _bind_device(step: CreateDevice, parent_fd: int, name: str) -> None:
    """Show the host's node. runc:libcontainer/rootfs_linux.go:/^func bindMountDeviceNode/"""
    flags = posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC | posix.O_WRONLY
    file_fd = posix.open(name, flags, 0, dir_fd=parent_fd)
    _use(file_fd, lambda fd: syscalls.mount(step.path, proc_fd(fd), "", c.MS_BIND, ""))


def _unlink(name: str, dir_fd: int) -> None:
    try:
        posix.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
