"""rtnetlink: network devices, their addresses, routes; as much of it as a container's network takes.

One socket speaks to the network namespace in which it was opened, wherever the process goes afterwards. Addresses are
kept as the kernel told them, attribute by attribute, so that whatever a later kernel adds can be told back.

Read beside rtnetlink(7), netlink(7) and vishvananda/netlink, which runc:libcontainer/network_linux.go uses.
"""

from __future__ import annotations

import posix
from _socket import inet_ntop
from _struct import calcsize, pack, unpack_from
from errno import EAFNOSUPPORT, ENODEV
from sys import byteorder

from pyruntime.errors import KernelError
from pyruntime.linux import constants as c
from pyruntime.linux.netlink_socket import NetlinkSocket, attribute, attributes, open_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.linux.netlink_socket import Attributes

_LINK = "=BxHiII"  # struct ifinfomsg: family, type, index, flags, change
_ROUTE = "=BBBBBBBBI"  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ADDRESS = "=BBBBI"  # struct ifaddrmsg: family, prefixlen, flags, scope, index


class Link:
    """A network device: its index, its name, its flags (IFF_UP and others, netdevice(7)), and its attributes."""

    __slots__ = ("attributes", "flags", "index", "name")

    def __init__(self, index: int, flags: int, attributes: Attributes) -> None:
        self.index = index
        self.flags = flags
        self.attributes = attributes
        self.name = attributes[c.IFLA_IFNAME].rstrip(b"\0").decode(errors="surrogateescape")

    @property
    def kind(self) -> str:
        """ "veth", "bridge" and so on; "" for hardware. See ip-link(8), TYPE."""
        info = attributes(self.attributes.get(c.IFLA_LINKINFO, b""), 0)
        return info.get(c.IFLA_INFO_KIND, b"").rstrip(b"\0").decode()

    @property
    def master(self) -> int:
        """The index of the bridge that it is a port of; 0 if of none."""
        return int.from_bytes(self.attributes.get(c.IFLA_MASTER, b""), byteorder)


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


class Route:
    """An entry of a routing table: for which addresses, its kind (RTN_UNICAST and others), its attributes."""

    __slots__ = ("attributes", "family", "kind", "prefixlen")

    def __init__(self, family: int, prefixlen: int, kind: int, attributes: Attributes) -> None:
        self.family = family
        self.prefixlen = prefixlen
        self.kind = kind
        self.attributes = attributes

    @property
    def link_index(self) -> int:
        """The index of the device that it leads to; 0 if to none, or to several."""
        return int.from_bytes(self.attributes.get(c.RTA_OIF, b""), byteorder)


