"""How a system call is made from Python, and how a failed one is told. The calls themselves are in syscalls.py.

`call` hands its arguments to the C library's syscall(2) as whole machine words (public ctypes would cut an int at 32
bits), turns str into C strings, and raises KernelError for -1. The error's text is taken from the wrapper's own
signature and arguments, by looking at its frame: nothing is formatted unless a call fails, and no wrapper repeats its
name. `hint` then says what an errno means where the kernel's word for it misleads.

`_ctypes`, the C half of ctypes, is used without its Python half, whose import costs 3 ms; where a Python has another
`_ctypes`, public ctypes serves. Nothing is imported late: a call may fail in the container's child, after the seal.

Read beside golang.org/x/sys/unix:syscall_linux.go and bubblewrap:bind-mount.c:/^mount_strerror/.
"""

from __future__ import annotations

import posix
from sys import _getframe, byteorder

from pyruntime.errors import Error, KernelError, errno_name
from pyruntime.linux.constants import AT_FDCWD, flag_names, value_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Any, TypeAlias

    Argument: TypeAlias = int | str | bytes | bytearray | None

try:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        CFuncPtr,
        _SimpleCData,
        addressof,
        dlopen,
        dlsym,
        get_errno,
    )

    class c_void_p(_SimpleCData):  # type: ignore[type-arg]  # noqa: N801
        _type_ = "P"

    class c_char(_SimpleCData):  # type: ignore[type-arg]  # noqa: N801
        _type_ = "c"

    class _Function(CFuncPtr):
        # PYTHONAPI keeps the GIL during the call. That is what clone3 needs, and the runtime has one thread anyway.
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI | FUNCFLAG_USE_ERRNO

    _process_image = dlopen(None, posix.RTLD_NOW)  # type: ignore[arg-type]  # None: all that is loaded already

    def native(name: str) -> Any:
        """A C function of this process, as a ctypes function that returns an int. Raises OSError."""
        return _Function(dlsym(_process_image, name))

    def function_at(place: int) -> Any:
        """Machine code in this process's memory, as a function that returns an int."""
        return _Function(place)

    def library(name: str) -> Callable[[str], Any]:
        """Load a shared library; what is returned gives its functions by name, as `native` does. Raises OSError."""
        handle = dlopen(name, posix.RTLD_NOW)
        return lambda function: _Function(dlsym(handle, function))

except (ImportError, AttributeError, TypeError):
    from ctypes import PYFUNCTYPE, PyDLL, addressof, c_char, c_int, c_void_p, get_errno  # type: ignore[assignment]

    def native(name: str) -> Any:
        """As above, by public ctypes."""
        return PyDLL(None, use_errno=True)[name]

    def function_at(place: int) -> Any:
        """As above, by public ctypes."""
        return PYFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)(place)

    def library(name: str) -> Callable[[str], Any]:
        """As above, by public ctypes."""
        return PyDLL(name, use_errno=True).__getitem__


# The arguments as pointers, because c_void_p takes ints of the full width, bytes and buffers, each as one machine word.
# The result as ctypes' default, an int: no call here returns more than a descriptor, a pid or 32 bits.
_syscall: Callable[..., int] = native("syscall")
_syscall.argtypes = (c_void_p,) * 7  # type: ignore[attr-defined]
_NOTHING = (0, 0, 0, 0, 0, 0)


def raw_call(number: int, *words: int) -> int:
    """System call `number` with up to six machine words; its result, or -errno. For calls that others have prepared."""
    result = _syscall(number, *words, *_NOTHING[len(words) :])
    return -get_errno() if result == -1 else result


def call(number: int, *arguments: Argument, expected: tuple[int, ...] = ()) -> int:
    """Make system call `number` with up to six arguments: int, text (a C string), Struct, bytearray or None (NULL).

    Only to be called by a wrapper whose name and parameters are the kernel's: they are what the error shows.
    Raises KernelError, but for the errnos that are `expected`: then their negative is returned, for an exception costs
    more than most calls. Raises Error for a string with a NUL in it.
    """
    words = [
        c_string(word)
        if type(word) is str or type(word) is bytes
        else address(word)
        if type(word) is bytearray
        else word
        for word in arguments
    ]
    result = _syscall(number, *words, *_NOTHING[len(words) :])
    if result == -1:
        failure = get_errno()
        if failure in expected:
            return -failure
        raise _failure(_getframe(1), failure)
    return result


