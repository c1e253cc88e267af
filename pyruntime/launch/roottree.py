"""What performing the steps of plan/roottree.py means: the root of a container without a mount namespace.

Imported for those alone.
"""

from __future__ import annotations

import posix

from pyruntime.launch.perform import performs
from pyruntime.launch.rootfs import let_go
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.roottree import EnterTree, EnterTreeOf, LeaveMounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.join import Newcomer
    from pyruntime.launch.rootfs import Rootfs


@performs(LeaveMounts)
def leave_mounts(_step: LeaveMounts, rootfs: Rootfs) -> None:
    """The descriptor is the way back."""
    rootfs.home_fd = posix.open("/proc/self/ns/mnt", posix.O_RDONLY | posix.O_CLOEXEC)
    syscalls.unshare(c.CLONE_NEWNS)


@performs(EnterTree)
def enter_tree(_step: EnterTree, rootfs: Rootfs) -> None:
    """setns(2) makes the host's root ours for a moment, in which nothing is looked up.

    The tree is in no namespace and so has no parent: even `chroot` and "..", with CAP_SYS_CHROOT, do not lead out.
    """
    flags = c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC | c.AT_RECURSIVE | c.AT_EMPTY_PATH
    tree_fd = syscalls.open_tree(rootfs.root.fd, "", flags)
    syscalls.setns(rootfs.home_fd, c.CLONE_NEWNS)
    _change_root(tree_fd)
    posix.close(rootfs.home_fd)
    let_go(rootfs)


@performs(EnterTreeOf)
def enter_tree_of(_step: EnterTreeOf, newcomer: Newcomer) -> None:
    """The link below /proc leads there, whatever the path says."""
    newcomer.tape.call(c.SYS_fchdir, newcomer.root.fd)
    newcomer.tape.call(c.SYS_chroot, ".")


def _change_root(directory_fd: int) -> None:
    posix.fchdir(directory_fd)
    posix.chroot(".")
    posix.close(directory_fd)
