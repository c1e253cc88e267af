"""Device programs: a cgroup's processes may open and make only those device nodes that a small BPF program lets pass.

cgroup v2 has no file for device rules. The kernel runs the program at each open(2) and mknod(2) of a device instead,
hands it {access and type, major, minor}, and refuses with EPERM where the result is 0. See bpf(2),
and struct bpf_cgroup_dev_ctx of linux/bpf.h.

Read beside opencontainers/cgroups:devices/devicefilter.go and :devices/ebpf_linux.go.
"""

from __future__ import annotations

import errno
import posix
from _struct import pack
from sys import byteorder

from pyruntime.errors import KernelError
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.call import address, u32, u64

TYPE_CHECKING = False
if TYPE_CHECKING:
    Rule = tuple[str, int, int, str]  # type "b" or "c", major, minor (-1: any), access: letters of "rwm"

_TYPES = {"b": c.BPF_DEVCG_DEV_BLOCK, "c": c.BPF_DEVCG_DEV_CHAR}
_EITHER = "a"
_ACCESS = {"r": c.BPF_DEVCG_ACC_READ, "w": c.BPF_DEVCG_ACC_WRITE, "m": c.BPF_DEVCG_ACC_MKNOD}
_ALL_ACCESS = sum(_ACCESS.values())

# What the registers hold.
_RESULT, _CONTEXT, _TYPE, _ASKED, _MAJOR, _MINOR = range(6)

_LICENSE = b"Apache-2.0\0"
_NAME = b"pyruntime_dev".ljust(16, b"\0")
_LOG_BYTES = 1 << 20
_MOST_IN_A_GROUP = 8192  # rules; a jump reaches 32767 instructions, and a rule has two at most
_MOST_PROGRAMS = 64  # BPF_CGROUP_MAX_PROGS: more cannot be attached to one cgroup


