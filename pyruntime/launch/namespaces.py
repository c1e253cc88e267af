"""The container's namespaces: cloned, joined, and given ids, clocks and names.

Most containers take one clone3. Where namespaces are joined whose place in the order matters, a stage goes between: a
short-lived process that joins, unshares, and clones the child as its own sibling (CLONE_PARENT), so that the runtime
is the parent either way:

    parent --clone3--> stage: setns(joined) ... unshare(user) ... unshare(time), offsets
                         `---clone3(CLONE_PARENT, the rest)--> child

Why a stage: joined namespaces belong to user namespaces in which a child of the new one has no rights, so they come
first; a joined user namespace must come before the new ones that it shall own; a pid namespace takes effect for
children only; and clocks can be offset only while a time namespace is empty.

Read beside runc:libcontainer/nsexec/nsexec.c, whose stages 0 to 2 these are.
"""

from __future__ import annotations

import errno
import posix

from pyruntime.errors import ConfigError, Error, KernelError
from pyruntime.launch.credentials import become_root
from pyruntime.launch.perform import performs
from pyruntime.launch.sync import GO, MAPS, NETWORK, PID, Channel
from pyruntime.linux import constants as c
from pyruntime.linux import net_if, proc, syscalls
from pyruntime.linux.clone import clone3
from pyruntime.plan.namespaces import (
    AwaitNetwork,
    JoinNamespace,
    MapIds,
    NewNamespace,
    OffsetClocks,
    RaiseLoopback,
    SetDomainname,
    SetHostname,
    WriteSysctl,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyruntime.launch.rootfs import Rootfs
    from pyruntime.plan.step import Step

_OFFSETS = "/proc/self/timens_offsets"
_NS_GET_NSTYPE = 0xB703  # ioctl_nsfs(2): _IO(NSIO, 3)


class Namespaces:
    """The NAMESPACES steps of a Plan, sorted by what must be done with them. The joined ones are opened at once."""

    __slots__ = ("joins", "maps", "new", "offsets")

    def __init__(self, steps: Iterable[Step]) -> None:
        self.new = 0
        self.joins: list[tuple[JoinNamespace, int]] = []
        self.maps: MapIds | None = None
        self.offsets: OffsetClocks | None = None
        for step in steps:
            if isinstance(step, NewNamespace):
                self.new |= step.flag
            elif isinstance(step, JoinNamespace):
                self.joins.append((step, _open_namespace(step)))
            elif isinstance(step, MapIds):
                self.maps = step
            elif isinstance(step, OffsetClocks):
                self.offsets = step

    def refuse_host_network(self, steps: Iterable[Step]) -> None:
        """A net.* sysctl with a path to the host's own network namespace would be set on the host.

        Raises ConfigError. runc:libcontainer/configs/validate/validator.go:/^func checkHostNs/
        """
        host = posix.stat("/proc/self/ns/net")
        opened = [posix.fstat(fd) for step, fd in self.joins if step.flag == c.CLONE_NEWNET]
        joined = [(status.st_dev, status.st_ino) for status in opened]
        for step in steps:
            if isinstance(step, WriteSysctl) and step.file.startswith("net/") and (host.st_dev, host.st_ino) in joined:
                raise ConfigError("the network namespace is the host's, and so would the sysctl be", where=step.where)

    def refuse_own_mounts(self) -> None:
        """In our own mount namespace, given by a path, the root would change for all who are in it.

        Raises ConfigError. runc changes it.
        """
        for step, fd in self.joins:
            if step.flag != c.CLONE_NEWNS:
                continue
            own, found = posix.stat("/proc/self/ns/mnt"), posix.fstat(fd)
            if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
                hint = "leave the mount namespace out to have the container in it"
                raise ConfigError("this is the mount namespace of the host's", where=step.where, hint=hint)

    def close(self) -> None:
        """Close the descriptors of the joined namespaces."""
        while self.joins:
            posix.close(self.joins.pop()[1])

    @property
    def all(self) -> int:
        """The flags of those that the container is in, new or joined."""
        flags = self.new
        for step, _fd in self.joins:
            flags |= step.flag
        return flags

    @property
    def has_user(self) -> bool:
        """Whether the container is in a user namespace, new or joined."""
        return bool(self.new & c.CLONE_NEWUSER) or any(step.flag == c.CLONE_NEWUSER for step, _fd in self.joins)

    @property
    def needs_stage(self) -> bool:
        """Whether one clone3 would do things in the wrong order."""
        joined = 0
        for step, _ in self.joins:
            joined |= step.flag
        return bool(
            joined & (c.CLONE_NEWUSER | c.CLONE_NEWPID) or (joined and self.new & c.CLONE_NEWUSER) or self.offsets
        )


def clone_child(
    namespaces: Namespaces, channel: Channel, parents_end: Channel, cgroup_fd: int | None
) -> tuple[int, int]:
    """Clone the container's process: (pid, pidfd) in the parent, (0, -1) in the child, which is in its namespaces then.

    With a stage, pid is the stage's, and the child's arrives on the channel as PID. `channel` is the child's end.
    Raises KernelError; in the child, too, where the caller is to report it.
    """
    if namespaces.needs_stage:
        pid, pidfd = clone3(0, cgroup_fd=cgroup_fd)
        if pid == 0:
            parents_end.close()
            _run_stage(namespaces, channel)
    else:
        try:
            pid, pidfd = clone3(namespaces.new & ~c.CLONE_NEWCGROUP, cgroup_fd=cgroup_fd)
        except KernelError as error:
            if error.errno in (errno.EPERM, errno.EINVAL, errno.ENOSPC):  # the others are about the cgroup, or memory
                error.where = "config.json#/linux/namespaces"
            if error.errno == errno.EPERM and posix.geteuid() and not namespaces.new & c.CLONE_NEWUSER:
                error.hint = "without root a container needs a user namespace: see `pyruntime spec --rootless`"
            raise
        if pid == 0:
            parents_end.close()
            _report(channel, lambda: _enter_directly(namespaces, channel))
    if pid == 0 and namespaces.new & c.CLONE_NEWCGROUP:
        # Only now, when we are in our cgroup: a cgroup namespace takes the one of its maker for its root.
        _report(channel, lambda: syscalls.unshare(c.CLONE_NEWCGROUP))
    return pid, pidfd


def write_maps(pid: int, step: MapIds, *, privileged: bool) -> None:
    """Give the user namespace of `pid` its ids, from outside. See user_namespaces(7).

    Without privileges the kernel takes one line, our own id; for more, newuidmap(1) and newgidmap(1) are asked, and
    setgroups is given up first: a group may be there to deny something (CVE-2014-8989).
    Raises KernelError; Error if newuidmap refuses or is not there.
    runc:libcontainer/nsexec/nsexec.c:/^static void update_uidmap/
    """
    by_helper = not privileged and (len(step.uid) > 1 or len(step.gid) > 1)
    if not privileged and not by_helper:
        proc.write_file(f"/proc/{pid}/setgroups", b"deny")
    for kind, mappings in (("uid", step.uid), ("gid", step.gid)):
        if by_helper:
            _run_map_helper(f"new{kind}map", pid, mappings)
        elif mappings:
            text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in mappings)
            proc.write_file(f"/proc/{pid}/{kind}_map", text.encode())


