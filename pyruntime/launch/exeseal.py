"""The hop: what is in the container before the user's program must not be the host's Python interpreter.

execve resolves the image's program while /proc/self/exe is still the caller's executable. An image whose entry point
is a link to /proc/self/exe would have the host's interpreter run inside the container, with the image's own loader and
libraries, and could then open it for writing (CVE-2019-5736). So what takes the last steps, waits for `start` and
executes the program is 190 bytes of machine code that live in a sealed memfd: nobody can write it, it loads nothing,
and all it does is to perform the system calls of a tape (tape.py). While a created container waits, that is all it
costs: 12 KB.

The bytes below are hop/ARCHITECTURE.S, assembled; a test assembles them again and compares.

Read beside runc:libcontainer/exeseal/cloned_binary_linux.go, which copies or overlays its 10 MB binary instead.
"""

from __future__ import annotations

import errno
import posix
import sys
from _struct import pack
from fcntl import fcntl

from pyruntime.errors import KernelError, UnsupportedError
from pyruntime.linux import clone, syscalls
from pyruntime.linux import constants as c
from pyruntime.linux.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyruntime.launch.tape import Tape

# Machine of uname(2) -> (e_machine of the ELF header, the code, where in it `spawn` begins: see linux/clone.py).
CODE: dict[str, tuple[int, bytes, int]] = {
    "x86_64": (62, bytes.fromhex(
        "bb00005000488d6b208b4500488b7d08488b7510488b55184c8b55204c8b45284c8b4d300f05483d01f0ffff731a488b4d38e302"
        "8901488b4d504885c07404488b4d584889cdebc1488b4d48483b454074f189430c488b450048894310488b3b488d73086a105a6a"
        "01580f056a015f6a3c580f050f0b4989d1b8b30100000f0585c07526498b39498b7108498b51104d8b51184d8b4120b842010000"
        "0f05498941286a015f6a3c580f05c3"
    ), 0x76),
    "aarch64": (183, bytes.fromhex(
        "130aa0d274820091880240b9808640a9828e41a9849642a9010000d41ffc3fb122010054891e40f9490000b4200100b9892a40f9"
        "400000b4892e40f9f40309aaf2ffff17892640f98a2240f91f000aeb60ffff54600e00b9800240f9600a00f9600240f961220091"
        "020280d2080880d2010000d4200080d2a80b80d2010000d4000020d4e90302aa683680d2010000d4400100b5200540a9220d41a9"
        "241140f9282380d2010000d4201500f9200080d2a80b80d2010000d4c0035fd6"
    ), 0x84),
}  # fmt: skip

# Where in memory the tape lies, and where what follows may be read to: the code knows the first.
TAPE, CONTINUED = 0x500000, 0x600000
LONGEST = 8 << 20  # bytes of what follows; the kernel takes 6 MB of arguments and environment

_ST_RDONLY = 1  # statvfs(3)
_CODE = 0x400000
_HEADERS = 64 + 2 * 56  # an Elf64_Ehdr and two Elf64_Phdr, see elf(5)


