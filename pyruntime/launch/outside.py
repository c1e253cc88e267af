"""Building a container's root without a Python process in the container: the parent goes in, and comes back.

    parent                                                      hop (exeseal.py), the container's process
      | ---- clone3(new namespaces, into the cgroup), execve -->  |
      |                                                           |  keyring, cgroup namespace; its procfs
      | <---------------------------------------- MOUNT -------   |  detached, with its descriptor (SCM_RIGHTS)
      | <---------------------------------------- READY -------   |  in all of its namespaces
      |  setns(the child's mount, network, ... namespaces)        |
      |  rootfs, pivot_root                                       |
      |  setns(its own again)                                     |
      |  rlimits, oom score, state, pid file                      |
      | ---- GO ----------------------------------------------->  |
      |                                                           |  reads the second half of its tape
      |                                                           |  credentials ... execve, as ever

A fork copies the memory of Python page by page as both go on, which costs more than all that the child does. But this
way is open only where there is a way back: a process that has entered a user namespace can't leave it. Nobody else is
in the new namespaces meanwhile, so nobody can look at the parent. A procfs shows the PID namespace of who mounts it, in
which the parent is not; so the hop makes it, and the parent only puts it in its place.

While the parent's root is the container's, nothing may be imported (CVE-2019-14271), no signal is handled, and what is
to be told is told afterwards. Where this way is not open the child is Python until its root stands: child.py.

runc has no counterpart. Read beside setns(2), "Details for specific namespace types".
"""

from __future__ import annotations

import _signal
import errno
import posix
import sys

from pyruntime import report
from pyruntime.errors import KernelError
from pyruntime.launch import exeseal
from pyruntime.launch.child import finish, last_steps
from pyruntime.launch.credentials import begin
from pyruntime.launch.inside import default_signals
from pyruntime.launch.perform import BY_HOP, perform
from pyruntime.launch.rootfs import Rootfs, let_go
from pyruntime.launch.sync import EXECVE_HINTS, MOUNT, READY
from pyruntime.launch.tape import Tape
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.clone import thread_count
from pyruntime.linux.files import write_all
from pyruntime.plan.mounts import BindMount, MountFilesystem, PivotRoot
from pyruntime.plan.namespaces import AwaitNetwork
from pyruntime.plan.step import ROOTFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.launch.child import Launch
    from pyruntime.launch.handle import Child
    from pyruntime.launch.namespaces import Namespaces
    from pyruntime.launch.sync import Channel
    from pyruntime.plan.step import Step

# Whose steps are about a root file system or a namespace, and not about the process that is in them.
_MODULES = ("pyruntime.plan.mounts", "pyruntime.plan.namespaces")
_FILE_SYSTEMS = ("devpts", "mqueue", "overlay", "ramfs", "sysfs", "tmpfs")
_ENTERED = {"mnt": c.CLONE_NEWNS, "net": c.CLONE_NEWNET, "uts": c.CLONE_NEWUTS, "ipc": c.CLONE_NEWIPC}
_ENTERED_MASK = c.CLONE_NEWNS | c.CLONE_NEWNET | c.CLONE_NEWUTS | c.CLONE_NEWIPC
_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # its inode: USER_NS_INIT_INO of linux/nsfs.h
_ARGS = "config.json#/process/args/0"
_PROC_FLAGS = c.MS_NOSUID | c.MS_NODEV | c.MS_NOEXEC  # the same bits as MOUNT_ATTR_*


def can_build(launch: Launch, namespaces: Namespaces) -> bool:
    """Whether the parent can build the root of this container, and come back."""
    if namespaces.has_user or namespaces.needs_stage or not namespaces.new & c.CLONE_NEWNS:
        return False
    if posix.geteuid() != 0 or thread_count() > 1 or (launch.hooks and launch.hooks.are_inside):
        return False
    return all(_is_possible(step) for step in launch.plan.phase(ROOTFS)) and _is_at_home()


