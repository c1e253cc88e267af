"""IP addresses and subnets as text, as octets and as numbers, without the 8 ms that `import ipaddress` costs.

Text in, text out: "10.89.0.0/24", "fd00::2". In between a subnet is an `_socket` family, the number of its first
address and the length of its prefix.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from pyruntime.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WIDTH = {AF_INET: 32, AF_INET6: 128}  # bits of an address


def octets(text: str) -> bytes:
    """The 4 or 16 octets of an address. Raises ValueError for anything else, also for "10.1" and "010.0.0.1"."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, UnicodeEncodeError):
        raise ValueError(f"{text!r} is not an IP address") from None


def text_of(family: int, number: int) -> str:
    """The shortest text of an address."""
    return inet_ntop(family, number.to_bytes(WIDTH[family] // 8, "big"))


class Range:
    """A subnet: all addresses that begin with the same `prefixlen` bits."""

    __slots__ = ("family", "first", "prefixlen", "size")

    def __init__(self, family: int, first: int, prefixlen: int) -> None:
        self.family = family
        self.first = first
        self.prefixlen = prefixlen
        self.size = 1 << (WIDTH[family] - prefixlen)

    def __str__(self) -> str:
        return f"{text_of(self.family, self.first)}/{self.prefixlen}"

    def __contains__(self, number: int) -> bool:
        return self.first <= number < self.first + self.size

    def overlaps(self, other: Range) -> bool:
        """Whether they have an address in common."""
        if self.family != other.family:
            return False
        return self.first in other or other.first in self

    def address(self, number: int) -> str:
        """An address of the range with the prefix's length: "10.89.0.2/24"."""
        return f"{text_of(self.family, number)}/{self.prefixlen}"

    def may_be_used(self, number: int) -> bool:
        """Whether the address can be a machine's: not the range's own, which routers answer to; not the broadcast's."""
        return self.first < number < self.first + self.size - (self.family == AF_INET)


def parse_range(text: str) -> Range:
    """The subnet of "10.89.0.0/24". Raises ValueError, also for bits behind the prefix: "10.89.0.5/24"."""
    address, slash, length = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} is not a subnet: the length of its prefix is missing, as in 10.89.0.0/24")
    raw = octets(address)
    family = AF_INET if len(raw) == 4 else AF_INET6
    if not (length.isascii() and length.isdigit()) or len(length) > 3 or int(length) > WIDTH[family]:
        raise ValueError(f"{text!r} is not a subnet: its prefix has 0 to {WIDTH[family]} bits")
    found = Range(family, int.from_bytes(raw, "big"), int(length))
    if found.first % found.size:
        begin = Range(family, found.first - found.first % found.size, found.prefixlen)
        raise ValueError(f"{text!r} is an address, not a subnet: the subnet is {begin}")
    return found


def split(text: str) -> tuple[int, int, int]:
    """(family, number, prefix length) of an address with its prefix, "10.89.0.2/24"."""
    address, _, length = text.partition("/")
    raw = octets(address)
    return (AF_INET if len(raw) == 4 else AF_INET6), int.from_bytes(raw, "big"), int(length)


def number_of(text: str) -> int:
    """The address as a number. Raises ValueError."""
    return int.from_bytes(octets(text), "big")


def same(text: str) -> str:
    """The address written as everybody writes it. Raises ValueError."""
    raw = octets(text)
    return inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw)


def mac_for(addresses: Iterable[str]) -> str:
    """The hardware address of who has these IP addresses: made from the last four octets of the first of them.

    So a new container with the address of a former one also has its hardware address: what its neighbours remember
    (ARP, NDP) still is true. With a random one it would be unreachable for them until they ask again. The first octet
    says that it is nobody's factory-made one (IEEE 802, "locally administered").
    """
    for address in addresses:
        return ":".join(f"{octet:02x}" for octet in b"\x02\x50" + octets(address.partition("/")[0])[-4:])
    raise Error("no address, no hardware address")