@performs(RaiseLoopback)
def raise_loopback(_step: RaiseLoopback, _rootfs: object) -> None:
    """runc:libcontainer/network_linux.go:/^func .*loopback.*initialize/"""
    net_if.loopback_up()


@performs(AwaitNetwork)
def await_network(_step: AwaitNetwork, rootfs: Rootfs) -> None:
    """The parent connects it before it listens to us, so its answer says that it has."""
    rootfs.channel.send(NETWORK)
    rootfs.channel.expect(GO)


@performs(SetHostname)
def set_hostname(step: SetHostname, _rootfs: object) -> None:
    """sethostname(2)."""
    syscalls.sethostname(step.name)


@performs(SetDomainname)
def set_domainname(step: SetDomainname, _rootfs: object) -> None:
    """setdomainname(2)."""
    syscalls.setdomainname(step.name)


@performs(WriteSysctl)
def write_sysctl(step: WriteSysctl, _rootfs: object) -> None:
    """Through the host's own procfs, before the container's exists: that one may be faked (CVE-2025-52881).

    runc:internal/sys/sysctl_linux.go
    """
    path = f"/proc/sys/{step.file}"
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        if syscalls.fstatfs_type(fd) != c.PROC_SUPER_MAGIC:
            raise Error("/proc of the host is not procfs")
        proc.write(fd, step.value.encode(), path)
    finally:
        posix.close(fd)