def _is_at_home() -> bool:
    """Whether we may return to our namespaces, and setns(2) would bring us to the root that we have.

    Who is root of a user namespace only, as with a rootless Podman, may be in namespaces of the host's. And if we are
    in a chroot the hop is, too: pivot_root(2) would not move it, and the program would find the host's files.
    """
    if posix.stat("/proc/self/ns/user").st_ino != _FIRST_USER_NAMESPACE:
        return False
    fds = [posix.open(path, c.O_PATH | posix.O_CLOEXEC) for path in ("/", ".")]
    fds.append(posix.open("/proc/self/ns/mnt", posix.O_RDONLY | posix.O_CLOEXEC))
    root_fd, cwd_fd, home_fd = fds
    is_at_home = False
    try:
        syscalls.setns(home_fd, c.CLONE_NEWNS)
        try:  # Above the highest root is itself; a chroot is on a mount in another, or in another directory.
            above_fd = syscalls.openat2(root_fd, "..", c.O_PATH, resolve=c.RESOLVE_NO_XDEV, expected=(errno.EXDEV,))
            fds.extend([above_fd] if above_fd >= 0 else [])
            is_at_home = above_fd >= 0 and posix.fstat(above_fd).st_ino == posix.fstat(root_fd).st_ino
        finally:
            if not is_at_home:
                posix.fchdir(root_fd)
                posix.chroot(".")
            posix.fchdir(cwd_fd)
        return is_at_home
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        return False
    finally:
        for fd in fds:
            posix.close(fd)


def _is_possible(step: Step) -> bool:
    if isinstance(step, MountFilesystem):
        return _is_plain_proc(step) or step.fstype in _FILE_SYSTEMS
    if isinstance(step, BindMount):
        return not step.source.startswith("/proc/")  # where "self" would be another
    if isinstance(step, PivotRoot):
        return not step.no_pivot  # a chroot of ours is not the hop's
    return type(step).__module__ in _MODULES or type(step) in BY_HOP or _is_hook(step)


def _is_hook(step: Step) -> bool:
    return type(step).__name__ == "RuntimeHook"  # whose module is for those alone that have hooks


def _is_plain_proc(step: MountFilesystem) -> bool:
    return step.fstype == "proc" and not (step.flags & ~_PROC_FLAGS or step.data or step.copy_up)


def start_hop(launch: Launch, namespaces: Namespaces, channel: Channel, cgroup_fd: int | None) -> tuple[int, int]:
    """Start the hop in its namespaces, with the first half of its tape: (pid, pidfd). Raises KernelError.

    launch.tape_fd, where the second half will be written, is made.
    """
    launch.channel_fd = channel.fd
    launch.entered = namespaces.all & _ENTERED_MASK
    launch.tape_fd = syscalls.memfd_create("tape")
    tape, hop_fd = Tape(), -1
    try:
        _write_first_half(tape, launch, namespaces, channel)
        hop_fd = exeseal.sealed(tape, channel.fd, is_continued=True)
        joined = (fd for _, fd in namespaces.joins)
        for fd in (channel.fd, launch.tape_fd, launch.listen_fd, *joined, *tape.reserved):
            if fd >= 0:
                posix.set_inheritable(fd, True)
        return exeseal.spawn(namespaces.new & ~c.CLONE_NEWCGROUP, hop_fd, cgroup_fd=cgroup_fd)
    except BaseException:
        posix.close(launch.tape_fd)
        launch.tape_fd = -1
        raise
    finally:
        for fd in (hop_fd, *tape.reserved):
            if fd >= 0:
                posix.close(fd)
        if launch.listen_fd >= 0:
            posix.set_inheritable(launch.listen_fd, False)


def _write_first_half(tape: Tape, launch: Launch, namespaces: Namespaces, channel: Channel) -> None:
    begin(tape, channel.fd)
    tape.call(c.SYS_prctl, c.PR_SET_PDEATHSIG, c.SIGKILL)
    default_signals(tape)
    tape.call(c.SYS_setsid)
    tape.call(c.SYS_chdir, "/")  # so that pivot_root moves it: the directory that we are in is the host's
    if namespaces.new & c.CLONE_NEWCGROUP:
        tape.call(c.SYS_unshare, c.CLONE_NEWCGROUP)
    rootfs = Rootfs("", "", -1, channel)
    rootfs.tape = tape
    for step in tape.marking(launch.plan):
        for joined, fd in namespaces.joins:
            if joined is step:
                tape.call(c.SYS_setns, fd, joined.flag)
        if type(step) in BY_HOP:
            perform((step,), rootfs)
        elif isinstance(step, MountFilesystem) and step.fstype == "proc":
            _mount_proc(step, tape, channel.fd)
    launch.label = rootfs.label
    tape.mark = 0
    tape.tell(channel.fd, READY)
    tape.wait_for_word(channel.fd)
    tape.read_on(launch.tape_fd, exeseal.CONTINUED, exeseal.LONGEST)


