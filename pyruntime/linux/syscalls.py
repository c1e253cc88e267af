"""The system calls that Python's own modules lack: one wrapper each, under the kernel's name, and no policy.

All raise KernelError with the call as a person would write it and, where the errno misleads, a hint (call.py). Text is
str or bytes, and Error is raised for a NUL in it. Descriptors that come back are the caller's, and close on exec.
Identities are set by raw calls: the C library's setuid and its like would signal threads that do not exist here.
Plain calls that `posix` has (open, mkdir with dir_fd, chown, dup2, setsid, waitid, ...) are used from there.

Read beside golang.org/x/sys/unix:syscall_linux.go, runc:internal/linux/ and crun:src/libcrun/syscalls.h.
"""

from __future__ import annotations

from sys import byteorder

from pyruntime.errors import Error
from pyruntime.linux.call import Struct, address, c_string, call, string_vector, u32, u64
from pyruntime.linux.constants import (
    _LINUX_CAPABILITY_VERSION_3,
    AF_UNIX,
    KEYCTL_JOIN_SESSION_KEYRING,
    KEYCTL_SETPERM,
    MFD_CLOEXEC,
    MSG_CMSG_CLOEXEC,
    O_CLOEXEC,
    OPEN_TREE_CLOEXEC,
    SCM_RIGHTS,
    SFD_CLOEXEC,
    SOCK_CLOEXEC,
    SOL_SOCKET,
    SYS_bind,
    SYS_bpf,
    SYS_capget,
    SYS_capset,
    SYS_close_range,
    SYS_execve,
    SYS_execveat,
    SYS_fstatfs,
    SYS_ioctl,
    SYS_ioprio_set,
    SYS_keyctl,
    SYS_listen,
    SYS_memfd_create,
    SYS_mknodat,
    SYS_mount,
    SYS_mount_setattr,
    SYS_move_mount,
    SYS_open_tree,
    SYS_openat2,
    SYS_pidfd_getfd,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_pivot_root,
    SYS_prctl,
    SYS_prlimit64,
    SYS_recvmsg,
    SYS_sched_setaffinity,
    SYS_sched_setattr,
    SYS_seccomp,
    SYS_setdomainname,
    SYS_setgroups,
    SYS_sethostname,
    SYS_setns,
    SYS_setresgid,
    SYS_setresuid,
    SYS_signalfd4,
    SYS_socket,
    SYS_socketpair,
    SYS_umount2,
    SYS_unshare,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    Text = str | bytes

# --- mounts ---------------------------------------------------------------------------------------------------------


def mount(
    source: Text | None,
    target: Text,
    fstype: Text | None,
    flags: int,
    data: Text | None = None,
    *,
    expected: tuple[int, ...] = (),
) -> int:
    """Attach a file system, or change an attached one, as `flags` (MS_*) say. Empty `data` is none. See mount(2).

    Returns 0, or the negative of an errno that was `expected`. Raises KernelError for any other.
    runc:libcontainer/mount_linux.go:/^func mountViaFds/
    """
    return call(SYS_mount, source, target, fstype, flags, data or None, expected=expected)


def umount2(target: Text, flags: int) -> None:
    """Detach the topmost mount at `target`. `flags`: MNT_DETACH, UMOUNT_NOFOLLOW. See umount2(2)."""
    call(SYS_umount2, target, flags)


def pivot_root(new_root: Text, put_old: Text) -> None:
    """Make `new_root` the root of this mount namespace and stack the old root at `put_old`. See pivot_root(2).

    Raises KernelError; EBUSY: new_root is on the same mount as the current root. EINVAL: no mount point, or its parent
    mount is shared.
    runc:libcontainer/rootfs_linux.go:/^func pivotRoot/
    """
    call(SYS_pivot_root, new_root, put_old)


def open_tree(dirfd: int, path: Text, flags: int) -> int:
    """A descriptor of the mount at `path`; with OPEN_TREE_CLONE of a detached copy of it. See open_tree(2)."""
    flags |= OPEN_TREE_CLOEXEC
    return call(SYS_open_tree, dirfd, path, flags)


def move_mount(from_fd: int, from_path: Text, to_fd: int, to_path: Text, flags: int) -> None:
    """Attach a detached mount, or move an attached one. `flags`: MOVE_MOUNT_*. See move_mount(2)."""
    call(SYS_move_mount, from_fd, from_path, to_fd, to_path, flags)


def mount_setattr(
    dirfd: int, path: Text, flags: int, attr_set: int, attr_clr: int, propagation: int = 0, userns_fd: int = 0
) -> None:
    """Change the attributes of a mount, with AT_RECURSIVE in `flags` of all below it too. See mount_setattr(2).

    To set an atime mode clear MOUNT_ATTR__ATIME as well. `userns_fd` goes with MOUNT_ATTR_IDMAP. Raises KernelError.
    """
    mount_attr = Struct(u64(attr_set, attr_clr, propagation, userns_fd))
    call(SYS_mount_setattr, dirfd, path, flags, mount_attr, len(mount_attr))


# --- paths and descriptors ------------------------------------------------------------------------------------------


def openat2(
    dirfd: int, path: Text, flags: int, mode: int = 0, resolve: int = 0, *, expected: tuple[int, ...] = ()
) -> int:
    """Open `path` below `dirfd` under the rules of `resolve` (RESOLVE_*). See openat2(2).

    Returns the descriptor, or the negative of an errno that was `expected`.
    Raises KernelError; EAGAIN: a rename came between, try again; EXDEV: the path leads out; EINVAL: a mode, no O_CREAT.
    """
    flags |= O_CLOEXEC
    open_how = Struct(u64(flags, mode, resolve))
    return call(SYS_openat2, dirfd, path, open_how, len(open_how), expected=expected)


def close_range(first: int, last: int, flags: int = 0) -> None:
    """Close the descriptors from `first` to `last` inclusive, or with CLOSE_RANGE_CLOEXEC have them close on exec.

    See close_range(2). Raises KernelError.
    """
    call(SYS_close_range, first, last, flags)


def memfd_create(name: Text, flags: int = 0, *, expected: tuple[int, ...] = ()) -> int:
    """A descriptor of a file that lies in memory alone, or the negative of an errno that was `expected`.

    See memfd_create(2). Raises KernelError for any other; EINVAL for MFD_EXEC means a kernel before 6.3, where every
    such file can be executed.
    """
    flags |= MFD_CLOEXEC
    return call(SYS_memfd_create, name, flags, expected=expected)


def mknodat(dirfd: int, name: Text, mode: int, dev: int) -> None:
    """Make a device, fifo or socket `name` in a directory; `mode` holds its type, `dev` is posix.makedev(major, minor).

    The umask applies. See mknodat(2).
    """
    call(SYS_mknodat, dirfd, name, mode, dev)


def fstatfs_type(fd: int) -> int:
    """The magic number of the file system of `fd`, such as PROC_SUPER_MAGIC. See fstatfs(2)."""
    statfs = bytearray(256)
    call(SYS_fstatfs, fd, statfs)
    return int.from_bytes(statfs[:8], byteorder)


def signalfd4(fd: int, mask: int, flags: int = 0) -> int:
    """A descriptor that reads the signals of `mask` (bit N-1 for signal N); -1 makes a new one. See signalfd(2)."""
    flags |= SFD_CLOEXEC
    sigset = Struct(u64(mask))
    return call(SYS_signalfd4, fd, sigset, len(sigset), flags)


def socket(family: int, type: int, protocol: int = 0) -> int:
    """The descriptor of a socket, without 0.2 ms for importing _socket. See socket(2)."""
    type |= SOCK_CLOEXEC
    return call(SYS_socket, family, type, protocol)


def bind(sockfd: int, addr: Text) -> None:
    """Give a socket of AF_UNIX its place in the file system, in at most 107 bytes. See bind(2), unix(7)."""
    sockaddr_un = Struct(AF_UNIX.to_bytes(2, byteorder) + c_string(addr) + b"\0")
    call(SYS_bind, sockfd, sockaddr_un, len(sockaddr_un))


def listen(sockfd: int, backlog: int) -> None:
    """Let others connect to a socket. See listen(2)."""
    call(SYS_listen, sockfd, backlog)


def socketpair(family: int, type: int, protocol: int = 0) -> tuple[int, int]:
    """Two connected sockets, as cheaply. See socketpair(2)."""
    type |= SOCK_CLOEXEC
    sv = bytearray(8)
    call(SYS_socketpair, family, type, protocol, sv)
    return int.from_bytes(sv[:4], byteorder), int.from_bytes(sv[4:], byteorder)


def recvmsg(fd: int, size: int) -> tuple[bytes, int]:
    """A message of up to `size` bytes, and the one descriptor that came with it (SCM_RIGHTS), or -1. See recvmsg(2).

    It closes on exec. More descriptors than one are not received. b"": the other side has closed.
    """
    data, control = bytearray(size), bytearray(24)  # of which a struct cmsghdr takes 16
    iovec = bytearray(u64(address(data), size))
    msghdr = bytearray(u64(0, 0, address(iovec), 1, address(control), 20, 0))
    length = call(SYS_recvmsg, fd, msghdr, MSG_CMSG_CLOEXEC)
    has_descriptor = control[:16] == u64(20) + u32(SOL_SOCKET, SCM_RIGHTS)
    return bytes(data[:length]), int.from_bytes(control[16:20], byteorder) if has_descriptor else -1


def ioctl(fd: int, request: int, argument: int | bytearray = 0) -> int:
    """A device's own call: `request` decides what `argument` means. See ioctl(2)."""
    return call(SYS_ioctl, fd, request, argument)


def bpf(cmd: int, attr: bytes | bytearray) -> int:
    """Ask the BPF subsystem: `attr` is the union bpf_attr of `cmd`, a bytearray if it takes an answer. See bpf(2)."""
    return call(SYS_bpf, cmd, bytearray(attr) if isinstance(attr, bytes) else attr, len(attr))


# --- namespaces and processes ---------------------------------------------------------------------------------------


def setns(fd: int, nstype: int) -> None:
    """Join the namespace of `fd`; `nstype` (CLONE_NEW*, 0: any) guards against a wrong one. See setns(2).

    A pid namespace is joined by the next child, not by the caller. `fd` may be a pidfd, and `nstype` several kinds.
    """
    call(SYS_setns, fd, nstype)


def unshare(flags: int) -> None:
    """Leave the shared namespaces that `flags` (CLONE_NEW*) name for new ones. See unshare(2)."""
    call(SYS_unshare, flags)


def pidfd_open(pid: int, flags: int = 0) -> int:
    """A descriptor that stands for a process, whoever has its pid later. See pidfd_open(2). ESRCH: it is gone."""
    return call(SYS_pidfd_open, pid, flags)


def pidfd_send_signal(pidfd: int, sig: int, flags: int = 0) -> None:
    """Send a signal to exactly that process. See pidfd_send_signal(2). ESRCH: it has ended."""
    call(SYS_pidfd_send_signal, pidfd, sig, None, flags)


def pidfd_getfd(pidfd: int, targetfd: int, flags: int = 0) -> int:
    """A duplicate of another process's descriptor, close-on-exec. See pidfd_getfd(2). EPERM: not ours to trace."""
    return call(SYS_pidfd_getfd, pidfd, targetfd, flags)


def seccomp(operation: int, flags: int, program: bytes | None) -> int:
    """Load a BPF filter of system calls; a listener's descriptor if the flags ask for one. See seccomp(2).

    `program` is an array of struct sock_filter; None only asks whether the flags are known: EFAULT if they are.
    Raises KernelError; EACCES: neither CAP_SYS_ADMIN nor no_new_privs.
    """
    if program is None:
        return call(SYS_seccomp, operation, flags, None)
    filter = bytearray(program)
    return call(SYS_seccomp, operation, flags, Struct(u64(len(program) // 8, address(filter))))


def prctl(option: int, a2: Text | int = 0, a3: int = 0, a4: int = 0, a5: int = 0) -> int:
    """Read or change an attribute of this process (`option`: PR_*). See prctl(2)."""
    return call(SYS_prctl, option, a2, a3, a4, a5)


def prlimit(pid: int, resource: int, soft: int, hard: int) -> tuple[int, int]:
    """Set a limit (RLIMIT_*) of a process, 0 being this one; the former (soft, hard) is returned. See prlimit(2).

    No limit is RLIM_INFINITY, 2**64 - 1. Raises KernelError; EINVAL for soft above hard.
    """
    old = bytearray(16)
    call(SYS_prlimit64, pid, resource, Struct(u64(soft, hard)), old)
    return int.from_bytes(old[:8], byteorder), int.from_bytes(old[8:], byteorder)


def sched_setattr(
    pid: int,
    policy: int,
    sched_flags: int = 0,
    nice: int = 0,
    priority: int = 0,
    runtime: int = 0,
    deadline: int = 0,
    period: int = 0,
) -> None:
    """Choose how a process (0: this one) is scheduled: SCHED_*, times in nanoseconds. See sched_setattr(2).

    The utilisation clamps of SCHED_FLAG_UTIL_CLAMP_* are 0, as runc leaves them. Raises KernelError.
    """
    head = u32(_SIZEOF_SCHED_ATTR, policy) + u64(sched_flags) + u32(nice & 0xFFFFFFFF, priority)
    call(SYS_sched_setattr, pid, Struct(head + u64(runtime, deadline, period) + u32(0, 0)), 0)


_SIZEOF_SCHED_ATTR = 56  # SCHED_ATTR_SIZE_VER1, of Linux 5.3


def sched_setaffinity(pid: int, cpus: int) -> None:
    """Let a process (0: this one) run on the CPUs of a mask alone; others do not count. See sched_setaffinity(2).

    (posix.sched_setaffinity takes a list, which is long where it names every CPU that there could be.)
    """
    words = (cpus.bit_length() + 63) // 64
    mask = Struct(cpus.to_bytes(words * 8, byteorder))
    call(SYS_sched_setaffinity, pid, len(mask), mask)


def ioprio_set(which: int, who: int, ioprio: int) -> None:
    """The I/O class (above IOPRIO_CLASS_SHIFT) and priority of one or more processes. See ioprio_set(2)."""
    call(SYS_ioprio_set, which, who, ioprio)


def execve(path: Text, argv: list[bytes], envp: list[bytes]) -> NoReturn:
    """Become another program. `envp` holds "NAME=value", in this order, duplicates included. See execve(2).

    Only returns by KernelError. (os.execvpe would import a module from the container's files.)
    """
    (arguments, _keep), (environment, _keep_too) = string_vector(argv), string_vector(envp)
    call(SYS_execve, path, arguments, environment)
    raise Error("execve returned")


def execveat(fd: int, path: Text, argv: list[bytes], envp: list[bytes], flags: int) -> NoReturn:
    """Become the program at `path` below `fd`, or `fd` itself with AT_EMPTY_PATH and an empty path. See execveat(2).

    Only returns by KernelError; a script in a close-on-exec `fd` gives ENOENT, its interpreter could not open it.
    """
    (arguments, _keep), (environment, _keep_too) = string_vector(argv), string_vector(envp)
    call(SYS_execveat, fd, path, arguments, environment, flags)
    raise Error("execveat returned")


# --- identity -------------------------------------------------------------------------------------------------------


def setresuid(ruid: int, euid: int, suid: int) -> None:
    """Set the real, effective and saved user ID; Error for -1, which would keep one. See setresuid(2)."""
    call(SYS_setresuid, *map(_id, (ruid, euid, suid)))


def setresgid(rgid: int, egid: int, sgid: int) -> None:
    """Set the real, effective and saved group ID; Error for -1, which would keep one. See setresgid(2)."""
    call(SYS_setresgid, *map(_id, (rgid, egid, sgid)))


def setgroups(groups: list[int]) -> None:
    """Replace the supplementary groups. Error for what is no ID. See setgroups(2)."""
    call(SYS_setgroups, len(groups), Struct(u32(*map(_id, groups))))


def _id(number: int) -> int:
    """Refuse what the kernel takes for "keep the old one" (-1, in 32 bits) or cuts to another ID, perhaps to root's."""
    if not 0 <= number < 2**32 - 1:
        raise Error(f"{number} is no user or group ID: 0 to {2**32 - 2}")
    return number


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three capability sets of this process, as masks of 64 bits (caps.mask). See capset(2)."""
    call(SYS_capset, *capability_structs(effective, permitted, inheritable))


def capability_structs(*sets: int) -> tuple[bytearray, Struct]:
    """What capset(2) takes for the sets effective, permitted and inheritable: whose they are to be, and the sets."""
    low, high = [mask & 0xFFFFFFFF for mask in sets], [mask >> 32 for mask in sets]
    return bytearray(u32(_LINUX_CAPABILITY_VERSION_3, 0)), Struct(u32(*low, *high))


def capget() -> tuple[int, int, int]:
    """The (effective, permitted, inheritable) capabilities of this process, as masks. See capget(2)."""
    data = bytearray(24)
    call(SYS_capget, bytearray(u32(_LINUX_CAPABILITY_VERSION_3, 0)), data)
    words = [int.from_bytes(data[place : place + 4], byteorder) for place in range(0, 24, 4)]
    effective, permitted, inheritable = (words[i] | words[i + 3] << 32 for i in range(3))
    return effective, permitted, inheritable


def sethostname(name: Text) -> None:
    """Name this UTS namespace's host, in at most 64 bytes. See sethostname(2)."""
    call(SYS_sethostname, name, _length(name))


def setdomainname(name: Text) -> None:
    """Set this UTS namespace's NIS domain, in at most 64 bytes. See setdomainname(2)."""
    call(SYS_setdomainname, name, _length(name))


def _length(text: Text) -> int:
    return len(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)


# --- keyrings -------------------------------------------------------------------------------------------------------


def keyctl_join_session_keyring(name: Text) -> int:
    """Start a session keyring, or join the one of that name: its serial number. See keyctl_join_session_keyring(3).

    Raises KernelError. runc:libcontainer/keys/keyctl.go:/^func JoinSessionKeyring/
    """
    return call(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name)


def keyctl_setperm(ring: int, perm: int) -> None:
    """Set the permission mask of a key or keyring. See keyctl_setperm(3)."""
    call(SYS_keyctl, KEYCTL_SETPERM, ring, perm)
