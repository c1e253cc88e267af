"""Spec -> Steps for a container without a mount namespace of its own: its root is a tree of mounts of its own instead.

runc makes the container's mounts in the namespace of its caller, where they stay, and changes how the host's mounts
propagate. Here the root is built in a namespace that nobody else sees, copied out of it as a detached tree
(open_tree(2)), and made the root of a process that is back in the caller's namespace. The tree belongs to no namespace:
it ends with the last process that has its root there, so that nothing has to be unmounted, whatever happens.

    caller's namespace --unshare--> the root is built --open_tree--> tree --setns--> caller's namespace --chroot--> tree

What differs for the program: /proc/self/mountinfo is empty, and it can mount nothing, with whatever rights.

Imported for such configs alone. Read beside runc:libcontainer/rootfs_linux.go:/^func chroot/.
"""

from __future__ import annotations

from pyruntime.errors import ConfigError
from pyruntime.linux import constants as c
from pyruntime.plan.mounts import PROPAGATION
from pyruntime.plan.step import NAMESPACES, ROOTFS, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import Spec

_WHERE = "config.json#/linux/namespaces"


class LeaveMounts(Step):
    """A mount namespace until the root is built (unshare(2))."""

    phase = ROOTFS
    why = "the container's mounts must not appear on the host, whose mount namespace it is to have"

    def text(self) -> str:
        return "leave the host's mount namespace for one of our own, to build the root in"


class EnterTree(Step):
    """The change of the root, where pivot_root would change that of everybody (open_tree(2), setns(2), chroot(2))."""

    phase = ROOTFS
    why = "a tree that is in no namespace is seen by nobody else, and ends with the container"

    def text(self) -> str:
        return "detach the root with its mounts, return to the host's mount namespace, chroot into what was detached"


class EnterTreeOf(Step):
    """An `exec` finds the root by the container's init: no namespace leads there."""

    phase = NAMESPACES
    why = "the container has no mount namespace; its root is a tree of mounts of its own"

    pid: int

    def text(self) -> str:
        return f"chroot into the root of process {self.pid}"


def leave_step(spec: Spec) -> Step:
    """The first step of the two. Raises ConfigError for what can't be had without a mount namespace."""
    linux = spec.get("linux", {})
    for index, namespace in enumerate(linux.get("namespaces", ())):
        if namespace["type"] == "user":
            # Whoever is in it has no rights over the host's mount namespace, and could not return.
            where = f"{_WHERE}/{index}"
            raise ConfigError("with a user namespace the container needs a mount namespace, too", where=where)
    if PROPAGATION.get(linux.get("rootfsPropagation", ""), 0) & (c.MS_SHARED | c.MS_UNBINDABLE):
        where = "config.json#/linux/rootfsPropagation"
        raise ConfigError("needs a mount namespace: without, nobody else can see the container's mounts", where=where)
    for index, mount in enumerate(spec.get("mounts", ())):
        if any(PROPAGATION.get(option, 0) & c.MS_UNBINDABLE for option in mount.get("options", ())):
            where = f"config.json#/mounts/{index}/options"
            raise ConfigError("an unbindable mount needs a mount namespace: the tree of mounts is copied", where=where)
    return LeaveMounts(_WHERE)


def enter_step() -> Step:
    """The second step of the two."""
    return EnterTree(_WHERE)
