"""The last hop: what executes the user's program must not be the host's Python interpreter.

execve resolves the image's program while /proc/self/exe is still the caller's executable. An image whose entry point
is a link to /proc/self/exe would have the host's interpreter run inside the container, with the image's own loader and
libraries, and could then open it for writing (CVE-2019-5736). So the container's child first becomes a program of some
300 bytes that lives in a sealed memfd: nobody can write it, it loads nothing, and all it does is wait for `start`,
execute the user's program, and say why not if that fails. While a created container waits, that is all it costs: 12 KB.

The bytes below are hop/ARCHITECTURE.S, assembled; a test assembles them again and compares.

Read beside runc:libcontainer/exeseal/cloned_binary_linux.go, which copies or overlays its 10 MB binary instead.
"""

from __future__ import annotations

import posix
from _struct import pack
from fcntl import fcntl

from pyruntime.errors import UnsupportedError
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls

# Machine of uname(2) -> (e_machine of the ELF header, the code up to the two descriptors at its end).
CODE: dict[str, tuple[int, bytes]] = {
    "x86_64": (62, bytes.fromhex(
        "4c8b6424084c8d6c2410488b04244c8d74c4106a045f31f6b89d0000000f058b1d660000008b2d5c00000085ed782189ef31f631"
        "d241ba00000800b8200100000f0583f8fc74e889c389efe82b00000089dfe8240000004c89e74c89ee4c89f26a3b580f055089df"
        "4889e66a045a6a01580f056a015f6a3c580f056a025e6a015a6a48580f05c3"
    )),
    "aarch64": (183, bytes.fromhex(
        "f30740f9f4430091e00340f9950e008b800080d2010080d2e81480d2010000d489040010360140b9370540b99601f837e003162a"
        "010080d2020080d20301a052481e80d2010000d41f10003120ffff54f703002ae003162a11000094e003172a0f000094e00313aa"
        "e10314aae20315aaa81b80d2010000d4e00f1ff8e003172ae1030091820080d2080880d2010000d4200080d2a80b80d2010000d4"
        "410080d2220080d2280380d2010000d4c0035fd6"
    )),
}  # fmt: skip

_BASE = 0x400000
_HEADERS = 64 + 56  # an Elf64_Ehdr and one Elf64_Phdr, see elf(5)


def image(listen_fd: int, report_fd: int, machine: str = posix.uname().machine) -> bytes:
    """A static ELF executable for `machine` that hops to argv[0] with argv[1:].

    listen_fd: a listening socket; the hop waits for one connection and reports there. -1: don't wait.
    report_fd: where to write `-errno` (four bytes) if execve fails; it is closed if execve succeeds.
    Raises UnsupportedError on a machine that the hop has not been written for.
    """
    if machine not in CODE:
        raise UnsupportedError(f"no last hop for the architecture {machine}", hint=f"written for: {', '.join(CODE)}")
    number, code = CODE[machine]
    body = code + pack("<ii", listen_fd, report_fd)
    size = _HEADERS + len(body)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bit, little endian, version 1
    header = pack("<16sHHIQQQIHHHHHH", identity, 2, number, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # PT_LOAD, read and execute
    return header + segment + body


def sealed(listen_fd: int, report_fd: int) -> int:
    """The image in a memfd that nobody can change any more, the owner included. See memfd_create(2), fcntl(2) F_ADD_SEALS."""
    hop_fd = syscalls.memfd_create("pyruntime-hop", c.MFD_CLOEXEC | c.MFD_ALLOW_SEALING | c.MFD_EXEC)
    posix.write(hop_fd, image(listen_fd, report_fd))
    fcntl(hop_fd, c.F_ADD_SEALS, c.F_SEAL_SEAL | c.F_SEAL_SHRINK | c.F_SEAL_GROW | c.F_SEAL_WRITE)
    return hop_fd


def execute(hop_fd: int, program: str, args: list[bytes], env: list[bytes]) -> None:
    """Become the hop, which becomes `program` (an absolute path, or one relative to the working directory).

    Returns only by raising KernelError, for example E2BIG. See execveat(2), AT_EMPTY_PATH.
    """
    syscalls.execveat(hop_fd, "", [program.encode("utf-8", "surrogateescape"), *args], env, c.AT_EMPTY_PATH)
