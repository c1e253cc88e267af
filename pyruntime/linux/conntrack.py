"""Connection tracking: find the flows that concern a published port, and have the kernel forget them.

An address translation is decided by a flow's first packet and kept as long as the flow goes on. A UDP client that keeps
its source port so goes on talking to a container that is gone, even when another has been published on its port.

A flow is kept as the two tuples that the kernel tells of it: what its first packet looked like, and what an answer
looks like when it comes in, which names the container if the flow was translated.

Read beside the kernel's net/netfilter/nf_conntrack_netlink.c and conntrack(8), and moby's
daemon/libnetwork/iptables/conntrack.go.
"""

from __future__ import annotations

from _struct import calcsize, pack, unpack
from errno import ENOENT

from pyruntime.errors import KernelError
from pyruntime.linux import constants as c
from pyruntime.linux import netfilter_constants as n
from pyruntime.linux.netlink_socket import NetlinkSocket, attribute, attributes, open_socket
from pyruntime.linux.nftables import NFGENMSG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.linux.netlink_socket import Attributes

# Which parts of a tuple the kernel compares (nf_conntrack_netlink.c: CTA_FILTER_F_...; since Linux 5.8, older ones
# list all flows). No header for programs has the names.
_FILTER_PROTO_NUM = 1 << 3
_FILTER_PROTO_DST_PORT = 1 << 5


class Tuple:
    """One direction of a flow: addresses of 4 or 16 bytes, the protocol's number, ports."""

    __slots__ = ("destination", "destination_port", "protocol", "source", "source_port")

    def __init__(self, value: bytes) -> None:
        parts = attributes(value, 0)
        ip = attributes(parts.get(n.CTA_TUPLE_IP, b""), 0)
        proto = attributes(parts.get(n.CTA_TUPLE_PROTO, b""), 0)
        self.source = ip.get(n.CTA_IP_V4_SRC) or ip.get(n.CTA_IP_V6_SRC, b"")
        self.destination = ip.get(n.CTA_IP_V4_DST) or ip.get(n.CTA_IP_V6_DST, b"")
        self.protocol = proto.get(n.CTA_PROTO_NUM, b"\0")[0]
        self.source_port = _port(proto.get(n.CTA_PROTO_SRC_PORT))
        self.destination_port = _port(proto.get(n.CTA_PROTO_DST_PORT))


class Flow:
    """A tracked flow: `original`, the tuple of its first packet; `reply`, the one of an answer that comes in."""

    __slots__ = ("attributes", "family", "original", "reply")

    def __init__(self, family: int, found: Attributes) -> None:
        self.family = family
        self.attributes = found
        self.original = Tuple(found.get(n.CTA_TUPLE_ORIG, b""))
        self.reply = Tuple(found.get(n.CTA_TUPLE_REPLY, b""))


class Conntrack(NetlinkSocket):
    """A socket to the connection tracking of the network namespace that this process is in. To be closed."""

    __slots__ = ()

    def __init__(self) -> None:
        """Raises KernelError."""
        try:
            super().__init__(open_socket(n.NETLINK_NETFILTER))
        except OSError as error:
            raise KernelError("socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)", error.errno or 0) from error

    def flows(self, family: int, protocol: int, port: int = 0) -> list[Flow]:
        """The flows of AF_INET or AF_INET6, of an IP protocol (17 is UDP), to one destination port, or any.

        Raises KernelError. It takes milliseconds: the kernel goes through its whole table.

        The kernel is not asked for an address: of IPv6 it tells the flows of all others (ctnetlink_filter_match_tuple).
        """
        parts = attribute(n.CTA_PROTO_NUM, pack("=B", protocol))
        compared = _FILTER_PROTO_NUM
        if port:
            parts += attribute(n.CTA_PROTO_DST_PORT, pack(">H", port))
            compared |= _FILTER_PROTO_DST_PORT
        wanted = attribute(
            n.CTA_TUPLE_ORIG | c.NLA_F_NESTED, attribute(n.CTA_TUPLE_PROTO | c.NLA_F_NESTED, parts)
        ) + attribute(n.CTA_FILTER | c.NLA_F_NESTED, attribute(n.CTA_FILTER_ORIG_FLAGS, pack("=I", compared)))
        return [
            flow
            for flow in self._all(family, wanted)
            if flow.original.protocol == protocol and (not port or flow.original.destination_port == port)
        ]

    def forget(self, flow: Flow) -> None:
        """Have the kernel forget a flow, if it has not done so already. Raises KernelError."""
        request = pack(NFGENMSG, flow.family, n.NFNETLINK_V0, 0)
        for kind, nested in ((n.CTA_TUPLE_ORIG, c.NLA_F_NESTED), (n.CTA_ZONE, 0), (n.CTA_ID, 0)):
            if kind in flow.attributes:
                request += attribute(kind | nested, flow.attributes[kind])
        try:
            self._ask(_kind(n.IPCTNL_MSG_CT_DELETE), c.NLM_F_ACK, request, "IPCTNL_MSG_CT_DELETE")
        except KernelError as error:
            if error.errno != ENOENT:
                raise

    def _all(self, family: int, wanted: bytes) -> list[Flow]:
        request = pack(NFGENMSG, family, n.NFNETLINK_V0, 0) + wanted
        answers = self._ask(_kind(n.IPCTNL_MSG_CT_GET), c.NLM_F_DUMP, request, "IPCTNL_MSG_CT_GET")
        return [Flow(answer[0], attributes(answer, calcsize(NFGENMSG))) for answer in answers]


def _kind(message: int) -> int:
    return n.NFNL_SUBSYS_CTNETLINK << 8 | message


def _port(value: bytes | None) -> int:
    number: int = unpack(">H", value)[0] if value else 0
    return number