def c_string(text: str | bytes) -> bytes:
    """`text` as the kernel takes it. A NUL would end it early, and so name something else: Error."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if 0 in raw:
        raise Error(f"{text!r} contains a NUL")
    return raw


class Struct(bytes):
    """A struct that the kernel only reads: bytes that are no C string. What it writes to must be a bytearray."""

    __slots__ = ()


def address(memory: bytearray) -> int:
    """Where the bytes lie, for a struct that points to them; not of none. The caller keeps them alive and their number.

    (An array of ctypes would do, too; but each length is a class of its own, and the first one takes 0.1 ms to make.)
    """
    return addressof(c_char.from_buffer(memory))


def memory_at(place: int, size: int) -> bytes:
    """A copy of `size` bytes that lie at an address which a C function has returned."""
    memory: Any = (c_char * size).from_address(place)
    return bytes(memory.raw)


def u64(*values: int) -> bytes:
    """A struct of 64-bit words, as most of the newer calls take. Raises OverflowError for what does not fit."""
    return b"".join([value.to_bytes(8, byteorder) for value in values])


def u32(*values: int) -> bytes:
    """A struct of 32-bit words."""
    return b"".join([value.to_bytes(4, byteorder) for value in values])


def string_vector(strings: Iterable[str | bytes]) -> tuple[Struct, bytearray]:
    """An argv or envp: the table of pointers that ends with NULL, and the memory it points to (keep both)."""
    raws = [c_string(text) + b"\0" for text in strings]
    memory = bytearray(b"".join([*raws, b"\0"]))
    place = address(memory)
    pointers = []
    for raw in raws:
        pointers.append(place)
        place += len(raw)
    return Struct(u64(*pointers, 0)), memory


# What the numbers among the arguments mean. "=" marks a number that stands alone, others are words of flags.
_FAMILIES = {
    "bpf.cmd": "=BPF_",
    "clone3.exit_signal": "=SIG",
    "clone3.flags": "CLONE_",
    "close_range.flags": "CLOSE_RANGE_",
    "execveat.flags": "AT_",
    "ioprio_set.which": "=IOPRIO_WHO_",
    "memfd_create.flags": "MFD_",
    "mount.flags": "MS_",
    "mount_setattr.attr_clr": "MOUNT_ATTR_",
    "mount_setattr.attr_set": "MOUNT_ATTR_",
    "mount_setattr.flags": "AT_",
    "mount_setattr.propagation": "MS_",
    "move_mount.flags": "MOVE_MOUNT_",
    "open_tree.flags": "OPEN_TREE_ AT_",
    "openat2.flags": "O_",
    "openat2.resolve": "RESOLVE_",
    "pidfd_send_signal.sig": "=SIG",
    "prctl.option": "=PR_",
    "prlimit.resource": "=RLIMIT_",
    "sched_setattr.policy": "=SCHED_",
    "sched_setattr.sched_flags": "SCHED_FLAG_",
    "seccomp.flags": "SECCOMP_FILTER_FLAG_",
    "seccomp.operation": "=SECCOMP_SET_",
    "setns.nstype": "CLONE_NEW",
    "signalfd4.flags": "SFD_",
    "umount2.flags": "MNT_ UMOUNT_",
    "unshare.flags": "CLONE_",
}
_USUALLY_ZERO = set(
    "a2 a3 a4 a5 aux deadline mode mode_flags nice nodemask period priority propagation protocol resolve runtime "
    "sched_flags userns_fd".split()
)
_LONGEST = 200  # characters of one argument in an error's text


def _failure(frame: FrameType, number: int) -> KernelError:
    """The error of a wrapper's call. Its text is made when somebody asks for it, from the arguments of now."""
    name = frame.f_code.co_name
    parameters = frame.f_code.co_varnames[: frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount]
    values = frame.f_locals
    return KernelError(lambda: _text(name, parameters, values), number, hint=hint(name, number))


def _text(name: str, parameters: tuple[str, ...], values: dict[str, Any]) -> str:
    """A call as it would be written, empty arguments left out."""
    shown = []
    for parameter in parameters:
        value = values[parameter]
        if parameter == "expected":  # call's own
            continue
        if value is not None and value not in ("", b"") and not (value == 0 and parameter in _USUALLY_ZERO):
            # mount(2) calls it a type, which in Python is another word
            shown.append(f"{'type' if parameter == 'fstype' else parameter}={_show(name, parameter, value)}")
    return f"{name}({', '.join(shown)})"


