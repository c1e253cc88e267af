"""A netlink socket: requests, their answers and their errors, whatever the protocol. See netlink(7).

linux/netlink.py speaks rtnetlink through it; nftables.py and conntrack.py, netfilter's protocols. Nothing here needs
`_ctypes`, so that `delete` can use it.
"""

from __future__ import annotations

from _socket import socket
from _struct import calcsize, pack, unpack_from

from pyruntime.errors import KernelError
from pyruntime.linux import constants as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Attributes = dict[int, bytes]

HEADER = "=IHHII"  # struct nlmsghdr: length, type, flags, sequence, port
MESSAGE_MAX = 65536  # more than the 32 KiB in which the kernel answers at most


def open_socket(protocol: int) -> socket:
    """A netlink socket of the network namespace that this process is in now. Raises OSError."""
    opened = socket(c.AF_NETLINK, c.SOCK_RAW | c.SOCK_CLOEXEC, protocol)
    opened.setsockopt(c.SOL_NETLINK, c.NETLINK_EXT_ACK, 1)
    opened.setsockopt(c.SOL_NETLINK, c.NETLINK_CAP_ACK, 1)  # an error without the request, before its explanation
    return opened


class NetlinkSocket:
    """Asks through one socket, which it owns, one request after the other. To be closed."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, opened: socket) -> None:
        self._sequence = 0
        self._socket = opened

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _ask(self, kind: int, flags: int, payload: bytes, call: str) -> list[bytes]:
        """Send one request; the payloads of its answers. `call` tells it in an error.

        A dump that was interrupted by a change is asked for anew: netlink(7) has no other remedy.
        """
        while True:
            self._sequence += 1
            size = calcsize(HEADER) + len(payload)
            header = pack(HEADER, size, kind, flags | c.NLM_F_REQUEST, self._sequence, 0)
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
            for kind, got, sequence, payload in messages(self._socket.recv(MESSAGE_MAX)):
                if sequence != self._sequence:
                    continue  # what is left of a request that failed
                complete &= not got & c.NLM_F_DUMP_INTR
                if kind in (c.NLMSG_ERROR, c.NLMSG_DONE):
                    number = -unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                    if number > 0:
                        raise KernelError(call, number, hint=explanation(got, payload))
                    return answers if complete else None
                answers.append(payload)
                if not dump and not flags & c.NLM_F_ACK:
                    return answers


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of one datagram: (type, flags, sequence, payload)."""
    at, header = 0, calcsize(HEADER)
    while at + header <= len(data):
        length, kind, flags, sequence, _ = unpack_from(HEADER, data, at)
        yield kind, flags, sequence, data[at + header : at + length]
        at += max(length, header) + 3 & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """struct rtattr with its value, padded to 4 bytes. See rtnetlink(7)."""
    return pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def attributes(payload: bytes, at: int) -> Attributes:
    """The attributes of a message from `at` on."""
    return dict(entries(payload, at))


def entries(payload: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes one by one: those of a list are all of one kind."""
    while at + 4 <= len(payload):
        length, kind = unpack_from("=HH", payload, at)
        yield kind & ~c.NLA_F_NESTED, payload[at + 4 : at + length]
        at += max(length, 4) + 3 & ~3


def explanation(flags: int, payload: bytes) -> str:
    """What the kernel says of an error besides its number: struct nlmsgerr, then attributes."""
    if not flags & c.NLM_F_ACK_TLVS:
        return ""
    text = attributes(payload, 4 + calcsize(HEADER)).get(c.NLMSGERR_ATTR_MSG, b"")
    return text.rstrip(b"\0").decode(errors="replace")
