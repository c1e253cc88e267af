"""The host's network sysctls, by path below /proc/sys: "net/ipv4/ip_forward". See ip-sysctl.rst of the kernel.

/proc/sys/net shows the network namespace of the process that looks, so these are ours, whoever mounted /proc.
"""

from __future__ import annotations

import posix
from errno import EROFS

from pyruntime.errors import KernelError
from pyruntime.linux import proc

_VALUE_MAX = 64  # bytes of a value: all of ours are numbers


def read(path: str) -> str:
    """The value; "" if there is none of this name: no such device, no IPv6. Raises OSError."""
    try:
        return proc.read_file(f"/proc/sys/{path}", _VALUE_MAX).decode().strip()
    except FileNotFoundError:
        return ""


def write(path: str, value: str) -> None:
    """Set it. Raises KernelError."""
    try:
        proc.write_file(f"/proc/sys/{path}", value.encode())
    except KernelError as error:
        if error.errno == EROFS:
            error.hint = "networks take a writable /proc/sys"
        raise


def listed(path: str) -> list[str]:
    """The names in a directory: the devices of "net/ipv6/conf". None if it is not there. Raises OSError."""
    try:
        return posix.listdir(f"/proc/sys/{path}")
    except FileNotFoundError:
        return []