def _show(name: str, parameter: str, value: object) -> str:
    """One argument as a person would write it: names for flags, octal for modes, and never more than a line."""
    if parameter == "envp" and isinstance(value, list):
        return f"[{len(value)} strings]"  # an environment may hold secrets, and errors end up in logs
    if isinstance(value, int) and not isinstance(value, bool):
        family = _FAMILIES.get(f"{name}.{parameter}", "")
        if family:
            return value_name(value, family[1:]) if family[0] == "=" else flag_names(value, family)
        if value == AT_FDCWD:
            return "AT_FDCWD"
        if parameter == "mode":
            return oct(value)
        return hex(value) if value > 1 << 31 else str(value)
    if not isinstance(value, (str, bytes, list, bool)):
        return f"<{type(value).__name__}>"
    text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


_PROGRAM = {
    "ENOENT": "no such file, or the interpreter it names is missing: a script's #! line, or a program's dynamic loader",
    "EACCES": "a directory, a file this user may not execute, or a noexec mount; of a script also its interpreter",
    "ENOEXEC": "not a program for this machine: another architecture, an empty file, or a script without a #! line",
    "E2BIG": "args and env together exceed a quarter of RLIMIT_STACK, or one of them 128 KiB",
    "EAGAIN": "RLIMIT_NPROC: this user, on the whole host, already has as many processes",
}

_NO_NAMESPACE = (
    "needs CAP_SYS_ADMIN; a user namespace may be forbidden by kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns, or because this process is in a chroot"
)
_TOO_MANY_NAMESPACES = "not the disk: /proc/sys/user/max_*_namespaces is reached, or namespaces are nested too deep"

