"""rtnetlink, as much as moving a device takes: find a link, change it, list and add addresses.

One socket speaks to the network namespace in which it was opened, wherever the process goes afterwards. Addresses are
kept as the kernel told them, attribute by attribute, so that whatever a later kernel adds can be told back.

Read beside rtnetlink(7), netlink(7) and vishvananda/netlink, which runc:libcontainer/network_linux.go uses.
"""

from __future__ import annotations

import posix
from _struct import calcsize, pack, unpack_from
from errno import ENODEV
from sys import byteorder

from pyruntime.errors import KernelError
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.netlink_socket import NetlinkSocket, attribute, attributes, open_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.linux.netlink_socket import Attributes

_LINK = "=BxHiII"  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = "=BBBBI"  # struct ifaddrmsg: family, prefixlen, flags, scope, index


class Link:
    """A network device: its index, its name and its flags (IFF_UP and others, netdevice(7))."""

    __slots__ = ("flags", "index", "name")

    def __init__(self, index: int, name: str, flags: int) -> None:
        self.index = index
        self.name = name
        self.flags = flags


class Address:
    """An address of a device, with the attributes of rtnetlink(7): IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS and others."""

    __slots__ = ("attributes", "family", "prefixlen", "scope")

    def __init__(self, family: int, prefixlen: int, scope: int, attributes: Attributes) -> None:
        self.family = family
        self.prefixlen = prefixlen
        self.scope = scope
        self.attributes = attributes

    @property
    def is_permanent(self) -> bool:
        """Whether it was given for good, and not by a router or DHCP for a time."""
        return bool(int.from_bytes(self.attributes.get(c.IFA_FLAGS, b""), byteorder) & c.IFA_F_PERMANENT)


class Netlink(NetlinkSocket):
    """A socket to the network namespace of this process, or to the one of `namespace_fd`. To be closed."""

    __slots__ = ()

    def __init__(self, namespace_fd: int = -1) -> None:
        """Raises KernelError; OSError if there can be no socket."""
        if namespace_fd < 0:
            super().__init__(open_socket(c.NETLINK_ROUTE))
            return
        home_fd = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            syscalls.setns(namespace_fd, c.CLONE_NEWNET)
            try:
                super().__init__(open_socket(c.NETLINK_ROUTE))
            finally:
                syscalls.setns(home_fd, c.CLONE_NEWNET)
        finally:
            posix.close(home_fd)

    def find(self, name: str) -> Link | None:
        """The device of this name, or of this alternative name; None if there is none. Raises KernelError."""
        request = pack(_LINK, 0, 0, 0, 0, 0) + attribute(c.IFLA_IFNAME, _text(name))
        try:
            answers = self._ask(c.RTM_GETLINK, 0, request, f"RTM_GETLINK({name!r})")
        except KernelError as error:
            if error.errno == ENODEV:
                return None
            raise
        _, _, index, flags, _ = unpack_from(_LINK, answers[0])
        found = attributes(answers[0], calcsize(_LINK))[c.IFLA_IFNAME]
        return Link(index, found.rstrip(b"\0").decode(errors="surrogateescape"), flags)

    def move(self, link: Link, namespace_fd: int, name: str) -> None:
        """Move a device to another network namespace, and name it there. It arrives down and without addresses.

        Raises KernelError. The kernel names it after the move: if that fails, it is there under its former name.
        """
        request = (
            pack(_LINK, 0, 0, link.index, 0, 0)
            + attribute(c.IFLA_NET_NS_FD, pack("=I", namespace_fd))
            + attribute(c.IFLA_IFNAME, _text(name))
        )
        self._ask(c.RTM_SETLINK, c.NLM_F_ACK, request, f"RTM_SETLINK({link.name!r}, IFLA_NET_NS_FD, {name!r})")

    def set_up(self, link: Link) -> None:
        """Bring a device up. Raises KernelError."""
        request = pack(_LINK, 0, 0, link.index, c.IFF_UP, c.IFF_UP)
        self._ask(c.RTM_SETLINK, c.NLM_F_ACK, request, f"RTM_SETLINK({link.name!r}, IFF_UP)")

    def addresses(self, link: Link) -> list[Address]:
        """The addresses of a device, in the kernel's order, of all families. Raises KernelError."""
        request = pack(_ADDRESS, 0, 0, 0, 0, 0)
        found = []
        for answer in self._ask(c.RTM_GETADDR, c.NLM_F_DUMP, request, "RTM_GETADDR"):
            family, prefixlen, _, scope, index = unpack_from(_ADDRESS, answer)
            if index == link.index:
                found.append(Address(family, prefixlen, scope, attributes(answer, calcsize(_ADDRESS))))
        return found

    def add_address(self, link: Link, address: Address, kinds: tuple[int, ...]) -> None:
        """Give a device an address, with those of its attributes that are of these kinds. Raises KernelError."""
        request = pack(_ADDRESS, address.family, address.prefixlen, 0, address.scope, link.index)
        for kind in kinds:
            if kind in address.attributes:
                request += attribute(kind, address.attributes[kind])
        flags = c.NLM_F_ACK | c.NLM_F_CREATE | c.NLM_F_EXCL
        self._ask(c.RTM_NEWADDR, flags, request, f"RTM_NEWADDR({link.name!r}, {_shown(address)!r})")


def _text(name: str) -> bytes:
    """A device's name, which may be any bytes, as a C string."""
    return name.encode(errors="surrogateescape") + b"\0"


def _shown(address: Address) -> str:
    """An address for a person; IPv6 in full."""
    octets = address.attributes.get(c.IFA_LOCAL) or address.attributes.get(c.IFA_ADDRESS, b"")
    if address.family == c.AF_INET:
        text = ".".join(map(str, octets))
    else:
        text = ":".join(octets[at : at + 2].hex() for at in range(0, len(octets), 2))
    return f"{text}/{address.prefixlen}"