def image(tape: bytes, *, is_continued: bool = False, machine: str = posix.uname().machine) -> bytes:
    """A static ELF executable that performs the tape, linked for TAPE. is_continued: it needs memory at CONTINUED.

    Raises UnsupportedError on a machine that the hop has not been written for.
    """
    if machine not in CODE:
        raise UnsupportedError(f"no hop for the architecture {machine}", hint=f"written for: {', '.join(CODE)}")
    number, code, _ = CODE[machine]
    page = 0x1000 if machine == "x86_64" else 0x10000  # the largest that such a machine can have
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bit, little endian, version 1
    header = pack("<16sHHIQQQIHHHHHH", identity, 2, number, 1, _CODE + _HEADERS, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    size = _HEADERS + len(code)
    in_memory = CONTINUED - TAPE + LONGEST if is_continued else len(tape)
    read_execute = pack("<IIQQQQQQ", 1, 5, 0, _CODE, _CODE, size, size, page)  # PT_LOAD
    read_write = pack("<IIQQQQQQ", 1, 6, page, TAPE, TAPE, len(tape), in_memory, page)
    return (header + read_execute + read_write + code).ljust(page, b"\0") + tape


def spawn(flags: int, hop_fd: int, *, cgroup_fd: int | None = None, is_frozen: bool = False) -> tuple[int, int]:
    """Start the hop in new namespaces (clone.spawn): (its pid, a pidfd). Raises KernelError."""
    entry = _HEADERS + CODE[posix.uname().machine][2]
    return clone.spawn(flags, hop_fd, entry, NAME, cgroup_fd=cgroup_fd, may_sleep=not is_frozen)


def sealed(tape: Tape, report_fd: int, *, is_continued: bool = False) -> int:
    """The image in a memfd that nobody can change any more, its owner included. See memfd_create(2), F_ADD_SEALS.

    report_fd: where a call that fails is reported; the program does not get it. Raises as `image`.
    """
    flags = c.MFD_CLOEXEC | c.MFD_ALLOW_SEALING
    hop_fd = syscalls.memfd_create("pyruntime-hop", flags | c.MFD_EXEC, expected=(errno.EINVAL,))
    if hop_fd < 0:  # before Linux 6.3, where it is executable anyway
        hop_fd = syscalls.memfd_create("pyruntime-hop", flags)
    write_all(hop_fd, image(tape.linked(TAPE, report_fd), is_continued=is_continued))
    fcntl(hop_fd, c.F_ADD_SEALS, c.F_SEAL_SEAL | c.F_SEAL_SHRINK | c.F_SEAL_GROW | c.F_SEAL_WRITE)
    return hop_fd


def seal_interpreter(keep: tuple[bytes, ...] | None = None) -> None:
    """Start this very command again from a read-only mount of the interpreter, unless that is where it runs from.

    A child that enters a PID namespace which others share is Python until it hops, and a neighbour with CAP_SYS_PTRACE
    may look at it although it is not dumpable. A write through its /proc/PID/exe then meets the mount's read-only flag,
    which nobody can change: the mount belongs to no namespace once its descriptor is closed. It costs a second start
    of the interpreter, so only who joins a PID namespace does it, or has hooks of the image's beside Python in its own
    one. Whatever has been read so far is read again.

    keep: the names of the environment that are passed on; the rest is in no memory of ours any more. None: all are.
    Raises KernelError. runc:libcontainer/exeseal/overlayfs_linux.go does the same by an overlay.
    """
    env = {name: value for name, value in posix.environ.items() if keep is None or name in keep}
    exe_fd = posix.open("/proc/self/exe", posix.O_RDONLY | posix.O_CLOEXEC)
    start_fd = _read_only(exe_fd)
    if start_fd == exe_fd and env == posix.environ:
        posix.close(exe_fd)
        return
    args = [arg.encode("utf-8", "surrogateescape") for arg in sys.orig_argv]
    syscalls.execveat(start_fd, "", args, [b"=".join(pair) for pair in env.items()], c.AT_EMPTY_PATH)


def _read_only(exe_fd: int) -> int:
    """A read-only mount of the interpreter; `exe_fd` itself where it is none that a container could write.

    A rootless user may not make such a mount, and a container of theirs can't write what belongs to another.
    """
    if posix.fstatvfs(exe_fd).f_flag & _ST_RDONLY:
        return exe_fd
    try:
        mount_fd = syscalls.open_tree(exe_fd, "", c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC | c.AT_EMPTY_PATH)
    except KernelError as error:
        if error.errno == errno.EPERM and posix.geteuid() not in (0, posix.fstat(exe_fd).st_uid):
            return exe_fd
        raise
    syscalls.mount_setattr(mount_fd, "", c.AT_EMPTY_PATH, c.MOUNT_ATTR_RDONLY, 0)
    return mount_fd


def execute(hop_fd: int) -> NoReturn:
    """Become the hop, which performs its tape. It needs no arguments: all that the program gets is on the tape.

    Returns only by raising KernelError. See execveat(2), AT_EMPTY_PATH.
    """
    syscalls.execveat(hop_fd, "", [NAME], [], c.AT_EMPTY_PATH)


NAME = b"pyruntime-hop"  # argv[0] of a container's process that has not executed its program yet