# The errnos that cost people hours, because the kernel's word for them names another trouble.
_HINTS = {
    "bpf EPERM": "needs CAP_BPF with CAP_NET_ADMIN, or CAP_SYS_ADMIN, in the first user namespace",
    "bpf EINVAL": "the kernel rejects the program, or was built without CONFIG_CGROUP_BPF",
    "capset EPERM": "more than the permitted or bounding set holds: the runtime itself lacks a capability asked for",
    "clone3 EAGAIN": "a limit of processes: pids.max of a cgroup, RLIMIT_NPROC, kernel.threads-max or kernel.pid_max",
    "clone3 EBUSY": "the cgroup has controllers in cgroup.subtree_control for its children, so it may hold no process",
    "clone3 EINVAL": "a kind of namespace that this kernel was built without, or flags that exclude each other",
    "clone3 ENOMEM": "perhaps not memory: the pid namespace that was joined has no init any more",
    "clone3 ENOSPC": _TOO_MANY_NAMESPACES,
    "clone3 ENOTSUP": "the cgroup is in a threaded or invalid domain: see its cgroup.type",
    "clone3 EPERM": _NO_NAMESPACE,
    "ioprio_set EPERM": "the class IOPRIO_CLASS_RT needs CAP_SYS_NICE or CAP_SYS_ADMIN on the host",
    "keyctl EDQUOT": "not the disk: this user's quota of keys, kernel.keys.maxkeys",
    "memfd_create EACCES": "vm.memfd_noexec=2 forbids memory files that can be executed",
    "mknodat EPERM": "needs CAP_MKNOD in the first user namespace; in another one devices are bind-mounted instead",
    "mount EACCES": "a file system on a device that is read-only, or whose mount forbids devices (nodev); or SELinux: "
    "see ausearch -m avc, and a user namespace can't give a context to all types",
    "mount EBUSY": "it is mounted already, or a file is open for writing and read-only was asked for",
    "mount EINVAL": "an option in data that the file system does not know (see dmesg), a SELinux context that the "
    "policy does not know, a remount or move of what is no mount point, or a bind of an unbindable or locked mount",
    "mount ENODEV": "this kernel has no such file system type, or not loaded: see /proc/filesystems",
    "mount ENOSPC": "not the disk: /proc/sys/fs/mount-max mounts exist in this namespace",
    "mount EPERM": "needs CAP_SYS_ADMIN over the mount namespace's owner; in a user namespace also: a type not allowed "
    "there, a flag locked by the host, or a proc or sysfs of which the host's own shows only parts",
    "mount_setattr EINVAL": "no mount point; or to be idmapped, but attached, idmapped already, or not able to",
    "mount_setattr EPERM": "to be idmapped, needs CAP_SYS_ADMIN over the file system's own user namespace; else a flag "
    "that is locked by the user namespace which the mount came from",
    "move_mount EINVAL": "the place is no mount point's, or its parent mount is shared",
    "openat2 EAGAIN": "something was renamed meanwhile, and the kernel could not be sure to stay inside the root",
    "openat2 ELOOP": "a symbolic link where none is allowed, or a loop of them",
    "openat2 EXDEV": "the path leaves the directory or the mount that it must stay in",
    "pivot_root EBUSY": "the new root is no mount of its own but a directory on the current root's",
    "pivot_root EINVAL": "the new root is no mount point, its parent is shared, or the current root is an initramfs",
    "prctl EPERM": "dropping from the bounding set needs CAP_SETPCAP; raising an ambient capability needs it in the "
    "permitted and the inheritable set",
    "prlimit EPERM": "a hard limit is raised only with CAP_SYS_RESOURCE on the host, RLIMIT_NOFILE to fs.nr_open",
    "sched_setaffinity EINVAL": "none of the CPUs is there, or none is allowed by the cgroup's cpuset.cpus",
    "sched_setattr EBUSY": "no room for more SCHED_DEADLINE: runtime/period of all such processes exceed what is left",
    "sched_setattr EINVAL": "a policy that this kernel lacks, a priority that the policy does not take (1 to 99 for "
    "SCHED_FIFO and SCHED_RR), or not 1024 ns <= runtime <= deadline <= period",
    "sched_setattr ENOTSUP": "this kernel was built without CONFIG_UCLAMP_TASK, so it cannot clamp the utilisation",
    "sched_setattr EPERM": "needs CAP_SYS_NICE on the host, or RLIMIT_NICE and RLIMIT_RTPRIO; SCHED_DEADLINE also that "
    "no cpuset or affinity restricts the CPUs; real-time also a cgroup with a share of it (CONFIG_RT_GROUP_SCHED)",
    "set_mempolicy EINVAL": "none of the nodes is online and allowed by cpuset.mems, nodes for a mode that takes none, "
    "flags that exclude each other, or a mode that is newer than this kernel",
    "set_mempolicy EPERM": "forbidden by a seccomp filter around pyruntime, as containers have it by default",
    "pidfd_getfd EPERM": "needs the right to trace the other process, see ptrace(2)",
    "seccomp EACCES": "needs CAP_SYS_ADMIN or no_new_privs",
    "seccomp EBUSY": "another filter of this process has a listener already, and there can be only one",
    "seccomp EINVAL": "a flag that this kernel does not know, or a filter of more than 4096 instructions",
    "seccomp ENOMEM": "perhaps not memory: all filters of a process together may have 32768 instructions",
    "setgroups EINVAL": "a gid that gidMappings does not map",
    "setgroups EPERM": "needs CAP_SETGID, and in a user namespace a written gid_map and no deny in /proc/PID/setgroups",
    "setns EINVAL": "not a namespace of that type, or the user namespace that this process is in already",
    "setns EPERM": "needs CAP_SYS_ADMIN in the namespace to join and, but for a user namespace, in this process's own",
    "setresgid EINVAL": "a gid that gidMappings does not map",
    "setresuid EINVAL": "a uid that uidMappings does not map",
    "umount2 EBUSY": "in use by an open file, a working directory or a mount below",
    "umount2 EINVAL": "no mount point, or locked by the user namespace that it came from",
    "unshare ENOSPC": _TOO_MANY_NAMESPACES,
    "unshare EPERM": _NO_NAMESPACE,
}

# In the order of their arrival.
_SINCE = {
    "pidfd_send_signal": "5.1",
    "move_mount": "5.2",
    "open_tree": "5.2",
    "fsconfig": "5.2",
    "fsmount": "5.2",
    "fsopen": "5.2",
    "clone3": "5.3",
    "pidfd_open": "5.3",
    "pidfd_getfd": "5.6",
    "openat2": "5.6",
    "close_range": "5.9",
    "mount_setattr": "5.12",
}


def hint(name: str, number: int) -> str:
    """What errno `number` of system call `name` is likely to mean, where that is not what it says; "" otherwise."""
    errno = errno_name(number)
    if errno == "ENOSYS":
        since = f"is older than Linux {_SINCE[name]}" if name in _SINCE else "was built without it"
        return f"this kernel {since}, or a seccomp filter around pyruntime hides the call"
    if name in ("execve", "execveat"):
        return _PROGRAM.get(errno, "")
    return _HINTS.get(f"{name} {errno}", "")
