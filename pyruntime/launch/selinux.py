"""Performing the steps of plan/selinux.py. SELinux is asked through the files of /proc/self/attr, see proc_pid_attr(5).

Imported before the child is cloned, and only if the plan has one of them.

Read beside runc:vendor/github.com/opencontainers/selinux/go-selinux/selinux_linux.go.
"""

from __future__ import annotations

import errno
import posix

from pyruntime.errors import KernelError, UnsupportedError
from pyruntime.launch.labels import Label, open_attributes
from pyruntime.launch.paths import proc_fd
from pyruntime.launch.perform import performs
from pyruntime.linux import constants as c
from pyruntime.linux import proc, syscalls
from pyruntime.linux.call import Struct
from pyruntime.plan.selinux import LabelKeyring, LabelMounts, LabelProcess, RenewIpc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.join import Newcomer
    from pyruntime.launch.rootfs import Rootfs
    from pyruntime.plan.step import Plan

_NO_LABEL = b"\n"
_NO_POLICY = b"kernel"  # the context of all processes until a policy is loaded


def refuse_where_it_is_off(plan: Plan) -> None:
    """Raise UnsupportedError where a label would mean nothing, before anything is made. runc: /^func security/

    The kernel knows selinuxfs if and only if SELinux was switched on at boot; and without a policy it takes any text
    for a label, and changes none.
    """
    for step in plan:
        if not isinstance(step, (LabelProcess, LabelMounts)):
            continue
        if b"selinuxfs" not in proc.read_file("/proc/filesystems"):
            message = "a SELinux label is asked for, but SELinux is disabled on this host or not supported by it"
            hint = "boot with the kernel parameters security=selinux selinux=1, or remove the key"
            raise UnsupportedError(message, where=step.where, hint=hint)
        if proc.read_file("/proc/self/attr/current").rstrip(b"\0\n") == _NO_POLICY:
            message = "a SELinux label is asked for, but no policy has been loaded on this host"
            raise UnsupportedError(message, where=step.where, hint="see selinux(8), load_policy(8); or remove the key")


@performs(LabelKeyring, by_hop=True)
def label_keyring(step: LabelKeyring, side: Rootfs | Newcomer) -> None:
    """Before the keyring is made, by the same process, whose next execve takes the wish back."""
    path, label = "/proc/self/attr/keycreate", _encode(step.label)
    _ask(path, label)
    if side.tape is None:
        return
    _ask(path, _NO_LABEL)  # that was only to be told what is wrong with it
    opens = side.tape.call(c.SYS_openat, c.AT_FDCWD, path, posix.O_WRONLY | posix.O_CLOEXEC)
    opens.into = (side.tape.call(c.SYS_write, -1, Struct(label), len(label)), 0)


@performs(LabelProcess, by_hop=True)
def label_process(step: LabelProcess, side: Rootfs | Newcomer) -> None:
    """Have the hop ask for the label, once the kernel has been asked here whether it will give it.

    What is asked for here is taken back, or the hop would be what is labelled.
    """
    if side.label is not None:
        raise UnsupportedError("an AppArmor profile and a SELinux label at once, which takes a kernel that stacks both")
    label = _encode(step.label)
    for text in (label, _NO_LABEL):
        _ask("/proc/self/attr/exec", text)
    side.label = Label(step, open_attributes(side, "/proc/self/attr"), label)


@performs(RenewIpc)
def renew_ipc(_step: RenewIpc, _rootfs: Rootfs) -> None:
    """runc:libcontainer/nsexec/nsexec.c:/STAGE_CHILD/, which makes it when the process is root inside."""
    syscalls.unshare(c.CLONE_NEWIPC)


@performs(LabelMounts)
def label_mounts(step: LabelMounts, rootfs: Rootfs) -> None:
    """runc:libcontainer/rootfs_linux.go:/SetFileLabel/"""
    for target in step.targets:
        fd = rootfs.root.open(target)
        try:
            posix.setxattr(proc_fd(fd), "security.selinux", _encode(step.label))
        except OSError as error:
            call, number = f"setxattr({target!r}, 'security.selinux', {step.label!r})", error.errno or 0
            raise KernelError(call, number, hint=_HINTS.get(number, "")) from None
        finally:
            posix.close(fd)


def _encode(label: str) -> bytes:
    return label.encode("utf-8", "surrogateescape")


def _ask(path: str, label: bytes) -> None:
    """Write a label to a file of the host's /proc. Raises KernelError."""
    try:
        proc.write_file(path, label)
    except KernelError as error:
        error.hint = _HINTS.get(error.errno or 0, "")
        raise


_HINTS = {
    errno.EINVAL: "the policy that is loaded knows no such context: a user, role or type of it, or the level "
    "(seinfo(1); the types of containers come with the package container-selinux)",
    errno.EACCES: "the policy does not allow it to the runtime, whose own context is in /proc/self/attr/current "
    "(ausearch -m avc)",
}
