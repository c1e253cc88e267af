"""The last hop: what executes the user's program must not be the host's Python interpreter.

execve resolves the image's program while /proc/self/exe is still the caller's executable. An image whose entry point
is a link to /proc/self/exe would have the host's interpreter run inside the container, with the image's own loader and
libraries, and could then open it for writing (CVE-2019-5736). So the container's child first becomes a program of some
300 bytes that lives in a sealed memfd: nobody can write it, it loads nothing, and all it does is wait for `start`, load
the container's seccomp filter, execute the user's program, and say why not if that fails. While a created container
waits, that is all it costs: 12 KB.

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
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Machine of uname(2) -> (e_machine of the ELF header, the code up to the data at its end: see `image`).
CODE: dict[str, tuple[int, bytes]] = {
    "x86_64": (62, bytes.fromhex(
        "4c8b6424084c8d6c2410488b04244c8d74c4106a045f31f6b89d0000000f058b1d060100008b2dfc00000085ed782189ef31f631"
        "d241ba00000800b8200100000f0583f8fc74e889c389efe8cb00000089dfe8c400000085c078508b2dce00000085ed7550488d15"
        "cb000000833a00741e8b35bc0000006a015fb83d0100000f05482d00000100483d0000ffff750e4c89e74c89ee4c89f26a3b580f"
        "055089df4889e66a045a6a01580f056a015f6a3c580f050f0bbf1180000031f631d24531d24531c06a38580f0585c07fd0740848"
        "2d00000400ebc66a70580f0585ed791c31ffbe0e54000031d26a10580f05482d00000800483d0000f8ff75a189df504889e66a08"
        "5a31c00f0585c00f8f54ffffff7498482d00001000eb826a025e6a015a6a48580f05c3"
    )),
    "aarch64": (183, bytes.fromhex(
        "f30740f9f4430091e00340f9950e008b800080d2010080d2e81480d2010000d4690a0010360140b9370540b99601f837e003162a"
        "010080d2020080d20301a052481e80d2010000d41f10003120ffff54f703002ae003162a40000094e003172a3e0000940003f837"
        "760800185603003562080010430040b903010034e1070018200080d2a82280d2010000d4600000b4004040d106000014e00313aa"
        "e10314aae20315aaa81b80d2010000d4e00f1ff8e003172ae1030091820080d2080880d2010000d4200080d2a80b80d2010000d4"
        "000020d4200290d2010080d2020080d2030080d2040080d2881b80d2010000d4800000b4c0fdffb6000041d1ecffff17a81380d2"
        "010000d43601f836000080d2c1818ad2020080d2a80380d2010000d4600000b4000042d1e1ffff17e003172aff4300d1e1030091"
        "020180d2e80780d2010000d41f0000714cf9ff54c0fbff54000044d1d6ffff17410080d2220080d2280380d2010000d4c0035fd6"
    )),
}  # fmt: skip

# What may come first, hop/override/ARCHITECTURE.S: its code up to two structs of capset(2), and what follows them.
OVERRIDE: dict[str, tuple[bytes, bytes]] = {
    "x86_64": (
        bytes.fromhex(
            "488d3d33000000488d3534000000b87e0000000f0585c07519488d3d1a000000488d3533000000b87e0000000f0585c074406a01"
            "5f6a3c580f052205082000000000"
        ),
        bytes.fromhex("b878004000ffe0"),
    ),
    "aarch64": (
        bytes.fromhex(
            "a0010010c1010010680b80d2010000d4c00000b500010010e1010010680b80d2010000d4400200b4200080d2a80b80d2010000d4"
            "2205082000000000"
        ),
        bytes.fromhex("090f80d20908a0f220011fd6"),
    ),
}

NO_FILTER = (0, b"")
# Whether a child of the hop goes on, in the PID namespace that was joined, and takes stdin for its terminal.
STAY, ENTER, ENTER_WITH_TERMINAL = 0, 1, -1

_ST_RDONLY = 1  # statvfs(3)
_BASE = 0x400000
_DATA = 32  # bytes: two descriptors, whether to enter, flags, and a struct sock_fprog
_HEADERS = 64 + 56  # an Elf64_Ehdr and one Elf64_Phdr, see elf(5)


def image(
    listen_fd: int,
    report_fd: int,
    machine: str = posix.uname().machine,
    prelude: bytes = b"",
    seccomp: tuple[int, bytes] = NO_FILTER,
    enter: int = STAY,
) -> bytes:
    """A static ELF executable for `machine` that hops to argv[0] with argv[1:].

    listen_fd: a listening socket; the hop waits for one connection and reports there. -1: don't wait.
    report_fd: where to write `-errno` (four bytes) if execve fails; it is closed if execve succeeds.
    prelude: code that is executed first, and goes on with the hop at its fixed address (labels.py).
    seccomp: the flags of seccomp(2) and a filter, which is loaded as the last thing before execve, so that it needs to
    allow nothing else; `-errno - FILTER_FAILED` (sync.py) is reported if that fails.
    enter: ENTER or ENTER_WITH_TERMINAL for `exec`. The hop clones a sibling, reports its pid (four bytes) and ends. The
    sibling leads a session, waits for something to read from `report_fd`, and goes on; it ends if there is nothing.
    `-errno - CLONE_FAILED`, `- TERMINAL_FAILED` or `- WAIT_FAILED` is reported if that fails.
    Raises UnsupportedError on a machine that the hop has not been written for.
    """
    if machine not in CODE:
        raise UnsupportedError(f"no last hop for the architecture {machine}", hint=f"written for: {', '.join(CODE)}")
    number, code = CODE[machine]
    flags, program = seccomp
    place = _BASE + _HEADERS + len(code) + _DATA  # where in memory the program will lie: right behind the data
    body = code + pack("<iiiIQQ", listen_fd, report_fd, enter, flags, len(program) // 8, place) + program
    entry = _BASE + _HEADERS + (len(body) if prelude else 0)
    body += prelude
    size = _HEADERS + len(body)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bit, little endian, version 1
    header = pack("<16sHHIQQQIHHHHHH", identity, 2, number, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # PT_LOAD, read and execute
    return header + segment + body


def lowering(held: int, inheritable: int, spare: int, then: bytes = b"", machine: str = posix.uname().machine) -> bytes:
    """A prelude for a hop that holds ambient capabilities of which the program shall not get those that are `spare`.

    held: all the capabilities that it holds; they stay until its execve. inheritable: that set as the program is to
    have it. then: another prelude. Raises UnsupportedError as `image`.
    """
    if machine not in OVERRIDE:
        raise UnsupportedError(
            f"no last hop for the architecture {machine}", hint=f"written for: {', '.join(OVERRIDE)}"
        )
    code, ending = OVERRIDE[machine]
    # What is not inheritable can't be ambient; and what was so once, may be inheritable again.
    data = b""
    for sets in ((held, held, inheritable & ~spare), (held, held, inheritable)):
        data += pack("<6I", *(mask & 0xFFFFFFFF for mask in sets), *(mask >> 32 for mask in sets))
    return code + data + (then or ending)


def sealed(
    listen_fd: int, report_fd: int, prelude: bytes = b"", seccomp: tuple[int, bytes] = NO_FILTER, enter: int = STAY
) -> int:
    """The image in a memfd that nobody can change any more, its owner included. See memfd_create(2), F_ADD_SEALS."""
    flags = c.MFD_CLOEXEC | c.MFD_ALLOW_SEALING
    try:
        hop_fd = syscalls.memfd_create("pyruntime-hop", flags | c.MFD_EXEC)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        hop_fd = syscalls.memfd_create("pyruntime-hop", flags)  # before Linux 6.3 it is executable anyway
    posix.write(hop_fd, image(listen_fd, report_fd, prelude=prelude, seccomp=seccomp, enter=enter))
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


def execute(hop_fd: int, program: str, args: list[bytes], env: list[bytes]) -> NoReturn:
    """Become the hop, which becomes `program` (an absolute path, or one relative to the working directory).

    Returns only by raising KernelError, for example E2BIG. See execveat(2), AT_EMPTY_PATH.
    """
    syscalls.execveat(hop_fd, "", [program.encode("utf-8", "surrogateescape"), *args], env, c.AT_EMPTY_PATH)