def _open_namespace(step: JoinNamespace) -> int:
    """Open a namespace and make sure of its kind: setns would say EINVAL to a wrong one, too late. ioctl_nsfs(2)."""
    from fcntl import ioctl

    where = step.where
    try:
        fd = posix.open(step.path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError as error:
        raise KernelError(f"open({step.path!r})", error.errno or 0, where=where) from error
    try:
        if ioctl(fd, _NS_GET_NSTYPE) == step.flag:
            return fd
        reason = f"{step.path} is a namespace of another kind than {step.kind}"
    except OSError:
        reason = f"{step.path} is not a namespace"
    posix.close(fd)
    raise ConfigError(reason, where=where)


def _enter_directly(namespaces: Namespaces, channel: Channel) -> None:
    """In the child of the one clone3: ids, then the joins, all of which belong to the user namespace we came from."""
    if namespaces.new & c.CLONE_NEWUSER:
        _become_mapped_root(channel)
    for step, fd in namespaces.joins:
        _join(step, fd)


def _run_stage(namespaces: Namespaces, channel: Channel) -> None:
    """The stage's whole life. Returns only in the child that it clones."""
    pid = -1
    try:
        pid = _stage(namespaces, channel)
    except Error as error:
        channel.send_error(error)
    finally:
        if pid != 0:
            posix._exit(pid < 0)


def _stage(namespaces: Namespaces, channel: Channel) -> int:
    syscalls.prctl(c.PR_SET_PDEATHSIG, 9)
    offsets_fd = _open_offsets(namespaces.offsets)
    user = [(step, fd) for step, fd in namespaces.joins if step.flag == c.CLONE_NEWUSER]
    # A new user namespace has no rights over what is joined; a joined one may be the only one that has.
    refused = _join_what_can_be(namespaces.joins, skip=c.CLONE_NEWUSER)
    for step, fd in user:
        _join(step, fd)
    done = c.CLONE_NEWCGROUP
    if namespaces.new & c.CLONE_NEWUSER:
        syscalls.unshare(c.CLONE_NEWUSER)
        done |= c.CLONE_NEWUSER
        _become_mapped_root(channel)
    elif user:
        become_root()
    for step, fd in refused:
        _join(step, fd)
    if namespaces.offsets is not None:
        syscalls.unshare(c.CLONE_NEWTIME)
        done |= c.CLONE_NEWTIME
        lines = "".join(f"{clock} {seconds} {nanos}\n" for clock, seconds, nanos in namespaces.offsets.offsets)
        _at(namespaces.offsets, lambda: proc.write(offsets_fd, lines.encode(), _OFFSETS))
        posix.close(offsets_fd)
    told_fd, tell_fd = posix.pipe2(posix.O_CLOEXEC)
    pid, _ = clone3(namespaces.new & ~done | c.CLONE_PARENT, exit_signal=0, pidfd=False)
    if pid:
        channel.send(PID, str(pid))
        return pid
    # Until the stage has said it, or ended: a hook that the child asks for is told its pid.
    posix.close(tell_fd)
    posix.read(told_fd, 1)
    posix.close(told_fd)
    return pid


def _open_offsets(step: OffsetClocks | None) -> int:
    """Opened before there is a new user namespace: its root may not open what a process that is not dumpable has.

    The kernel asks for the rights of who opened the file: the owner of a user namespace has all of them in it.
    """
    if step is None:
        return -1
    try:
        return posix.open(_OFFSETS, posix.O_WRONLY | posix.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"open({_OFFSETS!r})", error.errno or 0, where=step.where) from error


def _join_what_can_be(joins: list[tuple[JoinNamespace, int]], skip: int) -> list[tuple[JoinNamespace, int]]:
    """Join all but the kind to skip, and return those for which we lack the rights so far."""
    refused = []
    for step, fd in joins:
        if step.flag == skip:
            continue
        try:
            _join(step, fd)
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
            refused.append((step, fd))
    return refused


def _join(step: JoinNamespace, fd: int) -> None:
    _at(step, lambda: syscalls.setns(fd, step.flag))


def _at(step: Step, action: Callable[[], None]) -> None:
    """Do it, and give an error the step's place."""
    try:
        action()
    except Error as error:
        error.where = error.where or step.where
        raise


def _become_mapped_root(channel: Channel) -> None:
    """Ask the parent for the ids of our new user namespace, then be its root."""
    channel.send(MAPS)
    channel.expect(GO)
    become_root()


def _report(channel: Channel, action: Callable[[], None]) -> None:
    """In the child: do it, or tell the parent why not and end."""
    done = False
    try:
        action()
        done = True
    except Error as error:
        channel.send_error(error)
    finally:
        if not done:  # whatever it was, and though the parent may be gone: its code must not go on in the child
            posix._exit(1)


def _run_map_helper(name: str, pid: int, mappings: tuple[tuple[int, int, int], ...]) -> None:
    """newuidmap(1), newgidmap(1): setuid programs that know /etc/subuid."""
    numbers = [str(number) for mapping in mappings for number in mapping]
    for directory in ("/usr/bin", "/usr/local/bin", "/bin"):
        path = f"{directory}/{name}"
        try:
            helper = posix.posix_spawn(path, [name, str(pid), *numbers], {})
        except FileNotFoundError:
            continue
        _, status = posix.waitpid(helper, 0)
        if status:
            raise Error(f"{name} {pid} {' '.join(numbers)} failed", hint=f"does /etc/sub{name[3:6]} allow it?")
        return
    raise Error(f"{name} is not installed", hint="rootless containers with more than one id need the package uidmap")