def _instruction(code: int, destination: int, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """struct bpf_insn. The registers are bit fields of one byte, which big-endian machines fill from the other end."""
    first, second = (destination, source) if byteorder == "little" else (source, destination)
    return pack("=BBhI", code, second << 4 | first, offset, immediate & 0xFFFFFFFF)


def device_program(rules: list[Rule], default_allow: bool) -> bytes:
    """The instructions that do what `default_allow` says, but for the devices of `rules`, where they do the opposite.

    An allowing rule must cover all that is asked (read and write for O_RDWR), a denying one only a part, as in v1's
    match_exception and match_exception_partial (security/device_cgroup.c). runc's program lets an open for reading
    and writing pass a rule that denies writing alone.
    """
    load = c.BPF_LDX | c.BPF_MEM | c.BPF_W
    program = [
        _instruction(load, _TYPE, _CONTEXT, 0),
        _instruction(c.BPF_ALU | c.BPF_AND | c.BPF_K, _TYPE, immediate=0xFFFF),
        _instruction(load, _ASKED, _CONTEXT, 0),
        _instruction(c.BPF_ALU | c.BPF_RSH | c.BPF_K, _ASKED, immediate=16),
        _instruction(load, _MAJOR, _CONTEXT, 4),
        _instruction(load, _MINOR, _CONTEXT, 8),
    ]
    for_all = {(kind, access) for kind, major, minor, access in rules if major == minor == -1}
    groups: dict[tuple[str, int, int], dict[int, set[int]]] = {}
    for index, (kind, major, minor, access) in enumerate(rules):
        if major == minor == -1 and for_all >= {("b", access), ("c", access)}:
            kind = _EITHER
        group = groups.setdefault((kind, sum(map(_ACCESS.__getitem__, set(access))), index // _MOST_IN_A_GROUP), {})
        group.setdefault(major, set()).add(minor)
    for (kind, mask, _), devices in groups.items():
        program += _group(kind, mask, devices, not default_allow)
    return b"".join(program + _verdict(default_allow))


def _group(kind: str, mask: int, devices: dict[int, set[int]], allow: bool) -> list[bytes]:
    """Test the rules of one type (or of either) and access: {major: its minors}, -1 for any; in any order.

    Each test that fails jumps forward, so the last is compiled first, for the distance. The fewer instructions, the
    less the verifier has to do: it takes a microsecond or two for each.
    """
    # 32-bit jumps: the 64-bit ones extend the sign, and device numbers may have the highest bit.
    equal, unequal = c.BPF_JMP32 | c.BPF_JEQ | c.BPF_K, c.BPF_JMP32 | c.BPF_JNE | c.BPF_K
    found = _verdict(allow)
    block: list[bytes] = []
    if -1 not in devices.get(-1, ()):  # or else every device is meant
        block.append(_instruction(c.BPF_JMP | c.BPF_JA, 0, 0, len(found)))
        for major, minors in devices.items():
            distance = len(block)
            if -1 in minors:
                tests = [_instruction(c.BPF_JMP | c.BPF_JA, 0, 0, distance)]
            else:
                behind = range(distance + len(minors) - 1, distance - 1, -1)
                tests = [_instruction(equal, _MINOR, 0, far, minor) for far, minor in zip(behind, minors, strict=True)]
            block[:0] = [_instruction(unequal, _MAJOR, 0, len(tests), major)] * (major >= 0) + tests
    block += found
    any_of = c.BPF_JMP32 | c.BPF_JSET | c.BPF_K
    if mask != _ALL_ACCESS and allow:  # skip if anything else is asked for
        block.insert(0, _instruction(any_of, _ASKED, 0, len(block), ~mask))
    elif mask != _ALL_ACCESS:  # skip unless some of it is asked for
        skip = _instruction(c.BPF_JMP | c.BPF_JA, 0, 0, len(block))
        block[:0] = [_instruction(any_of, _ASKED, 0, 1, mask), skip]
    return block if kind == _EITHER else [_instruction(unequal, _TYPE, 0, len(block), _TYPES[kind]), *block]


def _verdict(allow: bool) -> list[bytes]:
    return [
        _instruction(c.BPF_ALU | c.BPF_MOV | c.BPF_K, _RESULT, immediate=int(allow)),
        _instruction(c.BPF_JMP | c.BPF_EXIT, 0),
    ]


def load(instructions: bytes) -> int:
    """Give a device program to the kernel; a descriptor of it. Raises KernelError.

    EPERM without CAP_BPF or CAP_SYS_ADMIN in the first user namespace (or, before Linux 5.11, beyond RLIMIT_MEMLOCK);
    EINVAL or EACCES if the verifier rejects the program: then its last words are in the hint.
    Companion: opencontainers/cgroups:devices/ebpf_linux.go:/^func bpfProgLoad/.
    """
    try:
        return _load(instructions, None)
    except KernelError as error:
        if error.errno == errno.EPERM:
            return _load_unlimited(instructions, error)
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise
        rejected = error
    log = bytearray(_LOG_BYTES)
    try:
        return _load(instructions, log)
    except KernelError:
        lines = log.partition(b"\0")[0].decode(errors="replace").strip().splitlines()
        rejected.hint = f"the verifier says: {' / '.join(lines[-3:])}" if lines else rejected.hint
        raise rejected from None


def _load(instructions: bytes, log: bytearray | None) -> int:
    """BPF_PROG_LOAD, again while a signal interrupts the verifier (EAGAIN, up to Linux 5.x)."""
    program, license_text = bytearray(instructions), bytearray(_LICENSE)
    attr = (
        u32(c.BPF_PROG_TYPE_CGROUP_DEVICE, len(instructions) // 8)
        + u64(address(program), address(license_text))
        + u32(1 if log else 0, len(log) if log else 0)
        + u64(address(log) if log else 0)
        + u32(0, 0)
        + _NAME
    )
    for _attempt in range(30):
        try:
            return syscalls.bpf(c.BPF_PROG_LOAD, attr)
        except KernelError as error:
            if error.errno != errno.EAGAIN:
                raise
    return syscalls.bpf(c.BPF_PROG_LOAD, attr)


def _load_unlimited(instructions: bytes, refused: KernelError) -> int:
    """Before Linux 5.11 programs counted against RLIMIT_MEMLOCK: try without, for as long as the call takes."""
    import resource  # a rare way: an old kernel, or no permission at all

    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        raise refused from None  # no CAP_SYS_RESOURCE
    try:
        return _load(instructions, None)
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)


def attach(program_fd: int, cgroup_fd: int, *, fresh: bool = False) -> None:
    """Put the program in force for the cgroup and those below it, in place of the device programs that it had.

    `cgroup_fd` is an open directory of cgroup v2. With `fresh` it was made just now, and nothing is replaced. One old
    program is replaced atomically; of several the others are detached once the new one is in force, so that at no
    moment more is allowed than by either. A program above the cgroup stays in force, too. Raises KernelError.
    Companion: opencontainers/cgroups:devices/ebpf_linux.go:/^func loadAttachCgroupDeviceFilter/.
    """
    old_fds = [] if fresh else _attached(cgroup_fd)
    try:
        if len(old_fds) == 1:
            try:
                _attach(program_fd, cgroup_fd, c.BPF_F_ALLOW_MULTI | c.BPF_F_REPLACE, old_fds[0])
                return
            except KernelError as error:
                if error.errno != errno.EINVAL:  # a kernel before 5.6 does not know BPF_F_REPLACE
                    raise
        _attach(program_fd, cgroup_fd, c.BPF_F_ALLOW_MULTI, 0)
        for old_fd in old_fds:
            syscalls.bpf(c.BPF_PROG_DETACH, u32(cgroup_fd, old_fd, c.BPF_CGROUP_DEVICE, 0))
    finally:
        for old_fd in old_fds:
            posix.close(old_fd)


def _attach(program_fd: int, cgroup_fd: int, flags: int, replace_fd: int) -> None:
    syscalls.bpf(c.BPF_PROG_ATTACH, u32(cgroup_fd, program_fd, c.BPF_CGROUP_DEVICE, flags, replace_fd))


def attached_ids(cgroup_fd: int) -> list[int]:
    """The kernel's numbers of the device programs attached to a cgroup. Raises KernelError. See BPF_PROG_QUERY."""
    ids = bytearray(4 * _MOST_PROGRAMS)
    attr = bytearray(
        u32(cgroup_fd, c.BPF_CGROUP_DEVICE, 0, 0)
        + u64(address(ids))
        + u32(_MOST_PROGRAMS, 0)
        + u64(0, 0, 0, 0)  # not asked for; but kernels 6.17 to 7.1 write the last word whatever the size they are told
    )
    syscalls.bpf(c.BPF_PROG_QUERY, attr)
    count = int.from_bytes(attr[24:28], byteorder)
    return [int.from_bytes(ids[4 * i : 4 * i + 4], byteorder) for i in range(count)]


def _attached(cgroup_fd: int) -> list[int]:
    """Descriptors of the programs attached to a cgroup, but for those that a security module keeps to itself."""
    fds: list[int] = []
    for number in attached_ids(cgroup_fd):
        try:
            fds.append(syscalls.bpf(c.BPF_PROG_GET_FD_BY_ID, u32(number, 0, 0)))
        except KernelError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT):
                continue  # a program that stays can only forbid more
            for fd in fds:
                posix.close(fd)
            raise
    return fds