class Netlink(NetlinkSocket):
    """A socket to the network namespace of this process, or to the one of `namespace_fd`. To be closed."""

    __slots__ = ()

    def __init__(self, namespace_fd: int = -1) -> None:
        """Raises KernelError; OSError if there can be no socket."""
        if namespace_fd < 0:
            super().__init__(open_socket(c.NETLINK_ROUTE))
            return
        from pyruntime.linux import syscalls  # it brings _ctypes along, which `delete` does without

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
        return _link(answers[0])

    def links(self) -> list[Link]:
        """All devices. Raises KernelError."""
        request = pack(_LINK, 0, 0, 0, 0, 0)
        return [_link(answer) for answer in self._ask(c.RTM_GETLINK, c.NLM_F_DUMP, request, "RTM_GETLINK")]

    def make_bridge(self, name: str, mac: bytes, mtu: int) -> None:
        """Make a bridge, which is down. `mtu` 0: the kernel's choice. Raises KernelError; EEXIST: the name is taken.

        Without a hardware address of its own it would take over that of a port, and another one when that port goes.
        """
        request = attribute(c.IFLA_IFNAME, _text(name)) + attribute(c.IFLA_ADDRESS, mac) + _mtu(mtu)
        info = attribute(c.IFLA_INFO_KIND, b"bridge")
        self._make(request + attribute(c.IFLA_LINKINFO, info), f"RTM_NEWLINK({name!r}, 'bridge')")

    def make_veth(self, name: str, master: Link, peer_name: str, peer_mac: bytes, namespace_fd: int, mtu: int) -> None:
        """Make a veth pair: one end here, a port of `master`; the other in another network namespace. Both are down.

        At once, so that there is no moment in which a crash could leave one half. Raises KernelError; EEXIST: there is
        a device `name` here, or `peer_name` there.
        """
        peer = (
            pack(_LINK, 0, 0, 0, 0, 0)
            + attribute(c.IFLA_IFNAME, _text(peer_name))
            + attribute(c.IFLA_ADDRESS, peer_mac)
            + attribute(c.IFLA_NET_NS_FD, pack("=I", namespace_fd))
            + _mtu(mtu)
        )
        data = attribute(c.IFLA_INFO_DATA, attribute(c.VETH_INFO_PEER, peer))
        request = attribute(c.IFLA_IFNAME, _text(name)) + attribute(c.IFLA_MASTER, pack("=I", master.index)) + _mtu(mtu)
        info = attribute(c.IFLA_INFO_KIND, b"veth") + data
        self._make(request + attribute(c.IFLA_LINKINFO, info), f"RTM_NEWLINK({name!r}, 'veth', peer {peer_name!r})")

    def remove(self, device: Link | str) -> bool:
        """Remove a device, of a veth pair both; whether there was one. Raises KernelError.

        A Link is that device alone, a name whatever has it by now. The kernel waits for an RCU grace period meanwhile:
        some 20 ms.
        """
        if isinstance(device, Link):
            name, request = device.name, pack(_LINK, 0, 0, device.index, 0, 0)
        else:
            name, request = device, pack(_LINK, 0, 0, 0, 0, 0) + attribute(c.IFLA_IFNAME, _text(device))
        try:
            self._ask(c.RTM_DELLINK, c.NLM_F_ACK, request, f"RTM_DELLINK({name!r})")
        except KernelError as error:
            if error.errno == ENODEV:
                return False
            raise
        return True

    def set_master(self, link: Link, master: Link) -> None:
        """Make a device a port of a bridge. Raises KernelError."""
        request = pack(_LINK, 0, 0, link.index, 0, 0) + attribute(c.IFLA_MASTER, pack("=I", master.index))
        self._ask(c.RTM_SETLINK, c.NLM_F_ACK, request, f"RTM_SETLINK({link.name!r}, IFLA_MASTER, {master.name!r})")

    def set_hairpin(self, link: Link) -> None:
        """Let a bridge's port send back what came in by it. Raises KernelError. See bridge(8), hairpin."""
        mode = attribute(c.IFLA_PROTINFO | c.NLA_F_NESTED, attribute(c.IFLA_BRPORT_MODE, b"\1"))
        request = pack(_LINK, c.AF_BRIDGE, 0, link.index, 0, 0) + mode
        self._ask(c.RTM_SETLINK, c.NLM_F_ACK, request, f"RTM_SETLINK({link.name!r}, IFLA_BRPORT_MODE)")

    def make_no_address(self, link: Link) -> None:
        """Keep the kernel from giving a device a link-local address. Raises KernelError. See ip-link(8), addrgenmode.

        Such an address is tentative for a second or two, in which it is of no use.
        """
        inet6 = attribute(c.AF_INET6, attribute(c.IFLA_INET6_ADDR_GEN_MODE, bytes((c.IN6_ADDR_GEN_MODE_NONE,))))
        request = pack(_LINK, 0, 0, link.index, 0, 0) + attribute(c.IFLA_AF_SPEC, inet6)
        try:
            self._ask(c.RTM_SETLINK, c.NLM_F_ACK, request, f"RTM_SETLINK({link.name!r}, IFLA_INET6_ADDR_GEN_MODE)")
        except KernelError as error:
            if error.errno != EAFNOSUPPORT:  # a kernel without IPv6, or an MTU that is too small for it
                raise

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
        self._ask(c.RTM_NEWADDR, flags, request, f"RTM_NEWADDR({link.name!r}, {address_text(address)!r})")

    def routes(self, family: int) -> list[Route]:
        """All routes of all tables, of AF_INET or AF_INET6. Raises KernelError."""
        request = pack(_ROUTE, family, 0, 0, 0, 0, 0, 0, 0, 0)
        found = []
        for answer in self._ask(c.RTM_GETROUTE, c.NLM_F_DUMP, request, "RTM_GETROUTE"):
            _, prefixlen, _, _, _, _, _, kind, _ = unpack_from(_ROUTE, answer)
            found.append(Route(family, prefixlen, kind, attributes(answer, calcsize(_ROUTE))))
        return found

    def add_default_route(self, link: Link, gateway: bytes) -> None:
        """Send what is for nobody here to the gateway, 4 or 16 octets. Raises KernelError."""
        family = c.AF_INET if len(gateway) == 4 else c.AF_INET6
        request = pack(_ROUTE, family, 0, 0, 0, c.RT_TABLE_MAIN, c.RTPROT_STATIC, c.RT_SCOPE_UNIVERSE, c.RTN_UNICAST, 0)
        request += attribute(c.RTA_OIF, pack("=I", link.index)) + attribute(c.RTA_GATEWAY, gateway)
        flags = c.NLM_F_ACK | c.NLM_F_CREATE | c.NLM_F_EXCL
        self._ask(c.RTM_NEWROUTE, flags, request, f"RTM_NEWROUTE(default via {inet_ntop(family, gateway)})")

    def _make(self, attributes_of_link: bytes, call: str) -> None:
        flags = c.NLM_F_ACK | c.NLM_F_CREATE | c.NLM_F_EXCL
        self._ask(c.RTM_NEWLINK, flags, pack(_LINK, 0, 0, 0, 0, 0) + attributes_of_link, call)


def permanent(octets: bytes, prefixlen: int) -> Address:
    """An address of 4 or 16 octets, as `ip address add ADDRESS/PREFIXLEN brd + nodad` would give it."""
    inet = len(octets) == 4
    found = {c.IFA_LOCAL: octets, c.IFA_ADDRESS: octets}
    if inet and prefixlen < 31:
        hosts = (1 << (32 - prefixlen)) - 1
        found[c.IFA_BROADCAST] = (int.from_bytes(octets, "big") | hosts).to_bytes(4, "big")
    if not inet:
        found[c.IFA_FLAGS] = pack("=I", c.IFA_F_NODAD)
    scope = c.RT_SCOPE_LINK if octets[:2] == b"\xfe\x80" and not inet else c.RT_SCOPE_UNIVERSE
    return Address(c.AF_INET if inet else c.AF_INET6, prefixlen, scope, found)


def _link(answer: bytes) -> Link:
    _, _, index, flags, _ = unpack_from(_LINK, answer)
    return Link(index, flags, attributes(answer, calcsize(_LINK)))


def _mtu(mtu: int) -> bytes:
    return attribute(c.IFLA_MTU, pack("=I", mtu)) if mtu else b""


def _text(name: str) -> bytes:
    """A device's name, which may be any bytes, as a C string."""
    return name.encode(errors="surrogateescape") + b"\0"


def address_text(address: Address) -> str:
    """An address as `ip address` writes it: "10.89.0.1/24"."""
    octets = address.attributes.get(c.IFA_LOCAL) or address.attributes.get(c.IFA_ADDRESS, b"")
    return f"{inet_ntop(address.family, octets)}/{address.prefixlen}"
