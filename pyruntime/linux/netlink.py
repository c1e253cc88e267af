"""rtnetlink, as much as moving a device takes: find a link, change it, list and add addresses.

One socket speaks to the network namespace in which it was opened, wherever the process goes afterwards. Addresses are
kept as the kernel told them, attribute by attribute, so that whatever a later kernel adds can be told back.

Read beside rtnetlink(7), netlink(7) and vishvananda/netlink, which runc:libcontainer/network_linux.go uses.
"""

from __future__ import annotations

import posix
from _socket import socket
from _struct import calcsize, pack, unpack_from
from errno import ENODEV
from sys import byteorder

from pyruntime.errors import KernelError
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Attributes = dict[int, bytes]

_HEADER = "=IHHII"  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = "=BxHiII"  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = "=BBBBI"  # struct ifaddrmsg: family, prefixlen, flags, scope, index
_MESSAGE_MAX = 65536  # more than the 32 KiB in which the kernel answers at most


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


class Netlink:
    """A socket to the network namespace of this process, or to the one of `namespace_fd`. To be closed."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, namespace_fd: int = -1) -> None:
        """Raises KernelError; OSError if there can be no socket."""
        self._sequence = 0
        if namespace_fd < 0:
            self._socket = _open()
            return
        home_fd = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            syscalls.setns(namespace_fd, c.CLONE_NEWNET)
            try:
                self._socket = _open()
            finally:
                syscalls.setns(home_fd, c.CLONE_NEWNET)
        finally:
            posix.close(home_fd)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def find(self, name: str) -> Link | None:
        """The device of this name, or of this alternative name; None if there is none. Raises KernelError."""
        request = pack(_LINK, 0, 0, 0, 0, 0) + _attribute(c.IFLA_IFNAME, _text(name))
        try:
            answers = self._ask(c.RTM_GETLINK, 0, request, f"RTM_GETLINK({name!r})")
        except KernelError as error:
            if error.errno == ENODEV:
                return None
            raise
        _, _, index, flags, _ = unpack_from(_LINK, answers[0])
        found = _attributes(answers[0], calcsize(_LINK))[c.IFLA_IFNAME]
        return Link(index, found.rstrip(b"\0").decode(errors="surrogateescape"), flags)

    def move(self, link: Link, namespace_fd: int, name: str) -> None:
        """Move a device to another network namespace, and name it there. It arrives down and without addresses.

        Raises KernelError. The kernel names it after the move: if that fails, it is there under its former name.
        """
        request = (
            pack(_LINK, 0, 0, link.index, 0, 0)
            + _attribute(c.IFLA_NET_NS_FD, pack("=I", namespace_fd))
            + _attribute(c.IFLA_IFNAME, _text(name))
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
                found.append(Address(family, prefixlen, scope, _attributes(answer, calcsize(_ADDRESS))))
        return found

    def add_address(self, link: Link, address: Address, kinds: tuple[int, ...]) -> None:
        """Give a device an address, with those of its attributes that are of these kinds. Raises KernelError."""
        request = pack(_ADDRESS, address.family, address.prefixlen, 0, address.scope, link.index)
        for kind in kinds:
            if kind in address.attributes:
                request += _attribute(kind, address.attributes[kind])
        flags = c.NLM_F_ACK | c.NLM_F_CREATE | c.NLM_F_EXCL
        self._ask(c.RTM_NEWADDR, flags, request, f"RTM_NEWADDR({link.name!r}, {_shown(address)!r})")

    def _ask(self, kind: int, flags: int, payload: bytes, call: str) -> list[bytes]:
        """Send one request; the payloads of its answers. `call` tells it in an error.

        A dump that was interrupted by a change is asked for anew: netlink(7) has no other remedy.
        """
        while True:
            self._sequence += 1
            size = calcsize(_HEADER) + len(payload)
            header = pack(_HEADER, size, kind, flags | c.NLM_F_REQUEST, self._sequence, 0)
            try:
                self._socket.send(header + payload)
                answers = self._answers(flags, call)
            except OSError as error:
                if isinstance(error, KernelError):
                    raise
                raise KernelError(call, error.errno or 0) from error
            if answers is not None:
                return answers

    def _answers(self, flags: int, call: str) -> list[bytes] | None:
        """The payloads up to the end of the answer; None if a dump was interrupted."""
        dump, complete = flags & c.NLM_F_DUMP == c.NLM_F_DUMP, True
        answers: list[bytes] = []
        while True:
            for kind, got, sequence, payload in _messages(self._socket.recv(_MESSAGE_MAX)):
                if sequence != self._sequence:
                    continue  # what is left of a request that failed
                complete &= not got & c.NLM_F_DUMP_INTR
                if kind in (c.NLMSG_ERROR, c.NLMSG_DONE):
                    number = -unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                    if number > 0:
                        raise KernelError(call, number, hint=_explanation(got, payload))
                    return answers if complete else None
                answers.append(payload)
                if not dump and not flags & c.NLM_F_ACK:
                    return answers


def _open() -> socket:
    opened = socket(c.AF_NETLINK, c.SOCK_RAW | c.SOCK_CLOEXEC, c.NETLINK_ROUTE)
    opened.setsockopt(c.SOL_NETLINK, c.NETLINK_EXT_ACK, 1)
    opened.setsockopt(c.SOL_NETLINK, c.NETLINK_CAP_ACK, 1)  # an error without the request, before its explanation
    return opened


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of one datagram: (type, flags, sequence, payload)."""
    at, header = 0, calcsize(_HEADER)
    while at + header <= len(data):
        length, kind, flags, sequence, _ = unpack_from(_HEADER, data, at)
        yield kind, flags, sequence, data[at + header : at + length]
        at += max(length, header) + 3 & ~3


def _text(name: str) -> bytes:
    """A device's name, which may be any bytes, as a C string."""
    return name.encode(errors="surrogateescape") + b"\0"


def _attribute(kind: int, value: bytes) -> bytes:
    """struct rtattr with its value, padded to 4 bytes. See rtnetlink(7)."""
    return pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def _attributes(payload: bytes, at: int) -> Attributes:
    """The attributes of a message from `at` on."""
    found = {}
    while at + 4 <= len(payload):
        length, kind = unpack_from("=HH", payload, at)
        found[kind] = payload[at + 4 : at + length]
        at += max(length, 4) + 3 & ~3
    return found


def _explanation(flags: int, payload: bytes) -> str:
    """What the kernel says of an error besides its number: struct nlmsgerr, then attributes."""
    if not flags & c.NLM_F_ACK_TLVS:
        return ""
    text = _attributes(payload, 4 + calcsize(_HEADER)).get(c.NLMSGERR_ATTR_MSG, b"")
    return text.rstrip(b"\0").decode(errors="replace")


def _shown(address: Address) -> str:
    """An address for a person; IPv6 in full."""
    octets = address.attributes.get(c.IFA_LOCAL) or address.attributes.get(c.IFA_ADDRESS, b"")
    if address.family == c.AF_INET:
        text = ".".join(map(str, octets))
    else:
        text = ":".join(octets[at : at + 2].hex() for at in range(0, len(octets), 2))
    return f"{text}/{address.prefixlen}"
