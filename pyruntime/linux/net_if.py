"""Network interfaces as far as a container without a network needs them: its own loopback.

Read beside runc:libcontainer/network_linux.go:/^func .*loopback.* initialize/ and netdevice(7).
"""

from __future__ import annotations

import posix
from sys import byteorder

from pyruntime.linux.constants import AF_INET, IFF_UP, IFNAMSIZ, SIOCGIFFLAGS, SIOCSIFFLAGS, SOCK_DGRAM
from pyruntime.linux.syscalls import ioctl, socket

_SIZEOF_IFREQ = 40


def loopback_up() -> None:
    """Bring up `lo` of the network namespace that this process is in. Raises KernelError."""
    fd = socket(AF_INET, SOCK_DGRAM)
    try:
        ifreq = _ifreq("lo", 0)
        ioctl(fd, SIOCGIFFLAGS, ifreq)
        flags = int.from_bytes(ifreq[IFNAMSIZ : IFNAMSIZ + 2], byteorder)
        ioctl(fd, SIOCSIFFLAGS, _ifreq("lo", flags | IFF_UP))
    finally:
        posix.close(fd)


def _ifreq(name: str, flags: int) -> bytearray:
    """struct ifreq: an interface's name in 16 bytes, then a union, here a short with its flags."""
    content = name.encode().ljust(IFNAMSIZ, b"\0") + flags.to_bytes(2, byteorder)
    return bytearray(content.ljust(_SIZEOF_IFREQ, b"\0"))
