"""Idmapped mounts: a part of the host's tree whose files belong to other IDs when they are seen through the mount.

Only root over the file system's own user namespace may map a mount, and only while it is attached nowhere. The parent
takes a detached copy of the tree and maps it before the child is cloned; the child, which inherits the descriptor,
attaches it. The kernel takes the mapping from a user namespace; if it isn't the container's that is joined, one is made
by a helper process which does nothing but be in it for a moment. See mount_setattr(2), "ID-mapped mounts".

Imported only for a config that has such a mount.
Read beside runc:libcontainer/mount_linux.go:/^func mountFd/.
"""

from __future__ import annotations

import posix

from pyruntime.errors import Error, KernelError
from pyruntime.launch.namespaces import write_maps
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.clone import clone3
from pyruntime.plan.mounts import MapMount, RootPropagation
from pyruntime.plan.namespaces import JoinNamespace, MapIds, NewNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.plan.step import Plan

    Ranges = tuple[tuple[int, int, int], ...]

_CLONE = c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC | c.AT_EMPTY_PATH


def open_trees(plan: Plan) -> dict[str, int]:
    """A descriptor of the mapped, detached mount for each MapMount, by its place in config.json.

    The caller closes them. Raises KernelError with the place.
    """
    trees: dict[str, int] = {}
    namespaces: dict[tuple[str, Ranges, Ranges], int] = {}
    propagation = _propagation(plan)
    try:
        for step in plan:
            if isinstance(step, MapMount):
                try:
                    key = (step.namespace_path, step.uid, step.gid)
                    if key not in namespaces:
                        namespaces[key] = _user_namespace(step)
                    trees[step.where] = _mapped_tree(step, namespaces[key], propagation)
                except Error as error:
                    error.where = error.where or step.where
                    raise
    except BaseException:
        close_trees(trees)
        raise
    finally:
        for fd in namespaces.values():
            posix.close(fd)
    return trees


def close_trees(trees: dict[str, int]) -> None:
    """Let go of what has not been attached."""
    while trees:
        posix.close(trees.popitem()[1])


def _propagation(plan: Plan) -> int:
    """What the copies have to become, which are peers of the host's mounts; 0 to leave them so.

    The same that RootPropagation, or else the kernel in a new user namespace, makes of all mounts in the container's
    own namespace: attached as peers, they would show on the host what is mounted inside.
    """
    wanted = next(step.flags for step in plan if isinstance(step, RootPropagation))
    if wanted & c.MS_PRIVATE:
        return c.MS_PRIVATE
    in_user_namespace = any(
        isinstance(step, NewNamespace | JoinNamespace) and step.flag == c.CLONE_NEWUSER for step in plan
    )
    return 0 if wanted & c.MS_SHARED and not in_user_namespace else c.MS_SLAVE


def _mapped_tree(step: MapMount, namespace_fd: int, propagation: int) -> int:
    source_fd = _open(step.source, posix.O_PATH)
    try:
        tree_fd = syscalls.open_tree(source_fd, "", _CLONE | (c.AT_RECURSIVE if step.with_submounts else 0))
    finally:
        posix.close(source_fd)
    try:
        flags = c.AT_EMPTY_PATH | (c.AT_RECURSIVE if step.whole_tree else 0)
        syscalls.mount_setattr(tree_fd, "", flags, c.MOUNT_ATTR_IDMAP, 0, userns_fd=namespace_fd)
        if propagation:
            syscalls.mount_setattr(tree_fd, "", c.AT_EMPTY_PATH | c.AT_RECURSIVE, 0, 0, propagation)
    except KernelError:
        posix.close(tree_fd)
        raise
    return tree_fd


def _user_namespace(step: MapMount) -> int:
    """A descriptor of a user namespace with the mapping. runc:libcontainer/internal/userns/usernsfd_linux.go"""
    if step.namespace_path:
        return _open(step.namespace_path, posix.O_RDONLY)
    reader, writer = posix.pipe()
    pid, pidfd = clone3(c.CLONE_NEWUSER)
    if pid == 0:
        try:
            posix.close(writer)
            posix.read(reader, 1)  # until the parent closes its end, in whatever way
        finally:
            posix._exit(0)
    try:
        write_maps(pid, MapIds(step.where, step.uid, step.gid), privileged=True)
        return _open(f"/proc/{pid}/ns/user", posix.O_RDONLY)
    finally:
        posix.close(reader)
        posix.close(writer)
        posix.close(pidfd)
        posix.waitpid(pid, 0)


def _open(path: str, flags: int) -> int:
    try:
        return posix.open(path, flags | posix.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"open({path!r})", error.errno or 0) from None
