"""A machine for seccomp's filters: what would the kernel decide, for any architecture, without asking it."""

from __future__ import annotations

import struct

NATIVE = 0xC000003E  # AUDIT_ARCH_X86_64
I386 = 0x40000003
X32_BIT = 0x40000000


def decide(program: bytes, number: int, args: tuple[int, ...] = (), arch: int = NATIVE) -> int:
    """What the program returns for one call (SECCOMP_RET_*). See seccomp(2), linux/bpf_common.h.

    Raises AssertionError for what the kernel's verifier would refuse: a jump or a load out of bounds.
    """
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *(*args, *[0] * 6)[:6])
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        assert at < len(instructions), "the program has no end"
        code, jt, jf, k = instructions[at]
        at += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            assert k % 4 == 0
            assert k < len(data)
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= k
        elif code == 0x05:  # BPF_JMP | BPF_JA
            at += k
        elif code == 0x06:  # BPF_RET | BPF_K
            return int(k)
        else:
            holds = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[code]
            at += jt if holds else jf