def _mount_proc(step: MountFilesystem, tape: Tape, channel_fd: int) -> None:
    """Add: make a procfs of its PID namespace, in no place yet, and send it. See fsopen(2), cmsg(3)."""
    fs_fd = tape.reserve()
    tape.open_as(fs_fd, tape.call(c.SYS_fsopen, "proc", c.FSOPEN_CLOEXEC))
    tape.call(c.SYS_fsconfig, fs_fd, c.FSCONFIG_SET_STRING, "source", step.source or "proc", 0)
    tape.call(c.SYS_fsconfig, fs_fd, c.FSCONFIG_CMD_CREATE, 0, 0, 0)
    mounts = tape.call(c.SYS_fsmount, fs_fd, c.FSMOUNT_CLOEXEC, step.flags & _PROC_FLAGS)
    tape.send_descriptor(channel_fd, MOUNT, mounts)


def build(child: Child, launch: Launch) -> None:
    """Build the root, and give the hop the second half of its tape. Raises Error; we are back then, too."""
    rootfs = Rootfs(launch.rootfs_path, launch.cgroup_path, -1, child.channel)
    rootfs.trees = launch.trees
    child.fds = []  # they are closed here
    try:
        for step in launch.plan.phase(ROOTFS):
            if isinstance(step, MountFilesystem) and step.fstype == "proc":
                rootfs.trees[step.where] = child.channel.receive_descriptor(MOUNT)
        child.channel.expect(READY)
        part: list[Step] = []
        for step in launch.plan.phase(ROOTFS):
            if _is_hook(step) and launch.hooks is not None:  # which runs on the host
                _visit(child, launch, rootfs, part)
                launch.hooks.serve(step.where, child.pid)
                part = []
            elif type(step) not in BY_HOP and not isinstance(step, AwaitNetwork):  # we know when the network stands
                part.append(step)
        tape = Tape()
        _visit(child, launch, rootfs, part, tape)
        content = tape.linked(exeseal.CONTINUED)
        if len(content) > exeseal.LONGEST:  # more than the kernel takes, too
            call, hint = f"execve({child.channel.program!r})", EXECVE_HINTS["E2BIG"]
            raise KernelError(call, errno.E2BIG, where=_ARGS, hint=hint)
        write_all(launch.tape_fd, content)
    finally:
        let_go(rootfs)
        for fd in (launch.tape_fd, *rootfs.trees.values()):
            posix.close(fd)


def _visit(child: Child, launch: Launch, rootfs: Rootfs, steps: list[Step], tape: Tape | None = None) -> None:
    """Perform steps in the child's namespaces, and come back whatever happens. tape: write the rest to it."""
    visit = _Visit(child.pidfd, launch.entered)
    try:
        visit.go()
        perform(steps, rootfs)
        if tape is not None:
            finish(launch, last_steps(launch, tape, launch.channel_fd, launch.label))
    finally:
        visit.come_back()


class _Visit:
    """A stay of this process in another's namespaces. While it lasts nothing is imported, told, or interrupted."""

    __slots__ = ("cwd_fd", "finders", "flags", "home_fds", "mask", "pidfd", "sinks", "told")

    def __init__(self, pidfd: int, flags: int) -> None:
        self.pidfd = pidfd
        self.flags = flags
        self.told: list[tuple[str, str]] = []
        self.cwd_fd = posix.open(".", c.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        self.home_fds = [
            (flag, posix.open(f"/proc/self/ns/{kind}", posix.O_RDONLY | posix.O_CLOEXEC))
            for kind, flag in _ENTERED.items()
            if flag & flags
        ]

    def go(self) -> None:
        """Leave. setns(2) makes the root of that mount namespace ours, and its working directory."""
        self.mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        finders: list[list[Any]] = [sys.meta_path, sys.path, sys.path_hooks]
        self.finders = [(each, each[:]) for each in finders]
        for each in finders:
            each.clear()
        self.sinks, report.sinks[:] = report.sinks[:], [lambda level, message: self.told.append((level, message))]
        syscalls.setns(self.pidfd, self.flags)

    def come_back(self) -> None:
        """Return to our own namespaces, whose root is ours (`_is_at_home`), and tell what there was to tell."""
        for flag, home_fd in self.home_fds:
            syscalls.setns(home_fd, flag)
            posix.close(home_fd)
        posix.fchdir(self.cwd_fd)
        posix.close(self.cwd_fd)
        for each, own in self.finders:
            each[:] = own
        report.sinks[:] = self.sinks
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
        for level, message in self.told:
            (report.warn if level == "warning" else report.debug)(message)
